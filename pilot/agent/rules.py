"""What the agent decides: what starts where, what follows from an end, what is reported. Pure.

The agent's shell turns frames, exits of processes and timers into calls, each with the time, and
carries out the actions that `take_actions` gives. No sockets, no processes, no clock in here.

Invariants
----------
- A core is with one busy executor or world at a time. Idle ones hold none: they sleep.
- Every attempt that came in ends in exactly one completion, or is still in here.
- Executors and worlds serve one session only, so no session sees another's modules.
- A class of tasks that has waited for `STARVED_S` is served before anything smaller starts.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

import msgspec

from pilot.agent.inputs import Inputs
from pilot.wire.messages import (
    Completion,
    LogSpan,
    RunningTask,
    TaskFailure,
    Template,
    Work,
)
from scheduler.placement import FreeNode, Share, place
from scheduler.resources import NodeShape, Resources, nodes_needed

#: An executor may have work of this many seconds waiting in its own queue, and so many tasks.
PIPELINE_S = 0.005
PIPELINE_TASKS = 63
#: A task that has waited so long for its cores is not overtaken any more, in seconds.
STARVED_S = 1.0
#: Idle executors and worlds are closed after so many seconds.
IDLE_S = 60.0
#: Time between SIGTERM and SIGKILL for a task that is cancelled or over its limit, in seconds.
GRACE_S = 5.0
#: When a rank has failed, the others get so long to leave the task, in seconds.
RANKS_LEAVE_S = 5.0
#: An executor or world that has not reported by then is given up, in seconds.
START_S = 60.0

MPI_KINDS = ("mpi",)


# --- actions -------------------------------------------------------------------------------------


class StartExecutor(msgspec.Struct, frozen=True):
    """Start an executor on a node."""

    executor: int
    node: str
    session: int
    cores: tuple[int, ...]
    gpus: tuple[int, ...]


class StopExecutor(msgspec.Struct, frozen=True):
    """End an executor."""

    executor: int
    node: str
    grace_s: float


class StartWorld(msgspec.Struct, frozen=True):
    """Start an MPI world."""

    world: int
    session: int
    shares: tuple[Share, ...]
    need: Resources


class StopWorld(msgspec.Struct, frozen=True):
    """End an MPI world."""

    world: int


class RunOnExecutor(msgspec.Struct, frozen=True):
    """Send work to an executor; with shares where it is to start an MPI program on them."""

    executor: int
    work: list[Work]
    shares: tuple[Share, ...] = ()


class RunOnWorld(msgspec.Struct, frozen=True):
    """Send a task to all ranks of a world."""

    world: int
    work: Work


Action = StartExecutor | StopExecutor | StartWorld | StopWorld | RunOnExecutor | RunOnWorld


# --- state ---------------------------------------------------------------------------------------


class Queue:
    """Tasks of one class that wait in this pilot."""

    __slots__ = ("kind", "mean_s", "need", "priority", "session", "waiting", "waiting_since")

    def __init__(self, template: Template) -> None:
        self.session = template.session
        self.kind = template.kind
        self.need = template.resources
        self.priority = template.priority
        self.waiting: deque[Work] = deque()
        #: When the first of them found no place; 0 while that has not happened.
        self.waiting_since = 0.0
        self.mean_s: float | None = None

    @property
    def depth(self) -> int:
        """How many tasks an executor may hold at a time."""
        if self.mean_s is None:
            return 1
        return 1 + min(PIPELINE_TASKS, int(PIPELINE_S / max(self.mean_s, 1e-7)))


class Executor:
    """A persistent Python process on some cores of a node."""

    __slots__ = (
        "first_started",
        "gpus",
        "id",
        "idle_since",
        "killed_for",
        "node",
        "pid",
        "pipeline",
        "queue",
        "ready",
        "session",
        "share",
        "shares",
        "started_at",
        "stopping",
        "unsealed",
    )

    def __init__(self, number: int, session: int, share: Share, now: float) -> None:
        self.id = number
        self.session = session
        self.node = share.node
        #: What it is pinned to. It holds them only while it has work.
        self.share = share
        self.ready = False
        self.stopping = False
        self.pid = 0
        self.queue: Queue | None = None
        self.pipeline: deque[Work] = deque()
        #: What has run here and waits for its results to be on the disk.
        self.unsealed: dict[int, Work] = {}
        #: All shares of the MPI program that it has started.
        self.shares: tuple[Share, ...] = ()
        self.started_at = now
        self.first_started = 0.0
        self.idle_since = now
        #: Outcome for the task that it was killed for: ``timeout`` or ``cancelled``.
        self.killed_for: dict[int, str] = {}


class World:
    """A persistent set of MPI ranks."""

    __slots__ = (
        "busy_since",
        "completion",
        "failures",
        "id",
        "idle_since",
        "killed_for",
        "leave_by",
        "left",
        "need",
        "queue",
        "ranks",
        "session",
        "shares",
        "started_at",
        "stopping",
        "work",
    )

    def __init__(
        self, number: int, session: int, need: Resources, shares: tuple[Share, ...], now: float
    ) -> None:
        self.id = number
        self.session = session
        self.need = need
        self.shares = shares
        #: Ranks that have reported.
        self.ranks: set[int] = set()
        self.stopping = False
        self.work: Work | None = None
        self.queue: Queue | None = None
        self.left: set[int] = set()
        self.completion: Completion | None = None
        self.failures: dict[int, Completion] = {}
        self.leave_by = 0.0
        self.killed_for = ""
        self.started_at = now
        self.busy_since = 0.0
        self.idle_since = now

    @property
    def ready(self) -> bool:
        """Whether all ranks have reported."""
        return len(self.ranks) == self.need.ranks


class Rules:
    """The state of a pilot. Methods take what happened; `take_actions` and `take_completions` give
    what is to be done and reported."""

    def __init__(self, hosts: Iterable[str], shape: NodeShape) -> None:
        #: The pilot's nodes, those that have not reported yet included, and what each has.
        self.hosts = list(hosts)
        self.shape = shape
        self.nodes: dict[str, FreeNode] = {}
        self.templates: dict[int, Template] = {}
        self.executors: dict[int, Executor] = {}
        self.worlds: dict[int, World] = {}
        self.draining = False
        self.busy_at = 0.0
        self._queues: dict[tuple[object, ...], Queue] = {}
        self._queue_of: dict[int, Queue] = {}
        self._numbers = itertools.count(1)
        self._actions: list[Action] = []
        self._completions: list[Completion] = []
        #: Attempts in here: task → attempt.
        self.held: dict[int, int] = {}
        self._received: dict[int, float] = {}
        self._inputs = Inputs()
        #: Tasks have got their last input, and no place has been looked for.
        self._released = False
        self._starved: Queue | None = None

    # --- what comes out

    def take_actions(self) -> list[Action]:
        """What is to be done; afterwards it is taken for done."""
        actions, self._actions = self._actions, []
        return actions

    def take_completions(self) -> list[Completion]:
        """What is to be reported to the head."""
        completions, self._completions = self._completions, []
        return completions

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.held

    # --- work

    def add_work(self, templates: Iterable[Template], work: Iterable[Work], now: float) -> None:
        """The head has assigned work."""
        for template in templates:
            self.templates[template.id] = template
            key = (
                template.session,
                template.kind,
                template.function,
                template.resources,
                template.priority,
                template.time_limit_s,
            )
            self._queue_of[template.id] = self._queues.setdefault(key, Queue(template))
        for item in work:
            if item.task in self.held:
                # An older attempt is still here: its end is told as that of the newer one.
                self.held[item.task] = item.attempt
                continue
            self.held[item.task] = item.attempt
            self._received[item.task] = now
            try:
                ready = self._inputs.add(item, self.held)
            except LookupError as error:
                self._report(_ended(item, "interrupted", str(error), "", now))
                continue
            if ready is not None:
                self._queue_of[item.template].waiting.append(ready)
        self.busy_at = now
        self._hand_back_misfits(now)
        if self.draining:
            self.hand_back("the pilot starts nothing any more", now)
        self.schedule(now)

    def cancel(self, tasks: Iterable[int], now: float) -> None:
        """End tasks, whether they wait or run."""
        wanted = {task for task in tasks if task in self.held}
        if not wanted:
            return
        for queue in self._queues.values():
            dropped = [work for work in queue.waiting if work.task in wanted]
            if dropped:
                queue.waiting = deque(work for work in queue.waiting if work.task not in wanted)
                for work in dropped:
                    self._report(_ended(work, "cancelled", "cancelled before it started", "", now))
        for work in self._inputs.take(wanted):
            self._report(_ended(work, "cancelled", "cancelled before it started", "", now))
        for executor in list(self.executors.values()):
            named = [work.task for work in executor.pipeline if work.task in wanted]
            if named:
                executor.killed_for.update(dict.fromkeys(named, "cancelled"))
                self._stop_executor(executor, GRACE_S)
        for world in list(self.worlds.values()):
            if world.work is not None and world.work.task in wanted:
                world.killed_for = "cancelled"
                self._stop_world(world)
        self.schedule(now)

    def hand_back(self, reason: str, now: float) -> None:
        """Give back what has not started."""
        for queue in self._queues.values():
            for work in queue.waiting:
                self._report(_ended(work, "interrupted", reason, "", now))
            queue.waiting.clear()
        self._hand_back_early(reason, now)

    def _hand_back_early(self, reason: str, now: float) -> None:
        """Give back what waits for inputs."""
        for work in self._inputs.take():
            self._report(_ended(work, "interrupted", reason, "", now))

    def forget(self, tasks: Iterable[int]) -> None:
        """The head has committed the ends of these tasks."""
        self._inputs.forget(tasks)

    def _hand_back_misfits(self, now: float) -> None:
        """Give back what the nodes that are left can never run."""
        for queue in self._queues.values():
            if not queue.waiting:
                continue
            nodes = nodes_needed(queue.need, self.shape)
            if nodes is None or nodes > len(self.hosts):
                for work in queue.waiting:
                    reason = f"the pilot has {len(self.hosts)} nodes left"
                    self._report(_ended(work, "interrupted", reason, "", now))
                queue.waiting.clear()

    def drain(self, reason: str, now: float) -> None:
        """Start nothing any more."""
        self.draining = True
        self.hand_back(reason, now)

    def stop_all(self, reason: str, now: float) -> None:
        """End everything at once: what runs is interrupted."""
        self.drain(reason, now)
        for executor in list(self.executors.values()):
            for work in executor.pipeline:
                executor.killed_for.setdefault(work.task, "interrupted")
            self._stop_executor(executor, GRACE_S)
        for world in list(self.worlds.values()):
            world.killed_for = world.killed_for or "interrupted"
            self._stop_world(world)

    # --- nodes

    def add_node(self, name: str, shape: NodeShape, now: float, position: int = 0) -> None:
        """A node worker is up; `position` is its place in the batch system's list of nodes."""
        if name not in self.hosts:
            self.hosts.append(name)
        if name not in self.nodes:
            self.nodes[name] = FreeNode(name, shape, position)
            self.schedule(now)

    def lose_node(self, name: str, reason: str, now: float) -> list[Executor]:
        """A node is gone, with all that ran there; returns its executors."""
        if name in self.hosts:
            self.hosts.remove(name)
        self.nodes.pop(name, None)
        lost = [executor for executor in self.executors.values() if executor.node == name]
        for executor in lost:
            del self.executors[executor.id]
            started = [*executor.unsealed.values(), *list(executor.pipeline)[: executor.ready]]
            for work in started:
                ended = _ended(work, "interrupted", reason, name, now)
                first = executor.first_started or now
                self._report(msgspec.structs.replace(ended, started=first))
            for work in list(executor.pipeline)[executor.ready :]:
                self._report(_ended(work, "interrupted", reason, name, now))
            self._release(executor)
        for world in list(self.worlds.values()):
            if any(share.node == name for share in world.shares):
                world.killed_for = world.killed_for or "interrupted"
                self._stop_world(world)
        self._hand_back_early(reason, now)
        self._hand_back_misfits(now)
        self.schedule(now)
        return lost

    # --- executors

    def executor_ready(self, number: int, pid: int, now: float) -> None:
        """An executor has reported."""
        executor = self.executors.get(number)
        if executor is None:
            return
        executor.ready, executor.pid = True, pid
        if executor.pipeline:
            executor.first_started = now
            self._actions.append(RunOnExecutor(number, list(executor.pipeline), executor.shares))

    def executor_done(self, number: int, completions: Iterable[Completion], now: float) -> None:
        """An executor has ended attempts."""
        executor = self.executors.get(number)
        if executor is None:
            return
        for completion in completions:
            work = executor.unsealed.pop(completion.task, None) or self._leave(executor, completion)
            if work is None:
                continue
            if completion.outcome == "ok":
                queue = self._queue_of[work.template]
                took = completion.ended - completion.started
                queue.mean_s = took if queue.mean_s is None else 0.8 * queue.mean_s + 0.2 * took
            outcome = executor.killed_for.pop(completion.task, "")
            if outcome and completion.outcome != "ok":
                # It took SIGTERM for a reason to raise, maybe after some cleaning up.
                completion = _ended_for(completion, outcome, self.templates[work.template])
            self._report(completion)
        self._go_on(executor, now)

    def executor_ran(self, number: int, tasks: Iterable[int], now: float) -> None:
        """An executor is through with attempts whose completions will follow."""
        executor = self.executors.get(number)
        if executor is None:
            return
        for task in tasks:
            if executor.pipeline and executor.pipeline[0].task == task:
                executor.unsealed[task] = executor.pipeline.popleft()
        self._go_on(executor, now)

    def _leave(self, executor: Executor, completion: Completion) -> Work | None:
        """Take what an executor has ended from its pipeline, where it is the first."""
        if executor.pipeline and executor.pipeline[0].task == completion.task:
            return executor.pipeline.popleft()
        return None

    def _go_on(self, executor: Executor, now: float) -> None:
        """An executor may have nothing left to do: give it more, or its cores to others."""
        executor.first_started = now
        self.busy_at = now
        if executor.stopping and not executor.pipeline and not executor.unsealed:
            # It was told to end, and its task has ended otherwise: it needs no more grace.
            self._actions.append(StopExecutor(executor.id, executor.node, 0.0))
        busy = executor.stopping or self._feed(executor, now) or executor.pipeline
        if not busy and executor.queue is not None:
            self._release(executor)
            executor.idle_since = now
            self._released = True
        if self._released:
            self.schedule(now)

    def executor_exited(
        self,
        number: int,
        status: int,
        task: int,
        started: float,
        logs: tuple[LogSpan, ...],
        tail: str,
        now: float,
    ) -> None:
        """An executor is gone: what it was in has crashed, unless it was killed for a reason."""
        executor = self.executors.pop(number, None)
        if executor is None:
            return
        if not task and len(executor.pipeline) == 1 and not executor.stopping and executor.ready:
            task = executor.pipeline[0].task
        for work in reversed(executor.pipeline):
            outcome = executor.killed_for.get(work.task, "")
            limit = self.templates[work.template].time_limit_s
            if outcome == "timeout" and task not in (0, work.task):
                outcome = ""  # it had ended, unheard of: another one is over its limit
            elif executor.stopping and work.task == task and limit and now - started > limit:
                outcome = outcome or "timeout"
            if outcome:
                message = _killed(outcome, self.templates[work.template])
                completion = _ended(work, outcome, message, executor.node, now, tail)
            elif not executor.ready or (work.task == task and not executor.stopping):
                completion = _ended(work, "crash", describe_exit(status), executor.node, now, tail)
            else:
                # It had not started, or its end was not heard of, or the executor was ended for
                # another task just when it began with this one: that is not its fault.
                self._queue_of[work.template].waiting.appendleft(work)
                continue
            self._report(msgspec.structs.replace(completion, started=started or now, logs=logs))
        executor.pipeline.clear()
        for work in reversed(executor.unsealed.values()):
            # It had run, but its result never was on the disk.
            self._queue_of[work.template].waiting.appendleft(work)
        executor.unsealed.clear()
        if self.draining:
            self.hand_back("the pilot ends", now)
        self._release(executor)
        self.schedule(now)

    # --- worlds

    def rank_ready(self, number: int, rank: int, now: float) -> None:
        """A rank has reported."""
        world = self.worlds.get(number)
        if world is None:
            return
        world.ranks.add(rank)
        if world.ready and world.work is not None and not world.stopping:
            world.busy_since = now
            self._actions.append(RunOnWorld(number, world.work))

    def rank_done(self, number: int, rank: int, completion: Completion, now: float) -> None:
        """A rank has left its task."""
        world = self.worlds.get(number)
        if world is None or world.work is None or world.work.task != completion.task:
            return
        world.left.add(rank)
        if completion.outcome != "ok":
            world.failures[rank] = completion
            world.leave_by = world.leave_by or now + RANKS_LEAVE_S
        if rank == 0:
            world.completion = completion
        if len(world.left) == world.need.ranks and not world.stopping:
            self._world_task_ended(world, now)
            world.idle_since = now
            if not self._feed_world(world, now):
                self._release_world(world)
                self.schedule(now)

    def rank_exited(self, number: int) -> None:
        """A rank is gone: its world cannot go on."""
        world = self.worlds.get(number)
        if world is not None:
            self._stop_world(world)

    def world_exited(self, number: int, status: int, tail: str, now: float) -> None:
        """A world is gone, all of it."""
        world = self.worlds.pop(number, None)
        if world is None:
            return
        work = world.work
        if work is not None:
            node = world.shares[0].node
            if world.killed_for:
                message = _killed(world.killed_for, self.templates[work.template])
                completion = _ended(work, world.killed_for, message, node, now, tail)
            elif world.failures:
                completion = _merge_failures(work, world.failures, len(world.left), world.need)
            elif world.ready:
                completion = _ended(
                    work, "crash", f"a rank died: {describe_exit(status)}", node, now, tail
                )
            else:
                message = f"the MPI world could not be started: {describe_exit(status)}"
                completion = _ended(work, "crash", message, node, now, tail)
            self._report(msgspec.structs.replace(completion, started=completion.started or now))
            world.work = None
        self._release_world(world)
        self.schedule(now)

    # --- time

    def tick(self, now: float) -> None:
        """Look after limits, ranks that hang, and what has been idle for long."""
        for executor in list(self.executors.values()):
            if executor.pipeline and executor.ready and not executor.stopping:
                work = executor.pipeline[0]
                limit = self.templates[work.template].time_limit_s
                if limit and now - executor.first_started > limit:
                    executor.killed_for[work.task] = "timeout"
                    self._stop_executor(executor, GRACE_S)
            elif not executor.ready and not executor.stopping:
                if now - executor.started_at > START_S:
                    self._stop_executor(executor, 0.0)
            elif not executor.pipeline and now - executor.idle_since > IDLE_S:
                self._stop_executor(executor, GRACE_S)
        for world in list(self.worlds.values()):
            if world.stopping:
                continue
            if world.work is not None and world.ready:
                limit = self.templates[world.work.template].time_limit_s
                if limit and now - world.busy_since > limit:
                    world.killed_for = "timeout"
                    self._stop_world(world)
                elif world.leave_by and now > world.leave_by:
                    # Some ranks raised, the others wait for them in MPI: they never will leave.
                    self._stop_world(world)
            elif (world.work is None and now - world.idle_since > IDLE_S) or (
                not world.ready and now - world.started_at > START_S
            ):
                self._stop_world(world)
        if self._starved is None:
            self.schedule(now)

    def running(self, now: float, least_s: float = 0.5) -> list[RunningTask]:
        """MPI tasks that have run for a while (node workers report those of executors)."""
        return [
            RunningTask(world.work.task, world.work.attempt, world.shares[0].node, world.busy_since)
            for world in self.worlds.values()
            if world.work is not None and world.ready and now - world.busy_since > least_s
        ]

    # --- scheduling

    def schedule(self, now: float) -> None:
        """Start what can start, high priority first."""
        self._released = False
        if self.draining:
            return
        waiting = [queue for queue in self._queues.values() if queue.waiting]
        if not waiting:
            self._starved = None
            return
        waiting.sort(key=lambda queue: -queue.priority)
        if self._starved is not None and self._starved in waiting:
            # What has waited for long goes first, and nothing smaller may take its cores.
            waiting = [self._starved]
        self._starved = None
        for queue in waiting:
            while queue.waiting and self._start_one(queue, now):
                queue.waiting_since = 0.0
            if not queue.waiting:
                continue
            queue.waiting_since = queue.waiting_since or now
            if queue.need.total_cores > 1 and now - queue.waiting_since > STARVED_S:
                self._starved = queue
                return

    def _start_one(self, queue: Queue, now: float) -> bool:
        if queue.kind in MPI_KINDS:
            return self._start_on_world(queue, now)
        if queue.kind == "mpi-command":
            return self._start_program(queue, now)
        return self._start_on_executor(queue, now)

    def _start_on_executor(self, queue: Queue, now: float) -> bool:
        executor = self._idle_executor(queue)
        if executor is None:
            shares = place(queue.need, self.nodes.values())
            if shares is None:
                return False
            executor = self._new_executor(queue.session, shares[0], now)
        self._occupy(executor, queue)
        return self._feed(executor, now)

    def _start_program(self, queue: Queue, now: float) -> bool:
        shares = place(queue.need, self.nodes.values())
        if shares is None:
            return False
        executor = self._new_executor(queue.session, shares[0], now)
        executor.shares = tuple(shares)
        for share in shares:
            self.nodes[share.node].take(share)
        executor.queue = queue
        return self._feed(executor, now)

    def _idle_executor(self, queue: Queue) -> Executor | None:
        """A warm executor of the same session and size, whose cores are free."""
        need = queue.need
        for executor in self.executors.values():
            if (
                executor.queue is None
                and executor.session == queue.session
                and not executor.stopping
                and len(executor.share.cores) == need.cores
                and len(executor.share.gpus) == need.gpus
            ):
                node = self.nodes[executor.node]
                share = executor.share
                share.memory_mib = need.memory_mib
                if node.holds(share):
                    return executor
        return None

    def _new_executor(self, session: int, share: Share, now: float) -> Executor:
        executor = Executor(next(self._numbers), session, share, now)
        self.executors[executor.id] = executor
        self._actions.append(
            StartExecutor(executor.id, share.node, session, share.cores, share.gpus)
        )
        self._close_surplus(share.node)
        return executor

    def _close_surplus(self, node: str) -> None:
        """Close the executors that have been idle for longest, beyond two for each core."""
        idle = [e for e in self.executors.values() if e.node == node and e.queue is None]
        surplus = len(idle) - 2 * self.nodes[node].shape.cores
        idle.sort(key=lambda executor: executor.idle_since)
        for executor in idle[: max(0, surplus)]:
            self._stop_executor(executor, GRACE_S)

    def _occupy(self, executor: Executor, queue: Queue) -> None:
        executor.queue = queue
        self.nodes[executor.node].take(executor.share)

    def _release(self, executor: Executor) -> None:
        """Its cores are free."""
        if executor.queue is None:
            return
        executor.queue = None
        for share in executor.shares or (executor.share,):
            if node := self.nodes.get(share.node):
                node.give_back(share)
        if executor.shares and executor.id in self.executors:
            executor.shares = ()
            self._stop_executor(executor, GRACE_S)

    def _feed(self, executor: Executor, now: float) -> bool:
        """Fill the pipeline of an executor that holds its cores; False where nothing was there."""
        queue = executor.queue
        if queue is None or self.draining or not queue.waiting:
            return False
        if self._starved is not None and self._starved is not queue:
            return False
        depth = queue.depth
        if executor.shares:
            depth = 1
        elif depth > 1:
            # An even share: what others could run at once does not queue up behind one.
            busy = sum(1 for other in self.executors.values() if other.queue is queue)
            free = sum(len(node.cores) for node in self.nodes.values())
            depth = min(depth, -(-len(queue.waiting) // (busy + free // queue.need.cores)))
        pipeline = executor.pipeline
        if len(pipeline) > depth // 2 and pipeline:
            return True
        fed = []
        while queue.waiting and len(pipeline) < depth:
            work = queue.waiting.popleft()
            pipeline.append(work)
            fed.append(work)
        if executor.ready and fed:
            executor.first_started = executor.first_started or now
            if len(fed) == len(pipeline):
                executor.first_started = now
            self._actions.append(RunOnExecutor(executor.id, fed, executor.shares))
        return True

    def _stop_executor(self, executor: Executor, grace_s: float) -> None:
        if not executor.stopping:
            executor.stopping = True
            self._actions.append(StopExecutor(executor.id, executor.node, grace_s))

    def _start_on_world(self, queue: Queue, now: float) -> bool:
        world = self._idle_world(queue)
        if world is None:
            shares = place(queue.need, self.nodes.values())
            if shares is None:
                return False
            world = World(next(self._numbers), queue.session, queue.need, tuple(shares), now)
            self.worlds[world.id] = world
            self._actions.append(StartWorld(world.id, queue.session, world.shares, queue.need))
            self._close_surplus_worlds()
        for share in world.shares:
            self.nodes[share.node].take(share)
        world.queue = queue
        return self._feed_world(world, now)

    def _idle_world(self, queue: Queue) -> World | None:
        """A warm world of the same session and shape, whose cores are free."""
        for world in self.worlds.values():
            if (
                world.queue is None
                and not world.stopping
                and world.session == queue.session
                and world.need == queue.need
                and all(
                    share.node in self.nodes and self.nodes[share.node].holds(share)
                    for share in world.shares
                )
            ):
                return world
        return None

    def _close_surplus_worlds(self) -> None:
        """Close idle worlds beyond as many ranks as there are cores."""
        idle = [world for world in self.worlds.values() if world.queue is None]
        ranks = sum(world.need.ranks for world in idle)
        most = sum(node.shape.cores for node in self.nodes.values())
        idle.sort(key=lambda world: world.idle_since)
        for world in idle:
            if ranks <= most:
                return
            ranks -= world.need.ranks
            self._stop_world(world)

    def _feed_world(self, world: World, now: float) -> bool:
        queue = world.queue
        if queue is None or self.draining or not queue.waiting:
            return False
        if self._starved is not None and self._starved is not queue:
            return False
        world.work = queue.waiting.popleft()
        world.left, world.failures, world.completion = set(), {}, None
        world.leave_by = 0.0
        if world.ready:
            world.busy_since = now
            self._actions.append(RunOnWorld(world.id, world.work))
        return True

    def _world_task_ended(self, world: World, now: float) -> None:
        work, completion = world.work, world.completion
        assert work is not None and completion is not None
        if world.failures:
            completion = _merge_failures(work, world.failures, len(world.left), world.need)
        elif world.queue is not None:
            took = completion.ended - completion.started
            world.queue.mean_s = took
        self._report(completion)
        world.work = None
        self.busy_at = now

    def _release_world(self, world: World) -> None:
        if world.queue is None:
            return
        world.queue = None
        for share in world.shares:
            if node := self.nodes.get(share.node):
                node.give_back(share)

    def _stop_world(self, world: World) -> None:
        if not world.stopping:
            world.stopping = True
            self._actions.append(StopWorld(world.id))

    def _report(self, completion: Completion) -> None:
        """Tell the head of an end, and go on with what has waited for it here."""
        ends = [completion]
        while ends:
            completion = ends.pop()
            self._report_one(completion)
            ready, hopeless = self._inputs.ended(completion)
            for work in ready:
                self._queue_of[work.template].waiting.append(work)
                self._released = True
            reason = "its input has not come"
            ends.extend(
                _ended(work, "interrupted", reason, "", completion.ended) for work in hopeless
            )

    def _report_one(self, completion: Completion) -> None:
        attempt = self.held.pop(completion.task, None)
        if attempt is None:
            return
        if attempt != completion.attempt:
            # The older attempt was to be ended, the newer one never ran.
            outcome = completion.outcome
            completion = msgspec.structs.replace(
                completion,
                attempt=attempt,
                outcome="interrupted" if outcome == "cancelled" else outcome,
            )
        received = self._received.pop(completion.task, 0.0)
        if not completion.received:
            completion = msgspec.structs.replace(completion, received=received)
        self._completions.append(completion)


# --- words for what happened ---------------------------------------------------------------------


#: Outcome → class of the error that is told.
_KINDS = {"timeout": "TaskTimedOut", "crash": "TaskCrashed"}


def describe_exit(status: int) -> str:
    """An exit status in words; negative ones, and 128 + N from launchers, are signals."""
    import signal

    number = -status if status < 0 else status - 128
    if number > 0:
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"exit status {status}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit status {status}"


def _killed(outcome: str, template: Template) -> str:
    return {
        "timeout": f"it ran longer than its time limit of {template.time_limit_s:g} s",
        "cancelled": "cancelled while it ran",
        "interrupted": "the pilot ended",
    }[outcome]


def _ended_for(completion: Completion, outcome: str, template: Template) -> Completion:
    """The end of an attempt that raised when it was told to end: that is not its own error."""
    assert completion.failure is not None
    failure = msgspec.structs.replace(
        completion.failure,
        type=_KINDS.get(outcome, outcome),
        message=_killed(outcome, template),
        exception=b"",
        bases=(),
    )
    return msgspec.structs.replace(completion, outcome=outcome, failure=failure)


def _ended(
    work: Work, outcome: str, message: str, node: str, now: float, tail: str = ""
) -> Completion:
    return Completion(
        task=work.task,
        attempt=work.attempt,
        outcome=outcome,
        failure=TaskFailure(
            type=_KINDS.get(outcome, outcome),
            message=message,
            detail=tail,
            node=node,
            attempt=work.attempt,
        ),
        node=node,
        ended=now,
    )


def _merge_failures(
    work: Work, failures: dict[int, Completion], left: int, need: Resources
) -> Completion:
    """One failure of those of several ranks: the first rank's exception, everybody's traceback."""
    first = failures[min(failures)]
    assert first.failure is not None
    if need.ranks == 1:
        return first
    title = f"{len(failures)} of {need.ranks} ranks failed"
    if left < need.ranks:
        title += f", {need.ranks - left} did not leave the task and were killed"
    # Ranks that failed alike are told once.
    alike: dict[str, list[int]] = {}
    for rank, completion in sorted(failures.items()):
        detail = completion.failure.detail if completion.failure else ""
        alike.setdefault(detail, []).append(rank)
    details = [
        f"rank {', '.join(map(str, ranks))}:\n{detail.rstrip()}" for detail, ranks in alike.items()
    ]
    failure = msgspec.structs.replace(first.failure, detail="\n".join([title, *details]))
    return msgspec.structs.replace(first, task=work.task, failure=failure, values=())
