"""What an executor reports, whatever is in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import types
from typing import Any

import pytest
from support.builders import done

from pilot.model.tasks import Completion
from pilot.model.values import Value
from pilot.wire.channel import encode
from pilot.wire.messages import worker as m
from pilot.worker import executor
from pilot.worker.executor import Outbox, send_report


class Agent:
    """The other end of the connection: takes what can be encoded."""

    def __init__(self) -> None:
        self.told: list[Completion] = []

    def send(self, message: Any) -> None:
        encode(message)
        self.told += message.completions

    def drain(self) -> None:
        pass


def report(completions: list[Completion]) -> m.Done:
    return m.Done(1, completions)


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


UNSENDABLE: dict[str, Any] = {"class": object(), "deep": deep(), "large": 1 << 70}


@pytest.mark.parametrize("what", list(UNSENDABLE))
def test_an_end_that_cannot_be_sent_is_the_failure_of_its_task(what: str) -> None:
    agent: Any = Agent()
    bad = done(2, values=(Value(1, UNSENDABLE[what]),))
    send_report(agent, report, [done(1), bad, done(3, "error")])
    assert [(end.task, end.outcome) for end in agent.told] == [
        (1, "ok"),
        (2, "error"),
        (3, "error"),
    ]
    failure = agent.told[1].failure
    assert failure is not None and "its end cannot be sent" in failure.message
    assert agent.told[1].started == bad.started


def test_the_executor_goes_on_after_it() -> None:
    agent: Any = Agent()
    outbox = Outbox(agent, report)
    outbox.add([done(1, values=(Value(1, UNSENDABLE["class"]),))])
    outbox.send()
    outbox.add([done(2)])
    outbox.send()
    assert [(end.task, end.outcome) for end in agent.told] == [(1, "error"), (2, "ok")]


def test_a_connection_that_is_gone_is_told_as_that() -> None:
    class Gone(Agent):
        def send(self, message: Any) -> None:
            raise BrokenPipeError(os.strerror(32))

    agent: Any = Gone()
    with pytest.raises(BrokenPipeError):
        send_report(agent, report, [done(1)])


def test_a_large_result_waits_for_no_others_where_none_can_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Connection(Agent):
        """The agent, which sends work when it has heard of the end of the first task."""

        def __init__(self, *_: Any) -> None:
            super().__init__()
            self.polled: list[bool] = []

        def connect(self, *_: Any) -> None:
            pass

        def poll(self, timeout: int | None = None) -> bool:
            if timeout == 0:
                self.polled.append(outbox.rests.is_set())
                return False
            assert sealed.wait(60.0), "it waits for work, and the result for company"
            return True

        def receive(self) -> list[Any]:
            return [m.Exit()]

        def take_unreadable(self) -> list[Any]:
            return []

        def send(self, message: Any) -> None:
            super().send(message)
            sealed.set()

    class Results:
        has_last = False

        def seal(self) -> tuple[list[Completion], list[str]]:
            return [done(1)], []

    monkeypatch.setattr(executor, "SEAL_S", 3600.0)
    monkeypatch.setattr(executor, "Client", Connection)
    monkeypatch.setattr(executor, "load_keys", lambda _: None)
    sealed = threading.Event()
    connection: Any = Connection()
    outbox = Outbox(connection, report)
    some: Any = types.SimpleNamespace(number=1, agent="", keys=None)
    results: Any = Results()
    sealer = executor.Sealer(some, some, results, outbox.rests)
    sealer.start()
    sealer.due.set()
    assert [type(message) for message in outbox.receive()] == [m.Exit]
    assert connection.polled == [False] and not outbox.rests.is_set(), "there may be work again"


def test_commands_ignore_no_signal_that_who_started_the_head_ignores() -> None:
    """As a shell has its children do in the background, and nohup."""
    code = (
        "import os; from pilot.client.stopping import never; "
        "from pilot.worker.program import Program; "
        "program = Program(); "
        "program.start(['grep', 'SigIgn', '/proc/self/status'], os.environ, None, None, None); "
        "program.wait(never(), lambda: False)"
    )
    shell = f"trap '' HUP QUIT INT USR1; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    told = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True)
    assert not int(told.stdout.split()[1], 16) & 0x7FFFFFFF
