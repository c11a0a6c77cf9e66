"""``pilot why`` in situations that are really so, with a real head and local pilots.

Every test prints what the command prints (``pytest -rP`` shows it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support import tasks as t
from support.asking import Asking
from support.graphs import add
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.cli import cli
from pilot.client.future import Future
from pilot.head.pilots import REJOIN_S

DEADLINE_S = 60.0


class Why(Asking):
    """Questions about a site under test."""

    def __init__(self, site: SiteUnderTest) -> None:
        self.site = site

    def never(self) -> tuple[str, str]:
        """Arguments with which `wait_for_file` does not end by itself."""
        return str(self.site.scratch / "begun"), str(self.site.scratch / "never")

    def occupy(self, session: pilot.Session, count: int = 1, **options: Any) -> Occupied:
        """Tasks that run until they are let go."""
        directory = Path(tempfile.mkdtemp(dir=self.site.scratch))
        go = directory / "go"
        marks = [directory / f"mark-{n}" for n in range(count)]
        task = pilot.task(**options)(t.wait_for_file) if options else t.wait_for_file
        futures = [session.submit(task, str(mark), str(go)) for mark in marks]
        wait_until(lambda: all(m.exists() for m in marks), DEADLINE_S, "tasks to run")
        for future in futures:
            self.until(future.task_id, "runs")
        return Occupied(futures, go)


class Occupied:
    """Running tasks, and how to let them go."""

    def __init__(self, futures: list[Future[Any]], go: Path) -> None:
        self.futures = futures
        self.future = futures[0]
        self._go = go

    def let_go(self) -> None:
        self._go.touch()


@pytest.fixture
def why(shared_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> Why:
    monkeypatch.delenv("PILOT_SITE", raising=False)
    return Why(shared_site)


@pytest.fixture
def why_alone(local_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> Why:
    monkeypatch.delenv("PILOT_SITE", raising=False)
    return Why(local_site)


@contextlib.contextmanager
def session_of(why: Why, **arguments: Any) -> Iterator[pilot.Session]:
    """A session whose tasks are cancelled with the block."""
    with why.site.session(**arguments) as session:
        try:
            yield session
        finally:
            session.resume()
            session.cancel()


def ended(future: Future[Any]) -> bool:
    return future.exception(DEADLINE_S) is not None


# --- inputs --------------------------------------------------------------------------------------


def test_an_input_that_runs(why: Why) -> None:
    with session_of(why, name="study") as session:
        occupied = why.occupy(session)
        waiting = session.submit(t.add, occupied.future, 1)
        session.flush()
        told = why(waiting.task_id)
        assert (
            f"waits for an input: task {occupied.future.task_id} (wait_for_file) runs for" in told
        )
        assert f"on node {os.uname().nodename}" in told
        assert why.json(waiting.task_id)["state"] == "PENDING"
        occupied.let_go()
        assert waiting.exception(DEADLINE_S) is not None  # a path and a number cannot be added


def test_an_input_three_tasks_back_that_is_queued(why: Why) -> None:
    with session_of(why) as session:
        why.occupy(session, 2)
        first = session.submit(t.square, 2)
        second = session.submit(t.square, first)
        third = session.submit(t.add, second, second)
        last = session.submit(t.echo, third, [third])
        session.flush()
        told = why(last.task_id)
        assert told.startswith(
            f"task {last.task_id} (echo) waits for task {first.task_id} (square), 3 tasks back, "
            "which is ready, but all 2 cores of the pilot that can run it are busy"
        )
        lines = told.splitlines()
        assert lines[1].strip().startswith(f"task {last.task_id} (echo) needs its input task")
        assert lines[3].strip() == (
            f"task {second.task_id} (square) needs its input task {first.task_id} (square)"
        )


def test_one_of_many_inputs(why: Why) -> None:
    with session_of(why) as session:
        occupied = why.occupy(session)
        others = [session.submit(t.square, n) for n in range(3)]
        pilot.gather(others, timeout=DEADLINE_S)
        waiting = session.submit(t.echo, others, occupied.future)
        session.flush()
        told = why(waiting.task_id)
        assert "waits for an input" in told and "1 of 4 inputs still, such as" in told
        occupied.let_go()
        waiting.result(DEADLINE_S)


def test_an_input_that_has_failed(why: Why) -> None:
    with session_of(why) as session:
        session.pause()
        bad = session.submit(t.fail, "as told")
        middle = session.submit(t.square, bad)
        last = session.submit(t.square, middle)
        session.resume()
        assert ended(last)
        told = why(last.task_id)
        assert told.startswith(
            f"task {last.task_id} (square) was aborted because of task {bad.task_id} (fail), 2 "
            "tasks back, which has failed: ValueError: as told"
        )
        assert f"pilot task show {bad.task_id}" in told
        assert why.json(last.task_id)["kind"] == "failed"


# --- what keeps ready tasks ----------------------------------------------------------------------


def test_a_paused_session(why: Why) -> None:
    with session_of(why) as session:
        session.pause()
        future = session.submit(t.square, 2)
        session.flush()
        told = why(future.task_id)
        assert f"is ready, but session {session.id} is paused" in told
        assert f"to do: `pilot session resume {session.id}`" in told
        whole = why(session.id)
        assert f"session {session.id}" in whole and "is paused" in whole
        assert f"task {future.task_id} (square)" in whole


def test_the_place_in_line_and_the_limit_of_the_pool(why: Why) -> None:
    with session_of(why, name="small") as session, session_of(why, priority=1) as urgent:
        occupied = why.occupy(session, 2)
        with session_of(why, weight=3.0, name="heavy") as rival:
            mine = session.submit_many(t.square, [(n,) for n in range(5)])
            urgent.submit_many(t.square, [(n,) for n in range(3)])
            rival.submit_many(t.square, [(n,) for n in range(7)])
            for each in (session, urgent, rival):
                each.flush()
            told = why(mine[4].task_id)
            assert "is ready, but all 2 cores of the pilot that can run it are busy" in told
            assert "pool main has all that it may have (max_nodes 1)" in told
            before = f"4 of its own kind, 3 of session {urgent.id}, of higher priority"
            assert f"7 ready tasks go before it: {before}" in told
            assert f"7 tasks of session {rival.id} (weight 3)" in told
            assert f"session {session.id} has 2 cores (this one)" in told
            assert "raise max_nodes of pool main" in told
            facts = {line["kind"]: line["facts"] for line in why.json(mine[4].task_id)["because"]}
            assert facts["line"]["before"] == 7 and facts["max_nodes"]["max_nodes"] == 1
            assert "it is the first in line" in why(urgent.tasks(state="READY")[0]["id"])
            occupied.let_go()
            assert pilot.gather(mine, timeout=DEADLINE_S) == [n * n for n in range(5)]


def test_a_walltime_that_is_too_short_now(make_site: Callable[..., SiteUnderTest]) -> None:
    pools = {"main": {"cores_per_node": 2, "walltime": "40s", "warning": "5s", "idle_time": "1m"}}
    why = Why(make_site(pools=pools))
    with session_of(why) as session:
        why.occupy(session)
        limited = pilot.task(time_limit="20s")(t.wait_for_file)
        wait_until(
            lambda: session.query("head")["started"] and _left_s(session) < 34.0, DEADLINE_S, "that"
        )
        # 20 s and 15 s to spare do not go into what is left.
        future = session.submit(limited, *why.never())
        session.flush()
        told = why.until(future.task_id, "walltime")
        assert "is ready, but the pilot that is there ends too soon for it" in told
        assert "it needs 20.0 s, its time limit, and 15 s to spare" in told


def _left_s(session: pilot.Session) -> float:
    import time

    rows = [row for row in session.query("fleet", alive=True) if row["started"]]
    return 40.0 - (time.time() - rows[0]["started"]) if rows else 40.0


def test_a_pool_that_can_run_it_no_more(make_site: Callable[..., SiteUnderTest]) -> None:
    pools = {
        "main": {"cores_per_node": 4, "memory_per_node": "4G"},
        "large": {"cores_per_node": 16, "memory_per_node": "2G"},
    }
    why = Why(make_site(pools=pools))
    session = why.site.session()
    session.pause()
    needs = pilot.task(cores=4, memory="4G")(t.square)
    future = session.submit(needs, 2)
    last = session.submit(t.square, future)
    number = session.detach()
    why.site.stop()
    wait_until(lambda: not why.site.head_pid, DEADLINE_S, "the head to end")
    path = why.site.directory / "site.yaml"
    config = yaml.safe_load(path.read_text())
    config["pools"]["main"]["cores_per_node"] = 2
    path.write_text(yaml.safe_dump(config))
    with pilot.Session(why.site.site, session_id=number) as session:
        session.resume()
        told = why(last.task_id)
        assert "no pool can run it: it needs 4 cores, 4096 MiB, but" in told
        assert "a node of pool 'large' has 16 cores, 2048 MiB" in told or "'main'" in told
        assert f"change the pool in {path}" in told
        session.cancel()


# --- tasks that pilots have ----------------------------------------------------------------------


def test_a_task_that_runs_after_others_have_failed(why: Why) -> None:
    def again(directory: str) -> str:
        import pathlib
        import time

        tries = pathlib.Path(directory, "tries")
        with tries.open("a") as file:
            file.write("x")
        if len(tries.read_text()) < 3:
            raise OSError(f"no luck in attempt {len(tries.read_text())}")
        time.sleep(600.0)
        return "never"

    with session_of(why) as session:
        future = session.submit(
            pilot.task(retries=4, time_limit="5m")(again), str(why.site.scratch)
        )
        told = why.until(future.task_id, "runs")
        assert f"on node {os.uname().nodename}, in attempt 3" in told
        assert "its time limit of 5m 00s ends it in" in told
        assert "it was tried before: 2 attempts (2 of 4 retries and 0 of 3 crashes used)" in told
        assert f"attempt 2 on node {os.uname().nodename} ran for" in told
        assert "error: OSError: no luck in attempt 2" in told


def test_a_task_that_has_delegated(why: Why) -> None:
    go, mark = why.site.scratch / "child-go", why.site.scratch / "child-mark"

    @pilot.task(returns=("own", "childs"))
    def parent(mark: str, go: str) -> Any:
        return "own", pilot.context().session.submit(t.wait_for_file, mark, go)

    with session_of(why) as session:
        future = session.submit(parent, str(mark), str(go))
        wait_until(mark.exists, DEADLINE_S, "the child to run")
        told = why.until(future.task_id, "runs")
        assert f"task {future.task_id} (parent) waits for its child: task" in told
        assert "(wait_for_file) runs for" in told
        assert "has run, and its result is to come from its child" in told
        of_result = why(f"{future.task_id}/childs")
        assert f"result childs of task {future.task_id} (parent) is that of task" in of_result
        go.touch()
        assert future.result(DEADLINE_S)[0] == "own"


# --- tasks that have ended -----------------------------------------------------------------------


def test_how_tasks_have_ended(why: Why) -> None:
    with session_of(why) as session:
        completed = session.submit(t.square, 3)
        completed.result(DEADLINE_S)
        told = why(completed.task_id)
        assert f"task {completed.task_id} (square) has completed at 20" in told
        assert f"attempt 1 on node {os.uname().nodename} ran for" in told

        late = session.submit(pilot.task(time_limit=0.2)(t.pause), 60.0)
        assert ended(late)
        assert "was ended by its time limit of 200.0 ms" in why(late.task_id)

        occupied = why.occupy(session)
        assert occupied.future.cancel()
        told = why.until(occupied.future.task_id, "cancelled")
        assert "was cancelled at 20" in told

        with session.group("together", on_failure="cancel") as group:
            member = group.submit(t.wait_for_file, *why.never())
            failing = group.submit(t.fail, "for all")
        assert ended(failing)
        told = why.until(member.task_id, "cancelled")
        told_why = f"its group 'together' was cancelled by task {failing.task_id} (fail), which"
        assert told_why in told and f"task {failing.task_id} (fail) has failed: " in told

        value = session.put([1, 2, 3])
        value.result(DEADLINE_S)
        assert "is a value that was put there" in why(value.task_id)


def test_a_result_that_was_deleted(why: Why) -> None:
    with why.site.session() as session:
        future = session.submit(t.square, 3)
        future.result(DEADLINE_S)
        session.purge([future])
        told = why(future.task_id)
        assert "has completed at" in told and "but its result was deleted" in told
        kept = session.submit(t.square, 4)
        kept.result(DEADLINE_S)
    wait_until(lambda: why.site.query("session", session=session.id)["state"] == "CLOSED")
    assert "all 2 tasks have ended: 2 COMPLETED" in why(session.id)
    session.purge()
    assert f"but session {session.id} was purged: its result is deleted" in why(kept.task_id)
    assert "is PURGED" in why(session.id)


def test_a_result_of_an_earlier_run(why: Why) -> None:
    again = pilot.task(cache=True)(t.square)
    with why.site.session() as session:
        assert session.submit(again, 123).result(DEADLINE_S) == 15129
    with why.site.session() as session:
        future = session.submit(again, 123)
        assert future.result(DEADLINE_S) == 15129
        told = why(future.task_id)
        assert "without a run: its result is that of the same work in an earlier run" in told
        assert why.json(future.task_id)["facts"]["attempts"] == 0


# --- heads that come and go ----------------------------------------------------------------------


def test_a_head_that_waits_for_its_pilots_and_none_at_all(why_alone: Why) -> None:
    why = why_alone
    session = why.site.session()
    occupied = why.occupy(session, 2)
    ready = session.submit(t.square, 2)
    last = session.submit(t.square, ready)
    session.detach()
    agent = why.site.pid_of("agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        os.kill(why.site.head_pid, signal.SIGKILL)
        wait_until(lambda: not why.site.head_pid, DEADLINE_S, "the head to be gone")
        told = why(last.task_id)
        assert (
            f"waits for an input: task {ready.task_id} (square) is unfinished, and no head runs"
            in told
        )
        assert "to do: `pilot head start` starts one" in told
        assert "1 pilot ran when the last head ended" in told
        assert "has 4 unfinished tasks, and no head runs" in why(session.id)
        with pilot.Session(why.site.site, session_id=session.id) as again:
            told = why(ready.task_id)
            assert "the head has just started, and waits for" in told
            data = why.json(ready.task_id)
            assert data["kind"] == "rejoin"
            assert data["because"][0]["facts"]["pilots"][0].endswith("-1")
            head = again.query("head")
            assert data["because"][0]["facts"]["until"] == head["started"] + REJOIN_S
            os.kill(agent, signal.SIGCONT)
            why.until(ready.task_id, "busy")
            occupied.let_go()
            assert again.future(last.task_id).result(DEADLINE_S) == 16
    finally:
        os.kill(agent, signal.SIGCONT)


# --- sessions, results, and questions about nothing ----------------------------------------------


def test_a_session_with_tasks_of_all_kinds(why: Why) -> None:
    with session_of(why, name="all kinds") as session:
        occupied = why.occupy(session, 2)
        ready = session.submit_many(t.square, [(n,) for n in range(50)])
        total = session.submit(add, *ready)
        session.submit_many(t.add, [(total, n) for n in range(20)])
        session.flush()
        told = why(session.id)
        assert told.startswith(
            f"session {session.id} (all kinds) has 73 unfinished tasks: 50 ready, 2 with pilots, "
            "21 waiting for others"
        )
        assert f"50 tasks such as task {ready[0].task_id} (square), which is ready, but" in told
        assert "2 tasks such as task" in told and "(wait_for_file), which runs for" in told
        assert (
            f"21 tasks such as task {total.task_id} (add), which waits for others, in the end for "
            f"task {ready[0].task_id} (square), which is ready, but"
        ) in told
        assert why().startswith(f"session {session.id} (all kinds)")
        occupied.let_go()


def test_a_future_says_why_it_is_not_there(why: Why) -> None:
    with session_of(why) as session:
        occupied = why.occupy(session)
        waiting = session.submit(t.echo, occupied.future)
        assert waiting.why().startswith(f"task {waiting.task_id} (echo) waits for an input: task")
        occupied.let_go()
        waiting.result(DEADLINE_S)


@pytest.mark.parametrize(
    ("subject", "message", "status"),
    [
        ("77.1", "there is no task 77.1", 1),
        ("4711", "there is no session 4711", 1),
        ("sum", "results like 3.17/0 or 3.17/name, and sessions like 3", 2),
    ],
)
def test_questions_about_nothing(why: Why, subject: str, message: str, status: int) -> None:
    why.site.session().detach()
    result = CliRunner().invoke(cli, ["why", subject], prog_name="pilot")
    assert result.exit_code == status and message in result.output
