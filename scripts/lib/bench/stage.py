"""The surroundings of a workload: fresh sites, contenders that take turns, a cluster if there is
one.

Responsible for the surroundings of a measurement, not for what is measured. Invariants: a site is
used by one workload only and lies in its directory; leaving `Stage.site` has ended its head, and
with it its pilots.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

import pilot
from bench import measure, peer_process, references
from bench.contenders import Contender, Local
from bench.loads import warm
from bench.ours import Pilot
from bench.report import Findings
from pilot.client.connection import Connection
from pilot.errors import PilotError
from pilot.head.running import find_head
from pilot.scheduler.batch import open_batch
from pilot.site import SITE_FILE, Site, open_site
from pilot.site_configs import template_text
from pilot.wire.messages import client as m

T = TypeVar("T")

#: How long a head has to end itself and its pilots, in seconds.
_STOP_S = 40.0


@dataclass(frozen=True)
class Slurm:
    """A Slurm cluster that pilots can be submitted to."""

    #: What tables call it.
    name: str
    #: The text of a site file for it.
    site_text: str
    #: A directory that all nodes see, where the workload's directory is made.
    shared: Path

    @property
    def mpi_options(self) -> list[str]:
        """The options that ``srun`` needs to start MPI programs."""
        return list(self._mpi.get("options", []))

    @property
    def mpi_variables(self) -> dict[str, str]:
        """The variables that MPI programs need in their environment."""
        return {name: str(value) for name, value in self._mpi.get("variables", {}).items()}

    @property
    def _mpi(self) -> dict[str, Any]:
        return yaml.safe_load(self.site_text).get("mpi") or {}


@dataclass
class Stage:
    """The surroundings of one workload.

    Attributes
    ----------
    directory
        The workload's own; it is removed afterwards.
    site_text
        The site file that fresh sites get.
    quick, large
        Less of everything; the variants that take long.
    slurm, no_slurm
        The Slurm to be used by the workloads that need one, or why there is none.
    peers
        Names of the peers that are to be measured too.
    findings
        What was found so far.
    """

    directory: Path
    site_text: str
    quick: bool = False
    large: bool = False
    slurm: Slurm | None = None
    no_slurm: str = ""
    peers: Sequence[str] = ()
    findings: Findings = field(default_factory=Findings)

    def count(self, full: int, quick: int) -> int:
        """Return the number of something for a full or a quick run."""
        return quick if self.quick else full

    @property
    def workers(self) -> int:
        """The number of tasks that can run at a time on one node of the site."""
        pools = yaml.safe_load(self.site_text)["pools"]
        cores = next(iter(pools.values())).get("cores_per_node", "auto")
        return len(os.sched_getaffinity(0)) if cores == "auto" else int(cores)

    def say(self, text: str) -> None:
        """Tell a waiting user what is being done."""
        print(f"  {text}", file=sys.stderr, flush=True)

    # --- Pilot

    @contextlib.contextmanager
    def site(self, text: str = "") -> Iterator[Site]:
        """Make a fresh site from `text` or else the usual site file; its head and pilots end with
        the block."""
        directory = Path(tempfile.mkdtemp(prefix="bench-", dir=self.directory))
        (directory / SITE_FILE).write_text(text or self.site_text)
        site = open_site(directory)
        try:
            yield site
        finally:
            end_site(site)
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def pilot(self) -> Iterator[Pilot]:
        """Open Pilot on a fresh site, warm: its pilot and its executors are there."""
        with self.site() as site, pilot.Session(site, name="bench") as session:
            system = Pilot(session)
            warm(system, self.workers)
            yield system

    # --- contenders

    def contest(
        self, workload: str, measurement: Callable[[Contender], T], rounds: int
    ) -> dict[str, list[T]]:
        """Measure all contenders, warm; return the samples of each, Pilot's first.

        Pilot and the process pool take turns, so that whatever else the machine does meets both;
        peers come one after the other, since they keep it busy even when they have nothing to do.
        """
        samples: dict[str, list[T]] = {Pilot.name: [], references.ProcessPool.name: []}
        # The pool first: it forks its processes before there are threads.
        with references.process_pool(self.workers) as pool:
            warm(pool, self.workers)
            with self.pilot() as ours:
                for _ in range(rounds):
                    for system in (ours, pool):
                        samples[system.name].append(measurement(Local(system)))
        return samples | self.contest_of_peers(workload, measurement, rounds)

    def contest_of_peers(
        self, workload: str, measurement: Callable[[Contender], T], rounds: int
    ) -> dict[str, list[T]]:
        """Measure the peers only; a peer that fails keeps the rounds that it has completed."""
        samples: dict[str, list[T]] = {}
        for name in self.peers:
            self.say(f"beside it: {name}")
            try:
                with peer_process.opened(name, self.workers, workload, self.directory) as peer:
                    for _ in range(rounds):
                        found = measurement(peer)
                        samples.setdefault(peer.name, []).append(found)
            except Exception as error:
                # It is no fault of ours, and the other figures stand without it.
                self.findings.miss(workload, name, f"{type(error).__name__}: {error}")
        return samples


def rest(samples: Mapping[str, T]) -> dict[str, T]:
    """Return the samples of all contenders but Pilot."""
    return {name: sample for name, sample in samples.items() if name != Pilot.name}


# --- processes of a site -------------------------------------------------------------------------


@contextlib.contextmanager
def asking(site: Site) -> Iterator[Callable[..., Any]]:
    """Give a function that asks the head of a site by the name of a query."""
    connection = Connection(site, start=False)
    try:
        yield lambda name, **arguments: connection.request(
            lambda number: m.Query(number, name, arguments)
        )
    finally:
        connection.close()


def site_processes(site: Site) -> dict[str, list[int]]:
    """Return the processes of a site by role: ``head``, ``agent``, ``node``, ``executor``,
    ``rank``."""
    with asking(site) as ask:
        names = [row["name"] for row in ask("fleet", alive=True)]
    head = find_head(site)
    found = measure.processes(names)
    return {**found, "head": [head.pid]} if head else found


def cpu_by_role(roles: dict[str, list[int]]) -> dict[str, float]:
    """Return the processor seconds of each role's processes; the client is this process."""
    used = {role: sum(map(measure.cpu_s, pids)) for role, pids in roles.items()}
    return {"client": time.process_time(), **used}


