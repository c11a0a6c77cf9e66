"""Values that are put: tasks that are complete from the start, and inputs like any other."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.builders import done, spec, template

from pilot.client.group import GroupKey
from pilot.client.submission import Submission
from pilot.client.submitter import Submitter
from pilot.client.task import OptionError
from pilot.data.segments import SegmentWriter
from pilot.data.storing import load
from pilot.errors import EncodingError, StorageError
from pilot.head.core import core as c
from pilot.head.core import events as ev
from pilot.model.tasks import Children, TaskSpec
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.site import Site, create_site

NOW = 100.0
PARENT, PUT, CHILD = 1, 11, 12
VALUE = Value(3, b"abc", shared=True)


# --- making them ----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return create_site(tmp_path / "site", "local")


@pytest.fixture
def submitter(site: Site) -> Submitter:
    return Submitter(7, site)


def test_small_and_large(site: Site, submitter: Submitter) -> None:
    submission = Submission()
    numbers = [7 << 32 | n for n in (1, 2, 3)]
    for number, obj in zip(numbers, (1, np.ones(20_000), np.zeros(20_000)), strict=True):
        submitter.put(submission, obj, "v", number)
    assert [s.id for s in submission.tasks] == numbers
    (known,) = submission.templates
    assert (known.kind, known.name, known.session, known.function) == ("value", "v", 7, b"")
    small, ones, zeros = (s.values[0] for s in submission.tasks)
    assert small.is_inline and load(small, site.directory) == 1
    assert ones.owner == numbers[1] and zeros.owner == numbers[2]
    assert np.array_equal(load(ones, site.directory), np.ones(20_000))
    # Nodes copy whole files.
    assert ones.path != zeros.path and ones.shared and zeros.shared
    assert {s.payload for s in submission.tasks} == {b""} and submission.functions == []


def test_a_compression_is_that_of_the_call_or_else_of_the_site(
    site: Site, submitter: Submitter
) -> None:
    squeezed, plain = Submission(), Submission()
    submitter.put(squeezed, np.zeros(20_000), "v", 7 << 32 | 1, compression="gzip:1")
    submitter.put_many(squeezed, [np.zeros(20_000)], "v", [7 << 32 | 2], compression="gzip")
    submitter.put(plain, np.zeros(20_000), "v", 7 << 32 | 3)
    paths = [site.directory / s.values[0].path for s in (*squeezed.tasks, *plain.tasks)]
    assert [path.stat().st_size < 20_000 for path in paths] == [True, True, False]
    for each in squeezed.tasks:
        assert np.array_equal(load(each.values[0], site.directory), np.zeros(20_000))
    data = msgspec.structs.replace(site.config.data, compression=4)
    config = msgspec.structs.replace(site.config, data=data)
    compresses = Submitter(7, Site(site.directory, config, site.name))
    compresses.put(plain, np.zeros(20_000), "v", 7 << 32 | 4)
    compresses.put(plain, np.zeros(20_000), "v", 7 << 32 | 5, compression="none")
    sizes = [(site.directory / s.values[0].path).stat().st_size for s in plain.tasks[1:]]
    assert sizes[0] < 20_000 < sizes[1]


def test_another_compression_is_refused_before_anything_is_put(submitter: Submitter) -> None:
    submission = Submission()
    with pytest.raises(OptionError, match=r"^compression='lzf'.*gzip:1"):
        submitter.put(submission, np.zeros(20_000), "v", 7 << 32 | 1, compression="lzf")
    with pytest.raises(OptionError, match=r"^compression=3"):
        submitter.put_many(submission, [1], "v", [7 << 32 | 1], compression=3)  # type: ignore[arg-type]  # a mistake
    assert not submission.tasks


def test_many_values_have_one_segment(site: Site, submitter: Submitter) -> None:
    submission = Submission()
    objs = [np.full(20_000, 1.0), "small", np.full(30_000, 2.0), np.full(20_000, 3.0), None]
    numbers = [7 << 32 | n for n in range(1, 6)]
    submitter.put_many(submission, objs, "blocks", numbers, GroupKey("g", False))
    assert [s.id for s in submission.tasks] == numbers
    (known,) = submission.templates
    assert (known.kind, known.name, known.group) == ("value", "blocks", "g")
    values = [s.values[0] for s in submission.tasks]
    assert [value.is_inline for value in values] == [False, True, False, False, True]
    large = [value for value in values if not value.is_inline]
    assert len({value.path for value in large}) == 1
    assert [value.owner for value in large] == [numbers[0], numbers[2], numbers[3]]
    # A node that keeps a copy copies the whole file.
    assert not any(value.shared for value in values)
    for value, obj in zip(values, objs, strict=True):
        assert np.array_equal(load(value, site.directory), obj)  # type: ignore[arg-type]  # also of what is no array
    assert [path.name for path in site.results.glob("*/*")] == [Path(large[0].path).name]


def test_of_many_values_all_are_put_or_none(site: Site, submitter: Submitter) -> None:
    submission = Submission()
    objs = [np.ones(20_000), 1, (x for x in "abc"), np.ones(20_000)]
    with pytest.raises(EncodingError, match=r"^value 2: .*generator"):
        submitter.put_many(submission, objs, "v", [1, 2, 3, 4])
    assert submission.tasks == [] and not list(site.results.glob("*/.*"))
    assert not list(site.results.glob("*/*"))
    submitter.put_many(submission, [], "v", [])
    assert submission.tasks == []


def test_a_template_for_each_name_and_group(submitter: Submitter) -> None:
    submission = Submission()
    for name, group in [("a", "x"), ("a", "x"), ("a", "y"), ("b", "y")]:
        submitter.put(submission, 1, name, 1, GroupKey(group, False))
    assert [(t.name, t.group) for t in submission.templates] == [("a", "x"), ("a", "y"), ("b", "y")]


def test_a_failure_leaves_nothing(
    site: Site, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = Submission()
    with pytest.raises(EncodingError, match="generator"):
        submitter.put(submission, (x for x in "abc"), "v", 1)

    def full(_writer: SegmentWriter) -> list[Value]:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "seal", full)
        with pytest.raises(StorageError):
            submitter.put(submission, np.ones(20_000), "v", 2)
    assert submission.tasks == [] and not list(site.results.glob("*/.*")) + list(
        site.results.glob("*/*")
    )
    submitter.put(submission, np.ones(20_000), "v", 3)
    (value,) = submission.tasks[0].values
    assert np.array_equal(load(value, site.directory), np.ones(20_000))


def test_old_rows_are_values_still() -> None:
    row = msgspec.msgpack.encode([5, b"", "p", "/n", 9])
    assert msgspec.msgpack.decode(row, type=Value) == Value(5, b"", "p", "/n", 9, shared=False)


# --- in the head ----------------------------------------------------------------------------------


def put(number: int = PUT) -> TaskSpec:
    return TaskSpec(number, 2, b"", values=(VALUE,))


def head() -> c.Core:
    """A core with a task that runs."""
    core = c.Core()
    known = [template(), template(2, kind="value", function=b"")]
    core.apply(ev.TasksSubmitted(1, known, [spec(PARENT)], {}), NOW)
    core.apply(ev.PilotJoined("p", "main", NodeShape(4), 1, 0.0, []), NOW)
    assert core.assign(NOW)
    return core


def test_a_client_s_value_never_waits() -> None:
    core = head()
    effects = core.apply(ev.TasksSubmitted(1, [], [put(), spec(CHILD, needs=(PUT,))], {}), NOW)
    assert [(end.task, end.state, end.values) for end in effects.ended] == [
        (PUT, "COMPLETED", (VALUE,))
    ]
    assert {task.id for tasks in core.assign(NOW).values() for task in tasks} == {CHILD}


def test_a_task_s_value_comes_with_its_end() -> None:
    core = head()
    children = Children((), (), (put(), spec(CHILD, needs=(PUT,))), {})
    effects = core.apply(ev.AttemptsEnded("p", [done(PARENT, children=children)]), NOW)
    assert effects.refused == []
    assert {end.task: end.state for end in effects.ended} == {PUT: "COMPLETED", PARENT: "COMPLETED"}
    assert [accepted.id for accepted, *_ in effects.accepted] == [PUT, CHILD]
    assert {task.id for tasks in core.assign(NOW).values() for task in tasks} == {CHILD}


def test_a_task_s_result_may_be_what_it_has_put() -> None:
    core = head()
    children = Children((), (), (put(),), {0: (PUT, 0)})
    completion = done(PARENT, children=children, values=(Value(0),))
    effects = core.apply(ev.AttemptsEnded("p", [completion]), NOW)
    assert {end.task: (end.state, end.values) for end in effects.ended} == {
        PUT: ("COMPLETED", (VALUE,)),
        PARENT: ("COMPLETED", (VALUE,)),
    }
    assert not core.tasks


def test_values_demand_no_pilots() -> None:
    core = c.Core()
    core.apply(ev.TasksSubmitted(1, [template(2, kind="value")], [put()], {}), NOW)
    assert core.demand() == []
