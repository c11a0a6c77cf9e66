"""What can be asked of the head: every filter, order, page and count, and the log of events."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import done, spec, template

from pilot.client.events import Event, read_events
from pilot.errors import PilotError, ResultError, StorageError
from pilot.head import queries
from pilot.head.core import core as c
from pilot.head.core import events as ev
from pilot.head.explain.view import View
from pilot.head.outcome_cache import Outcomes
from pilot.head.outlook import ProvisioningView
from pilot.head.store import search
from pilot.head.store.batch import Batch
from pilot.head.store.store import Store
from pilot.model.ids import task_label
from pilot.model.states import EVENT_STATES
from pilot.model.tasks import Environment, TaskFailure
from pilot.model.values import Value
from pilot.scheduler.amounts import UNIT
from pilot.scheduler.batch import find_kind
from pilot.scheduler.resources import NodeShape
from pilot.scheduler.site_amounts import SiteAmounts
from pilot.wire.messages.client import OpenSession

ENVIRONMENT = Environment("/home", (), {})


class Head:
    """A database and a core, written to as the head does, under a clock of the test."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.core = c.Core()
        self.batch = Batch()
        self.now = 100.0
        self.told = 0
        self.number = self.store.next_event()

    def open(self, name: str) -> int:
        session = self.store.add_session(OpenSession(1, name, ENVIRONMENT), self.now)
        self.apply(ev.SessionOpened(session))
        return session

    def apply(self, event: ev.Event) -> None:
        effects = self.core.apply(event, self.now)
        self.batch.add_tasks(effects.accepted)
        self.batch.add_attempts(effects.attempts, self.now)
        self.batch.add_ends(effects.ended)
        self.batch.add_delegated(effects.delegated)
        for session in effects.sessions_ended:
            self.batch.end_session(session, "CLOSED", self.now)

    def submit(self, session: int, *tasks: int, name: str = "a", **changes: Any) -> None:
        """Tasks of a template that has the session and the name in its number."""
        number = session * 100 + ord(name[0])
        known = template(number, session, name=name, **changes)
        self.batch.add_templates([known])
        self.apply(ev.TasksSubmitted(session, [known], [spec(n, number) for n in tasks], {}))

    def assign(self) -> None:
        self.core.assign(self.now)

    def end(self, pilot: str, *completions: Any) -> None:
        self.apply(ev.AttemptsEnded(pilot, list(completions)))

    def write(self, commit: bool = True) -> None:
        """Put what is new into the database, and tell of it if it is committed."""
        self.number = self.batch.add_changes(self.core.log.take(), self.number)
        ended = threading.Event()
        self.store.write(self.batch, lambda _: ended.set())
        assert ended.wait(20)
        self.store.join()
        self.batch = Batch()
        if commit:
            self.told = self.number - 1

    def ask(self, name: str, /, **arguments: Any) -> Any:
        outlook = ProvisioningView(find_kind("local"))
        fleet = SimpleNamespace(pilots={}, outlook=lambda: outlook)
        view = View(self.store, self.core, fleet, {}, dict, self.told)
        return queries.answer(view, name, arguments)

    def ids(self, **arguments: Any) -> list[int]:
        """The tasks' numbers of an answer."""
        return [int(row["id"].partition(".")[2]) for row in self.ask("tasks", **arguments)]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """Tasks in all states.

    Session 1 (study): 1, 2 COMPLETED; 3 FAILED by a KeyError; 4 TIMED_OUT; 5 CANCELLED;
    6 ASSIGNED to a pilot of pool gpu; 7, 8 READY; 9 PENDING. Session 2 (other): 21 COMPLETED,
    22 READY. Task n was created at 100 + n.
    """
    head = Head(tmp_path / "tasks.db")
    study, other = head.open("study"), head.open("other")
    assert (study, other) == (1, 2)
    for number, name in ((1, "b"), (2, "a"), (3, "a"), (4, "c"), (5, "c")):
        head.now = 100.0 + number
        head.submit(1, number, name=name)
    head.apply(ev.PilotJoined("p", "main", NodeShape(5), 1, 0.0, []))
    head.assign()
    head.now = 200.0
    failure = TaskFailure("KeyError", "no", bases=("KeyError", "Exception"))
    head.end("p", done(1, started=1.0, ended=4.0, values=(Value(1, b"x"),)))
    head.now = 210.0
    head.end("p", done(2, started=1.0, ended=2.0), done(3, "error", failure=failure))
    head.now = 220.0
    head.end("p", done(4, "timeout", started=1.0, ended=9.0))
    head.apply(ev.TasksCancelled(1, [5]))
    head.apply(ev.PilotLost("p", "its time is over"))
    head.now = 221.0
    head.submit(2, 21, name="a")
    head.apply(ev.PilotJoined("q", "gpu", NodeShape(1), 1, 0.0, []))
    head.assign()
    head.now = 230.0
    head.end("q", done(21, started=1.0, ended=6.0))
    for number in (6, 7, 8):
        head.now = 100.0 + number
        head.submit(1, number, name="b" if number == 7 else "live")
        if number == 6:
            head.assign()
    known = template(500, 1, name="needy")
    head.batch.add_templates([known])
    head.now = 109.0
    head.apply(ev.TasksSubmitted(1, [known], [spec(9, 500, needs=(8,))], {}))
    head.now = 122.0
    head.submit(2, 22)
    head.write()
    yield head
    head.store.close()


