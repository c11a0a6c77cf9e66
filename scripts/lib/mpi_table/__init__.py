"""One MPI function and one MPI program, run by each way to start ranks: a table of what works here.

The MPIs are those of the distribution and of PyPI; what is missing is fetched from there into a
directory of its own, so that nothing of the machine changes.
"""
