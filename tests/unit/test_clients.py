"""Clients on other machines that have ended without a word are not clients for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot.head import clients as module
from pilot.head.clients import Clients
from pilot.head.core.leaving import CLIENT_S
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome

NOW = 1000.0


class Head:
    """The head's side of clients."""

    def __init__(self, path: Path) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.store = Store(path)
        self.shell = Shell(
            self.store, lambda to, what: self.sent.append((to, what)), (), lambda: None, lambda _: 0
        )
        self.clients = Clients(self.shell, 1, lambda: None)

    def hear(self, peer: bytes, message: Any, now: float) -> None:
        """As the loop does."""
        self.clients.hear(peer, now)
        self.clients.handlers[type(message)](peer, message, now)

    def greet(self, peer: bytes, now: float) -> None:
        self.hear(peer, m.ClientHello(PROTOCOL, "1", True), now)

    @property
    def known(self) -> set[bytes]:
        return set(self.shell.peers.clients)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path / "tasks.db")
    yield head
    head.store.close()


def test_a_silent_client_of_another_machine_is_forgotten(head: Head) -> None:
    for peer in (b"far", b"lives", b"here"):
        head.greet(peer, NOW)
    head.hear(b"lives", m.Watch([]), NOW + 60.0)
    is_here = b"here".__eq__
    head.clients.forget_silent(is_here, NOW + CLIENT_S - 1.0)
    assert len(head.known) == 3
    head.clients.forget_silent(is_here, NOW + CLIENT_S)
    assert head.known == {b"lives", b"here"}, "the kernel tells when one that is here has ended"


def test_one_that_lives_after_all_is_asked_to_greet_once(head: Head) -> None:
    head.greet(b"far", NOW)
    later = NOW + 2 * CLIENT_S
    head.clients.forget_silent(lambda _: False, later)
    head.sent.clear()
    head.hear(b"far", m.Watch([]), later)
    head.hear(b"far", m.Watch([]), later)
    welcomes = [what for to, what in head.sent if isinstance(what, Welcome) and to == b"far"]
    assert [welcome.refused for welcome in welcomes] == [WHO_ARE_YOU]
    head.greet(b"far", later)
    head.clients.forget_silent(lambda _: False, later + 1.0)
    assert head.known == {b"far"}


def test_what_is_kept_of_those_that_were_forgotten_is_bounded(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_KNOWN", 10)
    for number in range(30):
        head.greet(b"%d" % number, NOW)
    head.clients.forget_silent(lambda _: False, NOW + CLIENT_S)
    assert not head.known and len(head.clients._silent) == 10
