"""Launchers, which start a command on given nodes and cores.

`get_launcher` gives, by the name in a site file, the launcher that turns a command and a
`Placement` into a `Launch`; `node_worker` does the same for a pilot's node workers. Which command
runs where is decided elsewhere, and which launchers suit a batch system is said by that
(`scheduler.batch.BatchKind`). All that have a name here are in this module; others are written as
``module:name``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pilot.launchers.base import HostRanks, Launch, Launcher, Placement
from pilot.launchers.identity import RANK_NUMBERS, identity_in, leave_identity
from pilot.launchers.local import LocalLauncher, start_here
from pilot.launchers.mpirun import FLAVOURS, ON_ONE_NODE, MpirunLauncher, find_mpi
from pilot.launchers.srun import HYDRA_OPTIONS, SHARING_STEPS, SrunLauncher, step_on_node

__all__ = [
    "LAUNCHERS",
    "NODE_LAUNCHERS",
    "ON_ONE_NODE",
    "RANK_NUMBERS",
    "HostRanks",
    "Launch",
    "Launcher",
    "Placement",
    "get_launcher",
    "identity_in",
    "leave_identity",
    "node_worker",
]

#: Names that mean "the MPI that is here", and the flavour that each asks for (empty: any).
_MPIRUN = {"auto": "", "mpirun": "", "mpiexec": "", **{f.name: f.name for f in FLAVOURS}}

#: Every name that `get_launcher` knows.
LAUNCHERS = ("local", "srun", *_MPIRUN)


#: The ways to start a node worker on a host: from command, host, and options.
_NODE_LAUNCHERS: dict[str, Callable[[Sequence[str], str, Sequence[str]], Launch]] = {
    "local": start_here,
    "srun": step_on_node,
}

#: Every name that `node_worker` knows.
NODE_LAUNCHERS = tuple(_NODE_LAUNCHERS)

#: Around an mpirun of several hosts: by what starts node workers there, which the daemons that it
#: starts there must get on with.
_AROUND_MPIRUN = {"srun": SHARING_STEPS}
#: The options by which an mpirun has them started so. Not every build finds that out by itself:
#: Debian's MPICH takes ssh, and so does Intel MPI where it is given hosts.
_THROUGH = {(name, "srun"): HYDRA_OPTIONS for name in ("mpich", "intel")}


def get_launcher(name: str, options: Sequence[str] = (), node_launcher: str = "local") -> Launcher:
    """Find a launcher by its name; ``auto``, ``mpirun`` and ``mpiexec`` use the installed MPI.

    Parameters
    ----------
    name
        One of `LAUNCHERS`, or ``module:Class``, which is called with the options.
    options
        The site's own options, put after the launcher's.
    node_launcher
        The launcher that the site uses for node workers.

    Raises
    ------
    ValueError
        No launcher has this name, or it takes no options.
    FileNotFoundError
        The MPI is not installed on this host.
    """
    if name == "local" and not options:
        return LocalLauncher()
    if name == "srun":
        return SrunLauncher(tuple(options))
    if name in _MPIRUN:
        flavour, program = find_mpi(_MPIRUN[name])
        around = _AROUND_MPIRUN.get(node_launcher, ())
        through = _THROUGH.get((flavour.name, node_launcher), ())
        return MpirunLauncher(flavour, program, tuple(options), around, through=through)
    if name == "local":
        raise ValueError(f"the launcher 'local' takes no options, but got {' '.join(options)}")
    made: Launcher = _imported(name, "launcher", LAUNCHERS)(tuple(options))
    return made


def node_worker(
    name: str, host: str, command: Sequence[str], options: Sequence[str] = ()
) -> Launch:
    """Return the launch of `command`, a node worker, once on `host`.

    Each node worker is a process of its own to whoever starts it, and may use all that the job has
    on the host.

    Parameters
    ----------
    name
        One of `NODE_LAUNCHERS`, or ``module:function``, which is called with the three that follow:
        ``local`` starts it directly, so on the host of the caller; ``srun`` as a step.
    host
        Name of the host, as the batch system writes it.
    command
        Program and arguments of the node worker.
    options
        The site's options for the step.

    Raises
    ------
    ValueError
        There is no launcher of this name.
    """
    start = _NODE_LAUNCHERS.get(name) or _imported(name, "node launcher", NODE_LAUNCHERS)
    launch: Launch = start(command, host, options)
    return launch


def _imported(name: str, what: str, known: Sequence[str]) -> Callable[..., Any]:
    """Import the object behind a name with a colon.

    Raises
    ------
    ValueError
        The name has no colon, or its object cannot be imported.
    """
    from pkgutil import resolve_name  # few processes need it

    if ":" not in name:
        raise ValueError(f"unknown {what} {name!r}; known are {', '.join(known)}")
    try:
        found: Callable[..., Any] = resolve_name(name)
    except Exception as error:
        raise ValueError(f"the {what} {name!r} cannot be imported: {error}") from error
    return found
