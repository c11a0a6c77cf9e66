"""Reports of pilots: that they are there, and how the attempts that they hold go.

Invariants
----------
- The first good end of a task counts; whatever is reported later of it changes nothing.
- An attempt that ended otherwise counts once, and only while it is the task's last and with the
  pilot that reports it; or if a former head was told of its end, had the task tried again, and died
  before the end was in its database: pilots report it to this head after they have said that they
  hold the next attempt.
- A task that a pilot returned when asked to is not given to it again, nor are tasks of its class,
  until one of the class has run there, or a while has gone by (`dispatch.AVOID_S`).
- A pilot reports itself which amounts of the site its tasks hold; those of a lost pilot whose job
  may go on stay in use.
- The loss of a pilot costs its tasks nothing. But where its job has run out of memory one of them
  did that, and each has crashed: else they would end one pilot after the other.
- A pilot is asked to end what it holds and should not; all that it held is tried again, or has its
  end, when it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilot.head.core import allocation, turns
from pilot.head.core.delegation import Delegation
from pilot.head.core.events import (
    Attempt,
    AttemptsEnded,
    AttemptsHeldBack,
    AttemptsRunning,
    AttemptsWaiting,
    Effects,
    Log,
    PilotChanged,
    PilotJoined,
    PilotLost,
)
from pilot.head.core.lifecycle import Lifecycle
from pilot.head.core.retry import counted, verdict
from pilot.head.core.state import Pilot, Task, TaskClass
from pilot.head.core.waived import sound
from pilot.model.states import ASSIGNED, COMPLETED, DELEGATED, PENDING, Outcome
from pilot.model.tasks import Completion, TaskFailure
from pilot.scheduler.site_amounts import SiteAmounts

#: The kind of failure of an attempt that its pilot could not report.
_KINDS = {"interrupted": "interrupted", "crash": "TaskCrashed"}


class PilotReports:
    """The pilots, and the rules for what they report."""

    def __init__(
        self, life: Lifecycle, delegation: Delegation, site: SiteAmounts, log: Log
    ) -> None:
        self.pilots: dict[str, Pilot] = {}
        self._site = site
        self._tasks = life.tasks
        self._life = life
        self._delegation = delegation
        self._log = log
        #: Task and number of attempts whose ends a former head may have known, and this one not.
        self._unheard: set[tuple[int, int]] = set()

    # --- pilots

    def joined(self, event: PilotJoined, now: float, effects: Effects) -> None:
        """Take in a pilot that introduces itself; it keeps the attempts that no other pilot has."""
        pilot = self.pilots.get(event.name)
        self._site.replace(event.name, event.site)
        if pilot is not None:
            # It was away for a while: what it does not hold any more got lost on the way.
            held = dict(event.held)
            for number in [number for number in pilot.held if not self._is_held(number, held)]:
                self._cut_off(
                    number, pilot, "interrupted", "lost on the way to the pilot", now, effects
                )
            # Which of its tasks wait for others it says anew.
            for number in list(pilot.waits):
                if (task := self._tasks.get(number)) is not None and task.pilot is pilot:
                    allocation.go_on(task, pilot)
        else:
            pilot = Pilot(
                event.name, event.pool, event.shape, event.nodes, event.ends_at, self._site
            )
            self.pilots[event.name] = pilot
            self._log.other("pilot", "JOINED", 0, now, event.name)
        pilot.nodes, pilot.ends_at, pilot.draining = event.nodes, event.ends_at, False
        for number, attempt in event.held:
            task = self._tasks.get(number)
            if task is not None and task.pilot not in (None, pilot) and attempt > task.attempt:
                # A former head gave it to this one, after the attempt that the other one reports.
                self._miss(task, range(task.attempt, attempt))
                allocation.revoke(task, effects)
                self._wait_again(task, now, effects, f"attempt {attempt} is in another pilot")
            if task is None or task.state == DELEGATED or task.pilot not in (None, pilot):
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None and attempt <= task.ended_attempt:
                # Its end is known, only the pilot does not know that.
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None and not turns.may_keep(task, pilot.name, attempt):
                # Another one has had its turn, which knows nothing of what this one makes.
                effects.cancel.setdefault(pilot.name, []).append(number)
            elif task.pilot is None:
                self._miss(task, range(task.attempt + 1, attempt))
                task.attempt = attempt
                allocation.hold(task, pilot, now, self._log)

    def changed(self, event: PilotChanged, now: float, _effects: Effects) -> None:
        """Take in a pilot's new number of nodes, or that it drains."""
        if pilot := self.pilots.get(event.name):
            if event.draining and not pilot.draining:
                self._log.other("pilot", "DRAINING", 0, now, event.name)
            pilot.nodes = event.nodes
            pilot.draining = event.draining
            if event.ends_at is not None:
                pilot.ends_at = event.ends_at

    def lost(self, event: PilotLost, now: float, effects: Effects) -> None:
        """Remove a pilot, and all attempts that it held."""
        pilot = self.pilots.pop(event.name, None)
        kept = list(self._site.held(event.name).items()) if event.may_live else []
        outcome: Outcome = "crash" if event.out_of_memory else "interrupted"
        reason = event.reason
        if event.out_of_memory:
            reason += "; this task, or another one there, needs more memory than the job has"
        if pilot is not None:
            self._log.other("pilot", "LEFT", 0, now, f"{event.name}: {event.reason}")
            for number in list(pilot.held):
                self._cut_off(number, pilot, outcome, reason, now, effects)
        if not event.may_live:
            self._site.forget(event.name)
        elif kept:
            self._site.replace(event.name, kept)

    def _is_held(self, number: int, held: Mapping[int, int]) -> bool:
        """Tell whether a pilot still holds the last attempt of a task."""
        task = self._tasks.get(number)
        return number in held and (task is None or held[number] == task.attempt)

    def _cut_off(
        self,
        number: int,
        pilot: Pilot,
        outcome: Outcome,
        reason: str,
        now: float,
        effects: Effects,
    ) -> None:
        task = self._tasks.get(number)
        if task is None or task.pilot is not pilot:
            pilot.release(number)
            return
        completion = Completion(
            task=number,
            attempt=task.attempt,
            outcome=outcome,
            failure=TaskFailure(type=_KINDS[outcome], message=reason, attempt=task.attempt),
            started=task.started_at,
            ended=now,
        )
        self._take_end(task, pilot, completion, now, effects)

    def _miss(self, task: Task, attempts: range) -> None:
        """Note attempts before the one that a pilot holds: their ends may still be reported."""
        if attempts:
            # Those of tasks that have gone are of no interest any more.
            self._unheard = {each for each in self._unheard if each[0] in self._tasks}
            self._unheard.update((task.id, attempt) for attempt in attempts)

    # --- attempts

    def running(self, event: AttemptsRunning, now: float, effects: Effects) -> None:
        """Take in that attempts have begun, and have run for a while."""
        pilot = self.pilots.get(event.pilot)
        for running in event.running:
            task = self._tasks.get(running.task)
            if (
                task is not None
                and pilot is not None
                and task.state == ASSIGNED
                and task.pilot is pilot
                and task.attempt == running.attempt
            ):
                allocation.begin(task, pilot, running.started, now, self._log)
                pilot.note_lasting(task.id)
                effects.started.append(task.id)

    def held_back(self, event: AttemptsHeldBack, now: float, _effects: Effects) -> None:
        """Take in that attempts have ended, whose ends are to come: they take no cores."""
        pilot = self.pilots.get(event.pilot)
        for number, attempt, started in event.attempts:
            task = self._tasks.get(number)
            if task is None or pilot is None or task.pilot is not pilot or task.attempt != attempt:
                continue
            if task.state == ASSIGNED:
                allocation.begin(task, pilot, started, now, self._log)
            if number in pilot.waits:
                allocation.go_on(task, pilot)  # it has ended in its wait
            pilot.ease(number)

    def waiting(self, event: AttemptsWaiting, now: float, effects: Effects) -> None:
        """Take in that attempts wait for other tasks, or go on."""
        pilot = self.pilots.get(event.pilot)
        if pilot is None:
            return
        for number, attempt in event.waiting:
            task = self._held_by(pilot, number, attempt)
            if task is not None and number not in pilot.waits:
                if task.state == ASSIGNED:
                    allocation.begin(task, pilot, now, now, self._log)
                    effects.started.append(number)
                allocation.wait(task, pilot)
        for number, attempt in event.going_on:
            task = self._held_by(pilot, number, attempt)
            if task is not None and number in pilot.waits:
                allocation.go_on(task, pilot)

    def _held_by(self, pilot: Pilot, number: int, attempt: int) -> Task | None:
        """Return the task of an attempt that a pilot holds, or None if that is over."""
        task = self._tasks.get(number)
        is_it = task is not None and task.pilot is pilot and task.attempt == attempt
        return task if is_it else None

    def ended(self, event: AttemptsEnded, now: float, effects: Effects) -> None:
        """Take in that attempts have ended, as a pilot reports."""
        pilot = self.pilots.get(event.pilot)
        self._have_run(pilot, event.completions, now)
        for completion in sound(event.completions, self._tasks, self._life.releases):
            task = self._tasks.get(completion.task)
            here = task is not None and pilot is not None and task.pilot is pilot
            if pilot is not None and not here:
                pilot.release(completion.task)
            elif pilot is None and self._site.holders:
                self._site.release(event.pilot, completion.task)
            if completion.children is not None:
                self._delegation.learn(completion.children, effects)
            if task is None or task.state == DELEGATED:
                # Ended before: reported twice, or cancelled while it ran, which is worth a record.
                if completion.outcome == "cancelled" and completion.started and pilot is not None:
                    effects.late.append((pilot.name, completion))
                continue
            if completion.outcome == "ok":
                if not here or completion.attempt != task.attempt:
                    if task.parts:
                        continue  # its turn was over: others may have had it since
                    allocation.revoke(task, effects)
            elif (task.id, completion.attempt) in self._unheard:
                self._catch_up(task, event.pilot, completion, effects)
                continue
            elif not here or completion.attempt != task.attempt:
                # Reported twice, or the end of an attempt that was given up: it is over, also if
                # its pilot should greet with it before it hears that this is known.
                if not here and not completion.is_unstarted:
                    task.ended_attempt = max(task.ended_attempt, completion.attempt)
                continue
            if not completion.is_unstarted:
                task.ended_attempt = max(task.ended_attempt, completion.attempt)
            self._take_end(task, pilot, completion, now, effects, event)

    def _have_run(self, pilot: Pilot | None, completions: Iterable[Completion], now: float) -> None:
        """Record as running the ended attempts whose start was never reported."""
        for completion in completions:
            task = self._tasks.get(completion.task)
            if (
                task is not None
                and pilot is not None
                and task.state == ASSIGNED
                and task.pilot is pilot
                and task.attempt == completion.attempt
                and completion.started
            ):
                allocation.begin(task, pilot, completion.started, now, self._log)

    def _catch_up(self, task: Task, pilot: str, completion: Completion, effects: Effects) -> None:
        """Count an attempt that a former head had heard of, and had the task tried again after."""
        self._unheard.discard((task.id, completion.attempt))
        if completion.attempt > task.ended_attempt and not completion.is_unstarted:
            task.ended_attempt = completion.attempt
            task.errors, task.crashes = counted(completion.outcome, task.errors, task.crashes)
            effects.attempts.append(_attempt(task, pilot, completion))

    def _take_end(
        self,
        task: Task,
        pilot: Pilot | None,
        completion: Completion,
        now: float,
        effects: Effects,
        event: AttemptsEnded | None = None,
    ) -> None:
        """Take in the end of an attempt: end its task, or try it again. `event` None: no report."""
        outcome = completion.outcome
        work = task.task_class
        if completion.version:
            work = _ran_as(work, completion.version)
        task.files = completion.files
        if pilot is not None:
            task.pool = pilot.pool
        if completion.started:
            task.ran_s = took = max(0.0, completion.ended - completion.started)
            work.session.used += took * work.cores
            if pilot is not None:
                for each in work.versions:
                    pilot.avoided.pop(each, None)
            if outcome == "ok":
                work.learn(took)
                work.makes_files = any(value.path for value in completion.values)
                if work.makes_files and pilot is not None:
                    for dependent in task.dependents or ():
                        dependent.data_pilot = pilot
                        dependent.task_class.has_data = True
        task.errors, task.crashes = counted(outcome, task.errors, task.crashes)
        if not completion.is_unstarted or event is None:
            effects.attempts.append(_attempt(task, pilot.name if pilot else "", completion))
        else:
            # Given back before it started: it was no attempt, and the next one has its number.
            task.attempt -= 1
            if pilot is not None and _was_asked_back(task, pilot):
                pilot.avoided.update(dict.fromkeys(work.versions, now))
        state = verdict(task.template, completion, task.errors, task.crashes)
        if state is None:
            allocation.leave_pilot(task)
            self._wait_again(task, now, effects, outcome)
        elif state == COMPLETED and completion.children is not None:
            assert event is not None
            self._delegation.add_children(
                task, completion, completion.children, event, now, effects
            )
        else:
            self._life.end(task, state, now, effects, completion.values, completion.failure, True)

    def _wait_again(self, task: Task, now: float, effects: Effects, why: str) -> None:
        """Have a task that has left its pilot wait for one again."""
        if task.missing:
            # Another head had given it away when an input had come that is lost again.
            task.state = PENDING
            if task.parts:
                self._life.leave_turns(task)
            self._log.task(task.id, PENDING, task.template.session, now, why)
        else:
            self._life.make_ready(task, now, effects, again=why)


def _ran_as(work: TaskClass, version: str) -> TaskClass:
    """Return the class for a version of the tasks of a class, by its label."""
    classes = (each for each in work.versions if each.version and each.version.version == version)
    return next(classes, work)


def _attempt(task: Task, pilot: str, completion: Completion) -> Attempt:
    """Return what is kept of an attempt of the task, which is counted already."""
    return Attempt(
        completion,
        pilot,
        task.created_at,
        task.ready_at,
        task.assigned_at,
        task.errors,
        task.crashes,
    )


def _was_asked_back(task: Task, pilot: Pilot) -> bool:
    """Tell whether the pilot returns the task because it was asked to."""
    asked = pilot.waiting.get(task.task_class, {}).get(task, task.assigned_at)
    return asked > task.assigned_at and not task.missing
