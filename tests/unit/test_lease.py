"""Who is head: taking over, renewing, and giving way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.waiting import wait_until

from pilot.head import lease as lease_module
from pilot.head.lease import HeadRuns, Holder, Lease, read_lease
from pilot.wire.discovery import process_started
from pilot.wire.endpoints import boot_id

RENEW_S, EXPIRE_S = 0.05, 0.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "head.lease"


def make(path: Path) -> Lease:
    return Lease(path, RENEW_S, EXPIRE_S)


def write(path: Path, **changes: Any) -> Holder:
    """The lease of some other process, as earlier releases wrote it."""
    fields: dict[str, Any] = {
        "host": "elsewhere",
        "pid": 1,
        "started": 0,
        "boot": "elsewhere/boot",
        "epoch": 7,
        "counter": 3,
    }
    holder = Holder(**{**fields, **changes})
    path.write_bytes(msgspec.json.encode(holder))
    return holder


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this machine that is no head."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def held_by(path: Path, process: subprocess.Popen[bytes]) -> Holder:
    return write(
        path,
        host=os.uname().nodename,
        pid=process.pid,
        started=process_started(process.pid),
        boot=boot_id(),
    )


def test_first_head(path: Path) -> None:
    lease = make(path)
    lease.acquire()
    assert lease.epoch == 1
    holder = read_lease(path)
    assert holder is not None and (holder.pid, holder.epoch) == (os.getpid(), 1)
    assert path.with_name("head.lease.1").stat().st_mode & 0o077 == 0
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "head.lease.1",
        "head.lease.spare",
    ]


def test_epochs_only_grow(path: Path) -> None:
    """Also over clean ends."""
    epochs = []
    for _ in range(3):
        lease = make(path)
        lease.acquire()
        epochs.append(lease.epoch)
        lease.release()
    assert epochs == sorted(set(epochs))


def test_dead_holder_is_followed_at_once(path: Path, other: subprocess.Popen[bytes]) -> None:
    held_by(path, other)
    other.kill()
    other.wait()
    lease = Lease(path, RENEW_S, 1000.0)
    lease.acquire()
    assert lease.epoch == 8


def test_number_of_a_dead_holder_may_be_anothers(
    path: Path, other: subprocess.Popen[bytes]
) -> None:
    write(path, pid=other.pid, started=1, boot=boot_id())
    lease = Lease(path, RENEW_S, 1000.0)
    lease.acquire()
    assert lease.epoch == 8 and other.poll() is None


def test_living_holder_is_left_alone(path: Path, other: subprocess.Popen[bytes]) -> None:
    first = held_by(path, other)
    ended = threading.Event()

    def renew() -> None:
        counter = first.counter
        while not ended.wait(RENEW_S):
            counter += 1
            aside = path.with_name("aside")
            aside.write_bytes(msgspec.json.encode(msgspec.structs.replace(first, counter=counter)))
            aside.replace(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(HeadRuns, match=f"pid {other.pid} .* epoch 7; `pilot head stop`"):
            make(path).acquire()
    finally:
        ended.set()
        thread.join()
    assert other.poll() is None


def test_silent_holder_on_another_machine_is_followed_after_its_time(path: Path) -> None:
    write(path)
    lease = make(path)
    lease.acquire()
    assert lease.epoch == 8


def test_silent_holder_on_this_machine_is_ended(path: Path, other: subprocess.Popen[bytes]) -> None:
    """Stopped, it would keep the database locked for ever."""
    other.send_signal(signal.SIGSTOP)
    held_by(path, other)
    reaper = threading.Thread(target=other.wait)
    reaper.start()
    make(path).acquire()
    reaper.join(20)
    assert other.returncode == -signal.SIGKILL


def test_renewing_counts_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lease = make(path)
    lease.acquire()
    assert lease.renew() and _counter(path) == 0, "it is not time yet"
    clock.now += 2 * RENEW_S
    assert lease.renew() and _counter(path) == 1


class Clock:
    """The monotonic clock of leases, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def _counter(path: Path) -> int:
    holder = read_lease(path)
    assert holder is not None
    return holder.counter


