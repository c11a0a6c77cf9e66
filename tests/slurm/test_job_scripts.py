"""Scripts after patterns of sites give under ``pilot submit`` what they give under ``sbatch``.

All are submitted in both ways, each to a directory of its own. What they have written, and how they
ended, is compared, with the numbers of jobs and the names of nodes left out.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from pilot.cli import cli
from pilot.site import Site

SCRIPTS = Path(__file__).with_name("job_scripts")
DEADLINE_S = 240.0
#: In the order in which they are submitted: what waits for another comes after it.
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.sh"))
AFTER = {"second": "first"}
#: As sites have it, for shells that export it.
MODULE = '() {  case $1 in load) shift; LOADED="$*";; list) echo "Loaded: $LOADED";; esac\n}'


class Ran(NamedTuple):
    """What a script has left."""

    ended: str
    files: dict[str, str]


#: Seen under sbatch, which takes up to a minute for it: too long for each run.
RECORDED = {"signal": Ran("0", {"signal.out": "checkpoint\n"})}


def seen(directory: Path, ids: list[str]) -> dict[str, str]:
    """The files of a directory, without what differs from one run to the next."""
    pattern = "|".join([r"\b1\d{8}\b", *(rf"\b{each}\b" for each in ids)])

    def without(text: str) -> str:
        return re.sub(r"\bn\d+\b", "NODE", re.sub(pattern, "JOB", text))

    return {
        without(path.relative_to(directory).as_posix().replace("_", " ")): without(path.read_text())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix not in (".sh", ".py")
    }


def prepared(above: Path, name: str) -> Path:
    directory = above / name
    (directory / "run").mkdir(parents=True)
    for file in (SCRIPTS / f"{name}.sh", SCRIPTS / "hello.py"):
        shutil.copy(file, directory)
    return directory


@pytest.fixture(scope="module")
def environment(virtual_cluster: Any) -> Iterator[pytest.MonkeyPatch]:
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'pilot-hpc[mpi]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHON", sys.executable)
        patch.setenv("COLOUR", "green")
        patch.setenv("MPI4PY_LIBMPI", "libmpi.so.40")
        patch.setenv("OMPI_MCA_mpi_yield_when_idle", "1")
        patch.setenv("BASH_FUNC_module%%", MODULE)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield patch


@pytest.fixture(scope="module")
def both(
    virtual_cluster: Any, shared_site: Site, environment: pytest.MonkeyPatch
) -> dict[str, tuple[Ran, Ran]]:
    """What each script leaves under ``sbatch``, and under ``pilot submit``."""
    slow, quick = (shared_site.directory.parent / name for name in ("sbatch", "pilot"))
    jobs = by_sbatch(virtual_cluster, slow)
    tasks: dict[str, str] = {}
    for name in NAMES:
        environment.chdir(prepared(quick, name))
        tasks[name] = by_pilot(shared_site, name, tasks)
    found = {name: of_pilot(shared_site, tasks[name], quick / name) for name in NAMES}

    def have_ended() -> bool:
        listed = ",".join(jobs.values())
        return not virtual_cluster.run("squeue", "--noheader", f"--jobs={listed}")

    virtual_cluster.wait_for("all jobs to end", have_ended, DEADLINE_S)
    listed = virtual_cluster.run(
        "sacct", "-nPX", f"--jobs={','.join(jobs.values())}", "--format=JobID,JobIDRaw,ExitCode"
    )
    rows = [row.split("|") for row in listed.splitlines()]
    of_sbatch = dict(RECORDED)
    for name, job in jobs.items():
        own = [(raw, code.partition(":")[0]) for id_, raw, code in rows if id_.split("_")[0] == job]
        ids = [job, *(raw for raw, _ in own)]
        of_sbatch[name] = Ran(max(code for _, code in own), seen(slow / name, ids))
    return {name: (of_sbatch[name], found[name]) for name in NAMES}


def by_sbatch(virtual_cluster: Any, above: Path) -> dict[str, str]:
    """Submit all scripts to Slurm, and return the ids of their jobs."""
    lines = ["set -e"]
    names = [name for name in NAMES if name not in RECORDED]
    for name in names:
        after = f"--dependency=afterok:$job_{AFTER[name]}" if name in AFTER else ""
        variable = f"job_{name}".replace("-", "_")
        lines.append(f"cd {shlex.quote(str(prepared(above, name)))}")
        lines.append(f"{variable}=$(sbatch --parsable {after} {name}.sh); echo ${variable}")
    said = virtual_cluster.run("bash", "-c", "\n".join(lines))
    return dict(zip(names, said.split(), strict=True))


def by_pilot(site: Site, name: str, tasks: dict[str, str]) -> str:
    """Submit a script as a task, and return its id, or that of its session."""
    options = [f"--directive=--dependency=afterok:{tasks[AFTER[name]]}"] if name in AFTER else []
    result = CliRunner().invoke(
        cli, ["--site", str(site.directory), "submit", *options, f"{name}.sh"]
    )
    assert result.exit_code == 0, (name, result.output)
    return result.stdout.strip()


def of_pilot(site: Site, given: str, directory: Path) -> Ran:
    """Wait for a task or the tasks of a session, and return what they have left."""
    session = given.partition(".")[0]
    on_site = ("--site", str(site.directory))
    CliRunner().invoke(cli, [*on_site, "session", "wait", session, "--timeout", str(DEADLINE_S)])
    result = CliRunner().invoke(cli, [*on_site, "task", "list", "--session", session, "--json"])
    assert result.exit_code == 0, result.output
    return Ran(max(map(_status, json.loads(result.stdout))), seen(directory, []))


def _status(row: dict[str, Any]) -> str:
    if row["state"] == "COMPLETED":
        return "0"
    told = re.search(r"exit status (\d+)", row["message"] or "")
    return told[1] if told else f"{row['state']}: {row['message']}"


@pytest.mark.parametrize("name", NAMES)
def test_a_script_gives_what_it_gives_under_sbatch(
    both: dict[str, tuple[Ran, Ran]], name: str
) -> None:
    by_slurm, by_us = both[name]
    assert by_slurm.files, "it has written nothing under sbatch"
    assert by_us == by_slurm
