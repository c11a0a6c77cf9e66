"""Names of `pycompss.streams`."""
