"""The space that a site takes on the disk, by what it is for and by session.

Nothing is opened: each file is asked for its size, once. Files that vanish meanwhile are left out,
and so is what cannot be entered.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

#: What is below the site directory, by its first name; all else is told as OTHER.
PARTS = ("results", "checkpoints", "logs", "jobs")
DATABASE, OTHER = "database", "other"
#: Those of `PARTS` whose directories are named after sessions.
BY_SESSION = ("results", "checkpoints")

#: What ``stat`` counts blocks in, whatever the file system's are.
_BLOCK_BYTES = 512


class Usage(Struct):
    """The bytes on the disk, and the number of files."""

    size: int = 0
    files: int = 0

    def add(self, size: int, files: int = 1) -> None:
        """Count files of so many bytes together."""
        self.size += size
        self.files += files


class SiteUsage(Struct):
    """The space of a site: by part, and of its sessions by part."""

    parts: dict[str, Usage]
    sessions: dict[int, dict[str, Usage]]


def measure(directory: Path) -> SiteUsage:
    """Return the space that the files below a site directory take on the disk."""
    found = SiteUsage({part: Usage() for part in (DATABASE, *PARTS, OTHER)}, {})
    for entry in _entries(directory):
        if not entry.is_dir(follow_symlinks=False):
            part = DATABASE if entry.name.startswith("tasks.db") else OTHER
            _count(entry, found.parts[part])
        elif entry.name in BY_SESSION:
            _measure_sessions(entry.path, entry.name, found)
        else:
            _count(entry, found.parts[entry.name if entry.name in PARTS else OTHER])
    return found


def session_sizes(directory: Path) -> dict[int, int]:
    """Return what the results and checkpoints of each session take on the disk, in bytes."""
    found = SiteUsage({part: Usage() for part in BY_SESSION}, {})
    for part in BY_SESSION:
        _measure_sessions(directory / part, part, found)
    return {
        session: sum(usage.size for usage in parts.values())
        for session, parts in found.sessions.items()
    }


def _measure_sessions(directory: str | Path, part: str, found: SiteUsage) -> None:
    for entry in _entries(directory):
        usage = Usage()
        _count(entry, usage)
        found.parts[part].add(usage.size, usage.files)
        if entry.name.isdecimal() and usage.files:
            found.sessions.setdefault(int(entry.name), {})[part] = usage


def _count(entry: os.DirEntry[str], usage: Usage) -> None:
    """Count a file, or all files below a directory."""
    entries = [entry]
    while entries:
        one = entries.pop()
        if one.is_dir(follow_symlinks=False):
            entries += _entries(one.path)
        else:
            with contextlib.suppress(OSError):
                usage.add(one.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES)


def _entries(directory: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return
