"""Allocations that users have made, as pilots: the agents in them are started and watched.

`own_pilot` has the command and the variables of such an agent.

Invariants
----------
- Such a pilot is in the database before its agent starts, as one that is not ours to end.
- A pilot whose agent has ended is no more, whatever becomes of the job.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from pilot.head.batch_thread import BatchThread
from pilot.head.job_files import end_of
from pilot.head.outlook import INTENDED, QUEUED, PilotRow
from pilot.head.own_pilot import ADOPTED, OWN, own_allocation, start_agent, start_agent_in
from pilot.head.roster import Roster
from pilot.head.setbacks import last_lines
from pilot.scheduler.batch import Allocation, BatchSystem
from pilot.site import Site


class Adopting:
    """The pilots in allocations that users have made.

    Parameters
    ----------
    site, roster
        The site, and its pilots.
    batch, thread
        The batch system, and the thread that speaks to it.
    lost
        Called with a pilot's name and the reason when its agent has ended.
    ended
        Called with a pilot's name, the reason and the time when it is no more.
    """

    def __init__(
        self,
        site: Site,
        roster: Roster,
        batch: BatchSystem,
        thread: BatchThread,
        lost: Callable[[str, str], object],
        ended: Callable[[str, str, float], None],
    ) -> None:
        self._site = site
        self._roster = roster
        self._batch = batch
        self._thread = thread
        self._lost = lost
        self._ended = ended
        #: The agents of the head's own job, and what starts agents in others that users have made.
        self.here: dict[str, subprocess.Popen[bytes]] = {}
        self._steps: dict[str, subprocess.Popen[bytes]] = {}
        self._adopted = ""
        #: The job of this head where an earlier head's agent there may be dead, or never have been
        #: started; or empty.
        self._unsure = ""

    def adopt_own(self, job: str, now: float) -> None:
        """Make the allocation that this process runs in the first pilot.

        The agent is a child of the head, in the same job; the job itself is not ours to end. It
        starts when the batch system has said what the job has, or else with what the job knows.
        """
        known = own_allocation(self._site, job)
        before = next((row for row in self._roster if row.own and row.job == job), None)
        if before is not None:
            # An earlier head's agent lives on there; or it was never started, or died with an
            # earlier life of the job, and is given up soon.
            self._unsure = job if before.started is None or known.restart_count else ""
            return
        pool = next(iter(self._site.config.pools))
        row = self._add(known, pool, OWN, now)
        self._adopted = row.name

        def start(allocation: Allocation) -> None:
            if row.name in self._roster.rows:
                self.here[row.name] = start_agent(self._site, row, allocation)

        self._thread.ask(lambda: self._batch.allocation(job), start, lambda _: start(known))

    def adopt_other(
        self,
        job: str,
        pool: str,
        now: float,
        done: Callable[[PilotRow, Allocation], None],
        refuse: Callable[[str], None],
    ) -> None:
        """Make an allocation that a user has made elsewhere a pilot.

        Parameters
        ----------
        job, pool
            The job, and the pool that the pilot is of.
        now
            The time.
        done
            Called when its agent is being started.
        refuse
            Called instead with the reason why not.
        """

        def start(allocation: Allocation) -> None:
            if any(job in (row.job, row.name) for row in self._roster):
                refuse(f"job {job} is a pilot already")
                return
            row = self._add(allocation, pool, ADOPTED, now)
            row.state = QUEUED  # it is there when its agent has introduced itself
            try:
                self._steps[row.name] = start_agent_in(self._site, row, allocation)
            except (OSError, ValueError) as error:
                self._ended(row.name, f"its agent cannot be started: {error}", now)
                refuse(f"no agent can be started in job {job}: {error}")
                return
            self._roster.save(row)
            done(row, allocation)

        self._thread.ask(
            lambda: self._batch.allocation(job), start, lambda error: refuse(str(error))
        )

    def _add(self, allocation: Allocation, pool: str, reason: str, now: float) -> PilotRow:
        row = PilotRow(
            self._roster.new_name(),
            pool,
            allocation.node_count,
            0.0,
            INTENDED,
            allocation.job_id,
            reason,
            now,
            own=True,
        )
        self._roster.add(row)
        return row

    def has_agent(self, name: str) -> bool:
        """Tell whether this head has started the pilot's agent, and has not seen its end."""
        return name in self.here or name in self._steps

    def is_own(self, name: str) -> bool:
        """Tell whether the pilot is in the job that this head runs in, and was adopted by it."""
        return name in self.here or name == self._adopted

    def watch(self, now: float) -> None:
        """Notice the agents that have ended; start one in the head's job in place of a lost one."""
        for agents in (self.here, self._steps):
            for name, process in list(agents.items()):
                if process.poll() is None:
                    continue
                del agents[name]
                if name not in self._roster.rows:
                    continue  # it was given up, and killed
                self._lost(name, f"its agent ended with status {process.returncode}")
                row = self._roster.rows.get(name)
                reason = "its agent ended"
                if row is not None and row.started is None:
                    said = last_lines(end_of(self._site.jobs / f"{name}.out"))
                    reason = f"its agent could not be started: {said}"
                self._ended(name, reason, now)

        if self._unsure and not any(row.job == self._unsure for row in self._roster):
            job, self._unsure = self._unsure, ""
            self.adopt_own(job, now)

    def kill(self, name: str) -> None:
        """Kill an agent of the head's own job that hangs; it is reaped when it has ended."""
        if process := self.here.get(name):
            process.kill()

    def terminate(self, name: str) -> None:
        """End the agent of a pilot, if this head has started it; its job goes on."""
        if process := self.here.get(name) or self._steps.get(name):
            process.terminate()

    def close(self) -> None:
        """Wait for the agents in the head's job that were told to end; others go on."""
        for name, process in self.here.items():
            row = self._roster.rows.get(name)
            if row is not None and row.told:
                process.wait()
