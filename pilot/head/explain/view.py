"""The view of a head that queries are answered from: its memory, its database, its status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from pilot.head.core.core import Core
from pilot.head.outlook import ProvisioningView
from pilot.head.store.store import Store
from pilot.wire.messages import RunningTask


class Pilot(Protocol):
    """What is known of a pilot beyond the database."""

    @property
    def nodes(self) -> int:
        """The nodes that it has now."""

    @property
    def heard(self) -> float:
        """When it last gave a sign of life; 0: it has not."""

    @property
    def idle_s(self) -> float:
        """How long nothing has run there."""

    @property
    def draining(self) -> bool:
        """Whether it starts nothing new."""

    @property
    def suspended(self) -> bool:
        """Whether its job has nodes, and stands still."""

    @property
    def waits_for(self) -> str:
        """The batch system's reason for its state."""

    @property
    def expected(self) -> float | None:
        """When the batch system expects it to start."""


class Pilots(Protocol):
    """The fleet, as far as queries look at it."""

    @property
    def pilots(self) -> Mapping[str, Pilot]:
        """The pilots that have not ended, by name."""

    def outlook(self) -> ProvisioningView:
        """What can be said of pilots to come."""


class View(NamedTuple):
    """The view of a head, at one moment."""

    store: Store
    core: Core
    fleet: Pilots
    running: Mapping[int, RunningTask]
    status: Callable[[], dict[str, Any]]
    #: Number of the last event that may be told.
    last_event: int
