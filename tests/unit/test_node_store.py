"""The node store: results are in memory first, read without a copy, and on the disk soon."""

from __future__ import annotations

import errno
import os
import select
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pilot.data import durable, hdf5_files
from pilot.data.segments import SegmentWriter, Unsealed, read
from pilot.data.storing import store
from pilot.errors import ResultError, StorageError
from pilot.model.values import Value
from pilot.site import Site, create_site
from pilot.worker import node_store
from pilot.worker.node_store import (
    OWN_BYTES,
    NodeStore,
    StoreHolder,
    StoreLostError,
    StoreWriter,
    budget_bytes,
)
from pilot.worker.persisting import GONE, Persister, persist

MIB = 1024 * 1024


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(node_store, "MEMORY", memory)
    return with_room(create_site(tmp_path / "site", "local"), 16)


def with_room(site: Site, mib: int | None) -> Site:
    data = msgspec.structs.replace(site.config.data, node_store_mib=mib)
    config = msgspec.structs.replace(site.config, data=data)
    return Site(site.directory, config, site.name)


@pytest.fixture
def holder(site: Site) -> Iterator[StoreHolder]:
    holder = StoreHolder(site, "p1", "n1")
    yield holder
    holder.close()
    assert not holder.directory.exists()


def used(holder: StoreHolder) -> int:
    return holder._account.amounts()[1]


def write(site: Site, obj: object, owner: str = "e1") -> tuple[Value, list[str]]:
    """The value that an executor writes, and the segments that are in the store alone."""
    writer = StoreWriter(site.directory, owner, NodeStore(site, "p1", "n1"))
    stored = store(obj, writer=writer, session="1", task_name="t", task_id="1.1")
    writer.seal()
    assert type(stored) is Unsealed
    return stored.value, [stored.value.path] if writer.is_kept(stored.value) else []


