"""Tasks that are told to stop: the words, the time, and the fate of those that do."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import msgspec
import pytest
from support.builders import done, template, work

import pilot
from pilot.agent.rules import actions as a
from pilot.agent.rules.executors import GRACE_S
from pilot.agent.rules.rules import Rules
from pilot.agent.service import END_S, LEAVE_S, STOPPED_S, Identity, Notice, Service
from pilot.client.command import ShellCommand, signal_number
from pilot.client.stopping import Callbacks, Stopping
from pilot.client.task import OptionError
from pilot.model.states import Outcome
from pilot.model.tasks import Completion, TaskFailure
from pilot.scheduler.assignment import DRAIN_S
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages import pilot as m
from pilot.worker.shared_memory import (
    PLACE_BYTES,
    SLOT,
    listening_task,
    stopping_of,
    tell_to_end,
    tell_to_stop,
)

# --- the words


def told(stopping: Stopping) -> tuple[int, ...]:
    return tuple(stopping.words[index] for index in range(4))


def test_a_notice_is_in_the_place_of_its_process_and_nowhere_else() -> None:
    memory = mmap.mmap(-1, 3 * PLACE_BYTES)
    places = [stopping_of(memory, PLACE_BYTES * number) for number in range(3)]
    tell_to_stop(memory, PLACE_BYTES, 7 << 32, 2, 1234.5, "its walltime ends — soon")
    assert [told(place) for place in places] == [(0, 0, 0, 0), (0, 7 << 32, 2, 0), (0, 0, 0, 0)]
    assert places[1].notice() == (1234.5, "its walltime ends — soon")
    tell_to_stop(memory, PLACE_BYTES, 8, 1, 2.0, "x" * 1000)
    assert places[1].notice() == (2.0, "x" * 120)
    tell_to_end(memory, 2 * PLACE_BYTES)
    assert told(places[2]) == (0, 0, 0, 1)


def test_a_process_listens_only_while_it_is_in_the_task_that_does() -> None:
    memory = mmap.mmap(-1, PLACE_BYTES)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert listening_task(memory) == 0
        SLOT.pack_into(memory, 0, 5, 1, 0.0, 0, 0)
        assert listening_task(memory) == 0
        assert stopping_of(memory).listen(5)
        assert listening_task(memory) == 5
        SLOT.pack_into(memory, 0, 6, 1, 0.0, 0, 0)
        assert listening_task(memory) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


LISTENS = """\
import mmap, os, signal, sys, time
from pilot.worker.shared_memory import PLACE_BYTES, stopping_of, tell_to_end
memory = mmap.mmap(-1, PLACE_BYTES)
stopping_of(memory).listen(1)
if sys.argv[1] == "copy":
    if child := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + 100)
if sys.argv[1] == "meant":
    tell_to_end(memory, 0)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.01)
print("lives")
"""


@pytest.mark.parametrize(
    ("case", "status", "output"),
    [("job", 0, "lives\n"), ("meant", -signal.SIGTERM, ""), ("copy", 100 - signal.SIGTERM, "")],
)
def test_sigterm_ends_what_listens_only_if_it_is_meant(case: str, status: int, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTENS, case], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, output), done.stderr


def test_callbacks_are_called_in_their_order_and_errors_of_one_harm_no_other(
    capfd: pytest.CaptureFixture[str],
) -> None:
    is_told, called, all_called = threading.Event(), [], threading.Event()
    callbacks = Callbacks(is_told.is_set)
    callbacks.add(lambda: called.append(1))
    callbacks.add(lambda: 1 // 0)
    callbacks.add(lambda: called.append(2))
    callbacks.add(all_called.set)
    assert not called
    is_told.set()
    assert all_called.wait(10.0)
    late = threading.Event()
    callbacks.add(late.set)
    assert late.wait(10.0)
    callbacks.close()
    assert called == [1, 2]
    assert "ZeroDivisionError" in capfd.readouterr().err


# --- commands


def test_signals_are_given_by_name_or_number() -> None:
    given = ["SIGTERM", "term", " usr1 ", 15, signal.SIGUSR2, None]
    assert [signal_number(one) for one in given] == [15, 15, 10, 15, 12, 0]


@pytest.mark.parametrize("given", ["KILL", "STOP", "nonsense", 9, 0, 1000, True, 1.5, b"TERM"])
def test_signals_that_no_program_can_handle_are_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="stop_signal"):
        pilot.shell("true", stop_signal=given)


# --- the rules


class Pilot:
    """The rules of a pilot of one node."""

    def __init__(self, cores: int = 4) -> None:
        self.rules = Rules(["n0"], NodeShape(cores), 100.0)
        self.rules.add_node("n0", NodeShape(cores), 100.0)

    def run(self, *tasks: int, **options: Any) -> None:
        """Have these tasks run, each on an executor of its own, with its number."""
        known = template(**options)
        self.rules.add_work([known], [work(task, 1, known.id) for task in tasks], 100.0)
        for action in self.rules.take_actions():
            if isinstance(action, a.StartExecutor):
                self.rules.executor_ready(action.executor, 1, 100.0)
        self.rules.take_actions()

    def run_world(self, task: int) -> None:
        known = template(kind="mpi", resources=Resources(ranks=2))
        self.rules.add_work([known], [work(task, 1, known.id)], 100.0)
        for rank in range(2):
            self.rules.rank_ready(1, rank, 100.0)
        self.rules.take_actions()

    def told(self) -> list[tuple[type, int]]:
        return [
            (type(action), action.task)
            for action in self.rules.take_actions()
            if isinstance(action, (a.TellExecutor, a.TellWorld))
        ]

    @property
    def reported(self) -> list[tuple[int, str, str]]:
        return [
            (c.task, c.outcome, c.failure.type if c.failure else "")
            for c in self.rules.take_completions()
        ]


def ends(task: int, outcome: Outcome, kind: str = "Stopped") -> Completion:
    failure = TaskFailure(kind, "as it said", exception=b"e", bases=(kind, "BaseException"))
    return msgspec.structs.replace(done(task), outcome=outcome, values=(), failure=failure)


def test_a_task_is_told_once_and_not_if_it_ends_in_time() -> None:
    pilot = Pilot()
    pilot.run(1)
    pilot.run(2, number=2, time_limit_s=50.0)
    pilot.run(3, number=3, time_limit_s=500.0)
    pilot.rules.tell_to_stop("soon", 160.0)
    assert pilot.told() == [(a.TellExecutor, 1), (a.TellExecutor, 3)]
    pilot.rules.tell_to_stop("soon", 160.0)
    assert not pilot.told()
    pilot.run(4)
    pilot.rules.tell_to_stop("soon", 160.0)
    assert pilot.told() == [(a.TellExecutor, 4)]


def test_a_task_that_was_told_and_stops_is_interrupted_whatever_retries_it_has() -> None:
    pilot = Pilot()
    pilot.run(1, 2)
    pilot.rules.tell_to_stop("soon", 160.0)
    pilot.rules.executor_done(1, [ends(1, "interrupted")], 110.0)
    (completion,) = pilot.rules.take_completions()
    assert (completion.outcome, completion.is_unstarted) == ("interrupted", False)
    assert completion.failure == TaskFailure("Stopped", "as it said")


def test_a_task_that_stops_untold_has_failed() -> None:
    pilot = Pilot()
    pilot.run(1)
    pilot.rules.executor_done(1, [ends(1, "interrupted")], 110.0)
    (completion,) = pilot.rules.take_completions()
    assert completion.outcome == "error" and completion.failure is not None
    assert "was not told to stop" in completion.failure.message


def test_a_task_that_its_process_gives_back_is_interrupted() -> None:
    pilot = Pilot()
    pilot.run(1)
    pilot.rules.executor_done(1, [done(1, "interrupted")], 110.0)
    (completion,) = pilot.rules.take_completions()
    assert (completion.outcome, completion.is_unstarted) == ("interrupted", False)


def test_who_listens_goes_on_when_the_job_is_ended_and_the_others_are_ended() -> None:
    pilot = Pilot()
    pilot.run(1)
    pilot.run(2, number=2)
    pilot.rules.note_listening("n0", [2])
    assert pilot.rules.interrupt("preempted", 110.0, 100.0)
    actions = pilot.rules.take_actions()
    stops = [action for action in actions if isinstance(action, a.StopExecutor)]
    assert stops == [a.StopExecutor(1, "n0", GRACE_S)]
    told = [action for action in actions if isinstance(action, a.TellExecutor)]
    assert [(one.task, one.until, one.reason) for one in told] == [
        (1, 110.0, "preempted"),
        (2, 110.0, "preempted"),
    ]
    pilot.rules.executor_exited(1, -15, 1, 100.0, (), "", 101.0)
    pilot.rules.executor_done(2, [ends(2, "interrupted")], 102.0)
    assert pilot.reported == [(1, "interrupted", "interrupted"), (2, "interrupted", "Stopped")]
    assert pilot.rules.is_idle


def test_a_task_counts_as_listening_once_one_of_its_function_has_looked() -> None:
    """It may have begun a moment ago, and look soon."""
    pilot = Pilot()
    pilot.run(1)
    pilot.rules.note_listening("n0", [1])
    pilot.rules.executor_done(1, [done(1)], 100.0)
    pilot.rules.note_listening("n0", [])
    pilot.run(2)
    assert pilot.rules.interrupt("preempted", 110.0, 100.0)
    assert pilot.told() == [(a.TellExecutor, 2)]


def test_a_function_is_forgotten_with_its_session() -> None:
    pilot = Pilot()
    pilot.run(1)
    pilot.rules.note_listening("n0", [1])
    assert pilot.rules._listeners
    pilot.rules.executor_done(1, [done(1)], 100.0)
    pilot.rules.end_session(1)
    pilot.rules.executor_exited(1, 0, 0, 0.0, (), "", 100.0)
    pilot.rules.tick(200.0)
    assert not pilot.rules._listeners


def test_nothing_that_dies_or_raises_after_sigterm_is_its_own_fault() -> None:
    pilot = Pilot()
    pilot.run(1, 2, 3)
    pilot.rules.note_listening("n0", [1, 2, 3])
    assert pilot.rules.interrupt("preempted", 110.0, 100.0)
    pilot.rules.executor_exited(1, -15, 1, 100.0, (), "", 101.0)
    pilot.rules.executor_done(2, [ends(2, "error", "OSError")], 101.0)
    pilot.rules.executor_done(3, [done(3)], 101.0)
    assert [(task, outcome) for task, outcome, _ in pilot.reported] == [
        (1, "interrupted"),
        (2, "interrupted"),
        (3, "ok"),
    ]


def test_nobody_waits_where_nobody_listens() -> None:
    pilot = Pilot()
    pilot.run(1, 2)
    pilot.rules.note_listening("n0", [77])
    assert not pilot.rules.interrupt("preempted", 110.0, 100.0)
    stops = [each for each in pilot.rules.take_actions() if isinstance(each, a.StopExecutor)]
    assert len(stops) == 2


def test_what_was_sent_ahead_of_a_task_that_listens_goes_back_to_the_head() -> None:
    pilot = Pilot(1)
    pilot.run(*range(1, 9))
    pilot.rules.executor_done(1, [done(1, started=100.0, ended=100.001)], 100.0)
    pilot.rules.take_actions()
    sent = len(pilot.rules.executors[1].pipeline)
    assert sent > 1
    first = pilot.rules.executors[1].pipeline[0].task
    pilot.rules.note_listening("n0", [first])
    assert pilot.rules.interrupt("preempted", 110.0, 100.0)
    (asked,) = [x for x in pilot.rules.take_actions() if isinstance(x, a.UnsendFromExecutor)]
    pilot.rules.unsent(1, 2, asked.upto, 100.1)
    assert set(pilot.rules.held) == {first}


def test_ranks_are_told_on_all_nodes_and_stop_as_one() -> None:
    pilot = Pilot()
    pilot.run_world(1)
    pilot.rules.note_listening("n0", [1])
    assert pilot.rules.interrupt("preempted", 110.0, 100.0)
    assert pilot.told() == [(a.TellWorld, 1)]
    for rank in range(2):
        pilot.rules.rank_done(1, rank, ends(1, "interrupted"), 101.0)
    assert pilot.reported == [(1, "interrupted", "Stopped")]


def test_an_error_of_one_rank_is_the_tasks_though_others_stop() -> None:
    pilot = Pilot()
    pilot.run_world(1)
    pilot.rules.tell_to_stop("soon", 160.0)
    pilot.rules.rank_done(1, 0, ends(1, "interrupted"), 101.0)
    pilot.rules.rank_done(1, 1, ends(1, "error", "ValueError"), 101.0)
    assert pilot.reported == [(1, "error", "ValueError")]


def test_a_world_that_dies_after_sigterm_is_no_crash() -> None:
    pilot = Pilot()
    pilot.run_world(1)
    pilot.rules.note_listening("n0", [1])
    assert pilot.rules.interrupt("preempted", 110.0, 100.0)
    pilot.rules.rank_exited(1, 1, 100.0)
    pilot.rules.world_exited(1, 143, "", 101.0)
    assert pilot.reported == [(1, "interrupted", "interrupted")]


# --- the time

NOTICE = Notice(60.0, 15.0)


class Served(Pilot):
    """A pilot with its service, whose walltime ends after `walltime_s`."""

    def __init__(self, walltime_s: float = 0.0, notice: Notice = NOTICE) -> None:
        super().__init__()
        self.now = 100.0
        self.ends_at = self.now + walltime_s if walltime_s else 0.0
        self.service = Service(
            Identity("p", "1", 0, "main"),
            self.rules,
            lambda _: None,
            list,
            lambda _: [],
            lambda _: None,
            lambda _: None,
            lambda _: None,
            self.ends_at,
            60.0,
            notice,
            lambda: self.now,
        )

    def told_at(self, until: float) -> list[float]:
        """Let time go by; return when tasks are told."""
        times = []
        while self.now < until:
            self.now += 0.5
            self.service.tick(self.now)
            if self.told():
                times.append(self.now)
        return times


def test_tasks_are_told_before_the_end_of_the_walltime() -> None:
    pilot = Served(1000.0, Notice(60.0))
    pilot.run(1)
    assert pilot.told_at(pilot.ends_at - END_S) == [pilot.ends_at - END_S - 60.0 + 0.5]


def test_of_a_short_walltime_the_notice_is_a_quarter() -> None:
    pilot = Served(120.0, Notice(60.0))
    pilot.run(1)
    assert pilot.told_at(pilot.ends_at - END_S) == [pilot.ends_at - END_S - 30.0 + 0.5]


def test_what_begins_later_is_told_when_the_pilot_drains() -> None:
    pilot = Served(1000.0, Notice(60.0))
    pilot.run(1)
    pilot.told_at(pilot.ends_at - END_S - 40.0)
    pilot.run(2)
    assert pilot.told_at(pilot.ends_at - END_S) == [pilot.ends_at - DRAIN_S + 0.5]


def test_a_pilot_whose_tasks_have_stopped_ends_before_its_time() -> None:
    pilot = Served(1000.0, Notice(60.0))
    pilot.run(1)
    pilot.told_at(pilot.ends_at - END_S - 59.0)
    pilot.rules.executor_done(1, [ends(1, "interrupted")], pilot.now)
    stopped_at = pilot.now
    while not pilot.service.ending:
        pilot.now += 0.5
        pilot.service.tick(pilot.now)
    assert pilot.now - stopped_at <= STOPPED_S + 1.0


def test_a_walltime_that_is_moved_moves_the_notice() -> None:
    pilot = Served(1000.0, Notice(60.0))
    pilot.run(1)
    pilot.service.ends_in(200.0, pilot.now)
    assert pilot.told_at(300.0 - END_S) == [300.0 - END_S - 50.0 + 0.5]


def test_a_job_that_is_ended_waits_for_who_listens_and_no_longer_than_its_grace() -> None:
    pilot = Served(notice=Notice(signal_s=7.0))
    pilot.run(1)
    pilot.rules.note_listening("n0", [1])
    pilot.service.interrupt("preempted", pilot.now)
    pilot.service.interrupt("preempted", pilot.now + 1.0)
    assert not [x for x in pilot.rules.take_actions() if isinstance(x, a.StopExecutor)]
    stops: list[a.StopExecutor] = []
    while not stops:
        pilot.now += 0.5
        pilot.service.tick(pilot.now)
        stops = [x for x in pilot.rules.take_actions() if isinstance(x, a.StopExecutor)]
    assert pilot.now == 107.5
    assert not pilot.service.is_over(100.0 + LEAVE_S + 1.0), "it is heard what the task has saved"
    pilot.rules.executor_exited(1, -15, 1, 100.0, (), "", pilot.now)
    assert pilot.reported == [(1, "interrupted", "interrupted")]


def test_a_pilot_that_is_drained_with_a_deadline_tells_its_tasks_and_ends_them_then() -> None:
    pilot = Served()
    pilot.run(1)
    pilot.service.take(m.EndPilot("maintenance", within_s=30.0), pilot.now)
    (told,) = [x for x in pilot.rules.take_actions() if isinstance(x, a.TellExecutor)]
    assert (told.until, told.reason) == (130.0, "its pilot is drained: maintenance")
    pilot.now = 130.5
    pilot.service.tick(pilot.now)
    assert [x for x in pilot.rules.take_actions() if isinstance(x, a.StopExecutor)]
    assert pilot.service.ending == "maintenance"


def test_stopping_is_no_exception() -> None:
    assert not issubclass(pilot.Stopped, Exception)
    command = pilot.shell("true", stop_signal="TERM").function
    assert isinstance(command, ShellCommand)
    assert os.EX_TEMPFAIL in command.unfinished
