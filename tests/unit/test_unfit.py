"""What the database does not take is given up by name, and all else is durable."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import done, template

from pilot import limits
from pilot.errors import PilotError
from pilot.head.clients import Clients
from pilot.head.core import events as ev
from pilot.head.janitor import Janitor
from pilot.head.session_commands import SessionCommands
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.model.states import Outcome
from pilot.model.tasks import Environment, Function, TaskFailure, TaskOutcome, TaskSpec
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.site import create_site
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m

NOW = 1000.0
PEER = b"client"
#: What SQLite is told to take at most, in place of a billion bytes.
LIGHT = 20_000
LARGE = bytes(2 * LIGHT)

pytestmark = pytest.mark.skipif(
    not hasattr(sqlite3.Connection, "setlimit"), reason="SQLite's limits: from Python 3.11 on"
)


class Head:
    """The head's side of clients, on a database that takes little."""

    def __init__(self, directory: Path) -> None:
        site = create_site(directory / "site", "local")
        self.sent: list[Any] = []
        self.store = Store(site.database)
        self.shell = Shell(
            self.store, lambda _, what: self.sent.append(what), (), lambda: None, lambda _: 0
        )
        self.clients = Clients(self.shell, 1, lambda: None)
        self.control = SessionCommands(site, self.shell, Janitor(directory, lambda: None))
        self.hear(m.ClientHello(PROTOCOL, "1", True))
        self.session = self.open("mine")
        sqlite: Any = sqlite3  # types are checked for the oldest Python, which has no limits
        database: Any = self.store._db
        database.setlimit(sqlite.SQLITE_LIMIT_LENGTH, LIGHT)

    def hear(self, message: Any) -> None:
        handlers = {**self.clients.handlers, **self.control.handlers}
        handlers[type(message)](PEER, message, NOW)

    def open(self, name: str, **changes: Any) -> int:
        environment = Environment("/", (), {})
        self.hear(m.OpenSession(1, name, environment, **changes))
        self.commit()
        reply = self.sent[-1]
        assert isinstance(reply, m.Reply) and not reply.error
        number = reply.result[0]
        self.hear(m.Reserve(2, number, 1000))
        return int(number)

    def commit(self) -> None:
        """As turns of the loop do, until nothing is left."""
        for _ in range(5):
            self.shell.commits.begin(NOW, events_too=True)
            self.store.join()
            self.shell.commits.finish()
            self.shell.telling.go_on()
        assert not self.shell.commits.pending and not self.shell.commits.trouble

    def submit(self, number: int, kind: str = "good") -> int:
        """Submit a task of a template of its own, with something too large in it."""
        task = self.session << 32 | number
        function = b"f%d" % number
        known = template(
            number,
            self.session,
            function=function,
            default=LARGE if kind == "default" else b"",
        )
        payload = LARGE if kind == "arguments" else b"payload"
        code = LARGE if kind == "function" else b"code"
        spec = TaskSpec(task, number, payload)
        self.hear(m.Submit(number, self.session, [Function(function, code)], [known], [spec]))
        return task

    def run(self, *tasks: int, error: bytes = b"") -> None:
        """Have a pilot run tasks; with an error that has so much text."""
        self.shell.apply(ev.PilotJoined("p", "main", NodeShape(64), 1, 0.0, []), NOW)
        self.shell.core.assign(NOW)
        failure = TaskFailure("E", error.decode(), error.decode()) if error else None
        outcome: Outcome = "error" if error else "ok"
        completions = [done(task, outcome, failure=failure) for task in tasks]
        self.shell.apply(ev.AttemptsEnded("p", completions), NOW)

    @property
    def told(self) -> dict[int, TaskOutcome]:
        """How tasks ended, as the client was told."""
        outcomes = [o for what in self.sent if isinstance(what, m.Outcomes) for o in what.outcomes]
        return {outcome.task: outcome for outcome in outcomes}

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path)
    yield head
    head.close()


KINDS = ("good", "function", "default", "arguments")