# --- tasks ---------------------------------------------------------------------------------------

FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 21, 22]),
    ({"session": 2}, [21, 22]),
    ({"state": "COMPLETED"}, [1, 2, 21]),
    ({"state": "completed", "session": 1}, [1, 2]),
    ({"state": ["FAILED", "TIMED_OUT"]}, [3, 4]),
    ({"state": "CANCELLED"}, [5]),
    ({"state": "ASSIGNED"}, [6]),
    ({"state": "READY"}, [7, 8, 22]),
    ({"state": "PENDING"}, [9]),
    ({"state": "RUNNING"}, []),
    ({"state": ["PENDING", "FAILED", "ASSIGNED"]}, [3, 6, 9]),
    ({"state": "READY", "session": 2}, [22]),
    ({"name": "a"}, [2, 3, 21, 22]),
    ({"name": ["b", "needy"]}, [1, 7, 9]),
    ({"name": "b", "state": "READY"}, [7]),
    ({"name": "b", "state": ["READY", "COMPLETED"]}, [1, 7]),
    ({"name": "nothing"}, []),
    ({"name": "' OR 1 --"}, []),
    ({"pool": "main"}, [1, 2, 3, 4]),
    ({"pool": "gpu"}, [6, 21]),
    ({"pool": ["gpu", "main"], "name": "a"}, [2, 3, 21]),
    ({"pool": "gpu", "state": "ASSIGNED"}, [6]),
    ({"error": "KeyError"}, [3]),
    ({"error": ["KeyError", "timeout"]}, [3, 4]),
    ({"error": "KeyError", "state": "COMPLETED"}, []),
    ({"created_since": 105.0}, [5, 6, 7, 8, 9, 21, 22]),
    ({"created_until": 105.0}, [1, 2, 3, 4]),
    ({"created_since": 104.0, "created_until": 108.0}, [4, 5, 6, 7]),
    ({"created_since": 107.0, "created_until": 109.0, "state": "READY"}, [7, 8]),
    ({"ended_since": 210.0}, [2, 3, 4, 5, 21]),
    ({"ended_until": 210.0}, [1]),
    ({"ended_since": 210.0, "ended_until": 220.0}, [2, 3]),
    ({"ended_since": 0.0, "state": "READY"}, []),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=str)
