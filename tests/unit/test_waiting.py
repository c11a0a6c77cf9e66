"""Tasks that wait for others: what the rules of a pilot and the core make of that, and the futures
that lend the cores of the task that waits."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from support.builders import done, spec, template, work

import pilot
from pilot.agent.rules import actions as a
from pilot.agent.rules.executors import DRAINED_S, STUCK_S
from pilot.agent.rules.rules import Rules
from pilot.client.inner_future import InnerFuture
from pilot.client.lending import set_lender
from pilot.data.pickles import encode
from pilot.head.core import state
from pilot.head.core.core import Core
from pilot.head.core.events import (
    AttemptsEnded,
    AttemptsHeldBack,
    AttemptsWaiting,
    PilotJoined,
    TasksSubmitted,
)
from pilot.model.tasks import DEPTH_MOST, TaskOutcome
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, Resources, needs, node_shape

# --- the rules of a pilot -------------------------------------------------------------------------


class Pilot:
    """The rules of a pilot of one node, with executors that come up at once."""

    def __init__(self, cores: int = 2, memory_mib: int = 0, coreless: int = 0) -> None:
        shape = node_shape(cores, memory_mib, coreless=coreless)
        self.rules = Rules(["n0"], shape)
        self.now = 100.0
        self.rules.add_node("n0", shape, self.now)
        #: Which executor each task was sent to, and which tasks have gone on, with their cores.
        self.executor: dict[int, int] = {}
        self.went_on: dict[int, tuple[int, ...]] = {}
        self.stopped: list[int] = []
        self._known: set[int] = set()

    def add(self, *tasks: int, kind: int = 1, **options: Any) -> None:
        self.rules.add_work(
            [template(kind, **options)], [work(task, 1, kind) for task in tasks], self.now
        )
        self.follow()

    def follow(self) -> None:
        while actions := self.rules.take_actions():
            for action in actions:
                if isinstance(action, a.StartExecutor):
                    self.rules.executor_ready(action.executor, 1, self.now)
                elif isinstance(action, a.RunOnExecutor):
                    self.executor.update((item.task, action.executor) for item in action.work)
                elif isinstance(action, a.GoOnExecutor):
                    self.went_on[action.task] = action.cores
                elif isinstance(action, a.StopExecutor):
                    self.stopped.append(action.executor)

    def wait(self, task: int) -> None:
        self.rules.executor_waits(self.executor[task], task, self.now)
        self.follow()

    def go_on(self, task: int) -> None:
        self.rules.executor_goes_on(self.executor[task], task, self.now)
        self.follow()

    def end(self, task: int) -> None:
        self.rules.executor_done(self.executor[task], [done(task)], self.now)
        self.follow()

    def exit(self, task: int) -> None:
        number = self.executor[task]
        self.rules.executor_exited(number, -9, task, self.now, (), "", self.now)
        self.follow()

    def tick(self, seconds: float) -> None:
        """Let time go by; a look at the beginning and at the end of it."""
        self.rules.tick(self.now)
        self.now += seconds
        self.rules.tick(self.now)
        self.follow()

    @property
    def reported(self) -> dict[int, str]:
        return {c.task: c.outcome for c in self.rules.take_completions()}


def test_task_that_waits_gives_its_cores_to_others_and_has_some_again() -> None:
    pilot = Pilot(cores=1)
    pilot.add(1)
    pilot.wait(1)
    assert pilot.rules.take_waits() == {1: (1, True)} and not pilot.rules.take_waits()
    pilot.add(2, kind=2, depth=1)
    assert 2 in pilot.executor
    pilot.go_on(1)
    assert not pilot.went_on, "the child has the core"
    pilot.end(2)
    assert pilot.went_on == {1: (0,)} and pilot.rules.take_waits() == {1: (1, False)}
    pilot.end(1)
    assert pilot.rules.is_idle and not pilot.rules.nodes["n0"].users


def test_task_that_goes_on_comes_before_what_waits_to_start() -> None:
    pilot = Pilot(cores=1)
    pilot.add(1)
    pilot.wait(1)
    pilot.add(2, kind=2, depth=1)
    pilot.add(3, kind=3, depth=1, priority=9)
    pilot.go_on(1)
    pilot.end(2)
    assert 1 in pilot.went_on and 3 not in pilot.executor
    pilot.end(1)
    assert 3 in pilot.executor


def test_nothing_starts_where_a_task_waits_for_all_its_cores() -> None:
    """Else small tasks, of which there are always some, would keep it from going on for ever."""
    pilot = Pilot(cores=2)
    pilot.add(1, resources=Resources(cores=2))
    pilot.wait(1)
    pilot.add(*range(2, 10), kind=2)
    assert {2, 3} < pilot.executor.keys()
    pilot.go_on(1)
    pilot.end(2)
    assert 1 not in pilot.went_on and not {4, 5} & pilot.executor.keys()
    pilot.end(3)
    assert sorted(pilot.went_on[1]) == [0, 1]


def test_children_come_before_what_their_parents_are_like() -> None:
    pilot = Pilot(cores=1)
    pilot.add(1)
    pilot.add(2, 3, kind=1)
    pilot.add(4, kind=2, depth=1)
    pilot.wait(1)
    assert 4 in pilot.executor
    # The head gives what others of its class may wait for before these.
    assert pilot.reported == {2: "interrupted", 3: "interrupted"}


def test_task_that_waits_is_cancelled_and_crashes_as_any_other() -> None:
    pilot = Pilot(cores=1)
    pilot.add(1)
    pilot.wait(1)
    pilot.rules.cancel([1], pilot.now)
    pilot.follow()
    assert pilot.stopped == [pilot.executor[1]]
    pilot.exit(1)
    assert pilot.reported == {1: "cancelled"}
    pilot.add(2)
    pilot.wait(2)
    pilot.exit(2)
    assert pilot.reported == {2: "crash"}
    assert pilot.rules.is_idle and not pilot.rules.nodes["n0"].users
    pilot.add(3)
    assert 3 in pilot.executor, "its core is free"


def test_node_is_not_kept_for_a_task_that_has_asked_and_is_ended() -> None:
    pilot = Pilot(cores=1)
    pilot.add(1)
    pilot.wait(1)
    pilot.add(2, 3, kind=2)
    pilot.go_on(1)
    pilot.rules.cancel([1], pilot.now)
    pilot.follow()
    assert pilot.went_on == {1: ()}, "it may have something to put in order"
    pilot.end(2)
    assert 3 in pilot.executor


def test_task_that_is_over_its_limit_while_it_waits_is_ended() -> None:
    pilot = Pilot()
    pilot.add(1, time_limit_s=5.0)
    pilot.wait(1)
    pilot.tick(6.0)
    pilot.exit(1)
    assert pilot.reported == {1: "timeout"}


def test_memory_stays_with_a_task_that_waits_unless_nothing_could_go_on() -> None:
    pilot = Pilot(cores=4, memory_mib=2)
    need = needs(memory_mib=1)
    pilot.add(1, 2, 3, resources=need)
    pilot.wait(1)
    pilot.wait(2)
    assert pilot.reported == {3: "interrupted"}, "unstarted: the head gives out others first"
    pilot.add(4, kind=2, depth=1, resources=need)
    assert 4 not in pilot.executor, "there is no memory for it"
    pilot.tick(STUCK_S + 0.1)
    assert pilot.stopped == [pilot.executor[2]], "the last that began to wait"
    pilot.exit(2)
    ends = pilot.rules.take_completions()
    assert {c.task: c.outcome for c in ends} == {2: "interrupted", 4: "interrupted"}
    (why,) = [c.failure.message for c in ends if c.task == 2 and c.failure]
    assert why == "it waited for others, and held what these need"
    pilot.add(4, kind=2, depth=1, resources=need)
    assert 4 in pilot.executor


def test_tasks_that_wait_in_a_pilot_that_drains_go_on_or_are_interrupted_at_last() -> None:
    pilot = Pilot()
    pilot.add(1, 2)
    pilot.wait(1)
    pilot.wait(2)
    pilot.rules.drain("as told", pilot.now)
    pilot.go_on(1)
    assert 1 in pilot.went_on, "it does not start: it goes on"
    pilot.end(1)
    pilot.tick(DRAINED_S + 1.0)
    pilot.exit(2)
    assert pilot.reported == {1: "ok", 2: "interrupted"}


def test_task_without_a_core_starts_on_a_node_that_is_kept() -> None:
    shape = node_shape(1, coreless=2)
    rules = Rules(["n0"], shape)
    rules.add_node("n0", shape, 1.0)
    for kind, need in ((1, Resources()), (2, Resources()), (3, needs(cores=0))):
        rules.add_work([template(kind, resources=need)], [work(kind, 1, kind)], 1.0)
        if kind == 1:
            rules.executor_ready(1, 1, 1.0)
            rules.executor_waits(1, 1, 1.0)
        elif kind == 2:
            rules.executor_goes_on(1, 1, 1.0)
    started = [each for each in rules.take_actions() if isinstance(each, a.StartExecutor)]
    assert [each.cores for each in started] == [(0,), (0,), ()]


def test_task_without_a_core_gives_its_place_to_others_and_goes_on_at_once() -> None:
    pilot = Pilot(cores=1, memory_mib=100, coreless=1)
    needed = needs(cores=0, memory_mib=60)
    pilot.add(1, resources=needed)
    pilot.wait(1)
    pilot.add(2, kind=2, resources=needed)
    assert 2 not in pilot.executor, "the memory stays with it"
    pilot.add(3, kind=3, resources=needs(cores=0))
    assert 3 in pilot.executor
    pilot.go_on(1)
    assert pilot.went_on == {1: ()}
    pilot.add(4, kind=4, resources=needs(cores=0))
    pilot.end(3)
    assert 4 not in pilot.executor, "two had the one place"
    pilot.end(1)
    assert 2 in pilot.executor and 4 not in pilot.executor
    pilot.end(2)
    assert 4 in pilot.executor
    pilot.end(4)
    assert pilot.rules.is_idle and not pilot.rules.nodes["n0"].users


def test_work_behind_a_task_that_waits_is_asked_back() -> None:
    pilot = Pilot(cores=1)
    rules = pilot.rules
    pilot.add(1)
    rules.executor_done(1, [done(1, started=1.0, ended=1.001)], pilot.now)
    pilot.add(*range(2, 9))
    rules.executor_waits(1, 2, pilot.now)
    assert any(isinstance(action, a.UnsendFromExecutor) for action in rules.take_actions())


# --- the core of the head -------------------------------------------------------------------------


class Head:
    """A core with a pilot of some cores, driven in the fewest words."""

    def __init__(self, cores: int = 2) -> None:
        self.core = Core()
        self.now = 1.0
        self.core.apply(PilotJoined("p", "main", NodeShape(cores), 1, 0.0, []), self.now)

    def submit(self, *tasks: int, depth: int = 0, **options: Any) -> None:
        kind = template(1 + depth, depth=depth, **options)
        specs = [spec(task, kind.id) for task in tasks]
        self.core.apply(TasksSubmitted(1, [kind], specs, {}), self.now)

    def assign(self, after_s: float = 0.0) -> list[int]:
        self.now += after_s
        return [task.id for task in self.core.assign(self.now).get("p", ())]

    def waits(self, *tasks: int, go_on: tuple[int, ...] = ()) -> None:
        self.core.apply(
            AttemptsWaiting("p", [(task, 1) for task in tasks], [(task, 1) for task in go_on]),
            self.now,
        )

    @property
    def pilot(self) -> state.Pilot:
        return self.core.pilots["p"]


def test_cores_of_a_task_that_waits_are_for_others() -> None:
    head = Head()
    head.submit(1, 2, 3)
    assert head.assign() == [1, 2] and head.assign() == []
    head.waits(1)
    assert head.core.tasks[1].state == "RUNNING" and head.pilot.load == 1
    (demand,) = head.core.demand()
    assert (demand.count, demand.assigned) == (2, 1), "nor does it count as demand for nodes"
    head.submit(4, depth=1)
    assert head.assign() == [4], "a child comes before others of its parent's class"
    head.waits(go_on=(1,))
    assert head.pilot.load == 3
    head.core.apply(AttemptsEnded("p", [done(1), done(2), done(4)]), head.now)
    assert head.pilot.load == 0 and head.assign() == [3]


def test_what_a_pilot_says_of_attempts_that_it_has_no_more_changes_nothing() -> None:
    head = Head()
    head.submit(1)
    head.assign()
    head.core.apply(AttemptsWaiting("p", [(1, 7), (99, 1)], [(1, 1), (99, 1)]), head.now)
    head.core.apply(AttemptsWaiting("q", [(1, 1)], []), head.now)
    assert head.pilot.load == 1 and not head.pilot.waits


def test_pilot_that_greets_again_says_anew_which_tasks_wait() -> None:
    head = Head()
    head.submit(1)
    head.assign()
    head.waits(1)
    joined = PilotJoined("p", "main", NodeShape(2), 1, 0.0, [(1, 1)])
    head.core.apply(joined, head.now)
    assert head.pilot.load == 1
    head.waits(1)
    assert head.pilot.load == 0


def test_end_in_a_wait_that_is_reported_later_holds_no_cores() -> None:
    head = Head()
    head.submit(1)
    head.assign()
    head.waits(1)
    head.core.apply(AttemptsHeldBack("p", [(1, 1, 1.0)]), head.now)
    assert head.pilot.load == 0 and not head.pilot.waits
    head.core.apply(AttemptsEnded("p", [done(1)]), head.now)
    assert head.pilot.load == 0 and head.core.sessions[1].load == 0 and not head.core.tasks


def test_place_of_a_task_without_a_core_that_waits_is_for_others() -> None:
    head = Head()
    head.core.apply(PilotJoined("p", "main", node_shape(2, coreless=1), 1, 0.0, []), head.now)
    head.pilot.shape = node_shape(2, coreless=1)
    head.submit(1, 2, resources=needs(cores=0))
    assert head.assign() == [1]
    head.waits(1)
    assert head.pilot.coreless == 0 and head.assign() == [2]
    head.waits(go_on=(1,))
    assert head.pilot.coreless == 2
    head.core.apply(AttemptsEnded("p", [done(1), done(2)]), head.now)
    assert head.pilot.coreless == 0


def test_tasks_without_a_core_that_wait_are_bounded_as_others_are() -> None:
    head = Head(cores=1)
    shape = node_shape(1, coreless=1)
    head.core.apply(PilotJoined("p", "main", shape, 1, 0.0, []), head.now)
    head.pilot.shape = shape
    head.submit(*range(1, state.WAITING_PER_CORE + 2), resources=needs(cores=0))
    for task in range(1, state.WAITING_PER_CORE + 1):
        assert head.assign() == [task]
        head.waits(task)
    assert head.assign() == [], "no process for each that waits"
    head.submit(100, depth=1, resources=needs(cores=0))
    assert head.assign() == [100], "what these wait for begins"


def test_no_more_processes_wait_in_a_pilot_than_it_has_cores_for() -> None:
    most = 2 * state.WAITING_PER_CORE
    head = Head()
    head.submit(*range(1, 101))
    begun: list[int] = []
    while given := head.assign():
        begun += given
        head.waits(*given)
    assert len(begun) == most
    head.submit(101, depth=1)
    assert head.assign() == [101], "what they may wait for begins nevertheless"
    head.waits(101)
    assert head.assign() == []
    given = head.assign(after_s=2 * state.STILL_S)
    assert 1 <= len(given) <= 2, "one of these may be what they wait for"
    head.waits(*given)
    assert head.assign() == head.assign(after_s=state.STILL_S) == []
    assert head.assign(after_s=4 * state.STILL_S)


def test_deepest_tasks_are_never_too_many() -> None:
    head = Head(cores=1)
    head.submit(*range(1, 100), depth=DEPTH_MOST)
    for _ in range(1, 100):
        (task,) = head.assign()
        head.waits(task)


# --- futures that lend ----------------------------------------------------------------------------


class Lender:
    """Notes what is lent."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def lend(self) -> bool:
        if self.said and self.said[-1] == "lend":
            return False
        self.said.append("lend")
        return True

    def take_again(self) -> None:
        self.said.append("again")


