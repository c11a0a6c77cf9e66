"""Set-up of a process at its start: name, limits, output, end with its parent.

Linux only: a process asks the kernel to be ended when its parent is, so that nothing is left
behind whoever is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import setproctitle

from pilot.data.directories import make_private
from pilot.data.patience import patient, when_there
from pilot.gpus import find_vendor, gpu_fault, gpu_variables
from pilot.inherited import GIVEN, Frames, changes, frames
from pilot.scheduler.amounts import GPUS

#: A process that was told to stop does so within so many seconds, or is left alone.
STOP_S = 0.05
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: So long it is waited for what was killed: it may be in the kernel, in seconds.
_KILLED_S = 2.0
#: As it is before tasks' calls of it are noticed (`pilot.worker.settings`).
_set_affinity = os.sched_setaffinity
_libc = ctypes.CDLL(None, use_errno=True)


def name_process(title: str) -> None:
    """Set the name that ``ps`` shows for this process.

    The kernel's short name of it must have no blanks: Slurm reads ``/proc/PID/stat`` with a format
    that stops at one, and then cannot end the process (seen with ``proctrack/linuxproc``).
    """
    setproctitle.setproctitle(title)
    setproctitle.setthreadtitle("-".join(title.split()[:2]))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def be_no_terminals() -> None:
    """Ignore SIGINT in this process, but not in the programs that it starts."""
    # An ignored signal stays ignored in another program; one with a handler does not.
    signal.signal(signal.SIGINT, _hear_nothing)
    signal.siginterrupt(signal.SIGINT, False)
    os.register_at_fork(after_in_child=_hear_again)


def _hear_nothing(*_: object) -> None:
    """Do nothing."""


def _hear_again() -> None:
    if signal.getsignal(signal.SIGINT) is _hear_nothing:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def adopt_orphans() -> None:
    """Make this process the parent of orphans among its descendants."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int = 0) -> list[int]:
    """Return the children of this process, or of `pid`; adopted ones are included."""
    pid = pid or os.getpid()
    found: list[int] = []
    try:
        # A few reads, where the kernel is built for it; they leave none out while none ends.
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
        return found
    except OSError:
        if not Path(f"/proc/{pid}").exists():
            return found
        from pilot.scheduler.batch.local.keeper import all_processes, process_state

        states = ((other, process_state(other)) for other in all_processes())
        return [other for other, state in states if state and state.parent == pid]


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process, parents before their children."""
    found = children(pid)
    for child in found:  # it grows meanwhile
        found += children(child)
    return found


def kill_with_descendants(pid: int) -> None:
    """Kill a process, and then all that it has started, in whatever session.

    The process goes first: it must not take the end of a child for that of its work, and go on.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # its descendants are found while it is there, and has no more
        found = descendants(pid)
        for one in (pid, *found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def has_stopped(pid: int) -> bool:
    """Wait until a process that was told to stop has done so; return False if that takes long."""
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat").read_text()
        if stat[stat.rindex(")") + 2] in "tT":
            return True
        os.sched_yield()
    return False


def end_children() -> None:
    """Kill and collect all children of this process, and the orphans that it adopts by that."""
    deadline = time.monotonic() + _KILLED_S
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for pid in children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)


def start_log() -> None:
    """Write this process's log to its standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )


def raise_file_limit() -> None:
    """Raise the limit of open files to the system's maximum: each executor is a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


@patient
def redirect_output(path: Path, site: Path) -> None:
    """Append stdout and stderr to a file of a site from now on, and empty stdin."""
    make_private(path.parent, site)
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(nothing)
    # With O_APPEND the position is only known after a first write; start at the end.
    os.lseek(1, 0, os.SEEK_END)


class Pinning:
    """The cores that this process runs on, if core numbers mean real cores.

    A node may be told to have more cores than there are (tests do); then nothing is pinned.

    Parameters
    ----------
    cores
        The cores to be pinned to, by their numbers among those that the process finds.
    cores_of_node
        How many cores tasks may use of the node.
    """

    def __init__(self, cores: tuple[int, ...], cores_of_node: int) -> None:
        self._real = sorted(os.sched_getaffinity(0))
        self._is_pinned = bool(cores) and cores_of_node <= len(self._real)
        self._cores = cores
        if self._is_pinned:
            _set_affinity(0, {self._real[core] for core in cores})

    def move(self, cores: tuple[int, ...]) -> set[int]:
        """Move all threads of the process to other cores; return the real ones, or an empty set if
        nothing has changed."""
        if not self._is_pinned or not cores or cores == self._cores:
            return set()
        self._cores = cores
        real = {self._real[core] for core in cores}
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                _set_affinity(int(thread.name), real)
        return real


def resource_variables(
    indices: Mapping[str, Sequence[str]], gpus_of_node: int, is_here: bool = True
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables that tell a process, and GPU libraries, which indexed resources it has,
    and those that it must not have.

    Parameters
    ----------
    indices
        The resources by name.
    gpus_of_node
        How many GPUs the tasks of the node have together; 0: GPUs are not counted, nor hidden.
    is_here
        The process is on this node; else the names that a job has here for its GPUs mean nothing.
    """
    variables = {f"PILOT_RESOURCE_{name.upper()}": ",".join(its) for name, its in indices.items()}
    if not gpus_of_node:
        return variables, ()
    vendor = find_vendor(os.environ, os.path.exists)
    shown, hidden = gpu_variables(indices.get(GPUS, ()), os.environ, vendor, is_here)
    return {**variables, **shown}, hidden


def show_resources(indices: Mapping[str, Sequence[str]], gpus_of_node: int) -> None:
    """Tell this process which indexed resources it has; see `resource_variables`."""
    variables, hidden = resource_variables(indices, gpus_of_node)
    for name in hidden:
        os.environ.pop(name, None)
    os.environ.update(variables)


def missing_gpus(count: int) -> str:
    """Return why this node cannot give tasks as many GPUs; empty: it can."""
    return gpu_fault(count, os.environ, find_vendor(os.environ, os.path.exists)) if count else ""


@functools.cache
def frames_here() -> Frames:
    """Return what came from the head in the environment that this process, or the one that it was
    forked from, had when this was called first."""
    return frames(os.environ)


def enter_environment(
    working_dir: str,
    sys_path: tuple[str, ...],
    variables: dict[str, str],
    named: int = 0,
    inherited: Mapping[str, str] = MappingProxyType({}),
) -> Exception | None:
    """Take on the directory, module search path and variables of the session's program.

    Parameters
    ----------
    working_dir, sys_path, variables, named, inherited
        See `pilot.model.tasks.Environment`.

    Returns
    -------
    Exception or None
        Why it is not possible.
    """
    around = frames_here()
    os.environ.pop(GIVEN, None)
    try:
        for name, value in changes(os.environ, around, inherited).items() if inherited else ():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        os.environ.update(variables)
    except ValueError as error:
        return ValueError(f"the session's variables cannot be set: {error}")
    # In front, as they were there. What this process has by itself stays where it is (a checkout
    # behind the library, say), unless the user has named it.
    first, own = sys_path[:named], sys.path
    others = [path for path in sys_path[named:] if path not in own]
    sys.path[:] = [*first, *others, *(path for path in own if path not in first)]
    try:
        when_there(Path(working_dir), lambda: os.chdir(working_dir))
    except OSError as error:
        return FileNotFoundError(
            f"the working directory of the session, {working_dir}, cannot be entered on "
            f"{os.uname().nodename} ({error.strerror}); start from a directory on the shared file "
            "system"
        )
    return None
