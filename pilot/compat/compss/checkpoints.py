"""Results that later runs find again: ``runcompss --checkpoint=…``, on the engine's memoisation.

A task is found by its code, its arguments, and the contents of its files. What it has written to
files is part of its results: whoever needs a file that is not there as the task has left it, since
the task was found and not run, puts it there.

Invariant: a worker imports this module only for tasks that have files.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pilot.compat.compss.errors import PyCOMPSsException

#: The part of ``--checkpoint_params`` that names tasks.
_AVOID = "avoid.checkpoint:"


class Kept:
    """The files that a task has written, with their contents.

    Parameters
    ----------
    contents
        The content of each, by path; None: it has written none.
    """

    def __init__(self, contents: dict[str, Any]) -> None:
        self.contents = contents
        #: Directories have no content: whoever reads one is run again.
        self.key = uuid.uuid4().hex if any(Path(path).is_dir() for path in contents) else ""


def keep(paths: Iterable[str]) -> Kept:
    """Return the files that a task has just written."""
    return Kept({path: _read(path) for path in paths})


def _read(path: str) -> Any:
    import numpy as np

    # Arrays of some size go into files of their own.
    return np.fromfile(path, dtype=np.uint8) if Path(path).is_file() else None


def restore(path: str, kept: Any) -> None:
    """Have a file be as a task has left it; do nothing where it is, or nothing was kept."""
    content = kept.contents.get(path) if isinstance(kept, Kept) else None
    if content is None:
        return
    import numpy as np

    place = Path(path)
    if place.is_file() and place.stat().st_size == content.size:
        now = np.fromfile(path, dtype=np.uint8)
        if np.array_equal(now, content):
            return
    draft = place.with_name(f".{place.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    content.tofile(draft)
    draft.replace(place)


def content_of(path: str) -> str:
    """Return a text that says what is in a file or directory of the program's own."""
    from pilot.data.file_stamps import file_digest

    place = Path(path)
    if place.is_dir():
        inside = sorted(each for each in place.rglob("*") if each.is_file())
        return repr([(str(each.relative_to(place)), file_digest(each).hex()) for each in inside])
    return file_digest(place).hex() if place.is_file() else ""


def not_kept(params: str) -> frozenset[str]:
    """Return the tasks that ``--checkpoint_params`` excludes, by their names.

    Raises
    ------
    PyCOMPSsException
        The list has no end.
    """
    _, found, rest = params.partition(_AVOID)
    if not found:
        return frozenset()
    if not rest.startswith("[") or "]" not in rest:
        raise PyCOMPSsException(f"--checkpoint_params={params}: write {_AVOID}[module.task,…]")
    return frozenset(name.strip() for name in rest[1 : rest.index("]")].split(","))


def itself(value: Any) -> Any:
    """Return the argument: a large value of the program as the result of a task that is found."""
    return value
