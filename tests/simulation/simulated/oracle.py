"""The oracle: what must hold in everything that a head says, in what runs, and at the end."""

from __future__ import annotations

import functools
import logging
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from pilot.agent.service import Service as PilotService
from pilot.head import pilots
from pilot.head.core import events as ev
from pilot.head.core.state import Task
from pilot.head.service import Service
from pilot.head.store.batch import Batch
from pilot.head.store.rows import decode_result
from pilot.head.store.store import Store
from pilot.model.ids import Ref, session_of
from pilot.model.objects import decode_naming
from pilot.model.states import (
    ABORTED,
    ASSIGNED,
    CANCELLED,
    CLOSED_STATES,
    COMPLETED,
    DELEGATED,
    FAILED,
    FINAL,
    PENDING,
    READY,
    RUNNING,
    TIMED_OUT,
)
from pilot.model.tasks import Completion, TaskFailure, TaskOutcome, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler import pacing
from pilot.scheduler.amounts import UNIT
from pilot.wire.messages import client as m
from pilot.wire.messages.pilot import AttemptSpec, Committed
from simulated.ends import Ends, Row
from simulated.invariants import Replay, check_core
from simulated.processes import RUN
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

#: The largest number of pilots that are refused or broken in vain before that is over.
MOST_TRIES = 14


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


