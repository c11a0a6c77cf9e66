"""A client's connection to the head: one thread that sends what is submitted and brings results.

Invariants
----------
- What was submitted is kept until the head has accepted it, and sent again to a new head; the head
  knows it by its ids, so nothing is doubled.
- Nothing overtakes what was sent before it, also when it is sent again.
- What the head has been sent and has not accepted is bounded in bytes: the rest waits here. So a
  head whose disk is full, or slow, is sent no more than it can keep.
- When the head is gone the thread looks for the next one, or starts it, and asks again for every
  task that is still awaited: futures resolve as if nothing had happened.
- The user's threads never touch a socket: they put things into queues and wake the thread.
- The head, also the next one, knows which ids this client was given: so it tells it of those tasks.
- What is released goes behind all that was submitted before, and is sent again as that is.
- Nothing of a user's runs in the thread: neither callbacks nor what is unpickled.
- What cannot be sent is refused to whoever wanted to send it, and harms nobody else.
- A forked copy of the process has no connection: all that is asked of it raises at once.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import chain
from typing import Any

import msgspec

from pilot import clock
from pilot.client.awaited import Awaited, Both
from pilot.client.callbacks import Callbacks, CalledBack
from pilot.client.comparison import Comparison
from pilot.client.head_finder import HeadFinder
from pilot.client.numbers import Numbers
from pilot.client.outgoing import plain
from pilot.client.portions import Item, portions, size_of
from pilot.client.submission import Submission
from pilot.data.pickling_by_value import INTERPRETER
from pilot.errors import (
    HeadError,
    PilotError,
    SubmissionError,
)
from pilot.limits import UNACCEPTED_BYTES
from pilot.site import Site
from pilot.texts import printable
from pilot.version import __version__
from pilot.wire.channel import Client, Unreadable
from pilot.wire.discovery import read_address
from pilot.wire.keys import load_keys
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome
from pilot.wire.polling import poller_of

#: The interval in seconds at which the head is asked again after something unreadable.
ASK_AGAIN_S = 20.0
#: The interval in seconds at which the address of a silent head is read.
WATCH_S = 0.25
#: Released results in one message.
RELEASED = 50_000
#: A client that submits says so often that it lives, and comes back to its sessions when it was
#: stopped for longer.
ALIVE_S = 60.0
#: A head from which something is awaited, and nothing has come for so long, is asked whether it is
#: there; one that does not answer that for so long does not answer.
PING_S, SILENT_S = 15.0, 60.0
#: A head that accepts nothing for so long is asked whether it can write, by who asks for a reason.
TROUBLE_S = 2.0

log = logging.getLogger("pilot")

#: The connections of this process.
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection:
    """A connection to the head of a site, with its thread.

    Parameters
    ----------
    site
        The site.
    start
        True: start a head where none runs; False: raise then; None: wait for one.
    submits
        True if it will submit tasks, False if it only asks.

    Raises
    ------
    HeadError
        There is no head, it does not start, or does not answer.
    AuthenticationError
        The head has other keys.
    """

    def __init__(self, site: Site, start: bool | None = True, submits: bool = True) -> None:
        self._site = site
        self._start = start
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._awake = False
        self._lock = threading.Lock()
        #: The queue to be sent, in order: messages, and submissions with their sessions.
        self._outbox: list[Item] = []
        #: The items before that queue, in the portions in which they will be sent.
        self._portions: deque[Item] = deque()
        #: Bytes of what was submitted and is not accepted, by its number and in all.
        self._sizes: dict[int, int] = {}
        self._unaccepted_bytes = 0
        #: What was released and is not in that queue yet: results, and tasks as a whole. Futures
        #: that are deleted append to it, at any moment and in any thread: it has no lock.
        self.released: deque[int | tuple[int, int]] = deque()
        #: The messages that were sent and are not answered, by number, in order.
        self._open: dict[int, msgspec.Struct] = {}
        self._awaited: dict[int, Awaited] = {}
        self._requests: dict[int, CalledBack[Any]] = {}
        self._numbers = itertools.count(1)
        self._submits = submits
        #: The ids that the head has given, as first ones and lengths of rows.
        self._blocks: list[tuple[int, int]] = []
        self._given: list[Numbers] = []
        #: What the head says of the Python of the pilots.
        self.comparison = Comparison()
        self._asked_again = -ASK_AGAIN_S
        self._stopping = False
        self._failure: Exception | None = None
        self._ready: Future[None] = Future()
        self._head = HeadFinder(site, start, self._hello, lambda: self._stopping, self._ready.done)
        self._flushed = threading.Condition(self._lock)
        #: The sessions that its user has open.
        self.sessions: set[int] = set()
        #: By session, refused submissions that had functions or templates with them, which the
        #: head may not know.
        self._refused: dict[int, list[m.Submit]] = {}
        #: The time of its last sign of life, by a clock that goes on while the process is stopped.
        self._said = clock.now()
        #: The time after which it gives the next one, in seconds.
        self._alive_s = ALIVE_S
        #: The time of the ping that the head has not answered; 0: none.
        self._pinged = 0.0
        self._warned = False
        #: The reason, as users were told, why the head cannot write; empty: it can.
        self._trouble = ""
        #: The process that this belongs to, in a forked copy of it; 0: this one.
        self.owner = 0
        self._process = os.getpid()
        self._callbacks = Callbacks()
        _connections.add(self)
        self._thread = threading.Thread(target=self._run, name="pilot-connection", daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self.close()
            raise

    # --- for users' threads

    def numbers(self, session: int, first: int, count: int) -> Numbers:
        """Return the ids for tasks of a session, of which the head has given the first block."""
        numbers = Numbers(
            first, count, lambda n: self.post(lambda r: m.Reserve(r, session, n)), self._wait_for
        )
        self._given.append(numbers)
        return numbers

    def attend(self, grace_s: float) -> None:
        """Say often enough that this client lives for a session that ends without it so soon."""
        self._alive_s = min(self._alive_s, grace_s / 4)

    def submit(
        self,
        session: int,
        submission: Submission,
        awaited: list[Awaited],
    ) -> None:
        """Send tasks, and later tell `awaited` (in the same order) how they ended."""
        with self._lock:
            self._check()
            # First: what is interrupted here, as by Ctrl-C, awaits nothing that is never sent.
            self._outbox.append((session, submission))
            for spec, future in zip(submission.tasks, awaited, strict=True):
                self._awaited[spec.id] = future
        self._notify()

    def watch(self, awaited: dict[int, Awaited]) -> None:
        """Tell the receivers how their tasks, which were submitted before, end or ended."""
        with self._lock:
            self._check()
            new = [task for task in awaited if task not in self._awaited]
            for task, future in awaited.items():
                known = self._awaited.get(task)
                self._awaited[task] = future if known is None else Both(known, future)
            if new:  # of the others the head will tell anyway
                self._outbox.append(m.Watch(new))
        self._notify()

    def release(self, results: Iterable[int | tuple[int, int]]) -> None:
        """Tell the head that nobody asks for these results, or tasks, after what was submitted."""
        with self._lock:
            self._check()
        self.released.extend(results)
        self._notify()

    def request(self, make: Callable[[int], msgspec.Struct], timeout: float | None = 60.0) -> Any:
        """Send the message that `make` returns for a request number, and wait for the reply.

        Raises
        ------
        HeadError
            The head refused, or did not answer in `timeout` seconds.
        """
        future = self.post(make)
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            raise HeadError(
                f"the head of {self._site.name} did not answer within {timeout:g} s; see "
                f"{self._site.logs / 'head.log'}"
            ) from None

    def post(self, make: Callable[[int], msgspec.Struct]) -> Future[Any]:
        """Send the message that `make` returns for a request number; return the reply's future.

        Raises
        ------
        PilotError
            The message cannot be sent.
        """
        number = next(self._numbers)
        message = plain(make(number))
        future: CalledBack[Any] = CalledBack()
        with self._lock:
            self._check()
            self._requests[number] = future
            self._outbox.append(message)
        self._notify()
        return future

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was submitted is accepted (and thus durable).

        Raises
        ------
        HeadError
            The head does not answer, not even to say that it is there.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._flushed:
            if self.released and not self._failure:
                self._queue_released()
        self._notify()
        with self._flushed:
            while not (self._failure or self._is_flushed()):
                left = 1.0 if end is None else min(1.0, end - time.monotonic())
                if left <= 0:
                    return False
                self._flushed.wait(left)
                self._check_silence("What was submitted last is not accepted, so it may be lost")
            if self.owner and self._failure:
                raise self._failure
            return True

    def flush_or_trouble(self) -> None:
        """Wait like `flush`, but no longer once the head says that it cannot write."""
        while not self.flush(TROUBLE_S):
            if self.request(lambda n: m.Query(n, "head")).get("unwritten"):
                return

    def _check_silence(self, consequence: str) -> None:
        """Raise if the head has been silent for too long; never where `start` is None."""
        if self._start is not None and self.silence() > SILENT_S:
            raise HeadError(
                f"{self._who()} does not answer; is it stopped? {consequence}; see "
                f"{self._site.logs / 'head.log'}"
            )

    def _wait_for(self, future: Future[Any]) -> None:
        """Wait for an answer for as long as the head gives signs of life."""
        while not future.done():
            wait((future,), 1.0)
            self._check_silence("Nothing was submitted")
        future.result()

    def silence(self) -> float:
        """Return the seconds for which the head has not answered a ping."""
        pinged = self._pinged
        return time.monotonic() - pinged if pinged else 0.0

    def _is_flushed(self) -> bool:
        unsent = chain(self._portions, self._outbox, self._open.values())
        return not any(isinstance(item, (tuple, m.Submit, m.Release)) for item in unsent)

    def _who(self) -> str:
        """Return words that name the head."""
        address = read_address(self._site.address_file)
        where = f" (pid {address.pid} on {address.host})" if address else ""
        return f"the head of {self._site.name}{where}"

    @property
    def database(self) -> str:
        """The identity of the site's database; empty: the head does not say."""
        return self._head.database

    @property
    def is_closed(self) -> bool:
        """True if the connection was closed, or is about to be."""
        return self._stopping

    def close(self, callbacks: bool = False) -> None:
        """End the thread; messages that were not sent are dropped (see `flush`).

        Parameters
        ----------
        callbacks
            Wait also until the callbacks of all results that have come were called.
        """
        if self.owner:
            return
        self._stopping = True
        self._notify()
        if self._thread is not threading.current_thread():
            self._thread.join()
            if callbacks:
                self._callbacks.close()

    def disown(self) -> None:
        """Give up the connection in a forked copy: thread and socket belong to the parent.

        Another thread may have held a lock when the process was forked.
        """
        if self.owner:
            return
        self.owner = self._process
        self._lock = threading.Lock()
        self._flushed = threading.Condition(self._lock)
        error = PilotError(
            f"this connection to the head of {self._site.name} belongs to process {self.owner}, of "
            f"which this process ({os.getpid()}) is a forked copy; open a session here"
        )
        self._failure = error
        self._stopping = True
        self._callbacks = Callbacks()
        for awaited in list(self._awaited.values()):
            awaited.disown(error)
        for request in list(self._requests.values()):
            request._condition = threading.Condition()
            request._done_callbacks.clear()
            if not request.done():
                request.set_exception(error)
        self._awaited, self._requests, self._open, self._outbox = {}, {}, {}, []
        self._portions.clear()
        self.released.clear()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopping:
            raise HeadError("this connection is closed")

    def _notify(self) -> None:
        # One wake-up for many submissions: the thread clears the flag before it looks.
        if self._awake:
            return
        with self._lock:
            if not self._awake:
                self._awake = True
                os.eventfd_write(self._wake, 1)

    # --- the thread

    def _run(self) -> None:
        client: Client[Any] | None = None
        self._callbacks.serve_this_thread()
        try:
            self._site.prepare()
            client = Client(
                load_keys(self._site.keys),
                b"client:" + uuid.uuid4().bytes,
                m.ToClient,
            )
            self._connect(client)
            self._ready.set_result(None)
            self._serve(client)
        except Exception as error:
            self._fail(error)
        finally:
            if client is not None:
                if self._ready.done() and not self._failure:
                    unused = [row for numbers in self._given for row in numbers.give_back()]
                    client.send(m.ClientBye(unused))
                client.close()
            self._fail(HeadError("this connection is closed"))
            with self._lock:
                # For good: nobody writes to a number that may soon be another file's.
                self._awake = True
                os.close(self._wake)
            self._callbacks.close(wait=False)

    def _serve(self, client: Client[Any]) -> None:
        self._client = client
        self._poll = poller_of(client.source, self._wake)
        self._heard = time.monotonic()
        while not self._turn():
            pass

    def _turn(self) -> bool:
        """Send what is queued, and receive what has come; return whether that was the last turn."""
        client = self._client
        for source, _ in self._poll.poll(int(WATCH_S * 1000)):
            if source == self._wake:
                os.eventfd_read(self._wake)
        self._awake = False
        stopping = self._stopping
        self._send(client)
        for message in client.receive():
            try:
                self._take(message)
            except Exception:
                # One message that is wrong is no reason to give up all that is awaited.
                log.exception("a %s of the head could not be taken in", type(message).__name__)
            self._heard = time.monotonic()
            self._pinged = 0.0
        for unreadable in client.take_unreadable():
            self._take_unreadable(client, unreadable)
        if self._portions:
            self._send(client)  # something may have been accepted
        now = time.monotonic()
        if now - self._heard > PING_S:
            self._ping(client, now)
        if (self._submits or self.sessions) and clock.now() - self._said > self._alive_s:
            self._tell_of_life(client)
        if (
            not stopping
            and now - self._heard > WATCH_S
            and (client.is_lost or self._head.is_lost(self._wants))
        ):
            self._connect(client)
            self._poll = poller_of(client.source, self._wake)
            self._heard = time.monotonic()
        return stopping

    def _ping(self, client: Client[Any], now: float) -> None:
        """Ping a silent head from which something is awaited."""
        if not self._pinged:
            if self._open or self._awaited:
                self._pinged, self._warned = now, False
                client.send(m.Query(0, "head"))  # nobody waits for the answer: it is a sign of life
        elif now - self._pinged > SILENT_S and not self._warned:
            self._warned = True
            log.warning(
                "pilot: %s has not answered for %.0f s; is it stopped, or its machine overloaded?",
                self._who(),
                now - self._pinged,
            )

    def _note_trouble(self, trouble: str) -> None:
        """Tell users once, until it has passed, that the head lives and cannot write."""
        if trouble and not self._trouble:
            log.warning(
                "pilot: %s cannot write its database: %s; it waits for that, and nothing is lost",
                self._who(),
                trouble,
            )
        self._trouble = trouble

    def _tell_of_life(self, client: Client[Any]) -> None:
        """Tell the head each minute, or sooner, that the sessions are still in use."""
        now = clock.now()
        silent, self._said = now - self._said, now
        if silent > 2 * ALIVE_S:
            # The process or its machine was stopped meanwhile: they may have been closed.
            for session in self.sessions:
                client.send(m.ControlSession(0, session, "rejoin"))
            self._greet_again(client)
        client.send(m.Watch([]))

    def _hello(self) -> m.ClientHello:
        return m.ClientHello(PROTOCOL, __version__, self._submits, self._blocks, INTERPRETER)

    def _greet_again(self, client: Client[Any]) -> None:
        """Greet the same head anew, which may have forgotten this client, and ask again."""
        client.send(self._hello())
        if watched := self._accepted():
            client.send(m.Watch(watched))

    def _accepted(self) -> list[int]:
        """Return the awaited tasks that the head knows."""
        with self._lock:
            known = {spec.id for submit in self._unaccepted() for spec in submit.tasks}
            known.update(spec.id for _, submission in self._unsent() for spec in submission.tasks)
            return [task for task in self._awaited if task not in known]

    def _wants(self) -> bool:
        """Tell whether anything is wanted of the head."""
        return bool(self._awaited or self._open or self._requests or self._outbox or self._portions)

    def _connect(self, client: Client[Any]) -> None:
        """Find or start the head, greet it, and ask again for everything that is open."""
        welcome = self._head.connect(client)
        if welcome is not None and welcome.python:
            self.comparison.python = welcome.python
        self._pinged = 0.0
        watched = self._accepted()
        with self._lock:
            again = list(self._open.values())
            self._outbox[:] = [
                item for item in (*self._portions, *self._outbox) if not isinstance(item, m.Watch)
            ]
            self._portions.clear()
        for session in self.sessions:
            client.send(m.ControlSession(0, session, "rejoin"))
        for message in again:
            client.send(message)
        if watched:
            client.send(m.Watch(watched))

    def _unsent(self) -> list[tuple[int, Submission]]:
        """Return the submissions that are still to be sent."""
        return [item for item in chain(self._portions, self._outbox) if isinstance(item, tuple)]

    def _unaccepted(self) -> list[m.Submit]:
        """Return the submissions that the head has not accepted yet."""
        return [message for message in self._open.values() if isinstance(message, m.Submit)]

    def _queue_released(self) -> None:
        """Queue what was released up to now behind all that was submitted before."""
        count = len(self.released)  # more may come meanwhile
        while count > 0:
            some = [self.released.popleft() for _ in range(min(count, RELEASED))]
            count -= len(some)
            whole = [one for one in some if isinstance(one, int)]
            parts = [one for one in some if not isinstance(one, int)]
            self._outbox.append(m.Release(next(self._numbers), whole, parts))

    def _send(self, client: Client[Any]) -> None:
        with self._lock:
            if self.released:
                self._queue_released()
            messages: list[msgspec.Struct] = []
            while self._unaccepted_bytes <= UNACCEPTED_BYTES:
                if not self._portions:
                    if not self._outbox:
                        break
                    outbox, self._outbox = self._outbox, []
                    self._portions.extend(portions(outbox))
                item = self._portions.popleft()
                if isinstance(item, tuple):
                    session, submission = item
                    seq = next(self._numbers)
                    size = size_of(submission)
                    item = m.Submit(
                        seq, session, submission.functions, submission.templates, submission.tasks
                    )
                    self._open[seq] = item
                    self._sizes[seq] = size
                    self._unaccepted_bytes += size
                elif isinstance(item, m.Release):
                    self._open[item.seq] = item
                elif (number := getattr(item, "request", None)) is not None:
                    self._open[number] = item
                messages.append(item)
        for message in messages:
            try:
                client.send(message)
            except Exception as error:
                self._refuse(message, error)

    def _refuse(self, message: Any, error: Exception) -> None:
        """Answer for a message that cannot be encoded: only its sender is concerned."""
        text = f"it cannot be sent: {type(error).__name__}: {error}"
        if isinstance(message, m.Submit):
            refused = [(spec.id, text) for spec in message.tasks]
            self._take(m.Accepted(message.seq, refused))
        elif isinstance(message, m.Release):
            self._take(m.Accepted(message.seq))
        else:
            self._take(m.Reply(message.request, error=text))

    def _take(self, message: Any) -> None:
        if isinstance(message, m.Outcomes):
            with self._lock:
                settled = [(self._awaited.pop(o.task, None), o) for o in message.outcomes]
            for awaited, outcome in settled:
                if awaited is not None:
                    awaited.settle(outcome)
        elif isinstance(message, m.Started):
            for task in message.tasks:
                if awaited := self._awaited.get(task):
                    awaited.started()
        elif isinstance(message, m.Accepted):
            with self._flushed:
                said = self._open.pop(message.seq, None)
                if isinstance(said, m.Submit) and len(message.refused) == len(said.tasks):
                    self._note_refused(said)
                self._unaccepted_bytes -= self._sizes.pop(message.seq, 0)
                refused = [(self._awaited.pop(task, None), why) for task, why in message.refused]
                self._flushed.notify_all()
            for awaited, reason in refused:
                if awaited is not None:
                    awaited.refuse(SubmissionError(reason))
        elif isinstance(message, m.Notice):
            log.warning("pilot: session %d: %s", message.session, printable(message.text))
        elif isinstance(message, m.PilotsInstallation):
            self.comparison.learn(message.installation)
        elif isinstance(message, Welcome):
            if message.refused == WHO_ARE_YOU:
                self._greet_again(self._client)
        elif isinstance(message, m.Reply):
            with self._lock:
                asked = self._open.pop(message.request, None)
                if isinstance(asked, (m.OpenSession, m.Reserve)) and not message.error:
                    # Here, and not where it was asked: the next head must not be greeted before.
                    self._note_block(*message.result[-2:])
                if not message.request and isinstance(message.result, dict):
                    self._note_trouble(message.result.get("unwritten", ""))
                future = self._requests.pop(message.request, None)
                if isinstance(asked, m.Release):  # an earlier head does not know of that
                    self._flushed.notify_all()
            if isinstance(asked, m.Submit):  # the head could not read it
                unread = [(spec.id, message.error) for spec in asked.tasks]
                with self._lock:
                    self._note_refused(asked)
                self._take(m.Accepted(asked.seq, unread))
            if future is not None and message.error:
                future.set_exception(PilotError(message.error))
            elif future is not None:
                future.set_result(message.result)

    def _note_refused(self, submit: m.Submit) -> None:
        if submit.functions or submit.templates:
            self._refused.setdefault(submit.session, []).append(submit)

    def take_refused(self, session: int) -> list[m.Submit]:
        """Return refused submissions of a session, whose functions and templates must go again."""
        return self._refused.pop(session, []) if self._refused else []

    def _note_block(self, first: int, count: int) -> None:
        before = self._blocks[-1] if self._blocks else (0, 0)
        if sum(before) == first:
            first, count = before[0], before[1] + count
            self._blocks.pop()
        self._blocks.append((first, count))

    def _take_unreadable(self, client: Client[Any], unreadable: Unreadable) -> None:
        """Answer for an unreadable message of the head, which does not send it again."""
        now = time.monotonic()
        if unreadable.kind == m.Reply.__name__ and unreadable.number is not None:
            error = f"the head's answer cannot be read: {unreadable.reason}"
            self._take(m.Reply(unreadable.number, error=error))
        elif now - self._asked_again > ASK_AGAIN_S:
            self._asked_again = now
            with self._lock:
                awaited = list(self._awaited)
            client.send(m.Watch(awaited))

    def _fail(self, error: Exception) -> None:
        """Tell everybody who waits that nothing more will come."""
        with self._flushed:
            if self._failure is not None:
                return
            self._failure = error
            awaited = list(self._awaited.values())
            requests = list(self._requests.values())
            self._awaited.clear()
            self._requests.clear()
            self._flushed.notify_all()
        if not self._ready.done():
            self._ready.set_exception(error)
        for future in requests:
            future.set_exception(error)
        for waiting in awaited:
            waiting.fail(error)


def _disown_all() -> None:
    for connection in list(_connections):
        connection.disown()


os.register_at_fork(after_in_child=_disown_all)
