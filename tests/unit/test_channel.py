"""How messages travel: with the right keys only, and over every reconnection."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import wait_until

from pilot.errors import AuthenticationError, EncodingError, SiteError
from pilot.model.tasks import Completion, TaskFailure
from pilot.wire.channel import Client, Server, _Reader, encode
from pilot.wire.endpoints import (
    LOCAL,
    Endpoints,
    boot_id,
    is_private,
    runtime_dir,
    socket_path,
    temporary_dir,
)
from pilot.wire.keys import Keys, load_keys, make_keys
from pilot.wire.messages import client as m
from pilot.wire.messages.common import Welcome
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import Completions, EndPilot, PilotBye, ToPilot
from pilot.wire.polling import poller_of
from pilot.wire.tcp import Dealer

DEADLINE_S = 20.0
WAYS = ["local", "remote", "files"]


def new_keys(directory: Path) -> Keys:
    make_keys(directory)
    return load_keys(directory)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return new_keys(tmp_path / "keys")


@pytest.fixture
def server(keys: Keys, tmp_path: Path) -> Iterator[Server[Any]]:
    server: Server[Any] = Server(
        keys, f"test-{os.getpid()}", ToHead, "127.0.0.1", files=tmp_path / "wire"
    )
    yield server
    server.close()


@pytest.fixture
def client(keys: Keys) -> Iterator[Client[Any]]:
    client: Client[Any] = Client(keys, b"client:test", m.ToClient)
    yield client
    client.close(0)


def arrived(server: Server[Any], client: Client[Any]) -> tuple[bytes, Any]:
    found: list[tuple[bytes, Any]] = []

    def look() -> bool:
        client.receive()  # it greets
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


@pytest.mark.parametrize("way", WAYS)
def test_there_and_back(server: Server[Any], client: Client[Any], way: str) -> None:
    client.connect(getattr(server.endpoints, way))
    client.send(m.Query(1, "status"))
    peer, message = arrived(server, client)
    assert message == m.Query(1, "status")
    server.send(peer, m.Reply(1, {"a": [1, None, "x"]}))
    assert answer(client) == m.Reply(1, {"a": [1, None, "x"]})


@pytest.mark.parametrize("way", WAYS)
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


@pytest.mark.parametrize("way", WAYS)
def test_other_keys_are_refused(server: Server[Any], tmp_path: Path, way: str) -> None:
    stranger: Client[Any] = Client(new_keys(tmp_path / "other"), b"client:other", m.ToClient)
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


@pytest.mark.parametrize("way", WAYS)
def test_right_server_key_with_a_client_key_of_another_site(
    server: Server[Any], keys: Keys, tmp_path: Path, way: str
) -> None:
    """Who knows the server's public half alone is not let in."""
    other = new_keys(tmp_path / "other")
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


@pytest.mark.parametrize("way", WAYS)
def test_nonsense_is_dropped_and_logged(
    server: Server[Any], client: Client[Any], caplog: pytest.LogCaptureFixture, way: str
) -> None:
    client.connect(getattr(server.endpoints, way))
    with caplog.at_level(logging.WARNING, "pilot.wire"):
        client.way.send(b"\xc1 nonsense")
        client.send(m.Query(2, "status"))
        assert arrived(server, client)[1] == m.Query(2, "status")
    assert "a message was dropped" in caplog.text
    assert [what.kind for _, what in server.take_unreadable()] == [""]
    assert not server.take_unreadable()


