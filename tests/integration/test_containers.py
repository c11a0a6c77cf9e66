"""Tasks in real containers: Charliecloud, Podman, and an image of this machine's own files."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
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
from pilot.launchers.containers import CHARLIECLOUD, ENGINES, PODMAN, in_container

DEADLINE_S = 90.0


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """An image that engines can run."""
    python = find_python(sys.version_info[:2])
    if python is None:
        pytest.skip("the distribution has no Python of this minor version for the image")
    with tempfile.TemporaryDirectory(prefix="pilot-image-") as directory:
        place = Path(directory) / "image"
        make_image(place, python)
        yield place


def options_of(engine: str) -> Iterator[list[str]]:
    """The options that an engine may need on this machine, the usual ones first."""
    yield []
    if engine == PODMAN:
        # Without the right to raise limits, and where cgroups are of both versions.
        files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1000
        limits = [f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={processes}:{processes}"]
        yield from (limits, ["--runtime=runc", *limits])


def forget(label: str) -> None:
    """Have Podman forget the containers of this label that were killed, as it never does."""
    query = ["podman", "ps", "--all", "--quiet", f"--filter=label={label}"]
    left = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    if left:
        subprocess.run(["podman", "rm", "--force", *left], capture_output=True, check=True)


@pytest.fixture(scope="module", params=[CHARLIECLOUD, PODMAN])
def container(request: pytest.FixtureRequest, image: Path) -> Iterator[dict[str, Any]]:
    """The container by an engine that can run it here; else the reason why there is none."""
    engine, said = str(request.param), ""
    if shutil.which(ENGINES[engine]) is None:
        pytest.skip(f"{ENGINES[engine]} is not installed")
    for options in options_of(engine):
        user = os.geteuid(), os.getegid()
        words = in_container(
            engine, str(image), ["true"], directory="/", options=options, user=user
        )
        env = {**os.environ, "USER": "me"}
        tried = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        if not tried.returncode:
            name = f"pilot-test-{uuid.uuid4().hex[:10]}"
            if engine == PODMAN:
                options = [*options, f"--label={name}"]
            yield {"image": str(image), "engine": engine, "options": options}
            if engine == PODMAN:
                forget(name)
            return
        said = tried.stderr.strip()
    pytest.skip(f"{engine} cannot run containers here: {said}")


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest, container: dict[str, Any]) -> Iterator[Session]:
    with shared_site.session(options={"container": container}) as session:
        yield session


def here(value: Any = None) -> tuple[str, Any, str]:
    """What tells where a task runs, what it was given, and its Python."""
    marked = Path(MARK).read_text() if Path(MARK).exists() else ""
    return marked, value, sys.executable


def large(_: object) -> bytes:
    return bytes(1 << 18)


def size(data: bytes) -> tuple[str, int]:
    return here()[0], len(data)


def child(container: dict[str, Any]) -> Any:
    # Options of the session are for what its program submits.
    return pilot.context().session.submit(pilot.task(container=container)(here), "of a child")


def fails() -> None:
    raise LookupError("in the container")


def test_functions_run_in_the_image(
    session: Session, shared_site: SiteUnderTest, container: dict[str, Any]
) -> None:
    marked, value, python = session.submit(here, {"a": 1}).result(DEADLINE_S)
    assert (marked, value) == (MARKED, {"a": 1})
    assert python == "/usr/bin/python3"
    # Large values, children and errors as anywhere.
    assert session.submit(size, session.submit(large, 0)).result(DEADLINE_S) == (MARKED, 1 << 18)
    assert session.submit(child, container).result(DEADLINE_S)[:2] == (MARKED, "of a child")
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
    session: Session, shared_site: SiteUnderTest, container: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("bound")
    cat = pilot.shell("cat /mnt/data", container={**container, "binds": [f"{tmp_path}:/mnt"]})
    assert session.submit(cat).result(DEADLINE_S).stdout == "bound"
    none = pilot.task(container={**container, "image": str(tmp_path / "none")}, max_crashes=0)(here)
    error = session.submit(none).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskCrashed) and "could not be entered" in str(error)
    engine = pilot.task(container={**container, "engine": "singularity"}, max_crashes=0)(here)
    if shutil.which("singularity") is None:
        error = session.submit(engine).exception(DEADLINE_S)
        assert "the container engine singularity is not here" in str(error)
    python = pilot.task(container={**container, "python": "python9"}, max_crashes=0)(here)
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


def libraries_of_mpi() -> list[str]:
    """The directory of the MPI library, where it is not beside Python, and so not bound."""
    show = "import mpi4py.MPI; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    found = re.search(r"(/\S+)/libmpi\S*\.so", maps.stdout)
    assert found, "mpi4py has loaded no library"
    return [] if found[1].startswith(sys.prefix) else [found[1]]


def test_mpi_runs_in_the_image(shared_site: SiteUnderTest, container: dict[str, Any]) -> None:
    pytest.importorskip("mpi4py")
    container = {**container, "binds": libraries_of_mpi()}
    with shared_site.session(options={"container": container}) as session:
        run_ranks(session)


def run_ranks(session: Session) -> None:
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
    if shutil.which(ENGINES[CHARLIECLOUD]) is None:
        pytest.skip("Charliecloud is not installed")
    environment = {**environment_on(shared_site), "IMAGE": str(image)}
    told, _ = run_text(environment, tmp_path, OF_PYCOMPSS.replace("MARK", repr(MARK)))
    assert told.splitlines() == [
        f"0 ['{MARKED}there', '']",
        MARKED * 2,
        f"{MARKED} written and changed",
    ]
