"""What the processes say to each other: `messages` is what is said, `channel` is how."""
