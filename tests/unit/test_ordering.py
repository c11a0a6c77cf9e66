"""The values that `after` takes, and the words where it takes something else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilot import OptionError, shell, task
from pilot.client.arguments import Origin
from pilot.client.future import Future
from pilot.client.ordering import as_tuple, has_parameter, numbers
from pilot.data.pickling_by_value import dumps
from pilot.errors import SubmissionError
from pilot.model.ids import task_id

HERE = Origin("here", "/here")


def future_of(number: int, directory: str = "/here") -> Future[Any]:
    origin = Origin(Path(directory).name, directory)
    return Future(cast("Any", SimpleNamespace(origin=origin)), task_id(1, number), count=2)


def test_futures_and_ids_one_or_several() -> None:
    first, second = future_of(1), future_of(2)
    for given, wanted in (
        (None, []),
        ((), []),
        (first, [1]),
        ("1.7", [7]),
        ([first, "1.7", second[1], first], [1, 7, 2]),
        ({second}, [2]),
        ((one for one in (second, first)), [2, 1]),
    ):
        assert numbers(as_tuple(given), HERE) == tuple(task_id(1, number) for number in wanted)


@pytest.mark.parametrize(
    "wrong", [7, b"1.7", [7], {"1.7": 7}.values(), object(), "x", ["1.7", "x"]]
)
def test_something_else_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(
        ValueError, match=r"neither the future nor the id of a task|is not a task id"
    ):
        as_tuple(wrong)
    with pytest.raises(OptionError, match=r"^after: "):
        task(after=wrong)(abs)


def test_a_future_of_another_site_is_refused() -> None:
    with pytest.raises(SubmissionError, match=r"task 1\.1 is of site there, .* at site here"):
        numbers((future_of(1, "/there"),), HERE)


def named(after: int) -> int:
    return after


def keyword(*, after: int) -> int:
    return after


def other(*after: int, **rest: int) -> tuple[Any, ...]:
    return after, rest


def test_functions_that_have_a_parameter_of_the_name() -> None:
    having: list[Any] = [named, keyword, task(named), shell("echo {after}"), task(cores=2)(keyword)]
    assert all(has_parameter(function, "after") for function in having)
    others: list[Any] = [other, abs, dict, shell("echo {x}"), task(other), Path]
    assert not any(has_parameter(function, "after") for function in others)


def test_a_task_that_is_sent_elsewhere_leaves_its_order_behind() -> None:
    first = task(retries=2)(named).options(after=future_of(1))
    _, (_, _, given, *_) = cast("Any", first.__reduce__())
    assert given == {"retries": 2} and dumps(first)
    assert first.options(after=None).task_options.after == ()
