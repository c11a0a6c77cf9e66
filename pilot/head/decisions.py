"""The history of what was decided on pools and pilots, kept in the database.

Invariants
----------
- A decision is written when it differs from the last one on the same pool or pilot; the reason why
  a pool asks for no more nodes, when it has held for `SETTLED_S`: it may change with each task.
- What is decided in one tick is written in one transaction. What cannot be written is kept, up to
  a bound, and tried again: the history keeps nobody from deciding.
- No more than `MOST` decisions are kept, and none that is older than `KEPT_S`.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from pilot.head.store.store import Store
from pilot.scheduler.elasticity import (
    ADMIN,
    AT_ONCE,
    BUDGET,
    ENOUGH,
    HELD,
    MAX_NODES,
    MAX_QUEUED,
    SCALED,
)

log = logging.getLogger("pilot.fleet")

#: The kinds of decisions: a pilot is asked for, is submitted in another shape than was wished for,
#: is to end, or is to give nodes back.
GROW: Final = "grow"
SHAPED: Final = "shaped"
END: Final = "end"
SHRINK: Final = "shrink"
#: The batch system's part: it took no pilot, or a pilot was given up, or waits in the queue again.
REFUSED: Final = "refused"
LOST: Final = "lost"
GIVEN_UP: Final = "given up"
WAITS_AGAIN: Final = "waits again"
#: The reasons why a pool asks for no more nodes.
REASONS = (ENOUGH, MAX_NODES, MAX_QUEUED, AT_ONCE, SCALED, HELD, ADMIN, BUDGET, REFUSED, LOST)

#: The time for which a reason holds before it is written, in seconds.
SETTLED_S = 5.0
#: The decisions that are kept: so many, and for so long, in seconds.
MOST, KEPT_S = 10_000, 30 * 86400.0
#: The number of decisions after which old ones are deleted.
PRUNE_EVERY = 100


class Reason(NamedTuple):
    """The reason why a pool asks for no more nodes."""

    kind: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """The part that tells one reason from another: numbers in its text do not."""
        return self.kind, self.text if self.kind == REFUSED else ""


class History:
    """The decisions on the pools and pilots of a site.

    Parameters
    ----------
    store
        The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: The last reason of each pool that was written, and one that is new, with its time.
        self._written = {
            row["pool"]: Reason(row["kind"], row["detail"])
            for row in store.rows("last_decisions", {"kinds": json.dumps(REASONS)})
        }
        self._new: dict[str, tuple[Reason, float]] = {}
        #: The pilots that were told to end.
        self._ending: set[str] = set()
        self._rows: deque[tuple[float, str, str, str, str]] = deque(maxlen=MOST)
        self._until_pruning = 0

    def note(self, kind: str, pool: str, pilot: str, text: str, now: float) -> None:
        """Note a decision on a pilot, or on a pool if `pilot` is empty."""
        if kind == END:
            if pilot in self._ending:
                return
            self._ending.add(pilot)
        self._rows.append((now, pool, pilot, kind, text))

    def forget(self, pilot: str) -> None:
        """Forget a pilot that has ended."""
        self._ending.discard(pilot)

    def stand(self, reasons: Iterable[tuple[str, Reason]], now: float) -> None:
        """Note why pools ask for no more nodes; with a reason without a kind, one asks for more."""
        for pool, reason in reasons:
            if not reason.kind:
                self._new.pop(pool, None)
                continue
            last = self._written.get(pool)
            if last is not None and last.key == reason.key:
                self._new.pop(pool, None)
                continue
            known = self._new.get(pool)
            if known is None or known[0].key != reason.key:
                known = self._new[pool] = reason, now
            if now - known[1] >= SETTLED_S:
                del self._new[pool]
                self._written[pool] = reason
                self.note(reason.kind, pool, "", reason.text, now)

    def write(self, now: float) -> None:
        """Write what is new."""
        if not self._rows:
            return
        try:
            self._store.add_decisions(list(self._rows))
            self._until_pruning -= len(self._rows)
            self._rows.clear()
            if self._until_pruning <= 0:
                self._store.prune_decisions(now - KEPT_S, MOST)
                self._until_pruning = PRUNE_EVERY
        except sqlite3.Error as error:
            log.warning("decisions cannot be written down: %s; trying again", error)
