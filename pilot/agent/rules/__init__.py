"""The rules of a pilot: what starts where, and what follows from each end. Pure."""
