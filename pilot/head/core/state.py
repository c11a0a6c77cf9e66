"""The state of the core: unfinished tasks, their classes, sessions and pilots.

Plain objects with slots, changed by `pilot.head.core.core` and its parts alone. They hold what the
rules need and nothing more: there may be a million tasks.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from pilot.model.ids import Ref, session_of
from pilot.model.states import PENDING, TaskState
from pilot.model.tasks import DEPTH_MOST, FileStamp, Template
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, nodes_needed
from pilot.scheduler.site_amounts import SiteAmounts

#: A pilot gets no more tasks of a depth once so many of that depth wait there for others, for each
#: of its cores: each is a process.
WAITING_PER_CORE = 8
#: But one more where nothing goes on in the pilot for so long, in seconds, and each time twice as
#: long: those that wait may wait for one of these.
STILL_S = 1.0


class Counted:
    """The number of ready tasks in a queue, which classes of versions of the same tasks share."""

    __slots__ = ("ready",)

    def __init__(self) -> None:
        self.ready = 0


class TaskClass:
    """Tasks that are alike for the scheduler, with the queue of the ready ones.

    Where tasks have versions, there is a class for each of these, which have one queue: a task is
    of the class by which it was given to a pilot last.
    """

    __slots__ = (
        "assigned",
        "cores",
        "counter",
        "depth",
        "has_data",
        "late",
        "longest_s",
        "makes_files",
        "mean_s",
        "need",
        "pool",
        "priority",
        "queue",
        "session",
        "time_limit_s",
        "version",
        "versions",
        "waits",
        "waits_since",
    )

    def __init__(self, template: Template, session: Session, longest_s: float = math.inf) -> None:
        self.session = session
        #: The longest walltime of the pools that can hold a task; inf: no end, or no pool is known.
        self.longest_s = longest_s
        self.need = template.resources
        #: The cores of each task, with all its ranks.
        self.cores = template.resources.total_cores
        self.priority = template.priority
        self.pool = template.pool
        self.time_limit_s = template.time_limit_s
        #: How many tasks, each a detached child of the next, may wait for one of the class.
        self.depth = template.depth
        #: True if one of the class has waited for other tasks: they are not short, then, whatever
        #: the mean says.
        self.waits = False
        #: The mean duration of ended tasks in seconds, weighted towards the last ones.
        self.mean_s: float | None = None
        #: True if pilots have made large inputs of tasks of this class.
        self.has_data = False
        #: True if the last task that ended well has returned a value too large to travel.
        self.makes_files = False
        #: The queue; it may hold tasks that are no longer READY, and `ready` counts the others.
        self.queue: deque[Task] = deque()
        self.counter = Counted()
        #: The template of the version that the class is for; None: it is for the tasks themselves.
        self.version = template if template.version_of else None
        #: The classes of all versions of its tasks, the one for the tasks themselves first.
        self.versions: tuple[TaskClass, ...] = (self,)
        #: The number of tasks that pilots hold and that do not wait for others.
        self.assigned = 0
        #: Of tasks of several cores: since when there are ready ones and none was given to a pilot,
        #: 0 where that was never looked at since; and True if that is for too long.
        self.waits_since = 0.0
        self.late = False

    @property
    def ready(self) -> int:
        """The number of ready tasks that may be given away."""
        return self.counter.ready

    @ready.setter
    def ready(self, count: int) -> None:
        self.counter.ready = count

    def share_queue(self, others: Iterable[TaskClass]) -> None:
        """Let others be the classes of versions of the same tasks, before there are any."""
        self.versions = (self, *others)
        for other in self.versions:
            other.queue, other.counter, other.versions = self.queue, self.counter, self.versions

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

    def may_wait_on(self, shape: NodeShape) -> bool:
        """Tell whether tasks of this class may wait for cores on such nodes: no other version of
        them needs fewer there."""
        if len(self.versions) == 1:
            return True
        able = [each for each in self.versions if nodes_needed(each.need, shape) is not None]
        return min(able, key=lambda each: each.cores, default=self) is self

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
        "over_budget",
        "paused",
        "priority",
        "starving",
        "stopped",
        "templates",
        "turns",
        "unfinished",
        "used",
        "waits_since",
        "weight",
    )

    def __init__(self, session: int) -> None:
        self.id = session
        #: True if the session ends when its tasks have.
        self.closed = False
        #: True if clients may submit no more tasks (running tasks still may).
        self.stopped = False
        #: True if the session starts nothing: a user has paused it, or its budget is used up.
        self.paused = False
        self.over_budget = False
        #: The weight of the session's share of cores among sessions of the same priority.
        self.weight = 1.0
        self.priority = 0
        #: The time since which the session could run but has had no core; 0: it has one.
        self.waits_since = 0.0
        self.starving = False
        #: The cores of the session's tasks that pilots hold.
        self.load = 0
        #: The core-seconds of the session's ended tasks; older ones count less.
        self.used = 0.0
        self.unfinished = 0
        #: The number of tasks by final state that ended since this head started.
        self.counts: dict[str, int] = {}
        #: The ids of the session's templates, and the keys of its classes.
        self.templates: list[int] = []
        self.classes: list[tuple[object, ...]] = []
        #: What its tasks take by turns, by the anchors.
        self.turns: dict[Ref, Turn] = {}

    @property
    def rests(self) -> bool:
        """True if the session starts nothing."""
        return self.paused or self.over_budget

    @property
    def state(self) -> str:
        """The state as the database has it, while the session has not ended."""
        return "CLOSING" if self.closed else "STOPPED" if self.stopped else "OPEN"


class Task:
    """An unfinished task."""

    __slots__ = (
        "after",
        "aside",
        "assigned_at",
        "attempt",
        "borrows",
        "crashes",
        "created_at",
        "data_pilot",
        "delegates",
        "dependents",
        "ended_attempt",
        "errors",
        "files",
        "followers",
        "id",
        "inputs",
        "memo",
        "missing",
        "near",
        "near_pilot",
        "owed",
        "parts",
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
        #: The tasks whose results this one needs.
        self.inputs: tuple[tuple[int, int], ...] = ()
        #: Its parts in turns, and True if it waits for one of these in place of being queued.
        self.parts: tuple[Part, ...] = ()
        self.aside = False
        #: The tasks that end before this one starts, and give it nothing.
        self.after: tuple[int, ...] = ()
        #: The number of all these that have not ended.
        self.missing = 0
        #: The number of missing inputs that one pilot holds, and that pilot.
        self.near = 0
        self.near_pilot: Pilot | None = None
        #: The pilot that has made the last of its inputs that are too large to travel.
        self.data_pilot: Pilot | None = None
        self.dependents: list[Task] | None = None
        #: Tasks that start after the end of this one, whatever it is.
        self.followers: list[Task] | None = None
        #: Tasks that have delegated results to this one: (task, index there, index here).
        self.result_receivers: list[tuple[Task, int, int]] | None = None
        #: For a DELEGATED task: the children that make its results, the number of results still
        #: owed, and those that are there.
        self.delegates: tuple[Task, ...] = ()
        self.owed = 0
        self.values: list[Value] = []
        #: The results of children that it has waited for, as its own, since it is DELEGATED.
        self.borrows: tuple[Ref, ...] = ()
        #: The number of the last attempt; the first is 1.
        self.attempt = 0
        #: The last attempt whose end was reported, and counted.
        self.ended_attempt = 0
        self.errors = 0
        self.crashes = 0
        self.pilot: Pilot | None = None
        #: The key under which the task's results are found again; None: not looked up yet.
        self.memo: bytes | None = None
        #: The files that the task has made, which belong to its results.
        self.files: tuple[FileStamp, ...] = ()
        #: The pool of the last attempt, and its duration in seconds.
        self.pool = ""
        self.ran_s: float | None = None
        self.created_at = now
        self.ready_at = 0.0
        self.assigned_at = 0.0
        self.started_at = 0.0

    @property
    def own_class(self) -> TaskClass:
        """The class for the task itself, whichever version of it a pilot was given."""
        return self.task_class.versions[0]

    @property
    def given(self) -> tuple[Ref, ...]:
        """Its inputs as a pilot gets them: of what it takes by turns, the latest versions."""
        if not self.parts:
            return self.inputs
        given = list(self.inputs)
        for part in self.parts:
            given[part.place] = part.turn.latest
        return tuple(given)


class Turn:
    """The latest version of a value, and the tasks that take it by turns."""

    __slots__ = ("anchor", "aside", "candidates", "holder", "last", "latest", "members")

    def __init__(self, anchor: Ref, latest: Ref) -> None:
        self.anchor = anchor
        #: The result that is the latest version.
        self.latest = latest
        self.holder: Task | None = None
        #: The number of unfinished tasks that take it, or take it over.
        self.members = 0
        #: The pilot, task and attempt that had it last; None: nobody since this head started.
        self.last: tuple[str, int, int] | None = None
        #: The members that are in the queues of their classes, and those that wait to be there.
        self.candidates: dict[TaskClass, Task] = {}
        self.aside: dict[TaskClass, deque[Task]] = {}


class Part(NamedTuple):
    """The part of a task in a turn."""

    turn: Turn
    #: Which of its inputs the version is, and which of its results is the next one.
    place: int
    result: int


class Pilot:
    """A pilot that has introduced itself."""

    __slots__ = (
        "_lasts",
        "avoided",
        "coreless",
        "draining",
        "early",
        "eased",
        "ends_at",
        "extra",
        "held",
        "lasting",
        "let_in",
        "load",
        "name",
        "nodes",
        "pool",
        "shape",
        "shares",
        "site",
        "still_since",
        "stuck",
        "waiting",
        "waits",
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
        #: The account of the amounts of the site that tasks hold.
        self.site = site if site is not None else SiteAmounts()
        self.pool = pool
        self.shape = shape
        self.nodes = nodes
        self.ends_at = ends_at
        self.draining = False
        #: The tasks that the pilot holds, and has not reported as ended: task id → cores.
        self.held: dict[int, int] = {}
        #: Those of them that have ended, and whose ends are reported later.
        self.eased: set[int] = set()
        #: The cores of all the others.
        self.load = 0
        #: The number of those others that need no core.
        self.coreless = 0
        #: The cores of the tasks of each session.
        self.shares: dict[int, int] = {}
        #: The cores of tasks that may run long: by their class, or because they already do.
        self.lasting = 0
        self._lasts: set[int] = set()
        #: The tasks not known to have begun: class → task → the time when it was given, or last
        #: asked back; the oldest first.
        self.waiting: dict[TaskClass, dict[Task, float]] = {}
        #: The classes of tasks that came back when asked for, with the time.
        self.avoided: dict[TaskClass, float] = {}
        #: The tasks that wait for others: task id → depth. Neither their cores nor their places are
        #: counted.
        self.waits: dict[int, int] = {}
        #: The time since which all tasks here wait for others; 0: some do not. How often more were
        #: let in for that, and how many of a depth may wait beyond `WAITING_PER_CORE`.
        self.still_since = 0.0
        self.let_in = 0
        self.extra = 0
        #: The cores of tasks of several cores that have waited here for long.
        self.stuck = 0
        #: Tasks whose missing inputs this pilot held, all of them, when they were put here.
        self.early: deque[Task] = deque()

    def note_lasting(self, task: int) -> None:
        """Note that a task that the pilot holds may run for long."""
        if task not in self._lasts:
            self._lasts.add(task)
            self.lasting += self.held[task]

    def hold(self, task: int, cores: int) -> None:
        """Add a task that needs so many cores."""
        if self.waits:
            self.waits.pop(task, None)
        self.held[task] = cores
        if cores:
            self.load += cores
            session = session_of(task)
            self.shares[session] = self.shares.get(session, 0) + cores
        else:
            self.coreless += 1

    def ease(self, task: int) -> None:
        """Count no cores for a task that the pilot holds any more."""
        if task in self.held and task not in self.eased:
            self._uncount(task, self.held[task])
            self.eased.add(task)

    def lend(self, task: int, depth: int) -> None:
        """Count neither cores nor a place for a task as long as it waits for others."""
        self.waits[task] = depth
        self._uncount(task, self.held[task])

    def take_again(self, task: int) -> None:
        """Count a task again that has waited for others."""
        self.hold(task, self.held[task])
        self.note_lasting(task)

    @property
    def has_waits(self) -> bool:
        """True if a task here waits for others."""
        return bool(self.waits)

    @property
    def _most_waiting(self) -> int:
        """How many tasks of a depth may wait here for others before no more of it are to come."""
        return WAITING_PER_CORE * self.shape.cores * self.nodes + self.extra

    def _waiting_by_depth(self) -> Counter[int]:
        return Counter(self.waits.values())

    def is_crowded(self, depth: int) -> bool:
        """Tell whether so many tasks of a depth wait here for others that no more are to come."""
        if not self.waits or depth >= DEPTH_MOST:
            return False
        most = self._most_waiting
        return len(self.waits) >= most and self._waiting_by_depth()[depth] >= most

    def look_what_waits(self, before: float) -> None:
        """Count the cores of tasks of several cores that were given before this time, and have not
        begun: at most those that there are, so that no more than that comes for them."""
        stuck = sum(
            work.cores * len(tasks)
            for work, tasks in self.waiting.items()
            if work.cores > 1 and next(iter(tasks.values())) < before
        )
        self.stuck = min(stuck, self.shape.cores * self.nodes)

    def look_whether_still(self, now: float) -> None:
        """Let one more task of a crowded depth in where nothing has gone on here for long."""
        if self.load or self.coreless:
            self.still_since = 0.0
        elif not self.still_since:
            self.still_since = now
        elif now - self.still_since > STILL_S * 2.0**self.let_in:
            self.still_since = now
            more = max(self._waiting_by_depth().values(), default=0) + 1 - self._most_waiting
            if more > 0:
                self.extra += more
                self.let_in += 1
        if self.extra and len(self.waits) < self._most_waiting - self.extra:
            self.extra = self.let_in = 0

    def release(self, task: int) -> None:
        """Remove a task from the pilot, if it is there."""
        cores = self.held.pop(task, None)
        if task in self.eased:
            self.eased.remove(task)
        elif cores is not None and (not self.waits or self.waits.pop(task, None) is None):
            self._uncount(task, cores)
        if self.site.holders:
            self.site.release(self.name, task)

    def _uncount(self, task: int, cores: int) -> None:
        if cores:
            self.load -= cores
            session = session_of(task)
            self.shares[session] -= cores
            if not self.shares[session]:
                del self.shares[session]
        else:
            self.coreless -= 1
        if task in self._lasts:
            self._lasts.remove(task)
            self.lasting -= cores
