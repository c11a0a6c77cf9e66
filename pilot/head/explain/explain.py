"""The reasons why a task, a result or a session is not done: its waits, back to the causes.

`explain` is a pure function of what the head knows (`Snapshot`): the core's tasks, sessions and
pilots, what elasticity and the batch system say of pilots to come, and the records in the database.
Whether a pilot can take a task, who goes first, and why a pool asks for no more nodes is answered
by the scheduler's own functions (`pilot.scheduler.assignment`, `pilot.scheduler.elasticity`), so
that what is told here is what is done there. Where no head runs, the records are all there is.

This module reads the question and puts the answer together. Its parts:

==============  ======================================================
`session`       what the tasks of a session wait for
`task`          why a task or a result is not done
`walk`          which tasks a task waits for, back to the causes
`diagnose`      the reason why a task that waits for no other is not done
`ready`         why no pilot takes a ready task
`lookup`        tasks as the core or the database has them
`report`        the parts of an answer
==============  ======================================================

Invariants
----------
- An answer costs the same however many tasks wait: tasks, rows and places in a queue are looked at
  up to limits, which are with the parts, and the answer says where it did not look further.
- Nothing is changed.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pilot import clock
from pilot.errors import PilotError
from pilot.head.explain.diagnose import Diagnosis
from pilot.head.explain.lookup import Lookup
from pilot.head.explain.ready import Readiness
from pilot.head.explain.report import Answer, Cause, Explanation, Snapshot
from pilot.head.explain.session import SessionAnswers
from pilot.head.explain.task import TaskAnswers
from pilot.head.explain.view import View
from pilot.head.explain.walk import Walk
from pilot.model.ids import parse_task_label
from pilot.model.states import FINAL

#: More digits than any session number has.
_DIGITS = 15
_SUBJECT = re.compile(r"""(\d+\.\d+)(?:\[\s*["']?(.+?)["']?\s*\]|/(.+))?""")


def why(view: View, subject: str | None = None) -> dict[str, Any]:
    """Return the answer on a task (``3.17``), a result (``3.17/name``) or a session (``3``)."""
    facts = Snapshot(
        clock.now(),
        view.core,
        view.running,
        view.fleet.outlook(),
        view.store,
        view.status(),
        view.fetches,
    )
    answer: dict[str, Any] = msgspec.to_builtins(explain(facts, subject))
    return answer


def explain(facts: Snapshot, subject: str | None = None) -> Answer:
    """Explain why a task, a result or a session (default: the newest) is not done, or how it ended.

    Raises
    ------
    PilotError
        There is no such task, result or session.
    """
    known, ready = Lookup(facts), Readiness(facts)
    ways, findings = Walk(facts, known), Diagnosis(facts, known, ready)
    tasks = TaskAnswers(facts, known, ways, findings)
    if subject is None or subject.isdecimal():
        sessions = SessionAnswers(facts, known, ways, ready, findings, tasks)
        # What has more digits is no session's number, and is as little known.
        number = None if subject is None else int(subject[:_DIGITS])
        return _answer(facts, sessions.of_session(number))
    match = _SUBJECT.fullmatch(subject)
    if match is None:
        raise PilotError(
            f"{subject!r} is neither a task, as 3.17, nor a result, as 3.17/0 or 3.17/name, "
            "nor a session, as 3"
        )
    try:
        number = parse_task_label(match[1])
    except ValueError as error:
        raise PilotError(str(error)) from None
    part = match[2] or match[3]
    if number not in facts.core.tasks and known.row(number) is None:
        if trouble := facts.head.get("unwritten"):
            return _unaccepted(match[1], trouble)
        raise PilotError(f"there is no task {match[1]}; `pilot task list` shows them")
    return _answer(facts, tasks.of_task(number) if part is None else tasks.of_result(number, part))


def _unaccepted(label: str, trouble: str) -> Answer:
    """Make the answer on a task that may have been submitted, and is not accepted."""
    cause = f"the head cannot write the database ({trouble})"
    sentence = (
        f"task {label} is not accepted: {cause}, and accepts what is submitted when it can; "
        "nothing is lost"
    )
    return Answer(label, "UNACCEPTED", "database", sentence, because=(Cause("database", cause),))


def _answer(facts: Snapshot, told: Explanation) -> Answer:
    """Make the answer; anything that holds up all unfinished tasks comes first."""
    finding, because = told.finding, told.finding.because
    if (error := facts.head.get("unwritten")) and told.state not in FINAL:
        text = f"the database cannot be written ({error}): no end of a task is told before it can"
        because = (*because, Cause("database", text))
    advice = tuple(dict.fromkeys(finding.advice))
    return Answer(
        told.subject, told.state, finding.kind, told.sentence, finding.facts, because, advice
    )
