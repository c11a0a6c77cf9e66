"""The job of a head in a real Slurm is preempted, requeued, cancelled; its end is moved.

Whatever it is: nothing is lost, nothing is run twice that need not be, work goes on, there is one
head at a time, and no job is left over.

What takes its time is that Slurm starts a job again, or that a walltime comes to its end. So all of
it happens at once, each to a site of its own; a test tells of each.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.waiting import wait_until

import pilot
from pilot.client.query_client import QueryClient
from pilot.errors import HeadError, PilotError
from pilot.head import head_jobs
from pilot.head.running import find_head
from pilot.site import Site, open_site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 150.0
PILOT = (sys.executable, "-m", "pilot")
#: Each of its tasks leaves a mark when it begins and when it ends.
WORKFLOW = """
name: naps
tasks:
  nap:
    run: touch {marks}/${{n}}-begins-$$; sleep 3; touch {marks}/${{n}}-ends-$$
    foreach: {{n: {{from: 1, to: 8}}}}
  last:
    python: builtins:len
    args: ["${{tasks.nap}}"]
results:
  naps: ${{tasks.last}}
"""


def held(directory: str) -> int:
    """Leave a mark, and end when this may; return which attempt this is."""
    Path(directory, f"runs-{pilot.context().attempt}").touch()
    end = time.monotonic() + 240.0
    while not Path(directory, "go").exists():
        if time.monotonic() > end:
            raise TimeoutError("nobody has let it go")
        time.sleep(0.05)
    return pilot.context().attempt


@dataclass
class Stage:
    """A site whose head is in a job."""

    cluster: VirtualCluster
    site: Site
    directory: Path
    #: Held tasks, and what holds them.
    futures: list[pilot.Future[int]] = field(default_factory=list)

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run ``pilot`` on the login node."""
        return subprocess.run(
            [*PILOT, "--site", str(self.site.directory), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    # --- the head's jobs

    @property
    def job(self) -> str:
        """The job that is to be head; empty: none is."""
        record = head_jobs.wanted(self.site)
        return "" if record is None else head_jobs.job_of(self.site, record)

    def shown(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        return self.cluster.job(int(job))

    def heads(self) -> list[int]:
        """The epochs of all heads that there were."""
        paths = [*self.site.logs.glob("head.log"), *self.site.jobs.glob("[0-9]*.out")]
        told = "".join(path.read_text() for path in paths)
        return sorted(map(int, re.findall(r"head of .*, epoch (\d+)", told)))

    def head_jobs_made(self) -> list[str]:
        """The jobs that were made for a head, by name."""
        return sorted(path.stem for path in self.site.jobs.glob("*-head.sh"))

    def requeue(self, job: str) -> None:
        """Have Slurm end a job and start it again, as soon as it does that."""
        self.cluster.run("scontrol", "requeue", job)
        self.start_again(job)

    def start_again(self, job: str) -> None:
        """Have a job that was queued again wait no longer than it must."""
        self.cluster.wait_for(
            f"job {job} to wait", lambda: self.shown(job)["JobState"] == "PENDING", DEADLINE_S
        )
        self.cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        self.cluster.wait_for(
            f"job {job} to run again", lambda: self.shown(job)["JobState"] == "RUNNING", DEADLINE_S
        )

    def wait_for_head(self, job: str) -> None:
        """Wait for the head to be in that job."""

        def is_there() -> bool:
            with contextlib.suppress(PilotError), QueryClient(self.site) as ask:
                return bool((ask("head")["job"] or {}).get("id") == job)
            return False  # none is there now

        wait_until(is_there, DEADLINE_S, f"a head in {job}")

    # --- tasks that run until they may end

    def hold(self, session: pilot.Session) -> str:
        """Have a task run; return the job of the head."""
        self.futures.append(session.submit(held, str(self.directory)))
        wait_until(lambda: self.futures[-1].running(), DEADLINE_S, "the task to run")
        return self.job

    def check(self) -> None:
        """Let the task go: it was never interrupted."""
        (self.directory / "go").touch()
        assert pilot.gather(self.futures, timeout=DEADLINE_S) == [1] * len(self.futures)
        assert [path.name for path in self.directory.glob("runs-*")] == ["runs-1"]

    # --- workflows

    def workflow(self) -> Path:
        """Write a workflow whose tasks leave marks."""
        (self.directory / "marks").mkdir()
        path = self.directory / "naps.yaml"
        path.write_text(WORKFLOW.format(marks=self.directory / "marks"))
        return path

    def marks(self, what: str) -> list[int]:
        """The tasks that have begun, or ended, each as often as it has."""
        found = (self.directory / "marks").glob(f"*-{what}-*")
        return sorted(int(path.name.split("-")[0]) for path in found)

    def wait_for_two_ends(self) -> None:
        """Wait until the workflow is in its middle."""
        wait_until(lambda: len(self.marks("ends")) >= 2, DEADLINE_S, "two tasks to have ended")

    def check_run(self, most_runs: int) -> None:
        """Check that all has ended in one session, and that no task has ended twice."""
        with QueryClient(self.site) as ask:
            (session,) = ask("sessions")
            assert session["unfinished"] == 0
            tasks = ask("tasks", session=session["id"], limit=100)
            made = [ask("task", task=task["id"])["attempts_made"] for task in tasks]
        assert self.marks("ends") == [*range(1, 9)], "each has ended once"
        outcomes = [[attempt["outcome"] for attempt in attempts] for attempts in made]
        assert all(each in (["ok"], ["interrupted", "ok"]) for each in outcomes), outcomes
        assert max(map(len, outcomes)) <= most_runs


@dataclass(frozen=True)
class Scenario:
    """What becomes of the job."""

    play: Callable[[Stage], None]
    head: dict[str, Any]
    pool: dict[str, Any]

    def run(self, cluster: VirtualCluster, directory: Path) -> None:
        """Have it happen."""
        keys = {"max_nodes": 1, "nodes_per_pilot": 1, "walltime": "10m", **self.pool}
        with cluster.site(directory / "site", **keys) as site:
            path = site.directory / "site.yaml"
            config = yaml.safe_load(path.read_text())
            path.write_text(yaml.safe_dump({**config, "head": {**config["head"], **self.head}}))
            stage = Stage(cluster, open_site(site.directory), directory)
            try:
                self.play(stage)
            finally:
                (directory / "go").touch()
                for job in filter(None, [stage.job]):
                    cluster.run("scancel", job)


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    place: str = "job", pool: dict[str, Any] | None = None, **job: Any
) -> Callable[[Callable[[Stage], None]], None]:
    """Have a function be what becomes of the job of a head with these keys."""

    def add(play: Callable[[Stage], None]) -> None:
        SCENARIOS[play.__name__] = Scenario(play, {"place": place, "job": job}, pool or {})

    return add


@scenario(walltime="10m", sbatch_options=["--exclusive"])
def a_preempted_head_takes_over_again_when_its_job_restarts(stage: Stage) -> None:
    with pilot.Session(stage.site) as session:
        job = stage.hold(session)
        node = stage.shown(job)["BatchHost"]
        options = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--time=10")
        with stage.cluster.job_of("sleep 600", stage.directory, *options):
            stage.start_again(job)
            stage.wait_for_head(job)
            assert stage.shown(job)["Restarts"] == "1"
            stage.check()
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
    assert stage.heads() == [1, 2] and len(stage.head_jobs_made()) == 1


@scenario(place="here", walltime="10m")
def a_run_in_a_requeued_job_goes_on_with_its_session(stage: Stage) -> None:
    """The job runs `pilot run` once more, which must not submit its workflow once more."""
    command = [*PILOT, "--site", str(stage.site.directory), "run", "--as-job", stage.workflow()]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        stage.wait_for_two_ends()
        stage.requeue(job := stage.job)
        output, told = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, told
    assert "9 COMPLETED" in output and re.search(r"naps +8", output)
    assert "goes on with session 1" in (stage.site.jobs / f"{job}.out").read_text()
    stage.check_run(most_runs=1)  # its pilots have not noticed
    assert stage.heads() == [1, 2]


@scenario(place="here")
def a_run_in_a_requeued_job_of_the_user_goes_on_in_its_nodes(stage: Stage) -> None:
    """Its pilot is gone with the head; both are there again in the next life of the job."""
    command = f"{' '.join(PILOT)} --site {stage.site.directory} run {stage.workflow()}"
    output = stage.directory / "job.out"
    options = ("--ntasks-per-node=2", "--time=5", f"--output={output}", "--open-mode=append")
    with stage.cluster.job_of(command, stage.directory, "--requeue", *options) as job:
        stage.wait_for_two_ends()
        stage.requeue(str(job))
        stage.cluster.wait_for(
            "the job to end",
            lambda: stage.shown(str(job))["JobState"] in ("COMPLETED", "FAILED"),
            DEADLINE_S,
        )
        assert stage.shown(str(job))["JobState"] == "COMPLETED"
    told = output.read_text()
    assert "goes on with session 1" in told
    assert "9 COMPLETED" in told and re.search(r"naps +8", told)
    stage.check_run(most_runs=2)
    assert stage.heads() == [1, 2] and find_head(stage.site) is None
    assert not stage.cluster.jobs_of(stage.site), "no pilot was asked for in place of its nodes"


@scenario(walltime="10m")
def a_shortened_job_hands_over_before_its_new_end(stage: Stage) -> None:
    with pilot.Session(stage.site) as session:
        job = stage.hold(session)
        stage.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
        wait_until(lambda: stage.job not in ("", job), DEADLINE_S, "another job")
        stage.wait_for_head(stage.job)
        wait_until(lambda: stage.shown(job)["JobState"] != "RUNNING", DEADLINE_S, "its end")
        assert stage.shown(job)["JobState"] in ("COMPLETING", "COMPLETED"), "it was not killed"
        stage.check()
    assert stage.heads() == [1, 2] and len(stage.head_jobs_made()) == 2


@scenario(walltime="60s")
def a_lengthened_job_does_not_hand_over_before_it_must(stage: Stage) -> None:
    with pilot.Session(stage.site) as session:
        job = stage.hold(session)
        stage.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
        wait_until(lambda: stage.job not in ("", job), DEADLINE_S, "another job")
        began = time.mktime(time.strptime(stage.shown(job)["StartTime"], "%Y-%m-%dT%H:%M:%S"))
        record = head_jobs.wanted(stage.site)
        # A job of a minute asks for the next after 30 s, one of two minutes after 60 s.
        assert record is not None and record.created - began > 55.0
        stage.wait_for_head(stage.job)
        stage.check()
    assert stage.heads() == [1, 2] and len(stage.head_jobs_made()) == 2


@scenario(walltime="10m")
def a_cancelled_job_ends_the_wait_and_the_next_head_goes_on(stage: Stage) -> None:
    session = pilot.Session(stage.site)
    try:
        job = stage.hold(session)
        stage.cluster.run("scancel", job)
        with pytest.raises(HeadError, match="was cancelled"):
            stage.futures[0].result(DEADLINE_S)
        assert find_head(stage.site) is None and len(stage.head_jobs_made()) == 1
    finally:
        session._connection.close()  # nobody waits any more
    task = stage.futures.pop().task_id
    answer = stage.run("head", "start", "--as-job")
    assert answer.returncode == 0, answer.stderr
    with pilot.Session(stage.site, session_id=session.id) as again:
        stage.futures.append(again.future(task))
        stage.check()
    assert stage.heads() == [1, 2] and len(stage.head_jobs_made()) == 2
    assert stage.run("head", "stop").returncode == 0
    stage.cluster.wait_for(
        "all jobs to have ended", lambda: not stage.cluster.jobs_of(stage.site), DEADLINE_S
    )


@scenario(walltime="60s", sbatch_options=["--exclusive", "--nodelist=n4"])
def a_job_that_waits_to_take_over_does_not_do_so_when_the_first_is_cancelled(stage: Stage) -> None:
    """It waits for the node that the first one has."""
    session = pilot.Session(stage.site)
    try:
        job = stage.hold(session)
        wait_until(lambda: stage.job not in ("", job), DEADLINE_S, "another job")
        stage.cluster.run("scancel", job)
        with pytest.raises(HeadError, match="was cancelled"):
            stage.futures[0].result(DEADLINE_S)
        assert stage.heads() == [1] and len(stage.head_jobs_made()) == 2
    finally:
        session._connection.close()
    assert head_jobs.wanted(stage.site) is None


@pytest.fixture(scope="module")
def outcomes(
    virtual_cluster: VirtualCluster, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[None]]]:
    """What has become of each scenario that some test tells of."""
    items = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["name"] for item in items if isinstance(item, pytest.Function)}
    with (
        tempfile.TemporaryDirectory(dir=virtual_cluster.shared) as directory,
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(len(SCENARIOS)) as threads,
    ):
        virtual_cluster.enter(Path(directory), patch)
        found = {}
        for name in filter(wanted.__contains__, SCENARIOS):
            place = Path(directory) / name
            place.mkdir()
            found[name] = threads.submit(SCENARIOS[name].run, virtual_cluster, place)
        yield found


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_becomes_of_the_head(outcomes: dict[str, Future[None]], name: str) -> None:
    outcomes[name].result()
