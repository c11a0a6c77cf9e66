"""What must hold: in everything that a head says and asks for, in what runs, and at the end."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from pilot.head.core import events as ev
from pilot.head.core.lifecycle import default_values
from pilot.head.core.state import Task
from pilot.head.service import Service
from pilot.head.store.store import Batch, Store, decode_result
from pilot.model.ids import Ref, session_of
from pilot.model.states import ABORTED, CANCELLED, COMPLETED, FAILED, FINAL, TIMED_OUT
from pilot.model.tasks import Completion, TaskOutcome, Template
from pilot.model.values import Value
from pilot.scheduler.amounts import UNIT
from pilot.wire import messages as m
from simulated.invariants import Replay, check_core
from simulated.tasks import SITE

if TYPE_CHECKING:
    from simulated.agent import Agent
    from simulated.client import Client
    from simulated.cluster import Cluster
    from simulated.head import Head

_P = ParamSpec("_P")
_R = TypeVar("_R")
_changes: Callable[[bytes], list[ev.Change]] = msgspec.msgpack.Decoder(list[ev.Change]).decode
_owed: Callable[[bytes], Any] = msgspec.msgpack.Decoder(
    tuple[tuple[Value, ...], dict[int, Ref]]
).decode


class Broken(BaseException):
    """Something does not hold; no step of a head goes on after that."""


def _strict(function: Callable[_P, _R]) -> Callable[_P, _R]:
    @functools.wraps(function)
    def checked(*arguments: _P.args, **named: _P.kwargs) -> _R:
        try:
            return function(*arguments, **named)
        except AssertionError as error:
            raise Broken(str(error) or repr(error)) from error

    return checked


class NothingUnexpected(logging.Handler):
    """Takes every error that the program logs for broken, unless the disk was full."""

    def emit(self, record: logging.LogRecord) -> None:
        """Judge what is logged."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, sqlite3.Error):
            raise Broken(f"{record.getMessage()}") from error


class Row(msgspec.Struct):
    """A task as the database has it."""

    state: str
    values: tuple[Value, ...]
    errors: int
    crashes: int
    owed: dict[int, Ref] | None


