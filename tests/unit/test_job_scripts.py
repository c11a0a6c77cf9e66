"""Job scripts for Slurm: their directives, what they ask for, and what they find where they run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pilot.scheduler.batch.job_scripts import (
    Earlier,
    ScriptError,
    ScriptPlace,
    ScriptWork,
    StepFacts,
    Surface,
    dialect_of,
    find_dialect,
)
from pilot.scheduler.batch.slurm.job_scripts import srun_options, srun_program
from pilot.scheduler.batch.slurm.job_scripts.directives import has_directives, script_directives
from pilot.scheduler.batch.slurm.job_scripts.reading import own_id
from pilot.scheduler.batch.slurm.job_scripts.running import file_name, job_number, script_variables

SURFACE = Surface(
    {"main": (4, 4000), "fat": (16, 64000)}, aliases={"big": "fat"}, resources=("matlab",)
)


def read(*lines: str, more: tuple[str, ...] = (), surface: Surface = SURFACE) -> ScriptWork:
    text = "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), "", "true"])
    return find_dialect("slurm").read(text, more, surface)


def pairs(text: str) -> list[tuple[str, str]]:
    return [(each.name, each.value) for each in script_directives(text)]


# --- directives


def test_options_are_read_as_sbatch_reads_them() -> None:
    text = """#!/bin/bash -l
#SBATCH --job-name "two words" -n 4
# a comment
   # another one
#SBATCH   -c2 -pmain,big --mem=4G # and one here
#SBATCH --output='a b'.out --exclusive
#SBATCH --ntasks-per-n=2 --comment=a\\ b
##SBATCH --time=1

