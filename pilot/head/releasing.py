"""The carrying-out of releases: results go from the database and the disk, and pilots are told.

Which results go, and when, is decided in `pilot.head.core.releases`. Here is what the core does not
know: the results of ended tasks, and who else has them.

Invariants
----------
- What others find stays: a version of a named object, a result under a key, a value that another
  task has as its own.
- Nothing is removed from the disk, and no pilot is told, before the release is committed.
- Files are removed by the janitor, several at a time: it gets them with the next tick.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from pilot.head.commits import Commits
from pilot.head.connections import Peers, Send
from pilot.head.core.events import Effects, Ended
from pilot.head.core.state import Task
from pilot.head.outcome_cache import Outcomes, without
from pilot.head.store.deletion import Garbage
from pilot.head.store.store import Store
from pilot.model.ids import Ref, session_of
from pilot.model.tasks import TaskOutcome
from pilot.model.values import Value
from pilot.wire.messages.pilot import Released, ReleasedResult


class Releasing:
    """The releases that are being carried out.

    Parameters
    ----------
    store
        The database.
    outcomes
        The outcomes of ended tasks.
    commits
        What is to be written, and told then.
    peers
        The pilots.
    send
        Sends a message to a peer.
    """

    def __init__(
        self, store: Store, outcomes: Outcomes, commits: Commits, peers: Peers, send: Send
    ) -> None:
        self._store = store
        self._outcomes = outcomes
        self._commits = commits
        self._peers = peers
        self._send = send
        #: Values, by path and name, that may be garbage by now.
        self._due: list[tuple[str, str]] = []

    # --- in

    def found(
        self, tasks: Iterable[int], parts: Iterable[Ref], live: Mapping[int, Task]
    ) -> list[Ref]:
        """Return the results that a client has released, as far as there are any to release.

        Parameters
        ----------
        tasks
            Those of which all results are released.
        parts
            Single results.
        live
            The unfinished tasks.
        """
        whole = set(tasks)
        single = {ref for ref in parts if ref[0] not in whole}
        ended = {task for task in (*whole, *(ref[0] for ref in single)) if task not in live}
        there = self._outcomes.there(ended) if ended else {}
        count = {task: len(values) for task, values in there.items()}
        count |= {task: live[task].template.returns for task in whole if task in live}
        results = [(task, place) for task in whole for place in range(count.get(task, 0))]
        results += [ref for ref in single if ref[0] in live or ref[1] < count.get(ref[0], 0)]
        return self.open_to_release(results, ended)

    def open_to_release(self, results: Sequence[Ref], ended: Collection[int]) -> list[Ref]:
        """Return those of the results that nobody finds by a name or key, and that are not gone."""
        if not ended:
            return list(results)
        kept = self._kept({*ended})
        gone = self._outcomes.gone(ref for ref in results if ref[0] in ended)
        return [ref for ref in results if ref[0] not in kept and ref not in gone]

    def _kept(self, tasks: set[int]) -> set[int]:
        """Return the tasks among these whose results are kept for others."""
        if not tasks:
            return set()
        unwritten = {row["task"] for row in self._commits.batch.objects}
        return self._outcomes.kept(tasks) | (tasks & unwritten)

    # --- out

    def take_away(self, effects: Effects) -> list[Ended]:
        """Note what was released as gone; return the ends of tasks without such results."""
        ended = {end.task: end for end in effects.ended}
        by_task: dict[int, list[int]] = {}
        for task, place in effects.released:
            by_task.setdefault(task, []).append(place)
        kept = {spec.id for spec, _ in effects.named}
        kept.update(end.task for end in effects.ended if end.memo)
        older = by_task.keys() - ended.keys()
        kept |= self._kept(older)
        there = self._outcomes.there(older)
        there |= {task: ended[task].values for task in by_task.keys() & ended.keys()}
        gone: set[Ref] = set()
        left: list[TaskOutcome] = []
        freed: list[tuple[Ref, Value]] = []
        for task, places in by_task.items():
            values = there.get(task, ())
            going = [place for place in places if place < len(values) and task not in kept]
            if not going:
                continue
            rest = without(values, going)
            if (end := ended.get(task)) is not None:
                ended[task] = msgspec.structs.replace(end, values=rest)
            else:
                left.append(self._outcomes.replace(task, rest))
            gone.update((task, place) for place in going)
            freed += [
                ((task, place), values[place])
                for place in going
                if values[place].path and values[place] not in rest
            ]
        self._outcomes.any_released = True
        unclaimed = [ref for ref in effects.released if ref not in gone]
        alone = [value for ref, value in freed if not self._is_owned(ref[0], value, ended)]
        returned = [(ref[0], value) for ref, value in freed]
        self._commits.batch.add_released(left, gone, unclaimed, returned, alone)
        if freed:
            self._commits.then(partial(self._is_written, [ref for ref, _ in freed], alone))
        return list(ended.values())

    def _is_owned(self, task: int, value: Value, ended: Mapping[int, Ended]) -> bool:
        """Tell whether another task, which has written the value, still has it as a result."""
        owner = value.owner
        if owner in (0, task):
            return False
        if owner in ended:
            mine = ended[owner].values
        else:
            mine = self._outcomes.there({owner}).get(owner, ())
        return any((one.path, one.name) == (value.path, value.name) for one in mine)

    def _is_written(self, freed: Sequence[Ref], garbage: Sequence[Value]) -> None:
        self._due.extend((value.path, value.name) for value in garbage)
        self._tell_all([ReleasedResult(task, place) for task, place in freed])

    def sweep(self, remove: Callable[[list[Garbage]], None]) -> None:
        """Have removed from the disk what has become garbage since the last call."""
        if self._due:
            due, self._due = self._due, []
            remove(self._store.garbage_among(due))

    # --- pilots

    def tell_later(self, unwanted: Mapping[str, Sequence[ReleasedResult]]) -> None:
        """Tell pilots, once it is written, which results their own tasks alone need."""
        for pilot, results in unwanted.items():
            self._commits.then(partial(self._tell, pilot, results))

    def _tell(self, pilot: str, results: Sequence[ReleasedResult]) -> None:
        if (peer := self._peers.pilots.get(pilot)) is not None:
            self._send(peer.address, Released(list(results)))

    def _tell_all(self, results: Sequence[ReleasedResult]) -> None:
        """Tell the pilots that may hold results, since they have run tasks of their sessions."""
        sessions = {session_of(result.task) for result in results}
        for peer in self._peers.pilots.values():
            if known := sessions & peer.sent.keys():
                mine = [one for one in results if session_of(one.task) in known]
                self._send(peer.address, Released(mine))
