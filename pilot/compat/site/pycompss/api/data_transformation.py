"""Names of `pycompss.api.data_transformation`."""

from pilot.compat.compss.transformations import (
    COLLECTION_TO_DIRECTORY,
    COLLECTION_TO_FILE,
    COLLECTION_TO_OBJECT,
    DIRECTORY_TO_OBJECT,
    FILE_TO_COLLECTION,
    FILE_TO_OBJECT,
    OBJECT_TO_DIRECTORY,
    OBJECT_TO_FILE,
    data_transformation,
    dto,
)

dt = data_transformation
DataTransformation = data_transformation
DTObject = dto

__all__ = [
    "COLLECTION_TO_DIRECTORY",
    "COLLECTION_TO_FILE",
    "COLLECTION_TO_OBJECT",
    "DIRECTORY_TO_OBJECT",
    "FILE_TO_COLLECTION",
    "FILE_TO_OBJECT",
    "OBJECT_TO_DIRECTORY",
    "OBJECT_TO_FILE",
    "DTObject",
    "DataTransformation",
    "data_transformation",
    "dt",
    "dto",
]