def nested(depth: int) -> bytes:
    """A query whose arguments are so many lists, each in the next."""
    return b"\x94\xa5Query\x07\xa1q\x81\xa1a" + b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("frame", "kind", "number"),
    [
        (nested(100_000), "Query", 7),
        (b"\x93\xa5Query\xcd\x01\x00\xa2\xff\xfe", "Query", 256),
        (encode(m.Query(1 << 40, "q"))[:-1], "Query", 1 << 40),
        (b"\x92\xa9FromLater\x03", "FromLater", 3),
        (b"\xdc\x00\x02\xa9FromLater\xcc\xff", "FromLater", 255),
        (b"\x92\xa9FromLater\xa1x", "FromLater", None),
        (b"\x91\xbfshort", "short", None),
        (b"", "", None),
        (b"\xdd\xff\xff\xff\xff", "", None),
        (b"\xc0", "", None),
    ],
)
def test_what_cannot_be_read_is_kept_aside(frame: bytes, kind: str, number: int | None) -> None:
    for reader in (_Reader[Any](ToHead), _Reader[Any](m.ToClient)):
        assert reader.read([(b"peer", frame)]) == []
        ((peer, what),) = reader.take_unreadable()
        assert (peer, what.kind, what.number) == (b"peer", kind, number)
        assert len(what.reason) < 1000


@given(st.binary(max_size=60))
def test_nothing_that_arrives_raises(frame: bytes) -> None:
    reader = _Reader[Any](ToHead)
    assert len(reader.read([(b"p", frame)])) + len(reader.take_unreadable()) == 1


@given(
    st.recursive(
        st.text() | st.binary() | st.none() | st.integers(-5, 5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=9,
    )
)
def test_whatever_texts_there_are_the_message_is_sent(data: Any) -> None:
    message = m.Reply(1, data)
    sent = msgspec.msgpack.decode(encode(message), type=m.Reply)
    try:
        assert sent == msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=m.Reply)
    except UnicodeEncodeError:
        assert "\\ud" in repr(sent.result)


