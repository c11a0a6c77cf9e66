"""Values that tasks take by turns: one at a time, in any order, each the latest version."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import done, template

from pilot.client.commutative import Turns, parts_of
from pilot.client.task import OptionError
from pilot.errors import PilotError
from pilot.head.core.core import Core
from pilot.head.core.events import (
    AttemptsEnded,
    Effects,
    Event,
    PilotJoined,
    PilotLost,
    Restored,
    ResultsReleased,
    SessionOpened,
    TasksCancelled,
    TasksRestored,
    TasksSubmitted,
    VersionsCommitted,
    VersionsLookedUp,
)
from pilot.model.ids import Ref
from pilot.model.states import COMPLETED, READY
from pilot.model.tasks import TaskSpec
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, Resources

SESSION = 1 << 32
ANCHOR = SESSION | 1
READER = template(9, kind="value", function=b"")


def member(number: int, *others: int, kind: int = 1) -> TaskSpec:
    inputs = ((ANCHOR, 0), *((SESSION | other, 0) for other in others))
    return TaskSpec(SESSION | number, kind, b"", inputs, commutative=((0, 0),))


class Head:
    """A core with a shell that commits when it is told to."""

    def __init__(self) -> None:
        self.core = Core()
        self.now = 0.0
        self.uncommitted: list[tuple[tuple[int, int], int]] = []
        self.values: dict[int, tuple[Value, ...]] = {}
        self.apply(PilotJoined("p", "main", NodeShape(8), 1, 0.0, []))

    def apply(self, event: Event) -> Effects:
        self.now += 1.0
        effects = self.core.apply(event, self.now)
        self.uncommitted += [(anchor, task) for anchor, _, task in effects.versions]
        for end in effects.ended:
            self.values[end.task & 0xFFFF] = end.values
        if effects.settling:
            found = {task: self.values[ref[0] & 0xFFFF][ref[1]] for task, ref in effects.settling}
            self.apply(VersionsLookedUp(found))
        return effects

    def commit(self) -> None:
        over, self.uncommitted = self.uncommitted, []
        self.apply(VersionsCommitted(over))

    def submit(self, *specs: TaskSpec, gone: Collection[Ref] = ()) -> Effects:
        kinds = [template(1), template(2, resources=Resources(cores=2)), READER]
        ended = {ANCHOR: COMPLETED}
        return self.apply(TasksSubmitted(1, kinds, list(specs), ended, gone=gone))

    def anchor(self) -> None:
        value = Value(1, b"0")
        kind = template(8, kind="value", function=b"")
        self.apply(TasksSubmitted(1, [kind], [TaskSpec(ANCHOR, 8, b"", values=(value,))], {}))

    def assign(self) -> dict[int, tuple[int, ...]]:
        """Task → the tasks of its inputs, for all that pilots get now."""
        self.now += 1.0
        given = self.core.assign(self.now)
        return {
            task.id & 0xFFFF: tuple(source & 0xFFFF for source, _ in task.given)
            for tasks in given.values()
            for task in tasks
        }

    def end(self, number: int, outcome: Any = "ok", attempt: int = 1, pilot: str = "p") -> Effects:
        values = (Value(1, b"%d" % number),) if outcome == "ok" else ()
        ended = done(SESSION | number, outcome, attempt, values=values)
        return self.apply(AttemptsEnded(pilot, [ended]))


@pytest.fixture
def head() -> Head:
    head = Head()
    head.anchor()
    return head


def test_one_at_a_time_each_with_the_latest_version(head: Head) -> None:
    head.submit(member(2), member(3), member(4, kind=2))
    seen: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(3):
        given = head.assign()
        assert len(given) == 1 and head.assign() == {}
        seen += given.items()
        head.end(next(iter(given)))
        assert head.assign() == {}, "not before the version is committed"
        head.commit()
    assert seen[0][1] == (1,)
    assert [sources for _, sources in seen[1:]] == [(task,) for task, _ in seen[:2]]


def test_a_late_one_holds_up_no_other(head: Head) -> None:
    head.submit(TaskSpec(SESSION | 2, 1, b""), member(3, 2), member(4), member(5))
    assert head.assign() == {2: (), 4: (1,)}
    head.end(4)
    head.commit()
    assert head.assign() == {5: (4,)}
    head.end(2)
    assert head.assign() == {}
    head.end(5)
    head.commit()
    assert head.assign() == {3: (5, 2)}


def test_what_fails_leaves_the_version_as_it_was(head: Head) -> None:
    head.submit(member(2), member(3), member(4))
    assert head.assign() == {2: (1,)}
    head.end(2, "error")
    assert head.assign() == {3: (1,)}
    head.end(3, "crash")
    assert head.assign() == {3: (1,)}, "it is tried again"
    head.apply(TasksCancelled(1, [SESSION | 3]))
    assert head.assign() == {4: (1,)}


def test_a_waiting_one_may_be_cancelled(head: Head) -> None:
    head.submit(member(2), member(3), member(4))
    head.apply(TasksCancelled(1, [SESSION | 2]))  # the one in the queue
    head.apply(TasksCancelled(1, [SESSION | 4]))  # one that is aside
    assert head.assign() == {3: (1,)}
    counts = [(work.ready, work.assigned) for work in head.core.classes.values()]
    assert sorted(counts)[-1] == (0, 1) and not any(ready for ready, _ in counts)


def test_a_reader_comes_after_all(head: Head) -> None:
    last = TaskSpec(
        SESSION | 5,
        9,
        b"",
        ((ANCHOR, 0),),
        after=tuple(SESSION | n for n in (2, 3)),
        commutative=((0, 0),),
    )
    head.submit(member(2), member(3), last)
    for task in (2, 3):
        assert list(head.assign()) == [task]
        head.end(task, "ok" if task == 2 else "error")
        head.commit()
    assert head.values[5] == head.values[2] and not head.core.tasks


def test_a_lost_pilot_gives_the_turn_back_and_knows_nothing_of_later_versions(head: Head) -> None:
    head.submit(member(2), member(3))
    assert head.assign() == {2: (1,)}
    head.apply(PilotLost("p", "it was silent"))
    head.apply(PilotJoined("q", "main", NodeShape(8), 1, 0.0, []))
    ((first, _),) = head.assign().items()
    head.end(first, pilot="q", attempt=2 if first == 2 else 1)
    head.commit()
    # It is there again, with what it had: somebody else has had the turn since.
    effects = head.apply(PilotJoined("p", "main", NodeShape(8), 1, 0.0, [(SESSION | 2, 1)]))
    assert effects.cancel == {"p": [SESSION | 2]}
    head.end(2, attempt=1)
    assert SESSION | 2 not in {one for one in head.values if one == 2 and first != 2}


def test_a_new_head_goes_on_with_the_committed_version() -> None:
    head = Head()
    kinds = [template(1)]
    tasks = [Restored(member(number), 0, 0, 0, 0.0) for number in (3, 4)]
    head.apply(TasksRestored(kinds, tasks, versions={(ANCHOR, 0): (SESSION | 2, 0)}))
    head.apply(PilotJoined("q", "main", NodeShape(8), 1, 0.0, [(SESSION | 4, 1)]))
    assert head.assign() == {}, "a pilot has one of them, and the turn"
    head.end(4, pilot="q")
    head.commit()
    assert head.assign() == {3: (4,)}


def test_nothing_is_kept_of_a_session_that_has_ended_and_it_may_be_opened_again(head: Head) -> None:
    head.submit(member(2))
    head.assign()
    head.end(2)
    head.apply(SessionOpened(1, closed=True))
    assert not head.core.sessions, "with the turns, which are its own"
    head.commit()
    assert head.core.versions(member(3)) == []
    # As `pilot session reopen` does, with what the database has.
    head.apply(SessionOpened(1))
    head.apply(TasksRestored([template(1)], [], versions={(ANCHOR, 0): (SESSION | 2, 0)}))
    head.submit(member(3))
    assert head.assign() == {3: (2,)}
    elsewhere = (ANCHOR + SESSION, 0)
    head.apply(TasksRestored([], [], versions={elsewhere: elsewhere}))
    assert list(head.core.sessions) == [1], "versions alone make no session"


def test_impossible_parts_are_refused(head: Head) -> None:
    wrong = msgspec.structs.replace(member(2), commutative=((1, 0),))
    assert "no such input" in head.submit(wrong).refused[0][1]
    away = msgspec.structs.replace(member(3), inputs=((ANCHOR + SESSION, 0),))
    assert head.submit(away).refused


def test_whoever_comes_after_the_latest_version_was_released_is_refused(head: Head) -> None:
    head.submit(member(2), member(3))
    assert head.assign() == {2: (1,)}
    head.apply(ResultsReleased([(SESSION | 2, 0)]))
    assert not head.submit(member(4)).refused, "it is no version yet"
    head.end(2)
    head.commit()
    ((_, why),) = head.submit(member(5)).refused
    assert "the result of task 1.2, which was released" in why
    assert head.assign() == {3: (2,)}, "for those that were there it stays"
    head.end(3)
    head.apply(ResultsReleased([(SESSION | 3, 0)]))
    head.commit()
    head.assign()
    head.end(4, "error")
    version = (SESSION | 3, 0)
    assert head.core.versions(member(6)) == [version], "the shell asks whether it is gone"
    assert head.submit(member(6), gone={version}).refused


@given(st.data())
def test_histories_lose_no_version(data: st.DataObject) -> None:
    """Whatever ends how, and whichever pilot is lost: a chain through all that completed."""
    head = Head()
    head.anchor()
    kinds = data.draw(st.lists(st.sampled_from([1, 2]), min_size=7, max_size=7))
    head.submit(*(member(number, kind=kind) for number, kind in enumerate(kinds, 2)))
    ends = ["ok", "ok", "error", "crash", "lost", "commit", "cancel"]
    source: dict[int, int] = {}
    runs: dict[int, tuple[int, str]] = {}
    pilots = ["p"]
    completed = []
    for step in range(60):
        for task, (version,) in head.assign().items():
            assert not runs, "one at a time"
            its = head.core.tasks[SESSION | task]
            assert its.pilot is not None
            runs[task] = its.attempt, its.pilot.name
            source[task] = version
        what = data.draw(st.sampled_from(ends))
        if what == "commit":
            head.commit()
        elif what == "cancel" and head.core.tasks and data.draw(st.booleans()):
            task = data.draw(st.sampled_from(sorted(head.core.tasks))) & 0xFFFF
            head.apply(TasksCancelled(1, [SESSION | task]))
            runs.pop(task, None)
        elif what == "lost":
            head.apply(PilotLost(pilots[-1], "gone"))
            pilots.append(f"p{step}")
            head.apply(PilotJoined(pilots[-1], "main", NodeShape(8), 1, 0.0, []))
            runs.clear()
        elif runs and what in ("ok", "error", "crash"):
            task, (attempt, pilot) = runs.popitem()
            head.end(task, what, attempt, pilot)
            if what == "ok":
                completed.append(task)
    head.commit()
    assert [source[task] for task in completed] == [1, *completed][: len(completed)]
    for left in head.core.tasks.values():
        assert left.state == READY or left.pilot is not None
    assert all(head.values[task] for task in completed)


# --- as users give them ---------------------------------------------------------------------------


def test_the_first_results_are_the_next_versions() -> None:
    a, b = (ANCHOR, 0), (ANCHOR, 1)
    assert parts_of([a, b], [(7, 0), b, a], 2) == ((2, 0), (1, 1))
    with pytest.raises(OptionError, match="not among the arguments"):
        parts_of([a], [b], 1)
    with pytest.raises(OptionError, match="2 values, and the task has 1 results"):
        parts_of([a, b], [a, b], 1)


def test_what_comes_after_all_is_asked_for_once() -> None:
    turns, anchor = Turns(), (ANCHOR, 0)
    with pytest.raises(PilotError, match="no task of this program"):
        turns.close(anchor)
    turns.add([anchor], [5, 6])
    turns.add([anchor], [7])
    assert turns.close(anchor) == (5, 6, 7)
    with pytest.raises(PilotError, match="already"):
        turns.close(anchor)
    with pytest.raises(OptionError, match="give the future that it returned"):
        turns.add([anchor], [8])