def array(mib: int = 2) -> Any:
    return np.arange(mib * MIB // 8)


def test_a_result_is_in_the_store_and_then_at_the_same_path_on_the_site(
    site: Site, holder: StoreHolder
) -> None:
    value, paths = write(site, array())
    assert paths == [value.path]
    assert not (site.directory / value.path).exists()
    reader = NodeStore(site, "p1", "n1")
    assert reader.holds(value)
    assert np.array_equal(reader.load(value), array())
    persist(holder.directory / value.path, site.directory / value.path, site.directory)
    assert np.array_equal(read(site.directory, value), array())
    assert os.listdir((site.directory / value.path).parent) == [Path(value.path).name]


def test_what_was_sealed_with_an_earlier_result_is_known_as_kept(
    site: Site, holder: StoreHolder
) -> None:
    writer = StoreWriter(site.directory, "e1", NodeStore(site, "p1", "n1"))
    first, second = (writer.add("1", "t", f"1.{n}", 0, array()) for n in (1, 2))
    writer.seal()  # for the first, while the end of the second is not told yet
    writer.seal()
    assert first.value.path == second.value.path
    assert writer.is_kept(first.value)
    assert writer.is_kept(second.value)
    assert not writer.is_kept(Value(1, b"x"))


def test_a_large_result_has_a_segment_of_its_own(site: Site, holder: StoreHolder) -> None:
    writer = StoreWriter(site.directory, "e1", NodeStore(site, "p1", "n1"))
    sizes = (1, OWN_BYTES // MIB, 1, 1)
    stored = [writer.add("1", "t", "1.1", n, array(mib)) for n, mib in enumerate(sizes)]
    writer.seal()
    small, large, *others = [each.value.path for each in stored]
    assert large not in {small, *others} and len({*others}) == 1
    reader = NodeStore(site, "p1", "n1")
    for each, mib in zip(stored, sizes, strict=True):
        assert np.array_equal(reader.load(each.value), array(mib))
    assert used(holder) == sum(
        (holder.directory / path).stat().st_size for path in {small, large, *others}
    )


def test_readers_share_the_memory_and_may_write_to_it(site: Site, holder: StoreHolder) -> None:
    value, _ = write(site, {"a": array(), "small": np.arange(3), "text": "x"})
    reader = NodeStore(site, "p1", "n1")
    first, second = reader.load(value), reader.load(value)
    assert type(first["a"].base).__name__ == "mmap"
    assert first["a"].ctypes.data % 64 == 0
    first["a"][:] = 0
    first["small"][:] = 0
    assert np.array_equal(second["a"], array())
    assert np.array_equal(reader.load(value)["a"], array())


def test_what_is_mapped_outlives_its_file(site: Site, holder: StoreHolder) -> None:
    value, paths = write(site, array())
    loaded = NodeStore(site, "p1", "n1").load(value)
    holder.drop(paths)
    assert not NodeStore(site, "p1", "n1").holds(value)
    with pytest.raises(ResultError):
        NodeStore(site, "p1", "n1").load(value)
    assert np.array_equal(loaded, array())


def test_what_finds_no_room_is_written_to_the_site(site: Site) -> None:
    small = with_room(site, 5)
    holder = StoreHolder(small, "p1", "n1")
    _, first = write(small, array(2))
    _, second = write(small, array(2), "e2")
    value, third = write(small, array(2), "e3")
    assert (len(first), len(second), third) == (1, 1, [])
    assert np.array_equal(read(small.directory, value), array(2))
    holder.drop(first)
    assert write(small, array(2), "e4")[1]
    holder.close()


def test_the_account_is_what_the_files_take(site: Site, holder: StoreHolder) -> None:
    assert used(holder) == 0
    paths = [path for n in range(3) for path in write(site, array(1), f"e{n}")[1]]
    assert used(holder) == sum((holder.directory / path).stat().st_size for path in paths)
    holder.drop(paths[:1])
    assert used(holder) == sum((holder.directory / path).stat().st_size for path in paths[1:])
    holder.drop(paths)
    assert used(holder) == 0


def test_what_is_on_the_disk_goes_first_when_room_is_needed(
    site: Site, holder: StoreHolder
) -> None:
    values = [write(site, array(3), f"e{n}")[0] for n in range(4)]
    for value in values:
        holder.note_durable(value.path)
    reader = NodeStore(site, "p1", "n1")
    assert [reader.holds(value) for value in values] == [False, False, True, True]


def test_a_file_that_is_noted_twice_counts_once(site: Site, holder: StoreHolder) -> None:
    value, paths = write(site, array(3))
    for _ in range(4):
        holder.note_durable(value.path)
    assert NodeStore(site, "p1", "n1").holds(value)
    holder.drop(paths)
    assert holder._durable_bytes == 0


def test_the_results_of_a_session_go_with_it(site: Site, holder: StoreHolder) -> None:
    value, _ = write(site, array())
    holder.drop_session(2)
    assert NodeStore(site, "p1", "n1").holds(value)
    holder.drop_session(1)
    assert not NodeStore(site, "p1", "n1").holds(value)
    assert used(holder) == 0


def test_what_a_dead_executor_was_writing_goes(site: Site, holder: StoreHolder) -> None:
    sealed, _ = write(site, array())
    writer = StoreWriter(site.directory, "e2", NodeStore(site, "p1", "n1"))
    writer.add("1", "t", "1.2", 0, array())
    holder.drop_unsealed("e2")
    files = [file for file in (holder.directory / "results").rglob("*") if file.is_file()]
    assert files == [holder.directory / sealed.path]
    assert used(holder) == files[0].stat().st_size
    writer.discard()


def test_a_discarded_result_gives_its_room_back(site: Site, holder: StoreHolder) -> None:
    writer = StoreWriter(site.directory, "e1", NodeStore(site, "p1", "n1"))
    writer.add("1", "t", "1.1", 0, array())
    assert used(holder) > 2 * MIB
    writer.discard()
    assert used(holder) == 0


def test_without_a_store_results_are_written_to_the_site(site: Site) -> None:
    value, paths = write(site, array())
    assert paths == []
    assert np.array_equal(read(site.directory, value), array())


def test_a_store_whose_file_system_is_full_is_passed_over(
    site: Site, holder: StoreHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = SegmentWriter.add_parts

    def full(self: SegmentWriter, *args: Any) -> Unsealed:
        if self.site_dir == holder.directory:
            raise StorageError("no space left on device")
        return add(self, *args)

    monkeypatch.setattr(SegmentWriter, "add_parts", full)
    value, paths = write(site, array())
    assert paths == []
    assert np.array_equal(read(site.directory, value), array())


def fill_memory(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let a function that is given a descriptor fail for files in the store, as on a full disk."""
    real = getattr(owner, name)

    def full(*args: Any, **how: Any) -> Any:
        (descriptor,) = (one for one in args if type(one) is int)
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(node_store.MEMORY):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **how)

    monkeypatch.setattr(owner, name, full)


def test_what_cannot_be_sealed_in_a_full_store_goes_to_the_site(
    site: Site, holder: StoreHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_memory(monkeypatch, hdf5_files.Metadata, "write_to")
    writer = StoreWriter(site.directory, "e1", NodeStore(site, "p1", "n1"))
    objects = [array(), array(8), {"a": array(1), "b": 2}]
    results = [
        store(obj, writer=writer, session="1", task_name="t", task_id=f"1.{n}")
        for n, obj in enumerate(objects)
    ]
    writer.seal()
    for result, obj in zip(results, objects, strict=True):
        assert type(result) is Unsealed
        assert not writer.is_kept(result.value)
        np.testing.assert_equal(read(site.directory, result.value), obj)
    assert used(holder) == 0
    assert [path for path in holder.directory.rglob("*") if "h5" in path.name] == []


def test_what_was_in_memory_alone_and_is_lost_is_told_as_such(
    site: Site, holder: StoreHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_memory(monkeypatch, durable, "publish")  # when HDF5 has closed the file
    with pytest.raises(StoreLostError, match="No space left"):
        write(site, array())
    assert used(holder) == 0


@pytest.mark.parametrize("how", ["refused", "cut short"])
def test_where_its_account_finds_no_room_there_is_no_store(
    site: Site, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def full(_descriptor: int, data: bytes, _offset: int) -> int:
        if how == "refused":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data) // 2

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            StoreHolder(site, "p1", "n1")
    assert NodeStore(site, "p1", "n1").directory is None
    value, paths = write(site, array())
    assert paths == []
    assert np.array_equal(read(site.directory, value), array())


def test_an_account_that_is_not_whole_has_no_room(site: Site, holder: StoreHolder) -> None:
    os.truncate(holder.directory / "account", 0)
    value, paths = write(site, array())
    assert paths == []
    assert np.array_equal(read(site.directory, value), array())
    assert not holder.expect("results/1/x.h5", MIB, site.directory)


def test_a_store_takes_a_part_of_the_memory_by_itself(site: Site, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room = budget_bytes(with_room(site, None))
    assert 0 < room <= min(memory // 8, free // 2 + MIB)
    assert budget_bytes(with_room(site, 3)) == 3 * MIB


# --- copying


def wait_for(persister: Persister, count: int) -> list[tuple[str, str]]:
    ended: list[tuple[str, str]] = []
    while len(ended) < count:
        assert select.select([persister.sentinel], [], [], 30.0)[0], f"only {ended}"
        ended += [(path, end.problem) for path, end in persister.take()]
    return ended


def test_files_are_copied_behind_and_told(tmp_path: Path) -> None:
    store_dir, site_dir = tmp_path / "store", tmp_path / "site"
    site_dir.mkdir()
    names = [f"results/1/{n}.h5" for n in range(20)]
    (store_dir / "results/1").mkdir(parents=True)
    for name in names:
        (store_dir / name).write_bytes(name.encode() * 1000)
    persister = Persister(store_dir, site_dir)
    persister.add(names)
    assert sorted(wait_for(persister, 20)) == sorted((name, "") for name in names)
    assert all((site_dir / name).read_bytes() == name.encode() * 1000 for name in names)
    assert persister.take() == []
    persister.close()


def test_a_file_is_copied_once_however_often_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_dir, site_dir = tmp_path / "store", tmp_path / "site"
    site_dir.mkdir()
    store_dir.mkdir()
    copied: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def copies(source: Path, final: Path, _: Path) -> None:
        copied.append(source.name)
        begun.set()
        assert go_on.wait(30.0)
        final.touch()

    monkeypatch.setattr("pilot.worker.persisting.persist", copies)
    persister = Persister(store_dir, site_dir)
    persister.add(["a", "a"])
    persister.add(["a"])
    assert begun.wait(30.0)
    persister.add(["a", "b"])
    go_on.set()
    assert sorted(wait_for(persister, 2)) == [("a", ""), ("b", "")]
    persister.add(["a"])
    assert wait_for(persister, 1) == [("a", "")]
    assert sorted(copied) == ["a", "b"]
    persister.close()


def test_a_file_that_cannot_be_copied_is_told_with_the_reason(tmp_path: Path) -> None:
    persister = Persister(tmp_path / "store", tmp_path / "site")
    persister.add(["results/1/x.h5"])
    ((path, why),) = wait_for(persister, 1)
    assert path == "results/1/x.h5"
    assert why == GONE
    (tmp_path / "store/results/1").mkdir(parents=True)
    (tmp_path / "store/results/1/x.h5").touch()
    persister.add(["results/1/x.h5"])
    ((path, why),) = wait_for(persister, 1)
    assert why.startswith(f"cannot write {tmp_path}/site/results/1/x.h5: No such file")
    assert "df -h" in why
    assert not (tmp_path / "site").exists()
    persister.close()


def test_a_copy_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, site_dir = tmp_path / "x", tmp_path / "site"
    source.write_bytes(b"x" * 1000)
    site_dir.mkdir()

    def fails(*_: Any) -> int:
        raise PermissionError("no")

    monkeypatch.setattr(os, "sendfile", fails)
    with pytest.raises(PermissionError):
        persist(source, site_dir / "results/1/x.h5", site_dir)
    assert list((site_dir / "results/1").iterdir()) == []


def test_what_is_withdrawn_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_dir, site_dir = tmp_path / "store", tmp_path / "site"
    site_dir.mkdir()
    store_dir.mkdir()
    for name in ("a", "b"):
        (store_dir / name).write_bytes(b"x")
    persister = Persister(store_dir, site_dir)
    monkeypatch.setattr(persister, "_most", 0)
    persister.add(["a", "b"])
    persister.withdraw(["a"])
    monkeypatch.setattr(persister, "_most", 1)
    persister.add([])
    assert wait_for(persister, 1) == [("b", "")]
    assert not (site_dir / "a").exists()
    persister.close()
