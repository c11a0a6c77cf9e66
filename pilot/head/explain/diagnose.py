"""Diagnosis of a task that waits for no other: it runs, is about to, or has ended.

Why a ready task has no pilot is said by `pilot.head.explain.ready`.

Invariants
----------
- What is said of an unfinished task is what the core goes by; of one that has ended, what the
  database has. Only of attempts, which the core forgets, the database is always asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pilot.formatting import amount, counted, duration, moment
from pilot.head.core.retry import is_named
from pilot.head.core.state import Task
from pilot.head.explain.lookup import Lookup, Recorded
from pilot.head.explain.ready import Readiness
from pilot.head.explain.report import SHOWN, Cause, Finding, Snapshot, first_line
from pilot.head.store.damage import naming
from pilot.head.store.rows import decode_failure
from pilot.model.ids import task_label
from pilot.model.states import (
    ABORTED,
    ASSIGNED,
    COMPLETED,
    FAILED,
    FINAL,
    READY,
    RUNNING,
    TIMED_OUT,
)
from pilot.scheduler.assignment import cores_of
from pilot.wire.messages.pilot import BookingInfo, InputFetch

#: The time after which an assigned task no longer counts as just assigned, in seconds.
SETTLED_S = 2.0


class Diagnosis:
    """Finds the reasons for the states of single tasks, for one answer."""

    def __init__(self, facts: Snapshot, known: Lookup, ready: Readiness) -> None:
        self._now = facts.now
        self._live = facts.core.tasks
        self._running = facts.running
        self._fetches = facts.fetches
        self._store = facts.store
        self._known = known
        self._ready = ready

    def cause(self, number: int) -> Finding:
        """Return the reason why a task that waits for no other has not ended, or how it ended."""
        live = self._live.get(number)
        if live is None:
            return self._recorded(number)
        if live.state == RUNNING:
            return self._runs(live)
        if live.state == ASSIGNED:
            return self._is_assigned(live)
        if live.state == READY and live.template.cache and live.memo is None:
            return Finding("lookup", "is looked up: the same may have run before")
        if live.state == READY and live.aside:
            return _waits_for_turn(live)
        if live.state == READY:
            finding = self._ready.finding(live.task_class)
            place = self._ready.place(live) if finding.kind in ("busy", "next") else ()
            return finding._replace(because=(*place, *finding.because, *self._tried(live)))
        return Finding("moves", "is about to be ready")

    def group(self, number: int) -> object:
        """Return the causes that many tasks share."""
        live = self._live.get(number)
        state = self._known.state(number)
        return (state, id(live.task_class), live.aside) if live else state

    # --- unfinished

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
        if pilot is not None and task.id in pilot.waits:
            clause += ", and waits for other tasks"
            cores = counted(task.task_class.cores, "core")
            text = f"its {cores} are for others meanwhile; it goes on before anything starts there"
            lines.append(Cause("waits", text, facts={"pilot": pilot.name}))
        limit_s = task.template.time_limit_s
        if limit_s:
            left = limit_s - ran_s
            if pilot is not None and self._ready.is_suspended(pilot):
                text = f"its time limit is {duration(limit_s)}, and stands still with its pilot"
            elif left > 0:
                text = f"its time limit of {duration(limit_s)} ends it in {duration(left)}"
            else:
                text = f"its time limit of {duration(limit_s)} is over: it is being ended"
        else:
            text = "it has no time limit"
            if task.task_class.mean_s is not None:
                text += f"; tasks like it take {duration(task.task_class.mean_s)} on average"
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
        cores = cores_of(pilot)
        text = (
            f"{self._ready.pilot_name(pilot.name)} has {counted(cores, 'core')} and holds "
            f"{counted(len(pilot.held), 'task')} for {counted(pilot.load, 'core')}"
        )
        lines = [Cause("held", text, facts={"cores": cores, "load": pilot.load})]
        if (booking := self._ready.booking_of(pilot)) is not None:
            lines.append(_booked(booking, task))
        fetches = self._fetches.get(pilot.name, ())
        fetch = next((each for each in fetches if each.task == task.id), None)
        if fetch is not None:
            clause += ": it waits for an input"
            lines.insert(0, _fetch_line(fetch))
        return Finding(
            "assigned",
            clause,
            (*lines, self._ready.pilot_line(pilot), *self._tried(task)),
            facts={"since": task.assigned_at, "pilot": pilot.name},
        )

    def _tried(self, task: Task) -> list[Cause]:
        """Return the earlier attempts, and why they ended."""
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

    # --- ended, as the database has it

    def _recorded(self, number: int) -> Finding:
        """Return the finding on an ended task; without a head, also on an unfinished one."""
        row = self._known.row(number)
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
            kept = tuple(_kept_away(row))
            return Finding("failed", f"has failed: {told}", (*kept, *attempts), (show, logs), facts)
        if row.state == TIMED_OUT:
            limit = duration(row.template.time_limit_s)
            clause = f"was ended by its time limit of {limit} {at}"
            kept = tuple(_kept_away(row))
            return Finding("timed out", clause, (*kept, *attempts), (show,), facts)
        if row.state == ABORTED:
            # Its input is gone from the database, or never was there.
            return Finding("aborted", f"was aborted: {told}", attempts, (show,), facts)
        return self._cancelled(row, at, attempts, facts)

    def _completed(self, number: int, row: Recorded, at: str) -> Finding:
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
        if row.released:
            clause = f"has completed {at}, and its result was released: nobody needed it any more"
            return Finding("released", clause, (), (again,), facts)
        if row.kind == "value":
            return Finding("completed", f"is a value that was put there {at}", facts=facts)
        lines = self._attempt_lines(number)
        if not row.attempts:
            owner = next((each for each in row.owners if each and each != number), 0)
            clause = f"has completed {at} without a run: its result is that of "
            clause += self._known.name(owner) if owner else "the same work in an earlier run"
            return Finding("found", clause, lines, facts=facts)
        tries = "" if row.attempts == 1 else f", after {row.attempts} attempts"
        clause = f"has completed {at}{tries}"
        if children := {task for task, _ in row.delegated.values()}:
            from_ = ", ".join(self._known.name(each) for each in list(children)[:SHOWN])
            lines = (*lines, Cause("owner", f"its result is that of {from_}"))
        return Finding("completed", clause, lines, facts=facts)

    def _cancelled(
        self, row: Recorded, at: str, attempts: tuple[Cause, ...], facts: dict[str, Any]
    ) -> Finding:
        if row.failure is not None:
            clause = f"was cancelled {at}: {first_line(row.failure.message)}"
            first = row.failure.cause
            if not first or self._known.row(first) is None:
                return Finding("cancelled", clause, attempts, (), facts)
            cause, name = self._recorded(first), self._known.name(first)
            line = Cause(cause.kind, f"{name} {cause.clause}", task_label(first))
            return Finding("cancelled", clause, (line, *attempts), cause.advice, facts)
        clause = f"was cancelled {at}: by a user, or with its session, its group or its parent"
        return Finding("cancelled", clause, attempts, (), facts)

    def _unmoved(self, row: Recorded) -> Finding:
        if self._known.has_head:
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
        with naming(number):
            return tuple(
                Cause("attempt", _attempt(row), facts={"attempt": row["number"]}) for row in rows
            )


def _kept_away(row: Recorded) -> Iterator[Cause]:
    """Yield why a task that has retries left was not tried again, if an option kept it away."""
    failure, template = row.failure, row.template
    if failure is None or row.attempts > template.retries:
        return
    left = f"it has {counted(template.retries, 'retry', 'retries')}, but"
    if row.state == TIMED_OUT:
        if not template.retry_timeouts:
            text = f"{left} what its time limit has ended is tried again only with retry_timeouts"
            yield Cause("retry_timeouts", text)
    elif never := set(template.no_retry_on).intersection(failure.bases):
        text = f"{left} {', '.join(sorted(never))} is in no_retry_on: it is never tried again"
        yield Cause("no_retry_on", text)
    elif failure.bases and template.retry_on and not is_named(template, failure.bases):
        text = f"{left} it is tried again only after {', '.join(template.retry_on)} (retry_on)"
        yield Cause("retry_on", text)


def _booked(booking: BookingInfo, task: Task) -> Cause:
    """Return what a pilot keeps for a task that waits there, to that one or to another."""
    nodes = counted(len(booking.nodes), "node")
    names = ", ".join(booking.nodes[:SHOWN]) + (", …" if len(booking.nodes) > SHOWN else "")
    due = f"is thought to begin in {duration(booking.in_s)}"
    if booking.in_s < 0.0:
        due = (
            "begins nobody knows when, since what runs there has neither a time limit nor others "
            "of its kind that have ended"
        )
    facts = {
        "task": task_label(booking.task),
        "nodes": list(booking.nodes),
        "in_s": booking.in_s if booking.in_s >= 0.0 else None,
    }
    if booking.task == task.id:
        kept = f"what becomes free on {nodes} ({names}) is kept for it"
        text = f"it has a booking: {kept}, and it {due}"
    else:
        are = "is" if len(booking.nodes) == 1 else "are"
        text = (
            f"{nodes} ({names}) there {are} booked for task {task_label(booking.task)}, which has "
            f"waited for {duration(booking.waited_s)} and {due}: only what will have ended by then "
            "starts on what is kept"
        )
    return Cause("booking", text, task_label(booking.task), facts)


def _attempt(row: Mapping[str, Any]) -> str:
    """Describe an attempt in one line."""
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


def _fetch_line(fetch: InputFetch) -> Cause:
    """Return where an input comes from that a task waits for."""
    size = amount(fetch.size)
    if fetch.source:
        text = f"its input of {size} is on its way from the memory of node {fetch.source} to "
        text += f"node {fetch.node}, where it is to start"
    else:
        text = f"its input of {size} is in the memory of another node, and is being written to the "
        text += "site directory, since that is quicker, or there is no other way"
    facts = {"bytes": fetch.size, "source": fetch.source, "node": fetch.node}
    return Cause("input", text, facts=facts)


def _waits_for_turn(task: Task) -> Finding:
    """Return which task has the value that this one takes by turns."""
    holders = [part.turn.holder for part in task.parts if part.turn.holder is not None]
    if not holders:
        return Finding("turn", "is ready, and waits for its turn: another task goes before it")
    label = task_label(holders[0].id)
    clause = f"is ready, and waits for its turn: task {label} has the value"
    return Finding("turn", clause, facts={"holder": label})
