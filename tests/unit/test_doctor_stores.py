"""What `pilot doctor` says of the stores in the memory of a node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilot.doctor import facts as f
from pilot.doctor import stores
from pilot.site import Site, create_site
from pilot.worker import node_store
from pilot.worker.node_store import StoreHolder

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(node_store, "MEMORY", memory)
    return create_site(tmp_path / "site", "local")


def its(**changes: Any) -> f.Stores:
    facts = f.Stores(
        memory_bytes=16 * GIB,
        free_bytes=8 * GIB,
        budget_bytes=2 * GIB,
        is_set=False,
        stores=0,
        used_bytes=0,
        left_bytes=0,
    )
    return msgspec.structs.replace(facts, **changes)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (its(), "ok", "may take 2 GiB, by itself, of 16 GiB"),
        (its(stores=2, used_bytes=3 * MIB), "ok", "2 pilots have 3 MiB there now"),
        (its(budget_bytes=0, is_set=True), "ok", "at once, as data.node_store says"),
        (its(budget_bytes=0), "ok", "no room in memory"),
        (its(budget_bytes=9 * GIB, is_set=True), "warning", "8 GiB of the memory for that are"),
        (its(budget_bytes=9 * GIB, is_set=True, free_bytes=12 * GIB), "warning", "of the 16 GiB"),
        (its(budget_bytes=2 * GIB, free_bytes=GIB, used_bytes=GIB, stores=1), "ok", "one pilot"),
    ],
)
def test_what_a_store_may_take_is_judged(facts: f.Stores, level: str, words: str) -> None:
    (finding,) = stores.judge(facts)
    assert finding.level.value == level and words in finding.found
    assert bool(finding.todo) is (level == "warning")


def test_what_killed_pilots_have_left_is_found_and_what_others_hold_is_not(site: Site) -> None:
    assert stores.gather(site).stores == 0
    assert not list(node_store.MEMORY.iterdir()), "nothing is made"
    holder = StoreHolder(site, "alive", "n1")
    (holder.directory / "results").mkdir()
    (holder.directory / "results" / "x.h5").write_bytes(bytes(MIB))
    left = holder.directory.parent / "killed"
    left.mkdir()
    (left / "x.h5").write_bytes(bytes(2 * MIB))
    found = stores.gather(site)
    assert (found.stores, found.left, found.left_bytes) == (1, (str(left),), 2 * MIB)
    assert MIB <= found.used_bytes < 2 * MIB
    assert found.budget_bytes == node_store.budget_bytes(site)
    *_, finding = stores.judge(found)
    assert "have left 2 MiB in memory" in finding.found and str(left) in finding.found
    holder.close()
    assert stores.gather(site).stores == 0
    assert os.path.isdir(left), "it is for the next pilot to remove"
