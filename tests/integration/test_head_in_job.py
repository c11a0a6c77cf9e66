"""Heads in jobs of a local site, whose walltimes are seconds: hand-over, kills, two clients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.client.query_client import QueryClient
from pilot.errors import HeadError
from pilot.head import head_jobs
from pilot.scheduler.batch import open_batch

DEADLINE_S = 60.0
PILOT = (sys.executable, "-m", "pilot")
Make = Callable[..., SiteUnderTest]


def run(site: SiteUnderTest, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PILOT, "--site", str(site.directory), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        check=False,
    )


def submitted(site: SiteUnderTest) -> list[str]:
    """The jobs that were made for a head, by name."""
    return sorted(path.stem for path in site.site.jobs.glob("*-head.sh"))


def head_job(site: SiteUnderTest) -> str:
    record = head_jobs.wanted(site.site)
    return "" if record is None else head_jobs.job_of(site.site, record)


def test_a_workflow_outlives_the_walltime_of_its_job(make_site: Make, tmp_path: Path) -> None:
    site = make_site(head={"job": {"walltime": "1m"}})
    file = tmp_path / "naps.yaml"
    file.write_text("tasks: {nap: {run: sleep 4, foreach: {n: {from: 1, to: 20}}}}\n")
    done = run(site, "run", "--as-job", file)
    assert done.returncode == 0, done.stderr
    assert "20 COMPLETED" in done.stdout
    assert len(submitted(site)) >= 1
    outputs = [path.read_text() for path in site.site.jobs.glob("*.out")]
    assert any("restored" in text for text in outputs), "another job has taken over"
    with QueryClient(site.site) as ask:
        (session,) = ask("sessions")
        tasks = ask("tasks", session=session["id"], limit=100)
        made = [len(ask("task", task=task["id"])["attempts_made"]) for task in tasks]
        assert set(made) == {1}, "nothing has run twice"


def test_a_program_has_its_arguments_directory_and_exit_status(
    make_site: Make, tmp_path: Path
) -> None:
    site = make_site()
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, pilot\n"
        "with pilot.Session() as session:\n"
        "    print('got', session.submit(pow, 2, 5).result(60), sys.argv[1:], os.getcwd())\n"
        "sys.exit(7)\n"
    )
    done = run(site, "run", "--as-job", program, "a b", "--time")
    assert done.returncode == 7, done.stderr
    assert f"got 32 ['a b', '--time'] {os.getcwd()}\n" in done.stdout
    wait_until(lambda: not site.head_pid, DEADLINE_S, "the head to end with its program")
    assert head_jobs.wanted(site.site) is None


def test_a_job_that_fails_before_the_run_is_told_with_its_last_words(
    make_site: Make, tmp_path: Path
) -> None:
    site = make_site(environment={"setup": "echo 'module: command not found' >&2; exit 3"})
    file = tmp_path / "one.yaml"
    file.write_text("tasks: {one: {run: 'true'}}\n")
    done = run(site, "run", "--as-job", file)
    assert done.returncode == HeadError.exit_code
    assert "failed (exit status 3)" in done.stderr and "command not found" in done.stderr


def test_two_clients_at_once_submit_one_job_and_outlive_its_end(make_site: Make) -> None:
    site = make_site(head={"place": "job"})
    words = [*PILOT, "--site", str(site.directory), "submit", "--wait", "--", "true"]
    clients = [subprocess.Popen(words, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [client.wait(DEADLINE_S) for client in clients] == [0, 0]
    assert len(submitted(site)) == 1
    with site.guarded_session() as session:
        first = head_job(site)
        go = site.scratch / "go"
        future = session.submit(pilot_waits, str(go))
        wait_until(future.running, DEADLINE_S, "the task to run")
        os.kill(site.head_pid, signal.SIGKILL)
        wait_until(lambda: head_job(site) not in ("", first), DEADLINE_S, "another job")
        go.touch()
        assert future.result(DEADLINE_S) == 1, "its pilot has brought it to the next head"
        assert len(submitted(site)) == 2
    assert run(site, "head", "stop").returncode == 0
    assert head_jobs.wanted(site.site) is None


def test_a_job_that_its_user_cancels_ends_for_good(make_site: Make) -> None:
    site = make_site(head={"place": "job"})
    session = pilot.Session(site.site)
    try:
        go = site.scratch / "go"
        future = session.submit(pilot_waits, str(go))
        wait_until(future.running, DEADLINE_S, "the task to run")
        batch = open_batch(site.site.config, site.site.jobs)
        batch.cancel([head_job(site)])
        batch.close()
        with pytest.raises(HeadError, match="was cancelled"):
            future.result(DEADLINE_S)
        assert len(submitted(site)) == 1
        assert "cancelled" in run(site, "head", "status").stdout
        go.touch()
    finally:
        session._connection.close()
    assert run(site, "head", "start").returncode == 0, "whoever wants one again gets it"
    assert len(submitted(site)) == 2


def test_a_client_killed_before_it_has_submitted_leaves_no_head_that_comes_late(
    make_site: Make,
) -> None:
    """As where it was killed in a slow `sbatch`: what comes of that later does no harm."""
    site = make_site(head={"place": "job"}, local={"poll_interval": "200ms", "command_limit": "1s"})
    late = head_jobs.add(site.site, None, head_jobs.HeadJob(number=0, name="late-head"))
    assert late is not None
    with site.guarded_session() as session:
        assert session.submit(pow, 2, 5).result(2 * DEADLINE_S) == 32
    record = head_jobs.wanted(site.site)
    assert record is not None and record.number == late.number + 1
    from pilot.head.hand_over import run_command

    done = subprocess.run(
        run_command(site.site, late.number),
        env={**os.environ, "PILOT_JOB_ID": "999"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0 and "is not to be the head" in done.stderr
    assert site.head_pid


def pilot_waits(go: str) -> int:
    """Wait for a file; return which attempt this is."""
    import time

    end = time.monotonic() + 120.0
    while not Path(go).exists():
        assert time.monotonic() < end, "nobody has let it go"
        time.sleep(0.05)
    return pilot.context().attempt
