"""Frames over a shared file system: whole, in order and once, whatever is seen of them when."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import readable, wait_until

from pilot.errors import SiteError
from pilot.wire.endpoints import FILES
from pilot.wire.files import arrived, outgoing
from pilot.wire.files import connection as connections
from pilot.wire.files import listener as listeners
from pilot.wire.files import records as r
from pilot.wire.files.connection import Connection
from pilot.wire.files.disk import Disk
from pilot.wire.files.incoming import Incoming
from pilot.wire.files.line import FileLine
from pilot.wire.files.listener import FileListener
from pilot.wire.files.outgoing import Outgoing

SECRET = b"s" * 40
KEY = r.direction_key(SECRET, "listener", "connection", "up")


# --- what is in the files


def test_a_state_is_read_as_it_was_written_and_with_its_key_only() -> None:
    state = r.State(r.OPEN, 7, 1 << 40, 12)
    packed = r.pack_state(state, KEY)
    assert len(packed) == r.STATE_BYTES
    assert r.unpack_state(packed, KEY) == state
    with pytest.raises(r.ForeignKeyError):
        r.unpack_state(packed, r.direction_key(b"t" * 40, "listener", "connection", "up"))
    for other in (("other", "connection", "up"), ("listener", "x", "up"), ("listener", "", "down")):
        with pytest.raises(r.ForeignKeyError):
            r.unpack_state(packed, r.direction_key(SECRET, *other))


@given(st.integers(0, r.STATE_BYTES), st.integers(0, 1 << 60))
def test_a_state_that_is_there_in_part_is_not_there(length: int, beat: int) -> None:
    state = r.State(r.OPEN, beat, 3, 5)
    packed = r.pack_state(state, KEY)
    seen = packed[:length]
    for partly in (seen, seen.ljust(r.STATE_BYTES, b"\0")):
        assert r.unpack_state(partly, KEY) in (None, state)


@given(
    st.lists(st.binary(max_size=300), max_size=12),
    st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=40),
    st.binary(max_size=64),
)
def test_records_come_once_and_in_order_whatever_is_seen_of_them(
    payloads: list[bytes], looks: list[tuple[int, bool]], junk: bytes
) -> None:
    """Each look sees more, or less than the one before, and zeros or junk behind."""
    written = b"".join(r.pack_record(r.LAST, n, p, KEY) for n, p in enumerate(payloads))
    reader, position, found = r.Records(KEY), 0, list[bytes]()
    for length, has_zeros in [*looks, (len(written), False)]:
        seen = written[position : position + length] + (bytes(99) if has_zeros else junk)
        records, taken = reader.read(seen)
        found += [bytes(record.payload) for record in records]
        position += taken
    assert found == payloads and position == len(written)


@given(st.binary(min_size=1, max_size=200), st.integers(0), st.integers(1, 255))
def test_a_record_that_was_changed_is_not_taken(payload: bytes, where: int, change: int) -> None:
    written = bytearray(r.pack_record(r.LAST, 0, payload, KEY))
    written[where % len(written)] ^= change
    assert r.Records(KEY).read(bytes(written)) == ([], 0)


@given(st.integers(0, 3 * r.PART_BYTES))
def test_a_frame_is_what_its_parts_are(size: int) -> None:
    frame = Random(size).randbytes(size)
    frames = r.Frames()
    parts = r.parts_of(frame)
    joined = [frames.join(r.Record(kind, payload)) for kind, payload in parts]
    assert joined[:-1] == [None] * (len(parts) - 1) and joined[-1] == frame
    assert all(len(payload) <= r.PART_BYTES for _, payload in parts)


# --- files that are seen late, and disks that fail


class LateDisk(Disk):
    """A file system that shows less than is there, zeros, or the past, and on which writes fail."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.fails = False
        self._before: dict[Path, bytes] = {}

    def look(self, path: Path, position: int, most: int) -> tuple[bytes, bytes]:
        now = path.read_bytes()
        whole = now if self._chance.random() < 0.5 else self._before.get(path, now)
        self._before[path] = now
        if self._chance.random() < 0.3:  # the length is there before the data
            cut = self._chance.randrange(len(whole) + 1)
            whole = whole[:cut].ljust(len(whole), b"\0")
        seen = whole[position : position + most]
        if self._chance.random() < 0.3:
            seen = seen[: self._chance.randrange(len(seen) + 1)]
        return whole[: r.STATE_BYTES], seen

    def write(self, path: Path, position: int, data: bytes, state: bytes) -> None:
        if self._chance.random() < 0.2 or (self.fails and data):
            part = data[: self._chance.randrange(len(data) + 1)]
            super().write(path, position, part, b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(path, position, data, state)

    def create(self, path: Path, data: bytes) -> None:
        if self._chance.random() < 0.2:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        super().create(path, data)


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and the window are small, and a failed write is tried again at once."""
    monkeypatch.setattr(outgoing, "FILE_BYTES", 2000)
    monkeypatch.setattr(outgoing, "WINDOW_BYTES", 5000)
    monkeypatch.setattr(outgoing, "_TAKEN_BYTES", 500)
    monkeypatch.setattr(outgoing, "AGAIN_S", 0.0)


@pytest.mark.usefixtures("few_bytes")
@pytest.mark.parametrize("seed", range(30))
def test_all_arrives_once_and_in_order_on_a_file_system_that_is_late_and_full(
    tmp_path: Path, seed: int
) -> None:
    chance = Random(seed)
    disk = LateDisk(chance)
    (tmp_path / "up.1").write_bytes(bytes(r.STATE_BYTES))
    writer = Outgoing(disk, tmp_path, "up", KEY)
    reader = Incoming(disk, tmp_path, "up", KEY)
    frames, sent, found = r.Frames(), list[bytes](), list[bytes]()
    for _ in range(5000):
        if len(sent) < 60 and chance.random() < 0.2:
            sent.append(chance.randbytes(chance.choice((0, 10, 400, 4000))))
            writer.put(sent[-1])
        if chance.random() < 0.7:
            writer.write(0)
        if chance.random() < 0.7:
            for record in reader.look():
                if (frame := frames.join(record)) is not None:
                    found.append(bytes(frame))
            writer.acknowledged = reader.taken
        assert writer._state.written - reader.taken < 5000 + 4000 + 2000
        assert len(list(tmp_path.iterdir())) <= 8
        if len(found) == 60 and not writer.unsent_bytes:
            break
    assert found == sent and len(found) == 60
    assert writer.is_flushed


@pytest.mark.usefixtures("few_bytes")
def test_on_a_full_disk_a_writer_tells_that_it_lives_and_loses_nothing(tmp_path: Path) -> None:
    class Full(Disk):
        is_full = True

        def write(self, path: Path, position: int, data: bytes, state: bytes) -> None:
            if data and self.is_full:
                super().write(path, position, data[:7], b"")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(path, position, data, state)

    disk = Full()
    (tmp_path / "up.1").write_bytes(bytes(r.STATE_BYTES))
    writer, reader = Outgoing(disk, tmp_path, "up", KEY), Incoming(disk, tmp_path, "up", KEY)
    writer.put(b"kept")
    assert not writer.write(0)
    assert writer.failure is not None and writer.failure.errno == errno.ENOSPC
    assert reader.look() == [] and reader.state == r.State(r.OPEN, 1, 0, 0)
    disk.is_full = False
    assert writer.write(0) and writer.failure is None
    assert [bytes(record.payload) for record in reader.look()] == [b"kept"]


# --- the two ends


@pytest.fixture(autouse=True)
def all_refusals_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one a second, which another test may have had."""
    monkeypatch.setattr("pilot.wire.refusals._EVERY_S", 0.0)


@pytest.fixture
def above(tmp_path: Path) -> Path:
    return tmp_path / "wire"


@pytest.fixture
def listener(above: Path) -> Iterator[FileListener]:
    listener = FileListener(above, SECRET)
    yield listener
    listener.close(0.0)


@pytest.fixture
def lines() -> Iterator[list[FileLine]]:
    """Lines that are closed in the end."""
    lines: list[FileLine] = []
    yield lines
    for line in lines:
        line.close(0.0)


def place(listener: FileListener) -> Path:
    return Path(listener.endpoint.removeprefix(FILES))


def frames_at(listener: FileListener, count: int) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []

    def all_there() -> bool:
        listener.poll(0.1)
        found.extend((peer, bytes(frame)) for peer, frame in listener.receive())
        return len(found) >= count

    wait_until(all_there, what=f"{count} frames")
    return found


def until_gone(listener: FileListener) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Wait for the end of a connection; return what arrived before it, and whose it was."""
    found: list[tuple[bytes, bytes]] = []
    gone: list[bytes] = []

    def has_come() -> bool:
        listener.poll(0.1)
        found.extend((peer, bytes(frame)) for peer, frame in listener.receive())
        gone.extend(listener.take_gone())
        return bool(gone)

    wait_until(has_come, what="the end of a connection")
    return found, gone


def frames_of(line: FileLine, count: int) -> list[bytes]:
    found: list[bytes] = []

    def all_there() -> bool:
        line.poll(0.1)
        found.extend(bytes(frame) for frame in line.receive())
        return len(found) >= count

    wait_until(all_there, what=f"{count} frames")
    return found


def wait_until_lost(line: FileLine) -> None:
    def is_lost() -> bool:
        assert not line.receive()
        return line.is_lost

    wait_until(is_lost, what="the end of the connection")


def connected(listener: FileListener, lines: list[FileLine], name: bytes = b"peer") -> FileLine:
    line = FileLine(str(place(listener)), name, SECRET)
    lines.append(line)
    line.send(b"here")
    assert frames_at(listener, 1) == [(name, b"here")]
    return line


def test_both_sides_are_woken_for_what_arrives(
    listener: FileListener, lines: list[FileLine]
) -> None:
    line = connected(listener, lines)
    assert listener.has(b"peer") and not readable(listener.source) and not readable(line.source)
    listener.send(b"peer", b"there")
    wait_until(lambda: readable(line.source), what="the frame")
    assert frames_of(line, 1) == [b"there"]
    assert not listener.send(b"nobody", b"x")


def test_files_that_were_read_go(
    listener: FileListener, lines: list[FileLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "FILE_BYTES", 10_000)
    line = connected(listener, lines)
    for number in range(200):
        line.send(b"%d" % number * 300)
    assert [int(frame[: len(frame) // 300]) for _, frame in frames_at(listener, 200)] == [
        *range(200)
    ]
    (directory,) = place(listener).iterdir()
    wait_until(lambda: len(list(directory.iterdir())) == 2, what="read files to go")
    assert "up.1" not in os.listdir(directory)


def test_what_was_said_before_the_end_arrives_and_nothing_is_left(
    listener: FileListener, lines: list[FileLine]
) -> None:
    line = connected(listener, lines)
    line.send(b"last")
    line.close(10.0)
    assert until_gone(listener) == ([(b"peer", b"last")], [b"peer"])
    assert not listener.has(b"peer")
    wait_until(lambda: not list(place(listener).iterdir()), what="its files to go")


def test_a_listener_that_ends_is_noticed_after_its_last_word(
    listener: FileListener, lines: list[FileLine], above: Path
) -> None:
    line = connected(listener, lines)
    listener.send(b"peer", b"farewell")
    listener.close(10.0)
    assert frames_of(line, 1) == [b"farewell"]
    wait_until_lost(line)
    assert line.poll(None)
    wait_until(lambda: not [*place(listener).glob("*/*")], what="its files to go")


def test_a_peer_of_the_same_name_takes_the_place(
    listener: FileListener, lines: list[FileLine]
) -> None:
    first = connected(listener, lines)
    second = connected(listener, lines)
    listener.send(b"peer", b"to the second")
    assert frames_of(second, 1) == [b"to the second"]
    wait_until_lost(first)
    first.send(b"late")
    second.send(b"in time")
    assert frames_at(listener, 1) == [(b"peer", b"in time")]


def test_a_peer_without_a_sign_of_life_is_gone_and_finds_out(
    listener: FileListener, lines: list[FileLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = connected(listener, lines)
    connection = line._connection
    assert connection is not None
    # As where its machine is gone: its thread writes nothing any more.
    monkeypatch.setattr(connection, "_write", lambda: 0)
    monkeypatch.setattr(connections, "SILENT_S", 1.0)
    assert until_gone(listener) == ([], [b"peer"])
    wait_until_lost(line)


def test_silence_is_counted_by_looks(tmp_path: Path) -> None:
    """An end that stood still for an hour has not seen an hour of silence."""
    for way in ("up", "down"):
        (tmp_path / f"{way}.1").write_bytes(bytes(r.STATE_BYTES))
    connection = Connection(Disk(), tmp_path, SECRET, is_listener=True)
    for now in (1000.0, 4600.0, 8200.0):
        connection.turn(now, True, 0.0)
    assert not connection.breaks_off
    for tick in range(70):
        connection.turn(8200.0 + 0.5 * tick, True, 0.0)
    assert connection.breaks_off and connection.is_ended


def test_a_part_of_a_file_that_is_damaged_ends_the_connection(tmp_path: Path) -> None:
    for way in ("up", "down"):
        (tmp_path / f"{way}.1").write_bytes(bytes(r.STATE_BYTES))
    here = Connection(Disk(), tmp_path, SECRET, is_listener=True)
    there = Connection(Disk(), tmp_path, SECRET, is_listener=False)
    there.outgoing.put(b"x" * 100)
    there.turn(1.0, True, 0.0)
    with (tmp_path / "up.1").open("r+b") as file:
        file.seek(r.STATE_BYTES + 80)
        file.write(b"y")
    now = 2.0
    while not here.breaks_off and now < 100.0:
        assert here.turn(now, True, 0.0) == []
        there.outgoing._told = -100.0  # it lives
        there.turn(now, True, 0.0)
        now += 0.5
    assert here.breaks_off and 25.0 < now < 40.0


def test_another_key_is_refused_at_both_ends(
    listener: FileListener, lines: list[FileLine], caplog: pytest.LogCaptureFixture
) -> None:
    line = FileLine(str(place(listener)), b"stranger", b"t" * 40)
    lines.append(line)
    line.send(b"let me in")
    with caplog.at_level(logging.WARNING):
        wait_until(lambda: line.refused and line.is_lost, what="the refusal")
        wait_until(lambda: "a key of another site" in caplog.text)
    assert listener.receive() == [] and listener.count == 0


def test_directories_that_others_may_enter_are_left_alone(
    tmp_path: Path, above: Path, listener: FileListener, lines: list[FileLine]
) -> None:
    for name, made in (("open", 0o755), ("link", None)):
        there = place(listener) / name
        if made is None:
            (tmp_path / "target").mkdir(mode=0o700)
            there.symlink_to(tmp_path / "target")
        else:
            there.mkdir()
            there.chmod(made)
    connected(listener, lines)  # the listener has looked
    assert listener.count == 1 and (place(listener) / "open").is_dir()
    # Nor does anybody connect to one.
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    (tmp_path / "link").symlink_to(place(listener))
    for path in (tmp_path / "theirs", tmp_path / "link", tmp_path / "nowhere"):
        line = FileLine(str(path), b"peer", SECRET)
        lines.append(line)
        line.send(b"to nobody")
        wait_until_lost(line)
    assert not list((tmp_path / "theirs").iterdir())
    with pytest.raises(SiteError, match=r"link is no directory of yours, or a link: .*remove it"):
        FileListener(tmp_path / "link", SECRET)
    with pytest.raises(SiteError, match=r"cannot be made: File exists"):
        FileListener(there_is_a_file(tmp_path), SECRET)
    # An open one of this user is made private.
    FileListener(tmp_path / "theirs", SECRET).close(0.0)
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o700


def there_is_a_file(directory: Path) -> Path:
    (directory / "a file").touch()
    return directory / "a file"


@pytest.mark.parametrize("there", ["link", "fifo", "of another user"])
def test_what_is_no_file_of_this_user_is_not_read(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "up.1"
    if there == "link":
        (tmp_path / "target").write_bytes(bytes(1000))
        path.symlink_to(tmp_path / "target")
    elif there == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(bytes(1000))
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for use in (
        lambda: Disk().look(path, 0, 10),
        lambda: Disk().write(path, 0, b"x", b""),
    ):
        with pytest.raises(OSError):
            use()


def test_what_earlier_listeners_have_left_is_removed(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "_LEFT_S", 0.1)
    left = above / "left" / "connection"
    left.mkdir(parents=True, mode=0o700)
    above.chmod(0o700)
    left.parent.chmod(0o700)
    (left / "up.1").touch()
    listener = FileListener(above, SECRET)
    try:
        wait_until(lambda: not left.parent.exists(), what="it to be removed")
        assert place(listener).is_dir()
    finally:
        listener.close(0.0)


def test_a_listener_whose_directory_has_gone_has_another(
    above: Path, listener: FileListener, lines: list[FileLine]
) -> None:
    line = connected(listener, lines)
    before = place(listener)
    assert not listener.look_after()
    before.rename(above / "moved")
    assert listener.look_after() and place(listener) != before
    wait_until_lost(line)
    connected(listener, lines)


def test_what_nobody_receives_stays_with_its_sender(
    listener: FileListener, lines: list[FileLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrived, "KEPT_BYTES", 100_000)
    monkeypatch.setattr(outgoing, "WINDOW_BYTES", 200_000)
    monkeypatch.setattr(outgoing, "_TAKEN_BYTES", 50_000)
    line = connected(listener, lines)
    for _ in range(100):
        listener.send(b"peer", bytes(20_000))
    wait_until(lambda: listener.unsent(b"peer") == 0 or readable(line.source))
    (directory,) = place(listener).iterdir()

    def in_files() -> int:
        return sum(path.stat().st_size for path in directory.iterdir())

    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin > 1.0, what="all that is going to be written")
    assert in_files() < 3_000_000
    assert len(frames_of(line, 100)) == 100


def test_a_full_disk_is_told_and_passes(
    above: Path, lines: list[FileLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Disk):
        is_full = False

        def write(self, path: Path, position: int, data: bytes, state: bytes) -> None:
            if self.is_full and data:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            super().write(path, position, data, state)

    monkeypatch.setattr(outgoing, "AGAIN_S", 0.05)
    disk = Full()
    listener = FileListener(above, SECRET, disk=disk)
    try:
        line = connected(listener, lines)
        assert listener.trouble == ""
        disk.is_full = True
        listener.send(b"peer", b"kept")
        wait_until(lambda: "Disk quota exceeded" in listener.trouble, what="the trouble")
        disk.is_full = False
        assert frames_of(line, 1) == [b"kept"]
        wait_until(lambda: listener.trouble == "", what="the trouble to pass")
    finally:
        listener.close(0.0)