def test_filters(head: Head, filters: dict[str, Any], expected: list[int]) -> None:
    assert head.ids(**filters) == expected
    assert head.ids(**filters, reverse=True) == expected[::-1]
    assert sum(head.ask("task_counts", **filters).values()) == len(expected)
    pages = [head.ids(**filters, limit=2, offset=offset) for offset in range(0, 12, 2)]
    assert [task for page in pages for task in page] == expected


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=str)
def test_filters_without_a_core(head: Head, filters: dict[str, Any], expected: list[int]) -> None:
    """The database alone has all unfinished tasks READY, and nothing of their pools."""
    head.core = c.Core()
    live = {6, 7, 8, 9, 22}
    given = [filters["state"]] if isinstance(filters.get("state"), str) else filters.get("state")
    if "pool" in filters:
        expected = [task for task in expected if task not in live]
    elif given is not None:
        expected = [task for task in expected if task not in live]
        if "READY" in given:
            among = head.ids(**{**filters, "state": None})
            expected = sorted({*expected, *live.intersection(among)})
    assert head.ids(**filters) == expected
    assert sum(head.ask("task_counts", **filters).values()) == len(expected)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("id", [1, 2, 3, 4, 5, 6, 7, 8, 9, 21, 22]),
        ("created", [1, 2, 3, 4, 5, 6, 7, 8, 9, 22, 21]),
        ("ended", [1, 2, 3, 4, 5, 21, 6, 7, 8, 9, 22]),
        ("ran", [2, 3, 1, 21, 4, 5, 6, 7, 8, 9, 22]),
        ("name", [2, 3, 21, 22, 1, 7, 4, 5, 6, 8, 9]),
        ("state", [6, 5, 1, 2, 21, 3, 9, 7, 8, 22, 4]),
    ],
)
def test_orders(head: Head, sort: str, expected: list[int]) -> None:
    assert head.ids(sort=sort) == expected
    backwards = expected[::-1]
    if sort in ("ended", "ran"):  # what has no such value stays at the end
        some = {"ended": 6, "ran": 5}[sort]
        backwards = expected[:some][::-1] + expected[some:][::-1]
    assert head.ids(sort=sort, reverse=True) == backwards
    for reverse, order in ((False, expected), (True, backwards)):
        pages = [head.ids(sort=sort, reverse=reverse, limit=3, offset=n) for n in range(0, 12, 3)]
        assert [task for page in pages for task in page] == order
    # The core has to be asked for these: put together, they are in the same order.
    most = [task for task in expected if task not in (7, 8, 22)]
    assert head.ids(sort=sort, state=set(search.STATES) - {"READY"}) == most


