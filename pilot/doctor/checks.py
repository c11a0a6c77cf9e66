"""The registry of checks: those of this machine, and those of each node of a job.

Batch systems have checks of their own (`BatchKind.checks`), which come in the same form.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pilot.agent.mpi_choice import TRIAL_S
from pilot.doctor import facts as f
from pilot.doctor import gathering, judging, over_files, stores, trials
from pilot.doctor.ask import Ask, Lead, directory_of
from pilot.findings import AnyCheck, Check, Finding
from pilot.site import Site

#: How long the lines of a job script may take here, in seconds: modules load slowly.
_SETUP_S = 30.0
#: The most that is waited for an answer of the batch system, in seconds.
_ANSWER_S = 20.0
#: A try of an address, in seconds: the name may be looked for as well.
_REACH_S = 4 * gathering.CONNECT_S


def checks_here(site: Site, here: f.Python, by_job: bool) -> list[AnyCheck]:
    """Return the checks of this machine, in the order in which they are told.

    Parameters
    ----------
    site
        The site.
    here
        The Python of this process.
    by_job
        Whether a job of the same run checks nodes.
    """
    config, directory = site.config, site.directory
    kind, manners = config.kind, config.manners
    found: list[AnyCheck] = [
        Check(
            "file system",
            f.FileSystem,
            lambda: gathering.file_system(directory),
            partial(judging.file_system, is_local=kind.is_local, by_job=by_job),
        ),
        Check("space", f.Space, lambda: gathering.space(directory), judging.space),
        Check("files", f.Operations, lambda: gathering.operations(directory), judging.operations),
        Check(
            "locks",
            f.Locks,
            lambda: gathering.locks_here(directory),
            partial(judging.locks, between="processes of this machine"),
        ),
        Check("clock", f.Clock, lambda: gathering.clock(directory), judging.clock),
        Check("limits", f.Limits, gathering.limits, judging.limits),
        Check("login node", f.Resident, gathering.resident, judging.resident),
        Check(
            "temporary files",
            f.TemporaryDirectory,
            gathering.temporary_directory,
            judging.temporary_directory,
        ),
        Check(
            "Python",
            f.Python,
            gathering.python,
            partial(judging.python, is_local=kind.is_local, by_job=by_job),
        ),
        Check(
            "job script",
            f.Setup,
            lambda: gathering.setup(site, next(iter(config.pools))),
            partial(judging.setup, here=here),
            _SETUP_S,
        ),
        Check(
            "addresses",
            f.HeadAddress,
            lambda: gathering.head_address(site),
            partial(judging.head_address, by_job=by_job),
            _REACH_S,
        ),
        Check(
            "MPI",
            f.Mpi,
            lambda: trials.mpi_here(site),
            partial(judging.mpi, advice=kind.mpi_advice),
            2 * TRIAL_S,
        ),
    ]
    if kind.is_local:
        found += [_shared_memory(), _node_store(site)]
    else:
        answer: AnyCheck = Check(
            kind.title,
            f.Answer,
            lambda: gathering.answer(site),
            partial(judging.answer, title=kind.title, name=kind.name),
            min(manners.command_limit_s + 1.0, _ANSWER_S),
        )
        found += [answer, *kind.checks(manners, config.pools, site.jobs)]
    return found


def _shared_memory() -> AnyCheck:
    return Check("shared memory", f.SharedMemory, gathering.shared_memory, judging.shared_memory)


def _node_store(site: Site) -> AnyCheck:
    return Check("node store", f.Stores, lambda: stores.gather(site), stores.judge)


def checks_there(
    site: Site, job: str, ask: Ask, python: f.Python, limits: f.Limits
) -> list[AnyCheck]:
    """Return the checks of each node of a job.

    Parameters
    ----------
    site
        The site.
    job
        The name of the job.
    ask
        What its nodes are asked.
    python, limits
        Those of the machine that asks, with which the nodes' are compared.
    """
    pool = site.config.pools[ask.pool]
    found: list[AnyCheck] = [
        Check(
            "node",
            f.Node,
            gathering.node,
            partial(judging.node, cores=pool.cores_per_node, memory_mib=pool.memory_per_node_mib),
        ),
        Check("Python", f.Python, gathering.python, partial(judging.same_python, here=python)),
        Check(
            "limits",
            f.Limits,
            gathering.limits,
            partial(judging.node_limits, here=limits),
        ),
        Check(
            "temporary files",
            f.TemporaryDirectory,
            gathering.temporary_directory,
            judging.temporary_directory,
        ),
        _shared_memory(),
        _node_store(site),
        Check(
            "locks",
            f.Locks,
            lambda: gathering.try_locks(directory_of(site, job) / "lock"),
            partial(judging.locks, between="the node and this machine", across=True),
        ),
    ]
    if ask.addresses:
        network: AnyCheck = Check(
            "network",
            f.Reaches,
            lambda: gathering.reaches(ask.addresses, ask.tells_time),
            partial(_judge_network, transport=site.config.head.transport),
            _REACH_S * len(ask.addresses),
        )
        found.append(network)
    if ask.files:
        files: AnyCheck = Check(
            "over files",
            f.OverFiles,
            lambda: over_files.try_over_files(ask.files, site),
            judging.over_files,
            over_files.PATIENCE_S + 5.0,
        )
        found.append(files)
    return found


def _judge_network(its: f.Reaches, transport: str) -> Iterator[Finding]:
    yield from judging.reach_or_files(its.tries, transport)
    yield from judging.node_clock(its.tries)


def checks_of_first(site: Site, hosts: tuple[str, ...]) -> list[AnyCheck]:
    """Return the checks that the first node of a job makes for all of its nodes."""
    found: list[AnyCheck] = [
        Check(
            "MPI",
            f.Mpi,
            lambda: trials.mpi(site, hosts),
            partial(judging.mpi, advice=site.config.kind.mpi_advice),
            5 * TRIAL_S,
        )
    ]
    if len(hosts) > 1:
        steps: AnyCheck = Check(
            "start of nodes",
            f.Steps,
            lambda: trials.steps(site, hosts[1:]),
            judging.steps,
            trials.STEP_S * len(hosts),
        )
        found.insert(0, steps)
    return found


def checks_of_other(lead: Lead) -> list[AnyCheck]:
    """Return the checks of a node that is not the first of its job."""
    return [
        Check(
            "between nodes",
            f.Reaches,
            lambda: gathering.reaches(lead.addresses, True),
            lambda its: judging.reach(
                its.tries, f"the first node, {lead.node},", "address of the pool"
            ),
            _REACH_S * max(1, len(lead.addresses)),
        )
    ]
