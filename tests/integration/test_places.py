"""Where a site's processes meet: places that vanish, and ports that nobody needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.sites import SiteUnderTest
from support.waiting import wait_until

from pilot.wire.discovery import read_address
from pilot.wire.endpoints import LOCAL, runtime_dir
from pilot.wire.keys import make_keys


def listening_ports(pid: int) -> list[int]:
    """The TCP ports that a process listens at."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        link = os.readlink(descriptor)
        if link.startswith("socket:["):
            sockets.add(link[len("socket:[") : -1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(int(fields[1].rpartition(":")[2], 16))
    return found


def test_nobody_listens_to_a_network_that_nobody_needs(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        assert session.submit(abs, -1).result(60) == 1
        processes = local_site.processes()
        assert len(processes) >= 4
        assert [listening_ports(process.pid) for process in processes] == [[]] * len(processes)


def test_a_head_that_others_need_listens_where_it_is_told_to(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    site = make_site(head={"address": "lo"})
    with site.session() as session:
        assert session.submit(abs, -1).result(60) == 1
        address = read_address(site.site.address_file)
        assert address is not None
        (port,) = listening_ports(site.head_pid)
        assert address.endpoints.remote == f"tcp://127.0.0.1:{port}"


def test_work_goes_on_when_the_directory_of_the_sockets_has_gone(local_site: SiteUnderTest) -> None:
    """As a cleaner of old files takes it away, or the end of the login that it belonged to."""
    with local_site.session() as session:
        assert session.submit(abs, -1).result(60) == 1
        head, pids = local_site.head_pid, local_site.pids_of("agent", 1)
        shutil.rmtree(runtime_dir())
        # Who is connected does not notice.
        assert session.submit(abs, -2).result(60) == 2
        # Others connect, to the head and, as executors of another session, to the agent.
        with local_site.session() as other:
            assert other.submit(abs, -3).result(60) == 3
        assert local_site.head_pid == head and local_site.pids_of("agent", 1) == pids
        address = read_address(local_site.site.address_file)
        assert address is not None
        assert Path(address.endpoints.local.removeprefix(LOCAL)).exists()


@pytest.mark.parametrize("what", ["nothing", "garbage", "a directory", "a dangling link"])
def test_a_head_that_lives_is_found_again_whatever_becomes_of_its_address(
    local_site: SiteUnderTest, what: str
) -> None:
    with local_site.session() as session:
        assert session.submit(abs, -1).result(60) == 1
        file = local_site.site.address_file
        address = read_address(file)
        if what == "garbage":
            file.write_text("{")
        else:
            file.unlink()
        if what == "a directory":
            file.mkdir()
        elif what == "a dangling link":
            file.symlink_to("nowhere")
        with local_site.session() as another:
            assert another.submit(abs, -2).result(60) == 2
        wait_until(lambda: file.is_file() and read_address(file) == address)


def test_keys_that_were_changed_are_taken(local_site: SiteUnderTest) -> None:
    """As somebody changes them who fears that they were read."""
    keys = local_site.site.keys
    with local_site.session() as session:
        assert session.submit(abs, -1).result(60) == 1
        head, pids = local_site.head_pid, local_site.pids_of("agent", 1)
        shutil.rmtree(keys)
        make_keys(keys)
        assert session.submit(abs, -2).result(60) == 2
        with local_site.session() as other:
            assert other.submit(abs, -3).result(60) == 3
        assert local_site.head_pid != head
        wait_until(lambda: not set(pids) & set(local_site.pids_of("agent", 1)), 60)


def test_keys_that_are_away_for_a_moment_change_nothing(local_site: SiteUnderTest) -> None:
    keys = local_site.site.keys
    with local_site.session() as session:
        assert session.submit(abs, -1).result(60) == 1
        head, pids = local_site.head_pid, local_site.pids_of("agent", 1)
        log = local_site.site.logs / "head.log"
        keys.rename(keys.with_name("aside"))
        wait_until(lambda: "cannot be read: No such file" in log.read_text())
        keys.with_name("aside").rename(keys)
        with local_site.session() as other:
            assert other.submit(abs, -2).result(60) == 2
        assert session.submit(abs, -3).result(60) == 3
        assert local_site.head_pid == head and local_site.pids_of("agent", 1) == pids
