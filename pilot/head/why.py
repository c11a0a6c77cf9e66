"""Why a task, a result or a session is not done: what it waits for, back to the causes.

`explain` is a pure function of what the head knows (`Facts`): the core's tasks, sessions and
pilots, what elasticity and the batch system say of pilots to come, and the records in the database.
Whether a pilot can take a task, who goes first, and why a pool asks for no more nodes is answered
by the scheduler's own functions (`scheduler.assignment`, `scheduler.elasticity`), so that what is
told here is what is done there. Where no head runs, the records are all there is.

A task that waits for others is not a cause: it is followed, through its inputs and through the
children that it has delegated its results to, to the tasks that wait for no other. The same walk
leads from a task that was aborted to the one that failed first.

Invariants
----------
- An answer costs the same however many tasks wait: tasks, rows and places in a queue are looked at
  up to the limits below, and the answer says where it did not look further.
- Nothing is changed.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pilot.errors import PilotError
from pilot.head import search
from pilot.head.causes import SHOWN, Answer, Cause, Facts, Finding, first_line
from pilot.head.policy import (
    ABORTED,
    ASSIGNED,
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FAILED,
    FINAL,
    PENDING,
    READY,
    RUNNING,
    TIMED_OUT,
)
from pilot.head.readiness import LOOK_QUEUE, Readiness
from pilot.head.state import Task, TaskClass
from pilot.head.store import (
    decode_delegated,
    decode_failure,
    decode_inputs,
    decode_result,
    decode_template,
)
from pilot.wire.messages import (
    Ref,
    TaskFailure,
    Template,
    parse_task_label,
    task_label,
)
from pilot.words import counted, duration, moment

if TYPE_CHECKING:
    from pilot.head.queries import View

#: Of the tasks that one waits for, so many are looked at; so many rows where only those know.
LOOK_TASKS, LOOK_ROWS = 10_000, 1000
#: Of a session, so many tasks that wait for others; they are looked for among so many tasks.
LOOK_WAITING, LOOK_AMONG = 1000, 100_000
#: Of a session, the classes that have most ready tasks.
LOOK_CLASSES = 100
#: Of a long chain, so many tasks at each end are told; of a session, so many groups of each kind.
SHOWN_OF_CHAIN, SHOWN_OF_SESSION = 3, 5
#: A task that a pilot has had for so long has not just been given to it, in seconds.
SETTLED_S = 2.0

_SUBJECT = re.compile(r"""(\d+\.\d+)(?:\[\s*["']?(.+?)["']?\s*\]|/(.+))?""")


def why(view: View, subject: str | None = None) -> dict[str, Any]:
    """What a task (``3.17``), a result (``3.17/name``) or a session (``3``) waits for."""
    facts = Facts(
        time.time(), view.core, view.running, view.fleet.outlook(), view.store, view.status()
    )
    answer: dict[str, Any] = msgspec.to_builtins(explain(facts, subject))
    return answer


def explain(facts: Facts, subject: str | None = None) -> Answer:
    """Why a task, a result or a session (default: the newest) is not done, or how it ended.

    Raises
    ------
    PilotError
        There is no such thing.
    """
    return _Explainer(facts).answer(subject)


class _Ended(NamedTuple):
    """A task as the database has it."""

    session: int
    name: str
    kind: str
    state: str
    attempts: int
    ended: float | None
    inputs: tuple[Ref, ...]
    #: Which results are those of which children.
    delegated: Mapping[int, Ref]
    deleted: bool
    failure: TaskFailure | None
    #: Tasks that wrote its results.
    owners: tuple[int, ...]
    template: Template
    session_state: str
    paused: bool


class _Explainer:
    """Answers one question; remembers what it has looked up for it."""

    def __init__(self, facts: Facts) -> None:
        self._now = facts.now
        self._core = facts.core
        self._running = facts.running
        self._outlook = facts.outlook
        self._store = facts.store
        self._head = facts.head
        self._has_head = facts.head.get("pid") is not None
        self._rows: dict[int, _Ended | None] = {}
        self._root_of: dict[int, int] = {}
        self._steps = 0
        self._ready = Readiness(facts)

    # --- the three subjects

    def answer(self, subject: str | None) -> Answer:
        if subject is None or subject.isdecimal():
            return self._answer_session(None if subject is None else int(subject))
        match = _SUBJECT.fullmatch(subject)
        if match is None:
            raise PilotError(
                f"{subject!r} is neither a task, as 3.17, nor a result, as 3.17/0 or 3.17/name, "
                "nor a session, as 3"
            )
        number = parse_task_label(match[1])
        part = match[2] or match[3]
        if number not in self._core.tasks and self._row(number) is None:
            raise PilotError(f"there is no task {match[1]}; `pilot task list` shows them")
        return self._answer_task(number) if part is None else self._answer_result(number, part)

    def _answer_task(self, number: int) -> Answer:
        finding = self._explain(number)
        return self._as_answer(
            task_label(number),
            self._state(number),
            f"{self._name(number)} {finding.clause}",
            finding,
        )

    def _answer_result(self, number: int, part: str) -> Answer:
        template = self._template(number)
        names = template.return_names
        if part in names:
            index = names.index(part)
        elif part.isdecimal() and int(part) < template.returns:
            index = int(part)
        else:
            known = ", ".join(names) or f"{template.returns}, numbered from 0"
            raise PilotError(f"task {task_label(number)} has no result {part!r}; it has {known}")
        label = f"{task_label(number)}/{part}"
        told = f"result {part} of {self._name(number)}"
        way = [number]
        # Down to the task that has it now, or is to make it.
        while len(way) < LOOK_ROWS and (owner := self._delegate(way[-1], index)) is not None:
            number, index = owner
            way.append(number)
        finding = self._explain(number)
        if len(way) == 1:
            sentence = f"{told} is not there: the task {finding.clause}"
            if self._state(number) == COMPLETED:
                sentence = f"{told}: the task {finding.clause}"
            return self._as_answer(label, self._state(number), sentence, finding)
        sentence = (
            f"{told} is that of {self._name(number)}"
            + (f", {counted(len(way) - 1, 'delegation')} further" if len(way) > 2 else "")
            + f", which {finding.clause}"
        )
        last = Cause("owner", f"{self._name(number)} {finding.clause}", task_label(number))
        last = msgspec.structs.replace(last, facts=finding.facts, because=finding.because)
        chain = self._nest(way, last, "has delegated it to")
        return self._as_answer(
            label, self._state(number), sentence, finding._replace(because=(chain,))
        )

    def _as_answer(self, subject: str, state: str, sentence: str, finding: Finding) -> Answer:
        because, advice = finding.because, finding.advice
        if (error := self._head.get("unwritten")) and state not in FINAL:
            text = (
                f"the database cannot be written ({error}): no end of a task is told before it can"
            )
            because = (*because, Cause("database", text))
        once = tuple(dict.fromkeys(advice))
        return Answer(subject, state, finding.kind, sentence, finding.facts, because, once)

    # --- what waits for what

    def _needs(self, number: int) -> tuple[int, ...]:
        """The tasks that this one waits for, or by which it was aborted."""
        live = self._core.tasks.get(number)
        if live is not None:
            if live.state == PENDING:
                needed: Iterable[int] = (source for source, _ in live.inputs)
            elif live.state == DELEGATED:
                needed = (child.id for child in live.delegates)
            else:
                return ()
            unfinished = (each for each in needed if each in self._core.tasks)
            return tuple(dict.fromkeys(islice(unfinished, LOOK_TASKS + 1)))
        row = self._row(number)
        if row is None or (row.state == READY and self._has_head):
            return ()
        if row.state == READY:
            return tuple(self._in_states([s for s, _ in row.inputs], (READY, DELEGATED)))
        if row.state == DELEGATED:
            return tuple(
                self._in_states([s for s, _ in row.delegated.values()], (READY, DELEGATED))
            )
        if row.state in (COMPLETED, CANCELLED):
            return ()
        return self._culprit(row)

    def _culprit(self, row: _Ended) -> tuple[int, ...]:
        """The task whose end was this one's: a child that had its results, or an input."""
        sources = [source for source, _ in row.delegated.values()]
        if row.state == ABORTED:
            sources += [source for source, _ in row.inputs]
        for each in self._in_states(sources, (FAILED, TIMED_OUT, ABORTED, CANCELLED)):
            found = self._row(each)
            if found is None or found.template.on_failure != "ignore" or found.state == CANCELLED:
                return (each,)
        return ()

    def _in_states(self, tasks: list[int], states: tuple[str, ...]) -> list[int]:
        known = self._store.states(tasks) if tasks else {}
        return [task for task in dict.fromkeys(tasks) if known.get(task) in states]

    def _delegate(self, number: int, index: int) -> Ref | None:
        """Which result of which child stands for a result; None where there is no such child."""
        live = self._core.tasks.get(number)
        if live is None:
            row = self._row(number)
            return row.delegated.get(index) if row is not None else None
        for child in live.delegates:
            for heir, here, there in child.heirs or ():
                if heir is live and here == index:
                    return child.id, there
        return None

    def _root(self, number: int) -> int:
        """The task at the end of the way along the first task that each waits for."""
        way = []
        while number not in self._root_of and self._steps < LOOK_TASKS:
            way.append(number)
            self._steps += 1
            needs = self._needs(number)
            if not needs:
                break
            number = needs[0]
        number = self._root_of.get(number, number)
        self._root_of.update(dict.fromkeys(way, number))
        return number

    def _roots(self, number: int) -> tuple[dict[int, int], list[int], bool]:
        """The ends of all ways from a task: who led to whom, the ends, and whether that is all."""
        most = LOOK_TASKS if self._core.tasks else LOOK_ROWS
        led: dict[int, int] = {number: 0}
        ends, waiting = [], [number]
        for each in waiting:  # it grows
            needs = self._needs(each)
            if not needs:
                ends.append(each)
            for needed in needs:
                if needed not in led:
                    led[needed] = each
                    if len(led) > most:
                        return led, ends or [self._root(number)], False
                    waiting.append(needed)
        return led, ends, True

    def _explain(self, number: int) -> Finding:
        """What is the matter with a task, be it a cause or wait for others."""
        if not self._needs(number):
            return self._cause(number)
        led, ends, complete = self._roots(number)
        groups: dict[object, list[int]] = {}
        for end in ends:
            groups.setdefault(self._group(end), []).append(end)
        # What does not run yet takes longest.
        ordered = sorted(groups.values(), key=lambda group: self._state(group[0]) == RUNNING)
        shown = []
        advice: list[str] = []
        clause = kind = ""
        facts: Mapping[str, Any] = {}
        for group in ordered[:SHOWN]:
            cause = self._cause(group[0])
            way = self._way(led, number, group[0])
            advice += cause.advice
            name = self._name(group[0])
            if not clause:
                kind, facts = cause.kind, cause.facts
                clause = self._headline(number, name, len(way) - 1, cause.clause)
            last = Cause(
                cause.kind,
                f"{name} {cause.clause}",
                task_label(group[0]),
                cause.facts,
                cause.because,
            )
            if len(group) > 1:
                more = f"as do {counted(len(group) - 1, 'more task')} that are the same to it"
                last = msgspec.structs.replace(last, text=f"{last.text}; {more}")
            shown.append(self._nest(way, last))
        others = len(ends) - 1
        if others:
            clause += f" (and for {counted(others, 'other task')})"
        if len(ordered) > SHOWN:
            rest = sum(map(len, ordered[SHOWN:]))
            shown.append(Cause("more", f"{counted(rest, 'other task')} of other kinds"))
        if not complete:
            shown.append(
                Cause("more", f"only the first {len(led)} tasks on the way were looked at")
            )
        return Finding(kind, clause, tuple(shown), tuple(advice), facts)

    def _headline(self, number: int, root: str, steps: int, clause: str) -> str:
        state = self._state(number)
        back = f", {steps} tasks back" if steps > 1 else ""
        if state == ABORTED:
            return f"was aborted because of {root}{back}, which {clause}"
        if state in FINAL:
            return f"has its result from {root}{back}, which {clause}"
        what = "an input" if state in (PENDING, READY) else "its child"
        return f"waits for {what if steps == 1 else root}" + (
            f": {root} {clause}" if steps == 1 else f"{back}, which {clause}"
        )

    def _way(self, led: Mapping[int, int], first: int, last: int) -> list[int]:
        way = [last]
        while way[-1] != first:
            way.append(led.get(way[-1]) or first)
        return way[::-1]

    def _nest(self, way: list[int], last: Cause, verb: str = "") -> Cause:
        """A chain of tasks as causes in each other; the middle of a long one is left out."""
        steps = way[:-1]
        if len(steps) > 2 * SHOWN_OF_CHAIN + 1:
            left_out = len(steps) - 2 * SHOWN_OF_CHAIN
            steps = [*steps[:SHOWN_OF_CHAIN], -left_out, *steps[-SHOWN_OF_CHAIN:]]
        following = way[-1]
        for each in reversed(steps):
            if each < 0:
                text = f"... and so on over {counted(-each, 'task')} ..."
                last = Cause("more", text, because=(last,))
                following = way[SHOWN_OF_CHAIN]
                continue
            text = f"{self._name(each)} {verb or self._verb(each)} {self._name(following)}"
            last = Cause("task", text, task_label(each), because=(last,))
            following = each
        return last

    def _verb(self, number: int) -> str:
        """What ties a task to the one that it needs."""
        live = self._core.tasks.get(number)
        row = None if live else self._row(number)
        delegated = live.state == DELEGATED if live else bool(row and row.delegated)
        state = self._state(number)
        if state in FINAL and not delegated:
            return "was aborted because of its input"
        if delegated:
            waited = sum(c.id in self._core.tasks for c in live.delegates) if live else 1
            return (
                "has run, and its result is to come from "
                + (f"{waited} children, among them" if waited > 1 else "its child")
                if state not in FINAL
                else "has its result from its child"
            )
        missing = live.missing if live else len(self._needs(number))
        total = len({s for s, _ in (live.inputs if live else row.inputs if row else ())})
        return "needs " + (
            f"{missing} of {total} inputs still, such as" if total > 1 else "its input"
        )

    # --- causes

    def _group(self, number: int) -> object:
        """Causes that are the same for many tasks."""
        live = self._core.tasks.get(number)
        return (self._state(number), id(live.task_class)) if live else self._state(number)

    def _cause(self, number: int) -> Finding:
        """What is the matter with a task that waits for no other."""
        live = self._core.tasks.get(number)
        if live is None:
            return self._recorded(number)
        if live.state == RUNNING:
            return self._runs(live)
        if live.state == ASSIGNED:
            return self._is_assigned(live)
        if live.state == READY and live.template.cache and live.memo is None:
            return Finding("lookup", "is looked up: the same may have run before")
        if live.state == READY:
            finding = self._ready.finding(live.task_class)
            place = self._ready.place(live) if finding.kind in ("busy", "next") else ()
            return finding._replace(because=(*place, *finding.because, *self._tried(live)))
        return Finding("moves", "is about to be ready")

    def _runs(self, task: Task) -> Finding:
        told = self._running.get(task.id)
        since = told.started if told else task.started_at or task.assigned_at
        ran_s = self._now - since
        where = told.node if told else ""
        pilot = task.pilot
        clause = f"runs for {duration(ran_s)}" + (f" on node {where}" if where else "")
        if task.attempt > 1:
            clause += f", in attempt {task.attempt}"
        lines = []
        limit_s = task.template.time_limit_s
        if limit_s:
            left = limit_s - ran_s
            text = (
                f"its time limit of {duration(limit_s)} ends it in {duration(left)}"
                if left > 0
                else f"its time limit of {duration(limit_s)} is over: it is being ended"
            )
        else:
            text = "it has no time limit"
            if task.task_class.mean_s is not None:
                text += f"; those of its kind take {duration(task.task_class.mean_s)} in the mean"
        lines.append(Cause("time limit", text, facts={"time_limit_s": limit_s}))
        if pilot is not None:
            lines.append(self._ready.pilot_line(pilot))
        lines += self._tried(task)
        return Finding(
            "runs",
            clause,
            tuple(lines),
            (f"`pilot task logs -f {task_label(task.id)}` shows what it writes",),
            {"since": since, "node": where, "attempt": task.attempt},
        )

    def _is_assigned(self, task: Task) -> Finding:
        pilot = task.pilot
        if pilot is None or self._now - task.assigned_at < SETTLED_S:
            return Finding("moves", "has just been given to a pilot", tuple(self._tried(task)))
        since_s = self._now - task.assigned_at
        clause = f"was given to a pilot {duration(since_s)} ago, and has not started there"
        cores = pilot.shape.cores * pilot.nodes
        text = (
            f"{self._ready.pilot_name(pilot.name)} has {counted(cores, 'core')} and holds "
            f"{counted(len(pilot.held), 'task')} for {counted(pilot.load, 'core')}"
        )
        lines = [Cause("held", text, facts={"cores": cores, "load": pilot.load})]
        return Finding(
            "assigned",
            clause,
            (*lines, self._ready.pilot_line(pilot), *self._tried(task)),
            facts={"since": task.assigned_at, "pilot": pilot.name},
        )

    def _tried(self, task: Task) -> list[Cause]:
        """Earlier attempts, and why they ended."""
        if not task.ended_attempt:
            return []
        rows = self._store.rows("last_attempts", {"task": task.id, "limit": SHOWN})
        lines = [Cause("tried", _attempt(row), facts={"attempt": row["number"]}) for row in rows]
        if not lines:
            return []
        text = f"it was tried before: {counted(task.ended_attempt, 'attempt')}"
        if task.errors or task.crashes:
            template = task.template
            text += (
                f" ({task.errors} of {counted(template.retries, 'retry', 'retries')} and "
                f"{task.crashes} of {counted(template.max_crashes, 'crash', 'crashes')} used)"
            )
        return [Cause("tried", text, because=tuple(lines))]

    # --- what the database knows

    def _recorded(self, number: int) -> Finding:
        """A task that has ended; or, without a head, one that has not."""
        row = self._row(number)
        if row is None:
            return Finding("unknown", "is not in the database")
        if row.state not in FINAL:
            return self._unmoved(row)
        label = task_label(number)
        at = f"at {moment(row.ended)}" if row.ended else ""
        show = f"`pilot task show {label}` has all of it"
        if row.state == COMPLETED:
            return self._completed(number, row, at)
        told = f"{row.failure.type}: {first_line(row.failure.message)}" if row.failure else ""
        attempts = self._attempt_lines(number)
        facts = {"ended": row.ended, "error": told}
        if row.state == FAILED:
            logs = f"`pilot task logs {label}` has what it wrote"
            return Finding("failed", f"has failed: {told}", attempts, (show, logs), facts)
        if row.state == TIMED_OUT:
            limit = duration(row.template.time_limit_s)
            clause = f"was ended by its time limit of {limit} {at}"
            return Finding("timed out", clause, attempts, (show,), facts)
        if row.state == ABORTED:
            # Its input is gone from the database, or never was there.
            return Finding("aborted", f"was aborted: {told}", attempts, (show,), facts)
        return self._cancelled(row, at, attempts, facts)

    def _completed(self, number: int, row: _Ended, at: str) -> Finding:
        facts = {"ended": row.ended, "attempts": row.attempts}
        again = "submit it again to have its result"
        if row.session_state == "PURGED":
            clause = (
                f"has completed {at}, but session {row.session} was purged: its result is deleted"
            )
            return Finding("purged", clause, (), (again,), facts)
        if row.deleted:
            clause = f"has completed {at}, but its result was deleted"
            return Finding("deleted", clause, (), (again,), facts)
        if row.kind == "value":
            return Finding("completed", f"is a value that was put there {at}", facts=facts)
        lines = self._attempt_lines(number)
        if not row.attempts:
            owner = next((each for each in row.owners if each and each != number), 0)
            clause = f"has completed {at} without a run: its result is that of "
            clause += self._name(owner) if owner else "the same work in an earlier run"
            return Finding("found", clause, lines, facts=facts)
        tries = "" if row.attempts == 1 else f", after {row.attempts} attempts"
        clause = f"has completed {at}{tries}"
        if children := {task for task, _ in row.delegated.values()}:
            from_ = ", ".join(self._name(each) for each in list(children)[:SHOWN])
            lines = (*lines, Cause("owner", f"its result is that of {from_}"))
        return Finding("completed", clause, lines, facts=facts)

    def _cancelled(
        self, row: _Ended, at: str, attempts: tuple[Cause, ...], facts: dict[str, Any]
    ) -> Finding:
        if row.failure is not None:
            return Finding(
                "cancelled",
                f"was cancelled {at}: {first_line(row.failure.message)}",
                attempts,
                (),
                facts,
            )
        together = row.template.group_fails_together
        # What one end brings about is all written with the same time.
        rows = self._store.rows("failed_at", {"session": row.session, "at": row.ended})
        for each in rows:
            failed = self._row(each["id"])
            if failed is None:
                continue
            stops = failed.template.on_failure == "stop_session"
            if stops or (together and failed.template.group == row.template.group):
                whole = f"session {row.session}" if stops else f"its group {row.template.group!r}"
                cause = self._recorded(each["id"])
                name = self._name(each["id"])
                line = Cause(cause.kind, f"{name} {cause.clause}", task_label(each["id"]))
                clause = f"was cancelled {at} with {whole}, since {name} failed"
                return Finding("cancelled", clause, (line, *attempts), cause.advice, facts)
        clause = f"was cancelled {at}: by a user, or with its session, its group or its parent"
        return Finding("cancelled", clause, attempts, (), facts)

    def _unmoved(self, row: _Ended) -> Finding:
        if self._has_head:
            return Finding("moves", "has just ended, and its end is being written: ask again")
        advice = ["`pilot head start` starts one"]
        if row.paused:
            advice.append(f"`pilot session resume {row.session}`, since the session is paused too")
        lines = []
        if row.paused:
            lines.append(Cause("paused", f"session {row.session} is paused"))
        alive = [r for r in self._store.rows("pilots_alive", {}) if r["state"] == RUNNING]
        if alive:
            text = (
                f"{counted(len(alive), 'pilot')} ran when the last head ended: they go on with "
                "what they have, and report to the next head"
            )
            lines.append(Cause("pilots", text))
        clause = "is unfinished, and no head runs: nothing moves until one does"
        return Finding("no head", clause, tuple(lines), tuple(advice))

    def _attempt_lines(self, number: int) -> tuple[Cause, ...]:
        rows = self._store.rows("last_attempts", {"task": number, "limit": SHOWN})
        return tuple(
            Cause("attempt", _attempt(row), facts={"attempt": row["number"]}) for row in rows
        )

    def _row(self, number: int) -> _Ended | None:
        if number not in self._rows:
            rows = self._store.rows("explain_task", {"task": number})
            self._rows[number] = _ended(rows[0]) if rows else None
        return self._rows[number]

    def _template(self, number: int) -> Template:
        live = self._core.tasks.get(number)
        if live is not None:
            return live.template
        row = self._row(number)
        assert row is not None
        return row.template

    def _name(self, number: int) -> str:
        live = self._core.tasks.get(number)
        row = None if live else self._row(number)
        name = live.template.name if live else row.name if row else ""
        return f"task {task_label(number)}" + (f" ({name})" if name else "")

    def _state(self, number: int) -> str:
        live = self._core.tasks.get(number)
        if live is not None:
            return live.state
        row = self._row(number)
        return "UNKNOWN" if row is None else row.state

    # --- sessions

    def _answer_session(self, session: int | None) -> Answer:
        arguments = dict.fromkeys(("states", "paused", "name", "since"))
        rows = self._store.rows(
            "list_sessions", {**arguments, "open_only": False, "session": session, "limit": 1}
        )
        if not rows:
            raise PilotError(
                "there is no session yet"
                if session is None
                else f"there is no session {session}; `pilot session list` shows them"
            )
        row = rows[0]
        number = int(row["id"])
        name = f"session {number} ({row['name']})"
        live = self._core.sessions.get(number)
        unfinished = live.unfinished if live else row["unfinished"]
        state = live.state if live else row["state"]
        if row["ended"] or not unfinished:
            return self._idle_session(number, name, state, row)
        if live is None:
            finding = self._unfinished_offline(number)
            clause = f"has {counted(unfinished, 'unfinished task')}, and no head runs"
            return self._as_answer(str(number), state, f"{name} {clause}", finding)
        finding = self._live_session(number)
        clause = finding.clause
        if state != "OPEN":
            clause = f"is {state}, and {clause}"
        if live.paused:
            advice = (f"`pilot session resume {number}` lets it go on", *finding.advice)
            clause = f"is paused: nothing starts until it is resumed; it {clause}"
            finding = finding._replace(kind="paused", advice=advice)
        return self._as_answer(str(number), state, f"{name} {clause}", finding)

    def _live_session(self, number: int) -> Finding:
        """What the unfinished tasks of a session wait for: how many for what, and one of them."""
        session = self._core.sessions[number]
        classes = [work for work in self._core.classes.values() if work.session is session]
        ready = sum(work.ready for work in classes)
        held = sum(work.assigned for work in classes)
        waiting = session.unfinished - ready - held
        numbers = ((ready, "ready"), (held, "with pilots"), (waiting, "waiting for others"))
        told = ", ".join(f"{count} {what}" for count, what in numbers if count > 0)
        causes: list[Cause] = []
        advice: list[str] = []
        for count, example, finding in self._ready_groups(classes):
            causes.append(self._group_cause(count, example, finding))
            advice += finding.advice
        if held and (longest := self._longest_held(number)):
            causes.append(self._group_cause(held, longest, self._cause(longest)))
        causes += self._waiting_groups(number, waiting)
        return Finding(
            causes[0].kind if causes else "moves",
            f"has {counted(session.unfinished, 'unfinished task')}: {told}",
            tuple(causes),
            tuple(advice),
        )

    def _group_cause(self, count: int, example: int, finding: Finding) -> Cause:
        text = f"{self._name(example)}, which {finding.clause}"
        if count > 1:
            text = f"{count} tasks such as {text}"
        facts = {**finding.facts, "count": count}
        return Cause(finding.kind, text, task_label(example), facts, finding.because)

    def _ready_groups(self, classes: list[TaskClass]) -> list[tuple[int, int, Finding]]:
        """Ready tasks by what keeps them, most first: how many, one of them, and what it is."""
        groups: dict[tuple[str, str], tuple[int, int, Finding]] = {}
        largest = heapq.nlargest(LOOK_CLASSES, classes, key=lambda work: work.ready)
        for work in largest:
            queued = islice(work.queue, LOOK_QUEUE)
            example = next((task.id for task in queued if task.state == READY), None)
            if example is None:
                continue
            finding = self._ready.finding(work)
            key = (finding.kind, finding.clause)
            count, first, _ = groups.get(key, (0, example, finding))
            groups[key] = (count + work.ready, first, finding)
        found = sorted(groups.values(), key=lambda group: -group[0])
        return found[:SHOWN_OF_SESSION]

    def _longest_held(self, session: int) -> int | None:
        """The task of a session that a pilot has had for longest."""
        held = (
            self._core.tasks[number]
            for pilot in self._core.pilots.values()
            for number in islice(pilot.held, LOOK_TASKS)
            if number in self._core.tasks
        )
        mine = [task for task in held if task.template.session == session and task.pilot]
        # What runs tells more than what has just been given away.
        first = min(mine, key=lambda task: (task.state != RUNNING, task.assigned_at), default=None)
        return first.id if first else None

    def _waiting_groups(self, session: int, waiting: int) -> list[Cause]:
        """Tasks that wait for others, by what these wait for in the end."""
        groups: dict[object, list[int]] = {}
        seen = 0
        for task in islice(self._core.tasks.values(), LOOK_AMONG):
            if task.template.session == session and task.state in (PENDING, DELEGATED):
                groups.setdefault(self._group(self._root(task.id)), []).append(task.id)
                seen += 1
                if seen == LOOK_WAITING:
                    break
        causes = []
        for group in sorted(groups.values(), key=len, reverse=True)[:SHOWN_OF_SESSION]:
            root = self._root(group[0])
            finding = self._cause(root)
            text = f"{self._name(group[0])}, which waits for others, in the end for "
            text += f"{self._name(root)}, which {finding.clause}"
            if len(group) > 1:
                text = f"{len(group)} tasks such as {text}"
            facts = {**finding.facts, "count": len(group)}
            causes.append(Cause(finding.kind, text, task_label(group[0]), facts))
        if seen < waiting:
            text = f"of the {waiting} tasks that wait for others, {seen} were looked at"
            causes.append(Cause("more", text))
        return causes

    def _unfinished_offline(self, session: int) -> Finding:
        wanted = search.wanted(session=session, state=(READY, DELEGATED))
        first = search.find(self._store, self._core, wanted, limit=1)
        finding = self._explain(first[0])
        cause = Cause(
            finding.kind, f"{self._name(first[0])} {finding.clause}", task_label(first[0])
        )
        return Finding("no head", "", (cause, *finding.because), finding.advice)

    def _idle_session(self, session: int, name: str, state: str, row: dict[str, Any]) -> Answer:
        counts = search.count(self._store, self._core, search.wanted(session=session))
        told = ", ".join(f"{count} {each}" for each, count in counts.items())
        total = sum(counts.values())
        ended = f"all {counted(total, 'task')} have ended: {told}" if total else "it has no tasks"
        if total == 1:
            ended = f"its task has ended: {told}"
        how = f"is {state}"
        if state == "OPEN":
            how = "is open and has nothing to do"
        if row["ended"]:
            how += f" since {moment(row['ended'])}"
        causes: list[Cause] = []
        advice: tuple[str, ...] = ()
        for bad in (FAILED, TIMED_OUT):
            if counts.get(bad):
                wanted = search.wanted(session=session, state=bad)
                number = search.find(self._store, self._core, wanted, limit=1)[0]
                finding = self._explain(number)
                text = f"{self._name(number)} {finding.clause}"
                causes.append(
                    Cause(finding.kind, text, task_label(number), finding.facts, finding.because)
                )
                advice += finding.advice
        kind = "ended" if row["ended"] else "idle"
        return self._as_answer(
            str(session), state, f"{name} {how}; {ended}", Finding(kind, "", tuple(causes), advice)
        )


def _attempt(row: Mapping[str, Any]) -> str:
    """One attempt in a line."""
    failure = decode_failure(row["failure"])
    text = f"attempt {row['number']}" + (f" on node {row['node']}" if row["node"] else "")
    if row["started"] and row["ended"]:
        text += f" ran for {duration(row['ended'] - row['started'])}"
    how = "ended well" if row["outcome"] == "ok" else row["outcome"]
    text += f": {how}"
    if failure is None or row["outcome"] == "ok":
        return text
    same = failure.type == row["outcome"]
    return f"{text}: {'' if same else f'{failure.type}: '}{first_line(failure.message)}"


def _ended(row: dict[str, Any]) -> _Ended:
    values, failure = decode_result(row["result"])
    return _Ended(
        row["session"],
        row["name"],
        row["kind"],
        row["state"],
        row["attempts"],
        row["ended"],
        decode_inputs(row["inputs"]),
        decode_delegated(row["delegated"])[1],
        row["state"] == COMPLETED and row["result"] is None,
        failure,
        tuple(value.owner for value in values),
        decode_template(row["detail"]),
        row["session_state"] or "",
        bool(row["paused"]),
    )
