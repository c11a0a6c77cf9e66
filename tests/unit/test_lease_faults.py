"""The lease where calls of the file system fail, hang, and are carried out late.

Several processes on machines of their own are simulated: each call on the lease's files may take
longer than a lease lives, before or after it has done its work, or fail. Time is virtual, the files
are real.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pilot.errors import DiskFullError, HeadError
from pilot.head import lease as lease_module
from pilot.head import lease_files, silence
from pilot.head.lease import Lease, read_lease
from pilot.head.lease_files import LeaseFiles

RENEW_S, EXPIRE_S = 1.0, 8.0
#: The calls that may fail and hang.
CALLS = (
    "newest",
    "look",
    "prepare",
    "link",
    "is_at",
    "write",
    "touch",
    "sync",
    "withdraw",
    "discard",
    "tidy",
    "keep_spare",
)


class Process:
    """A process on a machine of its own: it becomes head when it can, for a while."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"machine{number}"
        self.wake = world.random.uniform(0.0, 2.0)
        self.turn = threading.Semaphore(0)
        self.ended = False
        self.head: Lease | None = None
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def _run(self) -> None:
        self.turn.acquire()
        try:
            for _ in range(4):
                self._be_head()
        except BaseException as error:
            self.world.errors.append(error)
        self.ended = True
        self.head = None
        self.world.turn.release()

    def _be_head(self) -> None:
        world, files = self.world, SlowFiles(self)
        lease = Lease(files.path, RENEW_S, EXPIRE_S, files)
        try:
            lease.acquire()
        except HeadError:
            world.pause(self, world.random.uniform(0.0, EXPIRE_S))
            return
        world.epochs.append(lease.epoch)
        self.head = lease
        for _ in range(world.random.randrange(12)):
            world.pause(self, RENEW_S / 2)
            if not lease.renew():
                break
        self.head = None
        if world.random.random() < 0.5:
            lease.release()


class World:
    """Lets one process go on at a time, by a virtual clock."""

    def __init__(self, seed: int, directory: Path, processes: int) -> None:
        self.random = random.Random(seed)
        self.path = directory / "head.lease"
        self.now = 1000.0
        self.turn = threading.Semaphore(0)
        self.epochs: list[int] = []
        self.errors: list[BaseException] = []
        self.processes = [Process(self, number) for number in range(processes)]
        for process in self.processes:
            process.wake += self.now

    def pause(self, process: Process, seconds: float) -> None:
        """Let others go on for so long."""
        process.wake = self.now + seconds
        self.turn.release()
        process.turn.acquire()

    def run(self) -> None:
        for process in self.processes:
            process.thread.start()
        while alive := [process for process in self.processes if not process.ended]:
            process = min(alive, key=lambda one: one.wake)
            self.now = max(self.now, process.wake)
            process.turn.release()
            self.turn.acquire()
            self.check()

    def check(self) -> None:
        heads = [one for one in self.processes if one.head and one.head._is_fresh(self.now)]
        assert len(heads) <= 1, f"two heads at once: {[one.name for one in heads]}"
        assert len(self.epochs) == len(set(self.epochs)), f"two heads of one epoch: {self.epochs}"
        assert not self.errors, self.errors


