"""Waiting work of a pilot, by class, and the order in which it is served. Pure.

Invariants
----------
- A queue is among those that wait exactly while work is in it.
- High priority goes first; of classes alike in that, detached children before their parents' like,
  which may wait for them; then the one that came here first; of the versions of a task the one
  that was made first.
- The queues of the versions of a task have one line of waiting work, which any of them serves; of
  versions that need different amounts of the site, the head has chosen.
- A class of tasks of several cores that has waited for `STARVED_S` is to have a booking: see
  `bookings`. One core is as good as another: a class of such tasks needs no such care.
"""

from __future__ import annotations

import copy
import itertools
import math
from bisect import insort
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from pilot.model.tasks import Template
from pilot.scheduler.resources import NodeShape, nodes_needed
from pilot.wire.messages.pilot import AttemptSpec

#: An executor or world may have work of this many seconds waiting in its own queue, and so many
#: tasks.
PIPELINE_S = 0.02
PIPELINE_TASKS = 63
#: After so many results in a row that no task of the pilot has used, those that follow are written
#: to the site directory at once: by way of a node's memory that would only cost more.
UNUSED = 8
#: A task that has waited so long for its cores is not delayed any more by later ones, in seconds.
STARVED_S = 1.0


class Queue:
    """The tasks of one class that wait in this pilot."""

    __slots__ = (
        "_history",
        "alike",
        "alone_until",
        "amounts",
        "busy",
        "indexed",
        "is_coreless",
        "is_fresh",
        "is_wide",
        "kind",
        "near",
        "need",
        "node",
        "nodes",
        "place",
        "rank",
        "session",
        "software",
        "template",
        "time_limit_s",
        "version",
        "waiting",
        "waiting_since",
    )

    def __init__(self, template: Template, number: int, place: int, shape: NodeShape) -> None:
        self.session = template.session
        self.kind = template.kind
        #: What work becomes when it is taken from here; 0: what it is.
        self.template = 0
        #: The label of the version that its tasks are; empty: the tasks themselves.
        self.version = template.version
        #: The queues of all versions that can run here, which share what waits.
        self.alike: tuple[Queue, ...] = (self,)
        #: What its processes are started in.
        self.software = template.software
        self.need = need = template.resources
        #: The things that are told apart, which an executor is started with, and the amounts, such
        #: as memory, which it takes only while it has work.
        self.indexed = tuple(item for item in need.named if shape.is_indexed(item[0]))
        self.amounts = tuple(item for item in need.named if not shape.is_indexed(item[0]))
        #: The fewest of the pilot's nodes that hold one; None: they are too small.
        self.nodes = nodes_needed(self.need, shape)
        #: Classes that are alike in this find a place, or none, alike.
        self.place = place
        #: True if a task needs several cores, so that single ones that become free are not enough.
        self.is_wide = self.need.total_cores > 1 or need.exclusive
        #: True if a task needs no core.
        self.is_coreless = not self.need.cores
        #: The longest run of a task, in seconds; 0: there is no limit.
        self.time_limit_s = template.time_limit_s
        #: True if each task has a new executor or world for itself: others are made for parts of
        #: nodes.
        self.is_fresh = template.fresh or need.exclusive
        #: The lowest goes first.
        self.rank = (-template.priority, -template.depth, number, 0)
        self.waiting: deque[AttemptSpec] = deque()
        #: When the first of them found no place; 0 while that has not happened.
        self.waiting_since = 0.0
        self._history = _History()
        #: Until then no task is sent to a process ahead of its inputs.
        self.alone_until = 0.0
        #: How many executors or worlds serve it.
        self.busy = 0
        #: The node on which they start, since their inputs are there; empty: on any.
        self.node = ""
        #: The queues of the same class whose tasks start on certain nodes, by node.
        self.near: dict[str, Queue] = {}

    def on(self, node: str, place: int) -> Queue:
        """Return a queue for tasks of this class that start on a node; see `place`."""
        near = copy.copy(self)
        near.waiting, near.waiting_since, near.busy = deque(), 0.0, 0
        near.node, near.place, near.near, near.alike = node, place, {}, (near,)
        # Before those of its class that start anywhere: they have another chance.
        near.rank = (*self.rank[:3], -place)
        return near

    def takes(self, work: AttemptSpec) -> AttemptSpec:
        """Return work as it is started from this queue, which may be one of several versions."""
        template = self.template
        if not template or work.template == template:
            return work
        return msgspec.structs.replace(work, template=template)

    @property
    def mean_s(self) -> float | None:
        """The time that tasks of this class take on average, in seconds; None while none has ended
        well."""
        return self._history.mean_s

    @property
    def at_most_s(self) -> float:
        """The time that a task of this class takes at most, as far as is known, in seconds; inf:
        nobody knows."""
        return min(self.time_limit_s or math.inf, self._history.most_s)

    def until(self, since: float, count: int, now: float) -> float:
        """Return when `count` tasks of this class, of which the first began at `since`, are thought
        to have ended; inf: nobody knows, or they should have."""
        mean_s = self._history.mean_s
        if mean_s is None:
            until = since + (count * self.time_limit_s or math.inf)
        else:
            until = since + count * mean_s
            if until <= now:
                until = since + self.at_most_s + (count - 1) * mean_s
        return until if until > now else math.inf

    @property
    def depth(self) -> int:
        """The number of tasks that an executor or world may hold at a time."""
        mean_s = self.mean_s
        if mean_s is None or mean_s > PIPELINE_S:
            return 1
        return 1 + min(PIPELINE_TASKS, int(PIPELINE_S / max(mean_s, 1e-7)))

    def waits_long(self, now: float, seconds: float) -> bool:
        """Tell whether the first task has waited for a place for more than `seconds`."""
        return bool(self.waiting_since) and now - self.waiting_since > seconds

    @property
    def keeps(self) -> bool:
        """True if large results of this class go to the store of their node first: tasks here use
        them, or that is not known yet."""
        return self._history.unused < UNUSED

    def note_use(self, was_used: bool) -> None:
        """Note whether tasks here have used a large result before it was written."""
        self._history.unused = 0 if was_used else self._history.unused + 1

    def note_run(self, took_s: float) -> None:
        """Note the run time of a task that ended well, in seconds."""
        self._history.note(took_s)


