"""Preloaded modules, as the node worker sees them: which executors wait, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from pilot.model.tasks import Environment, SessionInfo
from pilot.wire.messages.worker import StartExecutor
from pilot.worker.preloading import LOAD_S, WAIT_S, Preloads, Step, TemplateConfig


class Template:
    """A template of which the test says what it tells."""

    def __init__(self, packed: bytes) -> None:
        self.modules = msgspec.msgpack.decode(packed, type=TemplateConfig).modules
        self.said: bytes | None = b""
        self.closed = ""
        self.forked: list[bytes] = []
        self.is_killed = False
        self.sentinel = 7

    def says(self, *steps: tuple[str, ...]) -> None:
        lines = [msgspec.json.encode(Step(*step)) + b"\n" for step in steps]
        self.said = (self.said or b"") + b"".join(lines)

    def hear(self) -> bytes | None:
        said, self.said = self.said, b"" if self.said is not None else None
        return said

    def fork(self, packed: bytes) -> str:
        if self.is_killed:
            raise BrokenPipeError("gone")
        self.forked.append(packed)
        return "of the template"

    def is_dead(self) -> bool:
        return self.is_killed

    def close(self, kill: bool = False) -> None:
        self.closed = "killed" if kill else "closed"


class Server:
    """A fork server that makes such templates."""

    def __init__(self) -> None:
        self.templates: list[Template] = []

    def derive(self, packed: bytes) -> Template:
        self.templates.append(Template(packed))
        return self.templates[-1]

    def fork(self, packed: bytes) -> str:
        return "of the fork server"


class Node:
    def __init__(self) -> None:
        self.server = Server()
        self.told: list[tuple[int, str, str]] = []
        self.preloads = Preloads(
            cast("Any", self.server), "n p", lambda *said: self.told.append(said)
        )

    def fork(self, message: StartExecutor) -> Any:
        return self.preloads.fork(message, b"")

    def free(self) -> list[int]:
        return [message.executor for message in self.preloads.look()]


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr("pilot.worker.preloading.time.monotonic", lambda: now[0])
    yield now


def request(executor: int, session: int = 1, cores: int = 1, *modules: str) -> StartExecutor:
    environment = Environment("/", preload=modules or ("a", "b"))
    return StartExecutor(executor, SessionInfo(session, "s", environment), tuple(range(cores)))


def test_executors_wait_for_their_sessions_modules(node: Node) -> None:
    assert node.preloads.holds_back(request(1)) and node.preloads.holds_back(request(2))
    assert node.preloads.holds_back(request(3, cores=2)), "with other numbers of threads"
    assert len(node.server.templates) == 2 and node.free() == []
    assert node.fork(request(9, session=2)) == "of the fork server"
    first, second = node.server.templates
    first.says(("begins", "a"), ("begins", "b"), ("ready",))
    assert node.free() == [1, 2]
    assert node.fork(request(1)) == "of the template" and not node.preloads.holds_back(request(4))
    second.says(("ready",))
    assert node.free() == [3] and not node.preloads.sentinels and not node.told


def test_a_session_without_modules_waits_for_nothing(node: Node) -> None:
    plain = StartExecutor(1, SessionInfo(1, "s", Environment("/")), (0,))
    assert not node.preloads.holds_back(plain) and not node.server.templates


def test_a_module_that_spoils_its_process_is_left_out(node: Node) -> None:
    node.preloads.holds_back(request(1))
    node.server.templates[0].says(("begins", "a"), ("spoiled", "a", "it has started threads"))
    assert node.free() == [] and node.server.templates[0].closed == "killed"
    assert node.server.templates[1].modules == ("b",)
    node.server.templates[1].said = None  # it has died before it could say a word
    assert node.free() == [1]
    assert [(module, why[:7]) for _, module, why in node.told] == [
        ("a", "it has "),
        ("b", "the pro"),
    ]


def test_a_module_that_fails_leaves_the_others(node: Node) -> None:
    node.preloads.holds_back(request(1))
    node.server.templates[0].says(("begins", "a"), ("failed", "a", "ImportError: no"), ("ready",))
    assert node.free() == [1] and node.fork(request(1)) == "of the template"
    assert node.told == [(1, "a", "ImportError: no")]


def test_executors_wait_so_long_and_no_longer(node: Node, clock: list[float]) -> None:
    node.preloads.holds_back(request(1))
    node.server.templates[0].says(("begins", "a"))
    assert node.free() == []
    clock[0] += WAIT_S
    assert node.free() == [1] and node.fork(request(1)) == "of the fork server"
    assert not node.preloads.holds_back(request(2)), "from now on nobody waits"
    assert [module for _, module, _ in node.told] == ["a"]
    node.server.templates[0].says(("ready",))
    assert node.free() == [] and node.fork(request(3)) == "of the template"


def test_a_module_that_hangs_is_given_up(node: Node, clock: list[float]) -> None:
    node.preloads.holds_back(request(1, 1, 1, "a"))
    node.server.templates[0].says(("begins", "a"))
    clock[0] += LOAD_S + 1
    assert node.free() == [1] and node.server.templates[0].closed == "killed"
    assert len(node.server.templates) == 1 and not node.preloads.sentinels


def test_a_template_that_was_killed_is_done_without(node: Node) -> None:
    node.preloads.holds_back(request(1))
    node.server.templates[0].says(("ready",))
    assert node.free() == [1]
    node.server.templates[0].is_killed = True
    assert node.fork(request(1)) == "of the fork server"
    assert not node.preloads.holds_back(request(2)) and len(node.told) == 1


def test_what_waits_may_be_cancelled_and_sessions_end(node: Node) -> None:
    node.preloads.holds_back(request(1))
    assert node.preloads.cancel(1) and not node.preloads.cancel(1)
    node.preloads.forget(1)
    assert node.server.templates[0].closed == "closed" and node.free() == []
    node.preloads.holds_back(request(2, session=2))
    node.preloads.close()
    assert node.server.templates[1].closed == "closed"
