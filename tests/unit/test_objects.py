"""Named objects in the head: which version is given, when it is told, and how long it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import done, spec, template

from pilot import clock
from pilot.errors import PilotError
from pilot.head.clients import Clients
from pilot.head.core import events as ev
from pilot.head.janitor import Janitor
from pilot.head.objects import EXPIRY_S, Objects
from pilot.head.session_commands import SessionCommands
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.model.ids import task_id
from pilot.model.objects import (
    NAME_MOST,
    Naming,
    Wanted,
    encode_naming,
    is_fit,
    parse,
    problem,
    versioned,
)
from pilot.model.tasks import Children, Environment, Function, SessionInfo, TaskSpec
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.site import create_site
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m

NOW = 1000.0
PEER = b"client"


class Head:
    """The head's side of clients, without pilots and files."""

    def __init__(self, directory: Path) -> None:
        self.site = create_site(directory / "site", "local")
        self.now = NOW
        self.start()
        self.session = self.open()

    def start(self) -> None:
        self.sent: list[Any] = []
        self.store = Store(self.site.database)
        self.shell = Shell(
            self.store, lambda _, what: self.sent.append(what), (), lambda: None, lambda _: 0
        )
        janitor = Janitor(self.site.directory, lambda: None)
        self.clients = Clients(self.shell, 1, lambda: None)
        self.control = SessionCommands(self.site, self.shell, janitor)
        self.objects = Objects(self.shell, janitor)

    def hear(self, message: Any) -> Any:
        """Handle a message, and what follows; returns the last thing that is said."""
        handlers = {
            **self.clients.handlers,
            **self.control.handlers,
            **self.objects.handlers,
        }
        self.sent.clear()
        handlers[type(message)](PEER, message, self.now)
        self.commit()
        return self.sent[-1] if self.sent else None

    def commit(self) -> None:
        for _ in range(5):
            self.shell.commits.begin(self.now, events_too=True)
            self.store.join()
            self.shell.commits.finish()
            self.shell.telling.go_on()
        assert not self.shell.commits.pending and not self.shell.commits.trouble

    def open(self) -> int:
        self.hear(m.ClientHello(PROTOCOL, "1", True))
        number = int(self.hear(m.OpenSession(1, "s", Environment("/", (), {}))).result[0])
        self.hear(m.Reserve(2, number, 1000))
        return number

    def put(self, *numbers: int, **naming: Any) -> Any:
        """Put values under a name, as tasks with these numbers."""
        kind = template(1, self.session, kind="value", function=b"")
        specs = [put(task_id(self.session, number), **naming) for number in numbers]
        return self.hear(m.Submit(3, self.session, [], [kind], specs))

    def submit(self, task: TaskSpec) -> None:
        """Submit a task of template 7."""
        known = [template(7, self.session)]
        answer = self.hear(m.Submit(3, self.session, [Function(b"f7", b"code")], known, [task]))
        assert not answer.refused

    def rows(self, removed: bool = False) -> list[tuple[str, int, int]]:
        wanted: dict[str, object] = {"name": None, "version": None, "limit": 99}
        found = self.store.rows("list_objects", {**wanted, "removed": removed})
        return sorted((row["name"], row["version"], row["task"] & 0xFFFF) for row in found)


def put(task: int, name: str = "mesh", kind: int = 1, **changes: Any) -> TaskSpec:
    naming = encode_naming(Naming(name, **changes))
    return TaskSpec(task, kind, naming, values=(Value(1, b"v"),))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path)
    yield head
    head.store.close()


# --- which version --------------------------------------------------------------------------------


def test_versions_are_counted_by_name(head: Head) -> None:
    head.put(1, 2)
    head.put(3, name="other")
    head.put(4)
    assert head.rows() == [("mesh", 1, 1), ("mesh", 2, 2), ("mesh", 3, 4), ("other", 1, 3)]


def test_what_is_sent_again_to_another_head_is_no_other_version(head: Head) -> None:
    head.put(1, 2)
    head.store.close()
    head.start()
    head.shell.apply(ev.SessionOpened(head.session, 1.0, 0, restored=True), NOW)
    info = ev.TasksRestored(head.store.templates(head.session), [])
    head.shell.apply(info, NOW)
    row = head.store.session(head.session)
    assert row is not None
    head.shell.assignments.open(SessionInfo(row.id, row.name, row.environment), {})
    blocks = [(task_id(head.session, 1), 1000)]
    head.hear(m.ClientHello(PROTOCOL, "1", True, blocks))
    head.put(1, 2, 3)
    (answer,) = (said for said in head.sent if isinstance(said, m.Accepted))
    assert not answer.refused
    assert head.rows() == [("mesh", 1, 1), ("mesh", 2, 2), ("mesh", 3, 3)]


def test_a_refused_value_is_no_version(head: Head) -> None:
    head.hear(m.ControlSession(4, head.session, "stop"))
    answer = head.put(1)
    assert [task for task, _ in answer.refused] == [task_id(head.session, 1)]
    assert head.rows() == []


