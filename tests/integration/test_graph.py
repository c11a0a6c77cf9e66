"""The graph of tasks end to end: what depends on a task ends alike, whenever it was submitted."""

from __future__ import annotations

import concurrent.futures as cf
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Future, Session
from pilot.cli import cli

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


# --- order without values -------------------------------------------------------------------------


def write(path: str, text: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def read(path: str) -> str:
    return Path(path).read_text("utf-8")


def fails_after(path: str, wanted: str) -> None:
    tasks.wait_for_file(f"{path}.started", wanted)
    write(path, "first")
    raise ValueError("as told")


def with_children(path: str) -> Any:
    """Have two children write in their order; the second one's result is this task's."""
    session = pilot.context().session
    first = session.submit(fails_after, path, path)
    session.submit(write, f"{path}.detached", "x", detached=True, after=pilot.context().task_id)
    return session.submit(read, path, after=[first])


def test_a_task_starts_after_others_however_it_is_said(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    """In each form, with a first task that fails late, and a new head in between."""
    go, log = tmp_path / "go", str(tmp_path / "log")
    with local_site.session() as session:
        first = session.submit(fails_after, log, str(go))
        reading = pilot.task(read)
        readers: dict[str, Future[Any]] = {
            "submit": session.submit(read, log, after=[first]),
            "one": session.submit(read, log, after=first),
            "id": session.submit(read, log, after=first.task_id),
            "option": session.submit(reading.options(after=[first]), log),
            "decorator": session.submit(pilot.task(after=[first])(read), log),
            "method": reading.submit(log, after=first),
            "map": reading.map([log], after=first)[0],
            "many": session.submit_many(read, [{"path": log}], after=[first])[0],
            "command": session.submit(pilot.shell("cat {path}"), path=log, after=first),
            "chain": session.submit(read, log, after=session.submit(len, "x", after=first)),
        }
        session.flush()
        assert session.why(readers["one"]).startswith(
            f"task {readers['one'].task_id} (read) waits for the end of task {first.task_id}"
        )
        shown = session.query("task", task=readers["id"].task_id)
        assert (shown["state"], shown["after"]) == ("PENDING", [first.task_id])
        replace_head(local_site)
        go.touch()
        for how, future in readers.items():
            told = future.result(DEADLINE_S)
            assert (told.stdout if how == "command" else told).strip() == "first", how
        assert isinstance(first.exception(), ValueError)
        # After its end, to whichever head that was told.
        assert session.submit(read, log, after=first).result(DEADLINE_S) == "first\n"


def test_children_are_in_order_too(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    with shared_site.session() as session:
        assert session.submit(with_children, str(log)).result(DEADLINE_S) == "first\n"
        wait_until((tmp_path / "log.detached").exists, DEADLINE_S, "the detached child")


def test_mpi_tasks_are_in_order_too(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    log = tmp_path / "log"
    log.touch()

    @pilot.mpi(ranks=2)
    def read_all(path: str) -> str:
        return read(path)

    with shared_site.session() as session:
        first = session.submit(fails_after, str(log), str(log))
        last = session.submit(read_all, str(log), after=first)
        assert last.result(DEADLINE_S) == "first\n"


def test_a_key_has_nothing_of_the_order(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    @pilot.task(cache=True)
    def noted(path: str) -> int:
        write(path, "run")
        return 7

    with shared_site.session() as session:
        first = session.submit(tasks.fail)
        for after in (first, (), session.submit(len, "x")):
            assert session.submit(noted, str(runs), after=after).result(DEADLINE_S) == 7
        assert read(str(runs)) == "run\n"


def test_orders_that_cannot_be_are_told(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        missing = session.submit(len, "x", after="1.999999")
        with pytest.raises(
            pilot.SubmissionError, match=r"start after task 1\.999999, which does n"
        ):
            missing.result(DEADLINE_S)
        with pytest.raises(pilot.OptionError, match="after: 3 is neither the future nor the id of"):
            session.submit(len, "x", after=3)


def test_a_parameter_of_the_name_is_the_functions(shared_site: SiteUnderTest) -> None:
    def named(after: int) -> int:
        return after

    with shared_site.session() as session:
        first = session.submit(tasks.fail)
        assert session.submit(named, after=5).result(DEADLINE_S) == 5
        task = pilot.task(after=first)(named)
        assert session.submit(task, after=6).result(DEADLINE_S) == 6


def test_commands_are_submitted_in_order(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    def submit(*words: str) -> Result:
        where = {"PILOT_SITE": str(shared_site.site.directory)}
        return CliRunner().invoke(cli, ["submit", *words], env=where)

    with shared_site.session() as session:
        first = session.submit(fails_after, str(log), str(tmp_path / "go"))
        session.flush()
        (tmp_path / "go").touch()
        done = submit("--wait", "--after", first.task_id, "--after", "1.1", "--", "cat", str(log))
        assert (done.exit_code, done.output) == (0, "first\n")
        before = [row["id"] for row in shared_site.query("sessions")]
        refused = submit("--after", "1.999999", "--", "true")
        assert [row["id"] for row in shared_site.query("sessions")] == before
        assert refused.exit_code == pilot.SubmissionError.exit_code
        assert "1.999999, which does not exist" in refused.output
        assert submit("--after", "x", "--", "true").exit_code == 2
