"""Process 1 of a machine: ``python3 machine_init.py STATE_DIRECTORY NAME``.

Started by ``machines.start`` as the first process of new kernel namespaces. It makes the machine's
private mounts, says so by a line on its standard output, and then holds the namespaces open: as
long as it lives, the machine lives; when it is killed, the kernel kills every other process of the
machine at once, and the mounts go with them.

Invariant: it mounts inside its own mount namespace only, so nothing has to be unmounted ever.
"""

import signal
import socket
import subprocess
import sys
from pathlib import Path

READY = "ready"


def main() -> None:
    """Become the machine named on the command line; never return."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from virtual_cluster import cgroups
    from virtual_cluster.plan import SERVICES, Layout

    layout, name = Layout(Path(sys.argv[1])), sys.argv[2]
    # Where Slurm looks without SLURM_CONF: the distribution's, and perhaps one that was built.
    for place in (Path("/etc/slurm"), layout.slurm / "etc"):
        if place.is_dir():
            _mount("--bind", layout.etc, place)
    _mount("--bind", layout.hosts, "/etc/hosts")
    if name != SERVICES:
        socket.sethostname(name)
        _mount("--bind", layout.node_disk(name) / "tmp", "/tmp")
        _hide_distributions_slurm(layout.slurm / "bin")
        _mount("-t", "tmpfs", "tmpfs", "/dev/shm")
        if layout.freezer.exists():
            cgroups.enter(layout, name)

    # Process 1 inherits every orphan. Ignoring SIGCHLD makes the kernel collect them when they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print(READY, flush=True)
    while True:
        signal.pause()


def _hide_distributions_slurm(commands: Path) -> None:
    """Put the commands of a Slurm that was built in the places of the distribution's.

    A program in ``/usr/bin`` may look for others beside itself: an ``mpirun`` does for ``srun``.
    """
    for command in commands.iterdir() if commands.is_dir() else ():
        if (usual := Path("/usr/bin", command.name)).exists():
            _mount("--bind", command.resolve(), usual)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
