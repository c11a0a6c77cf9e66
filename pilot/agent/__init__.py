"""The agent, which leads a pilot from the first node of its job.

`rules` decide (pure), `agent` carries out the actions that they give; `mpi_choice` tries out once
how MPI worlds are formed here.
"""
