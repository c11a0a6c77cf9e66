"""Decisions about work and nodes: pure functions on plain values, and the batch adapters.

`resources` says what a task needs and a node has; `assignment` which pilot gets which tasks
(in the head); `placement` which nodes and cores a task gets (in the agent); `elasticity` how many
nodes to ask for. `batch` is the interface to batch systems, the only I/O in here.
"""
