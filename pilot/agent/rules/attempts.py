"""The attempts that are in a pilot, from the head's assignment to its report. Pure.

Invariants
----------
- Every attempt that came in ends in exactly one completion, or is still in here.
- A task is here once: of two attempts, the older one's end is told as that of the newer.
- Work waits in a queue only once all its inputs are there, and only while the pilot has the nodes
  for it.
- Work with an input that is in the store of a node, and nowhere else, waits for that node, or until
  another one has fetched it.
- An end that rests on such results is not reported before they are written: see `kept`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import islice

import msgspec

from pilot.agent.rules.actions import Action, DropKept, Fetch, Persist
from pilot.agent.rules.completions import ended, lost
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.fetches import Fetches
from pilot.agent.rules.inputs import Inputs
from pilot.agent.rules.kept import Kept
from pilot.agent.rules.places import Places
from pilot.agent.rules.queues import Queue, Queues
from pilot.errors import StorageError
from pilot.model.ids import session_of
from pilot.model.states import Outcome
from pilot.model.tasks import Completion, Template
from pilot.model.values import RELEASED
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.placement import NodeAllocation
from pilot.scheduler.placement_text import placement_text
from pilot.wire.messages.pilot import AttemptSpec, InputFetch

#: The kinds of tasks that start on one node, in a process that reads the inputs there.
ONE_NODE = ("python", "command", "http")
#: How fast inputs get to another node, in bytes per second, and how long that is waited for at
#: most, in seconds.
FETCH_BYTES_PER_S = 1e9
MOST_FETCH_S = 1.0


class Attempts:
    """The attempts in a pilot, and the completions still to be reported."""

    def __init__(
        self, queues: Queues, cores: Cores, now: float, act: Callable[[Action], None]
    ) -> None:
        self.queues = queues
        self.templates: dict[int, Template] = {}
        #: Task → attempt.
        self.held: dict[int, int] = {}
        #: The amounts of the site that tasks here hold, by task.
        self.site_held: dict[int, Amounts] = {}
        #: The placements of tasks that were sent to a process, and the versions of these that run,
        #: by task, for the record.
        self.placements: dict[int, tuple[str, str]] = {}
        #: When something came or ended last.
        self.busy_at = now
        self._cores = cores
        self._received: dict[int, float] = {}
        self._inputs = Inputs()
        self._completions: list[Completion] = []
        self._act = act
        self._kept = Kept()
        self._places = Places()
        #: With the work that has inputs in the stores of several nodes.
        self._fetches = Fetches()
        #: The running tasks whose inputs are lost: their ends count for nothing.
        self._vain: dict[int, str] = {}
        #: The ends that are held back, and were not told to the head as such yet.
        self._held_back: list[Completion] = []
        #: The segments that came to the stores of nodes just now.
        self._new_paths: dict[str, None] = {}

    def take_completions(self) -> list[Completion]:
        """Return the completions to be reported to the head, and clear them."""
        completions, self._completions = self._completions, []
        return completions

    # --- what comes

    def add(self, templates: Iterable[Template], work: Iterable[AttemptSpec], now: float) -> None:
        """Take in work that the head has assigned; queue what has all its inputs."""
        for template in templates:
            self.templates[template.id] = template
            self.queues.add_template(template)
        for item in work:
            if item.task in self.held:
                # An older attempt is still here: its end is told as that of the newer one.
                self.held[item.task] = item.attempt
                continue
            self.held[item.task] = item.attempt
            self._received[item.task] = now
            if site := self.templates[item.template].resources.site:
                self.site_held[item.task] = site
            try:
                ready = self._inputs.add(item, self.held, self._kept.__contains__)
            except LookupError as error:
                self.report(ended(item, "interrupted", str(error), now))
                continue
            if ready is not None and not self._push(ready):
                self.report(self._misfit(ready, now))
        self.busy_at = now

    def forget(self, tasks: Iterable[int]) -> None:
        """Drop the results of tasks whose ends the head has committed."""
        self._inputs.forget(tasks)

    def sessions(self) -> set[int]:
        """Return the sessions that have waiting work here, or ends that are held back."""
        waiting = [*self._inputs.waiting(), *self._fetches.waiting()]
        early = {self.templates[work.template].session for work in waiting}
        early.update(session_of(end.task) for end in self._kept.ends())
        return early.union(queue.session for queue in self.queues.waiting)

    def forget_session(self, session: int) -> None:
        """Forget an ended session that has no attempt here."""
        for template in self.queues.forget(session):
            del self.templates[template]
        self._places.forget(session)

    # --- what goes unstarted

    def cancel(self, tasks: Collection[int], now: float) -> None:
        """Report as cancelled those of `tasks` that wait."""
        for queue in self.queues.waiting:
            for work in self.queues.take(queue, tasks):
                self.report(ended(work, "cancelled", "cancelled before it started", now))
        for work in [*self._inputs.take(tasks), *self._fetches.take(tasks)]:
            self.report(ended(work, "cancelled", "cancelled before it started", now))

    def return_to_head(self, tasks: Collection[int], reason: str, now: float) -> None:
        """Return to the head those of `tasks` that wait for cores with all their inputs."""
        for queue in self.queues.waiting:
            for work in self.queues.take(queue, tasks):
                self.report(ended(work, "interrupted", reason, now))

    def hand_back(self, reason: str, now: float) -> None:
        """Return all waiting work to the head, and have written what ends rest on."""
        self.write_waived()
        for queue in self.queues.waiting:
            self._hand_back_queue(queue, reason, now)
        self.hand_back_early(reason, now)

    def hand_back_class(self, queue: Queue, reason: str, now: float) -> None:
        """Return the waiting work of a class to the head, wherever it is to start."""
        for each in (queue, *queue.near.values()):
            if each.waiting:
                self._hand_back_queue(each, reason, now)

    def hand_back_early(self, reason: str, now: float) -> None:
        """Return to the head the work that waits for inputs."""
        for work in [*self._inputs.take(), *self._fetches.take()]:
            self.report(ended(work, "interrupted", reason, now))

    def hand_back_misfits(self, now: float) -> None:
        """Return to the head the waiting work that the remaining nodes can never run."""
        for queue in self.queues.waiting:
            if not self._can_run(queue):
                self._hand_back_queue(queue, self._nodes_left(), now)

    def put_back(self, work: AttemptSpec, now: float) -> None:
        """Put a task that was popped and has not run back at the front of its class."""
        if self._vain and work.task in self._vain:
            self.report(ended(work, "interrupted", "its input is lost", now))
            return
        if (ahead := self._inputs.take_ahead(work.task)) is not None:
            try:
                ready = self._inputs.add(ahead, self.held, self._kept.__contains__)
            except LookupError as error:
                self.report(ended(work, "interrupted", str(error), now))
                return
            if ready is None:
                return
            work = ready
            self.queues.look_again = True
        if not self._push(work, first=True):
            self.report(self._misfit(work, now))

    def send_ahead(self, queue: Queue, tasks: Collection[int], most: int) -> list[AttemptSpec]:
        """Take out the tasks of a class that a process which has `tasks` can run after these: what
        they need is made there, and small."""
        if len(queue.alike) > 1:
            return []  # another version of them may start elsewhere

        def may(work: AttemptSpec) -> bool:
            if self.queues.of(work) is not queue or (self._vain and work.task in self._vain):
                return False
            return all(item.value is None or not item.value.path for item in work.inputs)

        found = self._inputs.send_ahead(tasks, most, may)
        for work in found if self._kept else ():
            self._kept.use(work.task, {item.task for item in work.inputs})
        return found

    def take_back(self, work: AttemptSpec, cancelled: bool, now: float) -> None:
        """Queue a task again that was sent ahead and skipped, or whose result is lost; report it as
        cancelled if `cancelled`."""
        if cancelled:
            self.report(ended(work, "cancelled", "cancelled before it started", now))
        else:
            self.put_back(work, now)

    def _hand_back_queue(self, queue: Queue, reason: str, now: float) -> None:
        for work in self.queues.pop(queue, len(queue.waiting)):
            self.report(ended(work, "interrupted", reason, now))

    def _can_run(self, queue: Queue) -> bool:
        """Tell whether enough nodes are left for tasks of this class, as one of its versions."""
        hosts = len(self._cores.hosts)
        return any(each.nodes is not None and each.nodes <= hosts for each in queue.alike)

    def _misfit(self, work: AttemptSpec, now: float) -> Completion:
        """Return the completion of a task that the remaining nodes can never run."""
        return ended(work, "interrupted", self._nodes_left(), now)

    def _nodes_left(self) -> str:
        return f"the pilot has {len(self._cores.hosts)} nodes left"

    # --- where work waits

    def _push(self, work: AttemptSpec, first: bool = False) -> bool:
        """Have a task that has all its inputs wait for cores; return False if the nodes that are
        left can never run it."""
        queue = self.queues.of(work)
        if not self._can_run(queue):
            return False
        if work.inputs:
            for item in work.inputs:
                value = item.value
                if value is not None and value.path and (value.shared or queue.kind == "mpi"):
                    self._places.cache((item.task, item.index), value.path)
            self._kept.use(work.task, {item.task for item in work.inputs})
            if self._places:
                self._places.use(item.value.path for item in work.inputs if item.value is not None)
            if self._kept or self._places:
                near = self._near(work, queue)
                if near is None:
                    return True
                queue = near
        if first:
            self.queues.put_back(queue, work)
        else:
            self.queues.push(queue, work)
        return True

    def _near(self, work: AttemptSpec, queue: Queue) -> Queue | None:
        """Return the queue for a task by where its inputs are; None, and put it aside, if it waits
        for one that is in the store of another node alone, and have that fetched or written."""
        is_of_one_node = all(each.nodes == 1 and each.kind in ONE_NODE for each in queue.alike)
        if len(self._cores.hosts) == 1 and is_of_one_node:
            return queue
        paths = [item.value.path for item in work.inputs if item.value and item.value.path]
        stores = {path: node for path in paths if (node := self._kept.node_of(path))}
        node = ""
        if is_of_one_node:
            holders = [node for path in stores for node in self._places.nodes_of(path)]
            nearest = self._places.nearest(paths, holders, self._cores.nodes)
            node = max(nearest, key=lambda each: self._room(queue, each), default="")
        foreign = [path for path in stores if not self._is_on(path, node)]
        if foreign:
            for path in foreign:
                if not self._begin_fetch(path, node):
                    self._persist(self._kept.claim(path))
            self._fetches.put_aside(work, foreign[0], node)
            return None
        return self.queues.near(queue, node) if node else queue

    def _is_on(self, path: str, node: str) -> bool:
        """Tell whether the store of a node has a segment."""
        return node in self._places.nodes_of(path) and not self._fetches.is_coming(path, node)

    def _room(self, queue: Queue, node: str) -> int:
        """Return for how many more tasks of a class a node has free cores."""
        near = queue.near.get(node)
        waiting = self._fetches.load(node) + (len(near.waiting) if near is not None else 0)
        return len(self._cores.nodes[node].cores) // max(1, queue.need.cores) - waiting

    def _begin_fetch(self, path: str, node: str) -> bool:
        """Have a node fetch a segment from the store that has it; return False if it is to wait
        until that is in the site directory."""
        if not node or self._fetches.is_coming(path, node):
            return bool(node)
        source = self._kept.node_of(path)
        if not self._places.knows(path) or not self._fetches.may_begin(source, node):
            return False
        self._fetches.begin(path, node, source)
        self._places.copy(path, node)
        self._act(Fetch(node, source, path, self._places.size(path)))
        return True

    def fetched(self, path: str, node: str, size: int, seconds: float, problem: str) -> None:
        """Note that a node has fetched a segment of so many bytes, or could not."""
        self._fetches.fetched.note(size, seconds)
        if not self._fetches.ended(path, node, bool(problem)):
            return  # its node was told to drop it
        if problem:
            self._places.lose_copy(path, node)
            if self._fetches.waits(path):
                self._persist(self._kept.claim(path))
        else:
            self._push_again(self._fetches.pop(path, node))

    def _push_again(self, works: Iterable[AttemptSpec]) -> None:
        for work in works:
            self._push(work)
            self.queues.look_again = True

    def let_go_anywhere(self, now: float) -> None:
        """Let tasks that have waited for their node as long as their inputs would take to get
        elsewhere start on any node, if these inputs are written, and have them fetched where there
        is room, if not."""
        for near in self.queues.waiting_near:
            is_there = near.node in self._cores.nodes
            if not near.waiting:
                continue  # as another version of the same tasks it was served already
            if is_there and not near.waits_long(now, self._fetch_s(near)):
                continue
            for work in self.queues.pop(near, len(near.waiting)):
                self.queues.look_again = True
                paths = [item.value.path for item in work.inputs if item.value is not None]
                bound = [path for path in paths if self._kept.node_of(path)]
                if not bound:
                    self.queues.push(self.queues.of(work), work)
                elif not is_there:
                    if not self._push(work):
                        self.report(self._misfit(work, now))
                elif not self._move(work, bound, near.node):
                    for path in bound:
                        self._persist(self._kept.claim(path))
                    self.queues.push(near, work)

    def _move(self, work: AttemptSpec, bound: list[str], node: str) -> bool:
        """Have a task start on another node than this one, where there is room, once that has
        fetched these segments; return False if it is to stay."""
        queue = self.queues.of(work)
        others = [name for name in self._cores.nodes if name != node]
        other = max(others, key=lambda each: self._room(queue, each), default="")
        if not other or self._room(queue, other) <= 0:
            return False
        foreign = [path for path in bound if not self._is_on(path, other)]
        if not all(self._begin_fetch(path, other) for path in foreign):
            return False  # what has begun is there for the next one
        if foreign:
            self._fetches.put_aside(work, foreign[0], other)
        else:
            self.queues.push(self.queues.near(queue, other), work)
        return True

    def _fetch_s(self, queue: Queue) -> float:
        """Return how long it would take to get the inputs of the next task elsewhere, in
        seconds."""
        size = sum(item.value.size for item in queue.waiting[0].inputs if item.value is not None)
        return min(MOST_FETCH_S, size / FETCH_BYTES_PER_S)

    # --- what ends

    def keeps(self, queue: Queue, work: Iterable[AttemptSpec]) -> bool:
        """Tell whether large results of this work are to be in the store of their node first."""
        return queue.keeps or any(self._inputs.is_wanted(item.task) for item in work)

    def note_placement(self, work: Iterable[AttemptSpec], shares: Iterable[NodeAllocation]) -> None:
        """Note where work runs, for the record."""
        text = placement_text(shares)
        for item in work:
            self.placements[item.task] = text, self.templates[item.template].version

    def report(
        self,
        completion: Completion,
        node: str = "",
        paths: Collection[str] = (),
        queue: Queue | None = None,
    ) -> None:
        """Report a completion to the head as soon as it may be, and queue the tasks that waited
        for it here.

        Parameters
        ----------
        completion
            The end.
        node, paths
            The segments with its results that are in the store of this node alone.
        queue
            The class of the task, where there are any.
        """
        ends = [completion]
        while ends:
            completion = ends.pop()
            if self._vain and completion.task in self._vain:
                reason = self._vain.pop(completion.task)
                self._drop(paths)
                completion, paths = lost(completion, "interrupted", "interrupted", reason), ()
            for end in self._released_by(completion, node, paths, queue):
                self._report_one(end)
            paths = ()
            ready, hopeless, ahead, came = self._inputs.ended(completion)
            for work in ahead:
                if not came:
                    # It may have run with what does not count.
                    self._vain[work.task] = "its input has not come"
                elif self._kept:
                    self._kept.use(work.task, {item.task for item in work.inputs})
            for work in ready:
                if self._push(work):
                    self.queues.look_again = True
                else:
                    ends.append(self._misfit(work, completion.ended))
            reason = "its input has not come"
            ends.extend(ended(work, "interrupted", reason, completion.ended) for work in hopeless)

    def _released_by(
        self, completion: Completion, node: str, paths: Collection[str], queue: Queue | None
    ) -> list[Completion]:
        """Return what may be reported now that a task has ended: its end, unless that rests on
        results that are in the store of a node alone, or also others."""
        kept = self._kept
        if not kept and not paths:
            return [completion]
        task = completion.task
        if task not in self.held:
            return []
        if completion.outcome in ("interrupted", "cancelled"):
            kept.unuse(task)
            self._persist(kept.ended(task, well=False))
            return [completion]
        is_held = kept.hold(completion, node, paths)
        self._persist(kept.ended(task, completion.outcome == "ok"))
        if not is_held:
            return [completion]
        self._held_back.append(completion)
        for index, value in enumerate(completion.values) if paths else ():
            if value.path in paths and queue is not None:
                self._places.note((task, index), value.path, node, value.size, queue)
                self._new_paths[value.path] = None
        return kept.released([task])

    def write_behind(self) -> None:
        """Have the segments written that came since the last call, unless they are waived."""
        if self._new_paths:
            paths, self._new_paths = self._new_paths, {}
            self._persist(
                [path for path in paths if self._fetches.waits(path) or not self._kept.waive(path)]
            )
            tasks = [task for path in paths for task in self._kept.in_segment(path)]
            for end in self._kept.released(tasks):
                self._report_one(end)

    def drop_unheld(self, paths: Collection[str], nodes: Iterable[str]) -> None:
        """Remove from the stores of these nodes, of segments that came just now, those of which no
        result is told: their attempts were lost, cancelled or interrupted meanwhile."""
        unheld = tuple(path for path in paths if not self._kept.node_of(path))
        if unheld:
            for node in nodes:
                self._act(DropKept(node, unheld))

    def write_waived(self, ended_by: float = math.inf) -> None:
        """Have waived segments written on which ends rest that are held back since that time."""
        if self._kept:
            self._persist(self._kept.unwaive(ended_by))

    def _persist(self, paths: Iterable[str]) -> None:
        by_node: dict[str, list[str]] = {}
        for path in paths:
            if node := self._kept.node_of(path):
                by_node.setdefault(node, []).append(path)
        for node, its in by_node.items():
            self._act(Persist(node, tuple(its)))

    def release(self, task: int, index: int, needed_by: Collection[int]) -> None:
        """Note that a result was released, and that only these tasks need it: what is kept of it
        here may go unwritten, or goes."""
        if task not in self.held:
            if (place := self._places.release((task, index))) is not None:
                path, nodes = place
                if not self._kept.node_of(path):
                    self._drop_segment(path, nodes)
            if path := self._places.uncache((task, index)):
                self._drop_segment(path, self._cores.nodes)
        elif all(user in self.held for user in needed_by):
            self._kept.release(task, index, needed_by)

    def tell_held_back_again(self) -> None:
        """Have `take_held_back` return all that is held back, for a head that was told nothing."""
        self._held_back = self._kept.ends()

    def take_held_back(self) -> list[tuple[int, int, float]]:
        """Return the attempts that have ended and are held back since the last call: task, attempt,
        and when it began."""
        if not self._held_back:
            return []
        ends, self._held_back = self._held_back, []
        return [
            (end.task, self.held[end.task], end.started) for end in ends if end.task in self._kept
        ]

    def wrote(self, size: int, seconds: float) -> None:
        """Note how long segments of so many bytes together have taken to get to the site directory,
        as one has waited for each."""
        self._fetches.written.note(size, seconds)

    def written(self, paths: Iterable[str]) -> None:
        """Note that segments of a node's store are in the site directory now."""
        for path in paths:
            self._places.written(path)
            for completion in self._kept.written(path):
                self._report_one(completion)
            self._push_again(self._fetches.pop(path))

    def not_written(self, failed: dict[str, str], in_vain: Collection[str], now: float) -> set[int]:
        """Note that segments cannot be written, those `in_vain` by nobody; return the running tasks
        that are to be ended."""
        vain: set[int] = set()
        for path, why in failed.items():
            tasks = self._kept.in_segment(path)
            reason = f"its result could not be stored: {why}"
            outcome: Outcome = "error" if path in in_vain else "crash"
            vain |= self._lose(tasks, outcome, StorageError.__name__, reason, now)
        return vain

    def lose_segment(self, path: str, now: float) -> set[int]:
        """Note that a segment is not in its node's store any more; return the running tasks that
        are to be ended."""
        tasks = self._kept.in_segment(path)
        return self._lose(tasks, "interrupted", "interrupted", "its result is lost", now)

    def lose_store(self, node: str, reason: str, now: float) -> set[int]:
        """Note that a node's store is gone; return the running tasks that are to be ended."""
        self._places.lose_node(node)
        for path, other in self._fetches.lose_node(node):
            self._places.lose_copy(path, other)
            self._act(DropKept(other, (path,)))
        if not self._kept:
            return set()
        lost_here = self._kept.on_node(node)
        return self._lose(lost_here, "interrupted", "interrupted", reason, now)

    def cancel_ended(self, tasks: Collection[int], now: float) -> set[int]:
        """Cancel those of `tasks` that have ended and are held back; return the running tasks that
        are to be ended for that."""
        ours = [task for task in tasks if task in self._kept]
        if not ours:
            return set()
        reason = "cancelled before its results were written"
        return self._lose(ours, "cancelled", "cancelled", reason, now)

    def _lose(
        self, tasks: Collection[int], outcome: Outcome, kind: str, reason: str, now: float
    ) -> set[int]:
        """Drop the held ends of `tasks`, with all that was made from their results.

        Returns
        -------
        set of int
            The tasks that run, or are about to, on results that are lost.
        """
        ends, unended, again = self._kept.lose(tasks)
        self._persist(again)
        chosen = set(tasks)
        for completion in ends:
            paths = {value.path for value in completion.values if value.path}
            self._drop(paths)
            for work in self._inputs.lose(completion.task):
                self.report(ended(work, "interrupted", "its input is lost", now))
            if completion.task in chosen:
                completion = lost(completion, outcome, kind, reason)
            else:
                completion = lost(completion, "interrupted", "interrupted", "its input is lost")
            self._report_one(completion)
        for queue in self.queues.waiting if unended else ():
            for work in self.queues.take(queue, unended):
                unended.discard(work.task)
                self.report(ended(work, "interrupted", "its input is lost", now))
        for work in self._fetches.take(unended) if unended else ():
            unended.discard(work.task)
            self.report(ended(work, "interrupted", "its input is lost", now))
        self._vain.update(dict.fromkeys(unended, "its input is lost"))
        return unended

    def _drop_waived(self, completion: Completion) -> None:
        """Remove from the store what need not be written."""
        for index, value in enumerate(completion.values):
            if value is RELEASED:
                place = self._places.release((completion.task, index))
                if place is not None:
                    self._drop_segment(*place)

    def _drop_segment(self, path: str, nodes: Iterable[str]) -> None:
        self._fetches.forget(path)
        for node in nodes:
            self._act(DropKept(node, (path,)))

    def _drop(self, paths: Collection[str]) -> None:
        """Remove the segments of a lost end from the stores that have them, but for those that
        others share."""
        for path in paths:
            if self._places.knows(path) and not self._kept.node_of(path):
                self._drop_segment(path, self._places.nodes_of(path))

    def fetches(self, most: int) -> list[InputFetch]:
        """List what attempts wait for before they can start, up to so many."""
        return [
            InputFetch(work.task, work.attempt, self._places.size(path), source, node)
            for work, path, source, node in islice(self._fetches.awaited(), most)
        ]

    def nodes_in_need(self) -> set[str]:
        """Return the nodes whose stores have results that are nowhere else, or for which work waits
        that needs these."""
        return self._kept.nodes() | self._fetches.nodes() if self._kept else set()

    def _report_one(self, completion: Completion) -> None:
        attempt = self.held.pop(completion.task, None)
        if attempt is None:
            return
        self._kept.gone(completion.task)
        if self._places:
            self._drop_waived(completion)
        if self.site_held:
            self.site_held.pop(completion.task, None)
        if attempt != completion.attempt:
            # The older attempt was to be ended, the newer one never ran.
            outcome = completion.outcome
            completion = msgspec.structs.replace(
                completion,
                attempt=attempt,
                outcome="interrupted" if outcome == "cancelled" else outcome,
            )
        received = self._received.pop(completion.task, 0.0)
        placement, version = self.placements.pop(completion.task, ("", ""))
        if not completion.received:
            completion = msgspec.structs.replace(
                completion, received=received, placement=placement, version=version
            )
        self._completions.append(completion)
