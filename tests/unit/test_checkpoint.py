"""Checkpoints: the latest complete one, whatever is killed whenever."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.killed import killed_at

from pilot.data import checkpoint as module
from pilot.data import durable, sealed_file
from pilot.data.checkpoint import Checkpoint
from pilot.data.draft import Draft
from pilot.errors import EncodingError, ResultError, StorageError


def state(n: int, rank: int = 0) -> dict[str, Any]:
    return {"u": np.full(100, n), "n": n, "rank": rank}


def assert_loads(checkpoint: Checkpoint, step: int | None) -> None:
    loaded = checkpoint.load()
    if step is None:
        assert loaded is None
        return
    assert loaded is not None
    assert loaded[0] == step
    assert loaded[1]["n"] == step
    assert loaded[1]["rank"] == checkpoint.rank
    assert (loaded[1]["u"] == step).all()


def ranks_of(directory: Path, ranks: int, attempt: int = 0, keep: int = 2) -> list[Checkpoint]:
    return [Checkpoint(directory, rank, ranks, keep, attempt) for rank in range(ranks)]


def save_all(world: list[Checkpoint], step: int) -> None:
    for checkpoint in world:
        checkpoint.save(step, state(step, checkpoint.rank))


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "not" / "there")
    assert checkpoint.load() is None
    assert checkpoint.steps() == []
    checkpoint.clear()
    assert not (tmp_path / "not").exists()


def test_the_latest_is_loaded_and_the_oldest_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, keep=2)
    for step in (1, 2, 9, 10, 100):
        checkpoint.save(step, state(step))
        assert_loads(checkpoint, step)
    assert checkpoint.steps() == [10, 100]
    assert len(list(tmp_path.iterdir())) == 2
    assert_loads(Checkpoint(tmp_path, attempt=1), 100)


@pytest.mark.parametrize(
    "saved", [None, 3, "text", [1, (2,)], {"a": {1: np.arange(3)}}, np.eye(3), lambda: 1]
)
def test_any_state_can_be_saved(tmp_path: Path, saved: Any) -> None:
    Checkpoint(tmp_path).save(0, saved)
    loaded = Checkpoint(tmp_path).load()
    assert loaded is not None
    if callable(saved):
        assert loaded[1]() == saved()
    else:
        assert type(loaded[1]) is type(saved)
        np.testing.assert_equal(loaded[1], saved)


def test_a_person_can_read_the_arrays(tmp_path: Path) -> None:
    Checkpoint(tmp_path).save(7, state(7))
    with h5py.File(tmp_path / "step-7-attempt-0" / "rank-0-of-1.h5") as file:
        assert (file["state/u"][()] == 7).all()
        assert file["state"].attrs["n"] == 7


def test_a_single_rank_may_save_a_step_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(0, 1)
    checkpoint.save(0, 2)
    assert checkpoint.load() == (0, 2)
    assert checkpoint.steps() == [0]


def test_steps_that_would_not_be_the_latest_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(5, 1)
    with pytest.raises(ValueError, match="step 4 does not come after step 5"):
        checkpoint.save(4, 1)
    with pytest.raises(ValueError, match="negative"):
        checkpoint.save(-1, 1)
    one_of_two = Checkpoint(tmp_path / "mpi", 0, 2)
    one_of_two.save(5, 1)
    with pytest.raises(ValueError, match="let steps grow"):
        one_of_two.save(5, 1)


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 2"):
        Checkpoint(tmp_path, 2, 2)
    with pytest.raises(ValueError, match="keep"):
        Checkpoint(tmp_path, keep=0)


def test_clear_removes_everything(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    checkpoint.save(5, 1)
    checkpoint.clear()
    assert not (tmp_path / "c").exists()
    checkpoint.save(1, 1)
    assert checkpoint.steps() == [1]


def test_a_later_attempt_counts_more_than_a_larger_step(tmp_path: Path) -> None:
    Checkpoint(tmp_path, attempt=1).save(50, state(50))
    second = Checkpoint(tmp_path, attempt=2)
    second.save(3, state(3))
    assert_loads(second, 3)
    second.save(4, state(4))
    assert second.steps() == [3, 4]
    assert_loads(Checkpoint(tmp_path, attempt=3), 4)


# --- ranks ---------------------------------------------------------------------------------------


def test_a_checkpoint_counts_when_all_ranks_have_saved(tmp_path: Path) -> None:
    world = ranks_of(tmp_path, 3)
    save_all(world, 10)
    world[2].save(20, state(20, 2))
    world[0].save(20, state(20, 0))
    for checkpoint in ranks_of(tmp_path, 3, attempt=1):
        assert checkpoint.steps() == [10]
        assert_loads(checkpoint, 10)
    world[1].save(20, state(20, 1))
    for checkpoint in ranks_of(tmp_path, 3, attempt=2):
        assert_loads(checkpoint, 20)


def test_ranks_need_not_keep_pace(tmp_path: Path) -> None:
    fast, slow = ranks_of(tmp_path, 2, keep=1)
    for step in (1, 2, 3):
        fast.save(step, state(step, 0))
        assert fast.steps() == []
    for step in (1, 2, 3):
        slow.save(step, state(step, 1))
        assert slow.steps() == [step]
    assert [path.name for path in tmp_path.iterdir()] == ["step-3-attempt-0"]


def test_an_attempt_does_not_complete_what_another_began(tmp_path: Path) -> None:
    first = ranks_of(tmp_path, 2, attempt=1)
    save_all(first, 5)
    first[0].save(10, state(-1, 0))  # Rank 1 is killed here.
    second = ranks_of(tmp_path, 2, attempt=2)
    for checkpoint in second:
        assert_loads(checkpoint, 5)
    second[1].save(10, state(10, 1))  # Rank 0 is killed here.
    third = ranks_of(tmp_path, 2, attempt=3)
    for checkpoint in third:
        assert_loads(checkpoint, 5)
    save_all(third, 10)
    for checkpoint in ranks_of(tmp_path, 2, attempt=4):
        assert_loads(checkpoint, 10)


def test_all_ranks_resume_from_the_same_though_an_old_attempt_goes_on(tmp_path: Path) -> None:
    old = ranks_of(tmp_path, 2, attempt=1, keep=1)
    save_all(old, 5)
    new = ranks_of(tmp_path, 2, attempt=2, keep=1)
    assert_loads(new[0], 5)
    save_all(old, 6)  # Its node was only cut off, not dead.
    assert_loads(new[1], 5)
    save_all(new, 6)
    assert_loads(new[0], 6)
    assert new[0].steps() == [6]


def test_all_ranks_begin_anew_though_an_old_attempt_completes_its_first(tmp_path: Path) -> None:
    old, new = ranks_of(tmp_path, 2, attempt=1), ranks_of(tmp_path, 2, attempt=2)
    assert_loads(new[1], None)
    save_all(old, 5)
    assert_loads(new[0], None)


def test_parts_for_another_number_of_ranks_do_not_count(tmp_path: Path) -> None:
    save_all(ranks_of(tmp_path, 2), 5)
    assert Checkpoint(tmp_path, 0, 1).load() is None


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 2), max_size=12), keep=st.integers(1, 3))
def test_whatever_the_order_the_latest_complete_one_is_found(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], keep: int
) -> None:
    directory = tmp_path_factory.mktemp("order")
    world = ranks_of(directory, 3, keep=keep)
    saved = [0, 0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        for rank in order:
            saved[rank] += 1
            world[rank].save(saved[rank], state(saved[rank], rank))
            latest = min(saved)
            assert world[0].steps() == list(range(max(1, latest - keep + 1), latest + 1))
    for checkpoint in ranks_of(directory, 3, attempt=1):
        assert_loads(checkpoint, min(saved) or None)


# --- trouble -------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["state/u"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 8] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(1, state(1))
    checkpoint.save(2, state(2))
    damage(tmp_path / "step-2-attempt-0" / "rank-0-of-1.h5")
    with pytest.warns(UserWarning, match=r"step-2-attempt-0.*checksum.*the checkpoint before it"):
        assert_loads(checkpoint, 1)
    assert_loads(checkpoint, 1)  # Without a warning: it was set aside.
    assert checkpoint.steps() == [1]


def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    Checkpoint(tmp_path).save(1, state(1))
    os.truncate(tmp_path / "step-1-attempt-0" / "rank-0-of-1.h5", 500)
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoint(tmp_path).load() is None


def test_a_rank_with_a_damaged_part_fails_and_the_next_attempt_goes_further_back(
    tmp_path: Path,
) -> None:
    world = ranks_of(tmp_path, 2)
    save_all(world, 1)
    save_all(world, 2)
    damage(tmp_path / "step-2-attempt-0" / "rank-1-of-2.h5")
    second = ranks_of(tmp_path, 2, attempt=1)
    assert_loads(second[0], 2)
    with pytest.raises(ResultError, match=r"rank-1-of-2\.h5.*checksum"):
        second[1].load()
    for checkpoint in ranks_of(tmp_path, 2, attempt=2):
        assert_loads(checkpoint, 1)


def test_a_system_that_fails_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(1, state(1))

    def broken(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(sealed_file, "FileBytes", broken)
        with pytest.raises(ResultError, match="Too many open files"):
            checkpoint.load()
    assert_loads(checkpoint, 1)


def test_a_state_that_cannot_be_saved_leaves_the_last_one(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(1, state(1))
    with pytest.raises(EncodingError, match="generator"):
        checkpoint.save(2, {"u": np.zeros(3), "g": (x for x in "abc")})
    assert_loads(checkpoint, 1)


def test_a_full_disk_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path, keep=1)
    checkpoint.save(1, state(1))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            checkpoint.save(2, state(2))
    assert_loads(checkpoint, 1)
    assert list(tmp_path.rglob("*.tmp")) == []
    checkpoint.save(2, state(2))
    assert checkpoint.steps() == [2]


# --- SIGKILL -------------------------------------------------------------------------------------


#: The calls that touch the file system.
TOUCHES: list[tuple[Any, str]] = [
    *((os, name) for name in ("fsync", "open", "pwrite", "unlink", "rmdir")),
    *((Path, name) for name in ("rename", "mkdir", "symlink_to")),
    *((Draft, name) for name in ("_dataset", "_describe")),
]


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_any_instant_the_latest_complete_one_is_loaded(
    tmp_path: Path, ranks: int
) -> None:
    """Steps 1, 2, 3 are there; the last rank dies while it saves its part of step 4."""
    instants = 0
    while True:
        instants += 1
        directory = tmp_path / str(instants)
        world = ranks_of(directory, ranks, keep=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _descriptor: None)
            for step in (1, 2, 3):
                save_all(world, step)
            save_all(world[:-1], 4)
        last = world[-1]
        killed = killed_at(instants, partial(last.save, 4, state(4, ranks - 1)), TOUCHES)
        part = directory / "step-4-attempt-0" / f"rank-{ranks - 1}-of-{ranks}.h5"
        expected = 4 if part.exists() else 3
        again = ranks_of(directory, ranks, attempt=1)
        for checkpoint in again:
            assert_loads(checkpoint, expected)
        save_all(again, 5)
        save_all(again, 6)
        assert again[0].steps() == [5, 6]
        names = {path.name for path in directory.iterdir() if path.is_dir()}
        assert names == {"step-5-attempt-1", "step-6-attempt-1"}  # The wreck is cleared away.
        if not killed:
            break
    assert instants > 8


SAVE_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from pilot.data.checkpoint import Checkpoint
checkpoint = Checkpoint(Path(sys.argv[1]), attempt=int(sys.argv[2]))
loaded = checkpoint.load()
step = loaded[0] if loaded else 0
while True:
    step += 1
    checkpoint.save(step, {"u": np.full(50_000, step), "n": step, "rank": 0})
    print(step, flush=True)
"""


def test_sigkill_loses_no_step_that_was_saved(tmp_path: Path) -> None:
    root = str(Path(module.__file__).parents[2])
    before = 0
    for attempt in (1, 2):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path), str(attempt)]
        environment = {**os.environ, "PYTHONPATH": root}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            try:
                lines = [process.stdout.readline() for _ in range(20)]
            finally:
                process.kill()
            lines += [line for line in process.stdout if line.endswith(b"\n")]
        steps = [int(line) for line in lines]
        assert steps[0] > before
        checkpoint = Checkpoint(tmp_path, attempt=attempt + 1)
        loaded = checkpoint.load()
        assert loaded is not None
        assert loaded[0] in (steps[-1], steps[-1] + 1)
        assert_loads(checkpoint, loaded[0])
        before = loaded[0]


def test_directories_are_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    durable.make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
