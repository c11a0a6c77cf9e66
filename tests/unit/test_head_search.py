"""A pilot's search for the address of its head: in turn, and told where none is any good."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.waiting import wait_until

from pilot.agent.head_search import FILES_S, HeadSearch
from pilot.wire.discovery import HeadAddress
from pilot.wire.endpoints import Endpoints, boot_id
from pilot.wire.reaching import WELCOME_S, find_way, why_unreached

UNKNOWN = "tcp://login.invalid:4000"


@pytest.fixture
def open_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def another_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def elsewhere(*remotes: str) -> Endpoints:
    """The endpoints of a server on another machine."""
    return Endpoints("other/boot", "unix:///nowhere/socket", remotes[0], remotes[1:])


def head(*remotes: str, epoch: int = 1, files: str = "") -> HeadAddress:
    endpoints = replace(elsewhere(*remotes), files=files)
    return HeadAddress(epoch, "login", os.getpid(), 0, endpoints, "1")


class Looking:
    """A search, with a clock of its own."""

    def __init__(self, file: Path, by_files: bool = False) -> None:
        self.search = HeadSearch(file, by_files)
        self.now = 100.0

    def begin(self, address: HeadAddress) -> str:
        return self.search.begin(address, self.now)

    def look(self, is_welcomed: bool = False) -> str:
        return self.search.look(is_welcomed, self.now)

    def search_once(self) -> str:
        """Wait for one search; return where it says to go."""
        self.now += WELCOME_S
        assert self.look() == ""
        its = self.search._search
        assert its is not None
        wait_until(lambda: its.way, 60.0, "the search")
        return self.look()


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    return Looking(tmp_path / "p1.unreached")


def test_the_next_address_is_tried_where_the_first_is_unknown(
    looking: Looking, open_port: str, tmp_path: Path
) -> None:
    assert looking.begin(head(UNKNOWN, open_port)) == UNKNOWN
    assert looking.look() == ""  # it has time to answer
    assert looking.search_once() == open_port
    assert looking.look(is_welcomed=True) == ""
    assert list(tmp_path.iterdir()) == []
    # The next head is looked for there first.
    assert looking.begin(head(UNKNOWN, open_port, epoch=2)) == open_port


def test_an_address_where_nobody_welcomes_is_left_for_the_next(
    looking: Looking, open_port: str, another_port: str
) -> None:
    assert looking.begin(head(open_port, another_port)) == open_port
    assert looking.search_once() == another_port
    assert looking.search_once() == open_port


def test_a_head_that_is_busy_is_waited_for(looking: Looking, open_port: str) -> None:
    assert looking.begin(head(open_port)) == open_port
    assert looking.search_once() == ""


def test_what_is_tried_in_vain_is_told_until_a_head_is_reached(
    looking: Looking, closed_port: str, tmp_path: Path
) -> None:
    looking.begin(head(UNKNOWN, closed_port))
    assert looking.search_once() == ""
    told = (tmp_path / "p1.unreached").read_text()
    assert told.startswith(f"from {socket.gethostname()}: ")
    assert "login.invalid:4000: the name is not known" in told
    assert f"{closed_port.removeprefix('tcp://')}: Connection refused" in told
    assert looking.search_once() == ""  # again and again
    looking.look(is_welcomed=True)
    assert list(tmp_path.iterdir()) == []


def test_a_head_on_this_machine_is_not_searched_for(looking: Looking) -> None:
    local = Endpoints("other/boot", "unix:///nowhere/socket", "")
    looking.begin(HeadAddress(1, "here", os.getpid(), 0, local, "1"))
    looking.now += 10 * WELCOME_S
    assert looking.look() == ""
    assert find_way(local).is_reached


def test_the_order_of_a_search(open_port: str, another_port: str, closed_port: str) -> None:
    endpoints = elsewhere(closed_port, open_port, another_port)
    way = find_way(endpoints)
    assert way.endpoint == open_port and way.is_reached and len(way.failures) == 1
    assert find_way(endpoints, after=open_port).endpoint == another_port
    assert find_way(endpoints, after=another_port).endpoint == open_port
    nowhere = find_way(elsewhere(closed_port))
    assert nowhere.endpoint == closed_port and not nowhere.is_reached


def test_who_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", never)
    assert why_unreached("tcp://10.0.0.1:4000") == "10.0.0.1:4000: no answer"


def test_endpoints_that_are_none() -> None:
    assert elsewhere("tcp://a:1", "tcp://b:2").are_known
    assert not elsewhere("tcp://a:1", "ipc://b").are_known
    assert elsewhere("tcp://a:1", "tcp://b:2").ways == ("tcp://a:1", "tcp://b:2")
    assert len(elsewhere(*(f"tcp://a:{n}" for n in range(1, 99))).ways) < 20


# --- files


@pytest.fixture
def files(tmp_path: Path) -> str:
    directory = tmp_path / "wire" / "listener"
    directory.mkdir(mode=0o700, parents=True)
    return f"files://{directory}"


def test_files_are_taken_where_no_address_is_reached(
    looking: Looking, closed_port: str, files: str, tmp_path: Path
) -> None:
    assert looking.begin(head(UNKNOWN, closed_port, files=files)) == UNKNOWN
    assert looking.search_once() == files
    assert looking.look(is_welcomed=True) == ""
    assert not (tmp_path / "p1.unreached").exists()
    # The next head is looked for there first.
    assert looking.begin(head(UNKNOWN, epoch=2, files=f"{files}2")) == f"{files}2"


def test_files_are_not_taken_while_an_address_may_be_good(
    looking: Looking, open_port: str, another_port: str, files: str
) -> None:
    looking.begin(head(open_port, another_port, files=files))
    assert [looking.search_once() for _ in range(3)] == [another_port, open_port, another_port]


def test_files_are_taken_where_something_listens_that_is_no_head(
    looking: Looking, open_port: str, files: str
) -> None:
    assert looking.begin(head(open_port, files=files)) == open_port
    assert looking.search_once() == ""
    looking.now += FILES_S
    assert looking.look() == files


def test_files_are_taken_where_the_network_is_cut_later(
    looking: Looking, closed_port: str, files: str
) -> None:
    """And a head that is silent for long, but reached, is waited for."""
    looking.begin(head(closed_port, files=files))
    looking.now += 1000.0
    assert looking.look(is_welcomed=True) == ""
    assert looking.search_once() == files


def test_a_head_that_falls_silent_is_waited_for(
    looking: Looking, open_port: str, files: str
) -> None:
    looking.begin(head(open_port, files=files))
    looking.now += 1000.0
    assert looking.look(is_welcomed=True) == ""
    assert looking.search_once() == ""


def test_files_that_cannot_be_entered_are_told(
    looking: Looking, closed_port: str, tmp_path: Path
) -> None:
    looking.begin(head(closed_port, files=f"files://{tmp_path}/nowhere"))
    assert looking.search_once() == ""
    told = (tmp_path / "p1.unreached").read_text()
    assert "Connection refused" in told and f"{tmp_path}/nowhere: no such directory" in told


def test_a_site_whose_pilots_use_files_tries_nothing_else(
    tmp_path: Path, open_port: str, files: str
) -> None:
    """Not even a socket of this machine."""
    looking = Looking(tmp_path / "p1.unreached", by_files=True)
    address = head(open_port, files=files)
    address = replace(address, endpoints=replace(address.endpoints, boot=boot_id()))
    assert looking.begin(address) == files
    assert looking.search_once() == ""
    # A head that takes none is reached as ever.
    assert looking.begin(head(open_port, epoch=2)) == open_port


def test_endpoints_over_files() -> None:
    only = Endpoints("other/boot", "unix:///nowhere/socket", "", (), "files:///site/wire/x")
    assert only.are_known and only.is_reachable and only.ways == (only.files,)
    both = replace(only, remote="tcp://a:1", others=("tcp://b:2",))
    assert both.ways == ("tcp://a:1", "tcp://b:2", only.files)
    for bad in ("files://relative", "file:///x", "/x"):
        assert not replace(only, files=bad).are_known
