"""The node cache: one copy for a node, whatever is read is right, and nothing stays behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from pilot.data.segments import SegmentWriter
from pilot.model.values import Value
from pilot.site import Site, create_site
from pilot.worker import node_cache
from pilot.worker.node_cache import RECORD, CacheHolder, NodeCache, cache_dir
from pilot.worker.node_directory import USERS

MIB = 1024 * 1024


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return create_site(tmp_path / "site", "local")


def put(site: Site, size: int = 2 * MIB, owner: str = "put") -> Value:
    with SegmentWriter(site.directory, owner) as writer:
        unsealed = writer.add("1", "value", "1.1", 0, np.arange(size // 8))
    return msgspec.structs.replace(unsealed.value, shared=True)


def fetched(site: Site) -> list[str]:
    """What was brought to this node."""
    record = cache_dir(site, "p1") / RECORD
    return record.read_text().split("\n")[:-1] if record.exists() else []


def assert_right(obj: Any, size: int = 2 * MIB) -> None:
    assert np.array_equal(obj, np.arange(size // 8))


def with_limit(site: Site, mib: int) -> Site:
    data = msgspec.structs.replace(site.config.data, node_cache_mib=mib)
    config = msgspec.structs.replace(site.config, data=data)
    return Site(site.directory, config, site.name)


def test_a_shared_value_is_read_from_its_copy(site: Site) -> None:
    holder = CacheHolder(site, "p1")
    value = put(site)
    original = site.directory / value.path
    for _ in range(3):
        assert_right(NodeCache(site, "p1").load(value))
    assert fetched(site) == [f"{value.path} {original.stat().st_size}"]
    original.unlink()
    assert_right(NodeCache(site, "p1").load(value))
    holder.close()
    assert not cache_dir(site, "p1").exists()


@pytest.mark.parametrize(
    "change", [{"shared": False}, {"size": MIB - 1}], ids=["not shared", "small"]
)
def test_others_are_read_where_they_are(site: Site, change: dict[str, Any]) -> None:
    holder = CacheHolder(site, "p1")
    assert_right(NodeCache(site, "p1").load(msgspec.structs.replace(put(site), **change)))
    assert fetched(site) == []
    holder.close()


def test_what_was_released_or_is_of_an_ended_session_goes(site: Site) -> None:
    holder = CacheHolder(site, "p1")
    values = [put(site, owner=f"put{number}") for number in range(3)]
    cache = cache_dir(site, "p1")
    (session,) = {value.path.split("/")[1] for value in values}
    loaded = [NodeCache(site, "p1").load(value) for value in values]
    holder.drop([values[0].path, f"results/{session}/none.h5"])
    assert [(cache / value.path).exists() for value in values] == [False, True, True]
    holder.drop([], [int(session) + 1])
    assert (cache / values[1].path).exists()
    holder.drop([], [int(session)])
    assert not list(cache.rglob("*.h5"))
    assert_right(loaded[0])
    assert_right(NodeCache(site, "p1").load(values[0]))
    assert (cache / values[0].path).exists(), "it comes again where it is needed after all"
    holder.close()
    CacheHolder(with_limit(site, 0), "p1").drop([values[0].path], [1])


def test_without_a_node_worker_nothing_is_kept(site: Site) -> None:
    assert_right(NodeCache(site, "p1").load(put(site)))
    assert not cache_dir(site, "p1").exists()


def test_the_site_may_have_none(site: Site) -> None:
    holder = CacheHolder(with_limit(site, 0), "p1")
    assert not cache_dir(site, "p1").exists()
    assert_right(NodeCache(with_limit(site, 0), "p1").load(put(site)))
    holder.close()


def test_no_more_than_the_limit(site: Site) -> None:
    holder = CacheHolder(site, "p1")
    cache = NodeCache(with_limit(site, 5), "p1")
    values = [put(site, owner=f"put{number}") for number in range(3)]
    for value in values:
        assert_right(cache.load(value))
    assert [line.split()[0] for line in fetched(site)] == [value.path for value in values[:2]]
    holder.close()


def test_as_much_is_left_free_as_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = CacheHolder(site, "p1")
    first, second = put(site, owner="a"), put(site, owner="b")
    usage = shutil.disk_usage(site.directory)
    # Room for the first; with the second, 4 MiB would be taken and 3 left.
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=5 * MIB))
    for value in (first, second):
        assert_right(NodeCache(site, "p1").load(value))
    assert [line.split()[0] for line in fetched(site)] == [first.path]
    holder.close()


def test_a_disk_that_becomes_full(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = CacheHolder(site, "p1")
    value = put(site)

    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        assert_right(NodeCache(site, "p1").load(value))
    assert fetched(site) == []
    assert not list(cache_dir(site, "p1").rglob("*.partial"))
    assert_right(NodeCache(site, "p1").load(value))
    assert len(fetched(site)) == 1
    holder.close()


@pytest.mark.parametrize("damage", [b"", b"no HDF5", None], ids=["empty", "not HDF5", "flipped"])
def test_a_damaged_copy_is_not_used(site: Site, damage: bytes | None) -> None:
    holder = CacheHolder(site, "p1")
    value = put(site)
    cache = NodeCache(site, "p1")
    assert_right(cache.load(value))
    copy = cache_dir(site, "p1") / value.path
    if damage is None:
        data = bytearray(copy.read_bytes())
        data[-1000] ^= 1
        damage = bytes(data)
    copy.write_bytes(damage)
    assert_right(cache.load(value))
    assert not copy.exists()
    assert_right(cache.load(value))
    assert len(fetched(site)) == 2
    holder.close()


def test_what_is_wrong_with_the_original_is_said_of_it(site: Site) -> None:
    from pilot.errors import ResultError

    holder = CacheHolder(site, "p1")
    value = put(site)
    (site.directory / value.path).unlink()
    with pytest.raises(ResultError, match=str(site.directory / value.path)):
        NodeCache(site, "p1").load(value)
    holder.close()


# --- several processes ----------------------------------------------------------------------------

LOADS = """
import sys
from pathlib import Path
from pilot.worker.node_cache import NodeCache
from pilot.model.values import Value
from pilot.site import open_site
import msgspec
site = open_site(Path(sys.argv[1]))
value = msgspec.json.decode(sys.argv[2], type=Value)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    print(int(NodeCache(site, "p1").load(value).sum()))
"""


class Result(NamedTuple):
    status: int
    lines: list[str]


def start(site: Site, value: Value) -> Callable[[], Result]:
    """Another process that loads the value; what this gives lets it go on, and waits for it."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOADS, site.directory, msgspec.json.encode(value)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"

    def end() -> Result:
        out, _ = process.communicate("\n", timeout=60)
        return Result(process.returncode, out.split())

    return end