echo
#SBATCH --array=1-3
"""
    assert pairs(text) == [
        ("job-name", "two words"),
        ("ntasks", "4"),
        ("cpus-per-task", "2"),
        ("partition", "main,big"),
        ("mem", "4G"),
        ("output", "a b.out"),
        ("exclusive", ""),
        ("ntasks-per-node", "2"),
        ("comment", "a b"),
    ]
    assert script_directives(text)[-1].where == "line 7"


def test_letters_stand_together_and_with_their_values() -> None:
    assert pairs("#!/bin/sh\n#SBATCH -QHn4 -N 2\n") == [
        ("quiet", ""),
        ("hold", ""),
        ("ntasks", "4"),
        ("nodes", "2"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo\n#SBATCH -n 2", "line 1: a job script begins with #!"),
        ("#!/bin/sh\r\n#SBATCH -n 2\r\n", "line 1: it ends with a carriage return"),
        ("#!/bin/sh\n\n#SBATCH --ntask-per-node=2", "did you mean --ntasks-per-node?"),
        ("#!/bin/sh\n#SBATCH --mem-per=2", "line 2: --mem-per may be any of"),
        ("#!/bin/sh\n#SBATCH -n", "line 2: -n needs a value"),
        ("#!/bin/sh\n#SBATCH --time=", "line 2: --time= has no value"),
        ("#!/bin/sh\n#SBATCH -@", "sbatch has no option -@"),
        ("#!/bin/sh\n#SBATCH 4", "line 2: '4' is no option of sbatch"),
        ('#!/bin/sh\n#SBATCH -J "x', 'line 2: the quote " is not closed'),
        ("#!/bin/sh\n#SBATCH -n 2\n#SBATCH hetjob\n", "line 3: jobs of several parts (hetjob)"),
    ],
)
def test_what_means_nothing_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ScriptError, match=None) as error:
        script_directives(text)
    assert told in str(error.value)


def test_scripts_are_told_by_a_directive_before_the_first_command() -> None:
    assert dialect_of("#!/bin/sh\n#SBATCH -n 1\n") == "slurm"
    assert not has_directives("#!/bin/sh\necho\n#SBATCH -n 1\n")
    assert not has_directives("echo '\n#SBATCH -n 1'\n")
    assert dialect_of("#!/usr/bin/env python3\nprint('#SBATCH')\n") == ""


# --- what a script asks for


@pytest.mark.parametrize(
    ("lines", "nodes", "cores"),
    [
        ([], 1, 1),
        (["-n 4"], 1, 4),
        (["-n 4 -c 4"], 1, 16),
        (["-n 20"], 2, 10),
        (["-n 20", "-p main"], 5, 4),
        (["--nodes=2", "--ntasks-per-node=3", "-c 2"], 2, 6),
        (["--nodes=2", "--ntasks=5"], 2, 3),
        (["--nodes=2-4"], 2, 1),
        (["--nodes=4", "--ntasks=2"], 2, 1),
        (["--ntasks=8", "--ntasks-per-node=2"], 4, 2),
        (["--exclusive"], 1, 16),
        (["--exclusive -p main"], 1, 4),
        (["--nodes=2", "--exclusive=user"], 2, 16),
        (["-c 3 --mincpus=8"], 1, 8),
    ],
)
def test_tasks_become_cores_on_nodes(lines: list[str], nodes: int, cores: int) -> None:
    work = read(*lines)
    assert (work.nodes, work.cores) == (nodes, cores)


def test_memory_is_that_of_each_node() -> None:
    assert read("--mem=4G").memory_mib == 4096
    assert read("--mem=500").memory_mib == 500
    assert read("--mem-per-cpu=1500M -n 2 -c 2").memory_mib == 6000
    assert read("--mem=0 -p main").memory_mib == 4000


def test_devices_are_counted_for_each_node() -> None:
    assert read("--gres=gpu:a100:2").gpus == 2
    assert read("--gres=gpu").gpus == 1
    assert read("--gpus=4 --nodes=2").gpus == 2
    assert read("--gpus-per-node=v100:3").gpus == 3
    assert read("--gpus-per-task=1 -N 2 -n 8").gpus == 4
    work = read("--licenses=matlab:2,other:1", "--gres=gpu:1,tape:1")
    assert (work.gpus, work.resources) == (1, {"matlab": 2})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("1:30:00", 5400),
        ("2-0", 172800),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-00:00:01", 86401),
        ("UNLIMITED", 0),
    ],
)
def test_times_are_read_as_slurm_writes_them(text: str, seconds: float) -> None:
    assert read(f"--time={text}").time_limit_s == seconds


def test_arrays_have_indices_and_a_limit() -> None:
    work = read("--array=1,3-7:2%2")
    assert (work.array, work.at_once, work.stdout) == ((1, 3, 5, 7), 2, "slurm-%A_%a.out")
    assert work.asked["array_count"] == "4" and work.asked["array_max"] == "7"
    assert read("-a 5").array == (5,)


def test_dependencies_name_tasks_sessions_and_elements() -> None:
    work = read("--dependency=afterok:3.1:4,afterany:100300017,singleton")
    assert work.earlier == (Earlier("ok", ("3.1", "4")), Earlier("end", ("3.17",)))
    assert work.is_single
    assert read("-d aftercorr:7").earlier == (Earlier("each", ("7",)),)


def test_the_environment_is_whole_unless_the_script_says_otherwise() -> None:
    assert (read().inherits, read().passed) == (True, ())
    assert not read("--export=NONE").inherits
    work = read("\"--export=ALL,CASE=3,PATH,LIST='a,b'\"")
    assert (work.inherits, work.passed) == (True, ("PATH",))
    assert work.variables == {"CASE": "3", "LIST": "a,b"}
    assert not read("--export=CASE=1").inherits


def test_signals_come_before_the_end() -> None:
    work = read("--signal=B:USR1@120")
    assert (work.signal, work.signal_s, work.signal_shell) == (signal.SIGUSR1, 120, True)
    work = read("--signal=SIGTERM")
    assert (work.signal, work.signal_s, work.signal_shell) == (signal.SIGTERM, 60, False)


def test_what_is_ignored_is_named_with_its_line() -> None:
    work = read("--mail-user=me --time=1", "--qos=high", "--partition=gone,big", "--requeue")
    assert work.pool == "fat"
    assert work.ignored == (
        "line 2: --mail-user=me",
        "line 3: --qos=high",
        "line 5: --requeue",
    )
    (ignored,) = read("--partition=gone").ignored
    assert ignored.startswith("line 2: --partition=gone (no pool")
    (ignored,) = read("--gres=gpu:a100:1").ignored
    assert "of any kind, not only a100" in ignored


def test_the_command_line_stands_above_the_script() -> None:
    work = read("--time=10 -n 4", more=("--time=20", "-J", "other"))
    assert (work.time_limit_s, work.name, work.cores) == (1200, "other", 4)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--nodes=many", "give a number of nodes"),
        ("--ntasks=0", "at least 1"),
        ("--mem=lots", "an amount of memory"),
        ("--time=soon", "give minutes"),
        ("--array=1-", "give numbers and ranges"),
        ("--array=1-4%x", "how many run at once"),
        ("--array=0-9999999", "more than 1,000,000"),
        ("--dependency=afternotok:3.1", "cannot do afternotok"),
        ("--dependency=afterok:x", "give the ids"),
        ("--dependency=afterok:3.1?afterok:3.2", "for all of several"),
        ("--export=A-B", "give ALL, NONE"),
        ("--signal=NEVER", "give a signal"),
        ("--begin=now+1hour", "Pilot starts tasks as soon as it can"),
        ("--open-mode=x", "give append or truncate"),
        ("--gpus=1.5", "give a number, as 2"),
    ],
)
def test_wrong_values_are_refused_with_what_to_give(line: str, told: str) -> None:
    with pytest.raises(ScriptError) as error:
        read("", line)
    assert told in str(error.value) and "line 3: " in str(error.value)


# --- where it runs


def place(**changes: Any) -> ScriptPlace:
    facts: dict[str, Any] = {
        "task": 3 << 32 | 17,
        "session": 3,
        "number": 17,
        "attempt": 1,
        "name": "job",
        "nodes": ("n1.cluster", "n2"),
        "cores": 4,
        "user": "me",
        "started": 5.0,
    }
    return ScriptPlace(**{**facts, **changes})


def test_variables_are_those_of_sbatch() -> None:
    work = read("-N 2 -n 5 -c 2 --mem=3G -A acc")
    found = script_variables({**work.asked, "submit_dir": "/here"}, place(attempt=2))
    assert found["SLURM_JOB_ID"] == found["SLURM_JOBID"] == "100300017"
    assert found["SLURM_NODELIST"] == "n1.cluster,n2"
    assert found["SLURM_NTASKS"] == found["SLURM_NPROCS"] == "5"
    assert found["SLURM_TASKS_PER_NODE"] == "3,2"
    assert found["SLURM_JOB_CPUS_PER_NODE"] == "4(x2)"
    assert found["SLURM_CPUS_PER_TASK"] == "2"
    assert found["SLURM_MEM_PER_NODE"] == "3072"
    assert found["SLURM_RESTART_COUNT"] == "1"
    assert found["SLURM_SUBMIT_DIR"] == "/here"
    assert "SLURM_ARRAY_TASK_ID" not in found
    # As in Slurm, what was not asked for is not there.
    assert (
        not {"SLURM_NTASKS", "SLURM_CPUS_PER_TASK"} & script_variables(read().asked, place()).keys()
    )


def test_an_element_of_an_array_knows_the_whole() -> None:
    work = read("--array=2-8:3")
    found = script_variables(work.asked, place(index="5"))
    assert found["SLURM_ARRAY_TASK_ID"] == "5"
    assert found["SLURM_ARRAY_JOB_ID"] == "100300000"
    assert [found[f"SLURM_ARRAY_TASK_{key}"] for key in ("COUNT", "MIN", "MAX", "STEP")] == [
        *("3", "2", "8", "3")
    ]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("slurm-%j.out", "slurm-100300017.out"),
        ("%x-%A_%a.%u", "job-100300000_5.me"),
        ("%4a-%2t-%N-%n", "0005-00-n1-0"),
        ("100%%-%J-%q", "100%-100300017-%q"),
        ("a\\%j", "a%j"),
    ],
)
def test_patterns_are_filled_in(pattern: str, name: str) -> None:
    assert file_name(pattern, place(index="5")) == name


def test_numbers_of_jobs_can_be_read_back() -> None:
    assert own_id(str(job_number(3, 17))) == "3.17"
    assert own_id(str(job_number(3, 0))) == "3" and own_id(f"{job_number(3, 0)}_5") == "3_5"
    assert own_id(str(job_number(3, 123456))) == "3.123456"
    assert own_id(str(job_number(40000, 2))) == "40000.2"
    assert own_id("4711") == "4711"


# --- srun


def step_facts(nodes: int = 1, cores: int = 4) -> dict[str, Any]:
    where = place(nodes=tuple(f"n{n + 1}" for n in range(nodes)), cores=cores)
    facts = StepFacts(
        python="python3",
        cores=tuple(tuple(range(cores)) for _ in range(nodes)),
        job={},
        launcher="local",
    )
    return find_dialect("slurm").programs(read("-n 2").asked, where, facts).facts


def laid_out(words: str, nodes: int = 1, cores: int = 4) -> list[tuple[int, int, list[int]]] | None:
    options, _ = srun_options.parse(words.split())
    facts = step_facts(nodes, cores)
    step = srun_program.lay_out(options, facts, srun_program.all_cores(facts))
    return None if step is None else step.shares


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM", "SRUN"))]:
        monkeypatch.delenv(name)


def test_the_words_of_srun_are_told_from_the_command() -> None:
    words = ["-n", "4", "-c2", "--cpu_bind", "none", "-lu", "--", "prog", "-n", "1"]
    options, command = srun_options.parse(words)
    assert options == {
        "ntasks": "4",
        "cpus-per-task": "2",
        "cpu-bind": "none",
        "label": "",
        "unbuffered": "",
    }
    assert command == ["prog", "-n", "1"]
    assert srun_options.parse(["--mpi=pmix", "prog"]) == ({"mpi": "pmix"}, ["prog"])
    with pytest.raises(srun_options.Wrong, match="no option --nonsense"):
        srun_options.parse(["--nonsense", "prog"])


def test_steps_are_spread_as_slurm_spreads_them() -> None:
    assert laid_out("-n 1") == [(0, 1, [0])]
    assert laid_out("-n 2 -c 2") == [(0, 2, [0, 1, 2, 3])]
    assert laid_out("-n 3", nodes=2) == [(0, 2, [0, 1]), (1, 1, [0])]
    assert laid_out("-N 2", nodes=2) == [(0, 1, [0]), (1, 1, [0])]
    assert laid_out("-N 1 -n 4", nodes=2) == [(0, 4, [0, 1, 2, 3])]
    assert laid_out("--ntasks-per-node=2", nodes=2) == [(0, 2, [0, 1]), (1, 2, [0, 1])]
    assert laid_out("-w n2 -n 2", nodes=2) == [(1, 2, [0, 1])]
    assert laid_out("-x n1 -n 1", nodes=2) == [(1, 1, [0])]
    assert laid_out("-n 9 -O") == [(0, 9, [0, 1, 2, 3])]
    assert laid_out("-n 5") is None


def test_a_step_takes_what_the_script_says_where_srun_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert laid_out("") == [(0, 2, [0, 1, 2, 3])]
    monkeypatch.setenv("SRUN_CPUS_PER_TASK", "1")
    assert laid_out("") == [(0, 2, [0, 1])]


def test_a_step_of_another_node_is_refused() -> None:
    with pytest.raises(srun_options.Wrong, match="n7: not among"):
        laid_out("-w n7")


def test_steps_side_by_side_have_different_cores(tmp_path: Path) -> None:
    options = {"ntasks": "2"}
    facts = step_facts()
    first, number = srun_program.take(options, facts, str(tmp_path))
    second, next_number = srun_program.take(options, facts, str(tmp_path))
    assert (number, next_number) == (0, 1)
    assert first.shares == [(0, 2, [0, 1])] and second.shares == [(0, 2, [2, 3])]
    assert srun_program._locked(options, facts, str(tmp_path)) is None
    free, _ = srun_program.take({**options, "overlap": ""}, facts, str(tmp_path))
    assert free.shares == [(0, 2, [0, 1])]


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        ("n1,n2", ["n1", "n2"]),
        ("n[1-3,07],gpu01", ["n1", "n2", "n3", "n07", "gpu01"]),
        ("r[1-2]-x", ["r1-x", "r2-x"]),
        ("", []),
    ],
)
def test_lists_of_hosts_are_read(listed: str, hosts: list[str]) -> None:
    assert srun_options.expand(listed) == hosts
