"""The life of a task: it is accepted, becomes ready, and ends.

The causes of these three changes (submissions, reports of pilots, cancellations) are handled
elsewhere; their consequences for other tasks and for sessions are here.

Invariants
----------
- Only unfinished tasks are kept.
- A task leaves with one final state, told in one effect; whatever would end it again changes
  nothing.
- All that follows from an end is in the same effects, along edges of any number: without recursion.
- Each of these changes is in the log, once.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilot.head.core import allocation, dependencies
from pilot.head.core.events import Effects, Ended, Log
from pilot.head.core.memo_keys import marked
from pilot.head.core.sessions import Sessions
from pilot.head.core.state import Task
from pilot.model.ids import task_label
from pilot.model.states import CANCELLED, COMPLETED, FAILED, PENDING, READY, TIMED_OUT, FinalState
from pilot.model.tasks import TaskFailure, TaskOutcome, TaskSpec, Template
from pilot.model.values import Value


class Lifecycle:
    """The unfinished tasks, and the ways in which they begin and end."""

    def __init__(self, sessions: Sessions, log: Log) -> None:
        self.tasks: dict[int, Task] = {}
        #: Outcomes of the tasks that the current event has ended, as their dependents see them.
        self.just_ended: dict[int, TaskOutcome] = {}
        self._sessions = sessions
        self._log = log

    # --- in

    def refusal(self, spec: TaskSpec, ended: Mapping[int, str]) -> str:
        """Return why a task can never run, or ""; `ended` has the states of its ended inputs."""
        if spec.template not in self._sessions.templates:
            return "the head was never told what it is to run (its template)"
        if spec.template in self._sessions.unfit:
            return self._sessions.unfit[spec.template]
        for needed, _ in spec.inputs:
            if needed in self.tasks:
                continue
            just = self.just_ended.get(needed)
            state = just.state if just else ended.get(needed)
            if state is None:
                return f"it needs a result of task {task_label(needed)}, which does not exist"
            if state != COMPLETED:
                return f"it needs a result of task {task_label(needed)}, which is {state}"
        return ""

    def take_on(self, spec: TaskSpec, parent: int, now: float, effects: Effects) -> Task:
        """Accept a new task, and link it to its inputs; return it."""
        task = self.add(spec.id, self._sessions.templates[spec.template], now)
        effects.accepted.append((spec, task, parent))
        if spec.inputs:
            dependencies.link(task, spec, self.tasks)
        if task.missing:
            self._log.task(task.id, PENDING, task.template.session, now)
        return task

    def add(self, number: int, template: Template, created: float) -> Task:
        """Add a task without links to others; return it."""
        task = Task(number, template, self._sessions.class_of[template.id], created)
        self.tasks[number] = task
        self._sessions.enter(task)
        return task

    def members(self, session: int, group: str) -> list[Task]:
        """Return the unfinished tasks of a session or one of its groups, in order of submission."""
        if group:
            return list(self._sessions.groups.get((session, group), {}).values())
        return [task for task in self.tasks.values() if task.template.session == session]

    # --- ready

    def make_ready(
        self, task: Task, now: float, effects: Effects, again: str = "", restored: bool = False
    ) -> None:
        """Make a task ready. A task that is tried `again`, for this reason, goes first."""
        task.state = READY
        task.ready_at = now
        if not restored:
            self._log.task(task.id, READY, task.template.session, now, again)
        if task.template.cache and task.memo is None:
            effects.lookups.append(task)
        else:
            allocation.queue(task, first=bool(again))

    # --- out

    def end(
        self,
        task: Task,
        state: FinalState,
        now: float,
        effects: Effects,
        values: tuple[Value, ...] = (),
        failure: TaskFailure | None = None,
        reported: bool = False,
    ) -> None:
        """Give a task its final state, and end the other tasks that follow from it.

        `reported`: the task's pilot knows that it has ended.
        """
        ending: list[dependencies.Ending] = [(task, state, values, failure, reported)]
        # A list in place of recursion: chains may be as long as they like.
        while ending:
            task, state, values, failure, reported = ending.pop()
            if self.tasks.pop(task.id, None) is None:
                continue
            allocation.let_go(task, effects, reported)
            task.state = state
            self._sessions.leave(task)
            session = task.task_class.session
            memo = task.memo or b"" if state == COMPLETED else b""
            if memo:
                values = marked(values, memo)
            where = (task.pool, task.ran_s, memo, task.files)
            good, ignored = state == COMPLETED, None
            if not good and state != CANCELLED and task.template.on_failure == "ignore":
                ignored = default_values(task.template)
            effects.ended.append(
                Ended(task.id, session.id, state, now, values, failure, *where, ignored)
            )
            self._log.task(task.id, state, session.id, now, failure.type if failure else "")
            # As others see it.
            if ignored is not None:
                values, good = ignored, True
            self.just_ended[task.id] = TaskOutcome(task.id, COMPLETED if good else state, values)
            if task.result_receivers:
                ending += dependencies.inherit(task, values if good else None, failure)
            if task.dependents and good:
                for dependent in dependencies.free(task):
                    self.make_ready(dependent, now, effects)
            elif task.dependents:
                ending += dependencies.abort(task, failure)
            if state != COMPLETED:
                ending += ((each, CANCELLED, (), None, False) for each in self._taken_along(task))
            dependencies.cut(task)
            self._sessions.end_if_done(session, now, effects)

    def _taken_along(self, task: Task) -> tuple[Task, ...]:
        """Return the tasks to cancel because this one has ended as it has."""
        template = task.template
        if task.state == CANCELLED:
            return task.delegates
        if task.state in (FAILED, TIMED_OUT):
            if template.on_failure == "stop_session":
                return tuple(self.members(template.session, ""))
            if template.group_fails_together:
                return tuple(self.members(template.session, template.group))
        return ()


def default_values(template: Template) -> tuple[Value, ...]:
    """Return the values that dependents get of a failed task with ``on_failure="ignore"``."""
    return (Value(len(template.default), template.default),) * template.returns
