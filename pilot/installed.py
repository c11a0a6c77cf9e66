"""The packages that this Python has.

They are known by the names of the records that installers leave beside them: directories are
listed, and no file is opened, since processes start from a shared file system.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from pilot.model.installation import package_of


def installed(path: Iterable[str] | None = None) -> dict[str, str]:
    """Return the versions of the packages in the directories of `path` (default: ``sys.path``), of
    which the first one that has a package counts."""
    found: dict[str, str] = {}
    for directory in dict.fromkeys(sys.path if path is None else path):
        try:
            names = os.listdir(directory or ".")  # noqa: PTH208 - names alone, as texts
        except OSError:
            continue  # a directory that is not there, or an archive
        for record in sorted(names):
            if package := package_of(record):
                found.setdefault(*package)
    return found
