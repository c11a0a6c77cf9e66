"""What runs inside a pilot's job: the agent on its first node, and a node worker on each node.

`rules` decides (pure): what starts where, what is kept, what is reported; `agent` carries it out.
`node` starts and watches executors; `executor` runs tasks one after the other, `mpi_world` is the
same for the ranks of an MPI world; `work` is what happens in one task.
"""
