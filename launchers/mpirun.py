"""The launchers that an MPI library brings along: ``mpirun`` of Open MPI, MPICH, Intel MPI.

What tells them apart is data, a `Flavour` each; there is one builder for all. Which flavour an
``mpiexec`` is, it says itself under ``--version``: `parse_version` reads that text, and `find_mpi`
is the only part here that looks at files and starts processes.

Besides the hosts, two things must be right or ranks come up as several worlds of one:

- The ranks must load the MPI library that belongs to the launcher. mpi4py's wheels choose theirs at
  run time: they take the first ``libmpi`` in ``MPI4PY_LIBMPI``, a search path of files, or else
  look into the virtual environment before the system. So a launcher names its own library there,
  beside its program first, unless the caller's variables choose (``MPI4PY_LIBMPI`` or
  ``MPI4PY_MPIABI``). An mpi4py that was built against one MPI ignores both.
- The launcher must not take the hosts from the surrounding job, whose variables are wrong once the
  job has shrunk. The daemons that it starts on other hosts through the batch system must share
  these with all else that runs there: what that takes is around it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from pilot.launchers.base import HostRanks, Launch, Placement

#: How long an mpiexec may take to tell its version, in seconds.
_VERSION_TIMEOUT_S = 20.0


class Flavour(msgspec.Struct, frozen=True):
    """The facts by which one vendor's mpirun differs from another's."""

    #: The launcher's name in a site file.
    name: str
    #: A regular expression for the answer to ``--version``.
    banner: str
    #: Names of the program, where several MPIs are installed side by side.
    programs: tuple[str, ...]
    #: File name of the library of its ABI.
    library: str
    #: Options always given.
    options: tuple[str, ...]
    #: Further options when all ranks are on this host.
    options_here: tuple[str, ...]
    #: Option of a share, and of all shares in one list: with ``{host}`` and ``{ranks}``.
    host: str
    #: The option that takes the list of all hosts; empty: each host is an argument set of its own,
    #: with the command repeated and ``:`` in between.
    host_list: tuple[str, ...]
    #: The option that hands the variable of the following name to the ranks; empty: all are.
    forward: tuple[str, ...]
    #: Variables for the launcher itself.
    env: dict[str, str]


#: Open MPI 4 reads the ``OMPI_`` variables, Open MPI 5 the ``PRTE_`` ones.
OPENMPI = Flavour(
    name="openmpi",
    banner=r"\(Open ?MPI\)|\(OpenRTE\)",
    programs=("mpirun.openmpi", "mpiexec.openmpi"),
    library="libmpi.so.40",
    options=("--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none"),
    options_here=(),
    host="{host}:{ranks}",
    host_list=("--host",),
    forward=("-x",),
    env={
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # A waiting rank gives its core away instead of spinning on it.
        "OMPI_MCA_mpi_yield_when_idle": "1",
    },
)

#: No option for what is the default (all variables, no binding): hydra of MPICH 5.0 gives each that
#: was given by hand to processes of ``MPI_Comm_spawn`` twice, and takes the second for an error.
MPICH = Flavour(
    name="mpich",
    banner=r"HYDRA build details",
    programs=("mpiexec.hydra", "mpiexec.mpich", "mpirun.mpich"),
    library="libmpi.so.12",
    options=(),
    options_here=("-launcher", "fork"),
    host="{host}:{ranks}",
    host_list=("-hosts",),
    forward=(),
    env={"HYDRA_BINDING": "none"},
)

INTEL = Flavour(
    name="intel",
    banner=r"Intel\(R\) MPI Library",
    programs=("mpiexec.hydra",),
    library="libmpi.so.12",
    options=("-genvall",),
    options_here=("-launcher", "fork"),
    host="{host}",
    host_list=(),
    forward=(),
    env={"I_MPI_PIN": "0", "I_MPI_JOB_RESPECT_PROCESS_PLACEMENT": "0"},
)

FLAVOURS = (OPENMPI, MPICH, INTEL)

#: Has an mpirun that a task starts by itself stay where the task is, of whichever MPI it is: on
#: this node, and on the cores that the task is pinned to. It would take all nodes of the pilot's
#: job for its own, and bind ranks to cores that it counts from the node's first.
ON_ONE_NODE = {
    "OMPI_MCA_ras": "^slurm",
    "OMPI_MCA_plm": "^slurm",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_ras": "^slurm",
    "PRTE_MCA_plm": "^slurm",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "HYDRA_RMK": "user",
    "HYDRA_LAUNCHER": "fork",
    "I_MPI_HYDRA_RMK": "user",
    "I_MPI_HYDRA_BOOTSTRAP": "fork",
}

#: Runs an argument vector and returns what it printed; raises OSError or SubprocessError.
Run = Callable[[Sequence[str]], str]
#: `shutil.which`, or what stands in for it: the program of this name in this search path.
Which = Callable[..., "str | None"]


class MpirunLauncher(msgspec.Struct, frozen=True):
    """A launcher that starts the ranks by an MPI library's own program."""

    #: Which MPI it is.
    flavour: Flavour
    #: Path of its mpiexec.
    program: str
    #: The site's options for it; the last word is theirs.
    options: tuple[str, ...] = ()
    #: The words before the command line of several hosts, for the daemons there.
    around: tuple[str, ...] = ()
    #: Name of the host that the launcher is started on.
    this_host: str = msgspec.field(default_factory=socket.gethostname)
    #: Its own options by which the daemons on several hosts start.
    through: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The flavour's name."""
        return self.flavour.name

    def launch(
        self, command: Sequence[str], placement: Placement, *, env: Mapping[str, str]
    ) -> Launch:
        """Return one mpirun over the hosts of `placement`, in its order of ranks."""
        flavour = self.flavour
        for_ranks = {**self._library_env(env), **env}
        here = placement.is_on(self.this_host)
        argv = [*(() if here else self.around), self.program, *flavour.options]
        argv += flavour.options_here if here else self.through
        for name in for_ranks if flavour.forward else ():
            argv += [*flavour.forward, name]
        argv += self.options
        if flavour.host_list:
            hosts = ",".join(self._host(share) for share in placement.hosts)
            argv += [*flavour.host_list, hosts, "-n", str(placement.ranks), *command]
        else:
            for share in placement.hosts:
                separator = [":"] if share is not placement.hosts[0] else []
                argv += [*separator, "-host", self._host(share), "-n", str(share.ranks), *command]
        return Launch(tuple(argv), {**flavour.env, **for_ranks})

    def _host(self, share: HostRanks) -> str:
        return self.flavour.host.format(host=share.host, ranks=share.ranks)

    def _library_env(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variable by which mpi4py loads this launcher's library, unless `env` has
        one."""
        if "MPI4PY_LIBMPI" in env or "MPI4PY_MPIABI" in env:
            return {}
        return {"MPI4PY_LIBMPI": library_path(self.flavour, self.program)}


def library_path(flavour: Flavour, program: str) -> str:
    """Return where mpi4py should look for the library of `program`: its own prefix, then the
    system.

    The last entry has no directory: the dynamic linker looks where it always does, so in
    ``LD_LIBRARY_PATH`` (as environment modules set it) and the distribution's directories.
    """
    prefix = Path(program).parent.parent
    places = (prefix / lib / flavour.library for lib in ("lib", "lib64"))
    return os.pathsep.join((*map(str, places), flavour.library))


def parse_version(text: str) -> Flavour | None:
    """Find the MPI that prints `text` under ``mpiexec --version``; None if it is none of
    `FLAVOURS`."""
    return next((flavour for flavour in FLAVOURS if re.search(flavour.banner, text)), None)


def run_version(argv: Sequence[str]) -> str:
    """Run a program and return what it prints on both of its outputs.

    Raises
    ------
    OSError, subprocess.SubprocessError
        The program cannot be started, or does not end in time.
    """
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_VERSION_TIMEOUT_S,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout


def find_mpi(
    wanted: str = "", *, which: Which = shutil.which, run: Run = run_version
) -> tuple[Flavour, str]:
    """Find an MPI launcher: beside this Python (its virtual environment) first, then in ``PATH``.

    Parameters
    ----------
    wanted
        Name of a flavour; empty: the first that is found.

    Returns
    -------
    flavour, program
        The kind of MPI, and the absolute path of its program.

    Raises
    ------
    FileNotFoundError
        There is no launcher; the message says where it was looked for.
    """
    seen = []
    for program in _candidates([f for f in FLAVOURS if wanted in ("", f.name)], which):
        try:
            flavour = parse_version(run([program, "--version"]))
        except (OSError, subprocess.SubprocessError):
            flavour = None
        if flavour and wanted in ("", flavour.name):
            return flavour, program
        seen.append(f"{program} ({flavour.name if flavour else 'of an unknown MPI'})")
    raise FileNotFoundError(
        f"no mpiexec of {wanted or 'any known MPI'} was found beside {sys.executable} or in PATH"
        + (f"; there are {', '.join(seen)}" if seen else "")
        + ". Install one with: pip install 'pilot-hpc[mpi]', or load the cluster's MPI module"
    )


def _candidates(flavours: Iterable[Flavour], which: Which) -> Iterator[str]:
    """Give the programs that may be MPI launchers, each once, directory by directory."""
    names = ("mpiexec", "mpirun", *(name for f in flavours for name in f.programs))
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    seen = set()
    for directory in (str(Path(sys.executable).parent), *path):
        for name in names:
            program = which(name, path=directory) if directory else None
            if program and program not in seen:
                seen.add(program)
                yield program
