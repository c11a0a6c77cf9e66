"""A machine: a set of kernel namespaces, held open by its process 1 (``machine_init``).

Responsible for starting machines, finding them again, running commands in them, and killing them.

Invariants:

- Nothing is written down about processes. A machine is found by the command line of its process 1,
  which names the state directory and the machine; so no record can be lost, stale or another's.
- Every process of a machine is in its process namespace, whatever it does to its name, session or
  parent. So killing process 1 leaves none of them.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import machine_init
from .errors import ClusterError, wait_until
from .plan import Layout

_INIT = Path(machine_init.__file__).resolve()
_KILL_DEADLINE_S = 20.0

# Mounts made on this machine later are seen in the nodes; mounts of the nodes are never seen here.
_EVERY_MACHINE = ("--pid", "--fork", "--mount", "--mount-proc", "--propagation=slave")
_NODE = ("--net", "--uts", "--ipc")


@dataclass(frozen=True)
class Machine:
    """A machine that runs."""

    name: str
    #: Process number of its process 1, as seen from outside.
    pid: int

    def inside(self, command: Sequence[str], directory: str = "/") -> list[str]:
        """Return the command line that runs `command` in `directory` of this machine."""
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        enter = ["nsenter", f"--target={self.pid}", *namespaces, "--"]
        return [*enter, "env", f"--chdir={directory}", *command]

    def start_daemon(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], user: str = "root"
    ) -> int:
        """Start `command` (which must stay in the foreground) in this machine.

        Returns
        -------
        int
            Its process number, as seen inside.
        """
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        daemon = shlex.join([*as_user, *command])
        in_background = f"{daemon} </dev/null >>{shlex.quote(str(log))} 2>&1 & echo $!"
        answer = subprocess.run(
            self.inside(["setsid", "sh", "-c", in_background]),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return int(answer.stdout)

    def runs(self, inner_pid: int) -> bool:
        """Tell whether the machine has a process that is seen inside as `inner_pid`."""
        return any(_inner_pid(pid) == inner_pid for pid in self.pids())

    def pids(self) -> list[int]:
        """Return the process numbers, as seen from outside, of all the machine's processes."""
        namespace = _pid_namespace(self.pid)
        return [pid for pid in _all_pids() if namespace and _pid_namespace(pid) == namespace]

    def pid_of(self, program: str) -> int | None:
        """Return the process number, as seen from outside, of the first `program` in the
        machine."""
        return min((pid for pid in self.pids() if _program(pid) == program), default=None)

    def kill(self) -> None:
        """End all the machine's processes at once.

        Raises
        ------
        DeadlineError
            When one of them does not go (it hangs in the kernel).
        """
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        # Process 1 is collected after all the others have gone.
        wait_until(
            lambda: not Path(f"/proc/{self.pid}").exists(),
            _KILL_DEADLINE_S,
            f"the end of the processes of {self.name}",
        )


def start(layout: Layout, name: str, *, is_node: bool) -> Machine:
    """Start the machine `name`; a node gets its own network, host name, /tmp and /dev/shm.

    Raises
    ------
    ClusterError
        When this machine does not allow such namespaces.
    """
    log = layout.logs / f"machine-{name}.log"
    namespaces = [*_EVERY_MACHINE, *(_NODE if is_node else ())]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [
                "unshare",
                *namespaces,
                "--",
                sys.executable,
                "-B",
                str(_INIT),
                str(layout.root),
                name,
            ],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    with process.stdout as output:
        ready = output.readline().strip() == machine_init.READY
    machine = find(layout).get(name)
    if not ready or machine is None:
        process.kill()
        process.wait()
        raise ClusterError(f"could not start machine {name}: {log.read_text().strip()}")
    return machine


def find(layout: Layout) -> dict[str, Machine]:
    """Return the machines of this state directory that run, by name."""
    found = {}
    for pid in _all_pids():
        arguments = _arguments(pid)
        is_init = (
            len(arguments) >= 4
            and "python" in Path(arguments[0]).name
            and Path(arguments[-3]).name == _INIT.name
            and arguments[-2] == str(layout.root)
        )
        if is_init:
            found[arguments[-1]] = Machine(arguments[-1], pid)
    return found


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _pid_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _inner_pid(pid: int) -> int | None:
    """Return the number that `pid` has in the innermost of its process namespaces."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), None)
