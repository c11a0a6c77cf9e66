"""The head: keeps every task, decides which pilot runs it, and asks the batch system for pilots.

`service` is the loop, and says in which order things happen; `server` is the process around it,
with its lease and sockets. `core` decides, without clock or I/O;
`store` is the database, `explain` says why something is not done. Around them:

==================  ===========================================================
`clients`           what they ask for their tasks
`session_commands`  what they ask for sessions and results
`queries`           what can be asked; `offline`: without a head
`pilots`            what pilots say and are told
`fleet`             pilots as jobs of the batch system (`outlook`, `setbacks`)
`shell`             takes events of all these to the core, carries effects out
`commits`           transactions, and what is told after them
`outcome_cache`     how tasks ended
`assignments`       what pilots are sent with tasks
`memo_lookup`       finds what has run before
`connections`       who speaks with the head
`janitor`           removes files
`lease`             who may be head; `run` is its process
==================  ===========================================================
"""