class _History:
    """The history of the tasks of a class, wherever they start."""

    __slots__ = ("mean_s", "most_s", "unused")

    def __init__(self) -> None:
        #: Their mean duration.
        self.mean_s: float | None = None
        #: The longest of the last ones; inf while there is none.
        self.most_s = math.inf
        #: How many of their last results in the stores of nodes no task here has used in time.
        self.unused = 0

    def note(self, took_s: float) -> None:
        """Add a duration, in seconds."""
        if self.mean_s is None:
            self.mean_s = self.most_s = took_s
        else:
            self.mean_s = 0.8 * self.mean_s + 0.2 * took_s
            # One that took long is forgotten once some tens have been quick.
            self.most_s = max(took_s, 0.95 * self.most_s + 0.05 * took_s)


class _Session(NamedTuple):
    """The queues and templates of a session."""

    #: By all that makes them differ.
    queues: dict[tuple[object, ...], Queue]
    #: By what says where there is room for one.
    places: dict[tuple[object, ...], int]
    templates: list[int]


class Queues:
    """The queues of all classes; `shape` is the shape of each node of the pilot."""

    def __init__(self, shape: NodeShape) -> None:
        #: Nothing starts any more.
        self.closed = False
        #: Something may be able to start that was not when the queues were last served.
        self.look_again = False
        #: How many of those that wait are wide, and how many need no core.
        self.wide = self.coreless = 0
        self._shape = shape
        self._numbers = itertools.count()
        self._sessions: dict[int, _Session] = {}
        self._of_template: dict[int, Queue] = {}
        #: The queues with work in them, by rank.
        self._waiting: list[Queue] = []

    def add_template(self, template: Template) -> None:
        """Make or find the queue for the tasks of a template."""
        session = self._sessions.setdefault(template.session, _Session({}, {}, []))
        key = (
            template.kind,
            template.function,
            template.resources,
            template.priority,
            template.time_limit_s,
            template.depth,
            template.fresh,
            template.software,
            template.versions,
            template.version_of and template.id,
        )
        queue = session.queues.get(key)
        if queue is None:
            number = next(self._numbers)
            place = session.places.setdefault((template.kind, template.resources), number)
            queue = session.queues[key] = Queue(template, number, place, self._shape)
        if template.id not in self._of_template:
            session.templates.append(template.id)
        if queue.template:
            return  # it has others beside it already
        self._of_template[template.id] = queue
        if template.versions:
            self._join(template, queue)

    def _join(self, template: Template, queue: Queue) -> None:
        """Let the queues of a task's versions, which are there already, share what waits."""
        queues = {template.id: queue}
        queues |= {each: self._of_template[each] for each in template.versions}
        for position, (number, each) in enumerate(queues.items()):
            each.template = number
            each.rank = (*queue.rank[:3], position)
        for number, each in queues.items():
            same = [other for other in queues.values() if other.need.site == each.need.site]
            able = [other for other in same if other.nodes is not None] or same
            _share(able)
            self._of_template[number] = each if each in able else able[0]

    def forget(self, session: int) -> list[int]:
        """Forget an ended session that has no attempt here; return the ids of its templates."""
        known = self._sessions.pop(session, None)
        templates = known.templates if known else []
        for template in templates:
            del self._of_template[template]
        return templates

    def of(self, work: AttemptSpec) -> Queue:
        """Return the queue of a task's class."""
        return self._of_template[work.template]

    def near(self, queue: Queue, node: str) -> Queue:
        """Return the queue of the tasks of a class that start on a node."""
        if node not in queue.near:
            session = self._sessions[queue.session]
            for each in queue.alike:
                key = (each.kind, each.need, node)
                place = session.places.setdefault(key, next(self._numbers))
                each.near[node] = each.on(node, place)
            _share([each.near[node] for each in queue.alike])
        return queue.near[node]

    @property
    def has_waiting(self) -> bool:
        """True if any queue has work in it."""
        return bool(self._waiting)

    @property
    def waiting(self) -> list[Queue]:
        """The queues with work in them, the first to be served first."""
        return self._waiting.copy()

    @property
    def waiting_near(self) -> list[Queue]:
        """The queues with work in them that starts on certain nodes."""
        return [queue for queue in self._waiting if queue.node]

    def may_start(self, queue: Queue) -> bool:
        """Tell whether the next task of a queue may start, if there is a place for it."""
        return bool(queue.waiting) and not self.closed

    # --- what comes and goes

    def push(self, queue: Queue, work: AttemptSpec) -> None:
        """Append a task to the queue of its class."""
        if not queue.waiting:
            self._enter(queue)
        queue.waiting.append(work)

    def put_back(self, queue: Queue, work: AttemptSpec) -> None:
        """Put a task that was popped and has not run back at the front of its class."""
        if not queue.waiting:
            self._enter(queue)
        queue.waiting.appendleft(work)

    def pop(self, queue: Queue, most: int = 1) -> list[AttemptSpec]:
        """Remove and return the next `most` tasks of a queue, or all if there are fewer."""
        waiting = queue.waiting
        if not waiting:
            return []
        if most < len(waiting):
            if most == 1:
                return [queue.takes(waiting.popleft())]
            taken = [waiting.popleft() for _ in range(most)]
        else:
            taken = list(waiting)
            waiting.clear()
            self._leave(queue)
        return [queue.takes(work) for work in taken] if queue.template else taken

    def take(self, queue: Queue, tasks: Collection[int]) -> list[AttemptSpec]:
        """Remove and return those of `tasks` that wait in a queue."""
        taken = [work for work in queue.waiting if work.task in tasks]
        if taken:
            left = [work for work in queue.waiting if work.task not in tasks]
            queue.waiting.clear()
            queue.waiting.extend(left)
            if not left:
                self._leave(queue)
        return taken

    def _enter(self, queue: Queue) -> None:
        for each in queue.alike:
            if self._waiting:
                insort(self._waiting, each, key=_rank)
            else:
                self._waiting.append(each)
            self.wide += each.is_wide
            self.coreless += each.is_coreless

    def _leave(self, queue: Queue) -> None:
        for each in queue.alike:
            self._waiting.remove(each)
            self.wide -= each.is_wide
            self.coreless -= each.is_coreless
            each.waiting_since = 0.0


def _share(queues: list[Queue]) -> None:
    """Let queues share what waits in them, before anything does."""
    alike = tuple(queues)
    for queue in queues:
        queue.alike, queue.waiting = alike, queues[0].waiting


def _rank(queue: Queue) -> tuple[int, int, int, int]:
    return queue.rank
