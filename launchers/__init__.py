"""How a command starts on given nodes and cores.

`get_launcher` gives, by the name in a site file, the launcher that turns a command and a
`Placement` into a `Launch`; `node_worker` does the same for a pilot's node workers. Which command
runs where is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from launchers.base import HostShare, Launch, Launcher, Placement
from launchers.identity import identity_in, leave_identity
from launchers.local import LocalLauncher
from launchers.mpirun import FLAVOURS, MpirunLauncher, find_mpi
from launchers.nodes import NODE_LAUNCHERS, node_worker
from launchers.srun import SrunLauncher

__all__ = [
    "LAUNCHERS",
    "NODE_LAUNCHERS",
    "HostShare",
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


def get_launcher(name: str, options: Sequence[str] = ()) -> Launcher:
    """The launcher of this name; ``auto``, ``mpirun`` and ``mpiexec`` take the MPI that is here.

    Parameters
    ----------
    name
        One of `LAUNCHERS`.
    options
        The site's own options, put after the launcher's.

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
        return MpirunLauncher(flavour, program, tuple(options))
    if name == "local":
        raise ValueError(f"the launcher 'local' takes no options, but got {' '.join(options)}")
    raise ValueError(f"unknown launcher {name!r}; known are {', '.join(LAUNCHERS)}")
