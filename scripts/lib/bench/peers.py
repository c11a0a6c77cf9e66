"""The other systems of the field that are installed, and where.

None of them is needed. Each has an interpreter of its own, ``$PILOT_BENCH_PEERS/NAME/bin/python``,
so that what they depend on does not get in each other's way; one that is not there is looked for in
the interpreter that runs this. `install_all` makes these environments with pip. `peer_process` runs
them; each module ``peer_NAME`` says how a peer is used, with the settings that its documentation
calls fast.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

#: Name → the distribution on PyPI. The module here is ``peer_<name>``.
PEERS = {
    "hyperqueue": "hyperqueue",
    "parsl": "parsl",
    "dask": "distributed",
    "executorlib": "executorlib",
    "radical": "radical.pilot",
    "qcg": "qcg-pilotjob",
}
#: What the loads need beside a peer.
BESIDE = {"dask": ("numpy",)}
VARIABLE = "PILOT_BENCH_PEERS"
#: How long an import, and an installation, may take, in seconds.
CHECK_S, INSTALL_S = 60.0, 900.0


def interpreter(name: str) -> Path:
    """Return the Python that a peer runs with."""
    directory = os.environ.get(VARIABLE)
    if directory:
        own = Path(directory).expanduser().absolute() / name / "bin" / "python"
        if own.exists():
            return own
    return Path(sys.executable)


def environment(name: str, home: Path) -> dict[str, str]:
    """Return the environment of a peer's processes: the benchmark's modules, the peer's programs,
    and a directory for its files, whose name also tells whose the processes are."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PATH": f"{interpreter(name).parent}:{os.environ['PATH']}",
        **dict.fromkeys(("HOME", "PWD", "TMPDIR"), str(home)),
    }


def command(name: str, *arguments: str) -> list[str]:
    """Return the command of a peer's process; without arguments it only looks whether the peer is
    installed."""
    return [str(interpreter(name)), "-m", "bench.peer_runner", name, PEERS[name], *arguments]


def why_not(name: str) -> str:
    """Return the reason why a peer cannot be measured; empty if it can."""
    # Some write into their home as soon as they are imported.
    with tempfile.TemporaryDirectory(prefix="pilot-bench-peer-") as home:
        try:
            done = subprocess.run(
                command(name),
                cwd=home,
                env=environment(name, Path(home)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=CHECK_S,
            )
        except subprocess.TimeoutExpired:
            return f"its import was not over after {CHECK_S:.0f} s"
    if not done.returncode:
        return ""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"not installed ({last}); scripts/bench --install-peers DIRECTORY"


def install_all(directory: Path) -> int:
    """Make an environment for each peer, and print the results; return the exit status."""
    failed = False
    for name, distribution in PEERS.items():
        home = directory.absolute() / name
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        steps = (
            [sys.executable, "-m", "venv", str(home)],
            [*pip, distribution, *BESIDE.get(name, ())],
        )
        why = next(filter(None, map(_failure, steps)), "")
        print(f"{name}: {why or 'installed'}", flush=True)
        failed = failed or bool(why)
    print(f"they are used by {VARIABLE}={directory.absolute()} scripts/bench --peers")
    return int(failed)


def _failure(step: list[str]) -> str:
    try:
        done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        return f"{step[2]} was not over after {INSTALL_S:.0f} s"
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or [f"{step[2]} ended with {done.returncode}"])[-1]
