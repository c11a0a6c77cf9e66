"""Programs that were written for other systems: PymoniK, and PyCOMPSs with dislib.

Each of them is a client of Pilot's own API: nothing of another system's is in the head or in a
pilot. The modules that such programs import (`pycompss`, `pymonik`) are in ``site``, which is on no
search path by itself, since the real packages have the same names: a launcher puts it there, or the
user does, with what ``pilot compat path`` prints.

Invariants
----------
- The modules below ``site`` have names, and nothing else: what they do is in `pilot.compat`.
- Without a launcher nothing here opens a session.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: The systems whose programs run here, by the names of their packages.
SYSTEMS: Final = ("pycompss", "pymonik")


def search_directory() -> str:
    """Return the directory that a program's search path has first where it is to run here."""
    return str(Path(__file__).absolute().parent / "site")
