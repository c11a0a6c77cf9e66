"""A disk that is full: everything waits, nothing is lost, and all goes on when there is room."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import tasks
from support.sites import SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot
from pilot.cli import cli
from pilot.errors import DiskFullError

DEADLINE_S = 60.0
EXPIRE_S = 3.0


class Disk:
    """A small disk, and the file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def fill(self) -> None:
        """Leave no byte."""
        with self._filling.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 9, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def clear(self) -> None:
        """Make room again."""
        self._filling.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="pilot-disk-", dir="/tmp") as directory:
        command = ["mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", directory]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        try:
            yield Disk(Path(directory))
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def site(disk: Disk) -> Iterator[SiteUnderTest]:
    lease = {"renew": "300ms", "expire": f"{EXPIRE_S:g}s"}
    with site_under_test(local_template(lease=lease), parent=disk.path) as site:
        yield site


def await_trouble(site: SiteUnderTest) -> None:
    wait_until(lambda: "full" in site.query("head")["unwritten"], DEADLINE_S, "a failed commit")


def await_renewals(site: SiteUnderTest) -> None:
    """Wait for longer than a lease lives that is not renewed."""
    until = time.monotonic() + 2 * EXPIRE_S
    wait_until(lambda: time.monotonic() > until, DEADLINE_S)


def test_head_outlasts_a_full_disk(site: SiteUnderTest, disk: Disk) -> None:
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        head = site.head_pid
        disk.fill()
        futures = [session.submit(tasks.square, number) for number in range(50)]
        await_trouble(site)
        await_renewals(site)
        assert site.head_pid == head
        assert not any(future.done() for future in futures), "nothing is told that is not durable"
        for why in (futures[-1].why(), _why(futures[-1].task_id), _why("1.4711")):
            assert "is not accepted: the head cannot write" in why and "full" in why
        disk.clear()
        assert pilot.gather(futures, timeout=DEADLINE_S) == [n * n for n in range(50)]
        assert site.head_pid == head


def _why(subject: str) -> str:
    asked = CliRunner().invoke(cli, ["why", subject], prog_name="pilot")
    assert asked.exit_code == 0
    return asked.output


def test_clients_wait_for_a_head_that_finds_no_room(site: SiteUnderTest, disk: Disk) -> None:
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        disk.fill()
        futures = [session.submit(tasks.square, number) for number in range(50)]
        await_trouble(site)
        os.kill(site.head_pid, signal.SIGKILL)
        log = site.site.logs / "head.log"
        # More often than a client starts a head that dies of something else.
        wait_until(lambda: _tries(log) > 9 or not _writes(log), DEADLINE_S, "heads to give up")
        assert not any(future.done() for future in futures)
        disk.clear()
        assert pilot.gather(futures, timeout=DEADLINE_S) == [n * n for n in range(50)]


def _tries(log: Path) -> int:
    return log.read_text(errors="replace").count("no head can start")


def _writes(log: Path) -> bool:
    """Whether the log has room left to say anything."""
    try:
        with log.open("ab") as file:
            return file.write(b"\n") == 1
    except OSError:
        return False


def test_a_start_without_room_is_told_in_a_sentence(site: SiteUnderTest, disk: Disk) -> None:
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    CliRunner().invoke(cli, ["head", "stop"])
    disk.fill()
    started = CliRunner().invoke(cli, ["head", "start"], prog_name="pilot")
    assert started.exit_code == DiskFullError.exit_code
    assert "is full" in started.stderr and "Traceback" not in started.stderr
    disk.clear()
    with site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
