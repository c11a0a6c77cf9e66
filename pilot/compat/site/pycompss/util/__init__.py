"""Names of `pycompss.util`."""
