"""The look-up of named objects in the database: which version a text means. Nothing is changed.

Invariant: what is not there is told in words, with what there is in its place.
"""

from __future__ import annotations

import time
from typing import Any

from pilot.errors import PilotError
from pilot.head.store.reader import Reader
from pilot.model.objects import Wanted, versioned
from pilot.texts import shortened

#: The number of versions, or aliases, that an error names.
_TOLD = 20


def find(store: Reader, wanted: Wanted) -> dict[str, Any]:
    """Return the row of the version that is meant.

    Raises
    ------
    PilotError
        There is no such name, version or alias, or the version was removed.
    """
    name = wanted.name
    last = store.rows("last_version", {"name": name})[0]["version"]
    if not last:
        raise PilotError(f"there is no object {name!r}; `pilot object list` shows them")
    version = wanted.version
    if wanted.alias:
        version = _version_of(store, wanted)
    elif not version:
        newest = store.rows("newest_version", {"name": name})[0]["version"]
        if not newest:
            raise PilotError(f"all versions of object {name!r} were removed")
        version = int(newest)
    rows = store.rows(
        "list_objects", {"name": name, "version": version, "removed": True, "limit": 1}
    )
    if not rows:
        raise PilotError(f"object {name!r} has no version {version}: the last one is {last}")
    if rows[0]["removed"] is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(rows[0]["removed"]))
        raise PilotError(f"{versioned(name, version)} was removed, on {when}")
    return rows[0]


def _version_of(store: Reader, wanted: Wanted) -> int:
    aliases = {row["alias"]: row["version"] for row in store.rows("aliases", {"name": wanted.name})}
    if wanted.alias in aliases:
        return int(aliases[wanted.alias])
    there = ", ".join(list(aliases)[:_TOLD])
    has = f"it has {shortened(there, 1000)}" if there else "it has none"
    raise PilotError(f"object {wanted.name!r} has no alias {wanted.alias!r}; {has}")
