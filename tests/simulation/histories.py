"""Short random lives of the core alone, thousands in a minute.

Around the real `Core` there is a model of all others, as small as it can be: a database that keeps
a batch whole or not at all, clients that say again what was not accepted, pilots that run what they
are given, tell it until it is committed, and get lost. Each step of a history is one of them doing
something; a step may also be the head's death, after which a new core gets what was committed.
All chance comes from one seeded generator, so a seed is a history.

What must hold is checked where it could break: in what the core asks for (`Rows.take`,
`History._check_ends`), in what it hands out (`History._assign`), in its books and in its log
(`History._check`). `cluster` tests the same core together with the pilots' own rules.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from simulated.invariants import Replay, check_core

from pilot.agent.rules.inputs import Inputs
from pilot.head.core import events as ev
from pilot.head.core.core import Core, default_values
from pilot.head.core.numbering import Numbers
from pilot.model.ids import Ref
from pilot.model.states import (
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FAILED,
    FINAL,
    PENDING,
    READY,
    TIMED_OUT,
    Outcome,
)
from pilot.model.tasks import Children, Completion, TaskFailure, TaskOutcome, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages import AttemptSpec, InputValue, RunningTask

SHAPE = NodeShape(4)
NOTHING = Value(0, b"")
#: After so many rounds without misfortunes everything must have ended.
CALM_ROUNDS = 400


@dataclass
class Row:
    """What is known of a task."""

    spec: TaskSpec
    template: Template
    parent: int
    created: float
    state: str = READY
    attempts: int = 0
    errors: int = 0
    crashes: int = 0
    owed: tuple[tuple[Value, ...], dict[int, Ref]] | None = None
    outcome: TaskOutcome | None = None
    memo: bytes = b""

    def seen(self) -> TaskOutcome | None:
        """How dependents see its end."""
        outcome = self.outcome
        if outcome is None or outcome.state in (COMPLETED, CANCELLED):
            return outcome
        if self.template.on_failure != "ignore":
            return outcome
        return TaskOutcome(outcome.task, COMPLETED, default_values(self.template))


class Rows(dict[int, Row]):
    """All tasks, as somebody knows them who is told of all effects."""

    def __init__(self) -> None:
        #: Attempts that count; each has a name of its own.
        self.counted: set[str] = set()

    def copy(self) -> Rows:
        again = Rows()
        again.counted = set(self.counted)
        for number, row in self.items():
            again[number] = Row(**vars(row))
        return again

    def take(self, effects: ev.Effects) -> None:
        """Write effects down; none of them may contradict what is there."""
        for spec, task, parent in effects.accepted:
            assert spec.id not in self, f"{spec.id:#x} was taken on twice"
            self[spec.id] = Row(spec, task.template, parent, task.created_at)
        for attempt in effects.attempts:
            done = attempt.completion
            row = self[done.task]
            if done.node:
                assert done.node not in self.counted, f"{done.node} counts twice"
                self.counted.add(done.node)
            row.attempts = done.attempt
            row.errors += done.outcome == "error"
            row.crashes += done.outcome == "crash"
            assert (attempt.errors, attempt.crashes) == (row.errors, row.crashes), done
            assert row.errors <= row.template.retries + 1, "one try too many"
            assert row.crashes <= row.template.max_crashes + 1, "one crash too many"
        for delegated in effects.delegated:
            row = self[delegated.task]
            assert row.owed is None and row.outcome is None, "delegated twice"
            row.state, row.owed = DELEGATED, (delegated.values, dict(delegated.refs))
        for end in effects.ended:
            row = self[end.task]
            assert row.outcome is None, f"{end.task:#x}: {end.state} after {row.state}"
            row.state, row.memo = end.state, end.memo
            row.outcome = TaskOutcome(end.task, end.state, end.values, end.failure)


class Store:
    """What is committed."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.templates: dict[int, Template] = {}
        #: Id → state, whether paused.
        self.sessions: dict[int, tuple[str, bool]] = {}
        self.log: list[ev.Change] = []
        #: How many numbers of a session are given away.
        self.numbers: Counter[int] = Counter()

    def reserve(self, session: int, count: int) -> int:
        """Durable at once, whatever becomes of the head; returns the first."""
        self.numbers[session] += count
        return self.numbers[session] - count + 1


@dataclass
class Batch:
    """What is written in one transaction."""

    effects: list[ev.Effects] = field(default_factory=list)
    templates: list[Template] = field(default_factory=list)
    sessions: list[tuple[int, str, bool]] = field(default_factory=list)
    changes: list[ev.Change] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Attempt:
    """A task in a pilot."""

    name: str
    task: int
    number: int
    template: Template
    inputs: tuple[Ref, ...]
    started: float = 0.0
    cancelled: bool = False
    #: Sent ahead of its inputs, which are made in the same pilot.
    waits: bool = False
    #: It runs and never ends by itself.
    is_endless: bool = False
    #: Detached children by ordinal: what was said, and the id once the head has answered.
    asked: list[TaskSpec] = field(default_factory=list)
    detached: dict[int, int] = field(default_factory=dict)


