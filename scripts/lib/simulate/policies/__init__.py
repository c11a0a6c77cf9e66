"""Policies: which pilots to ask for, and which to end, by what there is to do.

Each sees the same, in the form in which our own elasticity takes it, and answers in its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pilot.scheduler.demand import ClassDemand
from pilot.scheduler.elasticity import End, Grow, PilotSupply, Shrink

#: The time that ``sbatch`` takes, with ``--test-only``, too, in seconds.
SUBMIT_S = 0.2


class View(NamedTuple):
    """The view that a policy has."""

    now: float
    demand: Sequence[ClassDemand]
    pilots: Sequence[PilotSupply]
    #: When the pilots were asked for that have not come yet, by name.
    asked_at: Mapping[str, float]
    #: The number of pilots that are being submitted.
    under_way: int = 0


class Policy(Protocol):
    """A policy, with the manners of the system that has it."""

    name: str
    #: The time between two decisions, and between two submissions, in seconds.
    interval_s: float
    submit_s: float
    #: The time between two looks at the batch system's jobs, in seconds: the end of a pilot is
    #: noticed at the next one. 0: by a connection that breaks.
    poll_s: float
    #: True if the pilots end with the program whose work they do.
    ends_with_work: bool

    def decide(self, view: View) -> Iterable[Grow | End | Shrink]:
        """Return what is to be done now."""

    def came(self, nodes: int, wait_s: float) -> None:
        """Take in that a pilot has come for the first time, after such a wait."""
