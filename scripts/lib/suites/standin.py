"""``runcompss`` as the scripts of PyCOMPSs' test programs call it.

It runs the program by Pilot's own ``runcompss``, and writes what those scripts look for into the
directory that ``--specific_log_dir`` names: ``jobs/jobN_NEW.out`` and ``.err`` have what the N-th
task that began has printed, to both, and ``runtime.log`` has a line for the end of each task.
Nothing of that is more than Pilot's database and logs say.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pilot.client.logs import Output
from pilot.client.query_client import QueryClient
from pilot.errors import PilotError
from pilot.site import find_site

#: The variable that names a file, to which the exit status of each program is added.
ENDS = "PILOT_SUITES_ENDS"
#: The end of a task in the words of those scripts.
_CANCELLED = "Task canceled: with end status CANCELED"
_ENDED = {
    "COMPLETED": "with end status FINISHED",
    "CANCELLED": _CANCELLED,
    "ABORTED": _CANCELLED,
}
_FAILED = "with state FAILED, TOTALLY FAILED"


def main(words: Sequence[str]) -> int:
    """Run a program; return its exit status."""
    flag = "--specific_log_dir="
    logs = next((word.removeprefix(flag) for word in words if word.startswith(flag)), "")
    before = max(_sessions(0), default=0)
    # Ctrl-C, and the end of `timeout`, are the program's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = [sys.executable, "-m", "pilot.compat.compss.commands", *words]
    status = subprocess.run(command, check=False, preexec_fn=_listen).returncode
    if logs:
        _write(Path(logs), _sessions(before), status)
    # The last words of COMPSs' own command.
    if status == 0:
        print("-" * 60, flush=True)
    else:
        print("[ERRMGR] - ERROR", file=sys.stderr)
        print("Error running application", file=sys.stderr, flush=True)
    if ends := os.environ.get(ENDS):
        with Path(ends).open("a") as file:
            file.write(f"{status}\n")
    return status


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _sessions(since: int) -> list[int]:
    """Return the numbers of the sessions after one."""
    try:
        with QueryClient(find_site()) as ask:
            found = [int(row["id"]) for row in ask("sessions", limit=1_000)]
    except PilotError:
        return []  # there was no session yet, so there is no database
    return sorted(number for number in found if number > since)


def _write(directory: Path, sessions: Sequence[int], status: int) -> None:
    """Write what the tasks of sessions have done."""
    site = find_site()
    jobs = directory / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    # The words of COMPSs' error manager, for a program that has failed.
    lines = ["[ErrorManager] [ERRMGR] Error detected. Shutting down COMPSs"] if status else []
    number = 0
    with QueryClient(site) as ask:
        for session in sessions:
            for row in ask("tasks", session=session, limit=100_000):
                lines.append(f"{row['name']} {_ENDED.get(row['state'], _FAILED)}")
                if not row["attempts"]:
                    continue
                number += 1
                printed: list[bytes] = []
                Output(site.directory, printed.append).show(ask("logs", task=row["id"]))
                tries = ("NEW", "RESUBMITTED") if row["attempts"] > 1 else ("NEW",)
                for name in (f"job{number}_{each}" for each in tries):
                    for stream in ("out", "err"):
                        (jobs / f"{name}.{stream}").write_bytes(b"".join(printed))
    (directory / "runtime.log").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
