"""The state machine of all tasks: event in, effects out. No clock, no I/O.

The head's server turns frames, timers and Slurm's answers into events, calls `Core.apply` with the
time, and carries the effects out; after a batch of events it asks `Core.assign` for what each pilot
should get. All rules about tasks are here and in `policy`, so that whole clusters can be simulated
with the code that runs in production.

Invariants
----------
- Only unfinished tasks are kept: memory does not grow with history.
- A task is in exactly one of PENDING, READY (and then in its class's queue), ASSIGNED or RUNNING
  (and then with exactly one pilot), or it has left with one final state, told in one effect.
- The first good end of a task counts; whatever is reported later of it changes nothing.
- Nothing here costs more when more tasks wait: queues are popped, never scanned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from pilot.head.policy import (
    ABORTED,
    ASSIGNED,
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    READY,
    RUNNING,
    TIMED_OUT,
    verdict,
)
from pilot.wire.messages import (
    Completion,
    RunningTask,
    TaskFailure,
    TaskSpec,
    Template,
    task_label,
)
from scheduler import assignment
from scheduler.elasticity import ClassDemand
from scheduler.resources import NodeShape, Resources

# --- what the core keeps -------------------------------------------------------------------------


class TaskClass:
    """Tasks that are alike for the scheduler, and the queue of those that are ready."""

    __slots__ = ("assigned", "mean_s", "need", "pool", "priority", "queue", "ready", "time_limit_s")

    def __init__(self, template: Template) -> None:
        self.need = template.resources
        self.priority = template.priority
        self.pool = template.pool
        self.time_limit_s = template.time_limit_s
        #: Mean duration of those that ended, weighted towards the last ones.
        self.mean_s: float | None = None
        #: May hold tasks that have left the READY state meanwhile; `ready` counts the others.
        self.queue: deque[Task] = deque()
        self.ready = 0
        #: Tasks that pilots hold.
        self.assigned = 0

    def learn(self, duration_s: float) -> None:
        """Take one more duration into the mean."""
        self.mean_s = duration_s if self.mean_s is None else 0.9 * self.mean_s + 0.1 * duration_s


class Session:
    """A session's counters and whether it takes more tasks."""

    __slots__ = ("closed", "counts", "id", "unfinished")

    def __init__(self, session: int) -> None:
        self.id = session
        self.closed = False
        self.unfinished = 0
        #: Final states of the tasks that ended since this head started.
        self.counts: dict[str, int] = {}


class Task:
    """An unfinished task."""

    __slots__ = (
        "assigned_at",
        "attempt",
        "crashes",
        "created_at",
        "dependents",
        "ended_attempt",
        "errors",
        "id",
        "inputs",
        "missing",
        "pilot",
        "ready_at",
        "started_at",
        "state",
        "task_class",
        "template",
    )

    def __init__(self, task: int, template: Template, task_class: TaskClass, now: float) -> None:
        self.id = task
        self.template = template
        self.task_class = task_class
        self.state = PENDING
        #: The tasks whose results it needs.
        self.inputs: tuple[tuple[int, int], ...] = ()
        #: How many of them are still to come.
        self.missing = 0
        self.dependents: list[Task] | None = None
        #: Number of the last attempt; the first is 1.
        self.attempt = 0
        #: The last attempt whose end was reported, and counted.
        self.ended_attempt = 0
        self.errors = 0
        self.crashes = 0
        self.pilot: Pilot | None = None
        self.created_at = now
        self.ready_at = 0.0
        self.assigned_at = 0.0
        self.started_at = 0.0


class Pilot:
    """A pilot that has reported itself."""

    __slots__ = ("draining", "ends_at", "held", "load", "name", "nodes", "pool", "shape")

    def __init__(self, name: str, pool: str, shape: NodeShape, nodes: int, ends_at: float) -> None:
        self.name = name
        self.pool = pool
        self.shape = shape
        self.nodes = nodes
        self.ends_at = ends_at
        self.draining = False
        #: What it was given and has not reported: task id → its cores.
        self.held: dict[int, int] = {}
        #: Cores of all that.
        self.load = 0

    def release(self, task: int) -> None:
        """The pilot holds the task no more."""
        self.load -= self.held.pop(task, 0)


# --- events --------------------------------------------------------------------------------------


class TasksSubmitted(msgspec.Struct, frozen=True):
    """Tasks to take on. `ended` has the states of inputs that are no unfinished tasks."""

    session: int
    templates: list[Template]
    tasks: list[TaskSpec]
    ended: Mapping[int, str]


class TasksRestored(msgspec.Struct, frozen=True):
    """Unfinished tasks from the database: (spec, attempts, errors, crashes, created)."""

    session: int
    closed: bool
    templates: list[Template]
    tasks: list[tuple[TaskSpec, int, int, int, float]]


