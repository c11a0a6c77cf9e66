"""Programs for PyCOMPSs over the nodes of a Slurm: objects and files go from one to another.

They run on the login node, in a job with their head, and in a job that has all their nodes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from slurm.conftest import VirtualCluster

from pilot.site import Site

DEADLINE_S = 180.0
PROGRAM = """
import os
import socket
import time

from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.constraint import constraint
from pycompss.api.parameter import COLLECTION_IN, FILE_IN, FILE_INOUT, FILE_OUT, INOUT
from pycompss.api.task import task


@constraint(computing_units="1")
@task(x=INOUT)
def visit(x, meets):
    # Tasks of one round meet, so they are on several nodes.
    open(os.path.join(meets, f"{socket.gethostname()}-{os.getpid()}"), "w").close()
    end = time.monotonic() + 60
    while len({name.split("-")[0] for name in os.listdir(meets)}) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    x.append(socket.gethostname())


@task(f=FILE_OUT)
def write(f, text):
    with open(f, "w") as file:
        file.write(text)


@task(f=FILE_INOUT)
def add(f, text):
    with open(f, "a") as file:
        file.write(text)


@task(xs=COLLECTION_IN, f=FILE_IN, returns=2)
def total(xs, f):
    return sum(map(len, xs)), open(f).read()


os.mkdir("meets")
xs = [[] for _ in range(8)]
for x in xs:
    visit(x, os.path.abspath("meets"))
for x in xs:
    visit(x, os.path.abspath("meets"))
write("a.txt", "one ")
add("a.txt", "two")
print(compss_wait_on(total(xs, "a.txt")))
print("nodes", len({name for x in compss_wait_on(xs) for name in x}) > 1)
"""
PRINTED = ["[16, 'one two']", "nodes True"]


def test_objects_and_files_go_between_nodes(shared_site: Site, shared_directory: Path) -> None:
    (shared_directory / "program.py").write_text(PROGRAM)
    told = start(shared_site, shared_directory, "pilot.compat.compss.commands", "program.py")
    assert told.splitlines() == PRINTED


def start(site: Site, cwd: Path, module: str, *words: str) -> str:
    """What a command prints that runs on the login node."""
    told = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=cwd,
        env={**os.environ, "PILOT_SITE": str(site.directory)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_a_program_runs_as_a_job_with_its_head(shared_site: Site, shared_directory: Path) -> None:
    (shared_directory / "program.py").write_text(PROGRAM)
    words = ("run", "--compat", "pycompss", "--as-job", "program.py")
    assert start(shared_site, shared_directory, "pilot", *words).splitlines()[-2:] == PRINTED


def test_an_enqueued_program_has_the_nodes_of_its_job(
    shared_site: Site, shared_directory: Path, virtual_cluster: VirtualCluster
) -> None:
    """Its tasks are on several nodes, those of the job, and nothing is left when that has ended."""
    (shared_directory / "program.py").write_text(PROGRAM)

    def pycompss(*words: str) -> str:
        return start(shared_site, shared_directory, "pilot.compat.site.pycompss", *words)

    flags = ("--num_nodes=2", "--exec_time=5", "--job_name=visit", "--queue=main")
    job = pycompss("enqueue", *flags, "program.py").split()[-1]
    assert f"{job}\tvisit\t" in pycompss("job", "list")
    virtual_cluster.wait_for(
        "the job to end",
        lambda: virtual_cluster.job(int(job))["JobState"] in ("COMPLETED", "FAILED"),
        DEADLINE_S,
    )
    (site,) = shared_site.directory.with_name("virtual-compss").iterdir()
    told = (site / "jobs" / f"{job}.out").read_text()
    assert [line for line in told.splitlines() if line in PRINTED] == PRINTED, told
    assert "whose nodes are its first pilot" in told
    assert "COMPLETED" in pycompss("job", "status", job)
    later = pycompss("job", "submit", f"--job_dependency={job}", "program.py").split()[-1]
    pycompss("job", "cancel", later)
    assert f"{later}\t" not in pycompss("job", "list")
