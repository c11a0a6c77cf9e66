"""The graph of tasks end to end: what depends on a task ends alike, whenever it was submitted."""

from __future__ import annotations

import concurrent.futures as cf
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Future, Session

DEADLINE_S = 30.0


def outcome(future: Future[Any]) -> tuple[str, str]:
    """How a task has ended, and what that is said to come from."""
    cf.wait([future], DEADLINE_S)
    try:
        error = str(future.exception(0))
    except cf.CancelledError as cancelled:
        error = str(cancelled)
    return future.state, error.partition(": ")[2]


def cancelled_by_hand(session: Session, held: Future[Any]) -> Future[Any]:
    future = session.submit(tasks.echo, held)
    future.cancel()
    return future


ENDINGS: dict[str, Callable[[Session, Future[Any]], Future[Any]]] = {
    "failed": lambda s, held: s.submit(tasks.fail, held),
    "timed out": lambda s, held: s.submit(pilot.task(time_limit=0.1)(fail_late), held),
    "cancelled": cancelled_by_hand,
    "cancels": lambda s, held: s.submit(
        pilot.task(on_failure="cancel_successors")(tasks.fail), held
    ),
    "ignored": lambda s, held: s.submit(
        pilot.task(on_failure="ignore", returns=2, default=(1, "x"))(tasks.fail), held
    ),
}
STATES = {"failed": "ABORTED", "timed out": "ABORTED", "cancelled": "ABORTED"}
STATES |= {"cancels": "CANCELLED", "ignored": "COMPLETED"}


def replace_head(site: SiteUnderTest) -> None:
    """Kill the head, and wait for the next one, which the client starts."""
    old = site.head_pid
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: site.head_pid not in (0, old), DEADLINE_S, "a new head")


def fail_late(_: object) -> None:
    tasks.pause(600.0)


def test_a_task_ends_alike_whether_it_is_submitted_before_or_after_the_end_of_its_input(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    """Also when another head has taken over since."""
    go = tmp_path / "go"
    with local_site.session() as session:
        held = session.submit(tasks.wait_for_file, str(tmp_path / "started"), str(go))
        inputs = {how: submit(session, held) for how, submit in ENDINGS.items()}
        before = {how: session.submit(tasks.echo, future) for how, future in inputs.items()}
        before |= {f"after {how}": session.submit(tasks.echo, f) for how, f in before.items()}
        go.touch()
        ends = {how: outcome(future) for how, future in before.items()}
        for how, state in STATES.items():
            assert [ends[how][0], ends[f"after {how}"][0]] == [state, state], how
            if state != "COMPLETED":
                assert ends[how] == ends[f"after {how}"]
                assert inputs[how].task_id in ends[how][1]
                assert before[how].first_cause == before[f"after {how}"].first_cause
                assert before[how].first_cause == inputs[how].task_id
        assert before["ignored"].result() == (((1, "x"),), {})
        for is_new in (False, True):
            if is_new:
                replace_head(local_site)
            after = {how: session.submit(tasks.echo, future) for how, future in inputs.items()}
            after |= {f"after {how}": session.submit(tasks.echo, before[how]) for how in inputs}
            assert {how: outcome(future) for how, future in after.items()} == ends
            for how, future in after.items():
                assert future.first_cause == before[how].first_cause


def test_whoever_is_cancelled_for_another_one_says_so(shared_site: SiteUnderTest) -> None:
    @pilot.task(on_failure="cancel_successors")
    def fails() -> None:
        raise ValueError("no use")

    with shared_site.session() as session:
        first = session.submit(fails)
        last: Future[Any] = first
        for _ in range(3):
            last = session.submit(tasks.echo, last)
        told = rf"its input, task {first.task_id} \(fails\), is FAILED: ValueError: no use"
        with pytest.raises(cf.CancelledError, match=told):
            last.result(DEADLINE_S)
        assert told.replace("\\", "") in session.why(last)
        shown = session.query("task", task=last.task_id)
        assert (shown["state"], shown["first_cause"]) == ("CANCELLED", first.task_id)
        # What was cancelled for want of an input runs again with that.
        again = session.retry()
        assert len(again) == 4 and outcome(again[last.task_id])[0] == "CANCELLED"
        assert again[last.task_id].first_cause == again[first.task_id].task_id


def test_each_of_several_results_may_have_a_default_of_its_own(shared_site: SiteUnderTest) -> None:
    @pilot.task(returns=("mean", "rows"), on_failure="ignore", default=(0.5, ()))
    def fails() -> None:
        raise ValueError

    with shared_site.session() as session:
        both = session.submit(fails)
        rows = session.submit(tasks.echo, both["rows"], mean=both["mean"])
        assert rows.result(DEADLINE_S) == (((),), {"mean": 0.5})
        alike = session.submit(fails.options(default=-1))
        assert session.submit(tasks.echo, alike).result(DEADLINE_S) == (((-1, -1),), {})
        with pytest.raises(pilot.OptionError, match="give 2 values, one for each result, or one"):
            fails.options(default=(1, 2, 3))
