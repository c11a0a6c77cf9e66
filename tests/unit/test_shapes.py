"""The size and the walltime of a pilot, by when it could start."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot import clock
from pilot.head.shaping import REST_S, Shaping
from pilot.scheduler.assignment import UNKNOWN_S, usable_walltime_s
from pilot.scheduler.batch import BatchSystem, BatchUnavailable, JobRequest, Prediction
from pilot.scheduler.shapes import (
    AT_ONCE_S,
    Forecast,
    Shape,
    asked_about,
    candidates,
    choose,
    least_nodes,
    least_walltime_s,
)

HOUR = 3600.0
WISH = Shape(4, HOUR, 1, 900.0)
EXACT, FEWER, SHORTER, LEAST = candidates(WISH)
AT_ONCE, LATER, MUCH_LATER = Forecast(0.0), Forecast(600.0), Forecast(7200.0)
REFUSED = Forecast(refused="too long")


@pytest.mark.parametrize(
    ("nodes", "at_once", "least"),
    [(1, 0, 1), (4, 0, 1), (5, 0, 2), (64, 0, 16), (4, 3, 3), (2, 4, 2)],
)
def test_least_nodes_hold_what_needs_them_at_once(nodes: int, at_once: int, least: int) -> None:
    assert least_nodes(nodes, at_once) == least


@pytest.mark.parametrize(
    ("walltime_s", "waiting", "least_s"),
    [
        (HOUR, [(10.0, 15.0)], 900.0),
        (10 * HOUR, [(10.0, 15.0)], 2.5 * HOUR),
        (HOUR, [(1000.0, 1500.0)], 1575.0),
        (HOUR, [(2000.0, 3000.0)], HOUR),  # nothing much would be saved
        (HOUR, [(10.0, 15.0), (None, UNKNOWN_S)], HOUR),  # nobody knows how long that takes
        (HOUR, [(None, 1200.0)], 1275.0),  # it has a time limit
        (700.0, [(10.0, 15.0)], 700.0),
        (HOUR, [], HOUR),
        (0.0, [(10.0, 15.0)], 0.0),
    ],
)
def test_least_walltime_holds_the_longest_task(
    walltime_s: float, waiting: list[tuple[float | None, float]], least_s: float
) -> None:
    found = least_walltime_s(walltime_s, waiting)
    assert found == pytest.approx(least_s)
    if found < walltime_s:
        assert all(kept_s <= usable_walltime_s(found) for _, kept_s in waiting)


@pytest.mark.parametrize(
    ("forecasts", "chosen"),
    [
        ({}, EXACT),
        ({EXACT: AT_ONCE}, EXACT),
        ({EXACT: Forecast(AT_ONCE_S)}, EXACT),
        ({EXACT: Forecast()}, EXACT),  # nobody knows
        ({EXACT: LATER, FEWER: AT_ONCE}, FEWER),
        ({EXACT: LATER, FEWER: LATER, SHORTER: AT_ONCE}, SHORTER),
        ({EXACT: LATER, FEWER: LATER, SHORTER: LATER, LEAST: AT_ONCE}, LEAST),
        # Nothing starts at once: whatever fits into a gap first is as good.
        ({EXACT: LATER, FEWER: LATER, SHORTER: LATER, LEAST: MUCH_LATER}, LEAST),
        ({EXACT: LATER}, EXACT),  # there was no further answer
        ({EXACT: LATER, FEWER: REFUSED, SHORTER: LATER, LEAST: REFUSED}, SHORTER),
        ({EXACT: REFUSED, FEWER: REFUSED, SHORTER: REFUSED, LEAST: REFUSED}, EXACT),
        # The most of it would be refused, too.
        ({EXACT: REFUSED, FEWER: REFUSED, SHORTER: LATER}, Shape(4, 900.0, 4, 900.0)),
    ],
)
def test_shape_that_starts_first_is_chosen(forecasts: dict[Shape, Forecast], chosen: Shape) -> None:
    shape, why = choose(WISH, forecasts)
    assert shape == chosen
    assert bool(why) == (shape != EXACT)


wishes = st.builds(
    lambda nodes, least, walltime_s, least_s: Shape(
        nodes, walltime_s, min(nodes, least), min(walltime_s, least_s)
    ),
    st.integers(1, 64),
    st.integers(1, 64),
    st.floats(60.0, 1e5),
    st.floats(60.0, 1e5),
)
forecasts = st.builds(
    Forecast, st.none() | st.floats(0.0, 1e5), st.sampled_from(["", "", "", "refused"])
)


@given(wishes, st.lists(forecasts, min_size=4, max_size=4))
def test_choice_is_within_the_wish_and_takes_few_questions(
    wish: Shape, answers: list[Forecast]
) -> None:
    known: dict[Shape, Forecast] = {}
    for shape, answer in zip(asked_about(wish, known), answers, strict=False):
        known[shape] = answer
    assert len(known) <= 4
    shape, why = choose(wish, known)
    assert wish.least_nodes <= shape.least_nodes <= shape.nodes <= wish.nodes
    assert wish.least_walltime_s <= shape.least_walltime_s <= shape.walltime_s <= wish.walltime_s
    exact = candidates(wish)[0]
    if known[exact].is_at_once:
        assert len(known) == 1 and shape == exact
    if why:
        assert str(shape) and known[exact] != Forecast()


# --- the questions -------------------------------------------------------------------------------


class Says:
    """A batch system that predicts as the test tells it to."""

    def __init__(self, *answers: Prediction | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[JobRequest] = []

    def limit_nodes(self, job_id: str, nodes: int) -> None:
        raise AssertionError(f"job {job_id} has had no nodes yet")

    def predict(self, request: JobRequest) -> Prediction:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def request(shape: Shape) -> JobRequest:
    return JobRequest(
        name="p",
        command=["agent"],
        nodes=shape.nodes,
        walltime_s=shape.walltime_s,
        directory=Path("/site"),
        directives=SimpleNamespace(cores_per_node=4, memory_per_node_mib=0, gpus_per_node=0),
        least_nodes=shape.least_nodes,
        least_walltime_s=shape.least_walltime_s,
    )


def shape(batch: Says, wish: Shape = WISH, shaping: Shaping | None = None) -> tuple[Shape, str]:
    shaping = shaping or Shaping(cast("BatchSystem", batch))
    return shaping.shape("main", wish, request, clock.now())


def test_one_question_does_where_the_wish_starts_at_once() -> None:
    batch = Says(Prediction(time.time() + 1.0))
    assert shape(batch) == (EXACT, "")
    assert len(batch.asked) == 1


def test_none_is_asked_where_there_is_no_choice() -> None:
    batch = Says()
    assert shape(batch, EXACT) == (EXACT, "")
    assert shape(cast("Says", object())) == (EXACT, ""), "nobody can be asked"


def test_what_starts_at_once_is_asked_for() -> None:
    batch = Says(Prediction(time.time() + 600.0), Prediction(time.time()))
    chosen, why = shape(batch)
    assert (chosen, len(batch.asked)) == (FEWER, 2)
    assert why.startswith("4 nodes for 1h 00m would start in") and why.endswith("at once")


@pytest.mark.parametrize("answer", [BatchUnavailable("timed out"), Prediction()])
def test_who_does_not_know_is_left_alone_for_a_while(answer: Prediction | Exception) -> None:
    batch = Says(answer, Prediction(time.time()))
    shaping = Shaping(cast("BatchSystem", batch))
    now = clock.now()
    assert shaping.shape("main", WISH, request, now) == (EXACT, "")
    assert shaping.shape("main", WISH, request, now + REST_S - 1.0) == (EXACT, "")
    assert len(batch.asked) == 1
    assert shaping.shape("main", WISH, request, now + REST_S) == (EXACT, "")
    assert len(batch.asked) == 2
