"""What fails in the head's loop is said, set aside and tried again; it ends nothing."""

from __future__ import annotations

import logging

import pytest

from pilot.head import steps as module
from pilot.head.steps import AGAIN_S, MOST_S, Steps


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail() -> None:
    raise RuntimeError("as told")


def test_a_step_that_fails_each_time_is_tried_seldom_and_said_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time = Time()
    steps = Steps(time)
    tries = []
    with caplog.at_level(logging.INFO, module.log.name):
        for _ in range(40_000):  # an hour of turns
            steps.run("step", lambda: (tries.append(time.now), fail()))
            time.now += 0.1
    assert 4000 / MOST_S <= len(tries) <= 4000 / MOST_S + 10
    assert len(caplog.records) <= 4000 / AGAIN_S + 2
    assert caplog.records[0].exc_info and "as told" in caplog.text
    assert steps.trouble == "step: RuntimeError: as told"


def test_others_go_on_and_it_is_said_when_a_step_goes_well_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time = Time()
    steps = Steps(time)
    done: list[str] = []
    assert not steps.run("step", fail)
    assert steps.run("other", done.append, "other")
    assert not steps.run("step", done.append, "too early")
    assert steps.attempt("step of another kind", done.append, "not put off")
    time.now += MOST_S
    with caplog.at_level(logging.INFO, module.log.name):
        assert steps.run("step", done.append, "again")
    assert done == ["other", "not put off", "again"] and not steps.trouble
    assert "works again" in caplog.text


def test_what_ends_the_process_is_let_through() -> None:
    def leave() -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        Steps().run("step", leave)
