"""Names of `pycompss.functions.reduce`."""

from pilot.compat.compss.functions import merge_n_reduce, merge_reduce

__all__ = ["merge_n_reduce", "merge_reduce"]
