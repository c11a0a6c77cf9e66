"""The state machine of all tasks: event in, effects out. No clock, no I/O.

The head's server turns frames, timers and Slurm's answers into events, calls `Core.apply` with the
time, and carries the effects out; after a batch of events it asks `Core.assign` for what each pilot
should get. So whole clusters can be simulated with the code that runs in production.

This module is the entry point: it puts the parts together, and handles the events of clients and
the database. The parts have the other rules; their state is in `pilot.head.core.state`:

===============  ==============================================================
`sessions`       sessions, groups and classes of tasks
`lifecycle`      how tasks come in, get ready and end, and what follows from it
`dependencies`   edges between tasks
`releases`       released results, and when they may go
`delegation`     children, and the results that they make for their parents
`pilot_reports`  reports of pilots
`allocation`     the place of a task: in a queue, or with a pilot
`dispatch`       which tasks the pilots get, and which they are asked to return
`retry`          which final state, if any, follows from an attempt's end
`turns`          tasks that take the same value one after the other
===============  ==============================================================

Invariants
----------
- Only unfinished tasks are kept: memory does not grow with history.
- A task is in exactly one of PENDING (an input is to come), READY (and then in its class's queue,
  once it is known not to have run before), ASSIGNED or RUNNING (and then with exactly one pilot),
  DELEGATED (it ran; children have its results), or it has left with one final state, told in one
  effect.
- Every change of a state is in the log, once; a new head's log goes on where the committed one
  ends.
- Of an amount that exists once per site, no more is in use at a time than there is, in all pilots.
- Nothing here costs more when more tasks wait: queues are popped, never scanned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilot.head.core import allocation, dependencies, turns
from pilot.head.core.delegation import Delegation
from pilot.head.core.dispatch import Dispatch
from pilot.head.core.events import (
    AttemptsEnded,
    AttemptsHeldBack,
    AttemptsRunning,
    AttemptsWaiting,
    BudgetChanged,
    Effects,
    Event,
    Log,
    PilotChanged,
    PilotJoined,
    PilotLost,
    ResultsReleased,
    SessionOpened,
    TasksCancelled,
    TasksLookedUp,
    TasksRestored,
    TasksSubmitted,
    TasksUnfit,
    VersionsCommitted,
    VersionsLookedUp,
)
from pilot.head.core.lifecycle import Lifecycle, default_values
from pilot.head.core.pilot_reports import PilotReports
from pilot.head.core.sessions import Sessions
from pilot.head.core.state import Task, TaskClass
from pilot.model.ids import Ref
from pilot.model.states import CANCELLED, COMPLETED, FAILED, PENDING, READY
from pilot.model.tasks import TaskFailure, TaskSpec
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.assignment import Pool, required_walltime_s
from pilot.scheduler.demand import ClassDemand
from pilot.scheduler.site_amounts import SiteAmounts
from pilot.wire.messages.pilot import ReleasedResult

__all__ = ["Core", "default_values"]


class Core:
    """The state machine of all unfinished tasks, the sessions and the pilots.

    Parameters
    ----------
    pools
        The site's pools, for their walltimes; empty: unknown.
    site
        The amounts that exist once per site.
    """

    def __init__(self, pools: Sequence[Pool] = (), site: Amounts = ()) -> None:
        #: The changes of state that the shell has not taken yet.
        self.log = Log()
        #: The amounts that exist once per site, and the tasks that hold them.
        self.site = SiteAmounts(site)
        self._sessions = Sessions(self.log, pools)
        self._life = Lifecycle(self._sessions, self.log)
        self._delegation = Delegation(self._life, self._sessions, self.log)
        attempts = PilotReports(self._life, self._delegation, self.site, self.log)
        # To be read by all; changed by the parts alone.
        self.tasks = self._life.tasks
        self.templates = self._sessions.templates
        self.classes = self._sessions.classes
        self.sessions = self._sessions.known
        self.groups = self._sessions.groups
        self.pilots = attempts.pilots
        self.releases = self._life.releases
        #: What `take_unwanted` returns next.
        self.unwanted: dict[str, list[ReleasedResult]] = {}
        self._dispatch = Dispatch(self._sessions, self.tasks, self.pilots, self.site, self.log)
        self._handlers = {
            TasksSubmitted: self._submitted,
            TasksRestored: self._restored,
            TasksCancelled: self._cancelled,
            ResultsReleased: self._released,
            TasksLookedUp: self._looked_up,
            TasksUnfit: self._unfit,
            SessionOpened: self._sessions.change,
            BudgetChanged: self._sessions.use_budget,
            PilotJoined: attempts.joined,
            PilotChanged: attempts.changed,
            PilotLost: attempts.lost,
            AttemptsEnded: attempts.ended,
            AttemptsRunning: attempts.running,
            AttemptsHeldBack: attempts.held_back,
            AttemptsWaiting: attempts.waiting,
            VersionsCommitted: self._versions_committed,
            VersionsLookedUp: self._versions_read,
        }

    def apply(self, event: Event, now: float) -> Effects:
        """Apply an event; return the effects to carry out."""
        effects = Effects()
        self._life.just_ended.clear()
        self._life.just_lost.clear()
        self._life.releases.just_gone.clear()
        self._handlers[type(event)](event, now, effects)  # type: ignore[operator]  # the handler of its type
        return effects

    def assign(self, now: float) -> dict[str, list[Task]]:
        """Hand ready tasks to pilots; return the tasks that each pilot gets now, by its name."""
        given = self._dispatch.assign(now)
        if self.releases.is_used:
            for tasks in given.values():
                self.releases.given(tasks, self.unwanted)
        return given

    def take_unwanted(self) -> dict[str, list[ReleasedResult]]:
        """Return the released results that pilots need for tasks of their own alone, as of what
        `assign` has given since the last call, by pilot."""
        taken, self.unwanted = self.unwanted, {}
        return taken

    def ask_back(self, now: float) -> dict[str, list[int]]:
        """Return the tasks that pilots are asked to return, by pilot; call after `assign`."""
        return self._dispatch.ask_back(now)

    def demand(self) -> list[ClassDemand]:
        """Return the tasks to run, by class: the demand that elasticity answers."""
        found = []
        for work in self.classes.values():
            # Of all versions the first counts what waits.
            ready = 0 if work.session.rests or work is not work.versions[0] else work.ready
            if ready or work.assigned:
                others = work.versions[1:] if ready else ()
                versions = tuple(self._demand_of(each, ready) for each in others)
                found.append(self._demand_of(work, ready, work.assigned, versions))
        return found

    def _demand_of(
        self,
        work: TaskClass,
        ready: int,
        assigned: int = 0,
        versions: tuple[ClassDemand, ...] = (),
    ) -> ClassDemand:
        return ClassDemand(
            need=work.need,
            pool=work.pool,
            count=assigned + ready,
            mean_s=work.mean_s,
            required_walltime_s=required_walltime_s(work),
            assigned=assigned,
            most=self.site.most(work.need.site) if work.need.site else math.inf,
            versions=versions,
        )

    def versions(self, spec: TaskSpec) -> list[Ref]:
        """List the results that a task which is not here yet would get by turns, as far as these
        are not its own inputs."""
        return self._life.versions(spec)

    def _submitted(self, event: TasksSubmitted, now: float, effects: Effects) -> None:
        session = self._sessions.get(event.session)
        self._sessions.learn(event.templates)
        life = self._life
        for spec in event.tasks:
            if spec.id in self.tasks:
                continue  # sent twice
            refusal = ""
            if (session.closed or session.stopped) and not event.parent:
                refusal = "the session is closed: it takes no more tasks"
            refusal = refusal or life.refusal(spec, event.ended, event.lost, event.gone)
            if refusal:
                effects.refused.append((spec.id, refusal))
                continue
            task = life.take_on(spec, event.parent, now, effects)
            if spec.inputs and (doom := life.doom(spec, event.lost)):
                life.end(task, doom[0], now, effects, failure=doom[1])
            elif spec.values:
                if spec.payload:
                    effects.named.append((spec, event.parent))
                life.end(task, COMPLETED, now, effects, spec.values)
            elif not task.missing:
                life.make_ready(task, now, effects)

    def _restored(self, event: TasksRestored, now: float, effects: Effects) -> None:
        self._sessions.learn(event.templates)
        self.site.unheard.update(event.pilots)
        self._sessions.restore(event.versions)
        for item in event.tasks:
            task = self._life.add(item.spec.id, self.templates[item.spec.template], item.created)
            task.attempt = task.ended_attempt = item.attempts
            task.errors, task.crashes = item.errors, item.crashes
            if item.spec.commutative:
                turns.join(task, item.spec, task.task_class.session.turns)
        # An input may be of another session, or delegated: so not before all are there.
        for item in event.tasks:
            if item.delegated is None:
                task = self.tasks[item.spec.id]
                dependencies.link(task, item.spec, self.tasks)
                if not task.missing:
                    self._life.make_ready(task, now, effects, restored=True)
        for item in event.tasks:
            if item.delegated is not None:
                values, refs = item.delegated
                task = self.tasks[item.spec.id]
                self._delegation.hand_on(
                    task, values, refs, event.outcomes, now, effects, restored=True
                )
        self.releases.restore(event.released, effects)

    def _versions_committed(self, event: VersionsCommitted, _now: float, _effects: Effects) -> None:
        for anchor, member in event.turns:
            self._life.give_back(anchor, member)

    def _versions_read(self, event: VersionsLookedUp, now: float, effects: Effects) -> None:
        for number, value in event.values.items():
            if (task := self.tasks.get(number)) is not None:
                self._life.end(task, COMPLETED, now, effects, (value,))
        for number, why in event.unread.items():
            if (task := self.tasks.get(number)) is not None:
                failure = TaskFailure("ResultError", why)
                self._life.end(task, FAILED, now, effects, failure=failure)

    def _cancelled(self, event: TasksCancelled, now: float, effects: Effects) -> None:
        if event.tasks is None:
            named = self._life.members(event.session, event.group)
        else:
            named = [self.tasks[task] for task in event.tasks if task in self.tasks]
        if event.waiting_only:
            # A pilot may begin what it has at any moment, unless an input is missing.
            named = [task for task in named if task.state in (PENDING, READY) or task.missing]
        failure = TaskFailure("ClientGone", event.reason) if event.reason else None
        # Dependents come after what they depend on: from the end, all are cancelled, none aborted.
        for task in reversed(named):
            if task.id in self.tasks:
                self._life.end(task, CANCELLED, now, effects, failure=failure)

    def _released(self, event: ResultsReleased, _now: float, effects: Effects) -> None:
        self.releases.release(event.results, effects)

    def _unfit(self, event: TasksUnfit, now: float, effects: Effects) -> None:
        self._sessions.unfit.update(event.templates)
        whys = dict(event.tasks)
        if event.templates:
            for task in self.tasks.values():
                if why := self._sessions.why_unfit(task.template):
                    whys[task.id] = why
        for number, why in whys.items():
            if (unfit := self.tasks.get(number)) is not None:
                failure = TaskFailure("SubmissionError", why)
                self._life.end(unfit, FAILED, now, effects, failure=failure)

    def _looked_up(self, event: TasksLookedUp, now: float, effects: Effects) -> None:
        for number, key in event.keys.items():
            task = self.tasks.get(number)
            if task is None or task.memo is not None:
                continue
            waits = task.state == READY  # otherwise a pilot has brought it back meanwhile
            if waits and (values := event.found.get(number)) is not None:
                # Without its key: under that the results are there already.
                self._life.end(task, COMPLETED, now, effects, values)
                continue
            task.memo = key
            if waits:
                allocation.queue(task)
