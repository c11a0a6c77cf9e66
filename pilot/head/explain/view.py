"""The view of a head that queries are answered from: its memory, its database, its status."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pilot.head.core.core import Core
from pilot.head.outlook import ProvisioningView
from pilot.head.store.reader import Reader
from pilot.wire.messages.pilot import InputFetch, RunningTask


class Pilot(Protocol):
    """A pilot with the live facts that the database lacks."""

    @property
    def nodes(self) -> int:
        """The nodes that the pilot has now."""

    @property
    def heard(self) -> float:
        """The time of the last sign of life, in seconds since the epoch; 0: none yet."""

    @property
    def idle_s(self) -> float:
        """The time for which nothing has run there, in seconds."""

    @property
    def draining(self) -> bool:
        """True if the pilot starts nothing new."""

    @property
    def suspended(self) -> bool:
        """True if the pilot's job has nodes, but is suspended."""

    @property
    def waits_for(self) -> str:
        """The batch system's reason for the job's state."""

    @property
    def expected(self) -> float | None:
        """The time at which the batch system expects the job to start, or None."""


class Pilots(Protocol):
    """The fleet, as far as queries look at it."""

    @property
    def pilots(self) -> Mapping[str, Pilot]:
        """The pilots that have not ended, by name."""

    def outlook(self) -> ProvisioningView:
        """Return what is known of pilots to come."""


class View(NamedTuple):
    """The state of a head at one moment, as queries see it."""

    store: Reader
    core: Core
    fleet: Pilots
    running: Mapping[int, RunningTask]
    status: Callable[[], dict[str, Any]]
    #: Number of the last event that may be told.
    last_event: int
    #: The large inputs for which tasks of pilots wait before they can start, by the pilots' names.
    fetches: Mapping[str, Sequence[InputFetch]] = {}
