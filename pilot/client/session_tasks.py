"""The tasks of a session that this process has submitted, or awaits.

Invariants
----------
- One submission at a time is made and queued: what is new in it, such as a function, goes before
  the submissions that refer to it.
- What could not be queued is awaited by nobody, and what is new in it goes with a later submission.
- Nothing is queued once the session is closed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from pilot.client.arguments import Origin
from pilot.client.awaited import Awaited
from pilot.client.commutative import Turns, ref_of
from pilot.client.connection import Connection
from pilot.client.future import Future, Owner
from pilot.client.group import NO_GROUP, Grouping, GroupKey, current_group
from pilot.client.numbers import Numbers
from pilot.client.ordering import After
from pilot.client.releasing import ReleasingFuture
from pilot.client.submission import Submission
from pilot.client.submitter import Call, Submitter
from pilot.errors import PilotError
from pilot.model.ids import Ref, parse_task_label, session_of, task_label
from pilot.model.objects import Naming
from pilot.model.session_retry import renumbered
from pilot.model.tasks import Function, TaskOutcome, TaskSpec, Template
from pilot.wire.messages import client as m


class TaskOwner(Owner, Grouping, Protocol):
    """A session, as far as its tasks need it."""


class SessionTasks:
    """The tasks of a session that this process has submitted, or awaits.

    Parameters
    ----------
    session
        The session.
    connection
        The connection to its head.
    submitter
        The maker of tasks from calls.
    numbers
        The ids that the tasks get.
    release_on_del
        True: a future that is deleted releases its results.
    """

    def __init__(
        self,
        session: TaskOwner,
        connection: Connection,
        submitter: Submitter,
        numbers: Numbers,
        release_on_del: bool = False,
    ) -> None:
        self._session = session
        self._connection = connection
        self._submitter = submitter
        self._numbers = numbers
        self._release_on_del = release_on_del
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._turns = Turns()
        #: True as long as tasks are taken.
        self.is_open = True

    @property
    def origin(self) -> Origin:
        """The site and database to which the ids of the tasks belong."""
        return self._submitter.origin

    # --- submission

    def submit(
        self, function: Callable[..., Any], calls: list[Call], after: After = ()
    ) -> list[Future[Any]]:
        """Submit one task for each call of a function, to start after the ends of others."""
        task = self._submitter.task(function)
        options = task.task_options
        return self._send(
            len(calls),
            lambda p, ids, group: self._submitter.add(
                p, task, calls, ids, group, after, self._turns
            ),
            options.return_names,
            options.return_count,
            task.__name__,
            # What a task takes by turns it leaves to others, which find it by no future.
            keeps=bool(options.commutative),
        )

    def latest(self, future: Future[Any]) -> Future[Any]:
        """Submit a task that takes over what those leave that take a value by turns."""
        anchor = ref_of(future, self.origin, self._session.id)
        return self._send(
            1,
            lambda p, ids, g: self._submitter.add_latest(p, anchor, ids[0], g, self._turns),
            name="latest",
        )[0]

    def put(
        self, value: Any, name: str, naming: Naming | None = None, compression: str | None = None
    ) -> Future[Any]:
        """Submit a value, as a task that is complete from the start; with a `naming` it is to be a
        version of an object."""
        put = self._submitter.put
        return self._send(1, lambda p, ids, g: put(p, value, name, ids[0], g, naming, compression))[
            0
        ]

    def put_many(
        self, values: list[Any], name: str, compression: str | None = None
    ) -> list[Future[Any]]:
        """Submit values, as tasks that are complete from the start."""
        put_many = self._submitter.put_many
        return self._send(
            len(values), lambda p, ids, g: put_many(p, values, name, ids, g, compression)
        )

    def _send(
        self,
        tasks: int,
        add: Callable[[Submission, list[int], GroupKey], None],
        names: tuple[str, ...] = (),
        count: int = 1,
        name: str = "",
        keeps: bool = False,
    ) -> list[Future[Any]]:
        self._session._check_process()
        group = current_group(self._session)
        ids = self._numbers.take(tasks) if self.is_open else []
        with self._lock:
            self._check_open()
            for refused in self._connection.take_refused(self._session.id):
                self._submitter.forget(refused)
            submission = Submission()
            try:
                add(submission, ids, group.key if group else NO_GROUP)
                futures = [Future[Any](self._session, n, names, count, name) for n in ids]
                self._queue(submission, futures)
            except BaseException:
                self._submitter.forget(submission)
                raise
            if group is not None:
                group.futures.extend(futures)
        return futures if keeps else self._for_user(futures)

    def _for_user(self, futures: list[Future[Any]]) -> list[Future[Any]]:
        """Return the futures that the user gets for those that are awaited."""
        if not self._release_on_del:
            return futures
        release = self._connection.released.append
        return [ReleasingFuture(future, release) for future in futures]

    def submit_again(self, kept: Mapping[str, Any]) -> dict[str, Future[Any]]:
        """Submit tasks again, as new ones.

        Parameters
        ----------
        kept
            The tasks, and all that they need, as the head's query ``retry`` returns them.

        Returns
        -------
        dict
            The new futures, by the ids of the tasks whose places they take.
        """
        submission = Submission()
        submission.functions = msgspec.convert(kept["functions"], list[Function])
        submission.templates = msgspec.convert(kept["templates"], list[Template])
        before = msgspec.convert(kept["tasks"], list[TaskSpec])
        ids = self._numbers.take(len(before)) if before else []
        submission.tasks = renumbered(before, ids)
        kinds = {template.id: template for template in submission.templates}
        with self._lock:
            self._check_open()
            futures = [
                Future[Any](self._session, spec.id, kind.return_names, kind.returns, kind.name)
                for spec in submission.tasks
                for kind in (kinds[spec.template],)
            ]
            self._queue(submission, futures)
        return {task_label(b.id): f for b, f in zip(before, futures, strict=True)}

    def _check_open(self) -> None:
        if not self.is_open:
            raise RuntimeError(
                "cannot schedule new futures after shutdown (or detach); open a session, or "
                f"attach again: pilot.Session(site=…, session_id={self._session.id})"
            )

    def _queue(self, submission: Submission, futures: list[Future[Any]]) -> None:
        """Have tasks sent; nobody waits for them where this is interrupted, as by Ctrl-C."""
        try:
            self._futures.update(futures)
            if futures:
                settlers: list[Awaited] = [_Settler(self._futures, future) for future in futures]
                self._connection.submit(self._session.id, submission, settlers)
        except BaseException:
            self._futures.difference_update(futures)
            raise

    # --- waiting

    def future(self, number: int) -> Future[Any]:
        """Return a future of a task that was submitted before, here or by another process."""
        future: Future[Any] = Future(self._session, number, count=None)
        self._futures.add(future)
        self._connection.watch({number: _Settler(self._futures, future)})
        return future

    def unfinished(self) -> list[Future[Any]]:
        """Return the awaited futures that are not done."""
        return [future for future in list(self._futures) if not future.done()]

    def wait(self) -> None:
        """Wait until all awaited tasks have ended."""
        concurrent.futures.wait(list(self._futures))

    # --- the end

    def close(self) -> bool:
        """Take no more tasks; return False if that was so before."""
        with self._lock:
            was_open, self.is_open = self.is_open, False
        return was_open

    def cancel(self, future: Future[Any]) -> None:
        """Have the head end a task whose future is cancelled."""
        self._futures.discard(future)
        self._connection.post(lambda n: m.Cancel(n, self._session.id, [future.task]))

    def cancel_waiting(self) -> None:
        """Cancel the awaited tasks that no pilot has."""
        waiting = {future.task: future for future in self.unfinished()}
        if waiting:
            asked = self._connection.request(
                # In the order of submission: what depends on others comes after these.
                lambda n: m.Cancel(n, self._session.id, sorted(waiting), waiting_only=True)
            )
            for task in asked:
                if (future := waiting.get(task)) is not None:
                    future._end_cancelled()
                    self._futures.discard(future)

    def release(self, futures: Iterable[Future[Any]]) -> list[int | Ref]:
        """Have futures know that their results are released; return these, or tasks as a whole.

        Raises
        ------
        PilotError
            One is not a future of a task of this session. Then none is released.
        """
        given = list(futures)
        for future, number in zip(given, self.numbers_of(given), strict=True):
            if session_of(number) != self._session.id:
                raise PilotError(
                    f"the future of task {future.task_id} is of session {session_of(number)}, and "
                    f"this is session {self._session.id}; nothing was released. Only a task's own "
                    "session can release its results"
                )
        return [future._let_go() for future in given]

    def numbers_of(self, futures: Iterable[Future[Any]]) -> list[int]:
        """Return the numbers of tasks, after checking that they are of this site.

        Raises
        ------
        PilotError
            One is not a future of a task, or of another site, where its id names another task.
        """
        tasks = []
        for future in futures:
            if not isinstance(future, Future):
                raise no_future(future)
            if not future.origin.is_that_of(self.origin):
                raise PilotError(
                    f"the future of task {future.task_id} is of "
                    f"{future.origin.other_than(self.origin)}, and this session of site "
                    f"{self._session.site.name}; nothing was done"
                )
            tasks.append(future.task)
        return tasks


def no_future(given: object) -> PilotError:
    """Return the error that something that was given is no future."""
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            parse_task_label(given)
            return PilotError(
                f"{given!r} is the id of a task, and nothing was done; give its future, which "
                f"session.future({given!r}) returns"
            )
    return PilotError(
        f"{given!r:.100} is no future of a task, and nothing was done; the futures "
        "that submit, map and session.future(id) give are"
    )


def several(futures: Any) -> list[Any]:
    """Return a list of what was given, also where that is a single future.

    Raises
    ------
    PilotError
        It is neither a future nor something that has some.
    """
    if isinstance(futures, Future):
        return [futures]
    if isinstance(futures, (str, bytes)) or not isinstance(futures, Iterable):
        raise no_future(futures)
    return list(futures)


class _Settler:
    """A link that passes the news of a task to its future, which is awaited until it is done."""

    __slots__ = ("awaited", "future")

    def __init__(self, awaited: set[Future[Any]], future: Future[Any]) -> None:
        self.awaited = awaited
        self.future = future

    def settle(self, outcome: TaskOutcome) -> None:
        self.future._settle(outcome)
        self.awaited.discard(self.future)

    def refuse(self, error: Exception) -> None:
        self.future._fail(error, "REFUSED")
        self.awaited.discard(self.future)

    def fail(self, error: Exception) -> None:
        self.future._fail(error, "LOST")
        self.awaited.discard(self.future)

    def started(self) -> None:
        self.future._start()

    def disown(self, error: Exception) -> None:
        self.future._disown(error)
