"""Tasks are handed out, and may have ended, before the database has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.builders import done, spec, template

from pilot.head import assignments
from pilot.head.clients import Clients
from pilot.head.connections import PilotPeer
from pilot.head.core import events as ev
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.model.ids import task_id
from pilot.model.states import OnFailure
from pilot.model.tasks import Environment, Function, SessionInfo, TaskSpec, Template
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages import client as m
from pilot.wire.messages.pilot import AttemptSpec, RunningTask

NOW = 1000.0
SESSION = 1
CODE = Function(b"f1", b"code")


class Head:
    """The head's side of clients, whose turns end before anything is written."""

    def __init__(self, path: Path) -> None:
        self.sent: list[Any] = []
        self.store = Store(path)
        self.shell = Shell(
            self.store, lambda _, what: self.sent.append(what), (), lambda: None, lambda _: 0
        )
        self.clients = Clients(self.shell, 1, lambda: None)
        environment = Environment("/", (), {})
        self.store.add_session(m.OpenSession(1, "s", environment), NOW)
        self.shell.assignments.open(SessionInfo(SESSION, "s", environment), {})
        self.shell.apply(ev.SessionOpened(SESSION), NOW)
        self.shell.apply(ev.PilotJoined("p", "main", NodeShape(4), 1, 0.0, []), NOW)

    def submit(self, seq: int, known: Template, *specs: TaskSpec) -> None:
        message = m.Submit(seq, SESSION, [CODE], [known], list(specs))
        self.clients.handlers[m.Submit](b"client", message, NOW)

    def assign(self) -> list[AttemptSpec]:
        """Hand work out; returns it as the pilot gets it."""
        tasks = self.shell.core.assign(NOW).get("p", [])
        values = self.shell.outcomes.values({source for task in tasks for source, _ in task.inputs})
        return self.shell.assignments.pack(PilotPeer(b"p"), tasks, values).work

    def commit(self) -> None:
        for _ in range(3):
            self.shell.commits.begin(NOW, events_too=True)
            self.store.join()
            self.shell.commits.finish()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path / "tasks.db")
    yield head
    head.store.close()


def task(number: int) -> int:
    return task_id(SESSION, number)


def test_a_failure_that_is_ignored_is_known_before_it_is_committed(head: Head) -> None:
    ignoring = template(on_failure="ignore", default=b"instead")
    head.submit(1, ignoring, spec(task(1)))
    head.assign()
    head.shell.apply(ev.AttemptsEnded("p", [done(task(1), "error")]), NOW)
    head.submit(2, ignoring, spec(task(2), needs=(task(1),)))
    (work,) = head.assign()
    assert work.task == task(2) and work.inputs[0].value is not None
    assert work.inputs[0].value.payload == b"instead"


@pytest.mark.parametrize("where", ["memory", "database", "purged"])
@pytest.mark.parametrize("policy", ["fail", "cancel_successors"])
def test_the_end_of_a_lost_input_is_known_whether_it_is_committed_or_not(
    head: Head, where: str, policy: OnFailure
) -> None:
    """And what follows from an end that has followed itself from another one."""
    kind = template(on_failure=policy)
    head.submit(1, kind, spec(task(1)), spec(task(2), needs=(task(1),)))
    head.assign()
    head.shell.apply(ev.AttemptsEnded("p", [done(task(1), "error")]), NOW)
    if where != "memory":
        head.commit()
        if where == "purged":
            head.store.purge(SESSION, [])
        head.shell.outcomes.forget_all()
    other = template(2, function=CODE.digest)
    head.submit(2, other, spec(task(3), 2, needs=(task(1),)), spec(task(4), 2, (task(2),)))
    told = head.shell.outcomes.told([task(n) for n in (1, 2, 3, 4)])
    after = "ABORTED" if policy == "fail" else "CANCELLED"
    assert [one.state for one in told] == ["FAILED", after, after, after]
    causes = [one.failure.cause for one in told[2:] if one.failure is not None]
    assert causes == [task(1), task(1)]
    assert told[1].failure == told[2].failure == told[3].failure


def test_arguments_are_there_for_the_task_and_for_the_next_try_however_many_wait(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignments, "PAYLOAD_BYTES", 0)
    head.submit(1, template(retries=1), spec(task(1)))
    assert [work.payload for work in head.assign()] == [b"payload"]
    head.commit()
    assert not head.shell.assignments._payloads, "from now on the database has them"
    head.shell.apply(ev.AttemptsEnded("p", [done(task(1), "error")]), NOW)
    assert [work.payload for work in head.assign()] == [b"payload"]


def test_nothing_is_kept_of_a_task_that_was_cancelled_while_it_ran(head: Head) -> None:
    head.submit(1, template(), spec(task(1)))
    head.assign()
    head.shell.running[task(1)] = RunningTask(task(1), 1, "n", NOW)
    head.shell.apply(ev.TasksCancelled(SESSION, [task(1)]), NOW)
    assert not head.shell.running
