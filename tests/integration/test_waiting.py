"""Tasks that wait for others inside: their cores are for these meanwhile; kills in the middle of
it; results that a task reads by the ids of tasks. Some 25 s in all."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import graphs
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_200_tasks_on_2_cores_wait_for_tasks_that_wait(
    session: Session, shared_site: SiteUnderTest
) -> None:
    """Nor do 200 that wait mean 200 processes: what they wait for runs before others begin."""
    widths = [1, 1, 1, 2] * 50
    futures = session.submit_many(graphs.tree, [(2, width) for width in widths])
    most = 0
    while concurrent.futures.wait(futures, 0.5).not_done:
        most = max(most, len(shared_site.processes("pilot executor")))
    assert pilot.gather(futures, timeout=DEADLINE_S) == [width**2 for width in widths]
    assert most < 40, f"{most} executors on 2 cores"


def test_tasks_without_a_core_wait_for_such_tasks(make_site: Any) -> None:
    pool = {"cores_per_node": 1, "walltime": "1h", "coreless_per_node": 2}
    site = make_site(pools={"main": pool})
    with site.session(options={"cores": 0}) as session:
        futures = session.submit_many(graphs.tree, [(2, 1)] * 5)
        assert pilot.gather(futures, timeout=DEADLINE_S) == [1] * 5


def test_ways_to_wait(session: Session) -> None:
    seen = session.submit(graphs.wait_in_other_ways, DEADLINE_S).result(DEADLINE_S)
    assert seen == [[3, 7], [11, 15], (1, [1, 3]), 9]


def test_copy_of_the_process_cannot_wait(session: Session) -> None:
    assert session.submit(graphs.wait_in_a_copy, DEADLINE_S).result(DEADLINE_S) == 0


def test_failure_of_a_child_is_raised(session: Session) -> None:
    assert session.submit(graphs.wait_for_failed).result(DEADLINE_S) == "as told"


def test_task_has_as_many_cores_after_a_wait(session: Session) -> None:
    before, after = session.submit(graphs.cores_after_a_wait).result(DEADLINE_S)
    assert before == after


def test_child_that_needs_all_cores_begins_while_its_parent_waits(
    session: Session, tmp_path: Path
) -> None:
    mark, begun = tmp_path / "mark", tmp_path / "begun"
    mark.touch()
    future = session.submit(graphs.wait_for_child, str(mark), str(begun), DEADLINE_S, 2)
    assert future.result(DEADLINE_S) == 7


def test_task_that_waits_is_cancelled_and_its_child_goes_on(
    session: Session, tmp_path: Path
) -> None:
    mark, begun = tmp_path / "mark", tmp_path / "begun"
    future = session.submit(graphs.wait_for_child, str(mark), str(begun), DEADLINE_S)
    wait_until(lambda: "waits for other tasks" in future.why(), DEADLINE_S, "the wait")
    (child,) = wait_until(
        lambda: session.tasks(name="wait_for_mark", state="RUNNING"), DEADLINE_S, "its child"
    )
    (pid,) = lines(begun)
    future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), DEADLINE_S, "the end of its process")
    mark.touch()
    assert session.future(child["id"]).result(DEADLINE_S) == 7


def test_time_limit_goes_on_while_a_task_waits(session: Session, tmp_path: Path) -> None:
    mark, begun = tmp_path / "mark", tmp_path / "begun"
    limited = graphs.wait_for_child.options(time_limit=1.0)
    with pytest.raises(pilot.TaskTimedOut):
        session.submit(limited, str(mark), str(begun), DEADLINE_S).result(DEADLINE_S)
    mark.touch()


def test_executor_that_is_killed_while_its_task_waits(session: Session, tmp_path: Path) -> None:
    mark, begun = tmp_path / "mark", tmp_path / "begun"
    future = session.submit(graphs.wait_for_child, str(mark), str(begun), DEADLINE_S)
    wait_until(lambda: "waits for other tasks" in future.why(), DEADLINE_S, "the wait")
    os.kill(int(lines(begun)[0]), signal.SIGKILL)
    wait_until(lambda: len(lines(begun)) == 2, DEADLINE_S, "the second attempt")
    mark.touch()
    assert future.result(DEADLINE_S) == 7
    assert len(session.tasks(name="wait_for_mark", state="RUNNING")) == 0


def test_head_that_is_killed_while_tasks_wait(local_site: SiteUnderTest, tmp_path: Path) -> None:
    mark, begun = tmp_path / "mark", tmp_path / "begun"
    with local_site.session() as session:
        futures = [
            session.submit(graphs.wait_for_child, str(mark), str(begun), DEADLINE_S)
            for _ in range(3)
        ]
        wait_until(lambda: "waits for other tasks" in futures[0].why(), DEADLINE_S, "the wait")
        os.kill(local_site.head_pid, signal.SIGKILL)
        wait_until(lambda: "waits for other tasks" in futures[0].why(), DEADLINE_S, "the next head")
        mark.touch()
        assert pilot.gather(futures, timeout=DEADLINE_S) == [7, 7, 7]
    assert set(Counter(lines(begun)).values()) <= {1, 2, 3}
    assert len(lines(begun)) == 3, "none began anew"


# --- results by the ids of tasks ------------------------------------------------------------------


def test_task_reads_results_by_ids(session: Session) -> None:
    small, failed = session.submit(graphs.add, 1, 2), session.submit(graphs.fail, "as told")
    large = session.put(b"x" * 200_000)
    with contextlib.suppress(ValueError):
        failed.result(DEADLINE_S)
    later = session.submit(graphs.add, 3, 4)
    found = session.submit(
        graphs.read, small.task_id, small.task, large.task_id, later.task_id, failed.task_id
    ).result(DEADLINE_S)
    assert found == [3, 3, b"x" * 200_000, 7, "ValueError: as told"]
    two = session.submit(graphs.bounds, 3, 1, 2)
    two.result(DEADLINE_S)
    for part in (0, "low"):
        assert session.submit(graphs.read_part, two.task_id, part).result(DEADLINE_S) == 1


def test_task_is_told_what_is_wrong_with_an_id(session: Session) -> None:
    own = session.submit(graphs.read, f"{session.id}.4000000000", "9.1", "seventeen", 17, True)
    unknown, other, word, number, flag = own.result(DEADLINE_S)
    assert unknown.startswith(f"PilotError: there is no task {session.id}.4000000000")
    assert "task 9.1 is of session 9" in other and "of its own session" in other
    assert "'seventeen' is not a task id" in word
    assert "17 is no task's number; give the task's id" in number
    assert "'True' is not a task id" in flag
