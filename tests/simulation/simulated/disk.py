"""The disk of a site: its database in memory outlives heads, and may be full for a while."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pilot.head.store.deletion import Garbage
from simulated.clock import Clock

_READS = ("SELECT", "WITH", "PRAGMA", "ROLLBACK")


class Disk(sqlite3.Connection):
    """The one connection to it, of the head that lives."""

    def prepare(self, touch: Callable[[bool], None]) -> None:
        """Have `touch` called before each statement, with whether it writes; it may raise."""
        self._touch = touch

    def _before(self, statement: str) -> None:
        self._touch(not statement.startswith(_READS))

    def execute(self, statement: str, arguments: Any = (), /) -> sqlite3.Cursor:
        """Run a statement."""
        self._before(statement)
        return super().execute(statement, arguments)

    def executemany(self, statement: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        """Run a statement for each row."""
        self._before(statement)
        return super().executemany(statement, rows)

    def close(self) -> None:
        """Let go of it, as a head does that ends."""
        self.crash()

    def crash(self) -> None:
        """Lose what is not committed."""
        if self.in_transaction:
            super().execute("ROLLBACK")

    def read(self, statement: str) -> list[Any]:
        """Return rows to who only looks on."""
        return super().execute(statement).fetchall()


class Janitor:
    """The files of the site, of which a head has some removed, at some time (`head.janitor`)."""

    def __init__(
        self, clock: Clock, chance: Random, _site: Path, notify: Callable[[], None]
    ) -> None:
        self._clock, self._chance = clock, chance
        self._notify = notify
        self._done: list[tuple[str, str]] = []

    def add(self, rows: list[Garbage]) -> None:
        """Have garbage removed."""
        for row in rows:
            self._clock.after(self._chance.expovariate(1.0), partial(self._remove, row))

    def _remove(self, row: Garbage) -> None:
        self._done.append((row.path, row.name))
        self._notify()

    def take(self) -> list[tuple[str, str]]:
        """Return what was removed."""
        done, self._done = self._done, []
        return done

    def stop(self) -> None:
        """Leave the rest to the next head."""


def make_disk() -> Disk:
    """Return the empty disk of a new site."""
    return sqlite3.connect(":memory:", isolation_level=None, factory=Disk)
