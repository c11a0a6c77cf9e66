"""Names of `pycompss.api.data_transformation`."""

from pilot.compat.compss.decoration import unsupported

data_transformation = unsupported("data_transformation")
dt = data_transformation
DataTransformation = data_transformation

__all__ = ["DataTransformation", "data_transformation", "dt"]
