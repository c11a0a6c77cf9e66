"""Orders of users by hand for pools and pilots, kept in the database.

Invariants
----------
- An order is durable when it is given, and holds for every later head: one for a pool until it is
  taken back, one for a pilot until the pilot has ended.
- Orders change the limits that elasticity decides by, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from pilot.formatting import counted
from pilot.head.store.store import Store
from pilot.scheduler.elasticity import HELD, Halt, PoolLimits
from pilot.texts import shortened

#: The orders for pools: a number of nodes that is kept, and no new pilots.
SCALE: Final = "scale"
HOLD: Final = "hold"
#: The orders for pilots: end with the tasks that run, and end now.
DRAIN: Final = "drain"
CANCEL: Final = "cancel"

#: The most bytes of a reason that are kept.
REASON_BYTES = 500


class Order(msgspec.Struct, frozen=True):
    """An order for a pool or pilot."""

    verb: str
    #: The name of the pool or pilot.
    subject: str
    #: The nodes that a pool keeps.
    nodes: int
    reason: str
    #: The time at which it was given, in seconds since the epoch.
    at: float
    #: For `DRAIN`: the time after which what still runs is ended, in seconds; 0: it is not.
    within_s: float = 0.0

    def left_s(self, now: float) -> float:
        """Return what is left of `within_s`: as much at most, if the clock was set back."""
        return min(self.within_s, max(0.0, self.at + self.within_s - now))

    @property
    def words(self) -> str:
        """The order as a clause, with its reason."""
        clause = {
            SCALE: f"scaled to {counted(self.nodes, 'node')} by hand",
            HOLD: "held by hand",
            DRAIN: "drained by hand",
            CANCEL: "cancelled by hand",
        }[self.verb]
        return clause + (f": {self.reason}" if self.reason else "")


class Orders:
    """The orders of a site.

    Parameters
    ----------
    store
        The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pools: dict[tuple[str, str], Order] = {}
        self._pilots: dict[str, Order] = {}
        for row in store.rows("orders", {}):
            self._keep(Order(**row))

    @property
    def pilots(self) -> Mapping[str, Order]:
        """The last order for each pilot that has one."""
        return MappingProxyType(self._pilots)

    def give(
        self,
        verb: str,
        subject: str,
        reason: str,
        now: float,
        nodes: int = 0,
        within_s: float = 0.0,
    ) -> Order:
        """Record an order; it takes the place of an earlier one of its kind."""
        order = Order(verb, subject, nodes, shortened(reason, REASON_BYTES), now, within_s)
        self._store.set_order(msgspec.structs.asdict(order))
        self._keep(order)
        return order

    def _keep(self, order: Order) -> None:
        if order.verb in (SCALE, HOLD):
            self._pools[order.verb, order.subject] = order
        else:
            self._pilots[order.subject] = order

    def take_back(self, verb: str, pool: str) -> Order | None:
        """Forget an order for a pool; return it, if there was one."""
        order = self._pools.get((verb, pool))
        if order is not None:
            self._store.remove_orders(verb, pool)
            del self._pools[verb, pool]
        return order

    def forget_pilot(self, name: str) -> None:
        """Forget the orders for a pilot that has ended."""
        if name in self._pilots:
            for verb in (DRAIN, CANCEL):
                self._store.remove_orders(verb, name)
            del self._pilots[name]

    def limits(self, pools: Sequence[PoolLimits]) -> list[PoolLimits]:
        """Return the limits of pools as the orders change them."""
        return [self._limited(pool) for pool in pools] if self._pools else list(pools)

    def _limited(self, pool: PoolLimits) -> PoolLimits:
        changes: dict[str, Any] = {}
        if scaled := self._pools.get((SCALE, pool.name)):
            nodes = scaled.nodes
            changes |= {"min_nodes": nodes, "max_nodes": nodes, "scaled": scaled.words}
        if held := self._pools.get((HOLD, pool.name)):
            changes["halt"] = Halt(HELD, f"it is {held.words}")
        return msgspec.structs.replace(pool, **changes)
