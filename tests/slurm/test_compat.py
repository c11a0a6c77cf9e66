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

#: Programs and functions on several nodes.
DECORATED = r"""
import os
import socket

from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.constraint import constraint
from pycompss.api.mpi import mpi
from pycompss.api.mpmd_mpi import mpmd_mpi
from pycompss.api.multinode import multinode
from pycompss.api.parameter import COLLECTION_IN, FILE_INOUT, FILE_OUT_STDOUT, block_count
from pycompss.api.task import task


@constraint(computing_units=2)
@multinode(computing_nodes="2")
@task(returns=1)
def nodes():
    known = [os.environ["COMPSS_NUM_NODES"], os.environ["COMPSS_NUM_THREADS"]]
    return known, sorted(os.environ["COMPSS_HOSTNAMES"].split(",")), socket.gethostname()


@mpi(runner="mpirun", binary="hostname", processes=4, processes_per_node=2)
@task(names=FILE_OUT_STDOUT, returns=1)
def program(names):
    pass


@mpmd_mpi(runner="mpirun", processes_per_node=1,
          programs=[dict(binary="hostname"), dict(binary="echo", args="{{word}}")])
@task(told=FILE_OUT_STDOUT)
def programs(word, told):
    pass


@mpi(runner="mpirun", processes=2, processes_per_node=1, parts_layout={block_count: 2})
@task(parts=COLLECTION_IN, file=FILE_INOUT, returns=2)
def function(parts, file):
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 1:
        with open(file, "a") as end:
            end.write(" by the other node")
    return MPI.COMM_WORLD.allreduce(parts), socket.gethostname()


if __name__ == "__main__":
    known, names, here = compss_wait_on(nodes())
    print(known, len(names), here in names)
    status = compss_wait_on(program("names"))
    names = compss_open("names").read().split()
    print(status, sorted(map(names.count, set(names))))
    programs("a  b", "told")
    print(sorted(line.split("\n")[0] for line in compss_open("told") if " " in line))
    with open("file", "w") as file:
        file.write("written")
    (total, first), (_, second) = compss_wait_on(function([3, 4], "file"))
    print(total, first != second, compss_open("file").read())
"""
DECORATED_PRINTED = """['2', '2'] 2 True
0 [2, 2]
['a  b']
7 True written by the other node
"""


def test_objects_and_files_go_between_nodes(shared_site: Site, shared_directory: Path) -> None:
    (shared_directory / "program.py").write_text(PROGRAM)
    told = start(shared_site, shared_directory, "pilot.compat.compss.commands", "program.py")
    assert told.splitlines() == PRINTED


def test_programs_and_functions_run_on_several_nodes(
    shared_site: Site, shared_directory: Path
) -> None:
    (shared_directory / "decorated.py").write_text(DECORATED)
    told = start(shared_site, shared_directory, "pilot.compat.compss.commands", "decorated.py")
    assert told == DECORATED_PRINTED


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
