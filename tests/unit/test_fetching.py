"""Segments from node to node: given away part by part, whole or not at all, and only as asked."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.waiting import wait_until

from pilot.data.storing import store
from pilot.errors import ResultError
from pilot.model.values import Value
from pilot.site import Site, create_site
from pilot.wire.channel import Server
from pilot.wire.endpoints import Endpoints
from pilot.wire.keys import load_keys, make_keys
from pilot.wire.messages import worker as m
from pilot.wire.messages.store import PART_BYTES, GetPart
from pilot.worker import fetching, node_store
from pilot.worker.fetching import Fetched, Fetcher
from pilot.worker.node_store import NodeStore, StoreHolder, StoreWriter
from pilot.worker.sharing import Sharer
from pilot.worker.store_keeper import StoreKeeper

MIB = 1024 * 1024


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(node_store, "MEMORY", memory)
    made = create_site(tmp_path / "site", "local")
    data = msgspec.structs.replace(made.config.data, node_store_mib=32)
    return Site(made.directory, msgspec.structs.replace(made.config, data=data), made.name)


def array(mib: float = 3) -> Any:
    return np.arange(int(mib * MIB) // 8)


def written(site: Site, node: str, mib: float = 3, owner: str = "e1") -> Value:
    """A result that an executor on a node has left in its store."""
    writer = StoreWriter(site.directory, owner, NodeStore(site, "p1", node))
    stored = store(array(mib), writer=writer, session="1", task_name="t", task_id="1.1")
    writer.seal()
    value: Value = stored.value  # type: ignore[union-attr]  # it is large
    assert writer.is_kept(value)
    return value


class Node:
    """The keeper of a node's store, with what it tells its agent."""

    def __init__(self, site: Site, name: str) -> None:
        self.told: list[Any] = []
        self.watched: list[int] = []
        self.site, self.name = site, name
        self.keeper = StoreKeeper(site, "p1", name, self.told.append, self.watched.append)
        self.keeper.begin()

    def hear(self, kind: type) -> Any:
        """The next message of this kind that it tells."""

        def told() -> bool:
            self.keeper.look(select.select(self.watched, [], [], 0.05)[0])
            return any(type(each) is kind for each in self.told)

        wait_until(told, 30.0, f"a {kind.__name__}")
        found = next(each for each in self.told if type(each) is kind)
        self.told.remove(found)
        return found

    def opened(self, address: str | None) -> Endpoints:
        self.keeper.take(m.OpenStore(address))
        told = self.hear(m.StoreOpened)
        assert told.endpoints is not None, told.problem
        endpoints: Endpoints = told.endpoints
        return endpoints

    def fetch(self, value: Value, source: Endpoints | None) -> m.Fetched:
        self.keeper.take(m.Fetch(value.path, value.size, source))
        fetched: m.Fetched = self.hear(m.Fetched)
        return fetched

    def load(self, value: Value) -> Any:
        return NodeStore(self.site, "p1", self.name).load(value)

    def holds(self, value: Value) -> bool:
        return NodeStore(self.site, "p1", self.name).holds(value)

    @property
    def used(self) -> int:
        assert self.keeper.store is not None
        return self.keeper.store._account.amounts()[1]


@pytest.fixture
def node(site: Site) -> Iterator[Callable[[str], Node]]:
    nodes: list[Node] = []

    def make(name: str) -> Node:
        nodes.append(Node(site, name))
        return nodes[-1]

    yield make
    for each in nodes:
        each.keeper.close()


def elsewhere(endpoints: Endpoints) -> Endpoints:
    """The endpoints as another machine sees them."""
    return msgspec.structs.replace(endpoints, boot="another")


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_segment_comes_from_the_store_of_another_node(
    node: Callable[[str], Node], site: Site, over: str
) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    endpoints = giver.opened("127.0.0.1")
    fetched = taker.fetch(value, elsewhere(endpoints) if over == "tcp" else endpoints)
    assert (fetched.path, fetched.problem) == (value.path, "")
    assert fetched.size == (giver.keeper.store.directory / value.path).stat().st_size  # type: ignore[union-attr]  # it has one
    assert taker.holds(value) and np.array_equal(taker.load(value), array())
    assert taker.used == fetched.size
    assert not (site.directory / value.path).exists()


