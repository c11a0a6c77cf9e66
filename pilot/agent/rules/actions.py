"""What the rules of a pilot tell the agent to do.

Plain data: the agent's shell carries it out in the order in which it was told, and tells the rules
what came of it. An action is taken for done when it is told; one that fails shows as an exit.
"""

from __future__ import annotations

import msgspec

from pilot.scheduler.placement import NodeAllocation, Portion
from pilot.scheduler.resources import Resources
from pilot.wire.messages import AttemptSpec


class StartExecutor(msgspec.Struct, frozen=True):
    """Start an executor on a node."""

    executor: int
    node: str
    session: int
    cores: tuple[int, ...]
    #: What it has of things that are told apart.
    indexed: tuple[Portion, ...] = ()


class StopExecutor(msgspec.Struct, frozen=True):
    """End an executor."""

    executor: int
    node: str
    grace_s: float


class UnsendFromExecutor(msgspec.Struct, frozen=True):
    """Take back from an executor what it has been sent, up to the `upto`-th, and not begun."""

    executor: int
    node: str
    upto: int


class StartWorld(msgspec.Struct, frozen=True):
    """Start an MPI world."""

    world: int
    session: int
    shares: tuple[NodeAllocation, ...]
    need: Resources


class StopWorld(msgspec.Struct, frozen=True):
    """End an MPI world."""

    world: int


class UnsendFromWorld(msgspec.Struct, frozen=True):
    """Take back from a world what it has been sent, up to the `upto`-th, and not begun."""

    world: int
    upto: int


class RunOnExecutor(msgspec.Struct, frozen=True):
    """Send work to an executor; with shares where it is to start an MPI program on them."""

    executor: int
    work: list[AttemptSpec]
    shares: tuple[NodeAllocation, ...] = ()


class RunOnWorld(msgspec.Struct, frozen=True):
    """Send work to all ranks of a world."""

    world: int
    work: list[AttemptSpec]


class GiveUpNode(msgspec.Struct, frozen=True):
    """Use a node no more."""

    node: str
    reason: str


class ForgetSession(msgspec.Struct, frozen=True):
    """Nothing more comes of this session."""

    session: int


Action = (
    StartExecutor
    | StopExecutor
    | UnsendFromExecutor
    | StartWorld
    | StopWorld
    | UnsendFromWorld
    | RunOnExecutor
    | RunOnWorld
    | GiveUpNode
    | ForgetSession
)
