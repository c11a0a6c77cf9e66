"""Names of `pycompss.runtime`."""
