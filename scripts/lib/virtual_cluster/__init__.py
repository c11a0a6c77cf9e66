"""A real Slurm cluster on one machine, for tests and demonstrations.

Responsible for bringing up, disturbing and taking down a cluster of virtual nodes, each with its
own host name, address, process numbers, /tmp and /dev/shm, under the distribution's own Slurm or
another one.

The modules, in the order in which ``up`` uses them:

- ``plan``: what the cluster consists of: names, addresses, paths (pure).
- ``packages``: the distribution packages it needs.
- ``installation``: a Slurm that is not the distribution's.
- ``configuration``: the text of every configuration file (pure).
- ``machines``: a node as a set of kernel namespaces, held by ``machine_init``, its process 1.
- ``cgroups``: how Slurm keeps track of the processes of a job.
- ``network``: the bridge and the links of the nodes.
- ``slurm``: what is asked of the running Slurm, and its answers.
- ``cluster``: the commands ``up``, ``down``, ``status``, ``cut``, ``join`` and ``kill``.
- ``cli``: the command line.

Only the standard library is used: this runs before anything is installed.
"""
