"""Numbers of tasks: each is given once, small and rising, by client and head."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import done, spec, template

from pilot.client.numbers import Numbers
from pilot.errors import HeadError
from pilot.head.connections import Peers
from pilot.head.core import core as c
from pilot.head.core import events as ev
from pilot.head.core import numbering as head_numbers
from pilot.model.ids import session_of, task_id
from pilot.model.tasks import Children, TaskSpec

NOW = 100.0


class Database:
    """How many numbers of each session are given away: all that is left of a head that died."""

    def __init__(self) -> None:
        self.given: dict[int, int] = {}

    def reserve(self, session: int, count: int) -> int:
        first = self.given.get(session, 0) + 1
        self.given[session] = first + count - 1
        return first

    def release(self, session: int, first: int, count: int) -> None:
        if self.given[session] == first + count - 1:
            self.given[session] = first - 1


class Asked:
    """What a client has asked a head for; the head answers when it is told to."""

    def __init__(self, head: head_numbers.Numbers) -> None:
        self.head = head
        self.open: list[tuple[int, Future[Any]]] = []

    def ask(self, count: int) -> Future[Any]:
        future: Future[Any] = Future()
        self.open.append((count, future))
        return future

    def answer(self) -> None:
        for count, future in self.open:
            future.set_result(self.head.block(3, count))
        self.open.clear()

    def wait(self, future: Future[Any]) -> None:
        self.answer()
        future.result()


def client(first: int = 4) -> tuple[Numbers, Asked]:
    asked = Asked(head_numbers.Numbers(Database().reserve))
    return Numbers(*asked.head.block(3, first), asked.ask, asked.wait), asked


# --- of a client ----------------------------------------------------------------------------------


def test_more_are_asked_for_ahead_twice_as_many_each_time() -> None:
    numbers, asked = client(8)
    taken = numbers.take(4)
    assert not asked.open, "half of them are left"
    taken += numbers.take(1)
    assert [count for count, _ in asked.open] == [16]
    taken += numbers.take(3)
    assert len(asked.open) == 1, "nobody asks twice"
    asked.answer()
    taken += numbers.take(16)
    assert [count for count, _ in asked.open] == [32]
    assert taken == [task_id(3, number) for number in range(1, 25)]


def test_who_needs_more_than_is_left_asks_for_that_and_uses_what_is_left_first() -> None:
    numbers, asked = client(8)
    numbers.take(2)
    assert numbers.take(1000) == [task_id(3, number) for number in range(3, 1003)]
    assert not asked.open or asked.open[0][0] > 994


def test_what_is_left_goes_on_while_no_head_answers() -> None:
    numbers, asked = client(8)
    assert len([numbers.take(1) for _ in range(8)]) == 8
    asked.answer()
    assert numbers.take(1) == [task_id(3, 9)]


def test_none_where_the_head_gives_none() -> None:
    numbers, asked = client(2)

    def refuse(future: Future[Any]) -> None:
        for _, each in asked.open:
            each.set_exception(HeadError("this connection is closed"))
        asked.open.clear()
        future.result()

    numbers._wait = refuse
    assert len(numbers.take(2)) == 2
    for _ in range(2):
        with pytest.raises(HeadError, match="closed"):
            numbers.take(1)
    numbers._wait = asked.wait
    assert numbers.take(1) == [task_id(3, 3)], "the next one asks again"


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 16), st.data())
def test_each_number_is_given_once_and_they_rise(
    counts: list[int], first: int, data: st.DataObject
) -> None:
    numbers, asked = client(first)
    taken = []
    for count in counts:
        taken += numbers.take(count)
        if data.draw(st.booleans()):
            asked.head.take(3, 3)  # children come in between
        if data.draw(st.booleans()):
            asked.answer()
    assert len(taken) == sum(counts) and taken == sorted(set(taken))
    assert {session_of(task) for task in taken} <= {3}


def test_what_was_never_taken_is_given_back_once() -> None:
    numbers, asked = client(8)
    numbers.take(5)
    asked.answer()
    assert numbers.give_back() == [(task_id(3, 6), 3), (task_id(3, 9), 16)]
    assert numbers.give_back() == []
    assert numbers.take(1) == [task_id(3, 25)], "those are another's now"


def test_threads_get_numbers_of_their_own() -> None:
    database, answered = Database(), threading.Lock()

    def ask(count: int) -> Future[Any]:
        future: Future[Any] = Future()

        def answer() -> None:
            with answered:
                future.set_result((task_id(1, database.reserve(1, count)), count))

        threading.Thread(target=answer).start()
        return future

    numbers = Numbers(task_id(1, database.reserve(1, 2)), 2, ask, lambda future: future.result())
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda: [taken.extend(numbers.take(7)) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert len(set(taken)) == len(taken) == 4 * 50 * 7


# --- of the head ----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["client", "child", "dies", "bye"]),
            st.integers(1, 2),
            st.integers(1, 9),
        ),
        max_size=60,
    )
)
def test_heads_that_die_give_no_number_twice(history: list[tuple[str, int, int]]) -> None:
    database = Database()
    head = head_numbers.Numbers(database.reserve, database.release, children_block=2)
    given: list[int] = []
    for what, session, count in history:
        if what == "dies":
            head = head_numbers.Numbers(database.reserve, database.release, children_block=2)
        elif what == "bye":
            # A client that uses some of its block, and gives the rest back.
            first, many = head.block(session, 9)
            if count % 3 == 0:
                given += head.take(session, 1)  # something comes in between
            given += range(first, first + count)
            head.take_back([(first + count, many - count)] if many > count else [])
        elif what == "child":
            given += head.take(session, count)
        else:
            first, many = head.block(session, count)
            given += range(first, first + many)
    assert len(set(given)) == len(given)
    for session in (1, 2):
        mine = [task for task in given if session_of(task) == session]
        assert all(task <= task_id(session, database.given[session]) for task in mine)


def test_children_refer_to_each_other_by_their_place() -> None:
    other = task_id(3, 7)
    children = Children(
        (),
        (),
        (spec(1), TaskSpec(2, 1, b"x", ((1, 0), (other, 2), (1, 1)), after=(other, 1))),
        {0: (2, 1), 1: (other, 0)},
    )
    first, second = task_id(3, 20), task_id(3, 21)
    named = head_numbers.named(children, (first, second))
    assert [each.id for each in named.tasks] == [first, second]
    assert named.tasks[1].inputs == ((first, 0), (other, 2), (first, 1))
    assert named.tasks[1].payload == b"x" and named.tasks[1].after == (other, first)
    assert named.delegated == {0: (second, 1), 1: (other, 0)}


def test_no_two_children_get_the_same_number_whatever_they_are_called() -> None:
    children = Children((), (), (spec(1), spec(1), spec(7)), {0: (1, 0)})
    named = head_numbers.named(children, range(10, 13))
    assert [each.id for each in named.tasks] == [10, 11, 12]
    assert named.delegated == {0: (11, 0)}


def test_children_get_numbers_when_they_come_to_be_and_only_then() -> None:
    database = Database()
    parent = task_id(1, database.reserve(1, 1))
    children = Children((), (), (spec(1), spec(2, needs=(1,))), {0: (2, 0)})
    ended = done(parent, children=children)

    def restored() -> tuple[c.Core, head_numbers.Numbers]:
        core = c.Core()
        core.apply(ev.SessionOpened(1), NOW)
        core.apply(ev.TasksSubmitted(1, [template()], [spec(parent)], {}), NOW)
        return core, head_numbers.Numbers(database.reserve)

    def report(core: c.Core, numbers: head_numbers.Numbers) -> list[int]:
        completions = numbers.name_children([ended], core.tasks)
        effects = core.apply(ev.AttemptsEnded("p", completions), NOW)
        return [task.id for _, task, _ in effects.accepted]

    core, numbers = restored()
    first = report(core, numbers)
    assert first == [task_id(1, 2), task_id(1, 3)]
    assert core.tasks.keys() == {parent, *first}
    assert report(core, numbers) == [], "reported twice"
    # The head dies before the commit, and a pilot may have the children already.
    core, numbers = restored()
    second = report(core, numbers)
    assert len(second) == 2 and not set(first) & set(second)


def test_a_child_of_nobody_is_no_task() -> None:
    core = c.Core()
    parent = task_id(1, 1)
    core.apply(ev.TasksSubmitted(1, [template()], [spec(parent)], {}), NOW)
    children = Children((), (), (spec(1, needs=(5,)),), {0: (6, 0)})
    completions = head_numbers.Numbers(Database().reserve).name_children(
        [done(parent, children=children)], core.tasks
    )
    effects = core.apply(ev.AttemptsEnded("p", completions), NOW)
    assert {end.state for end in effects.ended} == {"ABORTED"}


# --- who is told of which -------------------------------------------------------------------------


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers()
    peers.add_client(b"a", [])
    peers.add_client(b"b", [])
    yield peers


def test_two_clients_of_a_session_hear_of_their_own_tasks(peers: Peers) -> None:
    peers.give(b"a", task_id(3, 1), 10)
    peers.give(b"b", task_id(3, 11), 10)
    peers.give(b"a", task_id(3, 31), 5)
    owners = {n: tuple(peers.audience(task_id(3, n))) for n in (1, 10, 11, 20, 21, 30, 31, 35, 36)}
    a, b = (b"a",), (b"b",)
    assert owners == {1: a, 10: a, 11: b, 20: b, 21: (), 30: (), 31: a, 35: a, 36: ()}
    assert peers.audience(task_id(4, 1)) == ()
    peers.watch(b"b", task_id(3, 1))
    assert set(peers.audience(task_id(3, 1))) == {b"a", b"b"}
    peers.watch(b"a", task_id(3, 1))  # it is told anyway
    assert peers.watchers[task_id(3, 1)] == [b"b"]
    peers.remove_client(b"a")
    assert peers.audience(task_id(3, 2)) == ()
    peers.forget(3)
    assert peers.audience(task_id(3, 12)) == ()


def test_a_client_tells_the_next_head_which_ids_it_was_given(peers: Peers) -> None:
    assert not peers.resumed
    peers.add_client(b"c", [(task_id(3, 1), 256), (task_id(5, 1), 4)])
    peers.add_client(b"c", [(task_id(3, 1), 768), (task_id(5, 1), 4)])  # and again, with more
    assert peers.resumed == {b"c"}
    assert peers.audience(task_id(3, 700)) == (b"c",) == peers.audience(task_id(5, 4))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=20), st.randoms())
def test_rows_are_found_in_whatever_order_they_come(
    rows: list[tuple[int, int]], random: Any
) -> None:
    peers, first = Peers(), 1
    owners: dict[int, tuple[bytes, ...]] = {}
    told = []
    for client_number, count in rows:
        name = b"%d" % client_number
        told.append((name, task_id(1, first), count))
        owners.update((task_id(1, n), (name,)) for n in range(first, first + count))
        first += count
    random.shuffle(told)
    for name, begin, count in told:
        peers.add_client(name, [(begin, count)])
    assert {task: peers.audience(task) for task in owners} == owners
