"""The simulated site: tasks come, pilots run them, and a policy asks Slurm for nodes.

What a head does is done here in its order, by the same decisions: tasks are given to pilots by
`pilot.scheduler.assignment`, those that wait in one while another could start them are taken back,
nodes go back to Slurm once their pilot has left them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pilot.scheduler import assignment
from pilot.scheduler.assignment import DRAIN_S
from pilot.scheduler.demand import ClassDemand
from pilot.scheduler.elasticity import End, Grow, PilotSupply, PoolLimits, Shrink
from pilot.scheduler.shapes import Forecast, Shape, asked_about, candidates, choose
from simulate.clock import Clock
from simulate.ledger import Ledger
from simulate.pilots import Pilot
from simulate.policies import SUBMIT_S, Policy, View
from simulate.slurm import PREEMPTED, Job, Slurm
from simulate.workload import Batch, Task, WorkClass, Workload

#: The seconds that ``scontrol`` takes for nodes that go back.
RELEASE_S = 1.0
#: The seconds from the end of a pilot's agent to the end of its job.
END_S = 1.0
#: An agent ends what still runs so many seconds before the end of the walltime.
LAST_S = 10.0
#: As in the head: the seconds after which a task that waits in a pilot is asked back, for which
#: its class is not given there again, and for which a pilot is not asked again for nodes.
STUCK_S, AVOID_S, SHRINKS_S = 1.0, 10.0, 30.0


@dataclass(frozen=True)
class Settings:
    """The conditions that are the same for all policies."""

    pool: PoolLimits
    #: The seconds from the start of a pilot's job to the first word of its agent.
    startup_s: float = 5.0
    #: The time between two samples, in seconds.
    sample_s: float = 60.0
    #: The least time between two decisions, in seconds: a policy may want them more often.
    decide_s: float = 1.0
    #: The simulation is given up after this time, in seconds.
    limit_s: float = 5 * 86_400.0


class Site:
    """A site with one pool."""

    def __init__(
        self, clock: Clock, slurm: Slurm, workload: Workload, policy: Policy, settings: Settings
    ) -> None:
        self._clock, self._slurm, self._policy = clock, slurm, policy
        self._settings = settings
        self._pool = settings.pool
        self.classes = workload.classes(self._pool.shape)
        for work in self.classes:
            work.longest_s = assignment.longest_s(work.need, work.pool, [self._pool])
        self._batches = list(workload.batches)
        self._turn_s = workload.turn_s
        self.ledger = Ledger()
        self.tasks: list[Task] = []
        self.pilots: dict[str, Pilot] = {}
        #: Those with free cores, in the order in which they came to have some.
        self._roomy: dict[str, Pilot] = {}
        #: Those in which tasks wait for their cores.
        self._stuck: dict[str, Pilot] = {}
        self._unfinished = 0
        self._to_come = len(self._batches)
        self._count = 0
        self._turn_due = False
        self._submits_at = 0.0
        self._limit_at = clock.now + settings.limit_s
        #: The time at which the last task ended; None: there is work to do, or to come.
        self.finished_at: float | None = None

    @property
    def is_over(self) -> bool:
        """True if there is nothing more to do, and no pilot is left."""
        return self.finished_at is not None and not self.pilots

    def begin(self) -> None:
        """Set everything going."""
        for batch in self._batches:
            if not batch.after_all:
                self._clock.after(batch.at_s, functools.partial(self._submit_tasks, batch))
        self._after_all()
        self._tick()
        self._sample()

    # --- tasks

    def _after_all(self) -> None:
        """Have the next of the batches come that wait for the end of all before them."""
        batch = next((batch for batch in self._batches if batch.after_all), None)
        if batch is not None:
            self._batches.remove(batch)
            self._clock.after(batch.at_s, lambda: self._submit_tasks(batch))

    def _submit_tasks(self, batch: Batch) -> None:
        work = self.classes[batch.work]
        now = self._clock.now
        self._to_come -= 1
        for length_s in batch.lengths_s:
            task = Task(work, length_s, now)
            self.tasks.append(task)
            work.put(task)
            self.ledger.backlog_s += length_s * work.fills
        self._unfinished += len(batch.lengths_s)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._clock.after(self._turn_s, self._turn)

    def _turn(self) -> None:
        """Give ready tasks to pilots."""
        self._turn_due = False
        now = self._clock.now
        self._ask_back(now)
        ready = [work for work in self.classes if work.ready]
        if not ready or not self._roomy:
            return
        touched: dict[str, Pilot] = {}
        rooms: list[assignment.PilotRoom] = list(self._roomy.values())
        for work, pilot, count in assignment.assign(ready, rooms, now):
            assert isinstance(work, WorkClass) and isinstance(pilot, Pilot)
            for _ in range(min(count, work.ready)):
                pilot.give(work.pop(), now)
                work.assigned += 1
            touched[pilot.name] = pilot
        for each in touched.values():
            self._start_tasks(each)

    def _start_tasks(self, pilot: Pilot) -> None:
        now = self._clock.now
        for task in pilot.start_next():
            task.attempts += 1
            task.started_at = now
            left_s = task.length_s - task.done_s
            self.ledger.backlog_s -= left_s * task.work.fills
            if task.attempts == 1:
                self.ledger.waits_s.append(now - task.came_at)
            self.ledger.work(task.work.fills, now)
            self._clock.after(left_s, functools.partial(self._end_task, pilot, task, task.attempts))
        self._look_at(pilot)

    def _look_at(self, pilot: Pilot) -> None:
        """Keep the lists of pilots with room, and with tasks that wait, up to date."""
        if pilot.has_room:
            self._roomy[pilot.name] = pilot
        else:
            self._roomy.pop(pilot.name, None)
        if pilot.waiting:
            self._stuck[pilot.name] = pilot
        else:
            self._stuck.pop(pilot.name, None)

    def _end_task(self, pilot: Pilot, task: Task, attempt: int) -> None:
        if task.attempts != attempt or task not in pilot.running:
            return  # it was interrupted
        now = self._clock.now
        work = task.work
        assert task.ended_at is None
        task.ended_at = now
        work.assigned -= 1
        work.learn(now - task.started_at)
        self.ledger.work(-work.fills, now)
        self.ledger.used_s += (task.length_s - task.done_s) * work.fills
        self.ledger.ended += 1
        pilot.finish(task, now)
        self._unfinished -= 1
        self._start_tasks(pilot)
        if pilot.draining and not pilot.load:
            self._leave(pilot)
        if not self._unfinished:
            self._after_all()
            if not self._to_come:
                self.finished_at = now
                if self._policy.ends_with_work:
                    for one in list(self.pilots.values()):
                        self._end_pilot(one)
        self._turn_soon()

    def _interrupt(self, pilot: Pilot) -> None:
        """Put everything that a pilot has back in its queue: what runs loses what it has done since
        its last checkpoint."""
        now = self._clock.now
        self._requeue(pilot.take_back(now))
        tasks = list(pilot.running)
        for task in tasks:
            work = task.work
            ran_s = now - task.started_at
            every_s = work.checkpoint_s
            kept_s = min(ran_s // every_s * every_s, ran_s) if every_s else 0.0
            task.done_s += kept_s
            task.attempts += 1  # what was to end it, does not
            self.ledger.work(-work.fills, now)
            self.ledger.used_s += kept_s * work.fills
            self.ledger.lost_s += (ran_s - kept_s) * work.fills
            self.ledger.backlog_s += (task.length_s - task.done_s) * work.fills
            pilot.finish(task, now)
        self._requeue(tasks)

    def _requeue(self, tasks: Sequence[Task]) -> None:
        for task in reversed(tasks):
            task.work.assigned -= 1
            task.work.put(task, first=True)
        if tasks:
            self._turn_soon()

    def _ask_back(self, now: float) -> None:
        """Take tasks back that wait in one pilot while another could start them."""
        if not self._stuck or not self._roomy:
            return
        for pilot in list(self._stuck.values()):
            for work in [work for work, at in pilot.avoided.items() if now - at >= AVOID_S]:
                del pilot.avoided[work]
            task, since = pilot.waiting[0]
            if now - since < STUCK_S:
                continue
            if any(
                other is not pilot and assignment.starts_at_once(task.work, other, now)
                for other in self._roomy.values()
            ):
                pilot.avoided[task.work] = now
                self._requeue(pilot.take_back(now, STUCK_S))
                self._look_at(pilot)

    # --- decisions

    def _tick(self) -> None:
        now = self._clock.now
        if now > self._limit_at or self.is_over:
            return
        if self._stuck:
            self._turn_soon()
        is_done = self.finished_at is not None and self._policy.ends_with_work
        for decision in () if is_done else self._policy.decide(self._view(now)):
            if isinstance(decision, Grow):
                self._ask_for(decision)
            elif isinstance(decision, End):
                self._end_pilot(self.pilots[decision.pilot])
            else:
                self._shrink(self.pilots[decision.pilot], decision)
        self._clock.after(max(self._policy.interval_s, self._settings.decide_s), self._tick)

    def _view(self, now: float) -> View:
        demand = [
            ClassDemand(
                need=work.need,
                pool=work.pool,
                count=work.assigned + work.ready,
                mean_s=work.mean_s,
                required_walltime_s=assignment.required_walltime_s(work),
                assigned=work.assigned,
            )
            for work in self.classes
            if work.assigned or work.ready
        ]
        followed = {pilot.job.after for pilot in self.pilots.values()}
        supply = [
            PilotSupply(
                pilot.name,
                pilot.pool,
                pilot.nodes,
                queued=pilot.came_at is None or (not pilot.lives and not pilot.draining),
                held_back=pilot.came_at is not None and pilot.job.eligible_at > now,
                idle_s=now - pilot.idle_at if pilot.lives and not pilot.load else 0.0,
                idle_nodes_s=self._idle_nodes_s(pilot, now),
                draining=pilot.draining,
                left_s=pilot.ends_at - now if pilot.lives else pilot.job.walltime_s,
                load=pilot.load,
                held=max(pilot.job.count, pilot.nodes),
                may_be_followed=pilot.lives and pilot.job not in followed,
            )
            for pilot in self.pilots.values()
        ]
        asked_at = {
            pilot.name: pilot.created_at
            for pilot in self.pilots.values()
            if pilot.came_at is None and not pilot.job.life
        }
        under_way = sum(not pilot.job.number for pilot in self.pilots.values())
        return View(now, demand, supply, asked_at, under_way)

    def _idle_nodes_s(self, pilot: Pilot, now: float) -> tuple[float, ...]:
        if not pilot.lives or pilot.leaving or now < pilot.shrinks_after:
            return ()
        return tuple(now - pilot.idle_since[node] for node in pilot.idle_nodes())

    # --- pilots

    def _ask_for(self, grow: Grow) -> None:
        now = self._clock.now
        self._count += 1
        name = f"{self._count:05}"
        before = self.pilots.get(grow.after)
        job = Job(
            grow.nodes,
            grow.walltime_s,
            lambda _: self._job_started(pilot),
            lambda _, why: self._job_ended(pilot, why),
            before.job if before is not None else None,
        )
        pilot = Pilot(name, self._pool.name, self._pool.shape, job, now)
        self.pilots[name] = pilot
        wish = Shape(
            grow.nodes,
            grow.walltime_s,
            grow.least_nodes or grow.nodes,
            grow.least_walltime_s or grow.walltime_s,
        )
        begins_at = max(now, self._submits_at)
        self._clock.at(begins_at, lambda: self._shape(pilot, wish))
        self._submits_at = begins_at + max(SUBMIT_S, self._policy.submit_s)

    def _shape(self, pilot: Pilot, wish: Shape) -> None:
        """Choose the shape of a pilot, by when Slurm would start it, and submit it."""
        exact, *others = candidates(wish)
        shape, forecasts = exact, dict[Shape, Forecast]()
        if others:
            for each in asked_about(wish, forecasts):
                forecasts[each] = Forecast(self._slurm.starts_in_s(each.least_nodes))
            shape, _ = choose(wish, forecasts)
        job = pilot.job
        job.least, job.least_walltime_s = shape.least_nodes, shape.least_walltime_s
        job.walltime_s = shape.walltime_s
        self._clock.after((len(forecasts) + 1) * SUBMIT_S, lambda: self._submit(pilot))

    def _submit(self, pilot: Pilot) -> None:
        if pilot.told:
            self._forget(pilot)
            return
        self.ledger.jobs += 1
        self._slurm.submit(pilot.job)

    def _job_started(self, pilot: Pilot) -> None:
        now = self._clock.now
        self.ledger.hold(pilot.job.count, now)
        pilot.starting_at = now
        life = pilot.job.life
        self._clock.after(self._settings.startup_s, lambda: self._came(pilot, life))

    def _came(self, pilot: Pilot, life: int) -> None:
        """Take in the first word of an agent."""
        if pilot.job.life != life or pilot.starting_at is None:
            return  # its job has ended before
        now = self._clock.now
        self.ledger.starting_s += pilot.job.count * (now - pilot.starting_at)
        pilot.starting_at = None
        if pilot.came_at is None:
            pilot.came_at = now
            if not life:
                self._policy.came(pilot.job.count, now - pilot.created_at)
        pilot.begin(now)
        drain_at = pilot.ends_at - min(DRAIN_S, (pilot.ends_at - now) / 2)
        self._clock.at(drain_at, lambda: self._drain(pilot) if pilot.job.life == life else None)
        self._clock.at(
            pilot.ends_at - LAST_S, lambda: self._leave(pilot) if pilot.job.life == life else None
        )
        self._look_at(pilot)
        self._turn_soon()

    def _drain(self, pilot: Pilot) -> None:
        """Have a pilot start nothing more, and end after what runs."""
        pilot.draining = True
        self._requeue(pilot.take_back(self._clock.now))
        self._look_at(pilot)
        if pilot.lives and not pilot.load:
            self._leave(pilot)

    def _leave(self, pilot: Pilot) -> None:
        """End the agent of a pilot, and soon its job."""
        if not pilot.lives:
            return
        pilot.draining = True
        self._interrupt(pilot)
        pilot.end()
        self._look_at(pilot)
        self._clock.after(END_S, lambda: self._slurm.complete(pilot.job))

    def _end_pilot(self, pilot: Pilot) -> None:
        """Carry out a decision to end a pilot."""
        if pilot.told:
            return
        pilot.told = True
        if pilot.lives:
            self._drain(pilot)
            return
        pilot.draining = True
        if pilot.job.number and not pilot.job.is_over:
            self._slurm.cancel(pilot.job)

    def _job_ended(self, pilot: Pilot, why: str) -> None:
        now = self._clock.now
        if pilot.job.is_over or why == PREEMPTED:
            self._interrupt(pilot)
        self.ledger.hold(-pilot.job.had, now)
        if pilot.starting_at is not None:
            self.ledger.starting_s += pilot.job.had * (now - pilot.starting_at)
            pilot.starting_at = None
        pilot.job.had = 0
        pilot.draining = True  # until it is known what has become of its job
        pilot.end()
        self._look_at(pilot)
        poll_s = self._policy.poll_s
        known_at = now if not poll_s else (now // poll_s + 1.0) * poll_s
        self._clock.at(known_at, lambda: self._known(pilot, why))

    def _known(self, pilot: Pilot, why: str) -> None:
        """Take in that the job of a pilot has ended, or waits again."""
        if why != PREEMPTED or pilot.told:
            if not pilot.job.is_over:
                self._slurm.cancel(pilot.job)
            self._forget(pilot)
        elif not pilot.lives:
            pilot.draining = False

    def _forget(self, pilot: Pilot) -> None:
        self.pilots.pop(pilot.name, None)

    # --- nodes that go back

    def _shrink(self, pilot: Pilot, decision: Shrink) -> None:
        now = self._clock.now
        pilot.shrinks_after = now + SHRINKS_S
        nodes = pilot.idle_nodes()[: decision.nodes]
        if not nodes:
            return
        pilot.give_back(nodes)
        self._look_at(pilot)
        life = pilot.job.life
        self._clock.after(RELEASE_S, lambda: self._released(pilot, life, nodes))

    def _released(self, pilot: Pilot, life: int, nodes: Iterable[int]) -> None:
        if pilot.job.life != life:
            return  # all of them have gone
        gone = list(nodes)
        self._slurm.release(pilot.job, gone)
        self.ledger.hold(-len(gone), self._clock.now)
        pilot.leaving = 0
        pilot.shrinks_after = 0.0

    # --- what is looked at

    def _sample(self) -> None:
        now = self._clock.now
        self.ledger.sample(now)
        if now < self._limit_at and not self.is_over:
            self._clock.after(self._settings.sample_s, self._sample)
