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
from support.waiting import wait_until

from pilot.wire.unix import Line, Listener, Stream

SECRET = b"s" * 40
#: More than any kernel takes of a socket at once.
LARGE = 5_000_000


def readable(source: int) -> bool:
    return bool(select.select([source], [], [], 0)[0])


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
    meet(listener)
    yield line
    line.close(0.0)


def meet(listener: Listener) -> None:
    """Have a listener take in who has just connected: the connection, and then the greeting."""
    for _ in range(2):
        assert readable(listener.source)
        assert not listener.receive()


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
    meet(listener)
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
    line.close(1.0)
    meet_and_hear: list[bytes] = []
    while readable(listener.source):
        meet_and_hear += [bytes(frame) for _, frame in listener.receive()]
    assert meet_and_hear == [b"last words"]
    assert not listener.send(b"peer", b"too late")


def test_who_is_gone_is_forgotten(listener: Listener, line: Line) -> None:
    line.close(0.0)
    assert listener.send(b"peer", b"hello")  # nobody knows yet
    assert readable(listener.source) and not listener.receive()
    assert not listener.send(b"peer", b"hello")
    assert not readable(listener.source)
    again = Line(str(listener._path), b"peer", SECRET)
    meet(listener)
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
    line.close(1.0)


def test_who_comes_with_the_same_name_takes_the_place(listener: Listener, line: Line) -> None:
    line.send(b"from the first")
    second = Line(str(listener._path), b"peer", SECRET)
    second.send(b"from the second")
    heard: list[bytes] = []
    while readable(listener.source):
        heard += [bytes(frame) for _, frame in listener.receive()]
    assert heard == [b"from the first", b"from the second"]
    listener.send(b"peer", b"for the second")
    assert received(second, 1) == [b"for the second"]
    assert not line.receive()
    second.close(0.0)


@pytest.mark.parametrize("greeting", ["another key", "nothing", "no name"])
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
        line.receive()
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
