"""The arithmetic and the words of ``scripts/bench``; nothing here is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from bench import core, measure, report, tasks
from bench.report import Findings, Row

from pilot.model.tasks import TaskSpec

FLOATS = st.floats(-1e6, 1e6)


def test_percentiles_lie_between_neighbours_in_proportion() -> None:
    values = [30.0, 10.0, 20.0, 40.0]
    assert measure.percentile(values, 0) == 10
    assert measure.percentile(values, 100) == 40
    assert measure.percentile(values, 50) == 25
    assert measure.percentile(values, 95) == pytest.approx(38.5)


def test_one_value_is_all_its_percentiles() -> None:
    assert {measure.percentile([7.0], percent) for percent in (0, 50, 99, 100)} == {7.0}


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 100.5)])
def test_what_has_no_percentile_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        measure.percentile(values, percent)


@given(st.lists(FLOATS, min_size=1), st.floats(0, 100), st.floats(0, 100))
def test_percentiles_grow_with_the_percentage(
    values: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert measure.percentile(values, low) <= measure.percentile(values, high) + slack
    assert min(values) - slack <= measure.percentile(values, low) <= max(values) + slack


@given(st.lists(FLOATS, min_size=1))
def test_a_distribution_rises_to_one(values: list[float]) -> None:
    points = measure.cumulative(values)
    assert [value for value, _ in points] == sorted(values)
    assert points[-1][1] == 1
    assert [share for _, share in points] == sorted({share for _, share in points})


def test_the_kernel_tells_processor_time_and_memory_of_this_process() -> None:
    assert measure.cpu_s(os.getpid()) > 0
    now, peak = (measure.memory_mib(os.getpid(), field) for field in ("VmRSS", "VmHWM"))
    assert now > 1
    assert peak > 1


def test_a_process_that_is_gone_has_used_nothing_that_is_known() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert measure.cpu_s(child.pid) == 0
    assert measure.memory_mib(child.pid) == 0


def test_a_deadline_that_has_passed_raises() -> None:
    assert 0 < measure.Deadline(60).left_s() <= 60
    with pytest.raises(measure.DeadlineError, match="was not over after 0 s"):
        measure.Deadline(0).left_s()


def test_a_ratio_above_one_is_better_whatever_the_unit() -> None:
    assert Row("W1", "x", "tasks/s", 200, "other", 100).ratio == 2
    assert Row("W2", "x", "ms", 2, "other", 4, more_is_better=False).ratio == 2


@pytest.mark.parametrize("theirs", [None, 0.0])
def test_without_a_reference_there_is_no_ratio(theirs: float | None) -> None:
    assert Row("W8", "lost", "tasks", 3, "other", theirs).ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.0001234, "1.2e-04"),
        (0.01234, "0.0123"),
        (1.5, "1.5"),
        (99.96, "100"),
        (123.4, "123"),
        (1234567.8, "1,234,568"),
    ],
)
def test_numbers_have_three_digits_or_all_before_the_point(value: float | None, text: str) -> None:
    assert report.number(value) == text


def _findings() -> Findings:
    findings = Findings(data={"W1": {"rates": [1.0, 2.0]}})
    findings.add("W1", "10,000", "tasks/s", 5000, {"pool": 10_000, "peer": 500})
    findings.add("W1", "memory", "MiB", 64.0, more_is_better=False)
    findings.miss("W3", "(c)", "not there")
    return findings


def test_each_reference_has_a_row_and_a_measure_without_any_has_one_too() -> None:
    rows = _findings().rows
    assert [(row.case, row.reference, row.ratio) for row in rows] == [
        ("10,000", "pool", 0.5),
        ("10,000", "peer", 10),
        ("memory", "", None),
    ]


def test_a_table_is_aligned_and_does_not_repeat_itself() -> None:
    heading, *lines = report.table(_findings().rows).splitlines()
    assert heading.split() == ["case", "unit", "pilot", "reference", "ratio"]
    assert lines[0].split() == ["W1", "10,000", "tasks/s", "5,000", "pool", "10,000", "0.50"]
    assert lines[1].split() == ["peer", "500", "10.00"]
    assert lines[2].split() == ["memory", "MiB", "64"]
    ends = [heading.index("ratio") + len("ratio"), len(lines[0]), len(lines[1])]
    assert len(set(ends)) == 1


def test_markdown_has_a_table_for_each_workload_and_a_column_for_each_reference() -> None:
    findings = _findings()
    findings.add("W4", "commands", "tasks/s", 1.0)
    first, second = report.markdown(findings.rows).split("\n\n")
    assert first.splitlines() == [
        "| W1 | unit | Pilot | pool | peer |",
        "| --- | --- | ---: | ---: | ---: |",
        "| 10,000 | tasks/s | 5,000 | 10,000 (0.5) | 500 (10) |",
        "| memory | MiB | 64 |  |  |",
    ]
    assert second.splitlines()[2:] == ["| commands | tasks/s | 1 |"]


def test_findings_survive_json() -> None:
    findings = _findings()
    plain = json.loads(json.dumps(findings.to_dict()))
    assert plain["rows"][0]["ratio"] == 0.5
    again = Findings.from_dict(plain)
    assert again == findings


def test_findings_of_workloads_add_up() -> None:
    both = _findings()
    other = Findings(data={"W2": 1})
    other.add("W2", "batch of 1", "ms", 1.0)
    both.extend(other)
    assert len(both.rows) == 4
    assert set(both.data) == {"W1", "W2"}


def test_a_fork_join_gives_back_what_its_fork_gave() -> None:
    fork = tasks.one_more(41)
    assert tasks.join(*(tasks.branch(fork, index) for index in range(50))) == 42


@pytest.mark.parametrize(
    ("graph", "needs"),
    [
        (core.independent(3), [0, 0, 0]),
        (core.chain(3), [0, 1, 1]),
        (core.fan_in(3), [0, 0, 0, 3]),
    ],
)
def test_the_core_alone_is_measured_step_by_step(graph: list[TaskSpec], needs: list[int]) -> None:
    assert [len(task.inputs) for task in graph] == needs
    rates = core.tasks_per_s(graph)
    *steps, total = rates.values()
    assert set(rates) == {"submit", "assign", "complete", "all"}
    assert 1 / total == pytest.approx(sum(1 / rate for rate in steps))


def test_marks_tell_how_often_a_task_ran(tmp_path: Path) -> None:
    from bench import w8

    for index in (1, 2, 2):
        assert tasks.mark(index, str(tmp_path)) == index
    assert w8._executions(tmp_path) == {1: 1, 2: 2}
