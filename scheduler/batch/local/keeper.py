"""The keeper of one local job: starts its script, holds its limits, writes how it ended.

Run as a program, with nothing but the standard library, by `pilot.scheduler.batch.local.processes`:
it leaves the process that started it, so that a job goes on when the head dies, and does for its
job what Slurm does on a node: warns it before its walltime ends, ends it then or on SIGTERM, and
leaves none of its processes behind, whatever session they moved to. Jobs that the job has submitted
are none of its processes.

Invariants:

- The process that starts the keeper sees it exit with status 0 only after the job's state is
  written.
- ``status.json`` is replaced as a whole, never seen half written.
- A keeper that is killed takes the job's script with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_WATCHED = {signal.SIGCHLD, signal.SIGTERM}


def boot_id() -> str:
    """Return the id of this boot of the machine; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class ProcessState(NamedTuple):
    """The state of a process in the kernel."""

    #: One letter: ``R`` runs, ``S`` sleeps, ``T`` is stopped, ``Z`` has ended…
    letter: str
    #: The process's parent.
    parent: int
    #: The process's session.
    session: int
    #: The start of the process, in clock ticks since the machine's boot.
    start_ticks: int


def process_state(pid: int) -> ProcessState | None:
    """Return the state of a process in the kernel; None if the process does not exist."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may hold any character.
    fields = text.rpartition(")")[2].split()
    return ProcessState(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def all_processes() -> list[int]:
    """Return the ids of all processes that this one can see."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def descendants_of(pid: int) -> list[int]:
    """Return all descendants of a process, parents before their children."""
    parents: dict[int, list[int]] = {}
    for other in all_processes():
        if state := process_state(other):
            parents.setdefault(state.parent, []).append(other)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def main(record: Path) -> int:
    """Leave the starting process and keep the job of a record; return 0 once it has started."""
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        os.close(ready_read)
        os.setsid()
        try:
            _keep(record, ready_write)
        finally:
            os._exit(0)
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as ready:
        told = ready.read()
    sys.stderr.write(told.decode(errors="replace").removeprefix("ok"))
    return 0 if told == b"ok" else 1


def _keep(record: Path, ready: int) -> None:
    """Run the job to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        request = json.loads((record / "job.json").read_text("utf-8"))
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        started_at, started = time.time(), time.monotonic()
        job = _start(request)
        status = {
            "keeper": _identity(os.getpid()),
            "job": _identity(job.pid),
            "boot_id": boot_id(),
            "machine": machine(),
            "host": os.uname().nodename,
            "started_at": started_at,
            "ends_at": started_at + request["walltime_s"],
        }
        _write(record, status)
    except BaseException as error:
        os.write(ready, str(error).encode())
        raise
    os.write(ready, b"ok")
    os.close(ready)
    _let_go_of_streams()
    cut_off = _wait(job, request, started)
    _kill_the_rest(record.parent)
    exit_status = job.returncode if job.returncode >= 0 else 128 - job.returncode
    status |= {
        "ended_at": time.time(),
        "exit_status": exit_status,
        "why": cut_off or ("completed" if exit_status == 0 else "failed"),
    }
    _write(record, status)


def _start(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    keeper = os.getpid()

    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above
            os._exit(1)

    with open(request["output"], "ab") as output:
        return subprocess.Popen(
            ["/bin/bash", request["script"]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=request["directory"],
            start_new_session=True,
            preexec_fn=before_exec,
        )


def _wait(job: subprocess.Popen[bytes], request: dict[str, Any], started: float) -> str:
    """Wait for the end of the script; return why it was cut off, or "" if it ended by itself."""
    end = started + request["walltime_s"]
    warn: float | None = None
    if request["warning_s"]:
        warn = max(started, end - request["warning_s"])
    kill: float | None = None
    cut_off = ""
    while job.poll() is None:
        now = time.monotonic()
        if warn is not None and now >= warn:
            _signal_process(job.pid, signal.SIGUSR1)
            warn = None
        if not cut_off and now >= end:
            cut_off = "timeout"
        if cut_off and kill is None:
            _signal_group(job.pid, signal.SIGTERM)
            kill = now + request["kill_grace_s"]
        if kill is not None and now >= kill:
            _signal_group(job.pid, signal.SIGKILL)
            kill = now + 1.0  # until it is gone: it may be in the kernel
        deadline = min(moment for moment in (warn, kill if cut_off else end) if moment is not None)
        got = signal.sigtimedwait(_WATCHED, max(0.0, deadline - now))
        if got is not None and got.si_signo == signal.SIGTERM:
            cut_off = cut_off or "cancelled"
        _reap_adopted(job.pid)
    return cut_off


def _kill_the_rest(records: Path) -> None:
    """End and collect every process that the job left behind, except for jobs of their own."""
    while below := _own_processes(records):
        for pid in below:
            _signal_process(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)  # children of what was just killed come to this process


def _own_processes(records: Path) -> set[int]:
    """Return the descendants of this process but for those in jobs submitted from inside of its."""
    below = set(descendants_of(os.getpid()))
    if not below:
        return below
    for path in records.glob("*/status.json"):
        try:
            keeper = json.loads(path.read_text("utf-8"))["keeper"]
            pid, ticks = keeper["pid"], keeper["start_ticks"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        state = process_state(pid) if pid in below else None
        if state is not None and state.start_ticks == ticks:
            below.difference_update((pid, *descendants_of(pid)))
    return below


def _reap_adopted(job_pid: int) -> None:
    """Collect orphans of the job that have ended, but never the job's script itself."""
    for pid in all_children():
        if pid != job_pid:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def all_children() -> list[int]:
    """Return the direct children of this process."""
    try:
        return [int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _signal_process(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _identity(pid: int) -> dict[str, int]:
    state = process_state(pid)
    return {"pid": pid, "start_ticks": state.start_ticks if state else 0}


def machine() -> str:
    """Return the machine's id, which survives reboots; its host name if it has none."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


def _write(record: Path, status: dict[str, Any]) -> None:
    temporary = record / "status.json.new"
    with open(temporary, "w") as file:
        json.dump(status, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(record / "status.json")


def _let_go_of_streams() -> None:
    """Detach from terminals and pipes that somebody may read to the end."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
