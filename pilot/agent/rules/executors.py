"""The rules for executors: decide when they start, what they run, and when they stop. Pure.

Invariants
----------
- A core is with one busy executor or world at a time. Idle executors hold none: they sleep. Nor do
  those whose tasks wait for others (`waiting`).
- An executor serves one session only, so no session sees another's modules.
- Work that was sent to an executor behind a task waits for that task only while the task is short.
- An executor is in one state: it serves a queue, or is idle and may be found, or is being ended.
- A failed start of an executor is its node's fault and costs no task an attempt: the start is tried
  again, elsewhere if there is room; a node on which no executor starts is given up.
- The cost of an event does not grow with the number of executors, but for `cancel`, `lose_node` and
  `stop_all`, which go through all of them once, and for `tick`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

import msgspec

from pilot.agent.rules.actions import (
    Action,
    GiveUpNode,
    GoOnExecutor,
    RunOnExecutor,
    StartExecutor,
    StopExecutor,
    TellExecutor,
    UnsendFromExecutor,
)
from pilot.agent.rules.attempts import Attempts
from pilot.agent.rules.bookings import Bookings
from pilot.agent.rules.completions import (
    cannot_enter,
    cannot_start,
    describe_exit,
    ended,
    is_not_here,
    killed,
    out_of_memory,
    stopped,
    told_to_end,
)
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.prefetch import Prefetch
from pilot.agent.rules.processes import ProcessRules
from pilot.agent.rules.queues import Queue
from pilot.agent.rules.waiting import Waiting
from pilot.agent.rules.warm_pool import IDLE_S
from pilot.model.software import Software
from pilot.model.states import Outcome
from pilot.model.tasks import Completion, LogSpan
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.booking import Stay
from pilot.scheduler.placement import FreeNode, NodeAllocation
from pilot.wire.messages.pilot import AttemptSpec

#: Idle executors on a node, for each of its cores, beyond which the longest idle one is closed.
IDLE_PER_CORE = 2
#: Time between SIGTERM and SIGKILL for a task that is cancelled or over its limit, in seconds.
GRACE_S = 5.0
#: An executor that has not reported by then is given up, in seconds.
START_S = 60.0
#: And one that is started in an environment or a container of its own.
START_PROGRAM_S = 300.0
#: After one that did not come up a node rests, in seconds; each time twice as long as before.
REST_S = 0.5
#: After so many in a row, each started after the end of the one before, a node is given up. Their
#: rests are longer than it takes to make a socket anew that somebody has removed.
MOST_FAILED = 5
#: Where nothing is left that could go on but tasks that wait for others, and what they hold keeps
#: work from starting, one of them is interrupted after so many seconds.
STUCK_S = 1.0
#: And all of them in a pilot that starts nothing any more: what they wait for may need its nodes.
DRAINED_S = 60.0
#: Where a task was sent ahead of an input that did not come to its process, no task of its class is
#: for so many seconds.
ALONE_S = 1.0


class Executor:
    """A persistent Python process on some cores of a node."""

    __slots__ = (
        "first_started",
        "id",
        "idle_since",
        "is_fresh",
        "is_late",
        "killed_for",
        "node",
        "pid",
        "pinned",
        "pipeline",
        "queue",
        "ready",
        "session",
        "shares",
        "software",
        "started_at",
        "stopping",
        "told_to_stop",
        "unsealed",
        "use",
    )

    def __init__(
        self,
        number: int,
        session: int,
        share: NodeAllocation,
        indexed: Amounts,
        software: Software | None,
        now: float,
    ) -> None:
        self.id = number
        self.session = session
        #: What it is started in, where that is not what the pilot has.
        self.software = software if software is not None and software.needs_start else None
        self.node = share.node
        #: The one share of cores that it is pinned to. It holds them only while it has work.
        self.pinned = (share,)
        self.use = (share.node, session, len(share.cores), indexed, software)
        self.ready = False
        self.stopping = False
        #: True if it runs one task, and no other.
        self.is_fresh = False
        #: True if it was ended because it did not come up in time.
        self.is_late = False
        self.pid = 0
        #: The queue that the executor works for; None where it holds no cores.
        self.queue: Queue | None = None
        self.pipeline = Prefetch()
        #: The attempts that have run here, and whose results are not on the disk yet, by task.
        self.unsealed: dict[int, AttemptSpec] = {}
        #: All shares of its task, where that is an MPI program or has several nodes.
        self.shares: tuple[NodeAllocation, ...] = ()
        self.started_at = now
        self.first_started = 0.0
        self.idle_since = now
        #: Outcome for the task that it was killed for: ``timeout`` or ``cancelled``.
        self.killed_for: dict[int, Outcome] = {}
        #: The task that was told to stop last.
        self.told_to_stop = 0

    @property
    def held(self) -> tuple[NodeAllocation, ...]:
        """What the executor holds while it serves a queue."""
        return self.shares or self.pinned

    @property
    def is_idle(self) -> bool:
        """True if the executor has no work and no results to report."""
        return self.queue is None and not self.unsealed


class _Failures:
    """The failed starts of executors in a row on a node."""

    __slots__ = ("count", "last_at", "rests_until")

    def __init__(self) -> None:
        self.count = 0
        self.last_at = 0.0
        self.rests_until = 0.0


class ExecutorRules(ProcessRules[Executor]):
    """The executors of a pilot."""

    def __init__(
        self,
        attempts: Attempts,
        cores: Cores,
        bookings: Bookings,
        numbers: Iterator[int],
        act: Callable[[Action], None],
    ) -> None:
        super().__init__(attempts, cores, bookings, numbers, act)
        self.executors: dict[int, Executor] = {}
        #: Node → those that are idle there, the longest first.
        self._idle: dict[str, dict[int, Executor]] = {}
        self._failures: dict[str, _Failures] = {}
        #: Those whose tasks wait for others.
        self.waiting: Waiting[Executor] = Waiting(cores)
        #: What began to wait for others since the last look, or (False) goes on, by task.
        self.waits: dict[int, tuple[int, bool]] = {}
        #: Since when nothing goes on here but waiting; 0: something does.
        self._still_since = 0.0
        #: Why tasks are interrupted that waited for others, by task.
        self._whys: dict[int, str] = {}

    # --- starting

    def start(self, queue: Queue, now: float) -> bool:
        """Start the next task of a queue, and send more after it; return False if there is no place
        for it."""
        if queue.kind == "mpi-command" or queue.need.one_process:
            return self._start_on_several(queue, now)
        executor = None if queue.is_fresh else self._take_idle(queue)
        if executor is None:
            shares = self._cores.place(queue.need, queue.node)
            if shares is None:
                return False
            executor = self._new_executor(queue, shares[0], now)
            executor.is_fresh = queue.is_fresh
        self._serve(executor, queue)
        return self._feed(executor, now, is_new=True)

    def _start_on_several(self, queue: Queue, now: float) -> bool:
        """Start an MPI program, or a task of several nodes, on an executor of its own on the first
        of its nodes."""
        shares = self._cores.place(queue.need)
        if shares is None:
            return False
        executor = self._new_executor(queue, shares[0], now)
        executor.shares = tuple(shares)
        self._serve(executor, queue)
        return self._feed(executor, now, is_new=True)

    def _take_idle(self, queue: Queue) -> Executor | None:
        """Take a warm executor of the same session and size whose cores are free; None if there is
        none."""
        cores, amounts, indexed = queue.need.cores, queue.amounts, queue.indexed
        nodes: Iterable[tuple[str, FreeNode]] = self._cores.nodes.items()
        if queue.node:
            nodes = [(queue.node, self._cores.nodes[queue.node])]
        for name, node in nodes:
            # Amounts are no part of what an executor is for: a node has them for any, or none.
            if (cores and name in self._cores.reserved) or (
                amounts and not node.fit_named(amounts)
            ):
                continue
            executor = self._warm.take((name, queue.session, cores, indexed, queue.software))
            if executor is not None:
                del self._idle[name][executor.id]
                if amounts:
                    executor.pinned[0].named += node.cut_named(amounts)
                return executor
        return None

    def _new_executor(self, queue: Queue, share: NodeAllocation, now: float) -> Executor:
        software = queue.software
        executor = Executor(next(self._numbers), queue.session, share, queue.indexed, software, now)
        self.executors[executor.id] = executor
        self._act(
            StartExecutor(
                executor.id, share.node, queue.session, share.cores, share.indexed, software
            )
        )
        self._close_surplus(share.node)
        return executor

    def _close_surplus(self, node: str) -> None:
        """Make room for a new executor on a node by closing the surplus ones that were idle
        longest."""
        idle = self._idle.get(node, {})
        surplus = len(idle) + 1 - IDLE_PER_CORE * self._cores.nodes[node].shape.cores
        for executor in list(islice(idle.values(), max(0, surplus))):
            self._stop(executor, GRACE_S)

    # --- working

    def ready(self, number: int, pid: int, now: float) -> None:
        """Note that an executor has started, and send it its work."""
        executor = self.executors.get(number)
        if executor is None or executor.stopping:
            return  # it ends, and what it was to run is judged then
        executor.ready, executor.pid = True, pid
        if self._failures.pop(executor.node, None):
            self._cores.resting.discard(executor.node)
            self._queues.look_again = True
        if executor.pipeline:
            executor.first_started = now
            self._send(executor, list(executor.pipeline))

    def done(
        self,
        number: int,
        completions: Iterable[Completion],
        now: float,
        paths: Collection[str] = (),
    ) -> None:
        """Take the completions of an executor's attempts, and give it more work; `paths` are
        segments of its node's store that are nowhere else."""
        executor = self.executors.get(number)
        if executor is None:
            return
        attempts, unsealed, pipeline = self._attempts, executor.unsealed, executor.pipeline
        for completion in completions:
            task = completion.task
            if task in unsealed:
                work = unsealed.pop(task)
            elif pipeline and pipeline[0].task == task:
                work = pipeline.popleft()
            else:
                continue
            if is_not_here(completion):
                self._queues.of(work).alone_until = now + ALONE_S
                attempts.take_back(work, executor.killed_for.pop(task, "") == "cancelled", now)
                continue
            if completion.outcome == "ok":
                self._queues.of(work).note_run(completion.ended - completion.started)
            outcome = executor.killed_for.pop(task, None)
            if self._interrupting:
                outcome = outcome or "interrupted"
            was_told = executor.told_to_stop == task
            if completion.outcome == "interrupted" and (was_told or not outcome):
                completion = stopped(completion, was_told)
            elif outcome and completion.outcome != "ok":
                # The task took SIGTERM for a reason to raise, maybe after some cleaning up.
                completion = told_to_end(completion, outcome, attempts.templates[work.template])
            if paths:
                own = {value.path for value in completion.values if value.path in paths}
                attempts.report(completion, executor.node, own, self._queues.of(work))
            else:
                attempts.report(completion)
        if executor in self.waiting and not pipeline:
            # Its task has left its wait by another way, and it has no cores to go on with.
            self._end_wait(executor)
            self._stop(executor, GRACE_S)
        self._go_on(executor, now)

    def ran(self, number: int, tasks: Iterable[int], now: float) -> None:
        """Note attempts that have run on an executor and whose completions will follow."""
        executor = self.executors.get(number)
        if executor is None:
            return
        for task in tasks:
            if executor.pipeline and executor.pipeline[0].task == task:
                executor.unsealed[task] = executor.pipeline.popleft()
        self._go_on(executor, now)

    def _go_on(self, executor: Executor, now: float) -> None:
        """Give an executor more work after an event, or release its cores if nothing is left for
        it."""
        executor.first_started = now
        self._attempts.busy_at = now
        if executor.stopping:
            if not executor.pipeline and not executor.unsealed:
                # It was told to end, and its task has ended by itself: it needs no more grace.
                self._act(StopExecutor(executor.id, executor.node, 0.0))
        elif not self._feed(executor, now) and not executor.pipeline and executor.queue is not None:
            self._release(executor)
            executor.idle_since = now
            if executor.shares:
                executor.shares = ()
                self._stop(executor, GRACE_S)
            elif not executor.is_fresh:
                self._rest(executor)
        if executor.is_fresh and executor.is_idle and not executor.pipeline:
            # Not before its results are sealed.
            self._stop(executor, GRACE_S)

    def _feed(self, executor: Executor, now: float, is_new: bool = False) -> bool:
        """Fill the pipeline of an executor that holds its cores; return False if nothing was
        waiting."""
        queue = executor.queue
        if queue is None or self._queues.closed or not (queue.waiting or executor.pipeline):
            return False
        if executor.is_fresh and not is_new:
            return False
        is_kept = executor.node in self._cores.reserved and not queue.is_coreless
        if is_kept or executor in self.waiting:
            return False
        # Its process may be behind an engine's, where nothing can be taken back from it.
        is_behind = executor.software is not None and executor.software.outer is not None
        takes_one = bool(executor.shares) or executor.is_fresh or is_behind
        pipeline = executor.pipeline
        room = pipeline.free_slots(1 if takes_one else self._depth(queue, queue.need.cores))
        if room and self._bookings and not is_new:
            room = min(room, self._bookings.most(queue, executor.held, now))
            if not room:
                return False
        fed = self._queues.pop(queue, room) if room else []
        pipeline.extend(fed)
        if not takes_one:
            fed += self._add_behind(executor, queue, now)
        if not fed:
            return True
        if executor.ready:
            executor.first_started = executor.first_started or now
            if len(fed) == len(pipeline):
                executor.first_started = now
            self._send(executor, fed)
        self._attempts.note_placement(fed, executor.held)
        return True

    def _add_behind(self, executor: Executor, queue: Queue, now: float) -> list[AttemptSpec]:
        """Put behind the work of an executor the short tasks that need nothing but results of that;
        return these.

        They need not wait for this process to hear of each. Where others wait for cores, they take
        their turn as they get ready.
        """
        if self._queues.has_waiting or self._bookings or now < queue.alone_until:
            return []
        room = executor.pipeline.free_slots(queue.depth)
        if not room:
            return []
        tasks = [work.task for work in executor.pipeline]
        found = self._attempts.send_ahead(queue, tasks, room)
        executor.pipeline.extend(found)
        return found

    def _send(self, executor: Executor, work: list[AttemptSpec]) -> None:
        executor.pipeline.note_sent(len(work))
        keeps = self._attempts.keeps(self._queues.of(work[0]), work)
        self._act(RunOnExecutor(executor.id, work, executor.shares, keeps))

    # --- waiting for others

    def wait(self, number: int, task: int, now: float) -> None:
        """Give the cores of an executor to others while its task waits for other tasks."""
        executor = self.executors.get(number)
        if executor is None or executor.stopping or executor.shares or executor in self.waiting:
            return
        queue, pipeline = executor.queue, executor.pipeline
        if queue is None or not pipeline or pipeline[0].task != task:
            return
        if len(pipeline) > 1:
            self._ask_back(executor, now)
        self.waiting.begin(executor)
        self.waits[task] = pipeline[0].attempt, True
        # Tasks that wait are not short after all. The head gives what these wait for before others.
        self._attempts.hand_back_class(
            self._queues.of(pipeline[0]), "tasks like it wait for others", now
        )
        self._queues.look_again = True

    def ask_to_go_on(self, number: int, task: int) -> None:
        """Have the task of an executor, which has waited, go on once there are cores for it."""
        executor = self.executors.get(number)
        if executor is None:
            return
        if executor in self.waiting and executor.pipeline[0].task == task:
            self.waiting.ask(executor)
            self._queues.look_again = True
        else:  # it is being ended, or has its cores
            self._act(GoOnExecutor(number, task, executor.pinned[0].cores))

    def let_go_on(self) -> None:
        """Let those go on that have waited and for which there are cores."""
        for executor in self.waiting.served():
            work = executor.pipeline[0]
            self.waits[work.task] = work.attempt, False
            self._attempts.note_placement([work], executor.held)
            self._act(GoOnExecutor(executor.id, work.task, executor.pinned[0].cores))

    def stays(self, now: float) -> Iterator[Stay]:
        """Iterate over what executors hold, with the time until which that is thought to last."""
        for executor in self.executors.values():
            queue = executor.queue
            if queue is None:
                continue
            since, until = executor.first_started or now, math.inf
            if executor not in self.waiting:
                until = queue.until(since, len(executor.pipeline), now)
            for share in executor.held:
                yield Stay(share, since, until)

    def _end_wait(self, executor: Executor) -> bool:
        """Forget that an executor waits: it ends. Return True if it had asked for its cores."""
        if not self.waiting.forget(executor):
            return False
        self._queues.look_again = True  # cores were kept for it
        return True

    def only_wait(self) -> bool:
        """Tell whether there are executors that have work, and all of these wait for others."""
        if not self.waiting or self.waiting.asks:
            return False
        others = (each for each in self.executors.values() if each not in self.waiting)
        return not any(each.pipeline or each.unsealed for each in others)

    def relieve(self, is_still: bool, now: float) -> None:
        """Interrupt tasks that wait for others which cannot start because of them.

        They begin again later, and find their children. `is_still`: nothing goes on here.
        """
        if not is_still:
            self._still_since = 0.0
            return
        self._still_since = self._still_since or now
        still_s = now - self._still_since
        if self._queues.closed:
            if still_s > DRAINED_S:
                text = "it waited for others in a pilot that is drained"
                for number in self.waiting.latest_first:
                    self._whys[self.executors[number].pipeline[0].task] = text
                self.stop_all()
            return
        if still_s <= STUCK_S or self._cores.resting:
            return
        wanted = {name for queue in self._queues.waiting for name, _ in queue.need.named}
        for number in self.waiting.latest_first:
            executor = self.executors[number]
            if wanted.intersection(portion.name for portion in executor.pinned[0].named):
                text = "it waited for others, and held what these need"
                self._whys[executor.pipeline[0].task] = text
                self._stop_for_good(executor)
                # What these wait for comes first, and is maybe not here.
                self._attempts.hand_back("tasks that wait for others hold what it needs", now)
                return

    # --- taking back

    def _ask_back(self, executor: Executor, now: float) -> None:
        upto = executor.pipeline.ask(now)
        self._act(UnsendFromExecutor(executor.id, executor.node, upto))

    def unsent(self, number: int, begun: int, upto: int, now: float) -> None:
        """Queue again the work after the `begun`-th, up to the `upto`-th, which an executor
        skips."""
        executor = self.executors.get(number)
        if executor is None or executor.stopping:
            return  # what it had goes with it
        for work in executor.pipeline.unsend(begun, upto):
            cancelled = executor.killed_for.pop(work.task, None) is not None
            self._attempts.take_back(work, cancelled, now)
        if any(work.task in executor.killed_for for work in executor.pipeline):
            self._stop(executor, GRACE_S)
        elif not executor.pipeline:
            self._go_on(executor, now)  # it had ended what it was in

    # --- idle ones

    def _rest(self, executor: Executor) -> None:
        """Put an executor among the idle ones."""
        share = executor.pinned[0]
        if share.named:
            share.named = share.indexed
        self._warm.add(executor)
        self._idle.setdefault(executor.node, {})[executor.id] = executor

    def _forget(self, executor: Executor) -> None:
        """Remove an executor from the idle ones, if it is among them."""
        self._warm.discard(executor)
        if idle := self._idle.get(executor.node):
            idle.pop(executor.id, None)

    # --- ends

    def spent(self, number: int) -> None:
        """End an executor that takes no more work."""
        if executor := self.executors.get(number):
            self._stop(executor, GRACE_S)

    def exited(
        self,
        number: int,
        status: int,
        task: int,
        started: float,
        logs: tuple[LogSpan, ...],
        tail: str,
        now: float,
        over: str = "",
        peak_mib: int = 0,
    ) -> None:
        """Note the exit of an executor: its running task has crashed, unless it was killed for a
        reason.

        Parameters
        ----------
        number, status
            Which executor, and how it ended.
        task, started
            The task that the executor was in, and since when; 0 where that is not known.
        logs, tail
            The output of that task; its last lines, or those of an executor that did not come up.
        now
            Seconds since the epoch.
        over, peak_mib
            Why it was ended, where that task had too much memory; how much it had, 0: not known.
        """
        executor = self.executors.pop(number, None)
        if executor is None:
            return
        self._forget(executor)
        if not task and len(executor.pipeline) == 1 and not executor.stopping and executor.ready:
            task = executor.pipeline[0].task
        for work in reversed(executor.pipeline):
            template = self._attempts.templates[work.template]
            outcome = executor.killed_for.get(work.task)
            if self._interrupting and work.task == task:
                outcome = outcome or "interrupted"
            limit_s = template.time_limit_s
            if outcome == "timeout" and task not in (0, work.task):
                outcome = None  # it had ended, unheard of: another one is over its limit
            elif executor.stopping and work.task == task and limit_s and now - started > limit_s:
                outcome = outcome or "timeout"
            if outcome:
                completion = killed(work, outcome, template, now, executor.node, tail)
            elif work.task == task and executor.ready and not executor.stopping and over:
                completion = out_of_memory(work, over, now, executor.node, tail)
            elif (
                executor.software is not None
                and not executor.ready
                and work is executor.pipeline[0]
                and (executor.is_late or not executor.stopping)
            ):
                # No fault of the node's: it would be the same on each. The status of one that was
                # told to end says nothing.
                completion = ended(
                    work, "crash", cannot_enter(status, tail), now, executor.node, tail
                )
            elif work.task == task and executor.ready and not executor.stopping:
                completion = ended(work, "crash", describe_exit(status), now, executor.node, tail)
            else:
                # The attempt had not started, or its end was not heard of, or the executor was
                # ended for another task just when it began with this one, which is not at fault.
                self._attempts.put_back(work, now)
                continue
            if self._whys and outcome and (why := self._whys.pop(work.task, "")):
                completion = ended(work, outcome, why, now, executor.node, tail)
            mib = peak_mib if work.task == task else 0
            completion = msgspec.structs.replace(
                completion, started=started or now, logs=logs, peak_mib=mib
            )
            self._attempts.report(completion)
        executor.pipeline.clear()
        for work in reversed(executor.unsealed.values()):
            # The task had run, but its result never was on the disk.
            cancelled = executor.killed_for.get(work.task) == "cancelled"
            self._attempts.take_back(work, cancelled, now)
        executor.unsealed.clear()
        self._end_wait(executor)
        self._release(executor)
        if not executor.ready and not executor.killed_for and executor.software is None:
            self._note_failure(executor, status, tail, now)

    def _note_failure(self, executor: Executor, status: int, tail: str, now: float) -> None:
        """Count an executor that did not start: let its node rest, or give it up after too many."""
        node = executor.node
        failures = self._failures.setdefault(node, _Failures())
        known = failures.count and executor.started_at <= failures.last_at
        if known or node not in self._cores.nodes:
            return  # it was started when the one before had not ended yet: it tells nothing new
        failures.count += 1
        failures.last_at = now
        if failures.count >= MOST_FAILED:
            reason = cannot_start(node, failures.count, status, tail)
            self._act(GiveUpNode(node, reason))
        failures.rests_until = now + REST_S * 2 ** (failures.count - 1)
        self._cores.resting.add(node)

    def lose_node(self, name: str, reason: str, now: float) -> list[Executor]:
        """Remove the executors of a lost node, and interrupt their work; return these executors."""
        lost = [executor for executor in self.executors.values() if executor.node == name]
        for executor in lost:
            del self.executors[executor.id]
            self._forget(executor)
            pipeline = list(executor.pipeline)
            begun = pipeline[:1] if executor.ready else []
            for work in [*executor.unsealed.values(), *begun]:
                completion = ended(work, "interrupted", reason, now, name)
                first = executor.first_started or now
                self._attempts.report(msgspec.structs.replace(completion, started=first))
            for work in pipeline[len(begun) :]:
                self._attempts.report(ended(work, "interrupted", reason, now, name))
            self._end_wait(executor)
            self._release(executor)
        self._idle.pop(name, None)
        self._failures.pop(name, None)
        for executor in self.executors.values():
            if any(share.node == name for share in executor.shares):
                self._stop_for_good(executor)  # its task has lost one of its nodes
        return lost

    def cancel(self, tasks: Collection[int], now: float, outcome: Outcome = "cancelled") -> None:
        """End tasks with this outcome: end the executors that run them, and take them back from
        others."""
        for executor in list(self.executors.values()):
            for task in executor.unsealed.keys() & tasks:
                executor.killed_for[task] = outcome  # it is not to run again
            named = [work.task for work in executor.pipeline if work.task in tasks]
            if not named:
                continue
            executor.killed_for.update(dict.fromkeys(named, outcome))
            if executor.ready and named[0] != executor.pipeline[0].task:
                self._ask_back(executor, now)
            else:
                self._stop(executor, GRACE_S)

    # --- soon to end

    def tell_to_stop(self, reason: str, until: float) -> None:
        """Tell the tasks that run, and may not have ended by `until`, to stop before that."""
        for executor in self.executors.values():
            if not executor.pipeline or not executor.ready or executor.stopping:
                continue
            work = executor.pipeline[0]
            if executor.told_to_stop != work.task and self._may_outlast(
                work, executor.first_started, until
            ):
                executor.told_to_stop = work.task
                self._act(
                    TellExecutor(executor.id, executor.node, work.task, work.attempt, until, reason)
                )

    def interrupt(self, listens: Callable[[AttemptSpec], bool], now: float) -> bool:
        """End all executors but those whose task `listens`; return True if there are any.

        These have been told to stop; all that is behind their tasks is taken back.
        """
        self._interrupting = True
        spared = False
        for executor in list(self.executors.values()):
            pipeline = executor.pipeline
            if executor.ready and pipeline and listens(pipeline[0]):
                spared = spared or not executor.stopping
                if len(pipeline) > 1 and not executor.stopping:
                    self._ask_back(executor, now)
            else:
                self._stop_for_good(executor)
        return spared

    def stop_all(self) -> None:
        """End all executors and interrupt their tasks."""
        for executor in list(self.executors.values()):
            self._stop_for_good(executor)

    def _stop_for_good(self, executor: Executor) -> None:
        for work in executor.pipeline:
            executor.killed_for.setdefault(work.task, "interrupted")
        self._stop(executor, GRACE_S)

    def tick(self, now: float) -> None:
        """End executors that do not report, exceed a task's limit, or are idle for long; let nodes
        that have rested try again."""
        for node, failures in self._failures.items():
            if now >= failures.rests_until:
                self._cores.resting.discard(node)
        for executor in list(self.executors.values()):
            if executor.stopping:
                continue
            if not executor.ready:
                longest_s = START_S if executor.software is None else START_PROGRAM_S
                if now - executor.started_at > longest_s:
                    executor.is_late = True
                    self._stop(executor, 0.0)
            elif executor.pipeline:
                work = executor.pipeline[0]
                limit_s = self._attempts.templates[work.template].time_limit_s
                if limit_s and now - executor.first_started > limit_s:
                    executor.killed_for[work.task] = "timeout"
                    self._stop(executor, GRACE_S)
                elif executor.pipeline.is_stuck(executor.first_started, now):
                    self._ask_back(executor, now)
            elif now - executor.idle_since > IDLE_S:
                self._stop(executor, GRACE_S)

    def slept(self, seconds: float) -> None:
        """Shift the timers of all executors by the time that the pilot stood still."""
        for executor in self.executors.values():
            executor.started_at += seconds
            if executor.first_started:
                executor.first_started += seconds

    def stop_idle(self, sessions: Collection[int]) -> None:
        """End the idle executors of `sessions`."""
        for executor in list(self.executors.values()):
            if executor.session in sessions and executor.ready and executor.is_idle:
                self._stop(executor, GRACE_S)

    def _stop(self, executor: Executor, grace_s: float) -> None:
        if not executor.stopping:
            executor.stopping = True
            self._forget(executor)
            if self._end_wait(executor):
                # It may have something to put in order, for which it is given no cores.
                self._act(GoOnExecutor(executor.id, executor.pipeline[0].task, ()))
            self._act(StopExecutor(executor.id, executor.node, grace_s))
