"""The database of a site in memory: it outlives heads, and may be full for a while."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

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


def make_disk() -> Disk:
    """Return the empty disk of a new site."""
    return sqlite3.connect(":memory:", isolation_level=None, factory=Disk)
