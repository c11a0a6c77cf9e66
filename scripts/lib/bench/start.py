"""START: the processor time of a process until it is ready, before it does anything of use.

Beside it the bare interpreter, ``python -c pass``. All take turns, so that whatever else the
machine does meets all of them. It is the processor time of the process and of what it has waited
for, and not the time on the clock, which differs more from run to run.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pilot
from bench import measure
from bench.stage import Stage

ROUNDS = 40
_BARE = "python -c pass"


def run(stage: Stage) -> None:
    """Measure."""
    with stage.site() as site, pilot.Session(site, name="bench"):
        program, place = _program(), str(site.directory)
        opened = f"from pilot import Session; Session({place!r}).detach()"
        commands = {
            _BARE: [sys.executable, "-c", "pass"],
            "import pilot": [sys.executable, "-c", "import pilot"],
            "from pilot import Session": [sys.executable, "-c", "from pilot import Session"],
            "Session(), with a head": [sys.executable, "-c", opened],
            "pilot --help": [*program, "--help"],
            "pilot status, with a head": [*program, "status", "--site", place],
        }
        samples: dict[str, list[float]] = {case: [] for case in commands}
        for command in commands.values():
            _processor_s(command)  # what is read, compiled or kept only once
        for _ in range(stage.count(ROUNDS, 4)):
            for case, command in commands.items():
                samples[case].append(_processor_s(command))
    found = {case: 1000 * measure.median(times) for case, times in samples.items()}
    bare = found.pop(_BARE)
    for case, ours in found.items():
        stage.findings.add("START", case, "ms", ours, {_BARE: bare}, more_is_better=False)
    stage.findings.data["START"] = samples


def _program() -> list[str]:
    """Return the command that starts `pilot`: the installed script, if there is one."""
    script = Path(sys.executable).with_name("pilot")
    return [str(script)] if shutil.which(script) else [sys.executable, "-m", "pilot"]


def _processor_s(command: list[str]) -> float:
    """Run a command to its end; return the processor seconds that it has used.

    Raises
    ------
    RuntimeError
        It failed.
    """
    silent = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime
