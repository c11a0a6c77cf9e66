"""Tasks that take a value by turns, on a site of real processes that are killed; some 5 s."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.sites import SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot
from pilot.cli.common import commanding
from pilot.wire.messages import client as m

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    pools: dict[str, Any] = {"main": {"cores_per_node": 2, "idle_time": "1m"}}
    with site_under_test(local_template(pools=pools)) as site:
        yield site


def _so_many_are_done(futures: list[Any], least: int) -> bool:
    done: int = sum(future.done() for future in futures)
    return done >= least


def add(total: list[int], number: int, mark: str = "") -> list[int]:
    """Append a number; the first time, where there is to be a mark, die."""
    if mark and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise ValueError("a negative number")
    return [*total, number]


def wait_for(path: str, number: int) -> int:
    while not Path(path).exists():
        time.sleep(0.01)
    return number


def test_a_late_one_holds_up_nobody_and_the_last_version_has_all(
    site: SiteUnderTest, tmp_path: Path
) -> None:
    with site.session() as session:
        total = session.put(list[int]())
        by_turns = pilot.task(add).options(commutative=total)
        mark = tmp_path / "mark"
        late = session.submit(wait_for, str(mark), 100)
        first = session.submit(by_turns, total, late)
        others = [session.submit(by_turns, total, number) for number in (1, 2, 3)]
        bad = session.submit(by_turns, total, -1)
        dies = session.submit(by_turns, total, 4, str(tmp_path / "died"))
        assert sorted(map(len, (other.result(DEADLINE_S) for other in others)))[-1] >= 3
        assert isinstance(bad.exception(DEADLINE_S), ValueError) and dies.result(DEADLINE_S)
        final = session.latest(total)
        assert not final.done() and not first.done()
        mark.touch()
        assert sorted(final.result(DEADLINE_S)) == [1, 2, 3, 4, 100]
        assert len(session.submit(add, final, 5).result(DEADLINE_S)) == 6
        assert total.result(DEADLINE_S) == []
        with pytest.raises(pilot.OptionError, match="give the future that it returned"):
            session.submit(by_turns, total, 9)
        again = pilot.task(add).options(commutative=final)
        session.submit(again, final, 6)
        assert len(session.latest(final).result(DEADLINE_S)) == 6


def test_heads_come_and_go_and_no_version_is_lost(site: SiteUnderTest) -> None:
    with site.session() as session:
        total = session.put(list[int]())
        by_turns = pilot.task(add).options(commutative=total)
        futures = [session.submit(by_turns, total, number) for number in range(40)]
        for done in (5, 20):
            wait_until(
                partial(_so_many_are_done, futures, done),
                DEADLINE_S,
                "some to have had their turn",
            )
            os.kill(site.head_pid, signal.SIGKILL)
        final = session.latest(total).result(DEADLINE_S)
        assert sorted(final) == list(range(40))
        assert sorted(len(future.result(DEADLINE_S)) for future in futures) == list(range(1, 41))


def test_a_session_that_is_opened_again_goes_on_with_the_latest_version(
    site: SiteUnderTest,
) -> None:
    with site.session() as session:

        def change(verb: str) -> None:
            with commanding(site.site) as command:
                command(lambda n: m.ControlSession(n, session.id, verb))

        total = session.put(list[int]())
        by_turns = pilot.task(add).options(commutative=total)
        assert session.submit(by_turns, total, 1).result(DEADLINE_S) == [1]
        change("close")
        wait_until(lambda: site.query("session", session=session.id)["state"] == "CLOSED")
        change("reopen")
        assert session.submit(by_turns, total, 2).result(DEADLINE_S) == [1, 2]


def test_large_versions_are_not_copied_by_who_reads_the_last(site: SiteUnderTest) -> None:
    with site.session() as session:
        total = session.put(np.zeros(100_000))
        by_turns = pilot.task(np.add).options(commutative=total)
        for number in range(3):
            session.submit(by_turns, total, number)
        final = session.latest(total)
        assert session.submit(np.max, final).result(DEADLINE_S) == 3.0
        assert final.result(DEADLINE_S).shape == (100_000,)


def test_what_cannot_be_taken_by_turns_is_refused(site: SiteUnderTest) -> None:
    with site.session() as session, site.session() as other:
        total, elsewhere = session.put(1), other.put(2)
        for option, words in (
            (total, "is not among the arguments"),
            (elsewhere, "is not of this session"),
            (3, "is not the future of a value"),
        ):
            with pytest.raises(pilot.PilotError, match=words):
                session.submit(pilot.task(add).options(commutative=option), [], 1)
        with pytest.raises(pilot.PilotError, match="no task of this program takes"):
            session.latest(total)
        with pytest.raises(pilot.OptionError, match="is never the same"):
            pilot.task(cache=True, commutative=total)(add)
        waits = session.submit(pilot.task(add).options(commutative=total), total, 1)
        assert waits.exception(DEADLINE_S) is not None, "1 is no list"