def test_many_processes_fetch_it_once(site: Site) -> None:
    holder = CacheHolder(site, "p1")
    value = put(site, 16 * MIB)
    wanted = str(int(np.arange(16 * MIB // 8).sum()))
    ends = [start(site, value) for _ in range(4)]
    processes = [end() for end in ends]
    assert [result.lines for result in processes] == [[wanted] * 5] * 4
    assert len(fetched(site)) == 1
    holder.close()


# --- the directory --------------------------------------------------------------------------------


def test_the_last_node_worker_of_a_machine_removes_it(site: Site) -> None:
    first, second = CacheHolder(site, "p1"), CacheHolder(site, "p1")
    assert_right(NodeCache(site, "p1").load(put(site)))
    first.close()
    assert cache_dir(site, "p1").exists()
    second.close()
    assert not cache_dir(site, "p1").exists()
    second.close()  # once is enough


def test_what_a_dead_pilot_left_goes_and_others_stay(site: Site) -> None:
    alive = CacheHolder(site, "p2")
    dead = cache_dir(site, "p1")
    dead.mkdir()
    (dead / USERS).touch()
    (dead / "results").mkdir()
    half = cache_dir(site, "p0")  # it was killed before it had made more
    half.mkdir()
    new = CacheHolder(site, "p3")
    assert not dead.exists() and not half.exists()
    assert cache_dir(site, "p2").exists()
    new.close()
    alive.close()
    assert [path.name for path in dead.parent.iterdir() if path.is_dir()] == []


def test_a_killed_holder_holds_nothing(site: Site) -> None:
    holder = CacheHolder(site, "p1")
    descriptor = os.open(cache_dir(site, "p1") / USERS, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert holder._held is not None
    os.close(holder._held._users)  # as the kernel does
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_two_sites_do_not_share(site: Site, tmp_path: Path) -> None:
    other = create_site(tmp_path / "other", "local")
    assert cache_dir(site, "p1") != cache_dir(other, "p1")


def test_a_directory_of_somebody_else_is_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = cache_dir(site, "p1").parents[1]
    shared.chmod(0o777)
    assert_right(NodeCache(site, "p1").load(put(site)))
    holder = CacheHolder(site, "p1")
    assert not list(shared.iterdir())
    holder.close()
    assert node_cache.LEAST_BYTES == MIB
