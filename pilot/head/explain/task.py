"""Explanation of a task or a result: its causes, and the chains of tasks that lead there.

Invariants
----------
- A cause is told with the tasks on the way to it, each in the one before; of a long way only its
  ends.
- Causes that are alike are told once, with how many tasks there are of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pilot.errors import PilotError
from pilot.formatting import counted
from pilot.head.explain.diagnose import Diagnosis
from pilot.head.explain.lookup import Lookup
from pilot.head.explain.report import SHOWN, Cause, Explanation, Finding, Snapshot
from pilot.head.explain.walk import LOOK_ROWS, Walk, way_to
from pilot.model.ids import task_label
from pilot.model.states import ABORTED, COMPLETED, DELEGATED, FINAL, PENDING, READY, RUNNING

#: The number of tasks that are shown at each end of a long chain.
SHOWN_OF_CHAIN = 3


class TaskAnswers:
    """Explains tasks and their results, for one answer."""

    def __init__(self, facts: Snapshot, known: Lookup, ways: Walk, findings: Diagnosis) -> None:
        self._live = facts.core.tasks
        self._known = known
        self._ways = ways
        self._findings = findings

    def of_task(self, number: int) -> Explanation:
        """Explain a task."""
        finding = self.explain(number)
        return Explanation(
            task_label(number),
            self._known.state(number),
            f"{self._known.name(number)} {finding.clause}",
            finding,
        )

    def of_result(self, number: int, part: str) -> Explanation:
        """Explain a result of a task, by name or number, whichever task makes it now."""
        template = self._known.template(number)
        names = template.return_names
        if part in names:
            index = names.index(part)
        elif part.isdecimal() and len(part) < 10 and int(part) < template.returns:
            index = int(part)
        else:
            known = ", ".join(names) or f"{template.returns}, numbered from 0"
            raise PilotError(f"task {task_label(number)} has no result {part!r}; it has {known}")
        label = f"{task_label(number)}/{part}"
        told = f"result {part} of {self._known.name(number)}"
        way = [number]
        # Down to the task that has it now, or is to make it.
        while len(way) < LOOK_ROWS and (owner := self._ways.owner(way[-1], index)) is not None:
            number, index = owner
            way.append(number)
        finding = self.explain(number)
        if len(way) == 1:
            sentence = f"{told} is not there: the task {finding.clause}"
            if self._known.state(number) == COMPLETED:
                sentence = f"{told}: the task {finding.clause}"
            return Explanation(label, self._known.state(number), sentence, finding)
        sentence = (
            f"{told} is that of {self._known.name(number)}"
            + (f", {counted(len(way) - 1, 'delegation')} further" if len(way) > 2 else "")
            + f", which {finding.clause}"
        )
        last = Cause("owner", f"{self._known.name(number)} {finding.clause}", task_label(number))
        last = msgspec.structs.replace(last, facts=finding.facts, because=finding.because)
        chain = self._nest(way, last, "has delegated it to")
        return Explanation(
            label, self._known.state(number), sentence, finding._replace(because=(chain,))
        )

    def explain(self, number: int) -> Finding:
        """Return the reason for a task's state, its own or that of the tasks it waits for."""
        if not self._ways.needs(number):
            return self._findings.cause(number)
        led, ends, complete = self._ways.roots(number)
        groups: dict[object, list[int]] = {}
        for end in ends:
            groups.setdefault(self._findings.group(end), []).append(end)
        # What does not run yet takes longest.
        ordered = sorted(groups.values(), key=lambda group: self._known.state(group[0]) == RUNNING)
        shown = []
        advice: list[str] = []
        clause = kind = ""
        facts: Mapping[str, Any] = {}
        for group in ordered[:SHOWN]:
            cause = self._findings.cause(group[0])
            way = way_to(led, number, group[0])
            advice += cause.advice
            name = self._known.name(group[0])
            if not clause:
                kind, facts = cause.kind, cause.facts
                clause = self._headline(way, name, cause.clause)
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

    # --- words for it

    def _headline(self, way: list[int], root: str, clause: str) -> str:
        number, steps = way[0], len(way) - 1
        state = self._known.state(number)
        back = f", {steps} tasks back" if steps > 1 else ""
        if state == ABORTED:
            return f"was aborted because of {root}{back}, which {clause}"
        if state in FINAL:
            return f"has its result from {root}{back}, which {clause}"
        what = "an input" if state in (PENDING, READY) else "its child"
        if steps == 1 and self._only_follows(number, way[1]):
            return f"waits for the end of {root}, which {clause}"
        return f"waits for {what if steps == 1 else root}" + (
            f": {root} {clause}" if steps == 1 else f"{back}, which {clause}"
        )

    def _nest(self, way: list[int], last: Cause, verb: str = "") -> Cause:
        """Nest a chain of tasks as causes; the middle of a long chain is left out."""
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
            text = (
                f"{self._known.name(each)} {verb or self._verb(each, following)} "
                f"{self._known.name(following)}"
            )
            last = Cause("task", text, task_label(each), because=(last,))
            following = each
        return last

    def _only_follows(self, number: int, other: int) -> bool:
        """Tell whether a task comes after another one, and needs nothing of it."""
        live = self._live.get(number)
        row = None if live else self._known.row(number)
        known = live or row
        if known is None or self._known.state(number) in (*FINAL, DELEGATED):
            return False
        return other in known.after and other not in {source for source, _ in known.inputs}

    def _verb(self, number: int, following: int) -> str:
        """Return the verb that ties a task to the one that it needs."""
        if following > 0 and self._only_follows(number, following):
            return "starts after the end of"
        live = self._live.get(number)
        row = None if live else self._known.row(number)
        delegated = live.state == DELEGATED if live else bool(row and row.delegated)
        state = self._known.state(number)
        if state in FINAL and not delegated:
            return "was aborted because of its input"
        if delegated:
            waited = sum(c.id in self._live for c in live.delegates) if live else 1
            return (
                "has run, and its result is to come from "
                + (f"{waited} children, among them" if waited > 1 else "its child")
                if state not in FINAL
                else "has its result from its child"
            )
        inputs = {s for s, _ in (live.inputs if live else row.inputs if row else ())}
        missing, total = len(inputs.intersection(self._ways.needs(number))), len(inputs)
        return "needs " + (
            f"{missing} of {total} inputs still, such as" if total > 1 else "its input"
        )
