"""Other systems of the field, where they are installed: each in a module of its own.

None of them is needed; one that cannot be imported is skipped, and the report says why. They run
local on this machine, with the settings that their own documentation calls fast.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

from bench.systems import System

#: Name → the distribution on PyPI. The module here is ``peer_<name>``.
PEERS = {"parsl": "parsl", "dask": "distributed", "executorlib": "executorlib"}


def why_not(name: str) -> str:
    """Why a peer cannot be measured; empty where it can."""
    try:
        importlib.import_module(f"bench.peer_{name}")
    except ImportError as error:
        return f"not installed ({error}); pip install {PEERS[name]}"
    return ""


def version(name: str) -> str:
    """The release that is installed."""
    return importlib.metadata.version(PEERS[name])


@contextlib.contextmanager
def opened(name: str, workers: int, directory: Path) -> Iterator[System]:
    """A peer with so many workers; its files go into the directory."""
    # Pilot takes the search path of modules along; others leave that to the environment.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with importlib.import_module(f"bench.peer_{name}").opened(workers, directory) as system:
        yield system