class Oracle:
    """Knows what was promised, said and seen."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.replay = Replay()
        self._next_event = 1
        #: What is committed: tasks with their final states (empty: none yet), sessions.
        self.durable: dict[int, str] = {}
        #: How often each task was run.
        self.runs_of: Counter[int] = Counter()
        #: What clients were told.
        self.told: dict[int, str] = {}
        #: What pilots have said of each task: pilot, attempt, outcome.
        self.reports: dict[int, set[tuple[str, int, str]]] = defaultdict(set)
        #: Tasks in a pilot that was taken for lost while it lived: nobody can tell it to stop.
        self.cut_off: set[int] = set()
        #: What has happened, for who asks whether the simulation reaches it.
        self.seen: Counter[str] = Counter()

    # --- a head

    @_strict
    def head_starts(self, store: Store) -> None:
        """Go on with what is committed."""
        self.seen["heads"] += 1
        rows = store.events(1, None, 1_000_000)
        following = 1
        for first, changes in rows:
            assert first == following, f"event {following} is missing"
            following += sum(change.count for change in changes)
        self._next_event = following
        self.replay = Replay(change for _, changes in rows for change in changes)

    def head_dies(self, head: Head) -> None:
        """Note a death."""
        self.seen["killed"] += 1

    def watch(self, service: Service) -> None:
        """See what goes into the core of a head, and what comes out."""
        core = service._core
        apply, assign, ask_back = core.apply, core.assign, core.ask_back
        self._service, self._ended = service, set[int]()

        @_strict
        def checked_apply(event: ev.Event, now: float) -> ev.Effects:
            self._comes(event)
            effects = apply(event, now)
            check_core(core)
            for end in effects.ended:
                assert end.task not in self._ended, f"{end.task:#x} has ended twice"
                assert not self.durable.get(end.task), f"{end.task:#x} ends again"
                self._ended.add(end.task)
            return effects

        @_strict
        def checked_assign(now: float) -> dict[str, list[Task]]:
            given = assign(now)
            check_core(core)
            for name, tasks in given.items():
                for task in tasks:
                    self._is_assigned(name, task)
            return given

        def counted(now: float) -> dict[str, list[int]]:
            asked = ask_back(now)
            self.seen["asked back"] += len(asked)
            return asked

        core.apply, core.assign, core.ask_back = (
            checked_apply,
            checked_assign,
            counted,
        )

    def _comes(self, event: ev.Event) -> None:
        if isinstance(event, ev.AttemptsEnded):
            for done in event.completions:
                children = done.children
                if children is not None and children.tasks and session_of(children.tasks[0].id):
                    self.cluster.tasks.named(done.task, children)
        elif isinstance(event, ev.TasksSubmitted) and event.parent:
            self.seen["detached"] += len(event.tasks)
            self.cluster.tasks.born(event.parent, event.tasks)
        elif isinstance(event, ev.PilotLost):
            self.seen[f"lost: {event.reason.split(' for ')[0]}"] += 1
            agent = self.cluster.agents.get(event.name)
            if agent is not None:
                self.cut_off.update(agent.rules.held)

    def _is_assigned(self, name: str, task: Task) -> None:
        core = self._service._core
        assert task.id not in self._ended and not self.durable.get(task.id), "it has ended"
        for agent in self.cluster.agents.values():
            if agent.name not in core.pilots and agent.has(task.id):
                self.cut_off.add(task.id)  # it did not find this head in time
        for source, _ in task.inputs:
            if source in core.tasks:
                self.seen["sent early"] += 1
                holder = core.tasks[source].pilot
                assert holder is not None and holder.name == name, "sent early, elsewhere"
                continue
            state = self._service._shell.outcomes.states({source}).get(source)
            assert state == COMPLETED, f"task {task.id:#x} was assigned, its input is {state}"

    @_strict
    def writes(self, batch: Batch) -> Callable[[], None]:
        """Take in what is about to be committed; returns what to call when it is."""
        core = self._service._core
        for first, count, _, changes in batch.events:
            if first < self._next_event:
                continue  # it is written again
            assert first == self._next_event, f"event {self._next_event} is missing"
            self._next_event += count
            self.replay.take(_changes(changes))
        self.replay.check(core)
        tasks: list[Any] = [row[0] for row in batch.tasks]
        ends: list[tuple[Any, Any]] = [(row[-1], row[0]) for row in batch.ends]

        def written() -> None:
            for task in tasks:
                self.durable.setdefault(task, "")
            for task, state in ends:
                self.durable[task] = state

        return written

    @_strict
    def head_says(self, peer: bytes, message: Any) -> None:
        """Nothing is said before it is committed."""
        self.seen[type(message).__name__] += 1
        if isinstance(message, m.Outcomes):
            for outcome in message.outcomes:
                if outcome.state == "LOST":
                    assert outcome.task not in self.durable
                    continue
                state = self.durable.get(outcome.task)
                assert state == outcome.state, f"told {outcome.state}, in the database: {state}"
        elif isinstance(message, m.Reply):
            assert "failed in the head" not in message.error, message.error

    # --- clients and pilots

    @_strict
    def announced(self, client: Client, outcome: TaskOutcome) -> None:
        """A client was told of an end."""
        if outcome.state == "LOST":
            return
        before = self.told.setdefault(outcome.task, outcome.state)
        assert before == outcome.state, f"{outcome.task:#x} was {before}, now {outcome.state}"

    @_strict
    def accepted(self, tasks: Iterable[int]) -> None:
        """A client was told that these are accepted."""
        for task in tasks:
            assert task in self.durable, f"{task:#x} is accepted and not in the database"

    def reported(self, agent: Agent, completions: list[Completion]) -> None:
        """A pilot tells of ends."""
        for done in completions:
            self.reports[done.task].add((agent.name, done.attempt, done.outcome))

    @_strict
    def runs(self, agent: Agent, work: m.AttemptSpec) -> None:
        """An attempt begins."""
        self.runs_of[work.task] += 1
        assert all(item.value is not None for item in work.inputs), "it runs without an input"
        state = self.told.get(work.task)
        assert state not in (COMPLETED, FAILED, TIMED_OUT) or work.task in self.cut_off, (
            f"{work.task:#x} runs after it was announced as {state}"
        )
        self._check_site()

    def _check_site(self) -> None:
        """What runs now, wherever, uses no more of the site than there is."""
        used: Counter[str] = Counter()
        for agent in self.cluster.agents.values():
            for process in [*agent.executors.values(), *agent.worlds.values()]:
                if process.is_alive and process.current is not None:
                    template = self.cluster.tasks.templates[process.current.template]
                    used.update(dict(template.resources.site))
        for name, amount in SITE.items():
            assert used[name] <= amount * UNIT, f"{used[name]} parts of {name} are in use at once"
            self.seen[f"all {name} in use"] += used[name] == amount * UNIT

    # --- the end

    def sessions(self) -> dict[int, str]:
        """Return the states of all sessions."""
        return dict(self.cluster.disk.read("SELECT id, state FROM sessions"))

    def rows(self) -> dict[int, Row]:
        """Return all tasks."""
        read = "SELECT id, state, result, errors, crashes, delegated FROM tasks"
        return {
            task: Row(
                state, decode_result(result)[0], errors, crashes, _owed(owed)[1] if owed else None
            )
            for task, state, result, errors, crashes, owed in self.cluster.disk.read(read)
        }

    @_strict
    def check_end(self) -> None:
        """See that all has ended as it should."""
        cluster, tasks = self.cluster, self.cluster.tasks
        core = self._service._core
        check_core(core)
        assert set(self.sessions().values()) == {"CLOSED"}
        assert not core.tasks and not core.sessions and not core.templates and not core.classes
        rows = self.rows()
        events = self.cluster.disk.read("SELECT changes FROM events ORDER BY first")
        replay = Replay(change for (changes,) in events for change in _changes(changes))
        assert replay.tasks == {task: row.state for task, row in rows.items()}
        assert not core.site.holders and not any(core.site.used.values())
        for pilot in core.pilots.values():
            assert not pilot.held and pilot.load == 0, (pilot.name, pilot.held)
        for agent in cluster.agents.values():
            assert not agent.rules.held and not agent.service.reports
            # Nor is anything kept of sessions that have ended.
            assert not agent.rules.templates and not agent.rules._queues._sessions
            assert not agent.service.sessions and not agent.service.functions
            assert not agent.rules.executors and not agent.rules.worlds
        self._check_shell()
        for task, (template, _) in tasks.specs.items():
            row = rows.get(task)
            if task in tasks.by_client:
                client = tasks.by_client[task]
                if task in client.refused:
                    assert row is None, f"{task:#x} was refused, and is {row}"
                    continue
                if not client.is_alive and row is None:
                    continue  # it had not arrived
                assert row is not None, f"{task:#x} is lost"
                assert not client.is_alive or self.told.get(task) == row.state, (
                    f"{task:#x} is {row.state}, told: {self.told.get(task)}"
                )
            elif row is None:
                continue  # submitted by an attempt that did not count
            else:
                self._check_family(task, rows)
            self._check_task(task, template, row, rows)

    def _check_shell(self) -> None:
        """Nothing is kept of what has ended."""
        shell = self._service._shell
        assert not shell.assignments._sessions and not shell.assignments._payloads
        assert shell.assignments._payload_bytes == 0
        assert not shell.running, shell.running
        # A client that connects anew may tell of numbers in sessions that have ended.
        for members in shell.peers.members.values():
            assert members <= shell.peers.clients, members
        assert not shell.numbers._blocks and not shell.memo_lookup._bases
        assert not shell.commits.trouble, shell.commits.trouble
        for peer in shell.peers.pilots.values():
            assert not peer.sent

    def _check_family(self, task: int, rows: dict[int, Row]) -> None:
        parents, specs = self.cluster.tasks.parents, self.cluster.tasks.specs
        if specs[task][1].ordinal:
            return  # the database has an index that keeps it from being there twice
        parent = rows[parents[task]]
        assert parent.state in FINAL, "a child without its parent's end"
        born = [
            one
            for one, its in parents.items()
            if its == parents[task] and one in rows and not specs[one][1].ordinal
        ]
        assert len(born) <= 3, f"children of several attempts: {born}"

    def _check_task(self, task: int, template: Template, row: Row, rows: dict[int, Row]) -> None:
        assert row.state in FINAL, f"{task:#x} is {row.state}"
        if row.state == COMPLETED:
            self._check_values(task, template, row, rows)
        if row.owed:
            result_receivers = {child for child, _ in row.owed.values()}
            passed = {
                COMPLETED if self._is_ignored(heir, rows[heir]) else rows[heir].state
                for heir in result_receivers
            }
            expected = passed - {COMPLETED} or passed
            assert row.state in expected or row.state == CANCELLED, (row.state, passed)
            return
        if self.cluster.tasks.specs[task][1].values:
            assert row.state in (COMPLETED, CANCELLED, ABORTED)
            return
        outcomes = Counter(outcome for _, _, outcome in self.reports[task])
        # What is counted has happened, and a task is given up at its limits, not before.
        assert row.errors <= min(outcomes["error"], template.retries + 1), (task, outcomes)
        assert row.crashes <= min(outcomes["crash"], template.max_crashes + 1), (task, outcomes)
        if row.state == COMPLETED:
            assert (outcomes["ok"] and self.runs_of[task]) or template.cache
        elif row.state == FAILED:
            assert row.errors > template.retries or row.crashes > template.max_crashes
        elif row.state == TIMED_OUT:
            assert outcomes["timeout"]
        elif row.state == ABORTED:
            inputs = self.cluster.tasks.specs[task][1].inputs
            assert {rows[source].state for source, _ in inputs} - {COMPLETED}
        else:
            assert self._may_be_cancelled(task, rows), f"{task:#x}"

    def _check_values(self, task: int, template: Template, row: Row, rows: dict[int, Row]) -> None:
        """Each value is from who owns it, or from one that was the same."""
        assert len(row.values) == template.returns
        for index, value in enumerate(row.values):
            if row.owed and index in row.owed:
                child, there = row.owed[index]
                expected = rows[child].values
                if rows[child].state != COMPLETED:
                    expected = default_values(self.cluster.tasks.specs[child][0])
                assert value == expected[there], f"{task:#x} has {value}, its child {expected}"
                continue
            origin = int(value.payload.partition(b".")[0], 16)
            # What was found again may have been made by a child of who was the same.
            assert origin == task or template.cache, f"{task:#x} has a value of {origin:#x}"

    def _is_ignored(self, heir: int, row: Row) -> bool:
        """Whether a child that failed gave its parent a default."""
        template, _ = self.cluster.tasks.specs[heir]
        return template.on_failure == "ignore" and row.state != CANCELLED

    def _may_be_cancelled(self, task: int, rows: dict[int, Row]) -> bool:
        """Whether it was cancelled itself, or anything that it hangs on was."""
        tasks = self.cluster.tasks
        #: Sessions and groups of which one failed, and took all others with it.
        ended = set()
        for number, row in rows.items():
            its, _ = tasks.specs[number]
            if row.state in (FAILED, TIMED_OUT):
                if its.on_failure == "stop_session":
                    ended.add((its.session, ""))
                elif its.group_fails_together:
                    ended.add((its.session, its.group))
        seen, todo = set(), [task]
        while todo:
            number = todo.pop()
            if number in seen:
                continue
            seen.add(number)
            if number in tasks.cancelled:
                return True
            template, spec = tasks.specs[number]
            if (template.session, "") in ended or (template.session, template.group) in ended:
                return True
            if number != task and template.on_failure == "cancel_successors":
                return True
            todo.extend(source for source, _ in spec.inputs)
            if number in tasks.parents:
                todo.append(tasks.parents[number])
            there = rows.get(number)
            if there is not None and there.owed:
                todo.extend(child for child, _ in there.owed.values())
        return False
