"""The agent, which leads a pilot from the first node of its job.

`rules` decide (pure), `agent` carries out the actions that they give; `world_launching` starts and
ends MPI worlds for it, by the launcher of `mpi_launcher`, which `mpi_choice` tries out once where
the site file leaves it open.
"""
