"""The head: keeps every task, decides which pilot runs it, and asks Slurm for pilots.

`server` is the loop, and says in which order things happen.

What decides, without clock or I/O: `core`, the state machine, and the modules that it names.

What is around that:

===========  ==================================================================
`clients`    what they ask for their tasks
`control`    what they ask for sessions and results
`queries`    what can be asked, with `search` and `why`; `offline`: without a head
`pilots`     what pilots say and are told
`fleet`      pilots as jobs of the batch system
`shell`      takes events of all these to the core, and carries its effects out
`commits`    transactions, and what is told after them
`outcomes`   how tasks ended
`parcels`    what pilots are sent with tasks
`recall`     finds what has run before
`numbers`    ids of tasks, given in blocks
`peers`      who speaks with the head
`store`      the SQLite database
`janitor`    removes files
`lease`      who may be head; `daemon` starts one, `run` is its process
===========  ==================================================================
"""
