"""The actions that the rules of a pilot give to the agent.

Plain data: the agent's shell carries it out in the order in which it was told, and tells the rules
what came of it. An action is taken for done when it is told; one that fails shows as an exit.
"""

from __future__ import annotations

import msgspec

from pilot.model.software import Software
from pilot.scheduler.placement import NodeAllocation, Portion
from pilot.scheduler.resources import Resources
from pilot.wire.messages.pilot import AttemptSpec


class StartExecutor(msgspec.Struct, frozen=True):
    """Start an executor on a node."""

    executor: int
    node: str
    session: int
    cores: tuple[int, ...]
    #: The rank's portions of things that are told apart.
    indexed: tuple[Portion, ...] = ()
    #: What it is started in; None: what the pilot has.
    software: Software | None = None


class StopExecutor(msgspec.Struct, frozen=True):
    """End an executor."""

    executor: int
    node: str
    grace_s: float


class UnsendFromExecutor(msgspec.Struct, frozen=True):
    """Have an executor skip the work that it was sent and has not begun, up to the `upto`-th."""

    executor: int
    node: str
    upto: int


class GoOnExecutor(msgspec.Struct, frozen=True):
    """Tell the task of an executor, which has waited for others, to go on, on these cores."""

    executor: int
    task: int
    cores: tuple[int, ...]


class TellExecutor(msgspec.Struct, frozen=True):
    """Tell the attempt that an executor is in to stop; it is ended at `until` at the latest."""

    executor: int
    node: str
    task: int
    attempt: int
    until: float
    reason: str


class StartWorld(msgspec.Struct, frozen=True):
    """Start an MPI world."""

    world: int
    session: int
    shares: tuple[NodeAllocation, ...]
    need: Resources
    #: What its ranks are started in; None: what the pilot has.
    software: Software | None = None


class StopWorld(msgspec.Struct, frozen=True):
    """End an MPI world; `tells`: its ranks are to write down first where they are."""

    world: int
    tells: bool = False


class UnsendFromWorld(msgspec.Struct, frozen=True):
    """Have a world skip the work that it was sent and has not begun, up to the `upto`-th."""

    world: int
    upto: int


class TellWorld(msgspec.Struct, frozen=True):
    """Tell the attempt that a world is in to stop, on all ranks."""

    world: int
    nodes: tuple[str, ...]
    task: int
    attempt: int
    until: float
    reason: str


class RunOnExecutor(msgspec.Struct, frozen=True):
    """Send work to an executor; `shares` are where it starts an MPI program, if it does."""

    executor: int
    work: list[AttemptSpec]
    shares: tuple[NodeAllocation, ...] = ()
    #: True if large results are to be in the node's store first.
    keeps: bool = True


class RunOnWorld(msgspec.Struct, frozen=True):
    """Send work to all ranks of a world."""

    world: int
    work: list[AttemptSpec]


class GiveUpNode(msgspec.Struct, frozen=True):
    """Stop using a node."""

    node: str
    reason: str


class Persist(msgspec.Struct, frozen=True):
    """Copy segments of a node's store to the site directory."""

    node: str
    paths: tuple[str, ...]


class Fetch(msgspec.Struct, frozen=True):
    """Copy a segment to a node's store from that of another one; from the site directory if no
    source is named."""

    node: str
    source: str
    path: str
    #: The size of the results in it, in bytes.
    size: int


class DropKept(msgspec.Struct, frozen=True):
    """Remove segments from a node's store, and from its cache."""

    node: str
    paths: tuple[str, ...]


class ForgetSession(msgspec.Struct, frozen=True):
    """Forget a session that has ended."""

    session: int


Action = (
    StartExecutor
    | StopExecutor
    | UnsendFromExecutor
    | GoOnExecutor
    | TellExecutor
    | StartWorld
    | StopWorld
    | UnsendFromWorld
    | TellWorld
    | RunOnExecutor
    | RunOnWorld
    | GiveUpNode
    | Persist
    | Fetch
    | DropKept
    | ForgetSession
)
