"""The record of a workflow: ids and results come back as they were, names of tasks too."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.workflow.graph import Result
from pilot.workflow.record import Group, Record, Stored, _runs, _written, read_record, write_record


def test_ids_are_kept_as_runs() -> None:
    assert _runs([5, 6, 7, 9, 3, 4]) == [(5, 7), (9, 9), (3, 4)]
    assert _runs([]) == []


def test_tasks_have_the_names_of_the_file() -> None:
    record = Record(
        "w", [Group("one", False, [(5, 5)]), Group("many", True, [(6, 8), (20, 21)])], {}, False
    )
    assert [record.label(task) for task in (5, 6, 8, 20, 21, 99)] == [
        "one",
        "many[0]",
        "many[2]",
        "many[3]",
        "many[4]",
        "",
    ]
    assert record.count == 6


def test_what_ran_again_is_called_as_what_took_its_place(tmp_path: Path) -> None:
    record = Record("w", [Group("one", False, [(5, 5)]), Group("many", True, [(6, 8)])], {}, False)
    write_record(tmp_path, 3, record.with_ids({6: 20, 5: 21}).with_ids({20: 30}))
    again = read_record(tmp_path, 3)
    assert again is not None
    told = {task: again.label(task) for task in (5, 6, 7, 20, 21, 30)}
    one, first = "one", "many[0]"
    assert told == {5: one, 6: first, 7: "many[1]", 20: first, 21: one, 30: first}
    assert again.count == 4


def test_a_damaged_record_leads_nowhere() -> None:
    assert not Record("w", [], {}, False, {5: 6, 6: 5}).label(5)


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        "text",
        None,
        [],
        ["result", 1, "x", None],
        ["map", [["a", 1]]],
        {"a": [1, {"b": ["list", []]}]},
    ],
)
def test_plain_values_come_back_whatever_they_look_like(tmp_path: Path, value: object) -> None:
    write_record(tmp_path, 3, Record("w", [], {"key": _written(value, {})}, False))
    record = read_record(tmp_path, 3)
    assert record is not None
    assert record.result("key") == value


def test_references_come_back_with_their_tasks(tmp_path: Path) -> None:
    value = {"low": [Result("split", 1, 0)], "file": Result("write", None, "out")}
    ids = {"split": [7, 8], "write": [9]}
    write_record(tmp_path, 3, Record("w", [], {"key": _written(value, ids)}, False))
    record = read_record(tmp_path, 3)
    assert record is not None
    assert record.result("key") == {
        "low": [Stored(8, "tasks.split[1][0]", 0)],
        "file": Stored(9, "tasks.write.out", "out"),
    }


def test_no_record_and_half_a_record_are_none(tmp_path: Path) -> None:
    assert read_record(tmp_path, 3) is None
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "workflow.msgpack").write_bytes(b"\x93\xa1")
    assert read_record(tmp_path, 3) is None