def test_a_text_that_is_no_utf8_is_written_out() -> None:
    failure = TaskFailure("ValueError", "caf\udce9", exception=b"\xff\x00")
    message = Completions("p", 1, [Completion(3, 1, "error", failure=failure)])
    sent = msgspec.msgpack.decode(encode(message), type=Completions)
    told = sent.completions[0].failure
    assert told is not None and told.message == "caf\\udce9" and told.exception == b"\xff\x00"


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_cannot_be_sent_is_told(
    server: Server[Any], client: Client[Any], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.connect(getattr(server.endpoints, way))
    client.send(m.Query(1, "status"))
    peer, _ = arrived(server, client)
    server.send(peer, m.Reply(1, object()))
    server.send(peer, Welcome(1 << 70, ""))
    reply = answer(client)
    assert reply.request == 1 and "cannot be sent" in reply.error
    assert "a Welcome is not sent" in caplog.text


def test_a_message_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.wire.channel.FRAME_BYTES", 10 << 20)
    assert len(encode(m.Reply(1, bytes(9 << 20)))) > 9 << 20
    with pytest.raises(EncodingError, match=r"a Reply of 11 MiB cannot be sent: 10 MiB"):
        encode(m.Reply(1, bytes(11 << 20)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(1 << 20) - 8, 1 << 20, (1 << 20) + 1, 3 << 20, 20_000_000])
def test_large_messages_arrive_whole(
    server: Server[Any], client: Client[Any], way: str, size: int
) -> None:
    client.connect(getattr(server.endpoints, way))
    blob = os.urandom(1000) * (size // 1000) + bytes(size % 1000)
    client.send(m.Query(1, "q", {"blob": blob}))
    found: list[tuple[bytes, Any]] = []

    def look() -> bool:
        client.receive()  # what is kept follows
        found.extend(server.receive())
        return bool(found)

    wait_until(look, 60.0, "a large message")
    assert found[0][1].arguments["blob"] == blob
    server.send(found[0][0], m.Reply(1, blob))
    replies: list[Any] = []

    def look_back() -> bool:
        server.receive()
        replies.extend(client.receive())
        return bool(replies)

    wait_until(look_back, 60.0, "a large answer")
    assert replies == [m.Reply(1, blob)]
    wait_until(lambda: not (server.receive() or server.unsent(found[0][0])), what="all is taken")


@pytest.mark.parametrize("way", WAYS)
def test_a_peer_that_does_not_read_is_broken_off_and_comes_again(
    keys: Keys, client: Client[Any], tmp_path: Path, way: str
) -> None:
    limit = 20 << 20
    name = f"slow-{os.getpid()}"
    server: Server[Any] = Server(
        keys, name, ToHead, "127.0.0.1", unsent_bytes=limit, files=tmp_path / "wire"
    )
    try:
        client.connect(getattr(server.endpoints, way))
        client.send(m.Query(1, "q"))
        peer, _ = arrived(server, client)
        for _ in range(50):
            server.send(peer, m.Reply(1, bytes(1 << 20)))
            server.receive()
        assert server.unsent(peer) <= limit + (2 << 20)

        def is_lost() -> bool:
            client.receive()
            return client.is_lost

        wait_until(is_lost, 60.0)
        client.connect(getattr(server.endpoints, way))
        client.send(m.Query(2, "q"))
        peer, message = arrived(server, client)
        assert message.request == 2
        server.send(peer, m.Reply(2, "here you are"))
        assert answer(client) == m.Reply(2, "here you are")
    finally:
        server.close(0.0)


@pytest.mark.parametrize("way", WAYS)
def test_old_connection_never_stands_in_the_new_ones_place(
    keys: Keys, tmp_path: Path, way: str
) -> None:
    """A server that comes after another may have its port: old connections find it, too."""
    client: Client[Any] = Client(keys, b"pilot:p", ToPilot)
    name, port = f"succession-{os.getpid()}", 0
    peers = []
    for number in range(3):
        server: Server[Any] = Server(keys, name, ToHead, "127.0.0.1", port, files=tmp_path / "wire")
        port = int(server.endpoints.remote.rpartition(":")[2])
        client.connect(getattr(server.endpoints, way))
        client.send(PilotBye("p", str(number)))
        peer, message = arrived(server, client)
        assert message.reason == str(number)
        server.send(peer, EndPilot(str(number)))
        assert answer(client) == EndPilot(str(number))
        peers.append(peer)
        # It dies with something under way to it.
        server.close(0.0)
        client.send(PilotBye("p", "too late"))
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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("there", ["open", "a file", "a link", "a link to nothing"])
def test_runtime_directory_of_somebody_else(temporary: Path, there: str) -> None:
    squatted = temporary / f"pilot-{os.getuid()}"
    if there == "open":
        squatted.mkdir()
        squatted.chmod(0o777)
    elif there == "a file":
        squatted.touch()
    else:
        target = temporary / "target"
        if there == "a link":
            target.mkdir(mode=0o700)
        squatted.symlink_to(target)
    for open_one in ("a", "b"):  # somebody else may foresee that name as well
        (temporary / f"{squatted.name}-{open_one}").mkdir()
        (temporary / f"{squatted.name}-{open_one}").chmod(0o755)
    chosen = runtime_dir()
    assert chosen.parent == temporary and is_private(chosen)
    assert chosen.name.startswith(f"{squatted.name}-")
    assert runtime_dir() == chosen == socket_path("a").parent


def test_a_temporary_directory_that_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert temporary_dir().is_dir()
    assert is_private(runtime_dir())
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.parametrize(
    ("found", "taken"), [(".", Path.cwd()), (os.fsdecode(b"/dev/shm/\xff"), Path("/tmp"))]
)
def test_a_temporary_directory_that_others_would_not_find(
    monkeypatch: pytest.MonkeyPatch, found: str, taken: Path
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: found)
    assert temporary_dir() == taken


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match=r"can be made in .*file: Not a directory; set \$TMPDIR"):
        runtime_dir(tmp_path / "file")


def test_a_socket_in_a_place_of_others_is_not_chosen(tmp_path: Path) -> None:
    """They could exchange it for theirs."""
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "open" / "socket").touch()
    endpoints = Endpoints(boot_id(), f"{LOCAL}{tmp_path}/open/socket", "tcp://host:1")
    assert endpoints.choose() == "tcp://host:1"
    (tmp_path / "open").chmod(0o700)
    assert endpoints.choose() == endpoints.local
    (tmp_path / "link").symlink_to(tmp_path / "open")
    linked = Endpoints(boot_id(), f"{LOCAL}{tmp_path}/link/socket", "tcp://host:1")
    assert linked.choose() == "tcp://host:1"