def test_the_newest_are_found_without_a_look_at_all_sessions(head: Head) -> None:
    newest = [21, 22, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert head.ids(sort="newest") == newest
    pages = [head.ids(sort="newest", limit=3, offset=n) for n in range(0, 12, 3)]
    assert [task for page in pages for task in page] == newest
    assert head.ids(sort="newest", session=1) == newest[2:]
    assert head.ids(sort="newest", state="FAILED") == [3]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20), st.booleans()), max_size=12),
    st.integers(1, 9),
    st.integers(1, 12),
)
def test_the_newest_are_the_newest(
    lives: list[tuple[int, int, bool]], limit: int, most: int
) -> None:
    """Sessions that begin at some time, have a task each second for a while, and end or do not."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SESSIONS_MOST", most)
        store = Store(Path(directory) / "tasks.db")
        batch, created = Batch(), {}
        for begin, count, has_ended in lives:
            session = store.add_session(OpenSession(1, "s", Environment("/")), float(begin))
            known = template(session, session)
            batch.add_templates([known])
            for n in range(1, count + 1):
                core = c.Core()
                made = ev.TasksSubmitted(session, [known], [spec(session << 32 | n, session)], {})
                batch.add_tasks(core.apply(made, float(begin + n)).accepted)
                created[session << 32 | n] = begin + n
            if has_ended:
                batch.end_session(session, "CLOSED", float(begin + count))
        store.write(batch, lambda _: None)
        store.join()
        found = search.find(store, c.Core(), search.wanted(), "newest", limit=limit)
        expected = sorted(created, key=lambda task: (created[task], task), reverse=True)
        assert [created[task] for task in found] == [created[task] for task in expected[:limit]]
        store.close()


def test_counts(head: Head) -> None:
    assert head.ask("task_counts") == {
        "PENDING": 1,
        "READY": 3,
        "ASSIGNED": 1,
        "COMPLETED": 3,
        "FAILED": 1,
        "TIMED_OUT": 1,
        "CANCELLED": 1,
    }
    assert head.ask("task_counts", session=2) == {"READY": 1, "COMPLETED": 1}
    assert head.ask("session", session=2)["states"] == {"READY": 1, "COMPLETED": 1}
    head.core = c.Core()
    assert head.ask("task_counts", session=1, name=["live", "b"]) == {"READY": 3, "COMPLETED": 1}


def test_rows_have_what_they_were_found_by(head: Head) -> None:
    (failed,) = head.ask("tasks", error="KeyError")
    assert (failed["pool"], failed["error"], failed["ran_s"], failed["ended"]) == (
        "main",
        "KeyError",
        1.0,
        210.0,
    )
    (assigned,) = head.ask("tasks", state="ASSIGNED")
    assert (assigned["pool"], assigned["pilot"], assigned["error"]) == ("gpu", "q", None)


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        ("tasks", {"state": "DONE"}, "no state 'DONE'; they have PENDING, READY"),
        ("tasks", {"sort": "size"}, "not sorted by 'size'; give one of id, created"),
        ("tasks", {"sise": 1}, "not filtered by 'sise'; give created_since"),
        ("tasks", {"session": 9}, "no session 9"),
        ("task_counts", {"session": 9}, "no session 9"),
        ("sessions", {"state": "RUNNING"}, "no state 'RUNNING'; they have OPEN"),
        ("tasks", {"limit": "x"}, "limit='x': give a whole number from 0"),
        ("tasks", {"limit": -1}, "limit=-1: give a whole number from 0"),
        ("tasks", {"offset": None}, "offset=None: give a whole number from 0"),
        ("objects", {"limit": 1.5}, "limit=1.5: give a whole number from 0"),
        ("sessions", {"limit": True}, "limit=True: give a whole number from 0"),
        ("task_counts", {"session": "1"}, "session='1': give a whole number from 0"),
        ("events", {"session": 9}, "no session 9"),
        ("events", {"task": "0.77"}, r"no task 0\.77"),
        ("events", {"task": "77"}, "not a task id"),
        ("events", {"state": "DONE"}, "'DONE'"),
    ],
)
def test_what_is_not_there_is_named(
    head: Head, query: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(PilotError, match=message):
        head.ask(query, **arguments)


def test_no_question_about_many_tasks_reads_their_rows(head: Head) -> None:
    statements: list[str] = []
    select = head.store.select

    def note(statement: str, arguments: dict[str, object]) -> list[Any]:
        statements.append(statement)
        plan = head.store._db.execute(f"EXPLAIN QUERY PLAN {statement}", arguments).fetchall()
        assert any("COVERING INDEX tasks_listed (session=?" in row[-1] for row in plan), plan
        return select(statement, arguments)

    head.store.select = note
    for filters, _ in FILTERS:
        for sort in search.SORTS:
            head.ids(**filters, sort=sort)
        head.ask("task_counts", **filters)
    assert len(statements) > 3 * len(FILTERS)


# --- sessions ------------------------------------------------------------------------------------


def test_sessions_are_filtered(head: Head) -> None:
    head.now = 300.0
    third = head.open("study")
    head.batch.pause_session(2, True)
    head.apply(ev.SessionOpened(third, closed=True))
    head.write()

    def listed(**filters: Any) -> list[int]:
        return [row["id"] for row in head.ask("sessions", **filters)]

    assert listed() == [third, 2, 1]
    assert listed(state="CLOSED") == [third]
    assert listed(state=["open", "CLOSED"]) == [third, 2, 1]
    assert listed(state="PAUSED") == [2]
    assert listed(open_only=True) == [2, 1]
    assert listed(name="study") == [third, 1]
    assert listed(name="study", state="OPEN") == [1]
    assert listed(since=200.0) == [third]
    assert listed(limit=1) == [third]
    rows = {row["id"]: row for row in head.ask("sessions")}
    assert (rows[2]["paused"], rows[1]["paused"]) == (True, False)
    assert [(rows[n]["tasks"], rows[n]["unfinished"]) for n in (1, 2, third)] == [
        (9, 4),
        (2, 1),
        (0, 0),
    ]


def test_delegated_tasks_are_unfinished_also_for_the_database(head: Head) -> None:
    head.batch.add_delegated([ev.Delegated(22, (), {})])
    head.write()
    head.core = c.Core()
    assert head.ids(state="DELEGATED") == [22]
    (row,) = head.ask("sessions", name="other")
    assert row["unfinished"] == 1
    assert [item.spec.id for item in head.store.unfinished()[2]] == [22]
    assert head.store.rows("count_unfinished", {}) == [{"tasks": 5}]


# --- events --------------------------------------------------------------------------------------


def read(head: Head, since: int = 0, **arguments: Any) -> list[Event]:
    return list(read_events(head.ask, since, **arguments))


def test_every_event_comes_once_and_in_order_in_pages_of_any_size(head: Head) -> None:
    every = read(head)
    assert [event.number for event in every] == list(range(1, head.told + 1))
    states = {str(kind): states for kind, states in EVENT_STATES.items()}
    assert all(event.state in states[event.kind] for event in every)
    for limit in (1, 2, 7):
        numbers, since = [], 0
        while True:
            page = head.ask("events", since=since, limit=limit)
            assert len(page["events"]) <= limit
            numbers += [row[0] for row in page["events"]]
            since = page["last"]
            if not page["more"]:
                break
        assert numbers == [event.number for event in every]


def test_events_of_a_session_a_task_a_state(head: Head) -> None:
    every = read(head)
    assert read(head, session=2) == [event for event in every if event.session == 2]
    of_task = [event for event in every if event.task == "0.3"]
    assert [event.state for event in of_task] == ["READY", "ASSIGNED", "RUNNING", "FAILED"]
    assert of_task[-1].detail == "KeyError"
    assert read(head, task="0.3") == of_task
    ended = [event for event in every if event.state in ("FAILED", "JOINED")]
    assert read(head, state=["failed", "JOINED"]) == ended and len(ended) == 3
    last = every[-4].number
    assert read(head, last) == every[-3:] == read(head, -3)
    assert read(head, 10_000) == [] == read(head, len(every))


def test_a_session_s_log_of_many_rows(head: Head) -> None:
    """More rows than are looked at for one answer, between two events that are wanted."""
    for number in range(1000, 1000 + queries._EVENT_ROWS_MOST + 80):
        head.submit(2, number)
        head.write()
    last = number
    page = head.ask("events", task=task_label(last))
    assert (page["events"], page["more"]) == ([], True)
    assert [event.task for event in read(head, task=task_label(last))] == [task_label(last)]
    every = read(head)
    assert [event.number for event in every] == list(range(1, head.told + 1))
    assert read(head, session=2) == [event for event in every if event.session == 2]


def test_what_is_not_committed_is_not_told(head: Head) -> None:
    before = read(head)
    head.apply(ev.SessionOpened(2, closed=True))
    head.apply(ev.TasksCancelled(2, None))
    head.write(commit=False)
    assert read(head) == before
    # The session is closed in what is not committed: whoever follows has to wait for that.
    assert not head.ask("events", session=2)["over"]
    head.told = head.number - 1
    assert [event.state for event in read(head, before[-1].number)] == [
        "CLOSING",
        "CANCELLED",
        "CLOSED",
    ]
    assert head.ask("events", session=2)["over"]


def test_following_ends_with_the_session_or_the_task(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(steps: list[Callable[[], None]]) -> None:
        monkeypatch.setattr("pilot.client.events.time.sleep", lambda _: steps.pop(0)())

    def closes() -> None:
        head.apply(ev.SessionOpened(2, closed=True))
        head.write()

    def cancels() -> None:
        head.apply(ev.TasksCancelled(2, [22]))
        head.write()

    assert [event.state for event in read(head, task="0.3", follow=True)][-1] == "FAILED"
    meanwhile([cancels])
    followed = read(head, head.told, task="0.22", follow=True)
    assert [(event.task, event.state) for event in followed] == [("0.22", "CANCELLED")]
    meanwhile([lambda: None, closes])
    followed = read(head, head.told, session=2, follow=True)
    assert [event.state for event in followed] == ["CLOSING", "CLOSED"]
    meanwhile([lambda: None] * 3)
    assert list(islice(read_events(head.ask, -1, follow=True), 1)) == followed[-1:]


def test_numbers_are_not_given_again_after_a_session_was_deleted(head: Head) -> None:
    head.apply(ev.TasksCancelled(2, None))
    head.apply(ev.SessionOpened(2, closed=True))
    head.write()
    last = head.number
    head.store.delete(2, [])
    assert head.store.next_event() == last
    assert {event.session for event in read(head)[:-3]} == {0, 1}


DAMAGE = bytes([0xC1, 0xFF]) + b"no message"


@pytest.mark.parametrize("column", ["result", "inputs", "template"])
def test_a_damaged_row_is_named_and_all_others_can_be_asked_for(head: Head, column: str) -> None:
    """Task 1 is damaged, 2 is like it."""
    statement = {
        "result": "UPDATE tasks SET result = ? WHERE id = ?",
        "inputs": "UPDATE tasks SET inputs = ? WHERE id = ?",
        "template": "UPDATE templates SET detail = ? WHERE id = "
        "(SELECT template FROM tasks WHERE id = ?)",
    }[column]
    head.store._db.execute(statement, (DAMAGE, 1))
    with pytest.raises(StorageError, match=r"row of task 0\.1 .* is damaged.*backup"):
        head.ask("task", task="0.1")
    assert head.ask("task", task="0.2")["state"] == "COMPLETED"
    assert len(head.ask("tasks", session=1)) == 9
    if column == "result":
        found = {outcome.task: outcome for outcome in head.store.results([1, 2])}
        assert found[2].state == "COMPLETED" and found[1].state == "FAILED"
        assert found[1].failure is not None and "task 0.1" in found[1].failure.message
        outcomes = Outcomes(head.store)
        with pytest.raises(ResultError, match=r"task 0\.1"):
            outcomes.values({1, 2})
        assert outcomes.values({2}) == {2: ()}


# --- what the site has only once ------------------------------------------------------------------


def test_status_has_amounts_and_the_pilots_that_may_hold_more(head: Head) -> None:
    head.core.site = amounts = SiteAmounts((("licence", 3 * UNIT), ("tape", UNIT)))
    amounts.take("p", 1, (("licence", UNIT), ("tape", UNIT // 2)))
    amounts.take("p", 2, (("licence", UNIT),))
    amounts.unheard.update(("r", "q"))
    told = head.ask("status")
    assert told["resources"] == {
        "licence": {"used": 2, "total": 3},
        "tape": {"used": 0.5, "total": 1},
    }
    assert told["unheard"] == ["q", "r"]