@pytest.mark.parametrize("name", ["", "a@b", "a\n", "n" * 300])
def test_no_client_gives_a_bad_name(head: Head, name: str) -> None:
    answer = head.put(1, name=name)
    assert not answer.refused and head.rows() == []
    with pytest.raises(PilotError, match=r"object"):
        head.hear(m.NameResult(5, task_id(head.session, 1), 0, Naming(name)))


def test_a_child_that_is_put_becomes_a_version_with_its_parent_s_end(head: Head) -> None:
    parent, child = (task_id(head.session, number) for number in (1, 2))
    kinds = [template(1, head.session), template(2, head.session, kind="value", function=b"")]
    head.shell.apply(ev.PilotJoined("p", "main", NodeShape(1), 1, 0.0, []), NOW)
    functions = [Function(b"f1", b"code")]
    head.hear(m.Submit(3, head.session, functions, kinds, [spec(parent)]))
    head.shell.core.assign(NOW)
    children = Children((), (), (put(child, kind=2),), {})
    ended = done(parent, values=(Value(1, b"r"),), children=children)
    head.shell.apply(ev.AttemptsEnded("p", [ended]), NOW)
    assert head.rows() == [], "it is not committed"
    head.commit()
    assert head.rows() == [("mesh", 1, 2)]
    (row,) = head.store.rows("list_objects", ALL)
    assert row["maker"] == parent


ALL: dict[str, object] = {"name": None, "version": None, "removed": False, "limit": 9}


def test_a_result_is_named_once_and_only_where_it_is_there(head: Head) -> None:
    head.put(1)
    one = task_id(head.session, 1)
    assert [head.hear(m.NameResult(5, one, 0, Naming("b"))).result for _ in "12"] == [1, 1]
    for task, place, words in (
        (one, 1, "has 1 result, counted from 0: not 1"),
        (task_id(head.session, 9), 0, "does not exist; nothing was named"),
    ):
        with pytest.raises(PilotError, match=words):
            head.hear(m.NameResult(5, task, place, Naming("b")))
    head.submit(spec(one + 1, 7))
    with pytest.raises(PilotError, match="is unfinished: it has no result"):
        head.hear(m.NameResult(5, one + 1, 0, Naming("b")))


# --- how long -------------------------------------------------------------------------------------


def test_a_version_is_removed_when_its_time_is_over_unless_it_is_needed(head: Head) -> None:
    now = clock.now()
    head.put(1, 2, 3, keep_s=600.0)
    head.put(4)
    head.hear(m.ControlObject(5, "alias", ["mesh@2"], "best"))
    needs = TaskSpec(task_id(head.session, 9), 7, b"", ((task_id(head.session, 3), 0),))
    head.submit(needs)
    head.objects.expire(now + 590.0)
    assert len(head.rows()) == 4
    head.objects.expire(now + 599.0)
    assert len(head.rows()) == 4, f"it looks once in {EXPIRY_S:.0f} s"
    head.objects.expire(now + 630.0)
    assert head.rows() == [("mesh", 2, 2), ("mesh", 3, 3), ("mesh", 4, 4)]
    head.hear(m.ControlObject(5, "alias", ["mesh@4"], "best"))
    head.hear(m.Cancel(6, head.session, [needs.id]))
    head.objects.expire(now + 650.0)
    assert head.rows() == [("mesh", 4, 4)]
    assert len(head.rows(removed=True)) == 4
    head.put(11)
    assert ("mesh", 5, 11) in head.rows()


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_nothing_is_left_of_a_removed_version_whose_session_is_gone(head: Head, verb: str) -> None:
    head.put(1, 2)
    head.put(3, name="other")
    head.hear(m.ControlSession(4, head.session, "close"))
    head.hear(m.ControlSession(4, head.session, verb))
    tasks = [task_id(head.session, number) for number in (1, 2, 3)]
    assert {outcome.state for outcome in head.store.results(tasks)} == {"COMPLETED"}
    head.hear(m.ControlObject(5, "remove", ["mesh@1", "other@1"]))
    left = {outcome.task: outcome.state for outcome in head.store.results(tasks)}
    if verb == "purge":
        assert left == {tasks[0]: "DELETED", tasks[1]: "COMPLETED", tasks[2]: "DELETED"}
        assert len(head.store.templates(head.session)) == 1
        return
    assert left == {tasks[1]: "COMPLETED"}
    assert len(head.store.templates(head.session)) == 1
    head.hear(m.ControlObject(5, "remove", ["mesh@2"]))
    assert not head.store.results(tasks) and not head.store.templates(head.session)


# --- names ----------------------------------------------------------------------------------------


@given(st.text(max_size=NAME_MOST + 9), st.integers(1, 1 << 30))
def test_every_name_without_a_problem_can_be_written_with_a_version(name: str, number: int) -> None:
    assert is_fit(Naming(name)) == (not problem(name))
    if problem(name):
        with pytest.raises(PilotError):
            parse(name if "@" not in name else name.replace("@", "\n"))
        return
    assert parse(name) == Wanted(name)
    assert parse(versioned(name, number)) == Wanted(name, number)
    assert parse(f"{name}@best") == Wanted(name, 0, "best")
