"""Names of `pycompss.api`."""
