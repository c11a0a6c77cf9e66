"""Ids of tasks as people read them: the session, and a small number that rises."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from support import graphs
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot

DEADLINE_S = 60.0


def ids(session: pilot.Session) -> list[tuple[int, int]]:
    """Session and number of each task of a session, as the head has them."""
    found = []
    for row in session.tasks(limit=100_000):
        left, _, right = row["id"].partition(".")
        found.append((int(left), int(right)))
        assert row["session"] == session.id
    return found


def test_each_program_counts_from_one_in_a_session_of_its_own(local_site: SiteUnderTest) -> None:
    for number in (1, 2):
        with local_site.session() as session:
            futures = session.submit_many(graphs.add, [(n,) for n in range(5)])
            assert [future.task_id for future in futures] == [f"{number}.{n}" for n in range(1, 6)]
            assert pilot.gather(futures) == list(range(5))
    os.kill(local_site.head_pid, signal.SIGKILL)
    with local_site.session() as session:
        assert session.submit(graphs.add, 1).task_id == "3.1"
        # Children, and theirs, are tasks of the same session, with numbers that go on.
        assert session.submit(graphs.fibonacci, 6).result(DEADLINE_S) == 8
        found = ids(session)
        assert len(found) > 20 and len(set(found)) == len(found)
        assert {left for left, _ in found} == {3}
        assert all(right < 1000 for _, right in found)
        parents = {row["id"]: row for row in session.tasks(limit=1000)}
        child = session.query("task", task=max(parents, key=lambda each: int(each[2:])))
        assert child["parent"] in parents


def test_two_clients_of_one_session_never_use_the_same_number(local_site: SiteUnderTest) -> None:
    with local_site.session() as first:
        second = local_site.session(session_id=first.id)
        count = 600  # more than the first block of either
        futures: list[list[Future[int]]] = [[], []]

        def submit(place: int, session: pilot.Session) -> None:
            for n in range(count):
                futures[place].append(session.submit(graphs.add, n))

        threads = [
            threading.Thread(target=submit, args=each) for each in enumerate((first, second))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        for mine in futures:
            assert pilot.gather(mine, timeout=DEADLINE_S) == list(range(count))
        found = ids(first)
        assert len(set(found)) == len(found) == 2 * count
        assert {left for left, _ in found} == {first.id}
        # A map of more than is left is one row of numbers after the other.
        many = second.submit_many(graphs.add, [(n,) for n in range(3000)])
        assert pilot.gather(many, timeout=DEADLINE_S) == list(range(3000))
        second.detach()


def test_programs_that_attach_one_after_the_other_go_on_counting(local_site: SiteUnderTest) -> None:
    session = local_site.session()
    number = session.id
    ids = [session.submit(graphs.add, 1).task_id]
    session.detach()
    for _ in range(3):
        again = local_site.session(session_id=number)
        ids.append(again.submit(graphs.add, 1).task_id)
        again.detach()
    assert ids == [f"{number}.{n}" for n in range(1, 5)]
    with local_site.session(session_id=number) as last:
        assert last.future(ids[0]).result(DEADLINE_S) == 1


def test_callbacks_submit_beyond_all_numbers_that_are_at_hand(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        done = threading.Event()
        futures = []

        def go_on(ended: Future[int]) -> None:
            if ended.result() == 3:
                done.set()
            else:
                # In the thread that brings the answers, and more at once than it was ever given.
                futures.extend(session.submit_many(graphs.add, [(0,)] * 2000))
                session.submit(graphs.add, ended.result(), 1).add_done_callback(go_on)

        session.submit(graphs.add, 0).add_done_callback(go_on)
        assert done.wait(DEADLINE_S)
        assert pilot.gather(futures, timeout=DEADLINE_S) == [0] * 6000


def test_heads_that_are_killed_give_no_number_twice(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    with local_site.session() as session:
        futures: list[pilot.Future[int]] = []
        ended = threading.Event()

        def submit() -> None:
            n = 0
            while not ended.is_set() and n < 3000:
                n += 1
                futures.append(session.submit(graphs.fibonacci if n % 10 == 0 else graphs.add, 2))
                if n % 25 == 0:
                    futures[-1].result(DEADLINE_S)

        def is_beyond(count: int) -> bool:
            return len(futures) > count

        def is_replaced(head: int) -> bool:
            return local_site.head_pid not in (0, head)

        thread = threading.Thread(target=submit)
        thread.start()
        try:
            for step in range(1, 4):
                wait_until(partial(is_beyond, 150 * step), DEADLINE_S, "tasks")
                killed = local_site.head_pid
                os.kill(killed, signal.SIGKILL)
                wait_until(partial(is_replaced, killed), DEADLINE_S, "a head")
        finally:
            ended.set()
            thread.join(DEADLINE_S)
        values = pilot.gather(futures, timeout=DEADLINE_S)
        assert set(values) == {1, 2}
        found = ids(session)
        assert len({future.task_id for future in futures}) == len(futures)
        assert {left for left, _ in found} == {session.id}
        mine = {f"{left}.{right}" for left, right in found}
        assert {future.task_id for future in futures} <= mine
        # Each `fibonacci(2)` has left a sum and two terms.
        assert len(found) == len(futures) + 3 * sum(n % 10 == 9 for n in range(len(futures)))
