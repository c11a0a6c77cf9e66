"""Dispatch: which tasks the pilots get, some ahead of their inputs, and which they are asked for.

`pilot.scheduler.assignment` says how many tasks of which class go to which pilot; this module pops
the queues accordingly, and keeps what sessions have used, and which of them starve.

Invariants
----------
- Nothing here costs more when more tasks wait.
- A task that goes ahead of its inputs goes to the pilot that holds all that are missing; it is as
  short as those that are sent ahead, or its inputs are so large that it can have them sooner there;
  and it has no results to be looked up; nor does it need anything of the site, or a turn, which
  others could use until it starts.
- A task holds the amounts that it needs of the site as long as a pilot has the task.
- A session that rests gets nothing, and neither does a pilot that drains.
- A pilot is asked for a task only where another one has the cores for it free, and has them for
  nothing else. Whether the task may go, its pilot decides: it may have begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from pilot.head.core import allocation, turns
from pilot.head.core.events import Log
from pilot.head.core.sessions import Sessions
from pilot.head.core.state import Pilot, Task, TaskClass
from pilot.model.states import PENDING, READY
from pilot.scheduler import assignment
from pilot.scheduler.site_amounts import SiteAmounts

#: The half-life of a session's past use of cores, in seconds, when sessions share cores.
USED_HALF_S = 30.0
#: The time without a core after which a session gets one task before all others, in seconds.
STARVING_S = 60.0
#: The time without one of them given to a pilot after which tasks of several cores go before others
#: of their session and priority, in seconds.
LATE_S = 5.0
#: The seconds that a task waits in a pilot before it is asked back for another that could start it.
STUCK_S = 1.0
#: So many tasks of a class are looked at for one whose inputs a pilot has.
LOOK_AHEAD = 16
#: The seconds for which a returned task, and tasks of its class, are not given to the same pilot
#: again, unless one of the class has run there meanwhile.
AVOID_S = 10.0


class Dispatch:
    """Gives tasks to pilots."""

    def __init__(
        self,
        sessions: Sessions,
        tasks: Mapping[int, Task],
        pilots: Mapping[str, Pilot],
        site: SiteAmounts,
        log: Log,
    ) -> None:
        self._sessions = sessions
        self._tasks = tasks
        self._pilots = pilots
        self._site = site
        self._log = log
        self._faded = 0.0

    def assign(self, now: float) -> dict[str, list[Task]]:
        """Hand ready tasks to pilots; return the tasks that each pilot gets now, by its name."""
        given = self._give_early(now)
        known = self._sessions.classes.values()
        ready = (work for work in known if work.ready and not work.session.rests)
        # Versions of a task in their order, with the task itself.
        classes = [each for work in ready if work is work.versions[0] for each in work.versions]
        if not classes:
            return given
        self._fade(now)
        self._look_who_starves(classes, now)
        _look_who_is_late(classes, now)
        pilots = [pilot for pilot in self._pilots.values() if not pilot.draining]
        for pilot in pilots:
            if pilot.waits:
                pilot.look_whether_still(now)
            pilot.look_what_waits(now - STUCK_S)
        for work, room, count in assignment.assign(classes, pilots, now, self._site):
            assert isinstance(work, TaskClass) and isinstance(room, Pilot)
            given.setdefault(room.name, []).extend(self._give(work, room, count, now))
        for name, tasks in self._give_early(now).items():
            given.setdefault(name, []).extend(tasks)
        return given

    def _give(self, work: TaskClass, pilot: Pilot, count: int, now: float) -> list[Task]:
        given = []
        site = work.need.site
        while count and work.queue:
            task = _next(work, pilot)
            if task.state != READY or task.aside:
                continue
            if task.parts and not turns.may_start(task):
                work.ready -= 1  # a task of another class has its turn
                continue
            task.attempt += 1
            task.task_class = work
            if site:
                self._site.take(pilot.name, task.id, site)
            allocation.hold(task, pilot, now, self._log)
            given.append(task)
            count -= 1
        work.session.waits_since, work.session.starving = 0.0, False
        work.waits_since, work.late = 0.0, False
        return given

    def _give_early(self, now: float) -> dict[str, list[Task]]:
        """Send tasks, ahead of their inputs, to the pilot that holds all these inputs.

        So a pilot gets a chain, or a fork with its join, as a whole, and proceeds without the head.
        """
        given: dict[str, list[Task]] = {}
        for pilot in self._pilots.values():
            while pilot.early:
                task = pilot.early[0]
                if work := self._early_as(task, pilot, now):
                    if not assignment.early_slots(work, pilot):
                        break
                    task.task_class = work
                    task.attempt += 1
                    task.ready_at = now
                    allocation.hold(task, pilot, now, self._log)
                    given.setdefault(pilot.name, []).append(task)
                pilot.early.popleft()
        return given

    def _early_as(self, task: Task, pilot: Pilot, now: float) -> TaskClass | None:
        """Return the class as which a task may go to a pilot ahead of its inputs, if any."""
        own = task.own_class
        if not (
            task.state == PENDING
            and task.near_pilot is pilot
            and task.near == task.missing
            and not (pilot.draining or own.session.rests or task.template.cache)
            and not task.parts
        ):
            return None
        for work in own.versions:
            if (
                not work.need.site
                and assignment.fits(work, pilot, now)
                and (assignment.is_short(work) or self._needs_large(task))
            ):
                return work
        return None

    def _needs_large(self, task: Task) -> bool:
        """Tell whether all inputs that a task waits for are of classes that make large results."""
        makers = {number for number, _ in task.inputs}
        live = [self._tasks[number] for number in makers if number in self._tasks]
        return all(maker.task_class.makes_files for maker in live)

    def ask_back(self, now: float) -> dict[str, list[int]]:
        """Return tasks that wait in one pilot while another could start them, by pilot name.

        The pilots left idle by `assign` are shared out, each for one class of one pilot at a time.
        """
        pilots = [pilot for pilot in self._pilots.values() if not pilot.draining]
        for pilot in pilots:
            for work in [work for work, at in pilot.avoided.items() if now - at >= AVOID_S]:
                del pilot.avoided[work]
        idle = [pilot for pilot in pilots if pilot.load < assignment.cores_of(pilot)]
        asked: dict[str, list[int]] = {}
        for pilot in pilots if idle else ():
            for work, waiting in pilot.waiting.items():
                oldest = next(iter(waiting.values()))
                if now - oldest < STUCK_S or work.session.rests:
                    continue
                rooms = [
                    (taker, max(assignment.free_slots(each, taker) for each in fitting))
                    for taker in idle
                    if taker is not pilot and (fitting := _starting_at_once(work, taker, now))
                ]
                stuck = _stuck(waiting, sum(room for _, room in rooms), now)
                if stuck:
                    asked.setdefault(pilot.name, []).extend(stuck)
                left = len(stuck)
                for taker, room in rooms:
                    if left > 0:
                        idle.remove(taker)
                        left -= room
        return asked

    def _look_who_starves(self, classes: list[TaskClass], now: float) -> None:
        waiting = {work.session.id for work in classes}
        for session in self._sessions.known.values():
            if session.load or session.id not in waiting:
                session.waits_since = 0.0
            else:
                session.waits_since = session.waits_since or now
                session.starving = now - session.waits_since > STARVING_S

    def _fade(self, now: float) -> None:
        """Reduce what sessions have used, the more the longer ago it is."""
        if now - self._faded < 1.0:
            return
        factor = 0.5 ** ((now - self._faded) / USED_HALF_S)
        self._faded = now
        for session in self._sessions.known.values():
            session.used *= factor


def _starting_at_once(work: TaskClass, pilot: Pilot, now: float) -> list[TaskClass]:
    """Return the classes as which the pilot could start one more task of a class at once."""
    return [each for each in work.versions if assignment.starts_at_once(each, pilot, now)]


def _look_who_is_late(classes: list[TaskClass], now: float) -> None:
    """See which classes of tasks of several cores, or whole nodes, no pilot has got for long."""
    for work in classes:
        if work.cores > 1 or work.need.exclusive:
            work.waits_since = work.waits_since or now
            work.late = now - work.waits_since > LATE_S


def _next(work: TaskClass, pilot: Pilot) -> Task:
    """Remove and return a task from the queue of its class: the first one, or one of the next few
    if the pilot has made its large inputs."""
    queue = work.queue
    if work.has_data:
        for place, task in enumerate(islice(queue, LOOK_AHEAD)):
            if task.data_pilot is pilot:
                del queue[place]
                return task
    return queue.popleft()


def _stuck(waiting: dict[Task, float], count: int, now: float) -> list[int]:
    """Return up to `count` tasks with all inputs that have waited for long; reset their waits."""
    looked: list[Task] = []
    stuck: list[int] = []
    for task, since in waiting.items():
        if len(stuck) >= count or now - since < STUCK_S:
            break
        looked.append(task)
        if not task.missing:
            stuck.append(task.id)
    for task in looked:
        del waiting[task]
        waiting[task] = now
    return stuck
