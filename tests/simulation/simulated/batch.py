"""The batch system: jobs that wait, are refused, late, left out of lists, lost and requeued."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilot.head.outlook import PilotRow
from pilot.scheduler.batch import (
    Allocation,
    BatchError,
    BatchUnavailable,
    JobRequest,
    JobStatus,
    Phase,
    ShrinkRefused,
    SubmitRefused,
    WhyEnded,
)
from simulated.agent import Agent

if TYPE_CHECKING:
    from simulated.cluster import Cluster

#: The job in which heads run, if they run in one.
OWN = "own"
#: So long after its end a job is in lists, in seconds.
LISTED_S = 30.0


@dataclass
class Job:
    """A job: what was asked for, and where it is in its life."""

    number: str
    request: JobRequest
    phase: Phase = Phase.QUEUED
    restarts: int = 0
    agent: Agent | None = None
    why: WhyEnded | None = None
    ended_at: float = 0.0
    #: Lists leave it out before.
    hidden_until: float = 0.0


class OwnAgent:
    """The process of an agent that a head has started in its own job."""

    returncode = 0

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def poll(self) -> int | None:
        """Return 0 once it has ended."""
        return None if self._agent.is_alive else 0

    def terminate(self) -> None:
        """Have it end."""
        self._agent.terminate()

    def kill(self) -> None:
        """Kill it."""
        self._agent.vanish()

    def wait(self) -> None:
        """Wait for nothing: it lives on where its head ends."""


class Batch:
    """The batch system (`scheduler.batch.BatchSystem`)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock, self.rng = cluster.clock, cluster.chance("batch")
        self.jobs_by_number: dict[str, Job] = {}
        #: It answers nothing before; jobs end at once before; nothing is taken before.
        self.silent_until = self.broken_until = self.refusing_until = 0.0
        #: Jobs wait so long for nodes, in seconds.
        self._wait_s = cluster.hasty(self.rng.choice((0.5, 5.0, 60.0)))
        self.has_accounting = self.rng.random() < 0.7
        #: Whether heads run in a job, in which there is a pilot, too.
        self.has_own = self.rng.random() < 0.2
        if self.has_own:
            self.jobs_by_number[OWN] = Job(OWN, self._own_request("of-somebody"), Phase.RUNNING)

    # --- what the head asks

    def check(self, pools: object) -> str:
        """Find nothing wrong."""
        return ""

    def submit(self, request: JobRequest) -> str:
        """Take a job."""
        now = self.clock.now
        self.cluster.oracle.submits()
        if now < self.refusing_until:
            self.cluster.oracle.in_vain("refused", self.refusing_until)
            raise SubmitRefused("as told")
        silent = now < self.silent_until
        if silent and self.rng.random() < 0.5:
            raise BatchUnavailable("timed out")
        job = Job(str(len(self.jobs_by_number) + 1), request)
        names = [known.request.name for known in self.jobs_by_number.values()]
        assert request.name not in names, f"{request.name} was submitted twice"
        self.jobs_by_number[job.number] = job
        self._queue(job)
        if silent:
            raise BatchUnavailable("timed out, and the job is there")
        return job.number

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """List jobs."""
        self._answer()
        now = self.clock.now
        return {
            job.number: self._status(job)
            for job in self.jobs_by_number.values()
            if (job.phase is not Phase.ENDED or now < job.ended_at + self.cluster.hasty(LISTED_S))
            and now >= job.hidden_until
        }

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Tell what is known of jobs, also of those that ended long ago."""
        self._answer()
        if not self.has_accounting:
            return {}
        jobs = self.jobs_by_number
        return {number: self._status(jobs[number]) for number in job_ids if number in jobs}

    def allocation(self, job_id: str) -> Allocation:
        """Refuse: nobody adopts anything here."""
        raise BatchError(f"job {job_id} is not to be adopted")

    def cancel(self, job_ids: Iterable[str]) -> None:
        """End jobs."""
        self._answer()
        for number in job_ids:
            self.cluster.oracle.ends_job(number == OWN)
            if (job := self.jobs_by_number.get(number)) is None:
                continue
            if job.phase is Phase.QUEUED:
                self._end(job, WhyEnded.CANCELLED)
            elif job.phase is Phase.RUNNING:
                job.phase, job.why = Phase.ENDING, WhyEnded.CANCELLED
                self._terminate(job)

    def release_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Take nodes of a job back, or leave them to it."""
        self._answer()
        job = self.jobs_by_number[job_id]
        if job.phase is not Phase.RUNNING or job.agent is None or self.rng.random() < 0.3:
            raise ShrinkRefused("as told")
        assert keep, "a job is never left without nodes"
        self.cluster.oracle.shrunk(job.agent, [n for n in job.agent.nodes if n not in keep])
        job.agent.nodes[:] = keep

    def close(self) -> None:
        """Go on without whoever closes it."""

    def start_own(self, _site: object, row: PilotRow, *_: object) -> OwnAgent:
        """Start an agent in the job in which its head runs (`head.own_pilot.start_agent`)."""
        job = self.jobs_by_number[OWN]
        self.cluster.oracle.seen["started in the head's own job"] += 1
        job.agent = Agent(self.cluster, OWN, self._own_request(row.name), 0, 0.0)
        return OwnAgent(job.agent)

    def _own_request(self, name: str) -> JobRequest:
        site = self.cluster.site
        return JobRequest(
            name=name,
            command=("agent",),
            nodes=1,
            walltime_s=1.0,
            directory=site.jobs,
            directives=site.config.pools["main"],
        )

    def _answer(self) -> None:
        if self.clock.now < self.silent_until:
            raise BatchUnavailable("timed out")

    def _status(self, job: Job) -> JobStatus:
        nodes = job.request.nodes
        if job.phase is Phase.RUNNING and job.agent is not None:
            nodes = max(1, len(job.agent.nodes))
        return JobStatus(
            job_id=job.number,
            name=job.request.name,
            phase=job.phase,
            state=job.phase.name,
            node_count=nodes,
            why_ended=job.why if job.phase is Phase.ENDED else None,
            restart_count=job.restarts,
            held_back=job.phase is Phase.QUEUED and job.restarts > 0,
        )

    # --- what becomes of jobs

    def _queue(self, job: Job) -> None:
        job.phase, job.why = Phase.QUEUED, None
        wait_s = 0.5 if self.cluster.calm else self._wait_s
        self.clock.after(self.rng.uniform(0.0, wait_s), lambda: self._begin(job))

    def _begin(self, job: Job) -> None:
        if job.phase is not Phase.QUEUED:
            return
        job.phase = Phase.RUNNING
        life = job.restarts
        if self.clock.now < self.broken_until:
            self.cluster.oracle.in_vain("broken", self.broken_until)
            self.clock.after(
                self.cluster.hasty(self.rng.uniform(0.0, 2.0)),
                lambda: self._end(job, WhyEnded.FAILED) if job.restarts == life else None,
            )
            return
        ends_at = self.clock.now + job.request.walltime_s
        job.agent = Agent(self.cluster, job.number, job.request, life, ends_at)
        self.clock.at(ends_at, lambda: self._time_out(job, life))

    def _time_out(self, job: Job, life: int) -> None:
        if job.restarts == life and job.phase in (Phase.RUNNING, Phase.ENDING):
            job.why = job.why or WhyEnded.TIMEOUT
            self.agent_ended(job.number, life)

    def _terminate(self, job: Job) -> None:
        """Signal a job's processes, and kill them after a while."""
        agent, life = job.agent, job.restarts
        if agent is not None and agent.is_alive:
            agent.terminate()
            self.clock.after(
                self.cluster.hasty(self.rng.uniform(1.0, 15.0)),
                lambda: self.agent_ended(job.number, life),
            )
        else:
            self.agent_ended(job.number, life)

    def agent_ended(self, number: str, life: int) -> None:
        """Notice that the processes of a job have ended, or end them."""
        job = self.jobs_by_number[number]
        if job.restarts != life or job.phase is Phase.ENDED or number == OWN:
            return
        if job.agent is not None and job.agent.is_alive:
            job.agent.vanish()
        self._end(job, job.why or WhyEnded.COMPLETED)

    def _end(self, job: Job, why: WhyEnded) -> None:
        if job.phase is not Phase.ENDED:
            job.phase, job.why, job.ended_at = Phase.ENDED, why, self.clock.now

    def lose(self, agent: Agent) -> None:
        """Let the first node of a job vanish; its job may be queued again."""
        job = self.jobs_by_number[agent.job]
        agent.vanish()
        if agent.job == OWN:
            return
        if self.rng.random() < 0.3:
            self._requeue(job)
        else:
            late_s = self.cluster.hasty(self.rng.uniform(0.0, 20.0))
            job.why = WhyEnded.NODE_FAILURE
            self.clock.after(late_s, lambda: self.agent_ended(agent.job, agent.life))

    def preempt(self, agent: Agent) -> None:
        """Have others take the nodes of a job: it waits again."""
        job = self.jobs_by_number[agent.job]
        agent.terminate()
        if agent.job == OWN:
            return
        self.clock.after(
            self.cluster.hasty(self.rng.uniform(0.1, 5.0)), lambda: self._preempted(job, agent)
        )

    def _preempted(self, job: Job, agent: Agent) -> None:
        if agent.is_alive:
            agent.vanish()
        self._requeue(job)

    def _requeue(self, job: Job) -> None:
        if job.phase is Phase.RUNNING:
            job.agent = None
            job.restarts += 1
            self._queue(job)
