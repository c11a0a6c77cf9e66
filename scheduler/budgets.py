"""Budgets of node-hours: what is used, what pilots may still use, and what is left. Pure.

Invariants
----------
- What may be asked for is what is left after all that pilots have and wait for was used to the end
  of their walltimes. So a budget is exceeded by less than the walltime of one pilot, and by nothing
  that was asked for after it was used up.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pilot.formatting import moment

HOUR_S = 3600.0

#: The periods for which a budget may be given; a week begins on Monday. Days are local ones.
Per: TypeAlias = Literal["day", "week", "total"]

_BUDGET = re.compile(
    rf"\s*(\d+(?:\.\d+)?)\s*(?:node-hours?)?(?:\s+per\s+({'|'.join(get_args(Per))}))?\s*"
)


class NodeBudget(NamedTuple):
    """The node-seconds that may be used in each period."""

    node_s: float
    per: Per = "total"

    def __str__(self) -> str:
        hours = node_hours(self.node_s)
        return hours if self.per == "total" else f"{hours} per {self.per}"


def parse_budget(value: Any) -> NodeBudget:
    """Read a budget: ``500 node-hours``, ``20 node-hours per day``, or a number of node-hours.

    Raises
    ------
    ValueError
        The value is no budget.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9:
        return NodeBudget(value * HOUR_S)
    match = _BUDGET.fullmatch(value) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise ValueError(
            f"{value!r:.60} is not a budget; write it as 500 node-hours, or 20 node-hours per day "
            "(or week)"
        )
    per: Any = match[2] or "total"
    return NodeBudget(float(match[1]) * HOUR_S, per)


def node_hours(node_s: float) -> str:
    """Format node-seconds: ``12.5 node-hours``."""
    hours = node_s / HOUR_S
    return f"{hours:.4g} node-hours" if hours < 1000 else f"{hours:,.0f} node-hours"


class Period(NamedTuple):
    """The period of a budget: its first day, and its end in seconds since the epoch."""

    first_day: int
    end: float


def period_of(per: Per, now: float) -> Period:
    """Return the period in which a moment is."""
    day = datetime.datetime.fromtimestamp(now).date()
    if per == "total":
        return Period(0, math.inf)
    if per == "week":
        day -= datetime.timedelta(days=day.weekday())
    after = day + datetime.timedelta(days=7 if per == "week" else 1)
    return Period(day.toordinal(), _midnight(after))


def by_day(start: float, end: float) -> Iterator[tuple[int, float]]:
    """Split a length of time into days: the number of each day, and its seconds."""
    while start < end:
        day = datetime.datetime.fromtimestamp(start).date()
        until = min(end, max(_midnight(day + datetime.timedelta(days=1)), start + 1e-3))
        yield day.toordinal(), until - start
        start = until


def _midnight(day: datetime.date) -> float:
    """Return the beginning of a local day, in seconds since the epoch."""
    return datetime.datetime.combine(day, datetime.time()).timestamp()


class Account(NamedTuple):
    """The state of a budget in its present period, in node-seconds."""

    budget: NodeBudget
    used: float
    #: What pilots use at most until the end of their walltimes, or of the period.
    committed: float = 0.0
    #: The end of the period, in seconds since the epoch; inf: there is none.
    ends_at: float = math.inf

    @property
    def left(self) -> float:
        """The node-seconds that are neither used nor committed."""
        return max(0.0, self.budget.node_s - self.used - self.committed)

    @property
    def is_used_up(self) -> bool:
        """True if all is used."""
        return self.used >= self.budget.node_s

    def nodes(self, walltime_s: float) -> int:
        """Return the number of nodes that may be asked for with this walltime."""
        if not self.left:
            return 0
        return max(1, int(self.left / walltime_s)) if walltime_s else 1_000_000

    @property
    def words(self) -> str:
        """The account as a clause."""
        text = f"{node_hours(self.used)} of {self.budget} are used"
        if self.committed:
            text += f", {node_hours(self.committed)} more are committed to its pilots"
        if self.ends_at != math.inf:
            text += f"; the next period begins at {moment(self.ends_at)}"
        return text
