"""The names that programs for PyCOMPSs import; see `pilot.compat.compss`."""
