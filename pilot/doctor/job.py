"""The job that checks nodes: submitted, waited for with a deadline, and always cancelled.

Invariants
----------
- However this ends (also by an exception, such as that of Ctrl-C), the job is cancelled.
- No head is needed, and none is told: the job's name is that of no pilot.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pilot.data.directories import make_private
from pilot.doctor import ask as a
from pilot.doctor import facts as f
from pilot.doctor.gathering import HeldLocks, TimeServer
from pilot.doctor.over_files import Echo
from pilot.errors import BatchError, SiteError
from pilot.findings import Finding, problem, warning
from pilot.interpreter import command_of_site
from pilot.scheduler.batch import (
    BatchSystem,
    BatchUnavailable,
    JobRequest,
    JobStatus,
    Phase,
    ShrinkRefused,
    SubmitRefused,
    base,
    open_batch,
)
from pilot.site import Site
from pilot.wire import addresses
from pilot.wire.keys import load_keys

#: The nodes of the job, at most; and the longest walltime that it asks for, in seconds.
NODES, WALLTIME_S = 2, 600.0
#: The queue is asked so often, in seconds, and the directory for reports.
_ASK_S, _LOOK_S = 2.0, 0.2
#: How long reports may take to be seen after the job has ended, in seconds; and the job itself
#: after a submission that was cut off.
_LATE_S = 5.0
#: How long it is waited for the job to have fewer nodes, or to end, in seconds.
_SHRINK_S, _END_S = 10.0, 20.0
#: How much of the job's output is told, in bytes.
_OUTPUT_BYTES = 2000
_SAME = "see that nodes have this file system and this Python, and environment.setup"


class Examined(msgspec.Struct, frozen=True):
    """The result of a job that checked its nodes."""

    ask: a.Ask
    #: The reports of its nodes, in the order of the nodes.
    reports: list[a.Report]
    #: The number of nodes that it was to have.
    nodes: int
    #: The reason why there are not all reports; None: all are there.
    trouble: Finding | None = None
    #: A try to give a node back; None: it was not tried.
    shrink: f.Shrink | None = None


def examine(
    site: Site, pool: str, deadline_s: float, tell: Callable[[str], None]
) -> tuple[str, Examined]:
    """Check the nodes of a pool by a job; return its name and the result.

    Parameters
    ----------
    site
        The site.
    pool
        The pool.
    deadline_s
        The time after which the job is given up.
    tell
        Called with what is waited for, whenever that changes.

    Raises
    ------
    SiteError
        The site directory cannot be written.
    BatchError
        The batch system does not answer, after it has taken the job.
    """
    config = site.config
    name = f"{config.manners.job_name_prefix}-{site.name}-doctor-{os.urandom(4).hex()}"
    directory = a.directory_of(site, name)
    try:
        make_private(directory, site.directory)
        locks = HeldLocks(directory / "lock")
    except OSError as error:
        raise SiteError(f"{directory} cannot be written: {error.strerror}") from error
    batch = open_batch(config, site.jobs)
    try:
        with _reached_at(site) as (told, tells_time), _over_files(site, directory) as files:
            asked = a.Ask(pool, told, tells_time, files)
            a.write(directory / "ask.json", asked)
            request = _request(site, name, pool)
            return name, _Watch(site, batch, request, asked, deadline_s, tell).run()
    except base.BatchError as error:
        raise BatchError(str(error)) from error
    finally:
        batch.close()
        locks.close()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _reached_at(site: Site) -> Iterator[tuple[tuple[a.Address, ...], bool]]:
    """Listen as a head would; yield the addresses, and whether the time is told there."""
    head = site.config.head
    is_local = site.config.kind.is_local and head.address == "auto" and not head.port
    if is_local or head.transport == "files":
        yield (), False
        return
    told, bound = addresses.resolve(head.address)
    try:
        server = TimeServer(bound, head.port)
    except OSError:
        # A head has the port: it is tried itself, and tells no time.
        yield tuple((name, head.port) for name in told), False
        return
    try:
        yield tuple((name, server.port) for name in told), True
    finally:
        server.close()


@contextlib.contextmanager
def _over_files(site: Site, directory: Path) -> Iterator[str]:
    """Answer over files, where a head would listen so; yield the endpoint, or an empty text."""
    transport = site.config.head.transport
    if transport == "network" or (transport == "auto" and site.config.kind.is_local):
        yield ""
        return
    echo = Echo(directory / "wire", load_keys(site.keys).client_secret)
    try:
        yield echo.endpoint
    finally:
        echo.close()


def _request(site: Site, name: str, pool: str) -> JobRequest:
    config = site.config
    its = config.pools[pool]
    environment = config.environment
    return JobRequest(
        name=name,
        command=command_of_site(environment.python, "examine", "job", str(site.directory), name),
        nodes=1 if config.kind.is_local else min(NODES, its.max_nodes),
        walltime_s=min(WALLTIME_S, its.walltime_s),
        directory=site.jobs,
        directives=its,
        setup=environment.setup,
        variables=environment.variables,
        warning_s=1.0,
    )


class _Watch:
    """The watch over one job, from its submission to its end."""

    def __init__(
        self,
        site: Site,
        batch: BatchSystem,
        request: JobRequest,
        asked: a.Ask,
        deadline_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._site = site
        self._batch = batch
        self._request = request
        self._asked = asked
        self._deadline = time.monotonic() + deadline_s
        self._deadline_s = deadline_s
        self._tell = tell
        self._told = ""

    def run(self) -> Examined:
        """Submit the job, wait for the reports of its nodes, and cancel it."""
        request = self._request
        kind = self._site.config.kind
        job, may_be_there = "", True
        try:
            try:
                job = self._batch.submit(request)
            except base.BatchError as error:
                may_be_there = not isinstance(error, SubmitRefused)
                return Examined(self._asked, [], request.nodes, self._unsubmitted(error))
            trouble = self._wait(job)
            reports = self._reports()
            shrink = None
            if trouble is None and len(reports) > 1 and not kind.is_local:
                self._say(f"job {job}: gives one of its nodes back")
                shrink = self._shrink(job, reports[0].node)
            return Examined(self._asked, reports, request.nodes, trouble, shrink)
        finally:
            is_ended = not may_be_there or self._end(job)
            if not is_ended:
                self._say(f"job {job or request.name} may still be there; it ends by itself")
            files = [request.directory / f"{request.name}.sh", self._output(job)]
            for path in files if is_ended else ():
                path.unlink(missing_ok=True)

    def _unsubmitted(self, error: base.BatchError) -> Finding:
        if isinstance(error, SubmitRefused):
            return problem(str(error), f"mend pools.{self._asked.pool} in site.yaml")
        title = self._site.config.kind.title
        return problem(str(error), f"see that {title} answers on this machine, and try again")

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._tell(text)

    def _output(self, job: str) -> Path:
        return self._request.directory / f"{job}.out"

    def _status(self, job: str) -> JobStatus | None:
        return self._batch.jobs(self._request.name, [job]).get(job)

    def _reports(self) -> list[a.Report]:
        """Return the reports that are there, that of the job's first node first."""
        directory = a.directory_of(self._site, self._request.name)
        found = []
        for path in sorted(directory.glob("report-*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append(a.read(path, a.Report))
        return sorted(found, key=lambda report: (not report.is_first, report.node))

    def _wait(self, job: str) -> Finding | None:
        """Wait until all reports are there; return why they will not be, or None."""
        asked_at, ended_at, missing, waits = 0.0, 0.0, 0, True
        kind = self._site.config.kind
        while len(self._reports()) < self._request.nodes:
            now = time.monotonic()
            if now > self._deadline:
                told = f"after {self._deadline_s:g} s it was given up: {self._told or 'submitted'}"
                if waits:
                    return warning(f"no node was checked; {told}", "give it time: --deadline 1h")
                return problem(f"not all nodes have told anything; {told}", _SAME)
            if ended_at and now - ended_at > _LATE_S:
                words = self._last_words(job)
                return problem(
                    f"job {job} has ended without telling of all its nodes{words}", _SAME
                )
            if now - asked_at > _ASK_S and not ended_at:
                asked_at = now
                try:
                    status = self._status(job)
                except BatchUnavailable as error:
                    self._say(f"job {job}: {error}")
                    continue
                missing = missing + 1 if status is None else 0
                if missing > 1 or (status and status.phase is Phase.ENDED):
                    ended_at = now
                elif status is not None:
                    waits = status.phase is Phase.QUEUED
                    meaning = kind.meaning(status.reason, job)
                    reason = f", {status.reason}" if status.reason else ""
                    self._say(
                        f"job {job}: {status.state}{reason}" + (f" ({meaning})" if meaning else "")
                    )
            time.sleep(_LOOK_S)
        return None

    def _last_words(self, job: str) -> str:
        path = self._output(job)
        try:
            text = path.read_bytes()[-_OUTPUT_BYTES:].decode(errors="replace").strip()
        except OSError:
            return f"; its output {path} is not here: do the nodes share this file system?"
        return f": {text}" if text else ", and without output"

    def _shrink(self, job: str, keep: str) -> f.Shrink:
        try:
            self._batch.release_nodes(job, [keep])
        except (ShrinkRefused, BatchUnavailable) as error:
            return f.Shrink(error=str(error))
        count = 0
        until = time.monotonic() + _SHRINK_S
        while count != 1 and time.monotonic() < until:
            with contextlib.suppress(BatchUnavailable):
                status = self._status(job)
                count = status.node_count if status is not None else 0
            time.sleep(_LOOK_S)
        return f.Shrink(nodes=count)

    def _end(self, job: str) -> bool:
        """Cancel the job, and return whether it has ended."""
        begun = time.monotonic()
        until = begun + _END_S
        cancelled = False
        while time.monotonic() < until:
            with contextlib.suppress(BatchUnavailable):
                # After a submission that was cut off the job is found by its name, maybe late.
                its = self._batch.jobs(self._request.name, [job] if job else [])
                left = [each for each, status in its.items() if status.phase is not Phase.ENDED]
                if not left and (job or its or time.monotonic() - begun > _LATE_S):
                    return True
                if left and not cancelled:
                    self._batch.cancel(left)
                    cancelled = True
            time.sleep(_LOOK_S)
        return False