def test_a_server_that_others_need_not_reach_has_no_port(keys: Keys, client: Client[Any]) -> None:
    server: Server[Any] = Server(keys, f"alone-{os.getpid()}", ToHead, None)
    try:
        assert server.endpoints.remote == "" and server.endpoints.is_reachable
        assert not Endpoints("other/boot", server.endpoints.local, "").is_reachable
        assert server.endpoints.choose() == server.endpoints.local
        client.connect(server.endpoints.choose())
        client.send(m.Query(1, "q"))
        assert arrived(server, client)[1] == m.Query(1, "q")
    finally:
        server.close(0.0)


@pytest.mark.parametrize("address", [None, "127.0.0.1"])
def test_a_poller_wakes_for_each_of_its_sources(
    keys: Keys, client: Client[Any], address: str | None
) -> None:
    server: Server[Any] = Server(keys, f"polled-{os.getpid()}", ToHead, address)
    wake = os.eventfd(0)
    try:
        poller = poller_of(*server.sources, wake)
        assert poller.poll(0) == []
        os.eventfd_write(wake, 1)
        assert poller.poll(20_000) == [(wake, 1)]
        os.eventfd_read(wake)
        client.connect(server.endpoints.remote or server.endpoints.local)
        client.send(m.Query(1, "q"))
        (ready,) = dict(poller.poll(20_000))
        assert ready == server.sources[-1]
    finally:
        os.close(wake)
        server.close(0.0)


def test_a_server_whose_directory_has_gone_is_found_again(
    keys: Keys, client: Client[Any], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.wire.channel._LOOK_S", 0.0)
    server: Server[Any] = Server(keys, "found", ToHead, None)
    try:
        assert not server.look_after()
        client.connect(server.endpoints.choose())
        shutil.rmtree(runtime_dir())
        assert not server.look_after()  # where it was before
        first = server.endpoints
        squatted = runtime_dir()
        shutil.rmtree(squatted)
        squatted.touch()
        assert server.look_after()
        assert server.endpoints.local != first.local
        other: Client[Any] = Client(keys, b"client:other", m.ToClient)
        other.connect(server.endpoints.choose())
        for number, connected in enumerate((client, other)):
            connected.send(m.Query(number, "q"))
            assert arrived(server, connected)[1] == m.Query(number, "q")
        other.close(0)
    finally:
        server.close(0.0)


@pytest.mark.parametrize("damage", ["missing", "empty", "readable"])
def test_bad_keys(tmp_path: Path, damage: str) -> None:
    new_keys(tmp_path / "keys")
    path = tmp_path / "keys" / "client.key_secret"
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_text("")
    else:
        path.chmod(0o640)
    with pytest.raises(SiteError, match=str(path)):
        load_keys(tmp_path / "keys")


def test_who_is_patient_finds_a_server_that_makes_its_socket_again(
    keys: Keys, client: Client[Any], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.wire.channel._LOOK_S", 0.0)
    server: Server[Any] = Server(keys, "patient", ToHead, None)
    try:
        Path(server.endpoints.local.removeprefix(LOCAL)).unlink()
        client.connect(server.endpoints.local)
        assert client.is_lost
        finding = threading.Thread(target=client.connect, args=(server.endpoints.local, 60.0))
        finding.start()
        server.look_after()
        finding.join(60.0)
        client.send(m.Query(1, "q"))
        assert arrived(server, client)[1] == m.Query(1, "q")
    finally:
        server.close(0.0)
