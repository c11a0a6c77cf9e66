"""Names of `pycompss.functions`."""
