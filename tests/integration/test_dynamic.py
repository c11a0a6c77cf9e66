"""Graphs that grow while they run: children, delegated results, detached children."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import graphs
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- children, and results that are theirs -------------------------------------------------------


def test_results_are_handed_on_through_a_tree(session: Session) -> None:
    assert session.submit(graphs.fibonacci, 8).result(DEADLINE_S) == 21


def test_long_delegation_chain(session: Session) -> None:
    assert session.submit(graphs.countdown, 500).result(DEADLINE_S) == "landed"


def test_wide_fan_in(session: Session) -> None:
    assert session.submit(graphs.fan_out, 2000).result(DEADLINE_S) == sum(range(2000))


def test_futures_of_children_stand_anywhere_in_arguments(session: Session) -> None:
    assert session.submit(graphs.with_futures_in_a_box).result(DEADLINE_S) == 5


def test_one_result_is_own_and_others_are_delegated(session: Session) -> None:
    future = session.submit(graphs.own_and_delegated)
    assert future.result(DEADLINE_S) == ("own", 3, 1)
    assert future[1].result(DEADLINE_S) == 3


def test_attempt_that_fails_leaves_no_children(session: Session, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert session.submit(graphs.fail_after_children, str(mark)).result(DEADLINE_S) == 2
    assert lines(mark) == ["2"]


def test_task_cannot_wait_for_its_child(session: Session) -> None:
    with pytest.raises(pilot.PilotError, match="cannot wait for a child that comes to be"):
        session.submit(graphs.ask_child).result(DEADLINE_S)


# --- detached children ---------------------------------------------------------------------------


def test_detached_child_runs_beside_its_parent(session: Session, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert session.submit(graphs.start_beside, str(mark), DEADLINE_S).result(DEADLINE_S) == 7


@pytest.mark.parametrize("harm", ["raise", "exit"])
def test_detached_children_are_found_again_by_the_next_attempt(
    session: Session, tmp_path: Path, harm: str
) -> None:
    mark = tmp_path / "mark"
    ids = session.submit(graphs.detach, str(mark), 5, harm).result(DEADLINE_S)
    children = [session.future(child) for child in ids]
    assert pilot.gather(children, timeout=DEADLINE_S) == list(range(5))
    assert Counter(lines(mark)) == Counter(map(str, range(5)))


def test_detached_child_cannot_need_one_that_is_not(session: Session) -> None:
    with pytest.raises(pilot.PilotError, match="detach that one too"):
        session.submit(graphs.detach_what_needs_a_child).result(DEADLINE_S)


def test_head_that_is_killed_forgets_no_detached_child(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    mark, count = tmp_path / "mark", 200
    with local_site.session() as session:
        future = session.submit(graphs.detach, str(mark), count)
        wait_until(lambda: len(lines(mark)) > 5, DEADLINE_S, "the first detached children")
        os.kill(local_site.head_pid, signal.SIGKILL)
        ids = future.result(DEADLINE_S)
        children = [session.future(child) for child in ids]
        assert pilot.gather(children, timeout=DEADLINE_S) == list(range(count))
    assert len(set(ids)) == count
    runs = Counter(lines(mark))
    assert runs.keys() == set(map(str, range(count)))
    # The one that was under way may have run before it was written down, and is not remembered.
    assert sum(runs.values()) <= count + 1