def test_who_slept_too_long_is_head_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Well before others may take over, and without a look at the file."""
    clock = Clock(monkeypatch)
    lease = make(path)
    lease.acquire()
    clock.now += EXPIRE_S / 2 + RENEW_S
    assert not lease.renew()


def test_who_was_followed_is_head_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lease = make(path)
    lease.acquire()
    write(path, epoch=2)
    clock.now += 2 * RENEW_S
    assert not lease.renew()
    lease.release()
    assert read_lease(path) is not None, "the other's lease is not given up"


def test_missing_file_is_a_lost_lease(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lease = make(path)
    lease.acquire()
    path.with_name("head.lease.1").unlink()
    clock.now += 2 * RENEW_S
    assert not lease.renew()


def _garbage(file: Path, kind: str) -> None:
    if kind == "directory":
        file.mkdir()
    elif kind == "link to itself":
        file.symlink_to(file)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(
            {"empty": b"", "half": b'{"host": "a', "no UTF-8": b'{"host": "\xff"}'}[kind]
        )


@pytest.mark.parametrize(
    "kind", ["directory", "link to itself", "pipe", "empty", "half", "no UTF-8"]
)
@pytest.mark.parametrize("name", ["head.lease", "head.lease.41"])
def test_damaged_lease_is_followed_and_its_epoch_counts(path: Path, kind: str, name: str) -> None:
    _garbage(path.with_name(name), kind)
    assert read_lease(path) is None
    lease = make(path)
    lease.acquire(least_epoch=41)
    assert lease.epoch == 42
    assert lease.unfenced == (name == "head.lease.41"), "whoever had it may live"
    lease.release()


@pytest.fixture
def kept(path: Path) -> Iterator[Lease]:
    """A lease that a thread renews."""
    lease = make(path)
    lease.acquire()
    lease.keep()
    yield lease
    lease.release()


def test_kept_lease_is_renewed_whatever_its_holder_does(kept: Lease, path: Path) -> None:
    wait_until(lambda: _counter(path) >= 2 * EXPIRE_S / RENEW_S, 20.0)
    assert kept.is_held()


def test_who_is_hung_loses_a_kept_lease(kept: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "STUCK_S", 2 * RENEW_S)
    wait_until(lambda: time.monotonic() - kept._renewed > EXPIRE_S / 2, 20.0, "no renewal")
    assert not kept.is_held()


def test_kept_lease_that_another_has_taken_is_lost(kept: Lease, path: Path) -> None:
    write(path, epoch=2)
    wait_until(lambda: not kept.is_held(), 20.0)


def test_who_sleeps_with_all_its_threads_holds_its_lease_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    lease = make(path)
    lease.acquire()
    assert lease.is_held()
    clock.now += EXPIRE_S / 2 + RENEW_S
    assert not lease.is_held()


RACE = """
import sys, time
from pathlib import Path
from pilot.head.lease import HeadRuns, Lease
path = Path(sys.argv[1])
lease = Lease(path, 0.05, 5.0)
while not path.with_name("go").exists():
    pass
try:
    lease.acquire()
except HeadRuns:
    print("lost", flush=True)
else:
    print("won", lease.epoch, flush=True)
    while not path.with_name("end").exists() and lease.renew():
        time.sleep(0.01)
"""


@pytest.mark.parametrize("before", ["nobody", "dead"])
def test_one_of_many_wins(path: Path, before: str) -> None:
    if before == "dead":
        write(path, pid=2**22, boot=boot_id())
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        path.with_name("go").touch()
        wait_until(lambda: sum(r.poll() is not None for r in racers) == 3, 20, "three to lose")
    finally:
        path.with_name("end").touch()
        said = [racer.communicate(timeout=20)[0].split() for racer in racers]
    assert sorted(words[0] for words in said) == ["lost", "lost", "lost", "won"]
