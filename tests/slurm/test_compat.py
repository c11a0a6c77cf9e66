"""A program for PyCOMPSs over the nodes of a Slurm: objects and files go from one to another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_objects_and_files_go_between_nodes(shared_site: Site, shared_directory: Path) -> None:
    (shared_directory / "program.py").write_text(PROGRAM)
    told = subprocess.run(
        [sys.executable, "-m", "pilot.compat.compss.commands", "program.py"],
        cwd=shared_directory,
        env={**os.environ, "PILOT_SITE": str(shared_site.directory)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == ["[16, 'one two']", "nodes True"]
