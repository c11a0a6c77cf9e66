"""The files in the site directory through which a job that checks nodes is asked, and tells.

They are in a directory of their own below ``jobs``, named after the job. Nothing depends on the
network: it is among what is checked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from pilot.regular_files import read_regular
from pilot.site import Site

T = TypeVar("T")

#: The most bytes of one of these files.
_MOST_BYTES = 1 << 22
#: Host and port.
Address = tuple[str, int]


class Ask(msgspec.Struct, frozen=True):
    """The questions to the nodes of a job."""

    pool: str
    #: Where the machine that asks is reached, each to be tried.
    addresses: tuple[Address, ...]
    #: True if it tells the time there.
    tells_time: bool
    #: The directory in which the machine that asks answers over files; empty: it does not.
    files: str = ""


class Lead(msgspec.Struct, frozen=True):
    """The first node of a job, for the others."""

    node: str
    addresses: tuple[Address, ...]


class Report(msgspec.Struct, frozen=True):
    """The report of a node."""

    node: str
    #: True for the first node of the job.
    is_first: bool
    #: The facts by the name of the check, as JSON.
    facts: dict[str, msgspec.Raw]
    #: By the name of the check, the reason why it has none.
    failures: dict[str, str]


def directory_of(site: Site, job: str) -> Path:
    """Return the directory for a job, by its name."""
    return site.jobs / job


def write(path: Path, value: msgspec.Struct) -> None:
    """Write one of the files, which is seen as a whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(value))
    partial.replace(path)


def read(path: Path, its_type: type[T]) -> T:
    """Read one of the files.

    Raises
    ------
    OSError, msgspec.DecodeError
        It is not there, or damaged.
    """
    return msgspec.json.decode(read_regular(path, _MOST_BYTES), type=its_type)
