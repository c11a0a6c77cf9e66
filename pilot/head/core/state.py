"""The state of the core: unfinished tasks, their classes, sessions and pilots.

Plain objects with slots, changed by `pilot.head.core.core` and its parts alone. They hold what the
rules need and nothing more: there may be a million tasks.
"""

from __future__ import annotations

import math
from collections import deque

from pilot.model.states import PENDING, TaskState
from pilot.model.tasks import FileStamp, Template
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.scheduler.site_amounts import SiteAmounts


class TaskClass:
    """Tasks that are alike for the scheduler, with the queue of the ready ones."""

    __slots__ = (
        "assigned",
        "cores",
        "longest_s",
        "mean_s",
        "need",
        "pool",
        "priority",
        "queue",
        "ready",
        "session",
        "time_limit_s",
    )

    def __init__(self, template: Template, session: Session, longest_s: float = math.inf) -> None:
        self.session = session
        #: The longest walltime of the pools that can hold it; inf: no end, or no pool is known.
        self.longest_s = longest_s
        self.need = template.resources
        #: Of each task, with all its ranks.
        self.cores = template.resources.total_cores
        self.priority = template.priority
        self.pool = template.pool
        self.time_limit_s = template.time_limit_s
        #: Mean duration of those that ended, weighted towards the last ones.
        self.mean_s: float | None = None
        #: May hold tasks that have left the READY state meanwhile; `ready` counts the others.
        self.queue: deque[Task] = deque()
        self.ready = 0
        #: Tasks that pilots hold.
        self.assigned = 0

    @property
    def rank(self) -> tuple[int, int]:
        """The session's priority, then the task's."""
        return self.session.priority, self.priority

    @property
    def starving(self) -> bool:
        """True if the session has waited for too long while others were served."""
        return self.session.starving

    @property
    def share(self) -> float:
        """The cores that the session has and recently had, divided by its weight."""
        return (self.session.load + self.session.used) / self.session.weight

    def learn(self, duration_s: float) -> None:
        """Add a duration, in seconds, to the mean."""
        self.mean_s = duration_s if self.mean_s is None else 0.9 * self.mean_s + 0.1 * duration_s


class Session:
    """The state of a session: its place among others, its counters, and whether it runs tasks."""

    __slots__ = (
        "classes",
        "closed",
        "counts",
        "id",
        "load",
        "paused",
        "priority",
        "starving",
        "stopped",
        "templates",
        "unfinished",
        "used",
        "waits_since",
        "weight",
    )

    def __init__(self, session: int) -> None:
        self.id = session
        #: Ends when its tasks have.
        self.closed = False
        #: Takes no more tasks from clients (running tasks may still submit).
        self.stopped = False
        #: Starts nothing.
        self.paused = False
        #: Its share of the cores beside sessions of the same priority.
        self.weight = 1.0
        self.priority = 0
        #: Since when it could run and has had no core; 0: that is not so.
        self.waits_since = 0.0
        self.starving = False
        #: Cores of its tasks that pilots hold.
        self.load = 0
        #: Core-seconds of its tasks that ended, the older the less.
        self.used = 0.0
        self.unfinished = 0
        #: Final states of the tasks that ended since this head started.
        self.counts: dict[str, int] = {}
        #: Ids of its templates, and keys of its classes.
        self.templates: list[int] = []
        self.classes: list[tuple[object, ...]] = []

    @property
    def state(self) -> str:
        """The state as the database has it, while the session has not ended."""
        return "CLOSING" if self.closed else "STOPPED" if self.stopped else "OPEN"


class Task:
    """An unfinished task."""

    __slots__ = (
        "assigned_at",
        "attempt",
        "crashes",
        "created_at",
        "delegates",
        "dependents",
        "ended_attempt",
        "errors",
        "files",
        "id",
        "inputs",
        "memo",
        "missing",
        "near",
        "near_pilot",
        "owed",
        "pilot",
        "pool",
        "ran_s",
        "ready_at",
        "result_receivers",
        "started_at",
        "state",
        "task_class",
        "template",
        "values",
    )

    def __init__(self, task: int, template: Template, task_class: TaskClass, now: float) -> None:
        self.id = task
        self.template = template
        self.task_class = task_class
        self.state: TaskState = PENDING
        #: The tasks whose results it needs.
        self.inputs: tuple[tuple[int, int], ...] = ()
        #: How many of them are still to come.
        self.missing = 0
        #: How many of these one pilot holds, and which pilot.
        self.near = 0
        self.near_pilot: Pilot | None = None
        self.dependents: list[Task] | None = None
        #: Tasks that have delegated results to this one: (task, index there, index here).
        self.result_receivers: list[tuple[Task, int, int]] | None = None
        #: Of a DELEGATED task: its children that have its results, how many of these are still to
        #: come, and those that are there.
        self.delegates: tuple[Task, ...] = ()
        self.owed = 0
        self.values: list[Value] = []
        #: Number of the last attempt; the first is 1.
        self.attempt = 0
        #: The last attempt whose end was reported, and counted.
        self.ended_attempt = 0
        self.errors = 0
        self.crashes = 0
        self.pilot: Pilot | None = None
        #: By which its results are found again, where they may be; None: not looked up yet.
        self.memo: bytes | None = None
        #: Files that it has made, which belong to its results.
        self.files: tuple[FileStamp, ...] = ()
        #: Where the last attempt was, and how long it ran.
        self.pool = ""
        self.ran_s: float | None = None
        self.created_at = now
        self.ready_at = 0.0
        self.assigned_at = 0.0
        self.started_at = 0.0


class Pilot:
    """A pilot that has introduced itself."""

    __slots__ = (
        "_lasts",
        "avoided",
        "draining",
        "early",
        "ends_at",
        "held",
        "lasting",
        "load",
        "name",
        "nodes",
        "pool",
        "shape",
        "site",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        pool: str,
        shape: NodeShape,
        nodes: int,
        ends_at: float,
        site: SiteAmounts | None = None,
    ) -> None:
        self.name = name
        #: Where it is counted what its tasks have of the site.
        self.site = site if site is not None else SiteAmounts()
        self.pool = pool
        self.shape = shape
        self.nodes = nodes
        self.ends_at = ends_at
        self.draining = False
        #: What it was given and has not reported: task id → its cores.
        self.held: dict[int, int] = {}
        #: Cores of all that.
        self.load = 0
        #: Cores of those that may last: their like take long, or nobody knows, or they do already.
        self.lasting = 0
        self._lasts: set[int] = set()
        #: What has not begun, as far as is known: class → task → when it was given, or asked back
        #: last; the longest ago first.
        self.waiting: dict[TaskClass, dict[Task, float]] = {}
        #: Classes of which tasks came back when they were asked back, and when.
        self.avoided: dict[TaskClass, float] = {}
        #: Tasks that need nothing but what this pilot holds, as they were when they were put here.
        self.early: deque[Task] = deque()

    def note_lasting(self, task: int) -> None:
        """Note that a task that the pilot holds may run for long."""
        if task not in self._lasts:
            self._lasts.add(task)
            self.lasting += self.held[task]

    def release(self, task: int) -> None:
        """Remove a task from the pilot."""
        cores = self.held.pop(task, 0)
        self.load -= cores
        if task in self._lasts:
            self._lasts.remove(task)
            self.lasting -= cores
        if self.site.holders:
            self.site.release(self.name, task)
