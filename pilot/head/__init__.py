"""The head: keeps every task, decides which pilot runs it, and asks the batch system for pilots.

`service` is the loop, and says in which order things happen; `server` is the process around it,
with its lease and sockets. `core` decides, without clock or I/O;
`store` is the database, `explain` says why something is not done. Around them:

==================  ===========================================================
`clients`           requests of clients about tasks
`session_commands`  requests of clients about sessions and results
`queries`           questions to the head; `offline`: without a head
`pilots`            messages from and to pilots
`fleet`             pilots as jobs of the batch system (`outlook`, `setbacks`)
`giving_up`         the rules by which silent and missing pilots are given up
`shell`             feeds events to the core, carries effects out
`commits`           transactions, and the messages that follow them
`outcome_cache`     outcomes of ended tasks
`assignments`       messages that give tasks to pilots
`memo_lookup`       lookup of tasks that may have run before
`connections`       the peers of the head
`janitor`           removal of files
`lease`             the right to be head; `run` is its process
==================  ===========================================================
"""