@pytest.fixture
def lender() -> Iterator[Lender]:
    lender = Lender()
    set_lender(lender)
    yield lender
    set_lender(None)


class Parent:
    """The session of a task; the head answers when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.site = SimpleNamespace(directory=directory)
        self.futures: list[InnerFuture[Any]] = []
        self.asked = 0

    def future(self, task: int) -> InnerFuture[Any]:
        future: InnerFuture[Any] = InnerFuture(cast("Any", self), task)
        self.futures.append(future)
        return future

    def _attend(self) -> None:
        self.asked += 1
        for future in self.futures:
            future.is_attended = True

    def ends_soon(self, future: InnerFuture[Any], result: object) -> None:
        payload = encode(result)
        outcome = TaskOutcome(future.task, "COMPLETED", (Value(len(payload), payload),))
        threading.Timer(0.05, future.settle, [outcome]).start()


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    return Parent(tmp_path)


def test_wait_for_a_result_lends_the_cores(lender: Lender, parent: Parent) -> None:
    future = parent.future(1 << 32 | 1)
    asked = [parent.asked]
    parent.ends_soon(future, 7)
    assert future.result(30.0) == 7 and lender.said == ["lend", "again"]
    asked.append(parent.asked)
    assert future.result() == 7 and lender.said == ["lend", "again"]
    assert [*asked, parent.asked] == [0, 1, 1], "only once somebody wants to know"


def test_time_out_has_the_cores_again(lender: Lender, parent: Parent) -> None:
    with pytest.raises(concurrent.futures.TimeoutError):
        parent.future(1 << 32 | 1).result(0.01)
    assert lender.said == ["lend", "again"]


@pytest.mark.parametrize("way", ["wait", "as_completed", "gather"])
def test_ways_to_wait_for_several_lend(lender: Lender, parent: Parent, way: str) -> None:
    futures = [parent.future(1 << 32 | number) for number in (1, 2)]
    for future in futures:
        parent.ends_soon(future, future.task)
    if way == "wait":
        assert not concurrent.futures.wait(futures, 30.0).not_done
    elif way == "as_completed":
        assert set(concurrent.futures.as_completed(futures, 30.0)) == set(futures)
    else:
        assert pilot.gather(futures, timeout=30.0) == [future.task for future in futures]
    assert lender.said[:2] == ["lend", "again"] and lender.said[-1] == "again"


def test_other_threads_lend_nothing(lender: Lender, parent: Parent) -> None:
    future = parent.future(1 << 32 | 1)
    parent.ends_soon(future, 7)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        assert threads.submit(future.result, 30.0).result() == 7
    assert not lender.said


def test_value_is_read_with_cores(lender: Lender, parent: Parent) -> None:
    future = parent.future(1 << 32 | 1)
    parent.ends_soon(future, Telling(lender.said))
    assert future.result(30.0) == ["lend", "again"]


class Telling:
    """Is read as what a list has when it is read."""

    there: ClassVar[list[str]] = []

    def __init__(self, said: list[str]) -> None:
        Telling.there = said

    def __reduce__(self) -> tuple[Any, ...]:
        return (_what_is_there, ())


def _what_is_there() -> list[str]:
    return list(Telling.there)
