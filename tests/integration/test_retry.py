"""Retries of failed tasks: of every kind, one after the other, and more than once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.cli.common import commanding
from pilot.wire.messages import client as m

DEADLINE_S = 60.0


def fails(mark: str, *given: Any) -> tuple[int, ...]:
    """Return how large each of what is given is, once the mark is there."""
    if not Path(mark).exists():
        raise ValueError("not yet")
    return tuple(len(one) if hasattr(one, "__len__") else one for one in given)


def delegates(mark: str) -> Any:
    return pilot.context().session.submit(fails, mark, 1)


def delegates_twice(mark: str) -> Any:
    return pilot.context().session.submit(delegates, mark)


def detaches(mark: str) -> Any:
    session = pilot.context().session
    child = session.submit(fails, mark, 5, detached=True)
    fails(mark)
    return session.submit(max, child, (0,))


def detaches_and_ends(mark: str) -> int:
    pilot.context().session.submit(fails, mark, 7, detached=True)
    return 0


@pilot.mpi(ranks=2)
def ranks(mark: str, given: bytes) -> tuple[int, tuple[int, ...]]:
    return pilot.context().ranks, fails(mark, given)


def _kinds(session: pilot.Session, mark: str) -> dict[str, tuple[Callable[[], Any], object]]:
    """How tasks of all kinds are submitted, and what they give."""
    array = np.ones(100_000)
    cached = pilot.task(cache=True)(fails)
    return {
        "cached": (lambda: session.submit(cached, mark, 3), (3,)),
        "cached alike": (lambda: session.submit(cached, mark, 3), (3,)),
        "large": (lambda: session.submit(fails, mark, bytes(200_000)), (200_000,)),
        "array": (lambda: session.submit(fails, mark, array), (100_000,)),
        "by value": (lambda: session.submit(lambda: fails(mark, array)), (100_000,)),
        "put": (lambda: session.submit(fails, mark, session.put(array)), (100_000,)),
        "delegated": (lambda: session.submit(delegates, mark), (1,)),
        "delegated twice": (lambda: session.submit(delegates_twice, mark), (1,)),
        "detached": (lambda: session.submit(detaches, mark), (5,)),
    }


def test_tasks_of_all_kinds_run_again(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with shared_site.session() as session:
        kinds = _kinds(session, str(mark))
        before = {name: submit() for name, (submit, _) in kinds.items()}
        with session.group("together", on_failure="cancel"):
            before["group"] = session.submit(fails, str(mark), 2)
            held = session.submit(tasks.pause, 600.0)
        with session.group("apart"):
            before["apart"] = session.submit(fails, str(mark), 2)
        wanted = {name: value for name, (_, value) in kinds.items()}
        wanted |= {"group": (2,), "apart": (2,), "all": tuple([1] * 6)}
        inputs = [before[name] for name in ("cached", "large", "put", "detached", "group", "apart")]
        before["all"] = session.submit(fails, str(mark), *inputs)
        for future in before.values():
            assert future.exception(DEADLINE_S) is not None
        # Once in vain, with the same errors; and then well.
        for how in ("in vain", "well"):
            if how == "well":
                mark.touch()
            again = session.retry()
            assert set(again) == {future.task_id for future in before.values()}
            before = {name: again[future.task_id] for name, future in before.items()}
            for name, future in before.items():
                if how == "well":
                    assert future.result(DEADLINE_S) == wanted[name], name
                else:
                    assert future.exception(DEADLINE_S) is not None, name
        assert held.cancelled()
        # Their children were submitted anew: nothing is left of the first ones.
        assert session.retry() == {}
        told = shared_site.query("session", session=session.id)
        assert (told["failed"], told["aborted"]) == (0, 0)
        assert set(told["states"]) == {"COMPLETED", "CANCELLED"}


def test_a_detached_child_of_a_task_that_ended_well_runs_again(
    shared_site: SiteUnderTest, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    with shared_site.session() as session:
        assert session.submit(detaches_and_ends, str(mark)).result(DEADLINE_S) == 0
        session.flush()
        (child,) = [row["id"] for row in session.tasks() if row["name"] == "fails"]
        assert session.future(child).exception(DEADLINE_S)
        mark.touch()
        assert session.retry()[child].result(DEADLINE_S) == (7,)
        assert session.retry() == {}


def test_mpi_tasks_run_again(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    mark = tmp_path / "mark"
    with shared_site.session() as session:
        failed = session.submit(ranks, str(mark), bytes(100_000))
        assert isinstance(failed.exception(DEADLINE_S), ValueError)
        mark.touch()
        assert session.retry()[failed.task_id].result(DEADLINE_S) == (2, (100_000,))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_needs_several_that_failed_runs_when_the_last_of_them_has(
    shared_site: SiteUnderTest, tmp_path: Path, order: tuple[int, int]
) -> None:
    marks = [tmp_path / "one", tmp_path / "two"]
    with shared_site.session() as session:
        failed = [session.submit(fails, str(mark), n) for n, mark in enumerate(marks)]
        both = session.submit(tasks.echo, *failed)
        assert all(future.exception(DEADLINE_S) for future in failed)
        assert both.exception(DEADLINE_S)
        for n in order:
            marks[n].touch()
            again = session.retry([failed[n]])
            assert again[failed[n].task_id].result(DEADLINE_S) == (n,)
            assert (both.task_id in again) == (n == order[1])
        last = again[both.task_id]
        assert last.result(DEADLINE_S) == (((0,), (1,)), {})
        assert session.retry() == {}


def test_a_session_that_was_retried_well_has_ended_well(
    shared_site: SiteUnderTest, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    with shared_site.session() as session:
        failed = [session.submit(each, str(mark)) for each in (delegates, detaches)]
        for future in failed:
            assert future.exception(DEADLINE_S)
    mark.touch()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pilot", *words, "--site", str(shared_site.directory)],
            check=False,
            capture_output=True,
            text=True,
        )

    number = str(session.id)
    assert run("session", "wait", number).returncode == 8
    assert run("retry", number, "--wait").returncode == 0
    assert run("session", "wait", number).returncode == 0
    assert "has no failed tasks" in run("retry", number).stderr


def test_a_program_goes_on_when_others_have_closed_its_session_and_opened_it_again(
    shared_site: SiteUnderTest,
) -> None:
    with shared_site.session() as session:

        def change(verb: str) -> None:
            with commanding(shared_site.site) as command:
                command(lambda n: m.ControlSession(n, session.id, verb))

        assert session.submit(abs, -1).result(DEADLINE_S) == 1
        change("close")
        wait_until(lambda: shared_site.query("session", session=session.id)["state"] == "CLOSED")
        assert isinstance(session.submit(len, (1, 2)).exception(DEADLINE_S), pilot.SubmissionError)
        change("reopen")
        # The one was introduced before the end, the other in vain.
        futures = [session.submit(abs, -2), session.submit(len, (1, 2))]
        assert [future.result(DEADLINE_S) for future in futures] == [2, 2]