def test_it_comes_once_and_goes_when_it_is_dropped(node: Callable[[str], Node], site: Site) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    endpoints = giver.opened(None)
    assert taker.fetch(value, endpoints).size > 0
    again = taker.fetch(value, endpoints)
    assert (again.size, again.problem) == (0, "")
    taker.keeper.take(m.DropKept([value.path]))
    assert not taker.holds(value) and taker.used == 0
    assert giver.holds(value)


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_several_come_from_one_node_at_a_time(
    node: Callable[[str], Node], site: Site, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    """The connections of two threads had one name, and the later one took it from the other."""
    monkeypatch.setattr(fetching, "STALLED_S", 60.0)
    giver, taker = node("n1"), node("n2")
    values = [written(site, "n1", 4, f"e{number}") for number in range(3)]
    endpoints = giver.opened("127.0.0.1")
    source = elsewhere(endpoints) if over == "tcp" else endpoints
    for value in values:
        taker.keeper.take(m.Fetch(value.path, value.size, source))
    assert [taker.hear(m.Fetched).problem for _ in values] == ["", "", ""]


def test_a_session_takes_its_copies_along(node: Callable[[str], Node], site: Site) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    taker.fetch(value, giver.opened(None))
    taker.keeper.take(m.DropKept(sessions=[2]))
    assert taker.holds(value)
    taker.keeper.take(m.DropKept(sessions=[1]))
    assert not taker.holds(value) and taker.used == 0


def test_from_the_site_directory_it_comes_alike(node: Callable[[str], Node], site: Site) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    giver.keeper.take(m.Persist([value.path]))
    told = giver.hear(m.Persisted)
    assert told.paths == [value.path] and told.size > value.size and told.seconds > 0
    assert taker.fetch(value, None).problem == ""
    assert np.array_equal(taker.load(value), array())


@pytest.mark.parametrize("what", ["gone", "unreached", "site"])
def test_what_cannot_be_fetched_is_told_and_leaves_nothing(
    node: Callable[[str], Node], site: Site, what: str
) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    source: Endpoints | None = giver.opened("127.0.0.1")
    if what == "gone":
        giver.keeper.take(m.DropKept([value.path]))
    elif what == "unreached":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and nobody listens
            remote = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            source = Endpoints("another", "unix:///nowhere", remote)
            assert "reached" in taker.fetch(value, source).problem
    else:
        source = None
    assert taker.fetch(value, source).problem
    assert not taker.holds(value) and taker.used == 0
    assert taker.keeper.store is not None
    assert not [file for file in taker.keeper.store.copies.rglob("*") if file.is_file()]


def test_a_node_that_gives_no_answer_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "STALLED_S", 0.3)
    keys = load_keys(site.keys)
    silent: Server[GetPart] = Server(keys, "silent", GetPart, "127.0.0.1")
    fetcher = Fetcher(tmp_path / "copies", site.directory, keys, "n2")
    fetcher.fetch("results/1/x.h5", elsewhere(silent.endpoints))
    assert select.select([fetcher.sentinel], [], [], 30.0)[0]
    ((_, end),) = fetcher.take()
    assert "answer" in end.problem
    fetcher.close()
    silent.close(0.0)


def test_a_copy_needs_room_and_older_ones_that_are_on_the_disk_make_it(
    node: Callable[[str], Node], site: Site
) -> None:
    giver, taker = node("n1"), node("n2")
    endpoints = giver.opened(None)
    # Half of 32 MiB is for copies.
    values = [written(site, "n1", 5, f"e{number}") for number in range(5)]
    assert [taker.fetch(value, endpoints).problem for value in values[:3]] == ["", "", ""]
    assert "room" in taker.fetch(values[3], endpoints).problem
    giver.keeper.take(m.Persist([values[1].path]))
    giver.hear(m.Persisted)
    assert taker.fetch(values[3], endpoints).problem == ""
    assert [taker.holds(value) for value in values] == [True, False, True, True, False]
    assert taker.used <= 16 * MIB


def test_what_is_dropped_on_its_way_does_not_stay(
    node: Callable[[str], Node], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    endpoints = giver.opened(None)
    taker.keeper.take(m.Fetch(value.path, value.size, endpoints))
    taker.keeper.take(m.DropKept([value.path]))
    # Whether it had begun or not: what comes afterwards is not kept.
    assert taker.used == 0
    other = written(site, "n1", owner="e2")
    assert taker.fetch(other, endpoints).problem in ("", "it is not needed any more")
    wait_until(lambda: not taker.holds(value), 30.0, "it to be gone")


def test_a_damaged_copy_is_seen(node: Callable[[str], Node], site: Site) -> None:
    giver, taker = node("n1"), node("n2")
    value = written(site, "n1")
    taker.fetch(value, giver.opened(None))
    assert taker.keeper.store is not None
    copy = taker.keeper.store.copies / value.path
    with copy.open("r+b") as file:
        file.seek(copy.stat().st_size // 2)
        file.write(b"\xff" * 8)
    with pytest.raises(ResultError):
        taker.load(value)


def test_nothing_but_segments_of_the_store_is_given_away(site: Site, tmp_path: Path) -> None:
    holder = StoreHolder(site, "p1", "n1")
    sharer = Sharer(holder.directory, load_keys(site.keys), "given", None)
    for path in ("../../etc/passwd", "account", "results/../account", "results/1/../../x.h5"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(GetPart(path, 0)), type=GetPart)
    assert sharer._part(GetPart("results/1/none.h5", 0)).size == -1
    sharer.close()
    holder.close()


def test_who_holds_another_key_gets_nothing(
    node: Callable[[str], Node], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    giver = node("n1")
    value = written(site, "n1")
    make_keys(tmp_path / "others")
    monkeypatch.setattr(fetching, "STALLED_S", 2.0)
    fetcher = Fetcher(tmp_path / "copies", site.directory, load_keys(tmp_path / "others"), "n2")
    for endpoints in (elsewhere(giver.opened("127.0.0.1")), giver.opened("127.0.0.1")):
        fetcher.fetch(value.path, endpoints)
        assert select.select([fetcher.sentinel], [], [], 30.0)[0]
        ((_, end),) = fetcher.take()
        assert isinstance(end, Fetched) and end.problem
    fetcher.close()


def test_parts_are_read_as_they_are_asked_for(site: Site) -> None:
    holder = StoreHolder(site, "p1", "n1")
    value = written(site, "n1")
    whole = (holder.directory / value.path).read_bytes()
    sharer = Sharer(holder.directory, load_keys(site.keys), "parts", None)
    parts = [
        sharer._part(GetPart(value.path, offset)) for offset in range(0, len(whole), PART_BYTES)
    ]
    assert b"".join(part.data for part in parts) == whole
    assert (
        {part.size for part in parts}
        == {len(whole)}
        == {os.path.getsize(holder.directory / value.path)}
    )
    sharer.close()
    holder.close()
