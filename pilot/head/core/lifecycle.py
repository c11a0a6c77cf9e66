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

from collections.abc import Collection, Mapping

from pilot.head.core import allocation, dependencies, turns
from pilot.head.core.events import Effects, Ended, Log
from pilot.head.core.memo_keys import marked
from pilot.head.core.releases import Releases
from pilot.head.core.sessions import Sessions
from pilot.head.core.state import Task
from pilot.model.ids import Ref, session_of, task_label
from pilot.model.states import CANCELLED, COMPLETED, FAILURES, PENDING, READY, FinalState
from pilot.model.tasks import TaskFailure, TaskOutcome, TaskSpec, Template
from pilot.model.values import Value


class Lifecycle:
    """The unfinished tasks, and the ways in which they begin and end."""

    def __init__(self, sessions: Sessions, log: Log) -> None:
        self.tasks: dict[int, Task] = {}
        self.releases = Releases(self.tasks)
        #: Outcomes of the tasks that the current event has ended, as their dependents see them.
        self.just_ended: dict[int, TaskOutcome] = {}
        #: The ends of those that are lost to their dependents.
        self.just_lost: dict[int, Ended] = {}
        self._sessions = sessions
        self._log = log

    # --- in

    def refusal(
        self,
        spec: TaskSpec,
        ended: Mapping[int, str],
        lost: Mapping[int, Ended],
        gone: Collection[Ref] = (),
    ) -> str:
        """Return why a task is not taken on, or "".

        `ended` has the states of ended tasks that it needs or comes after, `lost` the ends of
        inputs that are lost to it: with one of these it is taken on, and ends at once (`doom`).
        `gone` are results that were released, among its inputs and the versions that it takes by
        turns.
        """
        if spec.template not in self._sessions.templates:
            return "the head was never told what it is to run (its template)"
        if self._sessions.unfit and (
            why := self._sessions.why_unfit(self._sessions.templates[spec.template])
        ):
            return why
        may_be_released = gone or self.releases.is_used
        for result in spec.inputs:
            needed = result[0]
            if may_be_released and (result in gone or self.releases.is_claimed(result)):
                return f"it needs a result of task {task_label(needed)}, which was released"
            if needed in self.tasks:
                continue
            just = self.just_ended.get(needed)
            state = just.state if just else ended.get(needed)
            if state is None:
                return f"it needs a result of task {task_label(needed)}, which does not exist"
            if state != COMPLETED and not (just or needed in lost):
                return f"it needs a result of task {task_label(needed)}, which is {state}"
        for version in self.versions(spec) if may_be_released else ():
            if version in gone or self.releases.is_claimed(version):
                return (
                    f"the latest version of what it takes by turns is the result of task "
                    f"{task_label(version[0])}, which was released"
                )
        if spec.commutative and (
            why := turns.misfit(spec, self._sessions.templates[spec.template])
        ):
            return why
        return self._misplaced(spec, ended) if spec.after else ""

    def _misplaced(self, spec: TaskSpec, ended: Mapping[int, str]) -> str:
        for number in spec.after:
            if number == spec.id:
                return "it is to start after itself"
            if not (number in self.tasks or number in self.just_ended or number in ended):
                return f"it is to start after task {task_label(number)}, which does not exist"
        return ""

    def doom(
        self, spec: TaskSpec, lost: Mapping[int, Ended]
    ) -> tuple[FinalState, TaskFailure] | None:
        """Return how a new task ends at once, and why, since an input of it is lost already."""
        if not (lost or self.just_lost):
            return None
        end = dependencies.first_lost(spec, self.just_lost, lost)
        if end is None:
            return None
        return dependencies.consequence(end, self._sessions.templates[spec.template])

    def take_on(self, spec: TaskSpec, parent: int, now: float, effects: Effects) -> Task:
        """Accept a new task, and link it to its inputs; return it."""
        task = self.add(spec.id, self._sessions.templates[spec.template], now)
        if spec.commutative:
            turns.join(task, spec, task.task_class.session.turns)
        effects.accepted.append((spec, task, parent))
        if spec.inputs or spec.after:
            dependencies.link(task, spec, self.tasks)
            if self.releases.is_used:
                self.releases.need(task)
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
        elif not task.parts:
            allocation.queue(task, first=bool(again))
        elif turns.is_reading(task.template):
            task.aside = True
            effects.settling.append((task.id, task.parts[0].turn.latest))
        else:
            freed = turns.leave(task)  # it may have had its turn
            allocation.queue(task, first=bool(again))
            for each in freed:
                allocation.queue(each, first=True)

    def leave_turns(self, task: Task) -> None:
        """Take a task that ends, or waits for inputs again, out of its turns."""
        for each in turns.leave(task):
            allocation.queue(each, first=True)

    def versions(self, spec: TaskSpec) -> list[Ref]:
        """List the versions that a task which is not here yet would get by turns."""
        return turns.latest(spec, self._sessions.turns(session_of(spec.id)))

    def give_back(self, anchor: Ref, member: int) -> None:
        """Take a turn from a member whose end is committed."""
        for each in turns.give_back(anchor, member, self._sessions.turns(session_of(member))):
            allocation.queue(each, first=True)

    def _end_parts(self, task: Task, state: FinalState, effects: Effects) -> None:
        """Have a task that ends leave the next version, or else its turns at once."""
        if state == COMPLETED and not turns.is_reading(task.template):
            before = [part.turn.latest for part in task.parts]
            effects.versions += [(*each, task.id) for each in turns.complete(task)]
            if self.releases.is_used:
                for version, part in zip(before, task.parts, strict=True):
                    self.releases.replace(version, part.turn, effects)
        else:
            self.leave_turns(task)

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
        following: list[Task] | None = None
        # A list in place of recursion: chains may be as long as they like.
        while ending:
            task, state, values, failure, reported = ending.pop()
            if self.tasks.pop(task.id, None) is None:
                continue
            allocation.let_go(task, effects, reported)
            task.state = state
            if task.parts:
                self._end_parts(task, state, effects)
            self._sessions.leave(task)
            session = task.task_class.session
            memo = task.memo or b"" if state == COMPLETED else b""
            if memo:
                values = marked(values, memo)
            where = (task.pool, task.ran_s, memo, task.files)
            good, ignored, lost = state == COMPLETED, None, None
            if not good:
                if state != CANCELLED and task.template.on_failure == "ignore":
                    ignored = default_values(task.template, failure)
                else:
                    lost = task.template
            end = Ended(task.id, session.id, state, now, values, failure, *where, ignored, lost)
            effects.ended.append(end)
            self._log.task(task.id, state, session.id, now, failure.type if failure else "")
            # As others see it.
            if ignored is not None:
                values, good = ignored, True
            self.just_ended[task.id] = (
                TaskOutcome(task.id, COMPLETED, values)
                if good
                else TaskOutcome(task.id, state, values, failure)
            )
            # The last go first: what depends on it ends by that, and not by what is taken along.
            if state != COMPLETED:
                ending += self._taken_along(task, end)
            if task.result_receivers:
                ending += dependencies.inherit(task, values if good else None, failure)
            if good:
                if task.dependents:
                    for dependent in dependencies.free(task):
                        self.make_ready(dependent, now, effects)
            else:
                self.just_lost[task.id] = end
                if task.dependents:
                    ending += dependencies.abort(task.dependents, end)
            if task.followers:
                following = following or []
                following += dependencies.let_follow(task)
            dependencies.cut(task)
            if self.releases.is_used:
                self.releases.ended(task, effects)
            for part in task.parts:
                part.turn.members -= 1
            self._sessions.end_if_done(session, now, effects)
        # Now that all has ended that ends with it: some of these may have.
        for task in following or ():
            if task.id in self.tasks:
                self.make_ready(task, now, effects)

    def _taken_along(self, task: Task, end: Ended) -> list[dependencies.Ending]:
        """Return the ends of the tasks to cancel because this one has ended as it has."""
        template = task.template
        if task.state == CANCELLED:
            return [(each, CANCELLED, (), end.failure, False) for each in task.delegates]
        if task.state in FAILURES:
            if template.on_failure == "stop_session":
                group, why = "", "its session was stopped"
            elif template.group_fails_together:
                group, why = template.group, f"its group {template.group!r} was cancelled"
            else:
                return []
            cause = dependencies.taken_along(end, template.name, why)
            taken = self.members(template.session, group)
            return [(each, CANCELLED, (), cause, False) for each in taken]
        return []


def default_values(template: Template, failure: TaskFailure | None) -> tuple[Value, ...]:
    """Return the values that dependents get of a failed task with ``on_failure="ignore"``."""
    if failure is not None and failure.result:
        return (Value(len(failure.result), failure.result),)
    given = template.defaults or (template.default,) * template.returns
    return tuple(Value(len(default), default) for default in given)
