"""The state machine of all tasks: event in, effects out. No clock, no I/O.

The head's server turns frames, timers and Slurm's answers into events, calls `Core.apply` with the
time, and carries the effects out; after a batch of events it asks `Core.assign` for what each pilot
should get. All rules about tasks are here and in `policy`, so that whole clusters can be simulated
with the code that runs in production.

Invariants
----------
- Only unfinished tasks are kept: memory does not grow with history.
- A task is in exactly one of PENDING (an input is to come), READY (and then in its class's queue,
  once it is known not to have run before), ASSIGNED or RUNNING (and then with exactly one pilot),
  DELEGATED (it ran; children have its results), or it has left with one final state, told in one
  effect.
- Every change of a state is in the log, once; a new head's log goes on where the committed one
  ends.
- Children come to be with their parent's end, in the same effects: so in one transaction. Each
  result has one owner at a time; it is passed on along any number of delegations in a loop.
- The first good end of a task counts; whatever is reported later of it changes nothing.
- Nothing here costs more when more tasks wait: queues are popped, never scanned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilot.data.values import Value
from pilot.head.events import (
    Attempt,
    AttemptsEnded,
    AttemptsRunning,
    Delegated,
    Effects,
    Ended,
    Event,
    Learned,
    Log,
    PilotChanged,
    PilotJoined,
    PilotLost,
    SessionOpened,
    TasksCancelled,
    TasksRecalled,
    TasksRestored,
    TasksSubmitted,
)
from pilot.head.memo import marked
from pilot.head.policy import (
    ABORTED,
    ASSIGNED,
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FAILED,
    PENDING,
    READY,
    RUNNING,
    TIMED_OUT,
    verdict,
)
from pilot.head.state import Pilot, Session, Task, TaskClass
from pilot.wire.messages import (
    Children,
    Completion,
    Ref,
    TaskFailure,
    TaskOutcome,
    TaskSpec,
    Template,
    task_label,
)
from scheduler import assignment
from scheduler.elasticity import ClassDemand

#: What a session has used counts half after so many seconds, when sessions share cores.
USED_HALF_S = 30.0
#: A session that could run and has had no core for so long gets one task before all others.
STARVING_S = 60.0


class Core:
    """All unfinished tasks, the sessions and the pilots."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.templates: dict[int, Template] = {}
        self.classes: dict[tuple[object, ...], TaskClass] = {}
        self.sessions: dict[int, Session] = {}
        self.pilots: dict[str, Pilot] = {}
        #: Unfinished tasks by session and group, of those that are in one.
        self._groups: dict[tuple[int, str], dict[int, Task]] = {}
        #: Every change of a state, until the shell takes it to write it down.
        self.log = Log()
        self._class_of: dict[int, TaskClass] = {}
        self._faded = 0.0
        #: Tasks that the event under way has ended, as their dependents see it.
        self._just_ended: dict[int, TaskOutcome] = {}
        self._handlers = {
            TasksSubmitted: self._submitted,
            TasksRestored: self._restored,
            SessionOpened: self._opened,
            TasksCancelled: self._cancelled,
            PilotJoined: self._joined,
            PilotChanged: self._changed,
            PilotLost: self._lost,
            AttemptsEnded: self._attempts_ended,
            AttemptsRunning: self._attempts_running,
            TasksRecalled: self._recalled,
        }

    def apply(self, event: Event, now: float) -> Effects:
        """Take one event in and say what is to be done."""
        effects = Effects()
        self._just_ended.clear()
        self._handlers[type(event)](event, now, effects)  # type: ignore[operator]
        return effects

    def assign(self, now: float) -> dict[str, list[Task]]:
        """Hand ready tasks to pilots: pilot name → the tasks that it gets now."""
        given = self._give_early(now)
        classes = [work for work in self.classes.values() if work.ready and not work.session.paused]
        if not classes:
            return given
        self._fade(now)
        self._look_who_starves(classes, now)
        pilots = [pilot for pilot in self.pilots.values() if not pilot.draining]
        for work, room, count in assignment.assign(classes, pilots, now):
            assert isinstance(work, TaskClass) and isinstance(room, Pilot)
            given.setdefault(room.name, []).extend(self._give(work, room, count, now))
        for name, tasks in self._give_early(now).items():
            given.setdefault(name, []).extend(tasks)
        return given

    def _give_early(self, now: float) -> dict[str, list[Task]]:
        """Send short tasks to the pilot that holds all that they wait for, ahead of their inputs.

        So a pilot has a chain, or a join with its forks, as a whole, and goes on by itself.
        """
        given: dict[str, list[Task]] = {}
        for pilot in self.pilots.values():
            while pilot.early:
                task = pilot.early[0]
                if self._may_go_early(task, pilot, now):
                    if not assignment.room(task.task_class, pilot):
                        break
                    task.attempt += 1
                    task.ready_at = now
                    self._hold(task, pilot, now)
                    given.setdefault(pilot.name, []).append(task)
                pilot.early.popleft()
        return given

    @staticmethod
    def _may_go_early(task: Task, pilot: Pilot, now: float) -> bool:
        work = task.task_class
        return (
            task.state == PENDING
            and task.near_pilot is pilot
            and task.near == task.missing
            and not (pilot.draining or work.session.paused or task.template.cache)
            and work.mean_s is not None
            and work.mean_s < assignment.PREFETCH_S
            and assignment.fits(work, pilot, now)
        )

    def _near(self, task: Task, pilot: Pilot) -> None:
        """One more of what the task waits for is held by the pilot."""
        if task.near_pilot is pilot:
            task.near += 1
        else:
            task.near_pilot, task.near = pilot, 1
        if task.near == task.missing:
            pilot.early.append(task)

    def _look_who_starves(self, classes: list[TaskClass], now: float) -> None:
        waiting = {work.session.id for work in classes}
        for session in self.sessions.values():
            if session.load or session.id not in waiting:
                session.waits_since = 0.0
            else:
                session.waits_since = session.waits_since or now
                session.starving = now - session.waits_since > STARVING_S

    def _fade(self, now: float) -> None:
        """Let what sessions have used count less the longer ago it is."""
        if now - self._faded < 1.0:
            return
        factor = 0.5 ** ((now - self._faded) / USED_HALF_S)
        self._faded = now
        for session in self.sessions.values():
            session.used *= factor

    def demand(self) -> list[ClassDemand]:
        """What is to be run, by class: the question that elasticity answers."""
        return [
            ClassDemand(
                need=work.need,
                pool=work.pool,
                count=work.assigned + (0 if work.session.paused else work.ready),
                mean_s=work.mean_s,
                time_limit_s=work.time_limit_s,
            )
            for work in self.classes.values()
            if work.assigned or (work.ready and not work.session.paused)
        ]

    # --- submission

    def _submitted(self, event: TasksSubmitted, now: float, effects: Effects) -> None:
        session = self._session(event.session)
        self._learn_templates(event.templates)
        for spec in event.tasks:
            if spec.id in self.tasks:
                continue  # sent twice
            refusal = ""
            if (session.closed or session.stopped) and not event.parent:
                refusal = "the session is closed: it takes no more tasks"
            refusal = refusal or self._refusal(spec, event.ended)
            if refusal:
                effects.refused.append((spec.id, refusal))
                continue
            task = self._take_on(spec, event.parent, now, effects)
            if spec.values:
                self._end(task, COMPLETED, now, effects, spec.values)
            elif not task.missing:
                self._make_ready(task, now, effects)

    def _take_on(self, spec: TaskSpec, parent: int, now: float, effects: Effects) -> Task:
        template = self.templates[spec.template]
        task = self._add(spec.id, template, now)
        effects.accepted.append((spec, task, parent))
        if spec.inputs:
            self._link(task, spec)
        if task.missing:
            self.log.task(task.id, PENDING, template.session, now)
        return task

    def _add(self, number: int, template: Template, created: float) -> Task:
        task = Task(number, template, self._class_of[template.id], created)
        self.tasks[number] = task
        self._session(template.session).unfinished += 1
        if template.group:
            self._groups.setdefault((template.session, template.group), {})[number] = task
        return task

    def _refusal(self, spec: TaskSpec, ended: Mapping[int, str]) -> str:
        if spec.template not in self.templates:
            return f"the template {task_label(spec.template)} was never sent"
        for needed, _ in spec.inputs:
            if needed in self.tasks:
                continue
            just = self._just_ended.get(needed)
            state = just.state if just else ended.get(needed)
            if state is None:
                return f"it needs a result of task {task_label(needed)}, which does not exist"
            if state != COMPLETED:
                return f"it needs a result of task {task_label(needed)}, which is {state}"
        return ""

    def _restored(self, event: TasksRestored, now: float, effects: Effects) -> None:
        self._learn_templates(event.templates)
        for item in event.tasks:
            task = self._add(item.spec.id, self.templates[item.spec.template], item.created)
            task.attempt = task.ended_attempt = item.attempts
            task.errors, task.crashes = item.errors, item.crashes
        # An input may be of another session, or delegated: so not before all are there.
        for item in event.tasks:
            if item.delegated is None:
                task = self.tasks[item.spec.id]
                self._link(task, item.spec)
                if not task.missing:
                    self._make_ready(task, now, effects, restored=True)
        for item in event.tasks:
            if item.delegated is not None:
                values, refs = item.delegated
                task = self.tasks[item.spec.id]
                self._hand_on(task, values, refs, event.outcomes, now, effects, restored=True)

    def _link(self, task: Task, spec: TaskSpec) -> None:
        """Make the task wait for those of its inputs that are still to come."""
        task.inputs = spec.inputs
        for needed in {ref[0] for ref in spec.inputs}:
            source = self.tasks.get(needed)
            if source is None:
                continue
            if source.dependents is None:
                source.dependents = []
            source.dependents.append(task)
            task.missing += 1
        for needed in {ref[0] for ref in spec.inputs} if task.missing else ():
            source = self.tasks.get(needed)
            if source is not None and source.pilot is not None:
                self._near(task, source.pilot)

    def _learn_templates(self, templates: Iterable[Template]) -> None:
        for template in templates:
            if template.id in self.templates:
                continue
            self.templates[template.id] = template
            key = (
                template.session,
                template.name,
                template.function,
                template.resources,
                template.time_limit_s,
                template.priority,
                template.pool,
            )
            work = self.classes.get(key)
            if work is None:
                work = self.classes[key] = TaskClass(template, self._session(template.session))
            self._class_of[template.id] = work

    def _opened(self, event: SessionOpened, now: float, effects: Effects) -> None:
        created = event.session not in self.sessions
        session = self._session(event.session)
        state, paused = session.state, session.paused
        session.weight, session.priority = event.weight, event.priority
        # Neither is taken back.
        session.closed |= event.closed
        session.stopped |= event.stopped
        session.paused = event.paused
        if not event.restored:
            if created or session.state != state:
                self.log.other("session", session.state, session.id, now)
            if session.paused != paused:
                self.log.other(
                    "session", "PAUSED" if session.paused else "RESUMED", session.id, now
                )
        self._end_session_if_done(session, now, effects)

    def _cancelled(self, event: TasksCancelled, now: float, effects: Effects) -> None:
        if event.tasks is None:
            named = self._members(event.session, event.group)
        else:
            named = [self.tasks[task] for task in event.tasks if task in self.tasks]
        # Dependents come after what they depend on: from the end, all are cancelled, none aborted.
        for task in reversed(named):
            if task.id in self.tasks:
                self._end(task, CANCELLED, now, effects)

    # --- pilots

    def _joined(self, event: PilotJoined, now: float, effects: Effects) -> None:
        pilot = self.pilots.get(event.name)
        if pilot is not None:
            # It was away for a while: what it does not hold any more got lost on the way.
            held = dict(event.held)
            for number in [number for number in pilot.held if not self._is_held(number, held)]:
                self._interrupted(number, pilot, "lost on the way to the pilot", now, effects)
        else:
            pilot = Pilot(event.name, event.pool, event.shape, event.nodes, event.ends_at)
            self.pilots[event.name] = pilot
            self.log.other("pilot", "JOINED", 0, now, event.name)
        pilot.nodes, pilot.ends_at, pilot.draining = event.nodes, event.ends_at, False
        for number, attempt in event.held:
            task = self.tasks.get(number)
            if task is None or task.state == DELEGATED or task.pilot not in (None, pilot):
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None and attempt <= task.ended_attempt:
                # Its end is known, only the pilot does not know that.
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None:
                task.attempt = attempt
                self._hold(task, pilot, now)

    def _is_held(self, number: int, held: Mapping[int, int]) -> bool:
        """Whether a pilot still holds what it was given last of a task."""
        task = self.tasks.get(number)
        return number in held and (task is None or held[number] == task.attempt)

    def _changed(self, event: PilotChanged, now: float, _effects: Effects) -> None:
        if pilot := self.pilots.get(event.name):
            if event.draining and not pilot.draining:
                self.log.other("pilot", "DRAINING", 0, now, event.name)
            pilot.nodes = event.nodes
            pilot.draining = event.draining

    def _lost(self, event: PilotLost, now: float, effects: Effects) -> None:
        pilot = self.pilots.pop(event.name, None)
        if pilot is None:
            return
        self.log.other("pilot", "LEFT", 0, now, f"{event.name}: {event.reason}")
        for number in list(pilot.held):
            self._interrupted(number, pilot, event.reason, now, effects)

    def _interrupted(
        self, number: int, pilot: Pilot, reason: str, now: float, effects: Effects
    ) -> None:
        task = self.tasks.get(number)
        if task is None or task.pilot is not pilot:
            pilot.release(number)
            return
        completion = Completion(
            task=number,
            attempt=task.attempt,
            outcome="interrupted",
            failure=TaskFailure(type="interrupted", message=reason, attempt=task.attempt),
            started=task.started_at,
            ended=now,
        )
        self._attempt_ended(task, pilot, completion, now, effects)

    # --- attempts

    def _give(self, work: TaskClass, pilot: Pilot, count: int, now: float) -> list[Task]:
        given = []
        while count and work.queue:
            task = work.queue.popleft()
            if task.state != READY:
                continue
            task.attempt += 1
            self._hold(task, pilot, now)
            given.append(task)
            count -= 1
        work.session.waits_since, work.session.starving = 0.0, False
        return given

    def _hold(self, task: Task, pilot: Pilot, now: float) -> None:
        work = task.task_class
        if _is_queued(task):
            work.ready -= 1
        work.assigned += 1
        task.state = ASSIGNED
        task.pilot = pilot
        task.assigned_at = now
        task.started_at = 0.0
        cores = work.need.total_cores
        pilot.held[task.id] = cores
        pilot.load += cores
        work.session.load += cores
        for dependent in task.dependents or ():
            self._near(dependent, pilot)
        self.log.task(task.id, ASSIGNED, work.session.id, now, pilot.name)

    def _attempts_ended(self, event: AttemptsEnded, now: float, effects: Effects) -> None:
        pilot = self.pilots.get(event.pilot)
        self._have_run(pilot, event.completions, now)
        for completion in event.completions:
            task = self.tasks.get(completion.task)
            here = task is not None and pilot is not None and task.pilot is pilot
            if pilot is not None and not here:
                pilot.release(completion.task)
            if completion.children is not None:
                self._learn_from(completion.children, effects)
            if task is None or task.state == DELEGATED:
                # Ended before: reported twice, or cancelled while it ran, which is worth a record.
                if completion.outcome == "cancelled" and completion.started and pilot is not None:
                    effects.late.append((pilot.name, completion))
                continue
            if completion.outcome == "ok":
                if not here:
                    self._recall(task, effects)
            elif not here or completion.attempt != task.attempt:
                # Reported twice, or the end of an attempt that was given up: it is over, also if
                # its pilot should greet with it before it hears that this is known.
                if not here:
                    task.ended_attempt = max(task.ended_attempt, completion.attempt)
                continue
            task.ended_attempt = max(task.ended_attempt, completion.attempt)
            self._attempt_ended(task, pilot, completion, now, effects, event)

    def _have_run(self, pilot: Pilot | None, completions: Iterable[Completion], now: float) -> None:
        """What ended before its pilot told that it runs has run all the same."""
        for completion in completions:
            task = self.tasks.get(completion.task)
            if (
                task is not None
                and task.state == ASSIGNED
                and task.pilot is pilot
                and task.attempt == completion.attempt
                and completion.started
            ):
                task.state = RUNNING
                task.started_at = completion.started
                self.log.task(task.id, RUNNING, task.template.session, now)

    def _attempt_ended(
        self,
        task: Task,
        pilot: Pilot | None,
        completion: Completion,
        now: float,
        effects: Effects,
        event: AttemptsEnded | None = None,
    ) -> None:
        outcome = completion.outcome
        work = task.task_class
        task.files = completion.files
        if pilot is not None:
            task.pool = pilot.pool
        if completion.started:
            task.ran_s = took = max(0.0, completion.ended - completion.started)
            work.session.used += took * work.need.total_cores
            if outcome == "ok":
                work.learn(took)
        if outcome == "error":
            task.errors += 1
        elif outcome == "crash":
            task.crashes += 1
        if not completion.is_unstarted or event is None:
            effects.attempts.append(
                Attempt(
                    completion,
                    pilot.name if pilot else "",
                    task.created_at,
                    task.ready_at,
                    task.assigned_at,
                    task.errors,
                    task.crashes,
                )
            )
        else:
            # Given back before it started: it was no attempt, and the next one has its number.
            task.attempt -= 1
        state = verdict(task.template, completion, task.errors, task.crashes)
        if state is None:
            self._leave_pilot(task)
            if task.missing:
                # Another head had given it away when an input had come that is lost again.
                task.state = PENDING
                self.log.task(task.id, PENDING, task.template.session, now, outcome)
            else:
                self._make_ready(task, now, effects, again=outcome)
        elif state == COMPLETED and completion.children is not None:
            assert event is not None
            self._add_children(task, completion, completion.children, event, now, effects)
        else:
            self._end(task, state, now, effects, completion.values, completion.failure, True)

    # --- children

    def _learn_from(self, children: Children, effects: Effects) -> None:
        """Keep what later children of the same executor refer to, whatever becomes of these."""
        for template in children.templates[:1]:
            if template.session in self.sessions:
                self._learn_templates(children.templates)
                effects.learned.append(
                    Learned(template.session, children.functions, children.templates)
                )

    def _add_children(
        self,
        task: Task,
        completion: Completion,
        children: Children,
        event: AttemptsEnded,
        now: float,
        effects: Effects,
    ) -> None:
        """A task has ended well and leaves children, some of which may have its results."""
        impossible: list[tuple[Task, str]] = []
        for spec in children.tasks:
            refusal = self._refusal(spec, event.ended)
            child = self._take_on(spec, task.id, now, effects)
            if refusal:
                impossible.append((child, refusal))
            elif spec.values:
                self._end(child, COMPLETED, now, effects, spec.values)
            elif not child.missing:
                self._make_ready(child, now, effects)
        if children.delegated:
            owed = children.delegated
            self._hand_on(task, completion.values, owed, event.outcomes, now, effects)
        else:
            self._end(task, COMPLETED, now, effects, completion.values, None, True)
        for child, refusal in impossible:
            failure = TaskFailure(type="TaskAborted", message=refusal)
            self._end(child, ABORTED, now, effects, (), failure)

    def _hand_on(
        self,
        task: Task,
        values: tuple[Value, ...],
        refs: Mapping[int, Ref],
        outcomes: Mapping[int, TaskOutcome],
        now: float,
        effects: Effects,
        restored: bool = False,
    ) -> None:
        """Delegate results; those of children that have ended are there already."""
        owed = dict(refs)
        given = list(values)
        for index, (number, there) in refs.items():
            if number in self.tasks:
                continue
            outcome = self._just_ended.get(number) or outcomes.get(number)
            if outcome is None or outcome.state != COMPLETED:
                failure = TaskFailure(
                    type="TaskAborted",
                    message=f"its result is that of task {task_label(number)}, which "
                    + (f"is {outcome.state}" if outcome else "does not exist"),
                )
                self._end(task, ABORTED, now, effects, (), failure, True)
                return
            given[index] = outcome.values[there]
            del owed[index]
        if not owed:
            self._end(task, COMPLETED, now, effects, tuple(given), None, True)
            return
        self._let_go(task, effects, reported=True)
        self._delegate(task, given, owed)
        if not restored:
            self.log.task(task.id, DELEGATED, task.template.session, now)
            effects.delegated.append(Delegated(task.id, tuple(given), owed))

    def _delegate(self, task: Task, values: list[Value], refs: dict[int, Ref]) -> None:
        """The task's results are those of children."""
        task.state = DELEGATED
        task.values = values
        task.awaiting = len(refs)
        delegates = []
        for index, (number, there) in refs.items():
            child = self.tasks[number]
            if child.heirs is None:
                child.heirs = []
            child.heirs.append((task, index, there))
            delegates.append(child)
        task.delegates = tuple(delegates)

    def _recalled(self, event: TasksRecalled, now: float, effects: Effects) -> None:
        for number, key in event.keys.items():
            task = self.tasks.get(number)
            if task is None or task.memo is not None:
                continue
            waits = task.state == READY  # otherwise a pilot has brought it back meanwhile
            if waits and (values := event.found.get(number)) is not None:
                # Without its key: under that the results are there already.
                self._end(task, COMPLETED, now, effects, values)
                continue
            task.memo = key
            if waits:
                self._queue(task)

    def _attempts_running(self, event: AttemptsRunning, now: float, effects: Effects) -> None:
        pilot = self.pilots.get(event.pilot)
        for running in event.running:
            task = self.tasks.get(running.task)
            if (
                task is not None
                and task.state == ASSIGNED
                and task.pilot is pilot
                and task.attempt == running.attempt
            ):
                task.state = RUNNING
                task.started_at = running.started
                effects.started.append(task.id)
                self.log.task(task.id, RUNNING, task.template.session, now)

    # --- what all of the above come down to

    def _make_ready(
        self, task: Task, now: float, effects: Effects, again: str = "", restored: bool = False
    ) -> None:
        """It could start; a task that is tried `again` (why?) goes first."""
        task.state = READY
        task.ready_at = now
        if not restored:
            self.log.task(task.id, READY, task.template.session, now, again)
        if task.template.cache and task.memo is None:
            effects.recalls.append(task)
        else:
            self._queue(task, first=bool(again))

    def _queue(self, task: Task, first: bool = False) -> None:
        work = task.task_class
        work.ready += 1
        if first:
            work.queue.appendleft(task)
        else:
            work.queue.append(task)

    def _recall(self, task: Task, effects: Effects) -> None:
        """Have the pilot of a task end it; its cores stay counted until that is reported."""
        if task.pilot is not None:
            effects.cancel.setdefault(task.pilot.name, []).append(task.id)
            self._unassign(task)

    def _leave_pilot(self, task: Task) -> None:
        """The task is with no pilot any more."""
        if task.pilot is not None:
            task.pilot.release(task.id)
            self._unassign(task)

    def _unassign(self, task: Task) -> None:
        for dependent in task.dependents or ():
            if dependent.near_pilot is task.pilot:
                # Maybe it was not counted: another pilot had the last one, in between.
                dependent.near = max(0, dependent.near - 1)
        task.pilot = None
        task.task_class.assigned -= 1
        task.task_class.session.load -= task.task_class.need.total_cores

    def _end(
        self,
        task: Task,
        state: str,
        now: float,
        effects: Effects,
        values: tuple[Value, ...] = (),
        failure: TaskFailure | None = None,
        reported: bool = False,
    ) -> None:
        """Give a task its final state, and to others what follows from it.

        `reported`: its pilot knows that it has ended.
        """
        ending: list[tuple[Task, str, tuple[Value, ...], TaskFailure | None, bool]] = [
            (task, state, values, failure, reported)
        ]
        # A list in place of recursion: chains may be as long as they like.
        while ending:
            task, state, values, failure, reported = ending.pop()
            if self.tasks.pop(task.id, None) is None:
                continue
            if task.template.group:
                self._leave_group(task)
            self._let_go(task, effects, reported)
            task.state = state
            session = self._session(task.template.session)
            memo = task.memo or b"" if state == COMPLETED else b""
            if memo:
                values = marked(values, memo)
            where = (task.pool, task.ran_s)
            effects.ended.append(
                Ended(task.id, session.id, state, now, values, failure, *where, memo, task.files)
            )
            self.log.task(task.id, state, session.id, now, failure.type if failure else "")
            session.unfinished -= 1
            session.counts[state] = session.counts.get(state, 0) + 1
            policy = task.template.on_failure
            if state != COMPLETED and policy == "ignore" and state != CANCELLED:
                values = default_values(task.template)
                good = True
            else:
                good = state == COMPLETED
            self._just_ended[task.id] = TaskOutcome(task.id, COMPLETED if good else state, values)
            for parent, index, there in task.heirs or ():
                if not good:
                    ending.append((parent, state, (), failure, True))
                    continue
                parent.values[index] = values[there]
                parent.awaiting -= 1
                if not parent.awaiting:
                    ending.append((parent, COMPLETED, tuple(parent.values), None, True))
            if good:
                for dependent in task.dependents or ():
                    dependent.missing -= 1
                    if dependent.state != PENDING:
                        continue
                    if not dependent.missing:
                        self._make_ready(dependent, now, effects)
                    elif dependent.near == dependent.missing and dependent.near_pilot is not None:
                        dependent.near_pilot.early.append(dependent)
            elif task.dependents:
                cause = TaskFailure(
                    type="TaskAborted",
                    message=_cause(task, state, failure),
                    detail=failure.detail if failure else "",
                )
                after = CANCELLED if policy == "cancel_successors" else ABORTED
                ending.extend((each, after, (), cause, False) for each in task.dependents)
            if state == CANCELLED:
                ending.extend((child, CANCELLED, (), None, False) for child in task.delegates)
            if policy == "stop_session" and state in (FAILED, TIMED_OUT):
                others = self._members(session.id, "")
            elif task.template.group_fails_together and state in (FAILED, TIMED_OUT):
                others = self._members(session.id, task.template.group)
            else:
                others = []
            ending.extend((other, CANCELLED, (), None, False) for other in others)
            task.dependents = task.heirs = None
            task.delegates = ()
            self._end_session_if_done(session, now, effects)

    def _members(self, session: int, group: str) -> list[Task]:
        """The unfinished tasks of a session, or of one of its groups, in order of submission."""
        if group:
            return list(self._groups.get((session, group), {}).values())
        return [task for task in self.tasks.values() if task.template.session == session]

    def _leave_group(self, task: Task) -> None:
        key = (task.template.session, task.template.group)
        members = self._groups[key]
        del members[task.id]
        if not members:
            del self._groups[key]

    def _let_go(self, task: Task, effects: Effects, reported: bool) -> None:
        """Take a task that ends from its queue, or from its pilot."""
        if task.pilot is None:
            if _is_queued(task):
                task.task_class.ready -= 1
        elif reported:
            self._leave_pilot(task)
        else:
            self._recall(task, effects)

    def _end_session_if_done(self, session: Session, now: float, effects: Effects) -> None:
        if session.closed and not session.unfinished:
            effects.sessions_ended.append(session.id)
            self.log.other("session", "CLOSED", session.id, now)
            self._forget(session)

    def _forget(self, session: Session) -> None:
        del self.sessions[session.id]
        for template in [t for t in self.templates.values() if t.session == session.id]:
            del self.templates[template.id]
            del self._class_of[template.id]
        for key in [key for key in self.classes if key[0] == session.id]:
            del self.classes[key]

    def _session(self, session: int) -> Session:
        known = self.sessions.get(session)
        if known is None:
            known = self.sessions[session] = Session(session)
        return known


def _is_queued(task: Task) -> bool:
    """Whether it may be given to a pilot: not while it is looked up whether it has run before."""
    return task.state == READY and (task.memo is not None or not task.template.cache)


def default_values(template: Template) -> tuple[Value, ...]:
    """What others get of a failed task with ``on_failure="ignore"``."""
    return (Value(len(template.default), template.default),) * template.returns


def _cause(task: Task, state: str, failure: TaskFailure | None) -> str:
    """The sentence that a dependent's error opens with; it names the first cause."""
    if failure is not None and failure.type == "TaskAborted":
        return failure.message
    reason = f": {failure.type}: {failure.message}" if failure else ""
    return f"its input, task {task_label(task.id)} ({task.template.name}), is {state}{reason}"
