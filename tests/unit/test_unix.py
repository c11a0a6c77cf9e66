"""Frames over Unix sockets: whole, in order, to nobody else, and nobody waits for who is slow."""

from __future__ import annotations

import logging
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import readable, wait_until

from pilot.wire.greeting import user_of
from pilot.wire.socket_files import remove_dead
from pilot.wire.stream import Stream
from pilot.wire.unix import Line, Listener

SECRET = b"s" * 40
#: More than any kernel takes of a socket at once.
LARGE = 5_000_000


@pytest.fixture(autouse=True)
def all_refusals_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one a second, which another test may have had."""
    monkeypatch.setattr("pilot.wire.refusals._EVERY_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    listener = Listener(path, SECRET)
    yield listener
    listener.close(0.0)


@pytest.fixture
def line(listener: Listener, path: Path) -> Iterator[Line]:
    """Connected to the listener, which knows it."""
    line = Line(str(path), b"peer", SECRET)
    meet(listener, line)
    yield line
    line.close(0.0)


def meet(listener: Listener, *lines: Line) -> None:
    """Have a listener take in who has just connected, and both ends prove themselves."""
    for _ in range(4):
        assert not listener.receive()
        for line in lines:
            assert not line.receive()
    assert not readable(listener.source)


def received(line: Line, count: int) -> list[bytes]:
    frames: list[bytes] = []

    def all_there() -> bool:
        frames.extend(bytes(frame) for frame in line.receive())
        return len(frames) >= count

    wait_until(all_there, what=f"{count} frames")
    return frames


def test_there_and_back(listener: Listener, line: Line) -> None:
    line.send(b"hello")
    line.send(b"again")
    assert [(name, bytes(f)) for name, f in listener.receive()] == [
        (b"peer", b"hello"),
        (b"peer", b"again"),
    ]
    assert listener.send(b"peer", b"and back")
    assert line.poll(0.0)
    assert received(line, 1) == [b"and back"]
    assert not line.poll(0.0) and not readable(listener.source)


def test_nobody_is_sent_nothing(listener: Listener, line: Line) -> None:
    assert not listener.send(b"somebody", b"hello")
    assert not line.receive()


@given(
    frames=st.lists(st.binary(max_size=20) | st.integers(0, 300_000).map(bytes), max_size=12),
    turns=st.lists(st.sampled_from(["send", "flush", "receive"]), max_size=40),
)
def test_frames_arrive_whole_and_in_order_however_ends_take_turns(
    frames: list[bytes], turns: list[str]
) -> None:
    with select.epoll() as epoll:
        here, there = (Stream(end, epoll) for end in socket.socketpair())
        waiting, arrived = list(reversed(frames)), list[bytes]()

        def turn(kind: str) -> None:
            if kind == "send" and waiting:
                here.send(waiting.pop())
            elif kind == "flush":
                here.flush()
            elif kind == "receive":
                arrived.extend(bytes(frame) for frame in there.receive())

        for kind in turns:
            turn(kind)
        while waiting:
            turn("send")
        while len(arrived) < len(frames):
            # Both ends are told what there is to do; so this comes to its end.
            assert epoll.poll(0)
            turn("flush")
            turn("receive")
        assert arrived == frames
        assert here.is_flushed and not epoll.poll(0)
        here.close()
        there.close()


@given(
    frames=st.lists(st.binary(max_size=9), max_size=9), cuts=st.lists(st.integers(1, 7), min_size=1)
)
def test_frames_arrive_whole_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    packed = b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)
    with select.epoll() as epoll, socket.socket() as unused:
        stream = Stream(unused, epoll)
        arrived: list[memoryview] = []
        while packed:
            for cut in cuts:
                stream._split(packed[:cut], arrived)
                packed = packed[cut:]
        assert arrived == frames


def test_large_frames(listener: Listener, line: Line) -> None:
    large = os.urandom(LARGE)
    line.send(large)
    line.send(b"small")
    arrived: list[bytes] = []

    def all_there() -> bool:
        arrived.extend(bytes(frame) for _, frame in listener.receive())
        line.receive()  # what was kept follows
        return len(arrived) == 2

    wait_until(all_there)
    assert arrived == [large, b"small"]
    listener.send(b"peer", large)

    def is_there() -> bool:
        listener.receive()
        return bool(frames := line.receive()) and bytes(frames[0]) == large

    wait_until(is_there)


def test_nobody_waits_for_a_peer_that_does_not_read(listener: Listener, line: Line) -> None:
    for number in range(20):
        listener.send(b"peer", bytes([number]) * 100_000)
    other = Line(str(listener._path), b"other", SECRET)
    for _ in range(4):
        listener.receive()
        other.receive()
    listener.send(b"other", b"for you")
    assert received(other, 1) == [b"for you"]
    other.close(0.0)

    frames: list[bytes] = []

    def all_there() -> bool:
        frames.extend(bytes(frame) for frame in line.receive())
        listener.receive()
        return len(frames) == 20

    wait_until(all_there)
    assert frames == [bytes([number]) * 100_000 for number in range(20)]


def test_drain_waits_until_all_is_on_its_way(listener: Listener, line: Line) -> None:
    line.send(bytes(LARGE))
    drained = threading.Thread(target=line.drain)
    drained.start()
    frames: list[memoryview] = []

    def all_there() -> bool:
        frames.extend(frame for _, frame in listener.receive())
        return bool(frames)

    wait_until(all_there)
    drained.join(20.0)
    assert not drained.is_alive() and len(frames[0]) == LARGE


def test_drain_ends_with_the_other_end(listener: Listener, line: Line) -> None:
    line.send(bytes(LARGE))
    drained = threading.Thread(target=line.drain)
    drained.start()
    listener.close(0.0)
    drained.join(20.0)
    assert not drained.is_alive()


def test_what_was_sent_before_the_end_arrives(listener: Listener, path: Path) -> None:
    line = Line(str(path), b"peer", SECRET)
    line.send(b"last words")
    leaving = threading.Thread(target=line.close, args=(20.0,))
    leaving.start()
    heard: list[bytes] = []

    def is_heard() -> bool:
        heard.extend(bytes(frame) for _, frame in listener.receive())
        return bool(heard) and not listener.send(b"peer", b"too late")

    wait_until(is_heard)
    leaving.join(20.0)
    assert heard == [b"last words"]


def test_who_is_gone_is_forgotten(listener: Listener, line: Line) -> None:
    line.close(0.0)
    assert listener.send(b"peer", b"hello")  # nobody knows yet
    assert readable(listener.source) and not listener.receive()
    assert not listener.send(b"peer", b"hello")
    assert not readable(listener.source)
    again = Line(str(listener._path), b"peer", SECRET)
    meet(listener, again)
    listener.send(b"peer", b"back again")
    assert received(again, 1) == [b"back again"]
    again.close(0.0)


def test_a_line_whose_listener_is_gone_is_silent(listener: Listener, line: Line) -> None:
    listener.close(0.0)
    assert line.poll(0.0) and not line.receive()
    assert not line.poll(0.0) and not line.refused
    line.send(b"to nobody")
    line.drain()


@pytest.mark.parametrize("there", ["nothing", "a dead one's socket"])
def test_a_line_without_a_listener_is_silent(path: Path, there: str) -> None:
    if there != "nothing":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    line = Line(str(path), b"peer", SECRET)
    line.send(b"to nobody")
    assert not line.poll(0.0) and not line.receive() and not line.refused
    assert line.poll(None)  # nobody waits for ever for what cannot come
    line.close(1.0)


def test_who_comes_with_the_same_name_takes_the_place(listener: Listener, line: Line) -> None:
    line.send(b"from the first")
    second = Line(str(listener._path), b"peer", SECRET)
    second.send(b"from the second")
    heard: list[bytes] = []
    while readable(listener.source):
        heard += [bytes(frame) for _, frame in listener.receive()]
        second.receive()
    assert heard == [b"from the first", b"from the second"]
    listener.send(b"peer", b"for the second")
    assert received(second, 1) == [b"for the second"]
    assert not line.receive()
    second.close(0.0)


@pytest.mark.parametrize("greeting", ["another key", "no name"])
def test_nobody_is_heard_without_the_key(
    listener: Listener, path: Path, greeting: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pilot.auth"):
        if greeting == "another key":
            line = Line(str(path), b"stranger", b"x" * 40)
        else:
            line = Line(str(path), b"", SECRET)
        line.send(b"end, please")
        while readable(listener.source):
            assert not listener.receive()
            assert not line.receive()
    assert line.refused and "refused" in caplog.text
    assert not listener.send(b"stranger", b"hello")
    line.close(0.0)


def test_connections_wait_where_there_are_no_descriptors(
    listener: Listener, line: Line, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    second = Line(str(path), b"second", SECRET)
    with open(os.devnull) as lowest:  # the number that a new descriptor gets
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        assert not listener.receive()
        assert not readable(listener.source), "it would be asked again and again"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "no more connections" in caplog.text
    line.close(0.0)
    while readable(listener.source):
        listener.receive()
        second.receive()
    listener.send(b"second", b"your turn")
    assert received(second, 1) == [b"your turn"]
    second.close(0.0)


def test_a_listener_that_closes_gives_what_was_sent_time_to_leave(
    listener: Listener, line: Line
) -> None:
    listener.send(b"peer", bytes(LARGE))
    begin = time.monotonic()
    closing = threading.Thread(target=listener.close, args=(20.0,))
    closing.start()
    assert len(received(line, 1)[0]) == LARGE
    closing.join(20.0)
    assert time.monotonic() - begin < 20.0


# --- who is who -----------------------------------------------------------------------------------


def said(connected: socket.socket, frame: bytes) -> None:
    connected.sendall(len(frame).to_bytes(4, "little") + frame)


def heard_by(connected: socket.socket, listener: Listener) -> bytes:
    """The next frame that a listener sends to whoever has made this connection."""
    while readable(listener.source):
        assert not listener.receive()
    connected.settimeout(20.0)
    length = int.from_bytes(connected.recv(4, socket.MSG_WAITALL), "little")
    return connected.recv(length, socket.MSG_WAITALL)


def test_no_proof_is_good_twice(listener: Listener, path: Path) -> None:
    """All that a peer once said, said again by who has listened and has no key."""
    with socket.socket(socket.AF_UNIX) as between:
        between.bind(str(path.with_name("between")))
        between.listen()
        line = Line(str(path.with_name("between")), b"peer", SECRET)
        peer, _ = between.accept()
        with peer, socket.socket(socket.AF_UNIX) as onward:
            onward.connect(str(path))
            hello = peer.recv(4096)
            onward.sendall(hello)
            answer = heard_by(onward, listener)
            said(peer, answer)
            assert not line.receive()
            proof = peer.recv(4096)
            onward.sendall(proof)
            while readable(listener.source):
                assert not listener.receive()
        assert not line.refused
        line.close(0.0)
    with socket.socket(socket.AF_UNIX) as again:
        again.connect(str(path))
        again.sendall(hello + proof)
        assert heard_by(again, listener) != answer
        assert heard_by(again, listener) == b""


def test_a_proof_is_good_in_one_direction_only(listener: Listener, path: Path) -> None:
    """Who has no key lets the listener make the proof that the listener asks for."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        said(stranger, bytes(32) + b"stranger")
        answer = heard_by(stranger, listener)
        said(stranger, answer[32:])
        assert heard_by(stranger, listener) == b""