class Oracle:
    """Knows what was promised, said and seen."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.replay = Replay()
        #: What the head knows of tasks; before the first there is nothing.
        self._ends: Ends
        self._next_event = 1
        #: What is committed: tasks with their final states (empty: none yet), sessions.
        self.durable: dict[int, str] = {}
        #: How often each task was run.
        self.runs_of: Counter[int] = Counter()
        #: Sessions of which data was removed, and those that were removed as a whole.
        self.purged: set[int] = set()
        self.deleted: set[int] = set()
        #: Tasks that have ended for some head, which may have died before that was committed.
        self.ever_ended: set[int] = set()
        #: What clients were told.
        self.told: dict[int, str] = {}
        #: What pilots have said of each task: pilot, attempt, outcome.
        self.reports: dict[int, set[tuple[str, int, str]]] = defaultdict(set)
        #: Tasks in a pilot that was taken for lost while it lived: nobody can tell it to stop; and
        #: what had ended in one that was lost, which may become known when others are to run it.
        self.cut_off: set[int] = set()
        #: The versions of named objects that clients know of, and whose results they are.
        self.versions: dict[tuple[str, int], int] = {}
        #: Results of which a client was told that their release is written down.
        self.given_up: set[Ref] = set()
        #: Tasks that a pilot held and a head did not know: they began anew, with the first attempt.
        self.begun_anew: set[int] = set()
        #: Attempts that a head which died had heard of, and the next one not before it heard of a
        #: later one, by task: their pilot may be gone, or tell them when the task has ended.
        self.untold: dict[int, set[int]] = defaultdict(set)
        #: When each head last submitted a pilot.
        self._submitted: dict[int, float] = {}
        #: Pilots that came to nothing: why, of which head, and until when all did.
        self.tries: Counter[tuple[str, int, float]] = Counter()
        #: What has happened, for who asks whether the simulation reaches it.
        self.seen: Counter[str] = Counter()

    # --- nodes

    @_strict
    def shrunk(self, agent: Agent, nodes: Collection[str]) -> None:
        """Check that nothing runs on nodes that the batch system takes from a job."""
        self.seen["nodes given back"] += len(nodes)
        there = [e for e in agent.executors.values() if e.node in nodes and e.current is not None]
        assert not there, f"{nodes} are taken while {there} run there"
        assert not set(agent.rules.hosts) & set(nodes), "the pilot uses them"

    # --- a head

    @_strict
    def head_starts(self, store: Store) -> None:
        """Go on with what is committed."""
        self.seen["heads"] += 1
        rows = store.events(1, None, 1_000_000)
        self.check_objects()
        following = 1
        for first, changes in rows:
            # Of sessions that were deleted there are none.
            assert first == following or (first > following and self.deleted), following
            following = first + sum(change.count for change in changes)
        self._next_event = following
        self.replay = self._replay(change for _, changes in rows for change in changes)

    def _replay(self, changes: Iterable[ev.Change]) -> Replay:
        return Replay(change for change in changes if change.session not in self.deleted)

    @_strict
    def removed(self, sessions: set[int]) -> None:
        """Tasks of these sessions were removed from the database, or their results."""
        self.seen["removed"] += 1
        self.purged |= sessions
        self.deleted |= sessions - self.sessions().keys()
        rows, known = self.rows(), self._ends.rows
        for task in [task for task in known if session_of(task) in sessions]:
            if session_of(task) in self.deleted and task not in rows:
                del known[task], self.durable[task]
            elif task in rows and rows[task].state not in (READY, DELEGATED):
                known[task], self.durable[task] = rows[task], rows[task].state

    def removed_objects(self, versions: Iterable[tuple[str, int]]) -> None:
        """Versions of named objects were removed, with what nothing else keeps."""
        self.seen["version removed"] += 1
        read = "SELECT name, version, task FROM objects"
        tasks = {(name, version): task for name, version, task in self.cluster.disk.read(read)}
        self.removed({session_of(tasks[version]) for version in versions})

    def head_dies(self, head: Head) -> None:
        """Note a death."""
        self.seen["killed"] += 1
        if head.service is not None:
            self._check_written()

    @_strict
    def _check_written(self) -> None:
        """See that what is committed is what this head knew."""
        for task, row in self.rows().items():
            if row.state not in (READY, DELEGATED):
                known = self._ends.rows[task]
                # An attempt that ends after its task is counted by a commit of its own.
                same = row.attempts <= known.attempts and replace(known, attempts=row.attempts)
                if same and self._ends.may_be_gone(task, row.values, known.values):
                    same = replace(same, values=row.values)
                assert row == same, (row, known)

    def watch(self, service: Service) -> None:
        """See what goes into the core of a head, and what comes out."""
        core = service._core
        apply, assign, ask_back = core.apply, core.assign, core.ask_back
        self._service = service
        runs = self.cluster.disk.read(f"SELECT node FROM attempts WHERE node LIKE '{RUN}%'")
        known = {run for (run,) in runs}
        claims = self.cluster.disk.read("SELECT task, place FROM released WHERE NOT gone")
        self._ends = ends = Ends(
            core, self.rows(), known, self._templates, self.seen, set(claims), self._gone
        )

        @_strict
        def checked_apply(event: ev.Event, now: float) -> ev.Effects:
            self._comes(event)
            ends.comes()
            effects = apply(event, now)
            check_core(core)
            ends.take(event, effects)
            self.ever_ended.update(end.task for end in effects.ended)
            if isinstance(event, ev.PilotJoined):
                lost = core.pilots[event.name].held.keys() - dict(event.held).keys()
                assert not lost, f"{lost} are not with {event.name} any more"
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
        if isinstance(event, (ev.SessionOpened, ev.TasksCancelled)) and event.reason:
            self.seen["ended with clients"] += 1
            there = [
                client.name
                for client in self.cluster.clients
                if client.is_alive and event.session in client.numbers
            ]
            assert not there, f"{event.session} ends, and {there} live"
        if isinstance(event, ev.AttemptsEnded):
            known = self._ends.rows
            for done in event.completions:
                row = known.get(done.task)
                if row is not None and row.state == READY and done.attempt > row.attempts:
                    self.untold[done.task].discard(done.attempt)
                children = done.children
                if children is not None and children.tasks and session_of(children.tasks[0].id):
                    self.cluster.tasks.named(done.task, children)
        elif isinstance(event, ev.TasksSubmitted) and event.parent:
            self.seen["detached"] += len(event.tasks)
            self.cluster.tasks.born(event.parent, event.tasks)
        elif isinstance(event, ev.TasksLookedUp):
            joined = self._service._core.pilots
            for late in self.cluster.agents.values():
                if late.name not in joined:  # it finds this head too late
                    self.cut_off.update(filter(late.has, event.found))
        elif isinstance(event, ev.PilotJoined):
            # Their submission was not committed by the head that gave them to it.
            known = self._ends.rows
            self.begun_anew.update(dict(event.held).keys() - known.keys())
            for task, attempt in event.held:
                if task in known and known[task].state == READY:
                    self.untold[task].update(range(known[task].attempts + 1, attempt))
        elif isinstance(event, ev.PilotLost):
            self.seen[f"lost: {event.reason.split(' for ')[0]}"] += 1
            agent = self.cluster.agents.get(event.name)
            if agent is not None:
                self.cut_off.update(agent.rules.held)
            pilot = self._service._core.pilots.get(event.name)
            if agent is not None and pilot is not None:
                self.cut_off.update(filter(agent.has, pilot.held))
            # What it has said of ends may still be on its way.
            for task in pilot.held if pilot is not None else ():
                if any(name == event.name for name, *_ in self.reports[task]):
                    self.cut_off.add(task)

    def _is_assigned(self, name: str, task: Task) -> None:
        core = self._service._core
        assert self._ends.rows[task.id].state == READY, "it has ended, or others make its results"
        assert task.attempt == self._ends.rows[task.id].attempts + 1, "an attempt is missing"
        assert not core.pilots[name].draining, f"{task.id:#x} is given to a pilot that drains"
        assert not core.sessions[task.template.session].paused, f"{task.id:#x} is not to start"
        for agent in self.cluster.agents.values():
            if agent.name not in core.pilots and agent.has(task.id):
                self.cut_off.add(task.id)  # it did not find this head in time
                self._check_waited(agent.name)
        for other in {*task.after}.difference(source for source, _ in task.inputs):
            assert other not in core.tasks, f"{task.id:#x} is given away before {other:#x} ends"
            its = self._ends.rows.get(other)
            self.seen["after one that had not ended well"] += its is not None and its.is_lost
        for source, place in task.inputs:
            if source in core.tasks:
                self.seen["sent early"] += 1
                holder = core.tasks[source].pilot
                assert holder is not None and holder.name == name, "sent early, elsewhere"
                continue
            row = self._ends.rows[source]
            assert row.seen is not None, f"{task.id:#x} was assigned, its input is {row.state}"
            assert not row.seen[place].is_released, f"{task.id:#x}: its input was released"

    def _check_waited(self, name: str) -> None:
        """Check that a pilot from before had the time to say what it holds."""
        service = self._service
        row, waited_s = service._fleet.pilots.get(name), self.cluster.clock.now - service._started
        is_expected = row is not None and row.state == "RUNNING" and row.created < service._started
        assert not is_expected or waited_s > pilots.REJOIN_S, f"{name} was not waited for"

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
        self._ends.are_gone(batch.gone)
        tasks: list[Any] = [row[0] for row in batch.tasks]
        ends: list[tuple[Any, Any]] = [(row[-1], row[0]) for row in batch.ends]
        runs: list[Any] = [row[4] for row in batch.attempts]

        def written() -> None:
            for task in tasks:
                self.durable.setdefault(task, "")
            for task, state in ends:
                self.durable[task] = state
            self._ends.written(runs)

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
        elif isinstance(message, Committed):
            for agent in self.cluster.agents.values():
                if agent.link is not None and agent.link.name == peer:
                    frames = agent.service.reports.frames
                    # What it tells again, in another frame, it keeps.
                    others = {seq: ends for seq, ends in frames.items() if seq != message.seq}
                    kept = {done.node for ends in others.values() for done in ends}
                    dropped = {done.node for done in frames.get(message.seq, ())}
                    self._ends.check_written(dropped - kept)
        elif isinstance(message, m.Reply):
            assert "failed in the head" not in message.error, message.error

    # --- clients and pilots

    @_strict
    def announced(self, client: Client, outcome: TaskOutcome) -> None:
        """A client was told of an end."""
        if outcome.state in ("LOST", "DELETED"):
            return
        before = self.told.setdefault(outcome.task, outcome.state)
        assert before == outcome.state, f"{outcome.task:#x} was {before}, now {outcome.state}"

    @_strict
    def accepted(self, tasks: Iterable[int]) -> None:
        """A client was told that these are accepted."""
        for task in tasks:
            known = task in self.durable or session_of(task) in self.deleted
            assert known, f"{task:#x} is accepted and not in the database"
            spec = self.cluster.tasks.specs[task][1]
            if spec.values and (naming := decode_naming(spec.payload)) is not None:
                (version,) = self._versions_of(task, naming.name)
                self.named(naming.name, version, task)
                self.seen["version put"] += 1

    @_strict
    def released(self, client: Client, message: m.Release) -> None:
        """A client was told that a release is written down."""
        self.seen["release accepted"] += 1
        tasks = self.cluster.tasks
        results = {
            (task, place) for task in message.tasks for place in range(tasks.specs[task][0].returns)
        }
        # The submission of another client may not have arrived: then there is nothing to release.
        self.given_up |= {
            one for one in (*results, *message.parts) if tasks.by_client.get(one[0]) is client
        }

    def _gone(self) -> set[Ref]:
        """Return what is gone, since it was released, also where that is not committed."""
        shell = self._service._shell
        return {*self.cluster.disk.read("SELECT task, place FROM released WHERE gone")} | {
            *shell.commits.batch.gone
        }

    def _check_releases(self, rows: dict[int, Row]) -> None:
        """Check that what was released is gone, unless others find it, and nothing else is."""
        read = self.cluster.disk.read
        assert not read("SELECT task, place FROM released WHERE NOT gone"), "claims are left"
        gone = set(read("SELECT task, place FROM released WHERE gone"))
        kept = {task for (task,) in read("SELECT id FROM tasks WHERE memo IS NOT NULL")}
        kept |= {task for (task,) in read("SELECT task FROM objects")}
        for task, row in rows.items():
            for place, value in enumerate(row.values):
                result = task, place
                assert value.is_released == (result in gone), f"{result}: {value}"
                if result in self.given_up and not value.is_released:
                    assert task in kept, f"{result} was released, and is there"

    @_strict
    def named(self, name: str, version: int, task: int) -> None:
        """A client was told of a version."""
        self.seen["version"] += 1
        known = self.versions.setdefault((name, version), task)
        assert known == task, f"{name}@{version} is of {known:#x} and {task:#x}"

    def _versions_of(self, task: int, name: str) -> list[int]:
        read = f"SELECT version FROM objects WHERE task = {task} AND name = '{name}' AND put"
        return [version for (version,) in self.cluster.disk.read(read)]

    @_strict
    def _check_turns(self, rows: Iterable[int]) -> None:
        """Each version was given to one task that has completed, and what was read came after."""
        query = "SELECT id, result FROM tasks WHERE state = 'COMPLETED' AND result NOT NULL"
        results = dict(self.cluster.disk.read(query))
        texts: dict[int, list[bytes]] = {}
        members: dict[int, TaskSpec] = {}
        readers: dict[int, TaskSpec] = {}
        for task, (template, spec) in self.cluster.tasks.specs.items():
            if spec.commutative and task in rows and results.get(task):
                values, failure = msgspec.msgpack.decode(
                    results[task], type=tuple[tuple[Value, ...], TaskFailure | None]
                )
                if failure is None:
                    (readers if template.kind == "value" else members)[task] = spec
                    # Of a large one its name tells the same; of a released one nothing does.
                    texts[task] = [value.payload or value.name.encode() for value in values]
        followed: dict[tuple[Ref, bytes], int] = {}
        untold: set[Ref] = set()
        for task, spec in members.items():
            ((_, result),) = spec.commutative
            _, _, source = texts[task][result].partition(b"<")
            if not source:
                untold.add(spec.inputs[0])
                continue
            given = spec.inputs[0], source
            assert given not in followed, f"{task:#x} and {followed[given]:#x} got the same"
            followed[given] = task
        self.seen["turn"] += len(members)
        for task, spec in readers.items():
            (anchor,) = spec.inputs
            if anchor in untold:
                continue
            version, seen = b"%x.%d" % anchor, set()
            read = texts[task][0].partition(b"<")[0]
            while version != read and (anchor, version) in followed:
                follower = followed[anchor, version]
                seen.add(follower)
                ((_, result),) = members[follower].commutative
                version = b"%x.%d" % (follower, result)
            assert seen >= {*spec.after} & members.keys(), f"{task:#x} was too early"
            self.seen["version that was read after turns"] += 1

    def check_objects(self) -> None:
        """No version is lost, none is given twice, and each has its result."""
        read = "SELECT name, version, task, removed IS NULL FROM objects ORDER BY name, version"
        counted: Counter[str] = Counter()
        rows = {(name, version): task for name, version, task, _ in self.cluster.disk.read(read)}
        for name, version in rows:
            counted[name] += 1
            assert version == counted[name], f"{name}@{version} comes after {counted[name] - 1}"
        for told, task in self.versions.items():
            assert rows.get(told) == task, f"{told} was of {task:#x}, and is of {rows.get(told)}"
        sessions = self.sessions()
        ended = "SELECT id, state FROM tasks WHERE result IS NOT NULL"
        states = dict(self.cluster.disk.read(ended))
        for name, version, task, is_there in self.cluster.disk.read(read):
            kept = not is_there or states.get(task) == COMPLETED
            assert kept, f"{name}@{version} has lost its result"
            is_bare = sessions.get(session_of(task), "PURGED") == "PURGED"
            self.seen["version of a removed session"] += is_there and is_bare

    @_strict
    def has_told(self, service: PilotService, told: set[int]) -> None:
        """A pilot has told its head, once that has welcomed it, of these reports."""
        missing = service.reports.frames.keys() - told if service._welcomed else ()
        assert not missing, f"reports {missing} were not told"

    def reported(self, agent: Agent, completions: list[Completion]) -> None:
        """A pilot tells of ends."""
        for done in completions:
            self.reports[done.task].add((agent.name, done.attempt, done.outcome))
            owed = done.children.delegated if done.children is not None else {}
            for index, value in enumerate(done.values):
                let_go = value.is_released and index not in owed
                self.seen["told without a result that was let go"] += let_go
                assert not value.path or value.path in self.cluster.written, (
                    f"{done.task:#x} is told as ended, and its result is nowhere but on a node"
                )
            if done.failure is not None and done.failure.type == "Stopped":
                assert done.outcome == "interrupted", "it was told to stop"
                self.seen["stopped as told"] += 1

    @_strict
    def runs(self, agent: Agent, work: AttemptSpec, node: str = "") -> None:
        """An attempt begins, on this node if it is one."""
        self.runs_of[work.task] += 1
        for item in work.inputs:
            assert item.value is not None, "it runs without an input"
            assert not item.value.is_released, f"{work.task:#x} runs, and {item} was released"
            if path := item.value.path:
                is_near = path in agent.stores.get(node, ())
                is_copied = path in agent.copies.get(node, ())
                is_written = path in self.cluster.written
                assert is_near or is_copied or is_written, f"{path} is not to be had on {node}"
                self.seen["inputs from the store of a node alone"] += not is_written
                self.seen["inputs fetched from the store of a node alone"] += (
                    is_copied and not is_written
                )
        before = {*self.cluster.tasks.specs[work.task][1].after}
        too_early = before - self.ever_ended - {item.task for item in work.inputs}
        assert not too_early, f"{work.task:#x} starts before the ends of {too_early}"
        has_ended = agent.service.reports.held().get(work.task) == work.attempt
        assert not has_ended, f"{work.task:#x} runs again, and its end is not told yet"
        state = self.told.get(work.task)
        # That another copy of it has ended may still be on its way to the pilot.
        has_copies = work.task in self.cut_off or work.task in self.begun_anew
        assert state not in (COMPLETED, FAILED, TIMED_OUT) or has_copies, (
            f"{work.task:#x} runs after it was announced as {state}"
        )
        self._check_site()

    def _check_site(self) -> None:
        """Check that what runs now, wherever, uses no more of the site than there is."""
        used: Counter[str] = Counter()
        for agent in self.cluster.agents.values():
            for process in [*agent.executors.values(), *agent.worlds.values()]:
                if process.is_alive and process.current is not None:
                    template = self.cluster.tasks.templates[process.current.template]
                    used.update(dict(template.resources.site))
        for name, amount in SITE.items():
            assert used[name] <= amount * UNIT, f"{used[name]} parts of {name} are in use at once"
            self.seen[f"all {name} in use"] += used[name] == amount * UNIT

    @_strict
    def submits(self) -> None:
        """A head submits a pilot: not sooner after the last one than the site allows."""
        assert self.cluster.head is not None
        now, epoch = self.cluster.clock.now, self.cluster.head.epoch
        least_s = self.cluster.site.config.manners.submit_interval_s
        if least_s is None:
            least_s = pacing.LEAST_S
        since_s = now - self._submitted.get(epoch, -math.inf)
        assert since_s >= least_s - 0.001, f"{since_s:.3f} s after another pilot"
        self._submitted[epoch] = now
        self.seen["pilots that waited for their turn"] += since_s < least_s + 0.11

    @_strict
    def ends_job(self, is_own: bool) -> None:
        """A head has a job cancelled."""
        assert not is_own, "a head ends the job that it runs in"

    @_strict
    def in_vain(self, what: str, until: float) -> None:
        """A pilot comes to nothing, as all do until a time: they come less and less often."""
        epoch = self.cluster.head.epoch if what == "refused" and self.cluster.head else 0
        self.tries[what, epoch, until] += 1
        tries = self.tries[what, epoch, until]
        assert tries <= MOST_TRIES, f"{tries} pilots were {what}"

    # --- the end

    def sessions(self) -> dict[int, str]:
        """Return the states of all sessions."""
        return dict(self.cluster.disk.read("SELECT id, state FROM sessions"))

    def bound(self) -> dict[int, float]:
        """Return the sessions that end with their clients, and after which time."""
        read = "SELECT id, grace FROM sessions WHERE grace IS NOT NULL"
        return dict(self.cluster.disk.read(read))

    def _templates(self) -> set[int]:
        return {template for (template,) in self.cluster.disk.read("SELECT id FROM templates")}

    def rows(self) -> dict[int, Row]:
        """Return all tasks that are committed."""
        rows = {}
        read = (
            "SELECT id, iif(state = 'COMPLETED' AND result IS NULL, 'DELETED', state), result, "
            "attempts, errors, crashes, delegated, ended, error FROM tasks"
        )
        for row in self.cluster.disk.read(read):
            task, state, result, attempts, errors, crashes, owed, ended, error = row
            known = READY if state in (PENDING, ASSIGNED, RUNNING) else state
            values, failure = decode_result(result)
            rows[task] = Row(
                *self.cluster.tasks.specs[task],
                known,
                values,
                attempts,
                errors,
                crashes,
                _owed(owed) if owed else None,
                ended or 0.0,
                error or "",
                failure.cause if failure is not None else 0,
            )
        return rows

    @_strict
    def check_end(self) -> None:
        """See that all has ended as it should."""
        cluster, tasks = self.cluster, self.cluster.tasks
        core = self._service._core
        check_core(core)
        assert set(self.sessions().values()) <= set(CLOSED_STATES)
        assert not core.tasks and not core.sessions and not core.templates and not core.classes
        rows = self.rows()
        self._check_written()
        self._check_attempts(rows)
        self._check_releases(rows)
        self.check_objects()
        self._check_turns(rows.keys() - {t for t in rows if session_of(t) in self.purged})
        # Of deleted sessions there are results of named objects, and no more.
        rows = {task: row for task, row in rows.items() if session_of(task) not in self.deleted}
        events = self.cluster.disk.read("SELECT changes FROM events ORDER BY first")
        replay = self._replay(change for (changes,) in events for change in _changes(changes))
        states = {task: row.state for task, row in rows.items()}
        deleted = {task for task, state in states.items() if state == "DELETED"}
        assert replay.tasks == {**states, **dict.fromkeys(deleted, COMPLETED)}
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
            if template.session in self.purged:
                continue
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

    def _check_attempts(self, rows: dict[int, Row]) -> None:
        """None is missing of a task that no head has taken from a pilot without its report."""
        recorded: dict[int, set[int]] = defaultdict(set)
        for task, number in self.cluster.disk.read("SELECT task, number FROM attempts"):
            recorded[task].add(number)
        for task in rows.keys() - self.cut_off - self.begun_anew:
            if session_of(task) in self.deleted:
                continue
            expected = set(range(1, rows[task].attempts + 1))
            assert expected - self.untold[task] <= recorded[task] <= expected, (
                f"{task:#x}: attempts {recorded[task]} of {expected}"
            )

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
        if row.owed:
            heirs = [rows[child] for child, _ in row.owed[1].values()]
            passed = {heir.state if heir.seen is None else COMPLETED for heir in heirs}
            expected = passed - {COMPLETED} or passed
            assert row.state in expected or row.state == CANCELLED, (row.state, passed)
            return
        if self.cluster.tasks.specs[task][1].values:
            assert row.state in (COMPLETED, CANCELLED, ABORTED)
            return
        outcomes = Counter(outcome for _, _, outcome in self.reports[task])
        # What is counted has happened; what follows from it is in `ends`.
        failed = outcomes["error"] + outcomes["timeout"]
        assert row.errors <= min(failed, template.retries + 1), (task, outcomes)
        assert row.crashes <= min(outcomes["crash"], template.max_crashes + 1), (task, outcomes)
        if row.state == COMPLETED:
            has_run = outcomes["ok"] and self.runs_of[task]
            assert has_run or template.cache or template.kind == "value"
        elif row.state == FAILED:  # or it went well, and its result is that of one that had failed
            assert outcomes["error"] or outcomes["crash"] or outcomes["ok"]
        elif row.state == TIMED_OUT:
            assert outcomes["timeout"] or outcomes["ok"]
