"""Resources that a site declares, end to end on a local site: each task has its own of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.cli import cli

DEADLINE_S = 60.0
TIMERS: dict[str, Any] = {"walltime": "1h", "idle_time": "1m"}


@pytest.fixture(scope="module")
def session() -> Iterator[pilot.Session]:
    from support.sites import local_template, site_under_test

    pools = {
        # Two pilots of two cores each.
        "main": {"cores_per_node": 2, "max_nodes": 2, **TIMERS},
        "lab": {
            "cores_per_node": 4,
            "gpus_per_node": 2,
            "resources": {"fpga": ["a", "b"], "space": 10},
            **TIMERS,
        },
        "short": {"cores_per_node": 1, "gpus_per_node": 3, **TIMERS},
    }
    # As the batch system gives some of a node's GPUs to a job.
    given = {"variables": {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb", "ROCR_VISIBLE_DEVICES": "2,3"}}
    template = local_template(
        resources={"licence": 1, "tokens": 2.5}, pools=pools, environment=given
    )
    with site_under_test(template) as site, site.session() as session:
        yield session


def hold(number: int, seconds: float) -> tuple[float, float, str]:
    """Run for a while; return from when to when, and what it has of the site."""
    began = time.time()
    time.sleep(seconds)
    return began, time.time(), str(pilot.context().resources.amounts)


def most_at_once(spans: list[tuple[float, float, str]]) -> int:
    steps = sorted([(begun, 1) for begun, _, _ in spans] + [(ended, -1) for _, ended, _ in spans])
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


@pytest.mark.parametrize(
    ("resources", "most"), [({"licence": 1}, 1), ({"tokens": 1}, 2), ({"tokens": 0.5}, 4)]
)
def test_no_more_run_at_once_over_all_pilots_than_the_site_has(
    session: pilot.Session, resources: dict[str, float], most: int
) -> None:
    task = pilot.task(resources=resources, pool="main")(hold)
    futures = [session.submit(task, number, 0.1) for number in range(8)]
    spans = [future.result(DEADLINE_S) for future in futures]
    assert most_at_once(spans) <= most
    name, amount = next(iter(resources.items()))
    assert spans[0][2] == str({"cores": 1, name: amount})


def what_i_have(path: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Wait for others, so that all run at once; return indices, and variables."""
    mark = Path(path, str(os.getpid()))
    mark.touch()
    deadline = time.monotonic() + 30.0
    while len(list(Path(path).iterdir())) < 2:
        assert time.monotonic() < deadline, "the other one does not run beside this"
        time.sleep(0.01)
    names = ("PILOT_RESOURCE_FPGA", "PILOT_RESOURCE_GPUS", "CUDA_VISIBLE_DEVICES")
    return dict(pilot.context().indices), {name: os.environ.get(name, "") for name in names}


def test_tasks_beside_each_other_have_different_indices(
    session: pilot.Session, tmp_path: Path
) -> None:
    task = pilot.task(gpus=1, resources={"fpga": 1, "space": 2.5})(what_i_have)
    futures = [session.submit(task, str(tmp_path)) for _ in range(2)]
    told = [future.result(DEADLINE_S) for future in futures]
    assert {indices["fpga"] for indices, _ in told} == {("a",), ("b",)}
    assert {indices["gpus"] for indices, _ in told} == {("0",), ("1",)}
    for indices, variables in told:
        assert variables["PILOT_RESOURCE_FPGA"] == ",".join(indices["fpga"])
        assert variables["PILOT_RESOURCE_GPUS"] == ",".join(indices["gpus"])
        its = {"0": "GPU-aa", "1": "GPU-bb"}[variables["PILOT_RESOURCE_GPUS"]]
        assert variables["CUDA_VISIBLE_DEVICES"] == its


SHOWN = pilot.shell(
    ["sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}:${ROCR_VISIBLE_DEVICES-unset}"]
)


def test_a_task_sees_the_gpus_that_it_asked_for_and_no_others(session: pilot.Session) -> None:
    def seen(**options: Any) -> str:
        told: str = session.submit(SHOWN.options(**options)).result(DEADLINE_S).stdout
        return told.strip()

    assert seen(gpus=2) == "GPU-aa,GPU-bb:unset"
    assert seen(pool="lab") == ":unset"
    assert seen(pool="main") == "GPU-aa,GPU-bb:2,3"  # a pool that counts none
    parts = [session.submit(SHOWN.options(gpus=0.5)) for _ in range(4)]
    assert {part.result(DEADLINE_S).stdout for part in parts} <= {
        "GPU-aa:unset\n",
        "GPU-bb:unset\n",
    }


def test_a_job_with_fewer_gpus_than_the_pool_says_ends_and_says_both(
    session: pilot.Session,
) -> None:
    future = session.submit(SHOWN.options(pool="short"))
    said = "the pool has gpus_per_node: 3, and the job was given 2 (CUDA_VISIBLE_DEVICES="
    wait_until(lambda: said in str(future.why()), DEADLINE_S, "the reason to be told")
    future.cancel()


