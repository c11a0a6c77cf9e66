"""Jobs of ``enqueue_compss`` that there are: ``pycompss job list``, ``status`` and ``cancel``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.compat.compss.enqueueing import PREFIX
from pilot.compat.compss.flags import UsageError
from pilot.errors import BatchError

if TYPE_CHECKING:
    from pilot.scheduler.batch import BatchSystem, JobStatus
    from pilot.site import Site


@contextmanager
def _asking(site: Site) -> Iterator[list[tuple[str, BatchSystem]]]:
    """Yield the batch systems that know of jobs, each with the beginning of its ids as users have
    them: on a local site each directory is one."""
    from pilot.scheduler.batch import BatchError as NoAnswer
    from pilot.scheduler.batch import open_batch

    places = [("", site.jobs)]
    if site.config.kind.is_local:
        sites = sorted(site.directory.with_name(f"{site.directory.name}-compss").glob("*"))
        places = [(f"{path.name}.", path / "jobs") for path in sites]
    systems = [(prefix, open_batch(site.config, directory)) for prefix, directory in places]
    try:
        yield systems
    except NoAnswer as error:
        raise BatchError(str(error)) from error
    finally:
        for _, system in systems:
            system.close()


def _line(prefix: str, job: JobStatus) -> str:
    name = job.name.removeprefix(PREFIX).rpartition("-")[0]
    nodes = ",".join(job.nodes) or str(job.node_count)
    return "\t".join((f"{prefix}{job.job_id}", name, job.state, nodes))


def listed(site: Site) -> list[str]:
    """Return a line for each job that waits or runs: id, name, state, nodes."""
    from pilot.scheduler.batch import Phase

    with _asking(site) as systems:
        return [
            _line(prefix, job)
            for prefix, system in systems
            for job in system.jobs(PREFIX).values()
            if job.phase is not Phase.ENDED
        ]


def _find(systems: list[tuple[str, BatchSystem]], label: str) -> tuple[str, BatchSystem, JobStatus]:
    from pilot.scheduler.batch import NO_PREFIX

    for prefix, system in systems:
        number = label.removeprefix(prefix)
        if number != label or not prefix:
            known = system.jobs(NO_PREFIX, [number]) or system.account([number])
            if number in known and known[number].name.startswith(PREFIX):
                return prefix, system, known[number]
    raise UsageError(f"there is no job {label} of enqueue_compss; `pycompss job list` shows them")


def status(site: Site, label: str) -> str:
    """Return the line of a job, also of one that has ended.

    Raises
    ------
    UsageError
        There is none of this id.
    """
    with _asking(site) as systems:
        prefix, _, job = _find(systems, label)
        return _line(prefix, job)


def cancel(site: Site, label: str) -> None:
    """End a job.

    Raises
    ------
    UsageError
        There is none of this id.
    """
    with _asking(site) as systems:
        _, system, job = _find(systems, label)
        system.cancel([job.job_id])


def output_of(site: Site, job_id: str) -> Path:
    """Return the file with the output of a job."""
    return site.jobs / f"{job_id}.out"


def manage(site: Site, words: Sequence[str], say: Callable[[str], Any]) -> None:
    """Do what stands behind ``pycompss job``, other than ``submit``.

    Raises
    ------
    UsageError
        The words mean nothing.
    """
    match list(words):
        case ["list"]:
            for line in listed(site):
                say(line)
        case ["status", job_id]:
            say(status(site, job_id))
        case ["cancel", job_id]:
            cancel(site, job_id)
        case _:
            raise UsageError(
                "pycompss job: write `pycompss job submit [FLAGS] PROGRAM.py`, `list`, "
                "`status JOB` or `cancel JOB`"
            )