class SessionClosed(msgspec.Struct, frozen=True):
    """No more tasks will come."""

    session: int


class TasksCancelled(msgspec.Struct, frozen=True):
    """End these tasks, or with None all of the session."""

    session: int
    tasks: list[int] | None


class PilotJoined(msgspec.Struct, frozen=True):
    """A pilot reports itself, with the attempts that it holds."""

    name: str
    pool: str
    shape: NodeShape
    nodes: int
    ends_at: float
    held: list[tuple[int, int]]


class PilotChanged(msgspec.Struct, frozen=True):
    """A pilot has another number of nodes, or drains."""

    name: str
    nodes: int
    draining: bool


class PilotLost(msgspec.Struct, frozen=True):
    """A pilot is gone; what it held is to be run again."""

    name: str
    reason: str


class AttemptsEnded(msgspec.Struct, frozen=True):
    """What a pilot reports of the attempts that ended there."""

    pilot: str
    completions: list[Completion]


class AttemptsRunning(msgspec.Struct, frozen=True):
    """What a pilot says that it has run for a while."""

    pilot: str
    running: list[RunningTask]


Event = (
    TasksSubmitted
    | TasksRestored
    | SessionClosed
    | TasksCancelled
    | PilotJoined
    | PilotChanged
    | PilotLost
    | AttemptsEnded
    | AttemptsRunning
)


# --- effects -------------------------------------------------------------------------------------


class Ended(msgspec.Struct, frozen=True):
    """A task has its final state."""

    task: int
    session: int
    state: str
    at: float
    completion: Completion | None
    failure: TaskFailure | None


class Attempt(msgspec.Struct, frozen=True):
    """An attempt ended, whether or not that ended its task."""

    completion: Completion
    pilot: str
    created: float
    ready: float
    assigned: float
    errors: int
    crashes: int


class Effects:
    """What the server has to carry out, in the order: write, commit, tell."""

    __slots__ = ("accepted", "attempts", "cancel", "ended", "refused", "sessions_ended", "started")

    def __init__(self) -> None:
        #: Tasks to insert, with their state and time of creation.
        self.accepted: list[tuple[TaskSpec, Task]] = []
        #: Tasks that were not taken, and why.
        self.refused: list[tuple[int, str]] = []
        self.attempts: list[Attempt] = []
        self.ended: list[Ended] = []
        #: Pilot → tasks that it must end.
        self.cancel: dict[str, list[int]] = {}
        #: Tasks now known to run.
        self.started: list[int] = []
        #: Sessions that were closed and have no unfinished task any more.
        self.sessions_ended: list[int] = []


# --- the state machine ---------------------------------------------------------------------------


