"""The sweeping of results that were deleted, which frees their space.

Responsible for one segment: it goes when nothing in it is needed any more; otherwise it is replaced
by a file with what is, once that is worth the copying.

Invariants:

- whoever reads the file by its path finds all that is needed, at any time and after any crash;
- two that sweep the same file, such as a head that was taken for dead and its successor, cannot
  harm it: each writes a file of its own, and takes away that of the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pilot.data import durable
from pilot.data.draft import Draft
from pilot.data.sealed_file import SealedFile
from pilot.errors import ResultError

#: Dead data of so many bytes are worth copying the rest, however large that is.
WORTH_BYTES = 64 * 1024 * 1024


def is_worth_it(sizes: Mapping[str, int], dead: Mapping[str, int]) -> bool:
    """Tell whether to rewrite a file with values of these sizes without the dead ones."""
    gone = sum(dead.values())
    return gone >= WORTH_BYTES or 2 * gone >= sum(sizes.values())


def contents(path: Path) -> dict[str, int] | None:
    """Return the values in a file with their sizes, in bytes; None where there is no such file.

    Raises
    ------
    ResultError
        The file is damaged.
    """
    try:
        file = SealedFile(path)
    except ResultError:
        if path.exists():
            raise
        return None
    try:
        return file.sizes()
    finally:
        file.close()


def sweep(
    path: Path,
    is_dead: Callable[[str], bool],
    *,
    always: bool = False,
    remove: Callable[[Path], None] = durable.remove,
) -> bool:
    """Remove dead values from a file.

    Parameters
    ----------
    path
        The file; it may be gone already.
    is_dead
        A function that tells whether the value of a name is dead.
    always
        True: also where it frees little.
    remove
        Removes a file of which all values are dead.

    Returns
    -------
    bool
        True if the dead values are gone; False: it is not worth it yet.

    Raises
    ------
    ResultError
        The file is damaged.
    StorageError, OSError
        The file system refuses, or there is no room for the values that stay.
    """
    try:
        file = SealedFile(path)
    except ResultError:
        if path.exists():
            raise
        return True
    try:
        sizes = file.sizes()
        dead = {name: size for name, size in sizes.items() if is_dead(name)}
        if len(dead) == len(sizes):
            remove(path)
        elif dead:
            if not (always or is_worth_it(sizes, dead)):
                return False
            _replace(file, [name for name in sizes if name not in dead])
    finally:
        file.close()
    return True


def _replace(file: SealedFile, names: list[str]) -> None:
    """Replace a file by one with these values alone."""
    path = file.path
    for left in path.parent.glob(f".{path.name}.swept-*"):
        left.unlink(missing_ok=True)
    draft = Draft(path.with_name(f".{path.name}.swept-{os.uname().nodename}-{os.getpid()}"))
    try:
        for name in names:
            draft.copy(name, file)
        draft.publish(path, replaces=True)
    finally:
        draft.discard()
