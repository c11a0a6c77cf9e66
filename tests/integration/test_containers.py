"""Tasks in real containers: Charliecloud, and an image of this machine's own files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.compss import environment_on, run_text
from support.images import MARK, MARKED, find_python, make_image
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 90.0


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """An image, and an engine that can run it; else the reason why there is none."""
    engine, python = shutil.which("ch-run"), find_python(sys.version_info[:2])
    if engine is None:
        pytest.skip("Charliecloud (ch-run) is not installed")
    if python is None:
        pytest.skip("the distribution has no Python of this minor version for the image")
    with tempfile.TemporaryDirectory(prefix="pilot-image-") as directory:
        place = Path(directory) / "image"
        make_image(place, python)
        tried = subprocess.run(
            [engine, place, "--", "true"],
            env={**os.environ, "USER": "me"},
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            pytest.skip(f"containers cannot run here: {tried.stderr.strip()}")
        yield place


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest, image: Path) -> Iterator[Session]:
    with shared_site.session(options={"container": {"image": str(image)}}) as session:
        yield session


def here(value: Any = None) -> tuple[str, Any, str]:
    """What tells where a task runs, what it was given, and its Python."""
    marked = Path(MARK).read_text() if Path(MARK).exists() else ""
    return marked, value, sys.executable


def large(_: object) -> bytes:
    return bytes(1 << 18)


def size(data: bytes) -> tuple[str, int]:
    return here()[0], len(data)


def child(image: Path) -> Any:
    # Options of the session are for what its program submits.
    return pilot.context().session.submit(pilot.task(container=image)(here), "of a child")


def fails() -> None:
    raise LookupError("in the container")


def test_functions_run_in_the_image(
    session: Session, shared_site: SiteUnderTest, image: Path
) -> None:
    marked, value, python = session.submit(here, {"a": 1}).result(DEADLINE_S)
    assert (marked, value) == (MARKED, {"a": 1})
    assert python == "/usr/bin/python3"
    # Large values, children and errors as anywhere.
    assert session.submit(size, session.submit(large, 0)).result(DEADLINE_S) == (MARKED, 1 << 18)
    assert session.submit(child, image).result(DEADLINE_S)[:2] == (MARKED, "of a child")
    with pytest.raises(LookupError, match="in the container"):
        session.submit(fails).result(DEADLINE_S)
    with shared_site.session() as other:
        assert other.submit(here).result(DEADLINE_S)[0] == ""


def test_commands_run_in_the_image_and_write_where_they_are(
    session: Session, tmp_path: Path
) -> None:
    command = pilot.shell(
        f"cat {MARK} > {{out}}; echo $MINE; pwd", outputs=["out"], cwd=tmp_path, env={"MINE": "x"}
    )
    result = session.submit(command, out="file").result(DEADLINE_S)
    assert result.stdout == f"x\n{tmp_path}\n"
    assert (tmp_path / "file").read_text() == MARKED
    words = session.submit(pilot.shell(["sh", "-c", "exit 3"]))
    error = words.exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed) and error.returncode == 3


def test_binds_are_seen_and_what_is_wrong_is_told(
    session: Session, shared_site: SiteUnderTest, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("bound")
    cat = pilot.shell("cat /mnt/data", container={"image": image, "binds": [f"{tmp_path}:/mnt"]})
    assert session.submit(cat).result(DEADLINE_S).stdout == "bound"
    none = pilot.task(container={"image": str(tmp_path / "none")}, max_crashes=0)(here)
    error = session.submit(none).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskCrashed) and "could not be entered" in str(error)
    engine = pilot.task(container={"image": image, "engine": "singularity"}, max_crashes=0)(here)
    if shutil.which("singularity") is None:
        error = session.submit(engine).exception(DEADLINE_S)
        assert "the container engine singularity is not here" in str(error)
    python = pilot.task(container={"image": image, "python": "python9"}, max_crashes=0)(here)
    assert "python9" in str(session.submit(python).exception(DEADLINE_S))
    with shared_site.session() as other:  # the node is at no fault
        assert other.submit(here).result(DEADLINE_S)[0] == ""


def sleeps(path: str) -> None:
    import time

    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_cancelled_or_over_its_limit_is_ended(
    session: Session, shared_site: SiteUnderTest
) -> None:
    path = shared_site.scratch / "pid"
    future = session.submit(sleeps, str(path))
    pid = int(wait_until(lambda: path.exists() and path.read_text(), DEADLINE_S, "its process"))
    future.cancel()
    wait_until(lambda: not is_alive(pid), DEADLINE_S, "the end of the process")
    late = session.submit(pilot.shell("sleep 600", time_limit=0.5))
    assert isinstance(late.exception(DEADLINE_S), pilot.TaskTimedOut)
    path.unlink()
    crashed = session.submit(pilot.task(max_crashes=0)(sleeps), str(path))
    pid = int(wait_until(lambda: path.exists() and path.read_text(), DEADLINE_S, "its process"))
    os.kill(pid, signal.SIGKILL)
    assert isinstance(crashed.exception(DEADLINE_S), pilot.TaskCrashed)


def test_mpi_runs_in_the_image(session: Session) -> None:
    pytest.importorskip("mpi4py")

    @pilot.mpi(2)
    def ranks() -> list[tuple[str, int]]:
        from mpi4py import MPI

        return MPI.COMM_WORLD.allgather((here()[0], MPI.COMM_WORLD.rank))

    assert session.submit(ranks).result(DEADLINE_S) == [(MARKED, 0), (MARKED, 1)]
    command = pilot.shell(f"cat {MARK}; echo", ranks=2)
    assert session.submit(command).result(DEADLINE_S).stdout.count(MARKED) == 2


OF_PYCOMPSS = """
from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.binary import binary
from pycompss.api.container import container
from pycompss.api.mpi import mpi
from pycompss.api.parameter import *
from pycompss.api.task import task


@container(engine="CHARLIECLOUD", image="$IMAGE", options="--set-env=HELLO=there")
@binary(binary="sh", args="-c 'cat {{mark}}; echo \\\\$HELLO'")
@task(out=FILE_OUT_STDOUT, returns=1)
def program(mark, out):
    pass


@container(engine="CHARLIECLOUD", image="$IMAGE")
@mpi(runner="mpirun", binary="cat", processes=2)
@task(out=FILE_OUT_STDOUT)
def ranks(mark, out):
    pass


@container(engine="charliecloud", image="$IMAGE")
@task(file=FILE_INOUT, returns=1)
def function(mark, file):
    with open(file, "a") as end:
        end.write(" and changed")
    return open(mark).read()


if __name__ == "__main__":
    print(compss_wait_on(program(MARK, "out")), compss_open("out").read().split("\\n"))
    ranks(MARK, "both")
    print(compss_open("both").read())
    with open("file", "w") as file:
        file.write("written")
    print(compss_wait_on(function(MARK, "file")), compss_open("file").read())
"""


def test_tasks_of_pycompss_run_in_the_image(
    shared_site: SiteUnderTest, image: Path, tmp_path: Path
) -> None:
    environment = {**environment_on(shared_site), "IMAGE": str(image)}
    told, _ = run_text(environment, tmp_path, OF_PYCOMPSS.replace("MARK", repr(MARK)))
    assert told.splitlines() == [
        f"0 ['{MARKED}there', '']",
        MARKED * 2,
        f"{MARKED} written and changed",
    ]
