"""A client: keeps what it submitted until it is accepted, and asks every new head again.

As `pilot.wire.connection` does: each head is greeted, and when it has welcomed the client, hears
again of what was not answered, in order, and then of what is awaited.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pilot.client.numbers import Numbers
from pilot.model.ids import Ref, session_of
from pilot.model.objects import Naming
from pilot.model.tasks import Environment, Function, TaskSpec, Template
from pilot.version import __version__
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome
from simulated.network import Link

if TYPE_CHECKING:
    from simulated.cluster import Cluster
    from simulated.head import Head

#: A client looks for a new head so often, and says so often that it lives, in seconds.
LOOK_S, ALIVE_S = 0.5, 60.0


def does_not_wait(asked: Future[Any]) -> None:
    """Stand for a thread that would wait here."""
    raise InterruptedError


class Client:
    """One client with its connection."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.clock = cluster.clock
        self.name = name
        self.is_alive = True
        #: On the head's machine, so that the kernel tells when it is gone.
        self.is_here = cluster.chance("client", name).random() < 0.5
        self._link: Link | None = None
        self._head: Head | None = None
        self._welcomed = False
        self._connects = itertools.count(1)
        self._sequence = itertools.count(1)
        #: What was said and is not answered, by its number, in order.
        self._open: dict[int, msgspec.Struct] = {}
        self._replies: dict[int, Callable[[m.Reply], None]] = {}
        self.awaited: set[int] = set()
        self.refused: dict[int, str] = {}
        self.blocks: list[tuple[int, int]] = []
        self.numbers: dict[int, Numbers] = {}
        #: What is called when tasks have ended.
        self._when: dict[int, list[Callable[[int], None]]] = {}
        #: Templates and functions that each session's head has from here.
        self._introduced: dict[int, set[int]] = {}
        self._said = self.clock.now
        self._alive_s = cluster.hasty(ALIVE_S)
        self._look()

    @property
    def is_settled(self) -> bool:
        """Tell whether the client waits for nothing."""
        return not (self._open or self.awaited)

    @property
    def is_asking(self) -> bool:
        """Tell whether something that was said is not answered."""
        return bool(self._open)

    def describe(self) -> str:
        """Return what it waits for."""
        return f"{self.name}: open {list(self._open.values())}, awaited {self.awaited}"

    # --- the connection

    def _look(self) -> None:
        """Connect to a new head, or again; say sometimes that the client lives."""
        if not self.is_alive:
            return
        head, link = self.cluster.head, self._link
        if head is not None and head.is_alive:
            if head is not self._head or link is None or not link.is_alive:
                self._connect(head)
            elif self._welcomed and self.clock.now - self._said > self._alive_s:
                self._said = self.clock.now
                self._send(m.Watch([]))
        self.clock.after(LOOK_S, self._look)

    def _connect(self, head: Head) -> None:
        self._head, self._welcomed = head, False
        name = f"client:{self.name}#{next(self._connects)}".encode()
        self._link = Link(head.server, name, self._take, self.is_here)
        self._link.send(m.ClientHello(PROTOCOL, __version__, True, self.blocks))

    def _send(self, message: msgspec.Struct) -> None:
        if self._link is not None:
            self._link.send(message)

    def break_off(self) -> None:
        """Lose the connection."""
        if self._link is not None:
            self._link.break_off()

    def die(self) -> None:
        """End without a word; of what it has submitted nobody is told."""
        self.is_alive = False
        self.break_off()

    def leave(self) -> None:
        """Say good-bye."""
        self.is_alive = False
        unused = [row for numbers in self.numbers.values() for row in numbers.give_back()]
        self._send(m.ClientBye(unused))
        if self._link is not None:
            self._link.hang_up()

    # --- what it says

    def _say(self, number: int, message: msgspec.Struct) -> None:
        self._open[number] = message
        if self._welcomed:
            self._send(message)

    def _request(
        self, make: Callable[[int], msgspec.Struct], reply: Callable[[m.Reply], None]
    ) -> None:
        number = next(self._sequence)
        self._replies[number] = reply
        self._say(number, make(number))

    def open(self, session: int, then: Callable[[int], None], grace_s: float = 0.0) -> None:
        """Open a session, or attach to one; `then` gets its number.

        With `grace_s` it ends when its clients have been gone for so long.
        """

        def reply(message: m.Reply) -> None:
            if not message.error:
                number, _, first, count = message.result
                reserve = partial(self._reserve, number)
                self.numbers[number] = Numbers(first, count, reserve, does_not_wait)
                if grace := self.cluster.oracle.bound().get(number):
                    self._alive_s = min(self._alive_s, grace / 4)
                then(number)

        environment = Environment("/", (), {})
        self._request(lambda r: m.OpenSession(r, "s", environment, session, grace_s=grace_s), reply)

    def _reserve(self, session: int, count: int) -> Future[Any]:
        asked: Future[Any] = Future()

        def reply(message: m.Reply) -> None:
            if message.error:
                asked.set_exception(RuntimeError(message.error))
            else:
                asked.set_result(message.result)

        self._request(lambda r: m.Reserve(r, session, count), reply)
        return asked

    def submit(self, session: int, templates: list[Template], tasks: list[TaskSpec]) -> None:
        """Submit tasks, with the templates that this session has not from here."""
        known = self._introduced.setdefault(session, set())
        new = [one for one in templates if one.id not in known]
        known.update(one.id for one in new)
        self.awaited.update(spec.id for spec in tasks)
        number = next(self._sequence)
        functions = [Function(one.function, b"code") for one in new]
        self._say(number, m.Submit(number, session, functions, new, tasks))

    def release(self, tasks: list[int], parts: list[Ref]) -> None:
        """Say that results will not be asked for again."""
        number = next(self._sequence)
        self._say(number, m.Release(number, tasks, parts))

    def detach(
        self,
        parent: int,
        templates: list[Template],
        tasks: list[TaskSpec],
        reply: Callable[[m.Reply], None],
    ) -> None:
        """Submit children of a task that begin at once, as an executor does."""
        functions = [Function(one.function, b"code") for one in templates]
        session = session_of(parent)
        self._request(lambda r: m.Detach(r, session, parent, functions, templates, tasks), reply)

    def when_ended(self, tasks: list[int], then: Callable[[], None]) -> None:
        """Call `then` once these have ended."""
        left = set(tasks)

        def ended(task: int) -> None:
            left.discard(task)
            if not left:
                then()

        for task in tasks:
            self._when.setdefault(task, []).append(ended)
        self.watch(tasks)

    def watch(self, tasks: list[int]) -> None:
        """Wait for others' tasks, too."""
        self.awaited.update(tasks)
        if self._welcomed:
            self._send(m.Watch(tasks))

    def cancel(
        self, session: int, tasks: list[int], group: str = "", waiting_only: bool = False
    ) -> None:
        """Cancel tasks, or all of a group or a session, or what of these waits."""
        self._request(lambda r: m.Cancel(r, session, tasks, group, waiting_only), lambda _: None)

    def delete_results(self, tasks: list[int]) -> None:
        """Delete the results of tasks."""
        self._request(lambda r: m.DeleteResults(r, tasks), lambda _: None)

    def name_result(self, task: int, name: str) -> None:
        """Make a task's first result a version of an object."""

        def reply(message: m.Reply) -> None:
            if not message.error:
                self.cluster.oracle.named(name, message.result, task)

        self._request(lambda r: m.NameResult(r, task, 0, Naming(name)), reply)

    def control_object(self, verb: str, name: str, alias: str = "") -> None:
        """Remove a version, or have an alias stand for it."""
        self._request(lambda r: m.ControlObject(r, verb, [name], alias), lambda _: None)

    def command(self, name: str, **arguments: object) -> None:
        """Tell the head to do something to itself: this head alone."""
        self._send(m.Command(0, name, arguments))

    def control(self, session: int, verb: str) -> None:
        """Change a session."""

        def reply(message: m.Reply) -> None:
            if "database cannot be" in message.error:  # its disk is full, or was a moment ago
                self.clock.after(1.0, lambda: self.control(session, verb))

        self._request(lambda r: m.ControlSession(r, session, verb), reply)

    # --- what it hears

    def _take(self, message: Any) -> None:
        if not self.is_alive:
            return
        if isinstance(message, Welcome):
            if message.refused == WHO_ARE_YOU:
                self._greet_again()
            else:
                assert not message.refused, message.refused
                self._ask_again()
        elif isinstance(message, m.Accepted):
            submitted = self._open.pop(message.seq, None)
            if isinstance(submitted, m.Release):
                self.cluster.oracle.released(self, submitted)
            if isinstance(submitted, m.Submit):
                refused = dict(message.refused)
                tasks = [spec.id for spec in submitted.tasks if spec.id not in refused]
                self.cluster.oracle.accepted(tasks)
                if not tasks:  # what came with them may not have been taken in
                    known = self._introduced[submitted.session]
                    known.difference_update(one.id for one in submitted.templates)
            for task, why in message.refused:
                self.refused[task] = why
                self.awaited.discard(task)
        elif isinstance(message, m.Outcomes):
            for outcome in message.outcomes:
                self.cluster.oracle.announced(self, outcome)
                self.awaited.discard(outcome.task)
                for ended in self._when.pop(outcome.task, ()):
                    ended(outcome.task)
        elif isinstance(message, m.Reply):
            asked = self._open.pop(message.request, None)
            if isinstance(asked, (m.OpenSession, m.Reserve)) and not message.error:
                first, count = message.result[-2:]
                self.blocks.append((first, count))
            if reply := self._replies.pop(message.request, None):
                reply(message)

    def _accepted(self) -> list[int]:
        said = {
            spec.id
            for message in self._open.values()
            if isinstance(message, m.Submit)
            for spec in message.tasks
        }
        return [task for task in self.awaited if task not in said]

    def _greet_again(self) -> None:
        self._send(m.ClientHello(PROTOCOL, __version__, True, self.blocks))
        if watched := self._accepted():
            self._send(m.Watch(watched))

    def _ask_again(self) -> None:
        if self._welcomed:
            return  # to the second greeting
        self._welcomed = True
        for session in self.numbers:
            self._send(m.ControlSession(0, session, "rejoin"))
        for message in list(self._open.values()):
            self._send(message)
        if watched := self._accepted():
            self._send(m.Watch(watched))