@dataclass
class Pilot:
    """An agent with its executors."""

    name: str
    nodes: int
    attempts: dict[int, Attempt] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)
    #: Not told to the present head, and not known to be committed, by sequence number.
    outbox: dict[int, list[Completion]] = field(default_factory=dict)
    told: dict[int, list[Completion]] = field(default_factory=dict)
    draining: bool = False
    #: It has to introduce itself before it says anything else.
    strange: bool = True
    #: Tasks may never end here; then nothing else begins here any more.
    is_trap: bool = False

    @property
    def endless(self) -> list[Attempt]:
        """What runs here and will not end."""
        return [each for each in self.attempts.values() if each.is_endless and not each.cancelled]


class History:
    """One life of a site, from its seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.chance = self.rng.random
        self.now = 1.0
        self.store = Store()
        self.core: Core | None = None
        self.rows = Rows()
        self.replay = Replay()
        self.batch = Batch()
        self.committing: Batch | None = None
        self.pilots: dict[str, Pilot] = {}
        #: Pilots that are gone, which the head does not know yet.
        self.gone: list[str] = []
        self.unaccepted: list[tuple[int, list[TaskSpec]]] = []
        self.lookups: list[int] = []
        #: Tasks of which the present head knows that they have not run before.
        self.looked_up: set[int] = set()
        self.needed_by: dict[int, list[int]] = {}
        self.templates: dict[int, list[Template]] = {}
        self.numbers = 0
        self.handed_out = 0
        self.calm = False
        self.size = self.rng.choice((5, 10, 20, 40))
        self.error_rate = self.rng.choice((0.0, 0.1, 0.4))
        self.crash_rate = self.rng.choice((0.0, 0.05, 0.3))
        self.children_rate = self.rng.choice((0.0, 0.2, 0.5))
        self.endless_rate = self.rng.choice((0.0, 0.0, 0.2))
        self.sessions = range(1, self.rng.choice((1, 1, 2, 3)) + 1)
        misfortunes = self.rng.choice((0, 1, 2))
        steps: list[tuple[Callable[[], None], int]] = [
            (self._submit, 6),
            (self._assign, 8),
            (self._ask_back, 2),
            (self._run_some, 16),
            (self._report, 6),
            (self._begin_commit, 8),
            (self._end_commit, 8),
            (self._answer_lookups, 3),
            (self._detach, 3),
            (self._join, 3),
            (self._control, 1),
            (self._cancel, misfortunes),
            (self._lose, misfortunes),
            (self._die, misfortunes),
            (self._hear_of_gone, misfortunes),
            (self._drain, misfortunes),
            (self._kill_head, misfortunes),
        ]
        self.steps = [step for step, weight in steps for _ in range(weight)]

    def run(self) -> None:
        """Let it happen, and see that everything ends well."""
        self._start_head()
        for session in self.sessions:
            self.templates[session] = [self._template(session) for _ in range(4)]
            self._apply(ev.SessionOpened(session))
            self.batch.sessions.append((session, "OPEN", False))
        # Nobody knows of a session before it is committed.
        self._begin_commit()
        self._end_commit()
        self._join()
        steps, count = self.steps, len(self.steps)
        for _ in range(self.size * 6):
            if self.chance() < 0.6:  # otherwise in the same moment
                self.now += 0.25
            if self.core is None and self.chance() < 0.3:
                self._start_head()
            steps[int(self.chance() * count)]()
        self._calm_down()
        self._check_end()

    # --- the head

    def _start_head(self) -> None:
        store = self.store
        self.core = core = Core()
        self.given = Numbers(store.reserve, children_block=2)
        self.rows = store.rows.copy()
        self.replay = Replay(store.log)
        self.batch, self.committing = Batch(), None
        self.lookups.clear()
        self.looked_up.clear()
        core.log.other("head", "STARTED", 0, self.now)
        tasks = [
            ev.Restored(row.spec, row.attempts, row.errors, row.crashes, row.created, row.owed)
            for row in store.rows.values()
            if row.state not in FINAL
        ]
        owed = {ref[0] for item in tasks if item.delegated for ref in item.delegated[1].values()}
        alive = [number for number, (state, _) in store.sessions.items() if state != "CLOSED"]
        templates = [known for known in store.templates.values() if known.session in alive]
        self._apply(ev.TasksRestored(templates, tasks, self._outcomes(owed)))
        for number in alive:
            state, paused = store.sessions[number]
            self._apply(self._opened(number, state, paused, restored=True))
        for pilot in self.pilots.values():
            pilot.strange = True
        self.gone.clear()
        for session, specs in list(self.unaccepted):
            self._say(session, specs)
        for pilot in self.pilots.values():
            for attempt in pilot.attempts.values():
                for spec in attempt.asked:
                    self._say_detached(attempt, spec)

    def _opened(
        self, session: int, state: str, paused: bool, restored: bool = False
    ) -> ev.SessionOpened:
        return ev.SessionOpened(
            session,
            closed=state == "CLOSING",
            stopped=state == "STOPPED",
            paused=paused,
            restored=restored,
        )

    def _kill_head(self) -> None:
        self.core = None

    def _apply(self, event: ev.Event) -> ev.Effects:
        """Tell the core, and carry out what it asks for."""
        core = self.core
        assert core is not None
        effects = core.apply(event, self.now)
        self.rows.take(effects)
        self.batch.effects.append(effects)
        for spec, *_ in effects.accepted:
            for source, _ in spec.inputs:
                self.needed_by.setdefault(source, []).append(spec.id)
        if effects.ended or effects.attempts:
            self._check_ends(event, effects)
        for name, tasks in effects.cancel.items():
            self._stop(name, tasks)
        for task in effects.lookups:
            assert task.template.cache
            self.lookups.append(task.id)
        for number in effects.sessions_ended:
            self.batch.sessions.append((number, "CLOSED", False))
        return effects

    def _outcomes(self, tasks: Iterable[int]) -> dict[int, TaskOutcome]:
        """How those of the tasks that have ended are seen to have ended."""
        found = {}
        for task in tasks:
            row = self.rows.get(task)
            if row is not None and (outcome := row.seen()) is not None:
                found[task] = outcome
        return found

    def _ended_inputs(self, specs: Iterable[TaskSpec]) -> dict[int, str]:
        sources = {source for spec in specs for source, _ in spec.inputs}
        return {task: outcome.state for task, outcome in self._outcomes(sources).items()}

    def _begin_commit(self) -> None:
        if self.core is None or self.committing is not None:
            return
        self._check()
        self.committing, self.batch = self.batch, Batch()

    def _check(self) -> None:
        """Whether the books and the log of the core are right."""
        core = self.core
        assert core is not None
        check_core(core)
        changes = core.log.take()
        self.replay.take(changes)
        self.replay.check(core)
        self.batch.changes.extend(changes)

    def _end_commit(self) -> None:
        if self.core is None or self.committing is None:
            return
        batch, self.committing = self.committing, None
        store = self.store
        store.templates.update((known.id, known) for known in batch.templates)
        for effects in batch.effects:
            for learned in effects.learned:
                store.templates.update((known.id, known) for known in learned.templates)
            store.rows.take(effects)
        for session, state, paused in batch.sessions:
            store.sessions[session] = (state, paused)
        store.log.extend(batch.changes)
        if self.chance() < 0.02 and not self.calm:
            self._kill_head()  # committed, and nobody was told
            return
        for tell in batch.after:
            tell()

    # --- what the core asks for

    def _check_ends(self, event: ev.Event, effects: ev.Effects) -> None:
        """Every end has its cause, and every failure the consequences that it should have."""
        core, rows = self.core, self.rows
        assert core is not None
        attempts: dict[int, Completion] = {}
        for attempt in effects.attempts:
            done = attempt.completion
            attempts[done.task] = done
            row = rows[done.task]
            final = self._verdict(row, done)
            if final is None:
                assert row.state not in (COMPLETED, FAILED, TIMED_OUT), (done, row)
            elif final == COMPLETED:
                assert row.state in FINAL or row.state == DELEGATED, (done, row)
            else:
                assert row.state == final, (done, row)
        new = {spec.id for spec, *_ in effects.accepted}
        ended = {end.task: rows[end.task] for end in effects.ended}
        for number, row in ended.items():
            assert number not in core.tasks
            why = getattr(self, f"_why_{row.state.lower()}")
            assert why(row, event, attempts.get(number), ended, new), (number, row, event)
            outcome = row.seen()
            if outcome is None or outcome.state == COMPLETED:
                continue
            for dependent in self.needed_by.get(number, ()):
                assert dependent not in core.tasks, f"{dependent:#x} waits in vain"
            if row.state == CANCELLED and row.owed:
                for child, _ in row.owed[1].values():
                    assert child not in core.tasks, f"{child:#x} works for nobody"
            template = row.template
            if row.state not in (FAILED, TIMED_OUT):
                continue
            for task in core.tasks.values():
                if task.id in new or task.template.session != template.session:
                    continue
                assert template.on_failure != "stop_session", f"{task.id:#x} goes on"
                if template.group_fails_together:
                    assert task.template.group != template.group, f"{task.id:#x} goes on"

    @staticmethod
    def _verdict(row: Row, done: Completion) -> str | None:
        """What the outcome table says, in other words than the program."""
        template = row.template
        if done.outcome == "error":
            failure = done.failure
            named = not template.retry_on or (failure and "ValueError" in failure.bases)
            return None if row.errors <= template.retries and named else FAILED
        if done.outcome == "crash":
            return FAILED if row.crashes > template.max_crashes else None
        return {"ok": COMPLETED, "timeout": TIMED_OUT}.get(done.outcome)

    def _heirloom(self, row: Row, ended: dict[int, Row]) -> bool:
        """Whether a child to which it has delegated has ended so."""
        owed = row.owed[1].values() if row.owed else ()
        return any(
            child in ended and ended[child].state == row.state and not _is_good(ended[child])
            for child, _ in owed
        )

    def _why_completed(
        self,
        row: Row,
        event: ev.Event,
        done: Completion | None,
        ended: dict[int, Row],
        new: set[int],
    ) -> bool:
        """Each value is from who owns it, and from nobody else."""
        assert row.outcome is not None
        values, number = row.outcome.values, row.spec.id
        assert len(values) == row.template.returns
        if row.spec.values:
            return number in new and values == row.spec.values
        if isinstance(event, ev.TasksLookedUp) and number in event.found and not row.owed:
            return values == event.found[number] and row.memo == b""
        if row.memo or number in self.looked_up:
            assert row.template.cache and row.memo == b"key of %d" % number
        expected = list(row.owed[0] if row.owed else done.values if done else ())
        owed = dict(row.owed[1]) if row.owed else {}
        if done is not None and done.children is not None:
            owed.update(done.children.delegated)
        for index, (child, there) in owed.items():
            outcome = self.rows[child].seen()
            assert outcome is not None and outcome.state == COMPLETED
            expected[index] = outcome.values[there]
        return tuple(expected) == values and (done is not None or row.owed is not None)

    def _why_failed(
        self,
        row: Row,
        event: ev.Event,
        done: Completion | None,
        ended: dict[int, Row],
        new: set[int],
    ) -> bool:
        own = done is not None and self._verdict(row, done) == row.state
        return own or self._heirloom(row, ended)

    _why_timed_out = _why_failed

    def _why_aborted(
        self,
        row: Row,
        event: ev.Event,
        done: Completion | None,
        ended: dict[int, Row],
        new: set[int],
    ) -> bool:
        """An input is not there, or what it delegates to."""
        sources = {source for source, _ in row.spec.inputs}
        if done is not None and done.children is not None:
            sources.update(child for child, _ in done.children.delegated.values())
        return self._heirloom(row, ended) or any(not self._is_there(source) for source in sources)

    def _why_cancelled(
        self,
        row: Row,
        event: ev.Event,
        done: Completion | None,
        ended: dict[int, Row],
        new: set[int],
    ) -> bool:
        """Somebody said so, a policy, or who has its result or wanted it."""
        template = row.template
        if isinstance(event, ev.TasksCancelled):
            if event.tasks is not None and row.spec.id in event.tasks:
                return True
            named = event.group in ("", template.group) and event.session == template.session
            if event.tasks is None and named:
                return True
        if self._heirloom(row, ended):
            return True
        inputs = {source for source, _ in row.spec.inputs}
        for number, other in ended.items():
            theirs = other.template
            if number in inputs and theirs.on_failure == "cancel_successors":
                return True
            owed = other.owed[1].values() if other.owed else ()
            if other.state == CANCELLED and any(child == row.spec.id for child, _ in owed):
                return True
            if other.state in (FAILED, TIMED_OUT) and theirs.session == template.session:
                if theirs.on_failure == "stop_session":
                    return True
                if theirs.group_fails_together and theirs.group == template.group:
                    return True
        return False

    def _stop(self, name: str, tasks: list[int]) -> None:
        """A pilot is told to end tasks; it may just have ended them otherwise."""
        pilot = self.pilots.get(name)
        if pilot is None or pilot.strange:
            return
        for task in tasks:
            if attempt := pilot.attempts.get(task):
                attempt.cancelled = True

    def _assign(self) -> None:
        core = self.core
        if core is None:
            return
        states: dict[int, str] = {number: task.state for number, task in core.tasks.items()}
        for name, tasks in core.assign(self.now).items():
            known = core.pilots[name]
            assert not known.draining
            pilot = self.pilots.get(name)
            for task in tasks:
                early = states[task.id] == PENDING
                assert early or states[task.id] == READY, f"{task.id:#x} was given away twice"
                states[task.id] = ""
                assert self.rows[task.id].outcome is None
                assert not core.sessions[task.template.session].paused
                for source, index in task.inputs:
                    if early and source in core.tasks:
                        assert core.tasks[source].pilot is known, "sent ahead, elsewhere"
                        continue
                    outcome = self.rows[source].seen()
                    assert outcome is not None and outcome.state == COMPLETED, "without an input"
                    assert index < len(outcome.values)
            if pilot is None:
                continue
            if pilot.strange or (self.chance() < 0.03 and not self.calm):
                pilot.strange = True  # it breaks off: this never arrives
                continue
            for task in tasks:
                _forget_given_back(pilot, task.id)
                if older := pilot.attempts.get(task.id):
                    older.number = task.attempt  # its end is told as that of the newer one
                    continue
                self.handed_out += 1
                attempt = Attempt(
                    f"run {self.handed_out}", task.id, task.attempt, task.template, task.inputs
                )
                pilot.attempts[task.id] = attempt
                held = {number: each.number for number, each in pilot.attempts.items()}
                inputs = tuple(
                    InputValue(source, index, None if source in core.tasks else NOTHING)
                    for source, index in task.inputs
                )
                try:
                    work = AttemptSpec(task.id, task.attempt, task.template.id, b"", inputs)
                    attempt.waits = pilot.inputs.add(work, held) is None
                except LookupError:
                    self._give_back(pilot, attempt)

    def _ask_back(self) -> None:
        """Pilots give back what they have not begun and others have room for."""
        core = self.core
        if core is None:
            return
        for name, tasks in core.ask_back(self.now).items():
            assert all(core.tasks[task].pilot is core.pilots[name] for task in tasks)
            pilot = self.pilots.get(name)
            if pilot is None or pilot.strange:
                continue
            if self.calm and not pilot.endless:
                continue  # it has begun all that by now
            for task in tasks:
                attempt = pilot.attempts.get(task)
                if attempt and not attempt.waits and not attempt.started and not attempt.asked:
                    self._give_back(pilot, attempt)

    def _give_back(self, pilot: Pilot, attempt: Attempt) -> None:
        """It was sent ahead of inputs that will not come here, or others have room for it."""
        ends = [attempt]
        completions = []
        while ends:
            attempt = ends.pop()
            del pilot.attempts[attempt.task]
            failure = TaskFailure("interrupted", "without an input")
            done = Completion(attempt.task, attempt.number, "interrupted", failure=failure)
            completions.append(done)
            ends.extend(self._let_on(pilot, done))
        self.numbers += 1
        pilot.outbox[self.numbers] = completions

    def _let_on(self, pilot: Pilot, done: Completion) -> list[Attempt]:
        """After an end others may start; returns those that never can."""
        ready, hopeless = pilot.inputs.ended(done)
        for work in ready:
            assert all(item.value is not None for item in work.inputs)
            pilot.attempts[work.task].waits = False
        return [pilot.attempts[work.task] for work in hopeless]

    def _answer_lookups(self) -> None:
        core = self.core
        if core is None or not self.lookups:
            return
        looked_up, self.lookups = self.lookups, []
        keys = {task: b"key of %d" % task for task in looked_up}
        found = {}
        for task in looked_up:
            if self.chance() < 0.3:
                row = self.rows[task]
                found[task] = _values(b"before %d" % task, row.template)
        waiting = [task for task in found if self._waits(task)]
        self._apply(ev.TasksLookedUp(keys, found))
        assert not core.tasks.keys() & set(waiting), "what was found runs again"
        self.looked_up.update(core.tasks.keys() & keys.keys())

    def _waits(self, number: int) -> bool:
        """Whether a task is ready but for the answer whether it has run before."""
        task = self.core.tasks.get(number) if self.core is not None else None
        return task is not None and task.state == READY and task.memo is None

    # --- clients

    def _template(self, session: int) -> Template:
        rng = self.rng
        choose = rng.choice
        self.numbers += 1
        group = choose(("", "", "a", "b"))
        return Template(
            id=self.numbers,
            session=session,
            name=f"t{self.numbers}",
            kind="python",
            function=b"f%d" % self.numbers,
            resources=Resources(cores=choose((1, 1, 2))),
            time_limit_s=choose((0.0, 0.0, 5.0)),
            retries=choose((0, 1, 2)),
            retry_on=choose(((), (), ("ValueError",))),
            max_crashes=choose((0, 1, 3)),
            priority=choose((0, 0, 1)),
            returns=choose((1, 1, 2, 3)),
            on_failure=choose(
                ("fail", "fail", "fail", "ignore", "ignore", "cancel_successors", "stop_session")
            ),
            default=b"default",
            group=group,
            group_fails_together=bool(group) and rng.random() < 0.4,
            cache=choose((b"", b"", b"", b"source")),
        )

    def _spec(
        self, number: int, template: Template, sources: list[tuple[int, int]], ordinal: int = 0
    ) -> TaskSpec:
        """A task that needs some results of these (task, number of results), or values."""
        chance = self.chance
        if chance() < 0.08:
            values = _values(b"put %d" % number, template)
            return TaskSpec(number, template.id, b"", (), values, ordinal)
        inputs: tuple[Ref, ...] = ()
        if sources:
            count = min(len(sources), self.rng.choice((0, 1, 1, 2, 3)))
            chosen = self.rng.sample(sources, count)
            inputs = tuple((task, int(chance() * returns)) for task, returns in chosen)
            if inputs and chance() < 0.1:
                inputs = tuple({*inputs, (chosen[0][0], 0)})
        return TaskSpec(number, template.id, b"", inputs, (), ordinal)

    def _sources(self) -> list[tuple[int, int]]:
        """What a client can refer to, in any session."""
        return [(task, row.template.returns) for task, row in self.rows.items()][-12:]

    def _submit(self) -> None:
        if len(self.rows) >= self.size:
            return
        session = self.rng.choice(self.sessions)
        # What an earlier submission has brought may be lost again; then a client refers to nothing.
        sources = self._sources()
        specs = []
        for _ in range(self.rng.choice((1, 2, 4))):
            template = self.rng.choice(self.templates[session])
            spec = self._spec(session << 32 | self.store.reserve(session, 1), template, sources)
            specs.append(spec)
            sources.append((spec.id, template.returns))
        self.unaccepted.append((session, specs))
        if self.core is not None:
            self._say(session, specs)
            if self.chance() < 0.1:
                self._say(session, specs)  # sent twice

    def _say(self, session: int, specs: list[TaskSpec]) -> None:
        core = self.core
        assert core is not None
        said = (session, specs)
        if session in core.sessions:
            new = [spec for spec in specs if spec.id not in self.rows or spec.id in core.tasks]
            known = set(self.rows)
            opened = core.sessions[session].state == "OPEN"
            self.batch.templates.extend(self.templates[session])
            event = ev.TasksSubmitted(
                session, self.templates[session], new, self._ended_inputs(new)
            )
            refused = dict(self._apply(event).refused)
            for spec in new:
                possible = opened and all(self._is_there(source) for source, _ in spec.inputs)
                assert spec.id in known or (spec.id in refused) != possible, (spec, refused)
        self.batch.after.append(lambda: self._accepted(said))

    def _accepted(self, said: tuple[int, list[TaskSpec]]) -> None:
        if said in self.unaccepted:
            self.unaccepted.remove(said)

    def _is_there(self, task: int) -> bool:
        """Whether a result of a task is there or may come."""
        assert self.core is not None
        return task in self.core.tasks or (task in self.rows and _is_good(self.rows[task]))

    def _cancel(self) -> None:
        if self.core is None:
            return
        session, chance = self.rng.choice(self.sessions), self.chance()
        if chance < 0.6 and self.rows:
            named = self.rng.sample(list(self.rows), min(len(self.rows), self.rng.choice((1, 3))))
            self._apply(ev.TasksCancelled(session, named))
        elif chance < 0.9:
            self._apply(ev.TasksCancelled(session, None, self.rng.choice(("a", "b"))))
        else:
            self._apply(ev.TasksCancelled(session, None))

    def _control(self, verb: str = "", session: int = 0) -> None:
        """Pause, resume, stop or close, as the head's shell does it: all is committed before."""
        core = self.core
        if core is None:
            return
        session = session or self.rng.choice(self.sessions)
        verb = verb or self.rng.choice(("pause", "pause", "resume", "resume", "stop", "close"))
        for _ in range(2):
            self._begin_commit()
            self._end_commit()
        if self.core is None:
            return
        state, paused = self.store.sessions[session]
        if state == "CLOSED":
            return
        if verb in ("stop", "close") and self.chance() < 0.7 and not self.calm:
            return
        if verb in ("pause", "resume"):
            paused = verb == "pause"
        elif verb == "close":
            state = "CLOSING"
        elif state == "OPEN":
            state = "STOPPED"
        self.batch.sessions.append((session, state, paused))
        self._apply(self._opened(session, state, paused))

    # --- pilots

    def _join(self) -> None:
        """A pilot introduces itself: a new one, or one that has to do it again."""
        if self.core is None:
            return
        strange = [pilot for pilot in self.pilots.values() if pilot.strange]
        if strange:
            pilot = self.rng.choice(strange)
        elif len(self.pilots) < 4 or self.calm:
            self.numbers += 1
            pilot = Pilot(f"p{self.numbers}", self.rng.choice((1, 1, 2)))
            pilot.is_trap = not self.calm and self.endless_rate > 0 and self.chance() < 0.5
            self.pilots[pilot.name] = pilot
        else:
            return
        pilot.strange = pilot.draining = False
        pilot.outbox = {**pilot.told, **pilot.outbox}
        pilot.told = {}
        ended = [done for each in pilot.outbox.values() for done in each]
        held = {done.task: done.attempt for done in ended if not done.is_unstarted}
        held.update((attempt.task, attempt.number) for attempt in pilot.attempts.values())
        event = ev.PilotJoined(pilot.name, "main", SHAPE, pilot.nodes, 0.0, list(held.items()))
        self._apply(event)

    def _alive(self) -> Pilot | None:
        return self.rng.choice(list(self.pilots.values())) if self.pilots else None

    def _drain(self) -> None:
        pilot = self._alive()
        if self.core is not None and pilot is not None and not pilot.strange:
            pilot.draining = self.chance() < 0.7
            self._apply(ev.PilotChanged(pilot.name, pilot.nodes, pilot.draining))

    def _lose(self) -> None:
        """The head takes a pilot for lost, but it lives."""
        pilot = self._alive()
        if self.core is not None and pilot is not None:
            self._apply(ev.PilotLost(pilot.name, "silent"))
            # Either it notices that, or it goes on and its reports are of a stranger.
            pilot.strange = self.chance() < 0.5

    def _die(self) -> None:
        if pilot := self._alive():
            del self.pilots[pilot.name]
            self.gone.append(pilot.name)

    def _hear_of_gone(self) -> None:
        if self.core is not None and self.gone:
            self._apply(ev.PilotLost(self.gone.pop(), "its job has ended"))

    def _run_some(self) -> None:
        """Something goes on in a pilot."""
        pilot = self._alive()
        if pilot is None or not pilot.attempts:
            return
        attempts = list(pilot.attempts.values())
        if self.chance() < 0.3:
            running = []
            for attempt in attempts:
                if attempt.waits or (pilot.endless and not attempt.started):
                    continue
                attempt.started = attempt.started or self.now
                running.append(RunningTask(attempt.task, attempt.number, "n", attempt.started))
            if self.core is not None and not pilot.strange:
                self._apply(ev.AttemptsRunning(pilot.name, running))
            return
        count = self.rng.choice((1, 1, 2, len(attempts)))
        ended = []
        hopeless = []
        for attempt in attempts[:count]:
            if not attempt.cancelled and (
                attempt.is_endless or (pilot.endless and not attempt.started)
            ):
                continue  # it never ends, or waits for a core
            if attempt.waits or any(spec.ordinal not in attempt.detached for spec in attempt.asked):
                continue  # it waits for the head's answer
            if pilot.is_trap and not attempt.cancelled and self.chance() < self.endless_rate:
                attempt.is_endless, attempt.started = True, attempt.started or self.now
                continue
            del pilot.attempts[attempt.task]
            ended.append(self._end(attempt))
            hopeless += self._let_on(pilot, ended[-1])
        if ended:
            self.numbers += 1
            pilot.outbox[self.numbers] = ended
        for attempt in hopeless:
            if attempt.task in pilot.attempts:
                self._give_back(pilot, attempt)
        if self.chance() < 0.7:
            self._tell(pilot)

    def _report(self) -> None:
        """A pilot tells how attempts have ended; maybe again, maybe to a head that has lost it."""
        if pilot := self._alive():
            if pilot.told and not pilot.outbox and self.chance() < 0.3:
                pilot.outbox, pilot.told = pilot.told, {}
            self._tell(pilot)

    def _tell(self, pilot: Pilot) -> None:
        if self.core is None or pilot.strange:
            return
        for number, reported in list(pilot.outbox.items()):
            completions = self.given.name_children(reported, self.core.tasks)
            specs = [spec for done in completions if done.children for spec in done.children.tasks]
            owed = {
                child
                for done in completions
                if done.children
                for child, _ in done.children.delegated.values()
            }
            event = ev.AttemptsEnded(
                pilot.name, completions, self._ended_inputs(specs), self._outcomes(owed)
            )
            self._apply(event)
            pilot.told[number] = pilot.outbox.pop(number)
            self.batch.after.append(partial(_forget, pilot, number))

    def _end(self, attempt: Attempt) -> Completion:
        """How an attempt ends, which only chance knows."""
        chance, template = self.chance(), attempt.template
        outcome: Outcome
        failure = None
        values: tuple[Value, ...] = ()
        children = None
        if attempt.cancelled and chance < 0.8:
            outcome = "cancelled"
        elif chance < self.crash_rate:
            outcome = "crash"
        elif chance < self.crash_rate + self.error_rate:
            outcome = "error"
            known = self.chance() < 0.7
            bases = ("ValueError", "Exception") if known else ("OSError", "Exception")
            failure = TaskFailure(bases[0], "no", bases=bases)
        elif template.time_limit_s and chance > 0.95:
            outcome = "timeout"
        elif chance > 0.9 and not self.calm:
            outcome = "interrupted"
        else:
            outcome = "ok"
            values = _values(attempt.name.encode(), template)
            if attempt.detached or (
                self.chance() < self.children_rate and len(self.rows) < 2 * self.size
            ):
                children = self._children(attempt)
                values = tuple(
                    NOTHING if index in children.delegated else value
                    for index, value in enumerate(values)
                )
        if outcome not in ("ok", "error"):
            failure = TaskFailure(outcome, "so it was")
        if outcome != "cancelled" or self.chance() < 0.5:
            attempt.started = attempt.started or self.now
        return Completion(
            attempt.task,
            attempt.number,
            outcome,
            values,
            failure,
            attempt.name,
            started=attempt.started,
            ended=self.now,
            children=children,
        )

    def _children(self, attempt: Attempt) -> Children:
        """What a task submits, and which of its results are theirs."""
        chance, rng = self.chance, self.rng
        session = attempt.template.session
        known = self.templates[session]
        new: tuple[Template, ...] = ()
        if chance() < 0.2:
            new = (self._template(session),)
        rows = self.rows
        detached = [
            (child, rows[child].template.returns)
            for child in attempt.detached.values()
            if child in rows
        ]
        sources = [
            (task, rows[task].template.returns) for task, _ in attempt.inputs if task in rows
        ]
        sources += detached
        owners = list(detached)
        specs: list[TaskSpec] = []
        for number in range(1, rng.choice((0, 1, 1, 2, 3) if detached else (1, 1, 2, 3)) + 1):
            template = rng.choice([*known, *new])
            if chance() < 0.03:
                sources.append((0xDEAD, 1))  # there is no such task
            spec = self._spec(number, template, sources)
            specs.append(spec)
            sources.append((spec.id, template.returns))
            owners.append((spec.id, template.returns))
        delegated = {}
        if owners and chance() < 0.7:
            for index in range(attempt.template.returns):
                if chance() < 0.7:
                    child, returns = rng.choice(owners)
                    delegated[index] = (child, int(chance() * returns))
        return Children((), new, tuple(specs), delegated)

    def _detach(self) -> None:
        """A task that runs submits a child that begins at once."""
        pilot = self._alive()
        if pilot is None or not pilot.attempts or len(self.rows) >= 2 * self.size:
            return
        attempt = self.rng.choice(list(pilot.attempts.values()))
        attempt.started = attempt.started or self.now
        template = self.rng.choice(self.templates[attempt.template.session])
        sources = [
            (task, self.rows[task].template.returns)
            for task in (*(task for task, _ in attempt.inputs), *attempt.detached.values())
            if task in self.rows
        ]
        number = len(attempt.asked) + 1
        spec = self._spec(number, template, sources, number)
        attempt.asked.append(spec)
        if self.core is not None:
            self._say_detached(attempt, spec)

    def _say_detached(self, attempt: Attempt, spec: TaskSpec) -> None:
        core = self.core
        assert core is not None
        session = attempt.template.session
        known = 0
        for number, row in self.rows.items():
            if row.parent == attempt.task and row.spec.ordinal == spec.ordinal:
                known = number
        if not known and session in core.sessions:
            self.batch.templates.extend(self.templates[session])
            templates = self.templates[session]
            states = self._ended_inputs([spec])
            (number,) = self.given.take(session, 1)
            named = msgspec.structs.replace(spec, id=number)
            event = ev.TasksSubmitted(session, templates, [named], states, attempt.task)
            if not self._apply(event).refused:
                known = number

        def reply() -> None:
            attempt.detached[spec.ordinal] = known  # 0: refused

        self.batch.after.append(reply)

    # --- the end

    def _calm_down(self) -> None:
        self.calm = True
        if self.core is None:
            self._start_head()
        self._join()
        for pilot in list(self.pilots.values()):
            if pilot.draining:
                pilot.draining = False
                self._apply(ev.PilotChanged(pilot.name, pilot.nodes, False))
        while self.gone:
            self._hear_of_gone()
        for session in self.sessions:
            self._control("resume", session)
            self._control("close", session)
        for _ in range(CALM_ROUNDS):
            self.now += 1.0
            assert self.core is not None
            for pilot in list(self.pilots.values()):
                # Whoever is taken for lost learns it at its next sign of life.
                pilot.strange |= pilot.name not in self.core.pilots
            if any(pilot.strange for pilot in self.pilots.values()) or not any(
                not pilot.is_trap for pilot in self.pilots.values()
            ):
                self._join()
            self._assign()
            self._ask_back()
            self._answer_lookups()
            for pilot in self.pilots.values():
                self._tell(pilot)
            self._run_some()
            self._cancel_endless()
            self._begin_commit()
            self._end_commit()
            if not self.core.tasks and not any(
                pilot.attempts or pilot.outbox or pilot.told for pilot in self.pilots.values()
            ):
                return
        tasks = self.core.tasks.values() if self.core else ()
        left = [(task.id, task.state, task.attempt, task.missing) for task in tasks]
        raise AssertionError(f"it does not end: {left}, {self.pilots}")

    def _cancel_endless(self) -> None:
        """End what never ends, once all others have ended but those that wait for it."""
        assert self.core is not None
        tasks = self.core.tasks
        endless = {each.task for pilot in self.pilots.values() for each in pilot.endless}
        others = [t for t in tasks.values() if not (t.missing or t.owed or t.id in endless)]
        if endless and not others:
            self._apply(ev.TasksCancelled(self.sessions[0], list(endless)))

    def _check_end(self) -> None:
        core, store = self.core, self.store
        assert core is not None
        for _ in range(2):
            self._begin_commit()
            self._end_commit()
        assert not core.tasks and not core.sessions and not core.templates and not core.classes
        assert not core.groups and not self.unaccepted
        for pilot in core.pilots.values():
            assert not pilot.held and pilot.load == 0, (pilot.name, pilot.held)
        assert store.rows == self.rows
        for row in store.rows.values():
            assert row.state in FINAL, row
        # The whole log, from its beginning: what was lost with a head is not in it.
        replay = Replay(store.log)
        replay.check(core)
        assert replay.tasks == {number: row.state for number, row in store.rows.items()}
        assert replay.sessions.keys() == store.sessions.keys()
        assert {state for state, _ in store.sessions.values()} == {"CLOSED"}
        assert sum(replay.told[state] for state in FINAL) == len(store.rows)
        assert replay.told[DELEGATED] == sum(row.owed is not None for row in store.rows.values())


def _is_good(row: Row) -> bool:
    outcome = row.seen()
    return outcome is not None and outcome.state == COMPLETED


def _values(origin: bytes, template: Template) -> tuple[Value, ...]:
    """Values that tell where they come from."""
    return tuple(Value(1, b"%s, %d" % (origin, index)) for index in range(template.returns))


def _forget_given_back(pilot: Pilot, task: int) -> None:
    """It has come again, with the same number."""
    for frames in (pilot.told, pilot.outbox):
        for completions in frames.values():
            completions[:] = [
                done for done in completions if not (done.is_unstarted and done.task == task)
            ]


def _forget(pilot: Pilot, number: int) -> None:
    committed = [*pilot.told.pop(number, ()), *pilot.outbox.pop(number, ())]
    pilot.inputs.forget(done.task for done in committed)


def story(seed: int) -> dict[int, Any]:
    """How all tasks of a history end."""
    history = History(seed)
    history.run()
    return {number: (row.state, row.attempts) for number, row in history.store.rows.items()}
