"""Files of tasks of PyCOMPSs that later runs find again."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pilot.compat.compss import checkpoints, runner
from pilot.compat.compss.application import Application, Settings
from pilot.compat.compss.decoration import task
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.flags import parse
from pilot.compat.compss.work import FileUse, Work


def test_a_file_is_put_there_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"kept")
    kept = pickle.loads(pickle.dumps(checkpoints.keep([str(path)])))
    path.write_bytes(b"more")
    checkpoints.restore(str(path), kept)
    assert path.read_bytes() == b"kept"
    before = path.stat().st_ino
    checkpoints.restore(str(path), kept)
    assert path.stat().st_ino == before  # it was there
    path.unlink()
    checkpoints.restore(str(path), kept)
    assert path.read_bytes() == b"kept"
    other = tmp_path / "other"
    checkpoints.restore(str(other), kept)
    checkpoints.restore(str(other), None)
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


def test_directories_are_not_kept_and_never_the_same(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    first, second = checkpoints.keep([str(path)]), checkpoints.keep([str(path)])
    assert first.key != second.key
    path.rmdir()
    checkpoints.restore(str(path), first)
    assert not path.exists()
    assert checkpoints.keep([str(tmp_path / "none")]).key == ""


def test_what_is_in_files_counts(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert checkpoints.content_of(str(path)) == ""
    path.write_text("a")
    first = checkpoints.content_of(str(path))
    path.write_text("b")
    assert first and checkpoints.content_of(str(path)) != first
    whole = checkpoints.content_of(str(tmp_path))
    path.write_text("a")
    assert checkpoints.content_of(str(tmp_path)) != whole


def test_a_task_restores_what_it_needs_and_tells_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("one ")
    earlier = checkpoints.keep([str(path)])
    path.write_text("something else")
    use = FileUse((0,), str(path), "inout", "f")
    work = Work(0, (), (use,), True, tokens=((str(path), earlier),), names=("f",), is_kept=True)

    def add(f: str) -> None:
        with open(f, "a") as file:
            file.write("two")

    kept = runner.run(add, work, [None], {})
    assert path.read_text() == "one two"
    path.unlink()
    checkpoints.restore(str(path), kept)
    assert path.read_text() == "one two"


def test_tasks_that_are_not_kept() -> None:
    assert checkpoints.not_kept("instantiated.group:3") == frozenset()
    names = checkpoints.not_kept("instantiated.group:3,avoid.checkpoint:[prog.one, two]")
    assert names == {"prog.one", "two"}
    with pytest.raises(PyCOMPSsException, match="write avoid"):
        checkpoints.not_kept("avoid.checkpoint:[prog.one")

    @task(returns=1)
    def two() -> int:
        return 2

    @task(returns=1)
    def three() -> int:
        return 3

    app = Application("prog.py", Settings(has_checkpoints=True, not_kept=names))
    assert app.keeps(three) and not app.keeps(two)
    assert not Application("prog.py").keeps(three)


@pytest.mark.parametrize(
    ("flag", "is_set"),
    [
        ("--checkpoint=es.bsc.compss.checkpoint.policies.CheckpointPolicyPeriodicTime", True),
        ("--checkpoint=es.bsc.compss.checkpoint.policies.NoCheckpoint", False),
        ("-d", False),
    ],
)
def test_a_policy_sets_checkpoints(flag: str, is_set: bool) -> None:
    assert parse([flag, "prog.py"]).has_checkpoints is is_set
