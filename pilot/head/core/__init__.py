"""The core: the state machine of all tasks. Pure: events and times in, effects out."""
