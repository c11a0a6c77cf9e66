"""Sessions, their groups, and the classes of tasks with like templates.

Invariants
----------
- A session is kept from when it is first heard of until it is closed and its tasks have ended; its
  templates, classes and turns go with it.
- Templates that the scheduler cannot tell apart have one class.
- A group has its unfinished tasks in order of submission, and is gone with the last.
- A session that was closed or stopped stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pilot.head.core.events import BudgetChanged, Effects, Log, SessionOpened
from pilot.head.core.state import Session, Task, TaskClass, Turn
from pilot.model.ids import Ref, session_of
from pilot.model.tasks import Template
from pilot.scheduler.assignment import Pool, longest_s


class Sessions:
    """The sessions that have not ended, with their templates, classes and groups."""

    def __init__(self, log: Log, pools: Sequence[Pool] = ()) -> None:
        self.known: dict[int, Session] = {}
        self.templates: dict[int, Template] = {}
        self.classes: dict[tuple[object, ...], TaskClass] = {}
        #: The classes, by the id of a template.
        self.class_of: dict[int, TaskClass] = {}
        #: Templates that cannot be stored, with the reason.
        self.unfit: dict[int, str] = {}
        #: The unfinished tasks in groups, by session and group.
        self.groups: dict[tuple[int, str], dict[int, Task]] = {}
        self._log = log
        self._pools = pools

    def get(self, number: int) -> Session:
        """Return the session of this number; make one if it is unknown."""
        known = self.known.get(number)
        if known is None:
            known = self.known[number] = Session(number)
        return known

    def turns(self, session: int) -> dict[Ref, Turn]:
        """Return what the tasks of a session take by turns; none of one that has ended."""
        known = self.known.get(session)
        return known.turns if known is not None else {}

    def restore(self, versions: Mapping[Ref, Ref]) -> None:
        """Take in the latest versions that the database has, by their anchors; those of sessions
        that are not here are left there."""
        for anchor, latest in versions.items():
            self.turns(session_of(anchor[0]))[anchor] = Turn(anchor, latest)

    def learn(self, templates: Iterable[Template]) -> None:
        """Keep templates, and find or make the classes of new ones."""
        several = []
        for template in templates:
            if template.id in self.templates:
                continue
            if template.versions:
                several.append(template)
            session = self.get(template.session)
            self.templates[template.id] = template
            session.templates.append(template.id)
            key = (
                template.session,
                template.name,
                template.function,
                template.resources,
                template.time_limit_s,
                template.priority,
                template.pool,
                template.depth,
                template.versions,
                template.version_of and template.id,
            )
            work = self.classes.get(key)
            if work is None:
                longest = longest_s(template.resources, template.pool, self._pools)
                work = TaskClass(template, session, longest)
                self.classes[key] = work
                session.classes.append(key)
            self.class_of[template.id] = work
        for template in several:
            versions = [self.class_of[each] for each in template.versions if each in self.class_of]
            self.class_of[template.id].share_queue(versions)

    def why_unfit(self, template: Template) -> str:
        """Return why the tasks of a template cannot be stored, with all their versions, or ""."""
        numbers = (template.id, *template.versions)
        return next((self.unfit[each] for each in numbers if each in self.unfit), "")

    def change(self, event: SessionOpened, now: float, effects: Effects) -> None:
        """Take in a new session, or that a session is paused, resumed, stopped or closed."""
        created = event.session not in self.known
        session = self.get(event.session)
        state, paused = session.state, session.paused
        session.weight, session.priority = event.weight, event.priority
        # Neither is taken back.
        session.closed |= event.closed
        session.stopped |= event.stopped
        session.paused = event.paused
        if not event.restored:
            if created or session.state != state:
                self._log.other("session", session.state, session.id, now, event.reason)
            if session.paused != paused:
                self._log.other(
                    "session", "PAUSED" if session.paused else "RESUMED", session.id, now
                )
        self.end_if_done(session, now, effects)

    def use_budget(self, event: BudgetChanged, _now: float, _effects: Effects) -> None:
        """Take in that a session's budget is used up, or is not any more."""
        if (session := self.known.get(event.session)) is not None:
            session.over_budget = event.up

    def enter(self, task: Task) -> None:
        """Count an unfinished task, and add it to its group."""
        template = task.template
        task.task_class.session.unfinished += 1
        if template.group:
            members = self.groups.setdefault((template.session, template.group), {})
            members[task.id] = task

    def leave(self, task: Task) -> None:
        """Stop counting a task that has its final state."""
        session = task.task_class.session
        session.unfinished -= 1
        session.counts[task.state] = session.counts.get(task.state, 0) + 1
        if task.template.group:
            key = (session.id, task.template.group)
            members = self.groups[key]
            del members[task.id]
            if not members:
                del self.groups[key]

    def end_if_done(self, session: Session, now: float, effects: Effects) -> None:
        """End a session that is closed and has no unfinished task."""
        if session.closed and not session.unfinished:
            effects.sessions_ended.append(session.id)
            self._log.other("session", "CLOSED", session.id, now)
            self._forget(session)

    def _forget(self, session: Session) -> None:
        del self.known[session.id]
        for template in session.templates:
            del self.templates[template]
            del self.class_of[template]
            self.unfit.pop(template, None)
        for key in session.classes:
            del self.classes[key]
