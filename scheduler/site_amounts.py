"""Amounts that exist once per site, such as licences, and the tasks that hold them. Pure.

Tasks of all pilots take from the same amounts. A pilot that the head cannot ask may go on with its
tasks: their amounts are free again only when the pilot has reported what it still holds, or its job
has ended.

Invariants
----------
- The amount in use is the sum of what tasks hold, each once for each pilot that has it; a free
  amount is never negative.
- Nothing is given to any task while a pilot that has not reported yet may hold some.
- To take or release again what was taken or released changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from pilot.scheduler.amounts import Amounts

_NONE: Mapping[int, Amounts] = MappingProxyType({})


class SiteAmounts:
    """The amounts of a site, and the tasks that have some, by pilot."""

    def __init__(self, total: Amounts = ()) -> None:
        self.total: Mapping[str, int] = dict(total)
        #: The amounts in use, by name; above the total only if the site file was reduced.
        self.used = dict.fromkeys(self.total, 0)
        #: Pilots started under a previous head that may hold some.
        self.unheard: set[str] = set()
        #: The amounts that tasks hold, by pilot and task.
        self.holders: dict[str, dict[int, Amounts]] = {}

    def held(self, pilot: str) -> Mapping[int, Amounts]:
        """Return the amounts that the tasks of a pilot hold."""
        return self.holders.get(pilot, _NONE)

    def most(self, need: Amounts) -> int:
        """Return how many tasks with these needs may ever run at once; `need` is not empty."""
        return min(self.total.get(name, 0) // amount for name, amount in need)

    def fit(self, need: Amounts, reserved: Collection[str] = ()) -> int:
        """Return how many tasks with these needs may start now; `reserved` names are not free."""
        if self.unheard:
            return 0
        fits = []
        for name, amount in need:
            if name in reserved:
                return 0
            fits.append((self.total.get(name, 0) - self.used.get(name, 0)) // amount)
        return max(0, min(fits))

    def lacking(self, need: Amounts) -> list[str]:
        """Return the names of which there is not enough now for one task."""
        return [
            name
            for name, amount in need
            if self.total.get(name, 0) - self.used.get(name, 0) < amount
        ]

    def concerns(self, pilot: str) -> bool:
        """Tell whether the end of a pilot frees an amount, or makes one known."""
        return pilot in self.holders or pilot in self.unheard

    def take(self, pilot: str, task: int, need: Amounts) -> None:
        """Give a task what it needs, as long as the pilot has the task."""
        its = self.holders.setdefault(pilot, {})
        if task not in its:
            its[task] = need
            self._count(need, 1)

    def release(self, pilot: str, task: int) -> None:
        """Free the amounts of a task that a pilot has ended, or never began."""
        its = self.holders.get(pilot)
        if its is None or (need := its.pop(task, None)) is None:
            return
        self._count(need, -1)
        if not its:
            del self.holders[pilot]

    def replace(self, pilot: str, tasks: Iterable[tuple[int, Amounts]]) -> None:
        """Replace a pilot's tasks, as it reports them, that hold amounts of the site."""
        self.forget(pilot)
        for task, need in tasks:
            self.take(pilot, task, need)

    def forget(self, pilot: str) -> None:
        """Free all amounts of a pilot whose job has ended."""
        self.unheard.discard(pilot)
        for need in self.holders.pop(pilot, {}).values():
            self._count(need, -1)

    def _count(self, need: Amounts, sign: int) -> None:
        for name, amount in need:
            self.used[name] = self.used.get(name, 0) + sign * amount
