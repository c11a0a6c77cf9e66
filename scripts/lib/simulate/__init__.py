"""Simulation of policies that ask a batch system for nodes: ours, and those of neighbours.

A discrete-event simulation from a seed, of one site: its tasks (`workload`), the pilots that run
them (`pilots`), the head that gives tasks to pilots and asks a policy for nodes (`site`), and a
Slurm with other users (`slurm`, `others`). Ours are the decisions that the program itself makes:
`pilot.scheduler`'s elasticity, waits, assignment and placement are called, and not written again.
Policies differ in the nodes that they ask for and give back, and in nothing else.

Invariants
----------
- The same seed gives the same history; all policies meet the same tasks and the same other users.
- No node is in two jobs at a time; every task ends once; each node-second that is held is counted
  as starting, used, lost or idle.
"""
