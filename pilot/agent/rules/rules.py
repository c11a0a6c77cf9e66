"""The decisions of the agent: what starts where, what follows from an end, what is reported. Pure.

The agent's shell turns frames, exits of processes and timers into calls, each with the time, and
carries out the actions that `take_actions` gives. No sockets, no processes, no clock in here.
`attempts` keeps what came in, `queues` what of it waits, `cores` what is free; `executors` and
`worlds` bring these together for the two kinds of process (`processes` has what they share); this
module sets their order.

Invariants
----------
- After each event nothing waits that may start: not overtaken, and with its cores free. What has
  waited for other tasks, and goes on, comes before all that starts.
- Of a session that has ended nothing is kept, as soon as its last process is gone.
- A pilot that drains starts nothing, and gives back what waits, also what comes to wait later.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from functools import partial

from pilot.agent.rules.actions import Action, ForgetSession
from pilot.agent.rules.attempts import Attempts
from pilot.agent.rules.bookings import Bookings
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.executors import Executor, ExecutorRules
from pilot.agent.rules.queues import STARVED_S, Queue, Queues
from pilot.agent.rules.worlds import World, WorldRules
from pilot.model.tasks import Completion, LogSpan, Template
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.booking import Stay
from pilot.scheduler.placement import FreeNode
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.pilot import (
    AttemptSpec,
    BookingInfo,
    InputFetch,
    ReleasedResult,
    RunningTask,
)


class Rules:
    """The state of a pilot. Methods take events; `take_actions` and `take_completions` return what
    follows from them.

    Parameters
    ----------
    hosts
        The pilot's nodes, those included that have not reported yet.
    shape
        The cores and resources of each node.
    now
        Seconds since the epoch.
    durable_every_s
        How long at most ends are held back for results that need not be written, in seconds.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        shape: NodeShape,
        now: float = 0.0,
        durable_every_s: float = 30.0,
    ) -> None:
        self._durable_every_s = durable_every_s
        self._actions: list[Action] = []
        self._cores = Cores(hosts)
        self._queues = Queues(shape)
        numbers, act = itertools.count(1), self._actions.append
        self._attempts = Attempts(self._queues, self._cores, now, act)
        self._bookings = bookings = Bookings(self._cores)
        self._executors = ExecutorRules(self._attempts, self._cores, bookings, numbers, act)
        self._worlds = WorldRules(self._attempts, self._cores, bookings, numbers, act)
        #: The tasks that look whether they are to stop, by node, as far as it was told.
        self._listening: dict[str, Collection[int]] = {}
        #: The functions of which tasks have looked here: their others will, too.
        self._listeners: set[bytes] = set()
        #: Sessions that have ended, and are not forgotten yet.
        self._ended: set[int] = set()

    # --- what there is

    @property
    def hosts(self) -> list[str]:
        """The pilot's nodes, including those that have not reported yet."""
        return self._cores.hosts

    @property
    def nodes(self) -> dict[str, FreeNode]:
        """The nodes that have reported, with their free resources."""
        return self._cores.nodes

    @property
    def templates(self) -> dict[int, Template]:
        """The templates of tasks, by their numbers."""
        return self._attempts.templates

    @property
    def held(self) -> dict[int, int]:
        """The attempts in this pilot: task → attempt."""
        return self._attempts.held

    @property
    def site_held(self) -> dict[int, Amounts]:
        """The amounts of site-wide resources that tasks in here hold, by task."""
        return self._attempts.site_held

    @property
    def executors(self) -> dict[int, Executor]:
        """The executors, by number."""
        return self._executors.executors

    @property
    def worlds(self) -> dict[int, World]:
        """The MPI worlds, by number."""
        return self._worlds.worlds

    @property
    def draining(self) -> bool:
        """True if nothing starts any more."""
        return self._queues.closed

    @property
    def is_idle(self) -> bool:
        """True if nothing runs and nothing waits."""
        return not self._attempts.held

    @property
    def has_waiting(self) -> bool:
        """True if work waits for cores here, so that no core waits for the head."""
        return self._queues.has_waiting

    @property
    def busy_at(self) -> float:
        """The time when work came or ended last, in seconds since the epoch."""
        return self._attempts.busy_at

    def booking(self, now: float) -> BookingInfo | None:
        """Return the booking that there is, and when it is due."""
        bookings, queue = self._bookings, self._bookings.queue
        if queue is None or not queue.waiting:
            return None
        starts_at = bookings.starts_at
        return BookingInfo(
            queue.waiting[0].task,
            tuple(sorted(bookings.nodes)),
            max(0.0, starts_at - now) if starts_at < math.inf else -1.0,
            now - (queue.waiting_since or now),
        )

    def running(self, now: float, least_s: float = 0.5) -> list[tuple[World, RunningTask]]:
        """Return the MPI tasks that have run for a while; node workers report those of
        executors."""
        return list(self._worlds.running(now, least_s))

    def fetches(self, most: int) -> list[InputFetch]:
        """List the large inputs for which attempts wait before they can start, up to so many."""
        return self._attempts.fetches(most)

    # --- what comes out

    def take_actions(self) -> list[Action]:
        """Return the actions to carry out, and clear them: they count as done."""
        actions = self._actions.copy()
        self._actions.clear()
        return actions

    def take_waits(self) -> dict[int, tuple[int, bool]]:
        """Return the tasks that wait for others since the last call, or (False) go on, each with
        its attempt, and clear them."""
        waits = self._executors.waits
        if waits:
            held, self._executors.waits = self._attempts.held, {}
            return {task: told for task, told in waits.items() if task in held}
        return waits

    def waiting_tasks(self) -> dict[int, int]:
        """Return the tasks that wait for others, with their attempts."""
        executors = self._executors.executors
        first = [executors[number].pipeline[0] for number in self._executors.waiting.latest_first]
        return {work.task: work.attempt for work in reversed(first)}

    @property
    def only_waits(self) -> bool:
        """True if nothing is here but tasks that wait for others."""
        if not self._executors.waiting or any(world.pipeline for world in self.worlds.values()):
            return False
        return self._executors.only_wait()

    def take_completions(self) -> list[Completion]:
        """Return the completions to be reported to the head, and clear them."""
        return self._attempts.take_completions()

    def take_held_back(self) -> list[tuple[int, int, float]]:
        """Return the attempts that have ended since the last call, and whose ends are not reported
        before results that they rest on are written: task, attempt, and when it began."""
        return self._attempts.take_held_back()

    def tell_held_back_again(self) -> None:
        """Have `take_held_back` return all that is held back, for a head that was told nothing."""
        self._attempts.tell_held_back_again()

    # --- work

    def add_work(
        self, templates: Iterable[Template], work: Iterable[AttemptSpec], now: float
    ) -> None:
        """Take in work that the head has assigned, and start what can start."""
        templates = list(templates)
        # A session may have ended for a head that died before that was written down.
        self._ended.difference_update(template.session for template in templates)
        self._attempts.add(templates, work, now)
        if self.draining:
            self._attempts.hand_back("the pilot starts nothing any more", now)
        self.schedule(now)

    def cancel(self, tasks: Iterable[int], now: float) -> None:
        """End tasks, whether they wait or run."""
        wanted = {task for task in tasks if task in self._attempts.held}
        if not wanted:
            return
        self._end_in_vain(self._attempts.cancel_ended(wanted, now), now)
        self._attempts.cancel(wanted, now)
        self._executors.cancel(wanted, now)
        self._worlds.cancel(wanted, now)
        self.schedule(now)

    def return_to_head(self, tasks: Iterable[int], now: float) -> None:
        """Return to the head those of `tasks` that wait for cores: another pilot could start
        them."""
        wanted = {task for task in tasks if task in self._attempts.held}
        if wanted:
            self._attempts.return_to_head(wanted, "another pilot has room for it", now)
            self.schedule(now)

    def forget(self, tasks: Iterable[int]) -> None:
        """Drop the results of tasks whose ends the head has committed."""
        self._attempts.forget(tasks)

    def end_session(self, session: int) -> None:
        """Note that a session has ended and that no more of its work comes."""
        self._ended.add(session)

    def drain(self, reason: str, now: float) -> None:
        """Stop starting work, and return to the head what has not started."""
        self._queues.closed = True
        self._attempts.hand_back(reason, now)

    def note_listening(self, node: str, tasks: Collection[int]) -> None:
        """Note which tasks on a node look whether they are to stop."""
        if not set(tasks).issubset(self._listening.get(node, ())):
            pipelines = [executor.pipeline for executor in self.executors.values()]
            pipelines += [world.pipeline for world in self.worlds.values()]
            running = (pipeline[0] for pipeline in pipelines if pipeline)
            self._listeners.update(self._function_of(w) for w in running if w.task in tasks)
        self._listening[node] = tasks

    def _function_of(self, work: AttemptSpec) -> bytes:
        return self._attempts.templates[work.template].function

    def tell_to_stop(self, reason: str, until: float) -> None:
        """Tell the tasks that run, and may not have ended by `until`, to stop before that.

        A task is told once. One that has begun since the last call is told by the next.
        """
        self._executors.tell_to_stop(reason, until)
        self._worlds.tell_to_stop(reason, until)

    def interrupt(self, reason: str, until: float, now: float) -> bool:
        """Tell all tasks to stop, and end at once those that would not hear of it; return True if
        others may go on until then."""
        self.drain(reason, now)
        self.tell_to_stop(reason, until)
        told = {task for tasks in self._listening.values() for task in tasks}

        def listens(work: AttemptSpec) -> bool:
            return work.task in told or self._function_of(work) in self._listeners

        spared = self._executors.interrupt(listens, now)
        return self._worlds.interrupt(listens, now) or spared

    def stop_all(self, reason: str, now: float) -> None:
        """End everything at once, and interrupt running tasks."""
        self.drain(reason, now)
        self._executors.stop_all()
        self._worlds.stop_all()

    # --- nodes

    def add_node(self, name: str, shape: NodeShape, now: float, position: int = 0) -> None:
        """Add a node whose worker is up; `position` is its place in the batch system's list of
        nodes."""
        if self._cores.add_node(name, shape, position):
            self.schedule(now)

    def lose_node(self, name: str, reason: str, now: float) -> list[Executor]:
        """Remove a lost node, and interrupt what ran there; return its executors."""
        self._bookings.forget_node(name)
        self._cores.lose_node(name)
        self._listening.pop(name, None)
        lost = self._executors.lose_node(name, reason, now)
        self._worlds.lose_node(name)
        self._end_in_vain(self._attempts.lose_store(name, reason, now), now)
        self._attempts.let_go_anywhere(now)
        self._attempts.hand_back_early(reason, now)
        self._attempts.hand_back_misfits(now)
        self.schedule(now)
        return lost

    def idle_nodes(self, now: float) -> list[tuple[str, float]]:
        """Return the nodes that the pilot could do without, and for how long each has been idle.

        The first node is not among them: the job's script runs there. While a task waits for
        several nodes, which become idle one after the other, only those are that are left over
        beside such tasks.
        """
        wide = {queue.nodes for queue in self._queues.waiting if queue.nodes and queue.nodes > 1}
        most = min((len(self.hosts) % nodes for nodes in wide), default=len(self.hosts))
        idle_s = self._cores.idle_s(now)
        needed = self._attempts.nodes_in_need().union(self._bookings.nodes)
        idle = [
            (name, idle_s[name]) for name in self.hosts[1:] if name in idle_s and name not in needed
        ]
        return sorted(idle, key=lambda node: -node[1])[:most] if len(idle) > most else idle

    def give_back(self, names: Iterable[str], now: float) -> list[str]:
        """Remove those of these nodes on which nothing runs; return them.

        Work that needs more nodes than are left goes back to the head.
        """
        spare = [name for name, _ in self.idle_nodes(now)]
        returned = [name for name in names if name in spare]
        for name in returned:
            self.lose_node(name, f"node {name} goes back to the batch system", now)
        return returned

    # --- executors

    def executor_ready(self, number: int, pid: int, now: float) -> None:
        """Note that an executor has started."""
        self._executors.ready(number, pid, now)
        if self._queues.look_again:
            self.schedule(now)

    def executor_done(self, number: int, completions: Iterable[Completion], now: float) -> None:
        """Take the completions of an executor's attempts."""
        self._executors.done(number, completions, now)
        if self._queues.look_again:
            self.schedule(now)

    def executor_kept(
        self, number: int, completions: Iterable[Completion], paths: Collection[str], now: float
    ) -> None:
        """Take the completions of an executor's attempts with results that are in segments of its
        node's store alone."""
        executor = self.executors.get(number)
        self._executors.done(number, completions, now, paths)
        # Of one that is not known any more nobody knows where it was.
        nodes = self.nodes if executor is None else (executor.node,)
        self._attempts.drop_unheld(paths, nodes)
        self._attempts.write_behind()
        if self._queues.look_again:
            self.schedule(now)

    def persisted(
        self,
        paths: Iterable[str],
        failed: dict[str, str],
        now: float,
        lost: Iterable[str] = (),
        in_vain: Collection[str] = (),
    ) -> None:
        """Note that segments of a node's store are in the site directory now; with those that
        cannot be written, and why, those that are lost, and those that nobody could write."""
        self._attempts.written(paths)
        if failed:
            self._end_in_vain(self._attempts.not_written(failed, in_vain, now), now)
        for path in lost:
            self._end_in_vain(self._attempts.lose_segment(path, now), now)
        if self._queues.look_again:
            self.schedule(now)

    def wrote(self, size: int, seconds: float) -> None:
        """Note how fast a node has written segments of its store."""
        self._attempts.wrote(size, seconds)

    def fetched(
        self,
        path: str,
        node: str,
        now: float,
        problem: str = "",
        size: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Note that a node has fetched a segment, of so many bytes in so many seconds, or could
        not."""
        self._attempts.fetched(path, node, size, seconds, problem)
        if self._queues.look_again:
            self.schedule(now)

    def _end_in_vain(self, tasks: set[int], now: float) -> None:
        """End running tasks whose inputs are lost."""
        if tasks:
            self._executors.cancel(tasks, now, "interrupted")
            self._worlds.cancel(tasks, now)

    def executor_ran(self, number: int, tasks: Iterable[int], now: float) -> None:
        """Note attempts that have run on an executor and whose completions will follow."""
        self._executors.ran(number, tasks, now)
        if self._queues.look_again:
            self.schedule(now)

    def executor_waits(self, number: int, task: int, now: float) -> None:
        """Note that the task of an executor waits for other tasks."""
        self._executors.wait(number, task, now)
        if self._queues.look_again:
            self.schedule(now)

    def executor_goes_on(self, number: int, task: int, now: float) -> None:
        """Note that the task of an executor has waited for others, and wants to go on."""
        self._executors.ask_to_go_on(number, task)
        if self._queues.look_again:
            self.schedule(now)

    def executor_spent(self, number: int) -> None:
        """End an executor that takes no more work; the work that it was sent runs elsewhere."""
        self._executors.spent(number)

    def executor_exited(
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
        """Note the exit of an executor; see `ExecutorRules.exited`."""
        self._executors.exited(number, status, task, started, logs, tail, now, over, peak_mib)
        if self.draining:
            self._attempts.hand_back("the pilot ends", now)
        self.schedule(now)

    # --- executors and worlds

    def unsent(self, number: int, begun: int, upto: int, now: float) -> None:
        """Queue again the work after the `begun`-th, up to the `upto`-th, which an executor or
        world skips."""
        if number in self.executors:
            self._executors.unsent(number, begun, upto, now)
        else:
            self._worlds.unsent(number, begun, upto, now)
        if self.draining:
            self._attempts.hand_back("the pilot starts nothing any more", now)
        self.schedule(now)

    # --- worlds

    def rank_ready(self, number: int, rank: int, now: float) -> None:
        """Note that a rank has started."""
        self._worlds.rank_ready(number, rank, now)

    def rank_done(self, number: int, rank: int, completion: Completion, now: float) -> None:
        """Take one rank's completion of a task that failed on it or on another rank."""
        self._worlds.rank_done(number, rank, completion, now)
        if self._queues.look_again:
            self.schedule(now)

    def world_not_formed(self, number: int) -> None:
        """End a world whose ranks have not found each other."""
        self._worlds.not_formed(number)

    def world_done(self, number: int, completions: Iterable[Completion], now: float) -> None:
        """Take the completions of tasks that all ranks of a world have left without a failure."""
        self._worlds.done(number, completions, now)
        if self._queues.look_again:
            self.schedule(now)

    def rank_exited(
        self,
        number: int,
        task: int = 0,
        started: float = 0.0,
        rank: int = 0,
        log: LogSpan | None = None,
        over: str = "",
        tail: str = "",
    ) -> None:
        """End a world because a rank exited; see `WorldRules.rank_exited`."""
        self._worlds.rank_exited(number, task, started, rank, log, over, tail)

    def world_exited(
        self,
        number: int,
        status: int,
        tail: str,
        now: float,
        reason: str = "",
        hopeless: bool = False,
    ) -> None:
        """Note the exit of a world with all its ranks; see `WorldRules.exited`."""
        self._worlds.exited(number, status, tail, now, reason, hopeless)
        if self.draining:
            self._attempts.hand_back("the pilot ends", now)
        self.schedule(now)

    # --- time, and what starts

    def tick(self, now: float) -> None:
        """Enforce time limits, end ranks that hang, and close what has been idle for long."""
        self._executors.tick(now)
        self._worlds.tick(now)
        self._attempts.let_go_anywhere(now)
        if self._executors.waiting:
            self._executors.relieve(self.only_waits, now)
        self._attempts.write_waived(now - self._durable_every_s)
        if self._ended:
            self._forget_ended()
        self.schedule(now)

    def slept(self, seconds: float) -> None:
        """Exclude the time that the pilot stood still from what tasks have used of their limits."""
        self._executors.slept(seconds)
        self._worlds.slept(seconds)

    def release(self, results: Iterable[ReleasedResult]) -> None:
        """Take in that results were released: what is in memory here alone need not be written, and
        what is kept besides goes."""
        for result in results:
            self._attempts.release(result.task, result.index, result.needed_by)

    def _forget_ended(self) -> None:
        """Forget the sessions that have ended, once nothing of them is here any more."""
        self._executors.stop_idle(self._ended)
        self._worlds.stop_idle(self._ended)
        there = self._attempts.sessions()
        there.update(executor.session for executor in self.executors.values())
        there.update(world.session for world in self.worlds.values())
        for session in self._ended - there:
            self._attempts.forget_session(session)
            templates = self._attempts.templates.values()
            self._listeners.intersection_update(template.function for template in templates)
            self._actions.append(ForgetSession(session))
        self._ended &= there

    def schedule(self, now: float) -> None:
        """Start what can start, high priority first."""
        queues, bookings = self._queues, self._bookings
        queues.look_again = False
        if self._cores.reserved or self._executors.waiting.at_once:
            bookings.let_go()
            self._executors.let_go_on()
        if queues.closed:
            bookings.end()
            return
        first = self._start_booked(now) if bookings else None
        # Where there is no place for one task, there is none for those alike behind it.
        full: set[int] = set()
        for queue in queues.waiting:
            if queue is first or not queue.waiting:
                continue
            place = queue.place
            if bookings and bookings.backfills(queue, now):
                place = ~place
            if place not in full:
                while queue.waiting and self._start(queue, now):
                    for each in queue.alike:
                        each.waiting_since = 0.0
                if not queue.waiting:
                    continue
                full.add(place)
            queue.waiting_since = queue.waiting_since or now
            if queue.is_wide and now - queue.waiting_since > STARVED_S:
                bookings.make(queue, partial(self._stays, now), now)
            if not (self._cores.free or queues.wide or queues.coreless):
                break
        bookings.keep()

    def _start_booked(self, now: float) -> Queue | None:
        """Start tasks of the class that has the booking, or keep what is free for the next one;
        return this class if it waits further."""
        bookings = self._bookings
        bookings.end_if_idle()
        queue = bookings.queue
        if queue is None:
            return None
        bookings.let_go()
        if self._start(queue, now):
            bookings.end()
            for each in queue.alike:
                each.waiting_since = 0.0
            return None
        bookings.renew(partial(self._stays, now), now)
        bookings.keep()
        return bookings.queue

    def _stays(self, now: float) -> Iterator[Stay]:
        """Iterate over what runs, with the time until which that is thought to last."""
        yield from self._executors.stays(now)
        yield from self._worlds.stays(now)

    def _start(self, queue: Queue, now: float) -> bool:
        if queue.kind == "mpi":
            return self._worlds.start(queue, now)
        return self._executors.start(queue, now)
