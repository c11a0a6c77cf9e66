"""Which ready tasks the pilots get, and which tasks they get ahead of their inputs.

`scheduler.assignment` says how many of which class go to which pilot; here queues are popped
accordingly, and it is kept what that goes by: what sessions have used, and who starves.

Invariants
----------
- Nothing here costs more when more tasks wait.
- A task that goes ahead of its inputs goes to the pilot that holds all that are missing; it is as
  short as those that are sent ahead, and has no results to be looked up.
- A paused session gets nothing, and neither does a pilot that drains.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilot.head import holding
from pilot.head.events import Log
from pilot.head.policy import PENDING, READY
from pilot.head.sessions import Sessions
from pilot.head.state import Pilot, Task, TaskClass
from scheduler import assignment

#: What a session has used counts half after so many seconds, when sessions share cores.
USED_HALF_S = 30.0
#: A session that could run and has had no core for so long gets one task before all others.
STARVING_S = 60.0


class Handout:
    """Gives tasks to pilots."""

    def __init__(self, sessions: Sessions, pilots: Mapping[str, Pilot], log: Log) -> None:
        self._sessions = sessions
        self._pilots = pilots
        self._log = log
        self._faded = 0.0

    def assign(self, now: float) -> dict[str, list[Task]]:
        """Hand ready tasks to pilots: pilot name → the tasks that it gets now."""
        given = self._give_early(now)
        known = self._sessions.classes.values()
        classes = [work for work in known if work.ready and not work.session.paused]
        if not classes:
            return given
        self._fade(now)
        self._look_who_starves(classes, now)
        pilots = [pilot for pilot in self._pilots.values() if not pilot.draining]
        for work, room, count in assignment.assign(classes, pilots, now):
            assert isinstance(work, TaskClass) and isinstance(room, Pilot)
            given.setdefault(room.name, []).extend(self._give(work, room, count, now))
        for name, tasks in self._give_early(now).items():
            given.setdefault(name, []).extend(tasks)
        return given

    def _give(self, work: TaskClass, pilot: Pilot, count: int, now: float) -> list[Task]:
        given = []
        while count and work.queue:
            task = work.queue.popleft()
            if task.state != READY:
                continue
            task.attempt += 1
            holding.hold(task, pilot, now, self._log)
            given.append(task)
            count -= 1
        work.session.waits_since, work.session.starving = 0.0, False
        return given

    def _give_early(self, now: float) -> dict[str, list[Task]]:
        """Send short tasks to the pilot that holds all that they wait for, ahead of their inputs.

        So a pilot has a chain, or a join with its forks, as a whole, and goes on by itself.
        """
        given: dict[str, list[Task]] = {}
        for pilot in self._pilots.values():
            while pilot.early:
                task = pilot.early[0]
                if _may_go_early(task, pilot, now):
                    if not assignment.room(task.task_class, pilot):
                        break
                    task.attempt += 1
                    task.ready_at = now
                    holding.hold(task, pilot, now, self._log)
                    given.setdefault(pilot.name, []).append(task)
                pilot.early.popleft()
        return given

    def _look_who_starves(self, classes: list[TaskClass], now: float) -> None:
        waiting = {work.session.id for work in classes}
        for session in self._sessions.known.values():
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
        for session in self._sessions.known.values():
            session.used *= factor


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