def traffic(site: Site) -> dict[str, float]:
    """Return the bytes that the processes of a site have ``written`` to disks so far, and those
    that were ``moved`` into its executors by reading files."""
    roles = site_processes(site)
    return {
        "written": sum(measure.written(pid) for pids in roles.values() for pid in pids),
        "moved": sum(map(measure.read, roles.get("executor", []))),
    }


def traffic_and_size(site: Site) -> dict[str, float]:
    """Return what `traffic` does, and the bytes that the results of a site have ``kept``."""
    return {**traffic(site), "kept": (1 << 20) * measure.size_mib(site.results)}


def end_site(site: Site) -> None:
    """End the head of a site and its pilots, in whatever state they are."""
    if find_head(site) is not None:
        try:
            _tell_to_end(site)
        except PilotError as error:
            print(f"  the head of {site.directory} does not end: {error}", file=sys.stderr)
    with contextlib.closing(open_batch(site.config, site.jobs)) as batch:
        prefix = f"{site.config.manners.job_name_prefix}-{site.name}-"
        names = [row for row in batch.jobs(prefix).values() if row.why_ended is None]
        if names:
            batch.cancel([row.job_id for row in names])


def _tell_to_end(site: Site) -> None:
    head = find_head(site)
    connection = Connection(site, start=False)
    try:
        connection.request(lambda number: m.Command(number, "stop"), _STOP_S)
    finally:
        connection.close()
    end = time.monotonic() + _STOP_S
    while head is not None and not head.is_dead():
        if time.monotonic() > end:
            os.kill(head.pid, 9)
            return
        time.sleep(0.01)


# --- Slurm ---------------------------------------------------------------------------------------


def find_virtual_cluster() -> tuple[Slurm | None, str]:
    """Find this machine's virtual cluster, and enter its environment; else return why there is
    none."""
    from virtual_cluster import cluster
    from virtual_cluster.errors import ClusterError

    try:
        layout = cluster.layout_from_environment()
        status = cluster.status(layout)
        if not status.up or status.shared_directory is None:
            return None, "no virtual cluster is up (scripts/virtual-cluster up)"
        if not status.healthy:
            return None, f"the virtual cluster is not well: {'; '.join(status.problems)}"
        os.environ.update(cluster.environment(layout))
    except ClusterError as error:
        return None, str(error)
    return (
        Slurm("virtual cluster", template_text("virtual"), Path(status.shared_directory)),
        "",
    )


def one_pool(site_text: str, **settings: Any) -> str:
    """Return a site file with only the first of its pools, and some of that pool's settings
    changed."""
    content = yaml.safe_load(site_text)
    name, pool = next(iter(content["pools"].items()))
    content["pools"] = {name: {**pool, **settings}}
    return str(yaml.safe_dump(content))
