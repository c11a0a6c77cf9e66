"""A whole site under a virtual clock: clients, head, pilots, executors, and all that can go wrong.

What decides is the program's own: the head is the real `pilot.head.service.Service` on the real
database code, each pilot the real `pilot.agent.service.Service` with the real rules. What they
reach the world by is simulated: time, threads, the disk, connections, the batch system, processes.
Everything that happens is an entry in one queue of events, and all that is left to chance comes
from one seeded generator, so a seed is a run that can be repeated exactly.

===============  ==============================================================
`clock`          virtual time, and what is to happen when
`threads`        threads of the head, whose work is done later
`disk`           the database in memory, which outlives heads, and may be full
`network`        connections: late, cut off, broken, and never out of order
`head`           a head: the real service on such ports, until it is killed
`batch`          the batch system: jobs that are refused, late, lost, requeued
`client`         what keeps asking for what it has submitted
`agent`          a pilot: the real rules and service
`processes`      executors and MPI worlds
`tasks`          what is submitted, and how it ends when it runs
`moves`          what somebody does, and what goes wrong
`life`           how large a site is and which moves are made: from a seed, long or short
`oracle`         what must hold, while it goes on and at the end
`ends`           the causes that ends of tasks must have, and what follows from them
`invariants`     what always holds in the core, in pilots and in the log
`cluster`        puts all this together
===============  ==============================================================
"""