class Core:
    """All unfinished tasks, the sessions and the pilots."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.templates: dict[int, Template] = {}
        self.classes: dict[tuple[object, ...], TaskClass] = {}
        self.sessions: dict[int, Session] = {}
        self.pilots: dict[str, Pilot] = {}
        self._class_of: dict[int, TaskClass] = {}
        self._handlers = {
            TasksSubmitted: self._submitted,
            TasksRestored: self._restored,
            SessionClosed: self._closed,
            TasksCancelled: self._cancelled,
            PilotJoined: self._joined,
            PilotChanged: self._changed,
            PilotLost: self._lost,
            AttemptsEnded: self._attempts_ended,
            AttemptsRunning: self._attempts_running,
        }

    def apply(self, event: Event, now: float) -> Effects:
        """Take one event in and say what is to be done."""
        effects = Effects()
        self._handlers[type(event)](event, now, effects)  # type: ignore[operator]
        return effects

    def assign(self, now: float) -> dict[str, list[Task]]:
        """Hand ready tasks to pilots: pilot name → the tasks that it gets now."""
        classes = [work for work in self.classes.values() if work.ready]
        if not classes:
            return {}
        pilots = [pilot for pilot in self.pilots.values() if not pilot.draining]
        given: dict[str, list[Task]] = {}
        for work, room, count in assignment.assign(classes, pilots, now):
            assert isinstance(work, TaskClass) and isinstance(room, Pilot)
            given.setdefault(room.name, []).extend(self._give(work, room, count, now))
        return given

    def demand(self) -> list[ClassDemand]:
        """What is to be run, by class: the question that elasticity answers."""
        return [
            ClassDemand(
                need=work.need,
                pool=work.pool,
                count=work.ready + work.assigned,
                mean_s=work.mean_s,
                time_limit_s=work.time_limit_s,
            )
            for work in self.classes.values()
            if work.ready or work.assigned
        ]

    # --- submission

    def _submitted(self, event: TasksSubmitted, now: float, effects: Effects) -> None:
        session = self._session(event.session)
        self._learn_templates(event.templates)
        tasks = self.tasks
        for spec in event.tasks:
            if spec.id in tasks:
                continue  # sent twice
            if refusal := self._refusal(session, spec, event.ended):
                effects.refused.append((spec.id, refusal))
                continue
            template = self.templates[spec.template]
            task = Task(spec.id, template, self._class_of[template.id], now)
            tasks[spec.id] = task
            session.unfinished += 1
            effects.accepted.append((spec, task))
            if spec.inputs:
                self._link(task, spec)
            if not task.missing:
                self._make_ready(task, now)

    def _refusal(self, session: Session, spec: TaskSpec, ended: Mapping[int, str]) -> str:
        if session.closed:
            return "the session is closed: it takes no more tasks"
        if spec.template not in self.templates:
            return f"the template {task_label(spec.template)} was never sent"
        for needed, _ in spec.inputs:
            if needed in self.tasks:
                continue
            state = ended.get(needed)
            if state is None:
                return f"it needs a result of task {task_label(needed)}, which does not exist"
            if state != COMPLETED:
                return f"it needs a result of task {task_label(needed)}, which is {state}"
        return ""

    def _restored(self, event: TasksRestored, now: float, effects: Effects) -> None:
        session = self._session(event.session)
        session.closed = event.closed
        self._learn_templates(event.templates)
        restored = []
        for spec, attempts, errors, crashes, created in event.tasks:
            template = self.templates[spec.template]
            task = Task(spec.id, template, self._class_of[template.id], created)
            task.attempt = task.ended_attempt = attempts
            task.errors, task.crashes = errors, crashes
            self.tasks[spec.id] = task
            restored.append((spec, task))
        session.unfinished += len(restored)
        for spec, task in restored:
            self._link(task, spec)
            if not task.missing:
                self._make_ready(task, now)
        self._end_session_if_done(session, effects)

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
            self._class_of[template.id] = self.classes.setdefault(key, TaskClass(template))

    def _closed(self, event: SessionClosed, _now: float, effects: Effects) -> None:
        session = self._session(event.session)
        session.closed = True
        self._end_session_if_done(session, effects)

    def _cancelled(self, event: TasksCancelled, now: float, effects: Effects) -> None:
        if event.tasks is None:
            named = [task for task in self.tasks.values() if task.template.session == event.session]
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
            held = {task for task, _ in event.held}
            for number in [number for number in pilot.held if number not in held]:
                self._interrupted(number, pilot, "lost on the way to the pilot", now, effects)
        else:
            pilot = Pilot(event.name, event.pool, event.shape, event.nodes, event.ends_at)
            self.pilots[event.name] = pilot
        pilot.nodes, pilot.ends_at, pilot.draining = event.nodes, event.ends_at, False
        for number, attempt in event.held:
            task = self.tasks.get(number)
            if task is None or task.pilot not in (None, pilot):
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None and attempt <= task.ended_attempt:
                # Its end is known, only the pilot does not know that.
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None:
                task.attempt = attempt
                self._hold(task, pilot, now)

    def _changed(self, event: PilotChanged, _now: float, _effects: Effects) -> None:
        if pilot := self.pilots.get(event.name):
            pilot.nodes = event.nodes
            pilot.draining = event.draining

    def _lost(self, event: PilotLost, now: float, effects: Effects) -> None:
        pilot = self.pilots.pop(event.name, None)
        if pilot is None:
            return
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
        return given

    def _hold(self, task: Task, pilot: Pilot, now: float) -> None:
        work = task.task_class
        if task.state == READY:
            work.ready -= 1
        work.assigned += 1
        task.state = ASSIGNED
        task.pilot = pilot
        task.assigned_at = now
        task.started_at = 0.0
        cores = work.need.total_cores
        pilot.held[task.id] = cores
        pilot.load += cores

    def _attempts_ended(self, event: AttemptsEnded, now: float, effects: Effects) -> None:
        pilot = self.pilots.get(event.pilot)
        for completion in event.completions:
            task = self.tasks.get(completion.task)
            here = task is not None and pilot is not None and task.pilot is pilot
            if pilot is not None and not here:
                pilot.release(completion.task)
            if task is None:
                continue  # ended before: cancelled, or reported twice
            if completion.outcome == "ok":
                if not here:
                    self._recall(task, effects)
            elif not here or completion.attempt != task.attempt:
                continue  # reported twice, or the end of an attempt that was given up
            task.ended_attempt = max(task.ended_attempt, completion.attempt)
            self._attempt_ended(task, pilot, completion, now, effects)

    def _attempt_ended(
        self,
        task: Task,
        pilot: Pilot | None,
        completion: Completion,
        now: float,
        effects: Effects,
    ) -> None:
        outcome = completion.outcome
        if outcome == "ok":
            task.task_class.learn(max(0.0, completion.ended - completion.started))
        elif outcome == "error":
            task.errors += 1
        elif outcome == "crash":
            task.crashes += 1
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
        state = verdict(task.template, completion, task.errors, task.crashes)
        if state is not None:
            self._end(task, state, now, effects, completion)
        else:
            self._leave_pilot(task)
            if task.missing:
                # Another head had given it away when an input had come that is lost again.
                task.state = PENDING
            else:
                self._make_ready(task, now, first=True)

    def _attempts_running(self, event: AttemptsRunning, _now: float, effects: Effects) -> None:
        for running in event.running:
            task = self.tasks.get(running.task)
            if task and task.state == ASSIGNED and task.attempt == running.attempt:
                task.state = RUNNING
                task.started_at = running.started
                effects.started.append(task.id)

    # --- what all of the above come down to

    def _make_ready(self, task: Task, now: float, first: bool = False) -> None:
        task.state = READY
        task.ready_at = now
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
            task.pilot = None
            task.task_class.assigned -= 1

    def _leave_pilot(self, task: Task) -> None:
        """The task is with no pilot any more."""
        if task.pilot is not None:
            task.pilot.release(task.id)
            task.pilot = None
            task.task_class.assigned -= 1

    def _end(
        self,
        task: Task,
        state: str,
        now: float,
        effects: Effects,
        completion: Completion | None = None,
    ) -> None:
        """Give a task its final state, and its dependents what follows from it."""
        ending: list[tuple[Task, str, Completion | None, TaskFailure | None]] = [
            (task, state, completion, completion.failure if completion else None)
        ]
        # A list in place of recursion: chains may be as long as they like.
        while ending:
            task, state, completion, failure = ending.pop()
            if self.tasks.pop(task.id, None) is None:
                continue
            if task.pilot is not None:
                if completion is None:
                    self._recall(task, effects)
                else:
                    self._leave_pilot(task)
            elif task.state == READY:
                task.task_class.ready -= 1
            task.state = state
            effects.ended.append(
                Ended(task.id, task.template.session, state, now, completion, failure)
            )
            session = self._session(task.template.session)
            session.unfinished -= 1
            session.counts[state] = session.counts.get(state, 0) + 1
            policy = task.template.on_failure
            if task.dependents:
                if state == COMPLETED or (policy == "ignore" and state != CANCELLED):
                    for dependent in task.dependents:
                        dependent.missing -= 1
                        if not dependent.missing and dependent.state == PENDING:
                            self._make_ready(dependent, now)
                else:
                    cause = TaskFailure(
                        type="TaskAborted",
                        message=_cause(task, state, failure),
                        detail=failure.detail if failure else "",
                    )
                    after = CANCELLED if policy == "cancel_successors" else ABORTED
                    ending.extend((dependent, after, None, cause) for dependent in task.dependents)
                task.dependents = None
            if policy == "stop_session" and state in (FAILED, TIMED_OUT):
                ending.extend(
                    (other, CANCELLED, None, None)
                    for other in self.tasks.values()
                    if other.template.session == session.id
                )
            self._end_session_if_done(session, effects)

    def _end_session_if_done(self, session: Session, effects: Effects) -> None:
        if session.closed and not session.unfinished:
            effects.sessions_ended.append(session.id)
            self._forget(session)

    def _forget(self, session: Session) -> None:
        del self.sessions[session.id]
        for template in [t for t in self.templates.values() if t.session == session.id]:
            del self.templates[template.id]
            del self._class_of[template.id]
        for key in [key for key in self.classes if key[0] == session.id]:
            del self.classes[key]

    def _session(self, session: int) -> Session:
        return self.sessions.setdefault(session, Session(session))


def _cause(task: Task, state: str, failure: TaskFailure | None) -> str:
    """The sentence that a dependent's error opens with; it names the first cause."""
    if failure is not None and failure.type == "TaskAborted":
        return failure.message
    reason = f": {failure.type}: {failure.message}" if failure else ""
    return f"its input, task {task_label(task.id)} ({task.template.name}), is {state}{reason}"


__all__ = [
    "AttemptsEnded",
    "AttemptsRunning",
    "Core",
    "Effects",
    "Ended",
    "Event",
    "Pilot",
    "PilotChanged",
    "PilotJoined",
    "PilotLost",
    "Resources",
    "Session",
    "SessionClosed",
    "Task",
    "TasksCancelled",
    "TasksRestored",
    "TasksSubmitted",
]