def test_a_command_finds_its_indices_in_its_environment(session: pilot.Session) -> None:
    both = pilot.shell("echo $PILOT_RESOURCE_FPGA", resources={"fpga": 2})
    assert session.submit(both).result(DEADLINE_S).stdout == "a,b\n"
    none = pilot.shell("env", pool="lab")
    assert "PILOT_RESOURCE" not in session.submit(none).result(DEADLINE_S).stdout


def test_each_rank_has_indices_of_its_own(session: pilot.Session) -> None:
    pytest.importorskip("mpi4py")

    @pilot.mpi(ranks=2, resources={"fpga": 1, "licence": 1})
    def indices() -> list[tuple[str, tuple[str, ...]]]:
        from mpi4py import MPI

        mine = os.environ["PILOT_RESOURCE_FPGA"], pilot.context().indices["fpga"]
        gathered: list[tuple[str, tuple[str, ...]]] = MPI.COMM_WORLD.allgather(mine)
        return gathered

    told = session.submit(indices).result(DEADLINE_S)
    assert told == [("a", ("a",)), ("b", ("b",))]


def test_an_executor_that_is_used_again_has_what_the_next_task_needs(
    session: pilot.Session,
) -> None:
    def indices() -> dict[str, tuple[str, ...]]:
        return dict(pilot.context().indices)

    seen: Counter[int] = Counter()
    for count in (1, 2, 0, 1):
        task = pilot.task(resources={"fpga": count, "space": count}, pool="lab")(indices)
        told = session.submit(task).result(DEADLINE_S)
        seen[len(told.get("fpga", ()))] += 1
    assert seen == {1: 2, 2: 1, 0: 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resources": {"licnce": 1}}, "no resource 'licnce'; there are fpga, licence, space, tok"),
        ({"resources": {"licence": 2}}, "it needs 2 licence, and the site has 1 licence in all"),
        ({"resources": {"fpga": 3}}, "3 fpga, but a node of pool 'lab' has 4 cores, 2 fpga"),
        ({"resources": {"fpga": 1.5}}, "where fpga are given whole, or a part of one"),
        ({"resources": {"space": 11}}, "11 space, but a node of pool 'lab' has 4 cores, 10 space"),
        ({"resources": {"space": 1}, "pool": "main"}, "'main' has 2 cores, 0 space"),
    ],
)
def test_what_no_pool_can_ever_give_is_refused(
    session: pilot.Session, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(pilot.SubmissionError, match=words):
        session.submit(pilot.task(**options)(hold), 1, 0.0)


def test_why_tells_who_has_the_licence(session: pilot.Session, tmp_path: Path) -> None:
    def until(path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.01)

    task = pilot.task(resources={"licence": 1})(until)
    futures = [session.submit(task, str(tmp_path / "go")) for _ in range(2)]
    session.flush()

    def told() -> str:
        return str(session.query("why", subject=futures[1].task_id)["answer"])

    words = "is ready, but needs 1 licence of the site's 1, of which 0 are free"
    wait_until(lambda: words in told(), DEADLINE_S, "the reason")
    (tmp_path / "go").touch()
    for future in futures:
        future.result(DEADLINE_S)


def test_status_shows_how_much_is_in_use(session: pilot.Session, tmp_path: Path) -> None:
    free = {"licence": {"used": 0, "total": 1}, "tokens": {"used": 0, "total": 2.5}}

    def is_free() -> bool:
        return bool(session.query("status")["resources"] == free)

    wait_until(is_free, DEADLINE_S, "other tests' tasks to be gone")
    started, go = tmp_path / "started", tmp_path / "go"
    task = pilot.task(resources={"licence": 1, "tokens": 0.5})(tasks.wait_for_file)
    future = session.submit(task, str(started), str(go))
    wait_until(started.exists, DEADLINE_S, "the task to run")
    status = ["status", "--site", str(session.site.directory)]
    told = json.loads(CliRunner().invoke(cli, [*status, "--json"]).stdout)
    assert told["resources"]["licence"] == {"used": 1, "total": 1}
    assert told["resources"]["tokens"] == {"used": 0.5, "total": 2.5} and told["unheard"] == []
    lines = CliRunner().invoke(cli, status).stdout.splitlines()
    place = lines.index("RESOURCE  USED  TOTAL")
    assert [line.split() for line in lines[place + 1 : place + 3]] == [
        ["licence", "1", "1"],
        ["tokens", "0.5", "2.5"],
    ]
    go.touch()
    future.result(DEADLINE_S)
    wait_until(is_free, DEADLINE_S, "the licence to be free")


def test_a_licence_is_free_when_its_task_was_cancelled_or_killed(session: pilot.Session) -> None:
    def die() -> None:
        os._exit(3)

    long = pilot.task(resources={"licence": 1})(time.sleep)
    future = session.submit(long, 600.0)
    wait_until(future.running, DEADLINE_S, "it to run")
    future.cancel()
    crashing = session.submit(pilot.task(resources={"licence": 1}, max_crashes=1)(die))
    after = session.submit(pilot.task(resources={"licence": 1})(abs), -7)
    assert after.result(DEADLINE_S) == 7
    assert isinstance(crashing.exception(DEADLINE_S), pilot.TaskCrashed)


def test_a_licence_survives_the_head(make_site: Callable[..., SiteUnderTest]) -> None:
    site = make_site(cores=4, resources={"licence": 1})
    with site.session() as session:
        task = pilot.task(resources={"licence": 1})(hold)
        first = session.submit(task, 1, 4.0)
        wait_until(first.running, DEADLINE_S, "it to run")
        os.kill(site.head_pid, 9)
        second = session.submit(task, 2, 0.1)
        spans = [first.result(DEADLINE_S), second.result(DEADLINE_S)]
    assert most_at_once(spans) == 1 and spans[0][1] <= spans[1][0]


def test_the_command_line(session: pilot.Session) -> None:
    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        site = str(session.site.directory)
        command = [sys.executable, "-m", "pilot", "--site", site, "submit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    said = submit(
        "--wait",
        "--resource",
        "fpga=1",
        "--resource",
        "tokens=0.5",
        "--",
        "printenv",
        "PILOT_RESOURCE_FPGA",
    )
    assert (said.stdout, said.returncode) in (("a\n", 0), ("b\n", 0)), said.stderr
    said = submit("--resource", "fpga", "--", "true")
    assert said.returncode == 2 and "write NAME=" in said.stderr
    said = submit("--resource", "fpga=some", "--", "true")
    assert said.returncode == 2 and "fpga: 'some' is not an amount" in said.stderr
    said = submit("--resource", "nosuch=1", "--", "true")
    assert "the site has no resource 'nosuch'" in said.stderr


# --- without a core -------------------------------------------------------------------------------


def where_it_may_run(path: str = "") -> tuple[set[int], str, dict[str, float]]:
    """Wait for a file, where one is named; return the cores, the threads, and the amounts."""
    while path and not Path(path).exists():
        time.sleep(0.01)
    amounts: dict[str, float] = dict(pilot.context().resources.amounts)
    return os.sched_getaffinity(0), os.environ["OMP_NUM_THREADS"], amounts


def test_tasks_without_a_core_run_beside_busy_cores(session: pilot.Session, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    busy = pilot.task(cores=2, pool="main")(where_it_may_run)
    full = [session.submit(busy, str(mark)) for _ in range(2)]
    wait_until(lambda: all(each.running() for each in full), DEADLINE_S, "both pilots to be full")
    none = pilot.task(cores=0, pool="main")(where_it_may_run)
    seen = [future.result(DEADLINE_S) for future in [session.submit(none) for _ in range(8)]]
    assert all(threads == "1" and amounts == {"cores": 0} for _, threads, amounts in seen)
    assert {len(cores) for cores, _, _ in seen} == {len(os.sched_getaffinity(0))}
    waits = pilot.shell(f"until [ -e {mark} ]; do sleep 0.05; done; echo there", cores=0)
    slow = session.submit(waits)
    assert session.submit(none).result(DEADLINE_S) and not any(each.done() for each in full)
    mark.touch()
    assert slow.result(DEADLINE_S).stdout == "there\n"
    for future in full:
        future.result(DEADLINE_S)


def test_no_more_run_at_once_without_a_core_than_a_site_lets() -> None:
    from support.sites import local_template, site_under_test

    pools = {"main": {"cores_per_node": 1, "coreless_per_node": 2, **TIMERS}}
    with site_under_test(local_template(pools=pools)) as site, site.session() as session:
        task = pilot.task(cores=0)(hold)
        spans = session.submit_many(task, [(number, 0.1) for number in range(8)])
        assert most_at_once([future.result(DEADLINE_S) for future in spans]) == 2
        waiting = [session.submit(task, number, 600.0) for number in range(3)]
        wait_until(lambda: "2 tasks without a core already" in waiting[2].why(), 20, "the reason")
        session.cancel()


def busy_cores(_: int) -> int:
    return len(os.sched_getaffinity(0))


def test_an_exclusive_task_has_its_node_for_itself(session: pilot.Session) -> None:
    alone = pilot.task(exclusive=True, pool="lab")(hold)
    beside = pilot.task(pool="lab")(hold)
    futures = [*beside.map(range(8), [0.1] * 8), *alone.map(range(2), [0.3] * 2)]
    futures += beside.map(range(8), [0.1] * 8)
    spans = [future.result(DEADLINE_S)[:2] for future in futures]
    for begun, ended in spans[8:10]:
        inside = [span for span in spans if span[0] < ended and begun < span[1]]
        assert inside == [(begun, ended)]
    rows = session.query("placements", session=session.id)["placements"]
    assert any(row["placement"].endswith(":0-3") for row in rows if row["name"] == "hold")


def test_a_constraint_that_no_pool_meets_is_refused(session: pilot.Session) -> None:
    with pytest.raises(pilot.SubmissionError, match="nodes with a100, but a node of pool"):
        pilot.task(constraint="a100")(busy_cores).submit(1)
    told = CliRunner().invoke(cli, ["submit", "--constraint", "a100", "--exclusive", "true"])
    assert told.exit_code and "nodes with a100" in told.output
