"""The head: keeps every task, decides which pilot runs it, and asks Slurm for pilots.

`core` is the state machine, without clock or I/O; `policy` what follows from how an attempt ended;
`store` the SQLite database; `lease` who may be head; `fleet` the pilots; `queries` what can be
asked; `server` the loop that joins them.
"""