class SlowFiles(LeaseFiles):
    """Files whose calls take their time and may fail."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.world.path)
        self._aside = self.path.with_name(f"{self.path.name}.new.{process.name}")
        for name in CALLS:
            setattr(self, name, functools.partial(self._slow, process, getattr(super(), name)))

    def _slow(self, process: Process, call: Callable[..., Any], *arguments: Any) -> Any:
        world = process.world
        chance = world.random
        self._hang(process)
        fault = 1.0 if call.__name__ in ("discard", "tidy") else chance.random()
        if fault < 0.02:
            raise OSError(chance.choice([errno.EIO, errno.ESTALE, errno.ENOSPC]), "it fails")
        done = call(*arguments)
        self._hang(process)
        if 0.02 <= fault < 0.03:
            if call.__name__ == "prepare":
                os.close(done)
            raise OSError(errno.EIO, "it is done, and fails")
        return done

    def _hang(self, process: Process) -> None:
        chance = process.world.random
        longest = EXPIRE_S * 3 if chance.random() < 0.03 else 0.1
        process.world.pause(process, chance.uniform(0.0, longest))


@pytest.fixture
def world_of_their_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    """Clock and machine are those of the simulated process."""
    worlds: list[World] = []

    def sleep(seconds: float) -> None:
        world = worlds[-1]
        name = threading.current_thread().name
        world.pause(next(one for one in world.processes if one.name == name), seconds)

    clock = SimpleNamespace(monotonic=lambda: worlds[-1].now, sleep=sleep)
    for module in (lease_module, silence):
        monkeypatch.setattr(module, "time", clock)
    # All have the pid of this one.
    monkeypatch.setattr(lease_module, "kill_head", lambda *_: True)
    for module in (lease_module, lease_files):
        monkeypatch.setattr(module, "boot_id", lambda: threading.current_thread().name)
    yield worlds


def test_never_two_heads_and_no_epoch_twice(world_of_their_own: list[World]) -> None:
    @example(seed=2149, processes=2)
    @example(seed=95760, processes=2)
    @given(seed=st.integers(0, 2**32), processes=st.integers(2, 4))
    def simulate(seed: int, processes: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            world = World(seed, Path(directory), processes)
            world_of_their_own.append(world)
            world.run()

    simulate()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["newest", "is_at", "write", "keep_spare"])
def test_one_failure_never_loses_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    now = 1000.0
    monkeypatch.setattr(lease_module, "time", SimpleNamespace(monotonic=lambda: now))
    lease = Lease(tmp_path / "head.lease", RENEW_S, EXPIRE_S)
    lease.acquire()
    now += RENEW_S
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(number, "it fails")

        patch.setattr(LeaseFiles, call, fail)
        assert lease.renew()
    now += RENEW_S
    assert lease.renew() and lease.is_held()
    assert now - lease._renewed == 0, "it was renewed the next time"
    lease.release()


def test_epoch_of_the_database_counts(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "head.lease", RENEW_S, EXPIRE_S)
    lease.acquire()
    lease.keep()
    lease.raise_above(0)
    assert lease.epoch == 1
    lease.raise_above(41)
    assert lease.epoch == 42 and lease.is_held()
    holder = read_lease(tmp_path / "head.lease")
    assert holder is not None and (holder.epoch, holder.pid) == (42, os.getpid())
    lease.release()


def test_full_disk_is_no_reason_to_lose_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it lasts, also where nothing can be written in place."""
    now = 1000.0
    monkeypatch.setattr(lease_module, "time", SimpleNamespace(monotonic=lambda: now))
    lease = Lease(tmp_path / "head.lease", RENEW_S, EXPIRE_S)
    lease.acquire()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(LeaseFiles, "write", fail)
    before = None
    for _ in range(int(3 * EXPIRE_S / RENEW_S)):
        now += RENEW_S
        assert lease.renew() and lease.is_held()
        found = LeaseFiles(tmp_path / "head.lease").newest()
        assert found is not None and found.stamp != before
        before = found.stamp
    monkeypatch.undo()
    lease.release()


@pytest.mark.parametrize("spare", [True, False])
def test_take_over_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    """There is a file for that; without it, it is said why not, and nothing is half there."""
    path = tmp_path / "head.lease"
    lease = Lease(path, RENEW_S, EXPIRE_S)
    lease.acquire()
    lease.release()
    if not spare:
        path.with_name("head.lease.spare").unlink()
    known = {entry.stat().st_ino for entry in tmp_path.iterdir()}
    pwrite = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if os.fstat(descriptor).st_ino not in known:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    lease = Lease(path, RENEW_S, EXPIRE_S)
    if not spare:
        with pytest.raises(DiskFullError, match=r"the disk of .* is full"):
            lease.acquire()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["head.lease.1"]
        return
    lease.acquire()
    assert lease.epoch == 2 and not lease.unfenced
    holder = read_lease(path)
    assert holder is not None and holder.pid == os.getpid()
    monkeypatch.undo()
    lease.release()
