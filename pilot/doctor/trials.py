"""Trials that start processes: MPI ranks, and processes on other nodes of a job."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from importlib import metadata

from pilot.agent.mpi_choice import Choice, run_for, try_out, why_no_world
from pilot.doctor import facts as f
from pilot.launchers import HostRanks, get_launcher, node_worker
from pilot.site import Site

#: How long a process on another node may take to start, in seconds.
STEP_S = 30.0


def mpi_here(site: Site) -> f.Mpi:
    """Look for the MPI launcher; where pilots are on this machine, try it as well."""
    kind, choice = site.config.kind, _choice(site)
    if kind.is_local:
        return mpi(site, (socket.gethostname(),))
    if choice is None:
        return f.Mpi(mpi4py=_mpi4py())
    try:
        get_launcher(choice.launcher, choice.options, kind.node_launcher)
    except (FileNotFoundError, ValueError) as error:
        return f.Mpi(error=str(error), mpi4py=_mpi4py())
    return f.Mpi(way=str(choice), mpi4py=_mpi4py())


def mpi(site: Site, hosts: tuple[str, ...]) -> f.Mpi:
    """Start two ranks on the first host, and one on each of the first two if there are so many.

    This process runs on the first one.
    """
    installed = _mpi4py()
    if not installed:
        return f.Mpi()
    kind, variables = site.config.kind, site.config.mpi.variables
    choice = _choice(site)
    worlds: list[f.World] = []
    # Two ranks on one core: a node has that.
    shares: list[tuple[HostRanks, ...]] = [(HostRanks(hosts[0], 2, (0,)),)]
    if len(hosts) > 1:
        shares.append((HostRanks(hosts[0], 1), HostRanks(hosts[1], 1)))
    begun = time.monotonic()
    if choice is None:
        found = try_out(kind, hosts[0], variables, run_for)
        if found.choice is None:
            return f.Mpi(error="; ".join(found.failures), mpi4py=installed)
        choice = found.choice
        worlds.append(f.World(way=str(choice), hosts=hosts[:1], took_s=time.monotonic() - begun))
        del shares[0]
    for share in shares:
        begun = time.monotonic()
        try:
            error = why_no_world(choice, kind, share, variables, run_for)
        except ValueError as wrong:
            return f.Mpi(error=str(wrong), mpi4py=installed)
        its = tuple(part.host for part in share)
        took_s = time.monotonic() - begun
        worlds.append(f.World(way=str(choice), hosts=its, took_s=took_s, error=error))
    return f.Mpi(way=str(choice), mpi4py=installed, worlds=tuple(worlds))


def _mpi4py() -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("mpi4py")
    return ""


def _choice(site: Site) -> Choice | None:
    """Return the launcher of a site; None: it is to be tried out."""
    mpi, kind = site.config.mpi, site.config.kind
    if mpi.launcher == "auto" and not mpi.options and kind.mpi_listing:
        return None
    name = kind.launcher if mpi.launcher == "auto" else mpi.launcher
    return Choice(name, tuple(mpi.options))


def steps(site: Site, hosts: tuple[str, ...]) -> f.Steps:
    """Start a process on each of these nodes of the job, from this one."""
    found = []
    for host in hosts:
        begun = time.monotonic()
        launch = node_worker(site.config.kind.node_launcher, host, ("true",))
        status, output = run_for(launch.argv, launch.env, STEP_S)
        told = output.strip().splitlines()[-1:] or [f"exit status {status}"]
        error = told[0] if status else ""
        found.append(f.Step(host=host, took_s=time.monotonic() - begun, error=error))
    return f.Steps(steps=tuple(found))
