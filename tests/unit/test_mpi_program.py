"""The plan of an MPI program's ranks, and how a process becomes one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pilot
from pilot.client.command import ShellCommand
from pilot.launchers import RANK_NUMBERS
from pilot.scheduler.placement import NodeAllocation, Portion
from pilot.scheduler.resources import Resources
from pilot.variables import thread_defaults
from pilot.wire.messages.worker import PROGRAM, LaunchPlan
from pilot.worker import become_rank
from pilot.worker.become_rank import VARIABLE
from pilot.worker.mpi_program import as_ranks, plan_ranks, runs

HOST = os.uname().nodename


@given(st.lists(st.integers(0, 300), unique=True, max_size=40))
def test_runs_of_cores_are_read_as_they_were_written(cores: list[int]) -> None:
    assert become_rank.cores_in(runs(cores)) == cores


def test_a_thousand_nodes_fit_into_a_variable() -> None:
    shares = [NodeAllocation(f"node{n:05}", 64, tuple(range(64))) for n in range(1000)]
    (planned,) = plan_ranks(shares, Resources(ranks=64000), 64).values()
    assert len(planned) < 32 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, -1),
        ({"PMI_RANK": "3"}, 3),
        ({"SLURM_PROCID": "2"}, 2),
        # Daemons that were started by srun hand theirs on.
        ({"SLURM_PROCID": "0", "PMI_RANK": "5"}, 5),
        ({"SLURM_PROCID": "1", "PMIX_RANK": "6", "OMPI_COMM_WORLD_RANK": "6"}, 6),
        ({"PMI_RANK": "x"}, -1),
    ],
)
def test_the_number_of_a_rank(environment: dict[str, str], rank: int) -> None:
    assert become_rank.rank_in(environment, RANK_NUMBERS) == rank


@pytest.mark.parametrize(
    ("there", "cores", "local", "own"),
    [
        # All cores of the node: numbers are places among them.
        ([0, 1, 2, 3], [2, 3], 1, [3]),
        ([4, 5, 6, 7], [0, 2], 0, [4]),
        # The launcher was started on these two itself.
        ([6, 7], [2, 3], 1, [7]),
        # Neither: not known.
        ([6], [2, 3], 0, []),
        ([5, 6, 7], [2, 3], 0, []),
    ],
)
def test_the_own_cores_of_a_rank(
    there: list[int], cores: list[int], local: int, own: list[int]
) -> None:
    assert become_rank.own_cores(there, cores, 1, local, 4) == own


def test_two_cores_for_each_rank() -> None:
    assert become_rank.own_cores(range(8), [1, 2, 5, 6], 2, 1, 8) == [5, 6]


def test_the_share_of_a_rank_is_that_of_its_host() -> None:
    plan = {"hosts": [["a", 2, "0-1", []], ["b", 1, "0", []]]}
    found = [become_rank.share_of(plan, rank) for rank in range(4)]
    assert [(share and share[0], local) for share, local in found] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        (None, 0),
    ]


def become(
    plan: LaunchPlan, words: list[str], environ: dict[str, str], **more: Any
) -> subprocess.CompletedProcess[str]:
    """Start a program as a rank by a launcher that is `env`, and return what it said."""
    launched, env = as_ranks(plan, words, {**os.environ, **environ}, {"MINE": "a b"}, **more)
    return subprocess.run(launched, env=env, capture_output=True, text=True, check=False)


def plan_here(rank: int, ranks: int = 2, named: tuple[Portion, ...] = (), cores: int = 1) -> Any:
    shares = [NodeAllocation(HOST, ranks, tuple(range(ranks * cores)), named)]
    planned = plan_ranks(shares, Resources(ranks=ranks, cores=cores), len(os.sched_getaffinity(0)))
    return LaunchPlan(("env", f"PMI_RANK={rank}", PROGRAM), planned)


TELL = (
    "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), dict(os.environ), "
    "os.getpid()]))"
)


def test_a_rank_is_its_program_on_its_cores() -> None:
    there = sorted(os.sched_getaffinity(0))
    if len(there) < 2:
        pytest.skip("needs two cores")
    for rank in range(2):
        done = become(plan_here(rank), [sys.executable, "-c", TELL], thread_defaults({}, 2))
        cores, environ, _ = json.loads(done.stdout)
        assert cores == [there[rank]]
        assert environ["PILOT_RANK"] == str(rank) and environ["PILOT_RANKS"] == "2"
        assert environ["MINE"] == "a b" and VARIABLE not in environ
        assert environ["OMP_NUM_THREADS"] == "1", "not that of all ranks of the node"


def test_numbers_of_threads_that_somebody_has_set_stay() -> None:
    words = [sys.executable, "-c", TELL]
    done = become(plan_here(0), words, {**thread_defaults({}, 2), "OMP_NUM_THREADS": "7"})
    environ = json.loads(done.stdout)[1]
    assert environ["OMP_NUM_THREADS"] == "7" and environ["MKL_NUM_THREADS"] == "1"


def test_each_rank_sees_its_own_gpu() -> None:
    gpus = Portion("gpus", 10_000, 2, ("0", "3"))
    seen = [
        json.loads(become(plan_here(rank, named=(gpus,)), [sys.executable, "-c", TELL], {}).stdout)
        for rank in range(2)
    ]
    assert [environ["PILOT_RESOURCE_GPUS"] for _, environ, _ in seen] == ["0", "3"]


def test_a_rank_elsewhere_than_planned_is_not_pinned() -> None:
    shares = [NodeAllocation("elsewhere.example", 1, (0,))]
    planned = plan_ranks(shares, Resources(ranks=1), len(os.sched_getaffinity(0)))
    plan = LaunchPlan(("env", "PMI_RANK=0", PROGRAM), planned)
    done = become(plan, [sys.executable, "-c", TELL], {})
    assert json.loads(done.stdout)[0] == sorted(os.sched_getaffinity(0))


def test_files_of_each_rank(tmp_path: Path) -> None:
    words = ["sh", "-c", "echo out; echo err >&2"]
    one, both = str(tmp_path / "one"), str(tmp_path / "both")
    for rank in range(2):
        done = become(plan_here(rank), words, {}, stdout=one, stderr=f"{one}.err")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        become(plan_here(rank), words, {}, stdout=both, stderr=both)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "one.0": "out\n",
        "one.1": "out\n",
        "one.err.0": "err\n",
        "one.err.1": "err\n",
        "both.0": "out\nerr\n",
        "both.1": "out\nerr\n",
    }


@pytest.mark.parametrize(("word", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_start_is_named(word: str, status: int) -> None:
    done = become(plan_here(1), [word], {})
    assert done.returncode == status
    assert done.stderr.startswith(f"rank 1 cannot start {word}: {word}: ")


def test_a_launcher_gets_the_program_wherever_it_names_it() -> None:
    planned = plan_ranks([NodeAllocation(HOST, 1, (0,))], Resources(ranks=1), 1)
    plan = LaunchPlan(("mpirun", "-host", "a", PROGRAM, ":", "-host", "b", PROGRAM), planned)
    launched, _ = as_ranks(plan, ["./it", "x"], {}, {})
    assert launched.count("./it") == 2 and launched[-2:] == ["./it", "x"]


# --- several programs -----------------------------------------------------------------------------


def test_several_programs_are_one_job() -> None:
    task = pilot.mpmd([("./ocean {case}", 4), (["./ice", "{x}"], 2)], time_limit=60)
    assert task.kind == "mpi-command" and task.__name__ == "ocean+ice"
    assert task.task_options.ranks == 6
    assert isinstance(task.function, ShellCommand)
    assert task.function.parameters == {"case"}, "words are taken as they are"


def test_each_rank_runs_its_program() -> None:
    task = pilot.mpmd([("echo one {x}", 2), ("echo two\necho {x}", 1)])
    assert isinstance(task.function, ShellCommand)
    argv = task.function.argv((), {"x": "a b"})

    def said(rank: str) -> tuple[int, str, str]:
        env = {**os.environ, "PILOT_RANK": rank}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert said("0") == said("1") == (0, "one a b\n", "")
    assert said("2") == (0, "two\na b\n", "")
    assert said("3") == (1, "", "rank 3 has no program: those given have 3 ranks\n")
    status, _, stderr = said("")
    assert status == 1 and "PILOT_RANK" in stderr


@pytest.mark.parametrize(
    ("programs", "told"),
    [
        ([], "there is no program"),
        ("./a", "give pairs"),
        (["./a"], "give pairs"),
        ([("./a", 0)], "at least 1"),
        ([("./a", True)], "at least 1"),
        ([("./a", "2")], "give pairs"),
        ([(" ", 2)], "the command"),
        ([([], 2)], "the command"),
    ],
)
def test_wrong_programs_are_refused(programs: Any, told: str) -> None:
    with pytest.raises(pilot.OptionError, match=told):
        pilot.mpmd(programs)


def test_ranks_follow_from_the_programs() -> None:
    with pytest.raises(pilot.OptionError, match="sum of the ranks"):
        pilot.mpmd([("./a", 2)], ranks=4)


def test_output_per_rank_needs_names() -> None:
    with pytest.raises(pilot.OptionError, match="give stdout="):
        pilot.shell("./a", ranks=2, output_per_rank=True)
    with pytest.raises(pilot.OptionError, match="give True or False"):
        pilot.shell("./a", ranks=2, stdout="a", output_per_rank="yes")  # type: ignore[arg-type]  # that is tested
