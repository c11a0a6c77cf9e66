"""The processes on each node of a pilot: a node worker, and executors and MPI ranks.

`node` starts and watches executors, `forking` makes them in a millisecond; `executor` runs tasks
one after the other, `mpi_rank` does so together with the other ranks of its world, and
`task_runner` is what happens in one task, `command_run` what happens where that is a command.
"""
