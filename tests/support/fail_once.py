"""Runs of a program in which one call on the site directory fails, once, in one kind of process.

A preload library (`faults/fail_once.c`) counts the calls of that process and lets the n-th fail.
The program uses what touches the site directory: results and arguments in files, shared values,
checkpoints, commands, errors, detached children; where ranks are meant, an MPI function too.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import setproctitle

import pilot
from support.sites import TESTS, SiteUnderTest, local_template, site_under_test

SOURCE = Path(__file__).with_name("faults") / "fail_once.c"
#: The processes, by what the kernel calls them.
PROCESSES = {
    "agent": "pilot-agent",
    "node worker": "pilot-node",
    "executor": "pilot-executor",
    "client": "fault-client",
    "head": "pilot-head",
    "rank": "pilot-rank",
}
ERRORS = (errno.ESTALE, errno.EIO)
LIMIT_S = 100.0
LARGE = 200_000


class Outcome(NamedTuple):
    """What became of a run."""

    #: What failed; empty where it has fewer calls.
    failed: str
    #: What is wrong; empty: nothing.
    wrong: str


def build(directory: Path) -> Path | None:
    """Compile the library; None where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "fail_once.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def run(library: Path, process: str, call: int, number: int, trace: Path | None = None) -> Outcome:
    """Run the program on a site of its own.

    Parameters
    ----------
    library
        As `build` gives it.
    process
        One of `PROCESSES`.
    call
        Which of its calls fails.
    number
        How, as in `errno`.
    trace
        A file that gets a line for each call.
    """
    mark = library.with_name(f"failed-{process}-{call}-{number}".replace(" ", "-"))
    mark.unlink(missing_ok=True)
    variables = {"LD_PRELOAD": str(library), "FAULT_MARK": str(mark)}
    if trace:
        variables["FAULT_TRACE"] = str(trace)
    variables |= {"FAULT_PROCESS": PROCESSES[process], "FAULT_CALL": str(call)}
    variables["FAULT_ERRNO"] = str(number)
    template = local_template(cores=2)
    with site_under_test(template) as site:
        variables["FAULT_BELOW"] = str(site.directory)
        environment = dict(os.environ)
        if process in ("client", "head"):  # it is the client that starts the head
            environment |= variables
        else:
            _add_variables(site, variables)
        wrong = _run(site, environment, process == "rank")
    failed = mark.read_text().strip() if mark.exists() else ""
    return Outcome(failed, wrong)


def _add_variables(site: SiteUnderTest, variables: dict[str, str]) -> None:
    import yaml

    path = site.directory / "site.yaml"
    config = yaml.safe_load(path.read_text())
    config["environment"]["variables"] |= variables
    path.write_text(yaml.safe_dump(config))


def _run(site: SiteUnderTest, environment: dict[str, str], with_mpi: bool) -> str:
    command = [sys.executable, "-m", "support.fail_once", str(site.directory)]
    command += ["mpi"] if with_mpi else []
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=environment,
            cwd=TESTS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return f"it does not end: {error.stderr!r}"
    if done.returncode:
        return done.stderr
    found = json.loads(done.stdout)
    wrong = list(_differences(found, _expected(with_mpi)))
    pilots = [(each["name"], each["state"], each["reason"]) for each in site.query("fleet")]
    if len(pilots) != 1 or pilots[0][1] != "RUNNING":
        wrong.append(f"pilots: {pilots}")
    return "\n".join(wrong)


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    for name, value in expected.items():
        if found[name] != value:
            yield f"{name}: {found[name]!r} in place of {value!r}"


# --- the program ----------------------------------------------------------------------------------


def square(x: int) -> int:
    return x * x


def make(n: int) -> Any:
    return np.full(LARGE, n)


def total(*arrays: Any) -> int:
    return int(sum(array.sum() for array in arrays))


def resume() -> int:
    checkpoint = pilot.context().checkpoint
    checkpoint.save(3, {"state": 4})
    found = checkpoint.load()
    assert found is not None
    step, state = found
    return int(step + state["state"])


def fail() -> None:
    raise ValueError("as told")


def detach() -> Any:
    return pilot.context().session.submit(square, 5, detached=True)


@pilot.mpi(ranks=2)
def ranks(x: int) -> Any:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return np.full(LARGE, world.allreduce(x * (world.rank + 1)))


def _expected(with_mpi: bool) -> dict[str, Any]:
    expected: dict[str, Any] = {
        "squares": [n * n for n in range(20)],
        "large": LARGE * 6,
        "argument": LARGE,
        "shared": [2 * LARGE] * 3,
        "checkpoint": 7,
        "command": "hello\n",
        "error": "ValueError: as told",
        "child": 25,
        "read here": 7 * LARGE,
        "attempts": [1],
    }
    if with_mpi:
        expected["ranks"] = [3 * LARGE, 6 * LARGE]
    return expected


def main() -> None:
    """Be the client."""
    site, *more = sys.argv[1:]
    setproctitle.setthreadtitle(PROCESSES["client"])
    with pilot.Session(site, sys_path=[TESTS]) as session:
        squares = [session.submit(square, n) for n in range(20)]
        parts = [session.submit(make, n) for n in (1, 2, 3)]
        large = session.submit(total, *parts)
        argument = session.submit(total, np.ones(LARGE, dtype=int))
        shared = session.put(np.full(LARGE, 2))
        sums = [session.submit(total, shared) for _ in range(3)]
        checkpoint = session.submit(resume)
        command = session.submit(pilot.shell("echo hello"))
        error = session.submit(fail).exception()
        child = session.submit(detach)
        worlds = [session.submit(ranks, x) for x in (1, 2)] if more else []
        read = session.submit(make, 7).result()
        found = {
            "squares": pilot.gather(squares),
            "large": large.result(),
            "argument": argument.result(),
            "shared": pilot.gather(sums),
            "checkpoint": checkpoint.result(),
            "command": command.result().stdout,
            "error": f"{type(error).__name__}: {error}",
            "child": child.result(),
            "read here": int(read.sum()),
            "ranks": [int(each.result().sum()) for each in worlds],
            "attempts": sorted({task["attempts"] for task in session.tasks() if task["attempts"]}),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    from support import fail_once

    fail_once.main()
