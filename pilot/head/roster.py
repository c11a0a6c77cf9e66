"""The pilots that have not ended, in memory and in the database.

Invariants
----------
- A pilot is in the database before anything is done about it, and under a name of its own, which no
  pilot of the site has had before.
- The end of a pilot is in the database before it is forgotten here: where it cannot be written, it
  is noticed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from pilot.head.outlook import ENDED, INTENDED, PilotRow
from pilot.head.store.store import Store
from pilot.site import Site

_ADDED = ("name", "pool", "nodes", "walltime", "state", "job", "reason", "own", "created")
_SAVED = ("name", "state", "job", "nodes", "reason", "submitted", "started", "ended")


class Roster:
    """The pilots of a site that have not ended.

    Parameters
    ----------
    site
        The site.
    store
        The database.
    """

    def __init__(self, site: Site, store: Store) -> None:
        self._store = store
        # Jobs of a database that was there before are not ours, and their numbers were the same.
        owner = f"{site.directory}\0{store.identity}".encode()
        mark = hashlib.blake2b(owner, digest_size=3).hexdigest()
        #: What the names of all pilots of this database begin with.
        self.prefix = f"{site.config.manners.job_name_prefix}-{site.name}-{mark}-"
        self._rows: dict[str, PilotRow] = {
            row["name"]: PilotRow(**{**row, "own": bool(row["own"])})
            for row in store.rows("pilots_alive", {})
        }
        self._count = int(store.meta("pilots") or 0)

    @property
    def rows(self) -> Mapping[str, PilotRow]:
        """The pilots by name."""
        return self._rows

    def __iter__(self) -> Iterator[PilotRow]:
        return iter(self._rows.values())

    def new_name(self) -> str:
        """Return the name of the next pilot."""
        self._count += 1
        self._store.set_meta("pilots", str(self._count))
        return f"{self.prefix}{self._count}"

    def add(self, row: PilotRow) -> None:
        """Add a pilot; the job of one that was taken for ended, and lives, is whose it was."""
        row.own = self._store.add_pilot({name: getattr(row, name) for name in _ADDED})
        self._rows[row.name] = row

    def save(self, row: PilotRow) -> None:
        """Write down what has changed of a pilot."""
        self._store.set_pilot({name: getattr(row, name) for name in _SAVED})

    def end(self, row: PilotRow, reason: str, now: float) -> None:
        """Write down that a pilot has ended, and forget it."""
        changes = {"state": ENDED, "reason": reason, "ended": now}
        self._store.set_pilot({**{name: getattr(row, name) for name in _SAVED}, **changes})
        del self._rows[row.name]
        row.state, row.reason, row.ended = ENDED, reason, now

    def trying(self) -> set[str]:
        """Return the pools with pilots that are just being submitted."""
        return {row.pool for row in self if row.state == INTENDED}

    def unproven(self) -> set[str]:
        """Return the pools with pilots, queued or running, that have not run a task yet.

        Those in allocations of users prove nothing: they may be too small for what waits.
        """
        return {row.pool for row in self if not (row.worked or row.told or row.own)}
