"""The choice of the launcher that forms MPI worlds at a site: tried out once, and remembered.

A batch system that starts ranks itself can tell them of each other in several ways (Slurm's are
listed by ``srun --mpi=list``); an MPI library knows one or two of these. Where they do not meet,
each rank is a world of its own. So where a site file leaves it open, a world of two is started in
each way.

Invariants
----------
- The result is written down with everything it depends on: other variables or another Python are
  tried out anew, and so is what has not formed a world since.
- A trial that does not end is ended, with all that it started.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from pilot.launchers import HostRanks, Placement, get_launcher
from pilot.model.bounds import UNREADABLE
from pilot.regular_files import read_regular
from pilot.scheduler.batch import BatchKind

#: How long a trial may take, in seconds.
TRIAL_S = 20.0
#: The words of two ranks that have found each other.
_MET = "this is an MPI world of 2"
#: In one write each: lines of several ranks must not mix.
_PROGRAM = (
    "import os, sys; sys.path[:] = [path for path in sys.path if path]; from mpi4py import MPI; "
    "os.write(1, b'this is an MPI world of %d\\n' % MPI.COMM_WORLD.size)"
)


class Choice(msgspec.Struct, frozen=True):
    """A way to start ranks."""

    launcher: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.launcher, *self.options))


class Found(msgspec.Struct, frozen=True):
    """The result of the trials."""

    #: The first that has formed a world; None: none has.
    choice: Choice | None
    #: The failures of the other ways, in words.
    failures: tuple[str, ...] = ()


class _Remembered(msgspec.Struct):
    key: str
    choice: Choice


#: Runs a command for so long at most, with more variables; gives its exit status and output.
Run = Callable[[Sequence[str], Mapping[str, str], float], "tuple[int, str]"]


def try_out(kind: BatchKind, host: str, variables: Mapping[str, str], run: Run) -> Found:
    """Start a world of two on a host in each way, until one forms.

    Parameters
    ----------
    kind
        The batch system, which says in which ways.
    host
        The host of this process, where the ranks run.
    variables
        The variables that the site file gives to ranks.
    run
        Runs a command.
    """
    failures: list[str] = []
    _, listed = run(kind.mpi_listing, {}, TRIAL_S) if kind.mpi_listing else (0, "")
    for way in kind.mpi_ways(listed):
        choice = Choice(*way)
        # Two ranks on one core: a node has that.
        failure = why_no_world(choice, kind, (HostRanks(host, 2, (0,)),), variables, run)
        if not failure:
            return Found(choice, tuple(failures))
        failures.append(f"{choice}: {failure}")
    return Found(None, tuple(failures))


def why_no_world(
    choice: Choice,
    kind: BatchKind,
    hosts: tuple[HostRanks, ...],
    variables: Mapping[str, str],
    run: Run,
) -> str:
    """Start a world of two in one way; return the reason why it does not form, or an empty text.

    Parameters
    ----------
    choice
        The way.
    kind, variables, run
        As for `try_out`.
    hosts
        The two ranks.
    """
    try:
        launcher = get_launcher(choice.launcher, choice.options, kind.node_launcher)
    except FileNotFoundError as error:
        return str(error)
    command = (sys.executable, "-c", _PROGRAM)
    launch = launcher.launch(command, Placement(hosts), env=variables)
    status, output = run(launch.argv, launch.env, TRIAL_S)
    is_formed = status == 0 and output.count(_MET) == 2
    return "" if is_formed else _in_words(status, output)


def _in_words(status: int, output: str) -> str:
    if output.count("this is an MPI world of 1") > 1:
        return "each rank was a world of its own"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = f" ({lines[-1][:200]})" if lines else ""
    return f"exit status {status}{last}" if status else f"no world of 2{last}"


def run_for(argv: Sequence[str], variables: Mapping[str, str], limit_s: float) -> tuple[int, str]:
    """Run a command; after `limit_s` seconds, end it with everything that it started."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **variables},
            start_new_session=True,
        )
    except OSError as error:
        return 127, str(error)
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=2.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        return 124, f"{output}\nno answer within {limit_s:g} s"
    return process.returncode, output


class MpiChoice:
    """The launcher of a site; if it is unknown, a thread finds it.

    Parameters
    ----------
    path
        The file that keeps the choice.
    kind
        The batch system, which says what there is to try.
    host
        The host of this process, where the ways are tried out.
    variables
        The variables that the site file gives to ranks.
    """

    def __init__(
        self, path: Path, kind: BatchKind, host: str, variables: Mapping[str, str]
    ) -> None:
        self._path = path
        self._kind = kind
        self._host = host
        self._variables = variables
        fields = [sys.executable, *(f"{name}={text}" for name, text in sorted(variables.items()))]
        self._key = hashlib.sha256("\0".join(fields).encode()).hexdigest()
        self._thread: threading.Thread | None = None
        #: The choice that was found; None while it is not known.
        self.found: Found | None = self._remembered()

    def start(self) -> None:
        """Start the trials, unless the launcher is known or trials are running."""
        if self.found is None and self._thread is None:
            self._thread = threading.Thread(target=self._try_out, name="try MPI", daemon=True)
            self._thread.start()

    def forget(self) -> None:
        """Forget the launcher that was found, since it has not formed a world."""
        self.found, self._thread = None, None
        self._path.unlink(missing_ok=True)

    def _try_out(self) -> None:
        found = try_out(self._kind, self._host, self._variables, run_for)
        if found.choice is not None:
            self._remember(found.choice)
        self.found = found

    def _remembered(self) -> Found | None:
        try:
            known = msgspec.json.decode(read_regular(self._path), type=_Remembered)
        except OSError:
            return None
        except UNREADABLE:
            return None
        return Found(known.choice) if known.key == self._key else None

    def _remember(self, choice: Choice) -> None:
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(msgspec.json.encode(_Remembered(self._key, choice)))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)  # the next pilot finds it again
