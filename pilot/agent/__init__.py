"""What runs inside a pilot's job: the agent on its first node, and a node worker on each node.

`rules` decides (pure), and `agent` carries out the `actions` that it gives. Behind `rules`, each
with a part of its state, are `attempts` (with their `inputs` and `ends`), the `queues` that they
wait in, the `cores` that are free, what is `warm`, `executor_rules` and `world_rules`.
`node` starts and watches executors; `executor` runs tasks one after the other, `mpi_world` is the
same for the ranks of an MPI world; `work` is what happens in one task.
"""
