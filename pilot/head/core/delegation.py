"""Children: the tasks that a completed task leaves, and the results that they make for it.

Invariants
----------
- Children are accepted with their parent's end, in the same effects, and so in one transaction.
- Each result has one owner at a time; it is passed on along any number of delegations in a loop.
- A child that can't run is aborted, never refused: its parent has its id.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pilot.head.core import allocation, dependencies
from pilot.head.core.events import AttemptsEnded, Delegated, Effects, Learned, Log
from pilot.head.core.lifecycle import Lifecycle
from pilot.head.core.sessions import Sessions
from pilot.head.core.state import Task
from pilot.model.ids import Ref, task_label
from pilot.model.states import ABORTED, COMPLETED, DELEGATED, UNSUCCESSFUL, FinalState
from pilot.model.tasks import Children, Completion, TaskFailure, TaskOutcome
from pilot.model.values import Value


class Delegation:
    """Takes on children, and hands their parents' results on to them."""

    def __init__(self, life: Lifecycle, sessions: Sessions, log: Log) -> None:
        self._life = life
        self._sessions = sessions
        self._log = log

    def learn(self, children: Children, effects: Effects) -> None:
        """Keep templates and functions that later children of the executor may refer to."""
        for template in children.templates[:1]:
            if template.session in self._sessions.known:
                self._sessions.learn(children.templates)
                effects.learned.append(
                    Learned(template.session, children.functions, children.templates)
                )

    def add_children(
        self,
        task: Task,
        completion: Completion,
        children: Children,
        event: AttemptsEnded,
        now: float,
        effects: Effects,
    ) -> None:
        """Take on the children of a completed task, and delegate the results that they make."""
        life = self._life
        doomed: list[tuple[Task, FinalState, TaskFailure]] = []
        for spec in children.tasks:
            if task.id in spec.after:  # it has ended for this one
                after = tuple(number for number in spec.after if number != task.id)
                spec = msgspec.structs.replace(spec, after=after)
            refusal = life.refusal(spec, event.ended, event.lost, event.gone)
            child = life.take_on(spec, task.id, now, effects)
            if refusal:
                doomed.append((child, ABORTED, TaskFailure("TaskAborted", refusal)))
            elif doom := life.doom(spec, event.lost):
                doomed.append((child, *doom))
            elif spec.values:
                if spec.payload:
                    effects.named.append((spec, task.id))
                life.end(child, COMPLETED, now, effects, spec.values)
            elif not child.missing:
                life.make_ready(child, now, effects)
        if children.delegated:
            owed = children.delegated
            self.hand_on(task, completion.values, owed, event.outcomes, now, effects)
        else:
            life.end(task, COMPLETED, now, effects, completion.values, None, True)
        for child, state, failure in doomed:
            life.end(child, state, now, effects, (), failure)
        if children.released:
            # What is to be found by a name stays.
            named = {spec.id for spec, _ in effects.named}
            released = [ref for ref in children.released if ref[0] not in named]
            life.releases.release(released, effects)

    def hand_on(
        self,
        task: Task,
        values: tuple[Value, ...],
        refs: Mapping[int, Ref],
        outcomes: Mapping[int, TaskOutcome],
        now: float,
        effects: Effects,
        restored: bool = False,
    ) -> None:
        """Delegate results of a task to children; take the results of ended children at once.

        `outcomes` has the outcomes of children that ended before this event.
        """
        life = self._life
        owed = dict(refs)
        given = list(values)
        for index, (number, there) in refs.items():
            if number in life.tasks:
                if dependencies.waits_for(life.tasks[number], task, life.tasks):
                    told = f"its result is that of task {task_label(number)}, which waits for it"
                    failure = TaskFailure("TaskAborted", told)
                    life.end(task, ABORTED, now, effects, (), failure, True)
                    return
                continue
            outcome = life.just_ended.get(number) or outcomes.get(number)
            if outcome is not None and outcome.state in UNSUCCESSFUL:
                # As if it had ended after this.
                life.end(task, outcome.state, now, effects, (), outcome.failure, True)
                return
            if outcome is None or outcome.state != COMPLETED:
                failure = TaskFailure(
                    type="TaskAborted",
                    message=f"its result is that of task {task_label(number)}, which "
                    + (f"is {outcome.state}" if outcome else "does not exist"),
                )
                life.end(task, ABORTED, now, effects, (), failure, True)
                return
            if outcome.values[there].is_released:
                told = f"its result is that of task {task_label(number)}, which was released"
                life.end(task, ABORTED, now, effects, (), TaskFailure("TaskAborted", told), True)
                return
            given[index] = outcome.values[there]
            del owed[index]
        if not owed:
            life.end(task, COMPLETED, now, effects, tuple(given), None, True)
            return
        allocation.let_go(task, effects, reported=True)
        dependencies.delegate(task, given, owed, life.tasks)
        # It has run: nothing but what its children make is needed any more.
        life.releases.need_no_more(task, effects)
        # What it has written down as owed is looked up again by the next head.
        task.inputs, task.borrows = (), tuple((refs if restored else owed).values())
        life.releases.need(task)
        if not restored:
            self._log.task(task.id, DELEGATED, task.template.session, now)
            effects.delegated.append(Delegated(task.id, tuple(given), owed))