@given(kinds=st.lists(st.sampled_from(KINDS), max_size=8), together=st.booleans())
@settings(max_examples=40)
def test_what_is_too_large_fails_and_all_else_is_durable(kinds: list[str], together: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        head = Head(Path(directory))
        tasks = {}
        for number, kind in enumerate(kinds, 1):
            tasks[head.submit(number, kind)] = kind
            if not together:
                head.commit()
        head.commit()
        good = {task for task, kind in tasks.items() if kind == "good"}
        assert set(head.store.states(tasks)) == good == set(head.shell.core.tasks)
        assert head.told.keys() == tasks.keys() - good
        for task, outcome in head.told.items():
            assert outcome.failure is not None and "too big" in outcome.failure.message
            assert ("function" in outcome.failure.message) == (tasks[task] == "function")
        accepted = [what.seq for what in head.sent if isinstance(what, m.Accepted)]
        assert accepted == list(range(1, len(kinds) + 1))
        assert len(head.store.unfinished().get(head.session, ())) == len(good)
        head.close()


def test_template_that_was_given_up_is_refused_from_then_on(head: Head) -> None:
    head.submit(1, "function")
    head.commit()
    for functions in ([], [template(1, head.session)]):
        known = [template(2, head.session, function=b"f1")] if functions else []
        number = 2 if known else 1
        task = head.session << 32 | (10 + number)
        head.hear(m.Submit(7, head.session, [], known, [TaskSpec(task, number, b"")]))
        head.commit()
        ((refused, why),) = head.sent[-1].refused
        assert refused == task and "its function" in why


def test_error_that_is_too_large_is_told_in_short(head: Head) -> None:
    bad, good = head.submit(1), head.submit(2)
    head.commit()
    head.run(bad, error=bytes(b"x" * 3 * LIGHT))
    head.run(good)
    head.commit()
    assert head.store.states([bad, good]) == {bad: "FAILED", good: "COMPLETED"}
    (stored,) = head.store.results([bad])
    assert stored.failure is not None and head.told[bad].failure == stored.failure
    assert stored.failure.message.startswith("xxx") and "left out" in stored.failure.message


def test_result_that_is_too_large_fails_its_task(head: Head) -> None:
    bad, good = head.submit(1), head.submit(2)
    head.commit()
    value = Value(len(LARGE), LARGE)
    head.shell.apply(ev.PilotJoined("p", "main", NodeShape(64), 1, 0.0, []), NOW)
    head.shell.core.assign(NOW)
    ends = [done(bad, values=(value,)), done(good)]
    head.shell.apply(ev.AttemptsEnded("p", ends), NOW)
    head.commit()
    assert head.store.states([bad, good]) == {bad: "FAILED", good: "COMPLETED"}
    assert head.told[bad].state == "FAILED" and not head.told[bad].values
    assert "its result cannot be stored" in str(head.told[bad].failure)


def test_events_with_long_details_are_kept(head: Head) -> None:
    head.shell.core.log.other("pilot", "ENDED", 0, NOW, "x" * 3 * LIGHT)
    task = head.submit(1)
    head.commit()
    assert head.store.states([task]) == {task: "READY"}
    details = [c.detail for _, changes in head.store.events(0, None, 100) for c in changes]
    assert any("left out" in detail for detail in details)


@pytest.mark.parametrize("number", [2**63, 2**70])
def test_numbers_that_do_not_fit(head: Head, number: int) -> None:
    good = head.submit(1)
    head.hear(
        m.Submit(
            9, head.session, [], [], [TaskSpec(head.session << 32 | 9, 1, b"", ordinal=number)]
        )
    )
    head.commit()
    assert head.store.states([good]) == {good: "READY"}
    assert head.told[head.session << 32 | 9].state == "FAILED"


def test_full_disk_leaves_nothing_out(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something is unfit beside it."""
    head.submit(1, "function")
    good = head.submit(2)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(head.store, "write_apart", fail)
        head.shell.commits.begin(NOW, events_too=True)
        head.store.join()
        head.shell.commits.finish()
        assert "full" in head.shell.commits.trouble and head.shell.commits.pending
        assert not head.told
    head.shell.commits._retry_at = 0.0
    head.commit()
    assert head.store.states([good]) == {good: "READY"} and len(head.told) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": float("inf")}, "weight=inf"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"weight": 0.0}, "weight=0.0"),
        ({"name": "n" * 2 * limits.NAME_BYTES}, "its name would be"),
        ({"options": bytes(2 * limits.OPTIONS_BYTES)}, "its default options would be"),
    ],
)
def test_session_that_cannot_be_kept_is_not_opened(
    head: Head, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PilotError, match=said):
        head.open(**{"name": "other", **changes})


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"name": "n" * 2 * limits.NAME_BYTES}, b"", "its name would be larger than 1 KiB"),
        ({"default": bytes(2 * limits.OPTIONS_BYTES)}, b"", "larger than 1 MiB"),
        ({}, bytes(limits.FUNCTION_BYTES + 1), "larger than a function may be"),
    ],
    ids=["name", "default", "function"],
)
def test_what_is_over_the_limits_is_refused(
    head: Head, changes: dict[str, Any], code: bytes, said: str
) -> None:
    known = template(5, head.session, function=b"f", **changes)
    task = head.session << 32 | 5
    head.hear(m.Submit(5, head.session, [Function(b"f", code)], [known], [TaskSpec(task, 5, b"")]))
    head.commit()
    ((refused, why),) = head.sent[-1].refused
    assert refused == task and said in why
    assert head.store.states([task]) == {}


def test_no_more_tasks_are_taken_than_the_site_allows(head: Head) -> None:
    head.clients = Clients(head.shell, 1, lambda: None, most=3)
    known = template(5, head.session, function=b"f")
    functions, base = [Function(b"f", b"code")], head.session << 32
    specs = [TaskSpec(base | number, 5, b"") for number in range(1, 6)]
    head.hear(m.Submit(5, head.session, functions, [known], specs))
    head.commit()
    assert [task for task, _ in head.sent[-1].refused] == [base | 4, base | 5]
    assert all("head.max_unfinished" in why for _, why in head.sent[-1].refused)
    assert head.store.states([spec.id for spec in specs]).keys() == {base | n for n in (1, 2, 3)}
    # The same once more, since the answer was lost: what is there is not refused.
    head.hear(m.Submit(5, head.session, functions, [known], specs[:3]))
    head.commit()
    assert head.sent[-1].refused == []


def test_client_that_is_gone_is_forgotten(head: Head) -> None:
    task = head.submit(1)
    other = b"other"
    head.clients.handlers[m.Watch](other, m.Watch([task]), NOW)
    head.clients.handlers[m.Watch](other, m.Watch([task]), NOW)
    assert head.shell.peers.watchers == {task: [other]}
    head.clients.gone(other)
    head.clients.gone(PEER)
    assert not head.shell.peers.watchers and not head.shell.peers.clients
    head.clients.gone(PEER)
