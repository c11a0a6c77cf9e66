"""The ends of tasks: each has its cause, counts once, and has the consequences that it should have.

This is the oracle's own account of what one head knows, which begins with what is committed. It is
told of every event and of its effects; none of these may contradict what is known. A task that is
submitted after the end of its input is judged by the same words as one that was there before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from pilot.head.core import events as ev
from pilot.head.core.core import Core
from pilot.head.core.lifecycle import default_values
from pilot.model.ids import Ref
from pilot.model.states import (
    ABORTED,
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FAILED,
    FINAL,
    READY,
    TIMED_OUT,
)
from pilot.model.tasks import Completion, TaskSpec, Template
from pilot.model.values import RELEASED, Value
from simulated.processes import RUN


@dataclass
class Row:
    """A task, as far as a head knows it."""

    template: Template
    spec: TaskSpec
    #: READY stands for all states of an unfinished task but DELEGATED; DELETED: it had results.
    state: str = READY
    values: tuple[Value, ...] = ()
    attempts: int = 0
    errors: int = 0
    crashes: int = 0
    #: What it has handed on: the values that are there, and whose results the others are.
    owed: tuple[tuple[Value, ...], dict[int, Ref]] | None = None
    #: When it ended, the class of its error, and the task that was the first cause of that.
    at: float = 0.0
    error: str = ""
    cause: int = 0

    @property
    def seen(self) -> tuple[Value, ...] | None:
        """Its results as dependents see them; None where they get none."""
        if self.state == COMPLETED:
            return self.values
        ignored = self.template.on_failure == "ignore" and self.state != CANCELLED
        return default_values(self.template, None) if ignored and self.state in FINAL else None

    @property
    def is_lost(self) -> bool:
        """True if dependents will never get anything of it."""
        return self.state in FINAL and self.seen is None

    def state_after(self, dependent: Template) -> str:
        """Return how a task ends that depends on this one, which is lost."""
        mine = self.template
        if mine.on_failure == "cancel_successors":
            return CANCELLED
        if self.state == CANCELLED:
            return CANCELLED if self.error else ABORTED  # without one somebody has said so
        if self.state == ABORTED:
            return ABORTED
        of_group = (dependent.session, dependent.group) == (mine.session, mine.group)
        together = mine.on_failure == "stop_session" or (mine.group_fails_together and of_group)
        return CANCELLED if together else ABORTED


class Ends:
    """The tasks that a head knows, and the runs of them that count."""

    def __init__(
        self,
        core: Core,
        rows: Mapping[int, Row],
        counted: set[str],
        templates: Callable[[], set[int]],
        seen: Counter[str],
        claimed: set[Ref],
        gone: Callable[[], set[Ref]],
    ) -> None:
        self._core = core
        #: What has happened, for who asks whether the simulation reaches it.
        self.seen = seen
        #: The runs that count, and those of them that are committed.
        self._counted, self._written = counted, set(counted)
        #: Those that are committed.
        self._templates = templates
        self.rows = dict(rows)
        #: What was released and is still needed, what may go, and what is gone by now.
        self._claimed, self._free = claimed, set[Ref]()
        self._gone = gone
        self._takes_tasks: set[int] = set()

    def comes(self) -> None:
        """Note how it is before an event."""
        sessions = self._core.sessions.values()
        self._takes_tasks = {one.id for one in sessions if one.state == "OPEN"}

    def take(self, event: ev.Event, effects: ev.Effects) -> None:
        """Check what follows from an event, and remember it."""
        rows = self.rows
        for spec, task, _ in effects.accepted:
            assert spec.id not in rows, f"{spec.id:#x} was taken on twice"
            rows[spec.id] = Row(task.template, spec)
        done: dict[int, Completion] = {}
        for attempt in effects.attempts:
            self._count(attempt)
            done[attempt.completion.task] = attempt.completion
        for _, late in effects.late:
            if late.task in rows:
                rows[late.task].attempts = late.attempt
        for delegated in effects.delegated:
            row = rows[delegated.task]
            assert row.state == READY, f"{delegated.task:#x} is delegated, and was {row.state}"
            row.state, row.owed = DELEGATED, (delegated.values, dict(delegated.refs))
        for end in effects.ended:
            row = rows[end.task]
            assert row.state not in FINAL, f"{end.task:#x}: {end.state} after {row.state}"
            row.state, row.values, row.at = end.state, end.values, end.at
            if end.failure is not None:
                row.error, row.cause = end.failure.type, end.failure.cause
        if isinstance(event, ev.TasksSubmitted):
            self._check_refusals(event, effects)
        if effects.ended or effects.attempts:
            _Check(self, self._core, event, effects, done).run()
        self._claimed.update(effects.claimed)
        if effects.released or (self._claimed and (effects.ended or effects.delegated)):
            self._check_released(effects)
        for spec, *_ in effects.accepted:
            if any(source in rows and rows[source].is_lost for source, _ in spec.inputs):
                self.seen["submitted after its input was lost"] += 1
                assert spec.id not in self._core.tasks, f"{spec.id:#x} waits in vain"

    def _check_released(self, effects: ev.Effects) -> None:
        """Check that what goes is needed by nobody, and that what stays is."""
        rows, needed = self.rows, set[Ref]()
        for row in rows.values():
            if row.state == READY:
                needed.update(row.spec.inputs)
            elif row.state == DELEGATED and row.owed:
                needed.update(row.owed[1].values())
        for task in self._core.tasks.values():
            needed.update(task.given)  # the latest versions of what is taken by turns
        for result in effects.released:
            state = rows[result[0]].state if result[0] in rows else FAILED
            assert result not in needed, f"{result} is released while needed"
            assert state in (*FINAL, "DELETED"), f"{result} goes before it is there"
            self._claimed.discard(result)
            self._free.add(result)
            self.seen["released"] += 1
        for result in self._claimed:
            self.seen["released, and still needed"] += result in needed
            assert result in needed or rows[result[0]].state in (READY, DELEGATED), (
                f"{result} is kept in vain"
            )

    def are_gone(self, results: Iterable[Ref]) -> None:
        """Note that results are gone."""
        for task, place in results:
            assert (task, place) in self._free, f"result {place} of {task:#x} is gone"
            row = self.rows[task]
            row.values = tuple(
                RELEASED if index == place else value for index, value in enumerate(row.values)
            )

    def may_be_gone(self, task: int, one: tuple[Value, ...], other: tuple[Value, ...]) -> bool:
        """Tell whether two accounts of a task's results differ in what is let go alone, of which
        it is not known whether that is committed."""
        return len(one) == len(other) and all(
            mine == its or ((task, place) in self._free and RELEASED in (mine, its))
            for place, (mine, its) in enumerate(zip(one, other, strict=True))
        )

    def is_released(self, result: Ref) -> bool:
        """Tell whether a result is for no task that is submitted now."""
        return result in self._claimed or result in self._gone()

    def _count(self, attempt: ev.Attempt) -> None:
        done = attempt.completion
        row = self.rows[done.task]
        if done.node.startswith(RUN):
            assert done.node not in self._counted, f"{done.node} counts twice"
            self._counted.add(done.node)
        row.attempts = done.attempt
        row.errors += done.outcome in ("error", "timeout")
        row.crashes += done.outcome == "crash"
        assert (attempt.errors, attempt.crashes) == (row.errors, row.crashes), attempt
        assert row.errors <= row.template.retries + 1, "one try too many"
        assert row.crashes <= row.template.max_crashes + 1, "one crash too many"

    def written(self, runs: Iterable[str]) -> None:
        """Note that these runs are committed."""
        self._written.update(runs)

    def check_written(self, runs: Iterable[str]) -> None:
        """Check that those of these runs that count are committed."""
        lost = self._counted.intersection(runs) - self._written
        assert not lost, f"a pilot is told that {lost} are committed, and they are not"

    def _check_refusals(self, event: ev.TasksSubmitted, effects: ev.Effects) -> None:
        refused = dict(effects.refused)
        new = {spec.id for spec, *_ in effects.accepted}
        is_open = event.parent or event.session in self._takes_tasks
        for spec in event.tasks:
            if spec.id in new or spec.id not in self.rows:
                possible = is_open and self.may_be_waited_for(spec)
                if spec.template not in self._core.templates:
                    # A client may take for known what came with others, which were all refused.
                    possible = possible and spec.template in self._templates()
                assert (spec.id in refused) != possible, (spec, refused)

    def may_be_waited_for(self, spec: TaskSpec) -> bool:
        """Tell whether all that a task needs and comes after is known."""
        inputs = all(self.is_known(source) for source, _ in spec.inputs)
        needed = [*spec.inputs, *self._core.versions(spec)]
        inputs = inputs and not any(map(self.is_released, needed))
        return inputs and self.rows.keys() >= {*spec.after}

    def waits_for(self, task: int, other: int) -> bool:
        """Tell whether a task comes after another one, or needs what does."""
        seen, waiting = {task}, [task]
        for each in waiting:  # it grows
            if each == other:
                return True
            row = self.rows.get(each)
            if row is not None:
                owed = row.owed[1].values() if row.owed else ()
                before = {*row.spec.after, *(one for one, _ in (*row.spec.inputs, *owed))}
                waiting += before - seen
                seen |= before
        return False

    def is_known(self, task: int) -> bool:
        """Tell whether a task may be waited for: its end, at least, is known."""
        row = self.rows.get(task)
        return row is not None and row.state != "DELETED"


def _verdict(row: Row, done: Completion) -> str | None:
    """Return what the outcome table says, in other words than the program."""
    template = row.template
    if done.outcome == "error":
        failure = done.failure
        named = not template.retry_on or (failure and "ValueError" in failure.bases)
        never = template.no_retry_on and failure and "OSError" in failure.bases
        return None if row.errors <= template.retries and named and not never else FAILED
    if done.outcome == "timeout" and template.retry_timeouts and row.errors <= template.retries:
        return None
    if done.outcome == "crash":
        return FAILED if row.crashes > template.max_crashes else None
    return {"ok": COMPLETED, "timeout": TIMED_OUT}.get(done.outcome)


class _Check:
    """The check of what one event has ended."""

    def __init__(
        self,
        ends: Ends,
        core: Core,
        event: ev.Event,
        effects: ev.Effects,
        done: Mapping[int, Completion],
    ) -> None:
        self._ends, self._core, self._event, self._done = ends, core, event, done
        self._new = {spec.id for spec, *_ in effects.accepted}
        self._ended = {end.task: ends.rows[end.task] for end in effects.ended}

    def run(self) -> None:
        rows, tasks = self._ends.rows, self._core.tasks
        for number, done in self._done.items():
            row, final = rows[number], _verdict(rows[number], done)
            if final is None:
                assert row.state not in (COMPLETED, FAILED, TIMED_OUT), (done, row)
            elif final == COMPLETED:
                assert row.state in FINAL or row.state == DELEGATED, (done, row)
            else:
                assert row.state == final, (done, row)
        for number, row in self._ended.items():
            assert number not in tasks
            why = getattr(self, f"_why_{row.state.lower()}")
            assert why(number, row), f"{number:#x}: {row} because of {self._event}"
            self._check_others(number, row)
        lost = {number for number, row in self._ended.items() if row.is_lost}
        for task in tasks.values() if lost else ():
            assert lost.isdisjoint(source for source, _ in task.inputs), f"{task.id:#x} in vain"

    def _check_others(self, number: int, row: Row) -> None:
        """Check that what is to end with a task has ended."""
        if row.state == CANCELLED and row.owed:
            for child, _ in row.owed[1].values():
                assert child not in self._core.tasks, f"{child:#x} works for nobody"
        template = row.template
        if row.state not in (FAILED, TIMED_OUT):
            return
        for task in self._core.tasks.values():
            if task.id in self._new or task.template.session != template.session:
                continue
            assert template.on_failure != "stop_session", f"{task.id:#x} goes on"
            if template.group_fails_together:
                assert task.template.group != template.group, f"{task.id:#x} goes on"

    def _of_child(self, number: int, row: Row) -> bool:
        """Tell whether one to which it has handed a result on has ended so, now or before."""
        owed = row.owed[1].values() if row.owed else self._handed_on(number).values()
        theirs = [self._ends.rows[child] for child, _ in owed if child in self._ends.rows]
        return any(its.is_lost and its.state == row.state for its in theirs)

    def _handed_on(self, number: int) -> Mapping[int, Ref]:
        """Return what a task hands on by its end."""
        done = self._done.get(number)
        return done.children.delegated if done is not None and done.children is not None else {}

    def _of_input(self, number: int, row: Row) -> bool:
        """Tell whether it has to end so for want of an input, and names the first cause."""
        known = self._ends.rows if number in self._new else self._ended
        lost = {source for source, _ in row.spec.inputs if source in known}
        lost = {source for source in lost if known[source].is_lost}
        if number in self._new and lost:
            first = min(known[source].at for source in lost)
            lost = {source for source in lost if known[source].at == first}
        # Where its error was deleted, a task counts as the first cause itself.
        return any(
            known[source].state_after(row.template) == row.state
            and row.cause in (known[source].cause or source, source)
            for source in lost
        )

    def _why_completed(self, number: int, row: Row) -> bool:
        """Each value is from who owns it, and from nobody else."""
        event, done = self._event, self._done.get(number)
        assert len(row.values) == row.template.returns
        if row.spec.values:
            return number in self._new and row.values == row.spec.values
        if isinstance(event, ev.TasksLookedUp) and number in event.found and not row.owed:
            return bool(row.template.cache) and row.values == event.found[number]
        if isinstance(event, ev.VersionsLookedUp) and number in event.values:
            return bool(row.spec.commutative) and row.values == (event.values[number],)
        expected = list(row.owed[0] if row.owed else done.values if done else ())
        owed = dict(row.owed[1]) if row.owed else {}
        if done is not None and done.children is not None:
            owed.update(done.children.delegated)
        for index, (child, there) in owed.items():
            values = self._ends.rows[child].seen
            assert values is not None
            expected[index] = values[there]
        is_known = done is not None or row.owed is not None
        return is_known and _undigested(expected) == _undigested(row.values)

    def _why_failed(self, number: int, row: Row) -> bool:
        done = self._done.get(number)
        verdict = _verdict(row, done) if done is not None else None
        return verdict == row.state or self._of_child(number, row)

    _why_timed_out = _why_failed

    def _why_aborted(self, number: int, row: Row) -> bool:
        """An input is not there, or what it has handed a result on to."""
        ends = self._ends
        heirs = [child for child, _ in self._handed_on(number).values()]
        return (
            self._of_child(number, row)
            or self._of_input(number, row)
            or not all(map(ends.is_known, heirs))
            or any(map(ends.is_released, self._handed_on(number).values()))
            or any(ends.waits_for(heir, number) for heir in heirs)
            or (number in self._new and not ends.may_be_waited_for(row.spec))
        )

    def _why_cancelled(self, number: int, row: Row) -> bool:
        """Somebody said so, a policy, or who has its result or wanted it."""
        event, template = self._event, row.template
        if isinstance(event, ev.TasksCancelled):
            if event.tasks is not None and number in event.tasks:
                return True
            named = event.group in ("", template.group) and event.session == template.session
            if event.tasks is None and named:
                return True
        if self._of_child(number, row) or self._of_input(number, row):
            return True
        for its in self._ended.values():
            theirs = its.template
            owed = its.owed[1].values() if its.owed else ()
            if its.state == CANCELLED and any(child == number for child, _ in owed):
                return True
            if its.state in (FAILED, TIMED_OUT) and theirs.session == template.session:
                if theirs.on_failure == "stop_session":
                    return True
                if theirs.group_fails_together and theirs.group == template.group:
                    return True
        return False


def _undigested(values: Iterable[Value]) -> list[Value]:
    """Return values without the digests by which a head recognises those in files."""
    return [msgspec.structs.replace(value, digest=b"") for value in values]
