"""The lookup of tasks that may have run before: as they become ready, by key, in the database.

Invariants
----------
- A hit is used within the turn of the loop in which it was looked up: nobody deletes the results in
  between.
- The loop does not wait for the file system: where files belong to the results, a thread looks
  whether they are there as they were.
- A task that cannot be looked up runs, as one that has not run before; its key is empty.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial

from pilot.data.file_stamps import unchanged
from pilot.head.core import memo_keys
from pilot.head.core.events import TasksLookedUp
from pilot.head.core.state import Task
from pilot.head.machine import HERE, Machine
from pilot.head.store.reader import Reader
from pilot.model.ids import task_label
from pilot.model.tasks import TaskSpec, Template
from pilot.model.values import Value

log = logging.getLogger("pilot.head")


class MemoLookup:
    """Tasks with a cache that wait for being looked up.

    Parameters
    ----------
    store
        The database.
    values
        The results of tasks that have ended.
    notify
        Called from a thread when there is something to `take`.
    machine
        Has the thread.
    """

    def __init__(
        self,
        store: Reader,
        values: Callable[[set[int]], dict[int, tuple[Value, ...]]],
        notify: Callable[[], None],
        machine: Machine = HERE,
    ) -> None:
        self._store = store
        self._values = values
        self._notify = notify
        #: The known part of the keys of unfinished tasks with a cache.
        self._bases: dict[int, bytes] = {}
        self._due: list[Task] = []
        #: The thread's results: task, key, and True if the files are unchanged.
        self._looked: deque[tuple[int, bytes, bool]] = deque()
        self._thread = machine.start_thread("memo lookup")

    def accepted(self, template: Template, spec: TaskSpec) -> None:
        """Note a task that was accepted or restored."""
        if template.cache:
            self._bases[spec.id] = memo_keys.base(template, spec)

    def ended(self, task: int) -> None:
        """Forget a task that has ended."""
        self._bases.pop(task, None)

    def add(self, tasks: Collection[Task]) -> None:
        """Queue tasks to be looked up."""
        self._due.extend(tasks)

    def take(self) -> TasksLookedUp | None:
        """Return the results of the lookups so far, or None if there is nothing new."""
        keys: dict[int, bytes] = {}
        hits: dict[int, int] = {}
        if self._due:
            keys = self._look_up_all(hits)
        while self._looked:
            task, key, good = self._looked.popleft()
            keys[task] = key
            if good and (hit := self._store.look_up([key]).get(key)) is not None:
                hits[task] = hit
        if not keys:
            return None
        return TasksLookedUp(keys, self._found(hits))

    def _found(self, hits: dict[int, int]) -> dict[int, tuple[Value, ...]]:
        """Return the results of hits that can be read."""
        try:
            outcomes = self._store.results(hits.values())
        except Exception as error:
            log.error("results of earlier runs cannot be read: %s; their tasks run again", error)
            return {}
        results = {one.task: one.values for one in outcomes if one.failure is None}
        return {task: results[hit] for task, hit in hits.items() if hit in results}

    def _look_up_all(self, hits: dict[int, int]) -> dict[int, bytes]:
        """Return the keys of the queued tasks; empty keys for tasks that cannot be looked up."""
        tasks, self._due = self._due, []
        try:
            return self._look_up(tasks, hits)
        except Exception:
            log.exception("tasks that may have run before cannot be looked up together")
        keys: dict[int, bytes] = {}
        for task in tasks:
            try:
                keys |= self._look_up([task], hits)
            except Exception as error:
                log.error("task %s cannot be looked up: %r; it runs", task_label(task.id), error)
                keys[task.id] = b""
        return keys

    def _look_up(self, tasks: list[Task], hits: dict[int, int]) -> dict[int, bytes]:
        """Return the keys of tasks; add known ones to `hits`, or let the thread check files."""
        values = self._values({source for task in tasks for source, _ in task.inputs})
        keys = {
            task.id: memo_keys.key(
                self._bases[task.id], (values[source][index] for source, index in task.inputs)
            )
            for task in tasks
            if task.id in self._bases
        }
        known = self._store.look_up(set(keys.values()))
        files = self._store.files(known.values()) if known else {}
        for task, key in list(keys.items()):
            hit = known.get(key)
            if hit is None:
                continue
            if hit not in files:
                hits[task] = hit
                continue
            look = self._thread.submit(unchanged, files[hit])
            look.add_done_callback(partial(self._have_looked, task, key))
            del keys[task]
        return keys

    def _have_looked(self, task: int, key: bytes, look: Future[bool]) -> None:
        good = not look.cancelled() and look.exception() is None and look.result()
        self._looked.append((task, key, good))
        self._notify()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)
