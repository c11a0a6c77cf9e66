"""The rules for MPI worlds: decide when they start, what they run, and when they stop. Pure.

Invariants
----------
- A core is with one busy world or executor at a time. Idle worlds hold none: their ranks sleep.
- A world serves one session and one shape of task only.
- Its ranks are in one task at a time; what is behind it has been sent ahead, is not begun before
  all ranks have left the one before, and waits for that only as long as it is short.
- A world that a rank has left otherwise than by the end of its task is ended. That is told of the
  task that its ranks were in; what was behind it waits again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from pilot.agent.rules.actions import (
    Action,
    RunOnWorld,
    StartWorld,
    StopWorld,
    TellWorld,
    UnsendFromWorld,
)
from pilot.agent.rules.attempts import Attempts
from pilot.agent.rules.bookings import Bookings
from pilot.agent.rules.completions import (
    describe_exit,
    ended,
    killed,
    merge_failures,
    merge_tails,
    out_of_memory,
    stopped,
    told_to_end,
    with_tails,
)
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.prefetch import Prefetch
from pilot.agent.rules.processes import ProcessRules
from pilot.agent.rules.queues import STARVED_S, Queue
from pilot.agent.rules.warm_pool import IDLE_S
from pilot.limits import LOGS_MOST
from pilot.model.software import Software
from pilot.model.states import Outcome
from pilot.model.tasks import Completion, LogSpan
from pilot.scheduler.booking import Stay
from pilot.scheduler.placement import NodeAllocation
from pilot.scheduler.resources import Resources
from pilot.wire.messages.pilot import AttemptSpec, RunningTask

#: When a rank has failed, the others get so long to leave the task, in seconds.
RANKS_LEAVE_S = 5.0
#: A world that has not reported by then is given up, in seconds.
START_S = 60.0
#: So long short tasks wait for the cores of an idle world before another is started, in seconds.
#: Nothing else has started for a while by then: what has those cores is not short.
PATIENCE_S = STARVED_S + 0.2
#: Ranks of idle worlds, for each core of the pilot, beyond which the longest idle one is closed.
IDLE_RANKS_PER_CORE = 3


class Failing:
    """A task that failed on a rank; each rank reports it for itself."""

    __slots__ = ("cpu_s", "failures", "leave_by", "left", "logs", "peak_mib")

    def __init__(self, now: float) -> None:
        #: When all ranks must have left it.
        self.leave_by = now + RANKS_LEAVE_S
        self.left: set[int] = set()
        #: The ends that failed ranks have told, by rank.
        self.failures: dict[int, Completion] = {}
        #: The output of the ranks that have left the task, by rank.
        self.logs: dict[int, tuple[LogSpan, ...]] = {}
        #: What these have taken: together, and the most of one.
        self.cpu_s, self.peak_mib = 0.0, 0


class World:
    """A persistent set of MPI ranks."""

    __slots__ = (
        "busy_since",
        "early",
        "failing",
        "id",
        "idle_since",
        "is_fresh",
        "killed_for",
        "logs",
        "need",
        "over",
        "pinned",
        "pipeline",
        "queue",
        "ranks",
        "seen",
        "session",
        "started_at",
        "stopping",
        "tails",
        "told",
        "told_to_stop",
        "use",
    )

    def __init__(
        self,
        number: int,
        session: int,
        need: Resources,
        shares: tuple[NodeAllocation, ...],
        software: Software | None,
        now: float,
    ) -> None:
        self.id = number
        self.session = session
        self.need = need
        #: The shares that the ranks are pinned to. The world holds them only while it has work.
        self.pinned = shares
        self.use = (session, need, software)
        #: True if it runs one task, and no other.
        self.is_fresh = False
        #: Ranks that have reported.
        self.ranks: set[int] = set()
        self.stopping = False
        #: The task of which a rank was ended because it had too much memory, and why.
        self.over = (0, "")
        #: True if the world is ended on purpose, and no rank had died before.
        self.told = False
        #: The queue that the world works for; None where it holds no cores.
        self.queue: Queue | None = None
        #: The first is what its ranks are in, as far as they have told.
        self.pipeline = Prefetch()
        #: By task.
        self.failing: dict[int, Failing] = {}
        #: Ended well, by task, before all ranks have been heard of one that failed before it.
        self.early: dict[int, Completion] = {}
        #: Outcome for the task that it was killed for: ``timeout``, ``cancelled``, ``interrupted``.
        self.killed_for: dict[int, Outcome] = {}
        #: The task that was told to stop last.
        self.told_to_stop = 0
        #: The task that a rank was in at its end, and since when.
        self.seen = (0, 0.0)
        #: The task that each rank was in at its end, and its output, by rank.
        self.logs: dict[int, tuple[int, LogSpan]] = {}
        #: The last lines of that output, by rank.
        self.tails: dict[int, tuple[int, str]] = {}
        self.started_at = now
        self.busy_since = 0.0
        self.idle_since = now

    @property
    def held(self) -> tuple[NodeAllocation, ...]:
        """What the world holds while it serves a queue."""
        return self.pinned

    @property
    def ready(self) -> bool:
        """True if all ranks have reported."""
        return len(self.ranks) == self.need.ranks


class WorldRules(ProcessRules[World]):
    """The MPI worlds of a pilot."""

    def __init__(
        self,
        attempts: Attempts,
        cores: Cores,
        bookings: Bookings,
        numbers: Iterator[int],
        act: Callable[[Action], None],
    ) -> None:
        super().__init__(attempts, cores, bookings, numbers, act)
        self.worlds: dict[int, World] = {}

    # --- starting

    def start(self, queue: Queue, now: float) -> bool:
        """Start the next task of a queue, and send more after it; return False if there is no place
        for it."""
        use = (queue.session, queue.need, queue.software)
        world = None if queue.is_fresh else self._warm.take(use)
        if world is not None and self._is_kept(world):
            self._warm.add(world)
            return False
        if world is None:
            may_wait = self._warm.waits(use) and not queue.is_fresh
            if may_wait and queue.depth > 1 and not queue.waits_long(now, PATIENCE_S):
                # Tasks so short better wait for its cores than for the start of another.
                return False
            shares = self._cores.place(queue.need)
            if shares is None:
                return False
            software = queue.software
            number = next(self._numbers)
            world = World(number, queue.session, queue.need, tuple(shares), software, now)
            world.is_fresh = queue.is_fresh
            self.worlds[world.id] = world
            self._act(StartWorld(world.id, queue.session, world.pinned, queue.need, software))
            self._close_surplus()
        self._serve(world, queue)
        return self._feed(world, now, is_new=True)

    def stays(self, now: float) -> Iterator[Stay]:
        """Iterate over what worlds hold, with the time until which that is thought to last."""
        for world in self.worlds.values():
            if (queue := world.queue) is not None:
                since = world.busy_since if world.ready else now
                until = queue.until(since, len(world.pipeline), now)
                for share in world.held:
                    yield Stay(share, since, until)

    def _is_kept(self, world: World) -> bool:
        """Tell whether cores of a world are for tasks that go on."""
        kept = self._cores.reserved
        return bool(kept) and any(share.node in kept for share in world.pinned)

    def _close_surplus(self) -> None:
        """Close the worlds that were idle longest, until idle ranks are within their limit."""
        idle = [world for world in self.worlds.values() if world.queue is None]
        ranks = sum(world.need.ranks for world in idle)
        cores = sum(node.shape.cores for node in self._cores.nodes.values())
        idle.sort(key=lambda world: world.idle_since)
        for world in idle:
            if ranks <= IDLE_RANKS_PER_CORE * cores:
                return
            ranks -= world.need.ranks
            self._tell_to_end(world)

    def _feed(self, world: World, now: float, is_new: bool = False) -> bool:
        """Fill the pipeline of a world that holds its cores; return False if nothing was
        waiting."""
        queue = world.queue
        if queue is None or not self._queues.may_start(queue) or self._is_kept(world):
            return False
        if world.is_fresh and not is_new:
            return False
        pipeline = world.pipeline
        depth = 1 if world.is_fresh else self._depth(queue, queue.need.total_cores)
        room = pipeline.free_slots(depth)
        if not room:
            return True
        if self._bookings and not is_new:
            room = min(room, self._bookings.most(queue, world.held, now))
            if not room:
                return False
        if not pipeline:
            world.busy_since = now
        fed = self._queues.pop(queue, room)
        queue.waiting_since = 0.0  # the next has waited for its turn, not for cores
        pipeline.extend(fed)
        if world.ready and fed:
            self._send(world, fed)
        self._attempts.note_placement(fed, world.held)
        return True

    def _send(self, world: World, work: list[AttemptSpec]) -> None:
        world.pipeline.note_sent(len(work))
        self._act(RunOnWorld(world.id, work))

    # --- taking back

    def _ask_back(self, world: World, now: float) -> None:
        self._act(UnsendFromWorld(world.id, world.pipeline.ask(now)))

    def unsent(self, number: int, begun: int, upto: int, now: float) -> None:
        """Queue again the work after the `begun`-th, up to the `upto`-th, which a world skips."""
        world = self.worlds.get(number)
        if world is None or world.stopping:
            return  # what it had goes with it
        for work in world.pipeline.unsend(begun, upto):
            cancelled = world.killed_for.pop(work.task, None) is not None
            self._attempts.take_back(work, cancelled, now)
        if not world.pipeline:
            self._go_on(world, now)  # it had ended what it was in

    # --- ranks

    def rank_ready(self, number: int, rank: int, now: float) -> None:
        """Note that a rank has started; send the world its work once all ranks have."""
        world = self.worlds.get(number)
        if world is None:
            return
        world.ranks.add(rank)
        if world.ready and world.pipeline and not world.stopping:
            world.busy_since = now
            self._send(world, list(world.pipeline))
            if world.killed_for:
                self._ask_back(world, now)

    def done(self, number: int, completions: Iterable[Completion], now: float) -> None:
        """Take the completions of tasks that all ranks have left without a failure."""
        world = self.worlds.get(number)
        if world is None:
            return
        there = {work.task for work in world.pipeline}
        world.early.update((c.task, c) for c in completions if c.task in there)
        self._end_early(world)
        self._go_on(world, now)

    def rank_done(self, number: int, rank: int, completion: Completion, now: float) -> None:
        """Take one rank's completion of a task that failed on it or on another rank."""
        world = self.worlds.get(number)
        if world is None:
            return
        # Rank 0's report of the tasks before may come later than this.
        work = next((work for work in world.pipeline if work.task == completion.task), None)
        if work is None:
            return
        failing = world.failing.setdefault(work.task, Failing(now))
        failing.left.add(rank)
        failing.logs[rank] = completion.logs
        failing.cpu_s += completion.cpu_s
        failing.peak_mib = max(failing.peak_mib, completion.peak_mib)
        if completion.outcome != "ok":
            failing.failures[rank] = completion
        if len(failing.left) == world.need.ranks and work is world.pipeline[0]:
            self._end_first(world, self._merged(world, work, failing))
            self._end_early(world)
            self._go_on(world, now)

    def _end_early(self, world: World) -> None:
        """Report the tasks that all ranks have left, up to the first that some rank has not."""
        while world.pipeline and (completion := world.early.pop(world.pipeline[0].task, None)):
            self._queues.of(world.pipeline[0]).note_run(completion.ended - completion.started)
            self._end_first(world, completion)

    def _end_first(self, world: World, completion: Completion) -> None:
        """Remove the first task of the pipeline, which all ranks have left, and report its
        completion."""
        world.pipeline.popleft()
        world.failing.pop(completion.task, None)
        world.killed_for.pop(completion.task, None)
        self._attempts.report(completion)

    def _merged(self, world: World, work: AttemptSpec, failing: Failing) -> Completion:
        merged = merge_failures(work, failing.failures, len(failing.left), world.need)
        was_told = world.told_to_stop == work.task
        if merged.outcome == "interrupted" and (was_told or not self._interrupting):
            merged = stopped(merged, was_told)
        elif self._interrupting:
            template = self._attempts.templates[work.template]
            merged = told_to_end(merged, "interrupted", template)
        return msgspec.structs.replace(
            merged,
            logs=_in_order(failing.logs),
            cpu_s=failing.cpu_s,
            peak_mib=failing.peak_mib,
        )

    def _go_on(self, world: World, now: float) -> None:
        """Give a world more work after an event, or release its cores if nothing is left for it."""
        world.busy_since = now
        self._attempts.busy_at = now
        if world.stopping or world.queue is None:
            return
        if not self._feed(world, now) and not world.pipeline:
            world.idle_since = now
            self._release(world)
            if world.is_fresh:
                self._tell_to_end(world)
            else:
                self._warm.add(world)

    def not_formed(self, number: int) -> None:
        """End a world whose ranks have not found each other."""
        world = self.worlds.get(number)
        if world is not None:
            self._stop(world)

    def rank_exited(
        self,
        number: int,
        task: int,
        started: float,
        rank: int,
        log: LogSpan | None,
        over: str = "",
        tail: str = "",
    ) -> None:
        """End a world because a rank exited.

        Parameters
        ----------
        number, rank
            Which world, and which rank of it.
        task, started
            The task that the rank was in, or 0, and since when.
        log
            The output of the rank in it.
        over
            Why the rank was ended, where it had too much memory.
        tail
            The last lines of its output.
        """
        world = self.worlds.get(number)
        if world is not None:
            if over:
                world.over = task, over
            if log is not None:
                world.logs[rank] = task, log
            if tail:
                world.tails[rank] = task, tail
            if not world.seen[0]:
                world.seen = task, started
            # Those that are left wait in MPI, mostly.
            self._stop(world, tells=True)

    # --- ends

    def exited(
        self,
        number: int,
        status: int,
        tail: str,
        now: float,
        reason: str = "",
        hopeless: bool = False,
    ) -> None:
        """Note the exit of a world with all its ranks, and end or requeue its tasks.

        Parameters
        ----------
        number, status
            Which world, and how its launcher ended.
        tail
            The last lines of its launcher's output.
        now
            Seconds since the epoch.
        reason
            Why it did not come up, where that is known.
        hopeless
            No other one would come up either, so that it is not tried again.
        """
        world = self.worlds.pop(number, None)
        if world is None:
            return
        self._warm.discard(world)
        task, started = world.seen
        if world.pipeline and all(work.task != task for work in world.pipeline):
            task, started = world.pipeline[0].task, world.busy_since
        for work in reversed(world.pipeline):
            if work.task in world.early:
                completion: Completion | None = world.early[work.task]
            elif work.task == task:
                completion = self._end_of(world, work, started, status, tail, now, reason)
                if completion and hopeless:
                    completion = msgspec.structs.replace(completion, outcome="error")
            elif world.killed_for.get(work.task) == "cancelled":
                completion = ended(work, "cancelled", "cancelled before it started", now)
            else:
                completion = None
            if completion is None:
                # The attempt had not begun, or its end was not heard of.
                self._attempts.put_back(work, now)
            else:
                self._attempts.report(completion)
        world.pipeline.clear()
        self._release(world)

    def _end_of(
        self,
        world: World,
        work: AttemptSpec,
        started: float,
        status: int,
        tail: str,
        now: float,
        reason: str,
    ) -> Completion | None:
        """Return the completion of the task that a lost world was in, or None if it goes back to
        its queue."""
        node, exit_ = world.pinned[0].node, describe_exit(status)
        template = self._attempts.templates[work.template]
        outcome = world.killed_for.get(work.task)
        failing = world.failing.get(work.task)
        if self._interrupting and not (failing and failing.failures):
            outcome = outcome or "interrupted"
        tails = {rank: text for rank, (in_, text) in world.tails.items() if in_ == work.task}
        if world.ready:
            tail = merge_tails(tails) or tail
        if outcome:
            completion = killed(work, outcome, template, now, node, tail)
        elif world.over[0] == work.task:
            completion = out_of_memory(work, world.over[1], now, node, tail)
        elif failing and failing.failures:
            completion = self._merged(world, work, failing)
            left = {rank: text for rank, text in tails.items() if rank not in failing.left}
            completion = with_tails(completion, left)
        elif not world.ready:
            if not reason and world.told:
                reported = f"{len(world.ranks)} of {world.need.ranks} ranks have reported"
                reason = f"{reported} within {START_S:g} s"
            message = f"the MPI world could not be started: {reason or exit_}"
            completion = ended(work, "crash", message, now, node, tail)
        elif not world.told:
            completion = ended(work, "crash", f"a rank died: {exit_}", now, node, tail)
        elif template.time_limit_s and now - started > template.time_limit_s:
            completion = killed(work, "timeout", template, now, node, tail)
        else:
            return None  # the task that the world was ended for had ended, unheard of
        logs: dict[int, tuple[LogSpan, ...]] = {
            rank: (log,) for rank, (in_, log) in world.logs.items() if in_ == work.task
        }
        if failing:
            logs.update(failing.logs)
        return msgspec.structs.replace(
            completion, started=completion.started or started or now, logs=_in_order(logs)
        )

    def lose_node(self, name: str) -> None:
        """End the worlds that have ranks on a lost node."""
        for world in list(self.worlds.values()):
            if any(share.node == name for share in world.pinned):
                self._interrupt(world)

    def cancel(self, tasks: Collection[int], now: float) -> None:
        """Cancel tasks: end the worlds that run them, and take them back from others.

        One behind others that has begun, unheard of, is short and not worth a world: it ends before
        long, or is ended when its turn has come.
        """
        for world in list(self.worlds.values()):
            named = [work.task for work in world.pipeline if work.task in tasks]
            if not named:
                continue
            world.killed_for.update(dict.fromkeys(named, "cancelled"))
            if named[0] == world.pipeline[0].task:
                self._tell_to_end(world)
            elif world.ready and not world.stopping:
                self._ask_back(world, now)

    # --- soon to end

    def tell_to_stop(self, reason: str, until: float) -> None:
        """Tell the tasks that run, and may not have ended by `until`, to stop before that."""
        for world in self.worlds.values():
            if not world.pipeline or not world.ready or world.stopping:
                continue
            work = world.pipeline[0]
            if world.told_to_stop != work.task and self._may_outlast(work, world.busy_since, until):
                world.told_to_stop = work.task
                nodes = tuple(share.node for share in world.pinned)
                self._act(TellWorld(world.id, nodes, work.task, work.attempt, until, reason))

    def interrupt(self, listens: Callable[[AttemptSpec], bool], now: float) -> bool:
        """End all worlds but those whose task `listens`; return True if there are any.

        These have been told to stop; all that is behind their tasks is taken back.
        """
        self._interrupting = True
        spared = False
        for world in list(self.worlds.values()):
            if world.ready and world.pipeline and listens(world.pipeline[0]):
                spared = spared or not world.stopping
                if len(world.pipeline) > 1 and not world.stopping:
                    self._ask_back(world, now)
            else:
                self._interrupt(world)
        return spared

    def stop_all(self) -> None:
        """End all worlds and interrupt their tasks."""
        for world in list(self.worlds.values()):
            self._interrupt(world)

    def _interrupt(self, world: World) -> None:
        for work in world.pipeline:
            world.killed_for.setdefault(work.task, "interrupted")
        self._tell_to_end(world)

    def tick(self, now: float) -> None:
        """End worlds that do not report, whose task is over its limit or cancelled, whose ranks
        hang, or that are idle for long."""
        for world in list(self.worlds.values()):
            if world.stopping:
                continue
            if world.ready and world.pipeline:
                work = world.pipeline[0]
                limit_s = self._attempts.templates[work.template].time_limit_s
                failing = world.failing.get(work.task)
                if limit_s and now - world.busy_since > limit_s:
                    world.killed_for.setdefault(work.task, "timeout")
                    self._tell_to_end(world, tells=True)
                elif work.task in world.killed_for or (failing and now > failing.leave_by):
                    # Where some ranks have raised, the others wait for them in MPI for ever.
                    self._tell_to_end(world, tells=True)
                elif world.pipeline.is_stuck(world.busy_since, now):
                    self._ask_back(world, now)
            elif (not world.pipeline and now - world.idle_since > IDLE_S) or (
                not world.ready and now - world.started_at > START_S
            ):
                self._tell_to_end(world)

    def slept(self, seconds: float) -> None:
        """Shift the timers of all worlds by the time that the pilot stood still."""
        for world in self.worlds.values():
            world.started_at += seconds
            world.busy_since += seconds

    def stop_idle(self, sessions: Collection[int]) -> None:
        """End the idle worlds of `sessions`."""
        for world in list(self.worlds.values()):
            if world.session in sessions and world.queue is None:
                self._tell_to_end(world)

    def running(self, now: float, least_s: float) -> Iterator[tuple[World, RunningTask]]:
        """Iterate over the tasks that have run for `least_s` seconds or longer, with their
        worlds."""
        for world in self.worlds.values():
            if world.pipeline and world.ready and now - world.busy_since > least_s:
                work, node = world.pipeline[0], world.pinned[0].node
                yield world, RunningTask(work.task, work.attempt, node, world.busy_since)

    def _tell_to_end(self, world: World, tells: bool = False) -> None:
        """End a world that is not ending by itself."""
        world.told = world.told or not world.stopping
        self._stop(world, tells)

    def _stop(self, world: World, tells: bool = False) -> None:
        if not world.stopping:
            world.stopping = True
            self._warm.discard(world)
            self._act(StopWorld(world.id, tells))


def _in_order(logs: Mapping[int, tuple[LogSpan, ...]]) -> tuple[LogSpan, ...]:
    """Join the log spans of all ranks in the order of ranks, up to `LOGS_MOST`."""
    spans = (span for _, spans in sorted(logs.items()) for span in spans)
    return tuple(itertools.islice(spans, LOGS_MOST))
