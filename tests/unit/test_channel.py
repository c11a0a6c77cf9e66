"""How messages travel: with the right keys only, and over every reconnection."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from pilot.errors import AuthenticationError, SiteError
from pilot.site import _make_key
from pilot.wire import messages as m
from pilot.wire.channel import Client, Server
from pilot.wire.endpoints import LOCAL, Endpoints, boot_id, socket_path
from pilot.wire.keys import Keys, load_keys
from pilot.wire.tcp import Dealer

DEADLINE_S = 20.0


def make_keys(directory: Path) -> Keys:
    directory.mkdir()
    for name in ("server", "client"):
        _make_key(directory, name)
    return load_keys(directory)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


@pytest.fixture
def server(keys: Keys) -> Iterator[Server[Any]]:
    server: Server[Any] = Server(keys, f"test-{os.getpid()}", m.ToHead, "127.0.0.1")
    yield server
    server.close()


@pytest.fixture
def client(keys: Keys) -> Iterator[Client[Any]]:
    client: Client[Any] = Client(keys, b"client:test", m.ToClient)
    yield client
    client.close(0)


def arrived(server: Server[Any]) -> tuple[bytes, Any]:
    found: list[tuple[bytes, Any]] = []

    def look() -> bool:
        found.extend(server.receive())
        return bool(found)

    wait_until(look, DEADLINE_S, "a message")
    return found[0]


def answer(client: Client[Any]) -> Any:
    found: list[Any] = []

    def look() -> bool:
        found.extend(client.receive())
        return bool(found)

    wait_until(look, DEADLINE_S, "an answer")
    return found[0]


@pytest.mark.parametrize("way", ["local", "remote"])
def test_there_and_back(server: Server[Any], client: Client[Any], way: str) -> None:
    client.connect(getattr(server.endpoints, way))
    client.send(m.Query(1, "status"))
    peer, message = arrived(server)
    assert message == m.Query(1, "status")
    server.send(peer, m.Reply(1, {"a": [1, None, "x"]}))
    assert answer(client) == m.Reply(1, {"a": [1, None, "x"]})


@pytest.mark.parametrize("way", ["local", "remote"])
def test_many_messages_keep_their_order(server: Server[Any], client: Client[Any], way: str) -> None:
    client.connect(getattr(server.endpoints, way))
    for number in range(5000):
        client.send(m.Watch([number]))
    found: list[int] = []

    def all_there() -> bool:
        client.receive()
        found.extend(message.tasks[0] for _, message in server.receive())
        return len(found) == 5000

    wait_until(all_there, DEADLINE_S, "all messages")
    assert found == list(range(5000))


@pytest.mark.parametrize("way", ["local", "remote"])
def test_other_keys_are_refused(server: Server[Any], tmp_path: Path, way: str) -> None:
    stranger: Client[Any] = Client(make_keys(tmp_path / "other"), b"client:other", m.ToClient)
    stranger.connect(getattr(server.endpoints, way))
    stranger.send(m.Command(1, "stop"))

    def refused() -> bool:
        assert not server.receive()
        assert not stranger.receive()
        try:
            stranger.check()
        except AuthenticationError as error:
            assert "different keys" in str(error) and str(tmp_path / "other") in str(error)
            return True
        return False

    wait_until(refused, DEADLINE_S, "the refusal")
    stranger.close(0)


@pytest.mark.parametrize("way", ["local", "remote"])
def test_right_server_key_with_a_client_key_of_another_site(
    server: Server[Any], keys: Keys, tmp_path: Path, way: str
) -> None:
    """Who knows the server's public half alone is not let in."""
    other = make_keys(tmp_path / "other")
    mixed = Keys(
        keys.server_public, b"", other.client_public, other.client_secret, tmp_path / "other"
    )
    stranger: Client[Any] = Client(mixed, b"client:other", m.ToClient)
    stranger.connect(getattr(server.endpoints, way))
    stranger.send(m.Command(1, "stop"))

    def refused() -> bool:
        assert not server.receive()
        assert not stranger.receive()
        try:
            stranger.check()
        except AuthenticationError:
            return True
        return False

    wait_until(refused, DEADLINE_S, "the refusal")
    stranger.close(0)


def test_a_server_that_dies_in_a_greeting_has_not_refused(keys: Keys, tmp_path: Path) -> None:
    """It breaks off once; one that does it again and again holds other keys."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        client: Client[Any] = Client(keys, b"client:1", m.ToClient)
        client.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")

        def broken_off() -> bool:
            client.check()
            assert isinstance(client.way, Dealer)
            return client.way._cut_off == 1

        def refused() -> bool:
            try:
                client.check()
            except AuthenticationError:
                return True
            return False

        try:
            for seen in (broken_off, refused):
                connection, _ = listener.accept()
                connection.recv(1)
                connection.close()
                wait_until(seen, DEADLINE_S)
        finally:
            client.close(0)


@pytest.mark.parametrize("way", ["local", "remote"])
def test_nonsense_is_dropped_and_logged(
    server: Server[Any], client: Client[Any], caplog: pytest.LogCaptureFixture, way: str
) -> None:
    client.connect(getattr(server.endpoints, way))
    with caplog.at_level(logging.WARNING, "pilot.wire"):
        client.way.send(b"\xc1 nonsense")
        client.send(m.Query(2, "status"))
        assert arrived(server)[1] == m.Query(2, "status")
    assert "a message was dropped" in caplog.text


@pytest.mark.parametrize("way", ["local", "remote"])
def test_old_connection_never_stands_in_the_new_ones_place(keys: Keys, way: str) -> None:
    """A server that comes after another may have its port: old connections find it, too."""
    client: Client[Any] = Client(keys, b"pilot:p", m.ToPilot)
    name, port = f"succession-{os.getpid()}", 0
    peers = []
    for number in range(3):
        server: Server[Any] = Server(keys, name, m.ToHead, "127.0.0.1", port)
        port = int(server.endpoints.remote.rpartition(":")[2])
        client.connect(getattr(server.endpoints, way))
        client.send(m.PilotBye("p", str(number)))
        peer, message = arrived(server)
        assert message.reason == str(number)
        server.send(peer, m.EndPilot(str(number)))
        assert answer(client) == m.EndPilot(str(number))
        peers.append(peer)
        # It dies with something under way to it.
        server.close(0.0)
        client.send(m.PilotBye("p", "too late"))
    assert len(set(peers)) == 3
    client.close(0)


def test_endpoint_is_local_on_the_same_machine_only(tmp_path: Path) -> None:
    there = tmp_path / "socket"
    there.touch()
    here = Endpoints(boot_id(), f"{LOCAL}{there}", "tcp://host:1")
    assert here.choose() == f"{LOCAL}{there}"
    assert Endpoints("other/boot", here.local, here.remote).choose() == "tcp://host:1"
    there.unlink()
    assert here.choose() == "tcp://host:1"


def test_socket_paths_are_private_and_short() -> None:
    path = socket_path("x" * 10_000)
    assert len(str(path)) < 100 and socket_path("a") != socket_path("b")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_runtime_directory_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"pilot-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"pilot-{os.getuid()}").chmod(0o777)
    with pytest.raises(SiteError, match="not a private directory of yours"):
        socket_path("a")


@pytest.mark.parametrize("damage", ["missing", "empty", "readable"])
def test_bad_keys(tmp_path: Path, damage: str) -> None:
    make_keys(tmp_path / "keys")
    path = tmp_path / "keys" / "client.key_secret"
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_text("")
    else:
        path.chmod(0o640)
    with pytest.raises(SiteError, match=str(path)):
        load_keys(tmp_path / "keys")
