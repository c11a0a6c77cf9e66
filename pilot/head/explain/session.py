"""Explanation of a session: how many tasks wait for what, with an example of each kind.

Invariants
----------
- An answer costs the same however many tasks the session has: they are looked at up to the limits
  below, and it says where it did not look further.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import Any

from pilot.errors import PilotError
from pilot.formatting import counted, moment
from pilot.head.core.state import TaskClass
from pilot.head.explain.diagnose import Diagnosis
from pilot.head.explain.lookup import Lookup
from pilot.head.explain.ready import LOOK_QUEUE, Readiness
from pilot.head.explain.report import Cause, Explanation, Finding, Snapshot
from pilot.head.explain.task import TaskAnswers
from pilot.head.explain.walk import LOOK_TASKS, Walk
from pilot.head.store import search
from pilot.model.ids import task_label
from pilot.model.states import DELEGATED, FAILED, PENDING, READY, RUNNING, TIMED_OUT

#: The most waiting tasks of a session to walk from, and the most tasks to search for them.
LOOK_WAITING, LOOK_AMONG = 1000, 100_000
#: The number of classes to explain: those with the most ready tasks.
LOOK_CLASSES = 100
#: The number of groups of each kind that are shown.
SHOWN_OF_SESSION = 5


class SessionAnswers:
    """Explains sessions, for one answer."""

    def __init__(
        self,
        facts: Snapshot,
        known: Lookup,
        ways: Walk,
        ready: Readiness,
        findings: Diagnosis,
        tasks: TaskAnswers,
    ) -> None:
        self._core = facts.core
        self._live = facts.core.tasks
        self._store = facts.store
        self._known = known
        self._ways = ways
        self._ready = ready
        self._findings = findings
        self._tasks = tasks

    def of_session(self, session: int | None) -> Explanation:
        """Explain a session; None: the newest."""
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
            return Explanation(str(number), state, f"{name} {clause}", finding)
        finding = self._live_session(number)
        clause = finding.clause
        if state != "OPEN":
            clause = f"is {state}, and {clause}"
        if live.paused:
            advice = (f"`pilot session resume {number}` lets it go on", *finding.advice)
            clause = f"is paused: nothing starts until it is resumed; it {clause}"
            finding = finding._replace(kind="paused", advice=advice)
        return Explanation(str(number), state, f"{name} {clause}", finding)

    def _idle_session(
        self, session: int, name: str, state: str, row: dict[str, Any]
    ) -> Explanation:
        counts = search.count(self._store, self._core, search.wanted(session=session, current=True))
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
        if row["reason"]:
            how += f": {row['reason']}"
        causes: list[Cause] = []
        advice: tuple[str, ...] = ()
        for bad in (FAILED, TIMED_OUT):
            if counts.get(bad):
                wanted = search.wanted(session=session, state=bad, current=True)
                number = search.find(self._store, self._core, wanted, limit=1)[0]
                finding = self._tasks.explain(number)
                text = f"{self._known.name(number)} {finding.clause}"
                causes.append(
                    Cause(finding.kind, text, task_label(number), finding.facts, finding.because)
                )
                advice += finding.advice
        kind = "ended" if row["ended"] else "idle"
        return Explanation(
            str(session), state, f"{name} {how}; {ended}", Finding(kind, "", tuple(causes), advice)
        )

    def _unfinished_offline(self, session: int) -> Finding:
        wanted = search.wanted(session=session, state=(READY, DELEGATED))
        first = search.find(self._store, self._core, wanted, limit=1)
        finding = self._tasks.explain(first[0])
        cause = Cause(
            finding.kind, f"{self._known.name(first[0])} {finding.clause}", task_label(first[0])
        )
        return Finding("no head", "", (cause, *finding.because), finding.advice)

    def _live_session(self, number: int) -> Finding:
        """Return the waits of a session's unfinished tasks, with counts and an example of each."""
        session = self._core.sessions[number]
        classes = [work for work in self._core.classes.values() if work.session is session]
        # Versions of a task have one queue.
        queues = [work for work in classes if work is work.versions[0]]
        ready = sum(work.ready for work in queues)
        held = sum(work.assigned for work in classes)
        waiting = session.unfinished - ready - held
        numbers = ((ready, "ready"), (held, "with pilots"), (waiting, "waiting for others"))
        told = ", ".join(f"{count} {what}" for count, what in numbers if count > 0)
        causes: list[Cause] = []
        advice: list[str] = []
        for count, example, finding in self._ready_groups(queues):
            causes.append(self._group_cause(count, example, finding))
            advice += finding.advice
        if held and (longest := self._longest_held(number)):
            causes.append(self._group_cause(held, longest, self._findings.cause(longest)))
        causes += self._waiting_groups(number, waiting)
        return Finding(
            causes[0].kind if causes else "moves",
            f"has {counted(session.unfinished, 'unfinished task')}: {told}",
            tuple(causes),
            tuple(advice),
        )

    def _group_cause(self, count: int, example: int, finding: Finding) -> Cause:
        text = f"{self._known.name(example)}, which {finding.clause}"
        if count > 1:
            text = f"{count} tasks such as {text}"
        facts = {**finding.facts, "count": count}
        return Cause(finding.kind, text, task_label(example), facts, finding.because)

    def _ready_groups(self, classes: list[TaskClass]) -> list[tuple[int, int, Finding]]:
        """Group ready tasks by what keeps them, the largest first: count, example, finding."""
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
        """Return the task of a session that a pilot has held for longest."""
        held = (
            self._live[number]
            for pilot in self._core.pilots.values()
            for number in islice(pilot.held, LOOK_TASKS)
            if number in self._live
        )
        mine = [task for task in held if task.template.session == session and task.pilot]
        # What runs tells more than what has just been given away.
        first = min(mine, key=lambda task: (task.state != RUNNING, task.assigned_at), default=None)
        return first.id if first else None

    def _waiting_groups(self, session: int, waiting: int) -> list[Cause]:
        """Group tasks that wait for others by the tasks at the ends of these waits."""
        groups: dict[object, list[int]] = {}
        seen = 0
        for task in islice(self._live.values(), LOOK_AMONG):
            if task.template.session == session and task.state in (PENDING, DELEGATED):
                kind = self._findings.group(self._ways.root(task.id))
                groups.setdefault(kind, []).append(task.id)
                seen += 1
                if seen == LOOK_WAITING:
                    break
        causes = []
        for group in sorted(groups.values(), key=len, reverse=True)[:SHOWN_OF_SESSION]:
            root = self._ways.root(group[0])
            finding = self._findings.cause(root)
            text = f"{self._known.name(group[0])}, which waits for others, in the end for "
            text += f"{self._known.name(root)}, which {finding.clause}"
            if len(group) > 1:
                text = f"{len(group)} tasks such as {text}"
            facts = {**finding.facts, "count": len(group)}
            causes.append(Cause(finding.kind, text, task_label(group[0]), facts))
        if seen < waiting:
            text = f"of the {waiting} tasks that wait for others, {seen} were looked at"
            causes.append(Cause("more", text))
        return causes
