"""Results in the memory of their node, end to end: chains, readers, kills, what stays behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.sites import SiteUnderTest
from support.waiting import wait_until

from pilot import Session
from pilot.worker.node_store import MEMORY, store_dir

DEADLINE_S = 60.0
MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(not MEMORY.is_dir(), reason="this machine has no /dev/shm")


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def ones(mib: float) -> Any:
    return np.ones(int(mib * MIB) // 8)


def add_one(block: Any) -> Any:
    block += 1
    return block


def slowly_add_one(block: Any, seconds: float = 0.02) -> Any:
    time.sleep(seconds)
    return block + 1


def ends(block: Any) -> tuple[float, float]:
    return float(block[0]), float(block[-1])


def how_it_came(block: Any) -> tuple[str, float]:
    """The kind of memory that a block has, and its sum."""
    return type(block.base).__name__, float(block.sum())


def kept_files(site: SiteUnderTest) -> list[Path]:
    """The segments in the stores of a site's pilots."""
    sample = store_dir(site.site, "pilot", "node")
    mark = sample.name.split("-")[0]
    return list(sample.parent.glob(f"{mark}-*/results/*/*.h5"))


def stores(site: SiteUnderTest) -> list[Path]:
    sample = store_dir(site.site, "pilot", "node")
    return list(sample.parent.glob(f"{sample.name.split('-')[0]}-*"))


def test_a_chain_of_steps_in_place_is_right(session: Session) -> None:
    block = session.submit(ones, 2)
    blocks = [block]
    for _ in range(20):
        blocks.append(session.submit(add_one, blocks[-1]))
    # Every version stays what it was, whatever the next step does with it.
    for version, future in enumerate(blocks):
        assert np.array_equal(future.result(DEADLINE_S), np.full(2 * MIB // 8, 1.0 + version))


def sealed_off(kind: str) -> Any:
    block = ones(2)
    if kind == "sealed off":
        block.flags.writeable = False
    elif kind == "a buffer":
        block = np.frombuffer(block.tobytes())
    elif kind == "repeated":
        block = np.broadcast_to(block[:1], block.shape)
    return block


def how_it_is(block: Any) -> bool:
    is_writable = bool(block.flags.writeable)
    block += 1
    return is_writable


def test_arrays_can_be_written_to_whoever_has_made_them(session: Session) -> None:
    kinds = ["own", "sealed off", "a buffer", "repeated"]
    made = [session.submit(sealed_off, kind) for kind in kinds]
    found = [session.submit(how_it_is, block) for block in made]
    assert [future.result(DEADLINE_S) for future in found] == [True] * len(kinds)
    assert all(block.result(DEADLINE_S).flags.writeable for block in made)


def test_readers_map_one_copy(session: Session, shared_site: SiteUnderTest) -> None:
    block = session.submit(ones, 4)
    found = [session.submit(how_it_came, block) for _ in range(4)]
    assert [future.result(DEADLINE_S)[1] for future in found] == [4 * MIB / 8] * 4
    assert {future.result(DEADLINE_S)[0] for future in found} <= {"mmap", "NoneType"}
    assert "mmap" in {future.result(DEADLINE_S)[0] for future in found}


def test_what_the_client_is_told_of_is_on_the_disk(
    session: Session, shared_site: SiteUnderTest
) -> None:
    block = session.submit(ones, 2)
    assert block.exception(DEADLINE_S) is None
    results = shared_site.directory / "results" / str(session.id)
    before = set(results.glob("*.h5"))
    assert any(file.stat().st_size > 2 * MIB for file in before)
    assert not list(results.glob(".*.copy"))


@pytest.mark.parametrize("whom", ["executor", "node", "agent", "head"])
def test_whoever_is_killed_the_results_are_right(make_site: Any, whom: str) -> None:
    site = make_site(data={"patience": "200ms"})
    with site.guarded_session() as session:
        chains = [session.submit(ones, 1), session.submit(ones, 1)]
        for _ in range(12):
            chains = [session.submit(slowly_add_one, block) for block in chains]
        wait_until(lambda: kept_files(site), DEADLINE_S, "a result in the store")
        os.kill(site.pid_of(whom), signal.SIGKILL)
        assert [session.submit(ends, block).result(DEADLINE_S) for block in chains] == [
            (13.0, 13.0),
            (13.0, 13.0),
        ]


def test_nothing_stays_in_memory_after_the_session(make_site: Any) -> None:
    site = make_site()
    with site.session() as session:
        blocks = [session.submit(ones, 1) for _ in range(4)]
        assert [block.result(DEADLINE_S).sum() for block in blocks] == [MIB / 8] * 4
        assert kept_files(site)
    wait_until(lambda: not kept_files(site), DEADLINE_S, "the store to be empty")
    site.stop()
    wait_until(lambda: not stores(site), DEADLINE_S, "the store to be gone")


def test_a_small_store_makes_nothing_wrong(make_site: Any) -> None:
    site = make_site(data={"node_store": "3M"})
    with site.session() as session:
        block = session.submit(ones, 1)
        for _ in range(10):
            block = session.submit(add_one, block)
        big = session.submit(ones, 8)
        assert session.submit(ends, block).result(DEADLINE_S) == (11.0, 11.0)
        assert big.result(DEADLINE_S).sum() == MIB


def test_without_a_store_results_go_to_the_disk(make_site: Any) -> None:
    site = make_site(data={"node_store": 0})
    with site.session() as session:
        block = session.submit(add_one, session.submit(ones, 1))
        assert session.submit(ends, block).result(DEADLINE_S) == (2.0, 2.0)
        assert not stores(site)
