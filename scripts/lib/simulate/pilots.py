"""A simulated pilot: the nodes of a job, and the tasks on them.

Tasks are placed by `pilot.scheduler.placement`, as an agent does. Of many nodes that a task could
have it is shown `LOOKED_AT`, those in use first: its cost grows with their number.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator

from pilot.scheduler.assignment import cores_of, is_short
from pilot.scheduler.placement import FreeNode, NodeAllocation, place
from pilot.scheduler.resources import NodeShape
from simulate.slurm import Job
from simulate.workload import Task, WorkClass

#: The nodes with free cores that are looked at first.
LOOKED_AT = 64


class Pilot:
    """A pilot, from the request for it to its end (`pilot.scheduler.assignment.PilotRoom`)."""

    def __init__(self, name: str, pool: str, shape: NodeShape, job: Job, now: float) -> None:
        self.name, self.pool, self.shape, self.job = name, pool, shape, job
        #: The nodes that tasks may use, or will be able to.
        self.nodes = job.count
        self.created_at = now
        #: The time of the first word of its agent; None: it has not come yet.
        self.came_at: float | None = None
        #: The start of its job while its agent has not come; None otherwise.
        self.starting_at: float | None = None
        #: True while its agent lives.
        self.lives = False
        self.draining = False
        #: True if it is to end when its tasks have.
        self.told = False
        #: What is free on each node that tasks may use.
        self.free: dict[int, FreeNode] = {}
        #: The nodes in use that have free cores; those that are not in use have `idle_since`.
        self._partly: dict[int, FreeNode] = {}
        self.ends_at = 0.0
        self.load = self.lasting = 0
        #: Tasks without a core: there are none in here.
        self.coreless = self.stuck = 0
        self.avoided: dict[WorkClass, float] = {}
        #: Tasks that wait for their cores here, and since when.
        self.waiting: deque[tuple[Task, float]] = deque()
        self.running: dict[Task, list[NodeAllocation]] = {}
        #: The time since which a node, or the pilot, has had no task.
        self.idle_since: dict[int, float] = {}
        self.idle_at = 0.0
        #: The time before which no node is asked of it; the nodes that are on their way back.
        self.shrinks_after = 0.0
        self.leaving = 0

    #: No task here waits for others.
    has_waits = False

    def is_crowded(self, _depth: int) -> bool:
        """Return False: no task here waits for others."""
        return False

    @property
    def has_room(self) -> bool:
        """True if tasks may be given to it, and it has cores free."""
        return self.lives and not self.draining and self.load < cores_of(self)

    def begin(self, now: float) -> None:
        """Take the nodes of the job into use: the agent has come."""
        self.lives, self.draining, self.told = True, False, False
        self.free = {
            node: FreeNode(f"{node:06}", self.shape, place)
            for place, node in enumerate(self.job.nodes)
        }
        self.ends_at, self.nodes = self.job.ends_at, len(self.free)
        self._partly, self.idle_since = {}, dict.fromkeys(self.free, now)
        self.idle_at = now

    def end(self) -> None:
        """Forget everything that was in the job that has ended."""
        self.lives, self.nodes = False, self.job.count
        self.free, self._partly, self.idle_since = {}, {}, {}
        self.load = self.lasting = self.leaving = 0
        self.waiting.clear()
        self.running.clear()
        self.avoided.clear()

    def give(self, task: Task, now: float) -> None:
        """Give it a task; `start_next` starts it."""
        self.waiting.append((task, now))
        self.load += task.work.need.total_cores
        if not is_short(task.work):
            self.lasting += task.work.need.total_cores

    def start_next(self) -> Iterator[Task]:
        """Start the tasks that wait, in their order, as far as they find their cores."""
        while self.waiting:
            task, _ = self.waiting[0]
            shares = self._place(task)
            if shares is None:
                return
            self.waiting.popleft()
            for share in shares:
                node = int(share.node)
                its = self.free[node]
                its.take(share)
                self.idle_since.pop(node, None)
                if its.cores:
                    self._partly[node] = its
                else:
                    self._partly.pop(node, None)
            self.running[task] = shares
            yield task

    def _place(self, task: Task) -> list[NodeAllocation] | None:
        idle = (self.free[node] for node in self.idle_since)
        if task.work.fills > 1:
            return place(task.work.need, [*self._partly.values(), *idle])
        near = itertools.chain(self._partly.values(), idle)
        shares = place(task.work.need, list(itertools.islice(near, LOOKED_AT)))
        if shares is None and len(self._partly) + len(self.idle_since) > LOOKED_AT:
            return place(task.work.need, self.free.values())
        return shares

    def finish(self, task: Task, now: float) -> None:
        """Free the cores of a task that has ended, or was interrupted."""
        for share in self.running.pop(task):
            node = int(share.node)
            its = self.free[node]
            its.release(share)
            if its.users:
                self._partly[node] = its
            else:
                self._partly.pop(node, None)
                self.idle_since[node] = now
        self._unload(task)
        if not self.load:
            self.idle_at = now

    def take_back(self, now: float, stuck_s: float = 0.0) -> list[Task]:
        """Return the tasks that have waited for their cores for so long; it forgets them."""
        back = [task for task, since in self.waiting if now - since >= stuck_s]
        if back:
            self.waiting = deque(each for each in self.waiting if now - each[1] < stuck_s)
        for task in back:
            self._unload(task)
        return back

    def _unload(self, task: Task) -> None:
        self.load -= task.work.need.total_cores
        if not is_short(task.work):
            self.lasting = max(0, self.lasting - task.work.need.total_cores)

    def idle_nodes(self) -> list[int]:
        """Return the nodes that it could do without, the longest idle first.

        Never the job's first, and none while a task waits there for several nodes.
        """
        if len(self.free) < 2 or not self.idle_since:
            return []
        if any(task.work.fills > 1 for task, _ in self.waiting):
            return []
        first = self.job.nodes[0]
        idle = [node for node in self.idle_since if node != first]
        return sorted(idle, key=lambda node: self.idle_since[node])

    def give_back(self, nodes: list[int]) -> None:
        """Use these nodes no more: they are on their way back to Slurm."""
        for node in nodes:
            del self.free[node], self.idle_since[node]
        self.nodes = len(self.free)
        self.leaving += len(nodes)
