"""Names of `pycompss.functions.elapsed_time`."""

from pilot.compat.compss.functions import TimeIt

timeit = TIMEIT = TimeIT = TimeIt

__all__ = ["TIMEIT", "TimeIT", "TimeIt", "timeit"]
