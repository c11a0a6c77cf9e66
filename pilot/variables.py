"""The environment variables by which a task, and what it starts, learns what it has. Pure.

Invariants
----------
- A number of threads that somebody has set by hand is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

#: The number of threads of OpenMP, and of the libraries that take that where they have no own.
_OMP = "OMP_NUM_THREADS"
_AS_OMP = tuple(f"{name}_NUM_THREADS" for name in ("OPENBLAS", "MKL", "BLIS", "NUMEXPR"))
_OTHER_THREADS = tuple(f"{name}_NUM_THREADS" for name in ("VECLIB_MAXIMUM", "NUMBA", "JULIA"))
#: The variables of `thread_defaults`.
THREADS = (_OMP, *_AS_OMP, *_OTHER_THREADS)

#: Tells node workers that tasks are kept to the memory that they asked for; empty: they are not.
ENFORCES_MEMORY = "PILOT_ENFORCES_MEMORY"
#: The variables that tell a command which task it is, and as which rank.
TASK_ID, ATTEMPT = "PILOT_TASK_ID", "PILOT_ATTEMPT"
CORES, RANK, RANKS = "PILOT_CORES", "PILOT_RANK", "PILOT_RANKS"


def thread_defaults(environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """Return the variables that tell numeric libraries how many threads to use, as far as the
    environment does not say."""
    names: tuple[str, ...] = THREADS
    if _OMP in environment:
        names = _OTHER_THREADS  # for the others it was said with that
    return {name: str(cores) for name in names if name not in environment}


def process_variables(cores: int, rank: int = 0, ranks: int = 1) -> dict[str, str]:
    """Return the variables that tell a process its cores, and which rank it is of how many."""
    return {CORES: str(cores), RANK: str(rank), RANKS: str(ranks)}


def task_variables(task: str, attempt: int) -> dict[str, str]:
    """Return the variables that tell a command its task."""
    return {TASK_ID: task, ATTEMPT: str(attempt)}