@pytest.mark.parametrize("known", [b"", b"the greeting of before"])
def test_nothing_is_said_to_a_listener_without_the_key(path: Path, known: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as false:
        false.bind(str(path))
        false.listen()
        line = Line(str(path), b"peer", SECRET)
        line.send(b"a secret")
        connected, _ = false.accept()
        with connected:
            said(connected, known.ljust(64, b"?") if known else os.urandom(64))
            assert not line.receive()
            assert line.refused and line.is_lost
            line.send(b"a secret")
            line.close(1.0)
            connected.settimeout(20.0)
            assert b"secret" not in connected.recv(1 << 16)


def test_a_listener_without_the_key_is_not_heard_and_not_kept(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as false:
        false.bind(str(path))
        false.listen()
        line = Line(str(path), b"peer", SECRET)
        connected, _ = false.accept()
        with connected:
            connected.sendall((1 << 31).to_bytes(4, "little") + bytes(1000))
            assert not line.receive()
            assert line.is_lost
        line.close(0.0)


@pytest.mark.parametrize("length", [0, 289, 1 << 20, (1 << 32) - 1])
def test_who_has_not_greeted_cannot_have_anything_kept(
    listener: Listener, path: Path, length: int
) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.sendall(length.to_bytes(4, "little") + bytes(100_000))
        while readable(listener.source):
            assert not listener.receive()
        assert not listener._streams and not listener._greetings


def test_a_greeting_has_its_time(
    listener: Listener, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Line(str(path), b"slow", SECRET)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert not listener.receive()
        later = time.monotonic() + 60.0
        monkeypatch.setattr("pilot.wire.unix.time.monotonic", lambda: later)
        assert not listener.receive()
        assert not listener._streams
    slow.receive()
    slow.receive()
    assert slow.is_lost and not slow.refused
    slow.close(0.0)


def test_others_are_not_spoken_with(
    listener: Listener,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pilot.wire.greeting.user_of", lambda _: os.geteuid() + 1)
    line = Line(str(path), b"peer", SECRET)
    assert line.is_lost and not line.refused
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        assert not listener.receive()
        assert stranger.recv(1) == b""
    assert f"a process of user {os.geteuid() + 1}, not of yours" in caplog.text


def test_the_kernel_says_whose_the_other_end_is(path: Path) -> None:
    here, there = socket.socketpair()
    with here, there:
        assert user_of(here) == os.geteuid()


# --- bounds ---------------------------------------------------------------------------------------


def test_a_peer_that_does_not_read_is_broken_off(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(path, SECRET, unsent_bytes=LARGE)
    line = Line(str(path), b"peer", SECRET)
    meet(listener, line)
    sent = 0
    while listener.send(b"peer", bytes(1 << 20)):
        assert listener.unsent(b"peer") <= LARGE + (2 << 20)
        sent += 1
        listener.receive()
    assert sent > LARGE >> 20 and "broken off" in caplog.text

    def ends() -> bool:
        line.receive()
        return line.is_lost

    wait_until(ends)
    again = Line(str(path), b"peer#2", SECRET)
    meet(listener, again)
    listener.send(b"peer#2", b"welcome back")
    assert received(again, 1) == [b"welcome back"]
    for end in (line, again, listener):
        end.close(0.0)


def test_unsent_bytes_are_those_that_the_kernel_does_not_have(
    listener: Listener, line: Line
) -> None:
    assert listener.unsent(b"peer") == listener.unsent(b"somebody") == 0
    for _ in range(3):
        listener.send(b"peer", bytes(LARGE))
    assert LARGE < listener.unsent(b"peer") <= 3 * LARGE + 12

    def all_there() -> bool:
        listener.receive()
        line.receive()
        return not listener.unsent(b"peer")

    wait_until(all_there)


# --- places ---------------------------------------------------------------------------------------


def test_a_listener_whose_socket_has_gone_listens_again(
    listener: Listener, line: Line, path: Path
) -> None:
    assert listener.is_there
    path.unlink()
    assert not listener.is_there
    path.write_text("of somebody else")
    assert not listener.is_there
    listener.move(path.with_name("elsewhere"))
    other = Line(str(path.with_name("elsewhere")), b"other", SECRET)
    for _ in range(4):
        listener.receive()
        other.receive()
    listener.send(b"other", b"found")
    listener.send(b"peer", b"still there")
    assert received(other, 1) == [b"found"] and received(line, 1) == [b"still there"]
    other.close(0.0)
    assert path.read_text() == "of somebody else"


def test_a_path_that_is_too_long_for_the_kernel(tmp_path: Path) -> None:
    long = tmp_path / ("l" * 100) / "socket"
    long.parent.mkdir()
    listener = Listener(long, SECRET)
    line = Line(str(long), b"peer", SECRET)
    meet(listener, line)
    listener.send(b"peer", b"found")
    assert received(line, 1) == [b"found"]
    line.close(0.0)
    listener.close(0.0)
    assert not long.exists()


def test_dead_sockets_are_removed_and_no_others(tmp_path: Path) -> None:
    old = time.time() - 3600
    living = Listener(tmp_path / "living", SECRET)
    for name in ("dead", "new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))
    for name in ("file", "rank-dead", "rank-new"):
        (tmp_path / name).touch()
    for name in ("dead", "living", "file"):
        os.utime(tmp_path / name, (old, old))
    os.utime(tmp_path / "rank-dead", (old - 86400, old - 86400))
    remove_dead(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["file", "living", "new", "rank-new"]
    living.close(0.0)


def test_what_is_kept_does_not_grow_with_those_who_went(listener: Listener, path: Path) -> None:
    for number in range(300):
        line = Line(str(path), b"peer %d" % number, SECRET)
        meet(listener, line)
        line.close(0.0)
        assert not listener.receive()
    kept = [value for value in vars(listener).values() if isinstance(value, (list, dict))]
    assert sum(map(len, kept)) <= 1
    assert listener.take_gone() == [b"peer 299"] and listener.take_gone() == []
