"""Command lines of programs for PyCOMPSs: flags, jobs, actions, without a site."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pilot.compat.compss import commands, enqueueing
from pilot.compat.compss.flags import UsageError, parse

SLURM: dict[str, Any] = {
    "name": "mine",
    "batch": "slurm",
    "head": {"place": "job", "job": {"walltime": "1d"}, "address": "ib0"},
    "environment": {"setup": "module load python\n"},
    "pools": {
        "cpu": {"partition": "main", "cores_per_node": 64, "max_nodes": 8, "min_nodes": 1},
        "gpu": {"partition": "acc", "cores_per_node": 32, "gpus_per_node": 4},
    },
}
LOCAL: dict[str, Any] = {"batch": "local", "pools": {"here": {}}}


def pool(*words: str, base: dict[str, Any] = SLURM) -> dict[str, Any]:
    """The pool that a command line asks for."""
    return site(*words, base=base)["pools"]["compss"]  # type: ignore[no-any-return]  # of plain data


def site(*words: str, base: dict[str, Any] = SLURM) -> dict[str, Any]:
    import yaml

    flags = parse([*words, "prog.py"], of_job=True)
    text = enqueueing.site_text(flags, base, is_local=base is LOCAL)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_flags_are_read_and_unknown_ones_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pythonpath=/a:/b", "-d", "--summary", "prog.py", "--its=own"]
    meant, ignored, rest = parse(words)
    assert meant == {"pythonpath": "/a:/b"} and ignored == ["-d", "--summary"]
    assert rest == ["prog.py", "--its=own"]
    for wrong, told in (
        (["--no_such_flag=1", "prog.py"], "there is no such flag"),
        (["--lang=java", "prog.jar"], "python alone"),
        (["--pythonpath", "prog.py"], "write --pythonpath="),
        (["--num_nodes=2", "prog.py"], "a flag of enqueue_compss"),
        (["--wall_clock_limit=soon", "prog.py"], "give a number"),
        (["--agents", "prog.py"], "is not supported"),
        (["--jupyter_notebook", "prog.py"], "pycompss jupyter"),
        (["-dz", "prog.py"], "there is no such flag"),
        ([], "give a program"),
        (["/no/such/prog.py"], "there is no program"),
        (["--env_script=/no/such", "prog.py"], "the script fails"),
    ):
        assert commands.run(wrong) == 2
        assert told in capsys.readouterr().err
    assert parse(["--agents=disabled", "-m", "pytest"]).rest == ["-m", "pytest"]
    assert commands.run(["--help"]) == 0 and "usage:" in capsys.readouterr().out


def test_short_flags_may_stand_together() -> None:
    assert parse(["-dgt", "prog.py"]).ignored == ["-d", "-g", "-t"]
    assert "help" in parse(["-dh"]).meant


def test_the_program_gets_its_flags_and_the_job_its_own() -> None:
    words = ["--pythonpath=src", "--num_nodes=3", "--wall_clock_limit=60", "prog.py"]
    flags = parse(words, of_job=True)
    assert flags.program_flags() == ["--pythonpath=src", "--wall_clock_limit=60"]
    assert flags.whole("num_nodes", 1) == 3


def test_the_flags_of_a_job_make_a_pool() -> None:
    made = pool("--num_nodes=4", "--exec_time=90", "--qos=debug", "--constraints=fast")
    assert made == {
        "partition": "main",
        "cores_per_node": 64,
        "walltime": "90m",
        "max_nodes": 4,
        "nodes_per_pilot": 4,
        "qos": "debug",
        "constraint": "fast",
    }
    made = pool("--elasticity=3", "--cpus_per_node=8", "--gpus_per_node=2", "--node_memory=4000")
    assert (made["max_nodes"], made["nodes_per_pilot"]) == (5, 2)
    assert (made["cores_per_node"], made["gpus_per_node"], made["memory_per_node"]) == (8, 2, 4000)
    made = pool("--project_name=p1", "--licenses=x:2", "--extra_submit_flag=--mail-user=me#--hold")
    assert made["account"] == "p1"
    assert made["sbatch_options"] == ["--licenses=x:2", "--mail-user=me --hold"]


@pytest.mark.parametrize(
    ("queue", "partition", "cores"),
    [("gpu", "acc", 32), ("acc", "acc", 32), ("other", "other", 64), ("default", "main", 64)],
)
def test_a_queue_is_a_pool_or_a_partition(queue: str, partition: str, cores: int) -> None:
    made = pool(f"--queue={queue}")
    assert (made["partition"], made["cores_per_node"]) == (partition, cores)


def test_a_short_job_is_warned_later() -> None:
    assert pool("--exec_time=2")["warning"] == "30s"
    assert "warning" not in pool("--exec_time=10")


def test_all_else_is_as_the_site_has_it() -> None:
    made = site("--cluster=big", "--pre_env_script=/x y/env.sh")
    assert "name" not in made and made["slurm"] == {"cluster": "big"}
    assert made["head"] == {"address": "ib0", "job": {"successors": False}, "idle_timeout": "1m"}
    assert made["environment"]["setup"] == "module load python\n. '/x y/env.sh'\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num_nodes=0"], "whole number"),
        (["--num_nodes=some"], "give a number"),
        (["--exec_time=-1"], "give a number"),
    ],
)
def test_flags_of_jobs_that_mean_nothing(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        pool(*words)


def test_a_local_site_has_no_queue() -> None:
    assert pool("--exec_time=30", base=LOCAL)["max_nodes"] == 1
    with pytest.raises(UsageError, match="without a batch system"):
        pool("--queue=main", base=LOCAL)


def test_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.act(["--help"]) == 0 and "pycompss job list" in capsys.readouterr().out
    for words, told in (
        (["init"], "'init' is not supported"),
        (["run", "--nonsense", "x.py"], "there is no such flag"),
        (["--nonsense", "x.py"], "there is no such flag"),
        (["job", "submit", "--nonsense", "x.py"], "enqueue_compss --help"),
        (["gengraph"], "name the graphs"),
        (["gengraph", "/no/such.dot"], "there is no graph"),
        (["monitor", "nothing"], "start and stop"),
    ):
        assert commands.act(words) == 2
        assert told in capsys.readouterr().err


def test_pictures_are_made_by_graphviz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = tmp_path / "g.dot"
    graph.write_text("digraph {}")
    calls = []

    def dot(command: list[str], **_: Any) -> None:
        calls.append(command)

    monkeypatch.setattr(subprocess, "run", dot)
    assert commands.act(["gengraph", str(graph)]) == 0
    assert calls == [["dot", "-Tpdf", f"-o{tmp_path / 'g.pdf'}", str(graph)]]
    assert capsys.readouterr().out == f"{tmp_path / 'g.pdf'}\n"

    def gone(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", gone)
    assert commands.act(["gengraph", str(graph)]) == 2
    assert "install Graphviz" in capsys.readouterr().err
