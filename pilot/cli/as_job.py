"""Runs in a batch job: the head in the present job, and ``pilot run --as-job``.

The job of ``run --as-job`` runs ``pilot run --hosted NAME``: it starts the head if there is none,
submits the workflow, or runs the program, and writes beside its output what whoever waits is to
know: ``NAME.session`` and ``NAME.exit``. The waiting command only reads; Ctrl-C ends the view, and
nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.common import INTERRUPTED
from pilot.cli.job_options import Wish
from pilot.cli.output import note, print_json
from pilot.errors import BatchError, HeadError, PilotError

if TYPE_CHECKING:
    from pilot.cli.lives import Lives
    from pilot.scheduler.batch import BatchSystem, JobStatus
    from pilot.site import Site

#: The interval at which the site directory is looked at, in seconds.
_LOOK_S = 0.5
#: The least interval at which the batch system is asked for the job, in seconds.
_ASK_S = 5.0
#: The bytes of a program's output that are read at a time.
_PIECE = 1 << 16


# --- in the job ----------------------------------------------------------------------------------


@contextmanager
def head_of_job(site: Site, hosted: str | None = None, wish: Wish | None = None) -> Iterator[None]:
    """Have heads started in the present job of the batch system, where one is needed.

    A head that runs already, or is to run in another job, is used.

    Parameters
    ----------
    site
        The site.
    hosted
        The name of the job where it was made for this run alone; its nodes are no pilot. None: the
        job is the user's, and its nodes are the first pilot.
    wish
        What successors are to be like.
    """
    from msgspec import json

    from pilot.client.starter import ensure_head
    from pilot.head import head_jobs
    from pilot.head.running import find_head

    job = _own_job(site, hosted)
    if not job:
        yield
        return
    wish = wish or Wish()
    host = head_jobs.Host(
        job=job,
        name=hosted or "",
        adopts=not hosted,
        walltime_s=wish.walltime_s,
        pool=wish.pool,
    )
    # Also where a head runs now: it may be about to end.
    os.environ[head_jobs.HOST_VARIABLE] = json.encode(host).decode()
    if find_head(site) is None:
        ensure_head(site)
        record = head_jobs.wanted(site)
        if record is not None and head_jobs.job_of(site, record) == job:
            note(
                f"the head of {site.name} runs in job {job}"
                + ("" if hosted else ", whose nodes are its first pilot")
            )
    try:
        yield
    finally:
        _end_program(site, job)


def _own_job(site: Site, hosted: str | None) -> str:
    """Return the id of the job that this process is in; empty: in none of the batch system."""
    if hosted:
        return os.environ.get("PILOT_JOB_ID", "")
    allocation = site.config.kind.own_allocation(os.environ)
    if allocation is None:
        return ""
    if allocation.parts > 1:
        from pilot.head.running import find_head

        if find_head(site) is None:
            raise HeadError(
                f"job {allocation.job_id} is heterogeneous ({allocation.parts} parts), and no "
                "pilot can use nodes of different kinds: run this in a job of one part, or let "
                "`pilot head start` on the login node ask for pilots"
            )
    return allocation.job_id


def lives_of(site: Site, hosted: str | None, words: Sequence[str]) -> Lives | None:
    """Return the notes of a run in the present job, in all of its lives; None: it is in none.

    Parameters
    ----------
    site
        The site.
    hosted
        As for `head_of_job`.
    words
        The words that tell this run from others in the same job.
    """
    from pilot.cli.lives import Lives

    if not hosted:
        own = site.config.kind.own_allocation(os.environ)
        return None if own is None else Lives(site, own.job_id, own.restart_count, words)
    restarts = os.environ.get("PILOT_RESTART_COUNT", "")
    life = int(restarts) if restarts.isdecimal() else 0
    return Lives(site, os.environ.get("PILOT_JOB_ID", ""), life, words)


def _end_program(site: Site, job: str) -> None:
    try:
        end_program(site, job)
    except PilotError as error:
        note(str(error))  # not in place of what the run ended with


def end_program(site: Site, job: str) -> None:
    """Tell the head of a job that its program is over, and wait until it has ended.

    It ends with its pilots, or leaves what others have submitted to another job. The head of
    another job, which has taken over meanwhile, goes on.
    """
    from pilot.cli.commands.head import await_end
    from pilot.client.connection import Connection
    from pilot.head import head_jobs
    from pilot.head.running import find_head
    from pilot.wire.messages import client as m

    address = find_head(site)
    record = head_jobs.wanted(site)
    is_ours = record is not None and head_jobs.job_of(site, record) == job
    if address is None:
        if is_ours and record is not None:
            head_jobs.close(site, record.number, f"the program of job {job} has ended")
        return
    try:
        connection = Connection(site, start=False, submits=False)
    except HeadError:
        if find_head(site) is None:
            return  # it has ended meanwhile
        raise
    try:
        status = connection.request(lambda n: m.Command(n, "stop", {"program_of": job}))
    finally:
        connection.close()
    if (status["job"] or {}).get("id") == job:
        await_end(site, address)


def note_session(site: Site, hosted: str | None, session: int) -> None:
    """Write down which session a run has, for whoever waits for it."""
    _note(site, hosted, "session", session)


def note_exit(site: Site, hosted: str | None, status: int) -> None:
    """Write down how a run has ended."""
    _note(site, hosted, "exit", status)


def _note(site: Site, hosted: str | None, what: str, number: int) -> None:
    if not hosted:
        return
    path = site.jobs / f"{hosted}.{what}"
    partial = path.with_name(f".{path.name}")
    partial.write_text(f"{number}\n")
    partial.replace(path)


class _HandedOver(Exception):
    """The signal that another job has the head now."""


def follow_hosted(site: Site, session: int, hosted: str) -> int:
    """Wait in the job until a session has ended, or another job has taken over.

    Return the exit code. Its progress and its end are in the job's output.
    """
    from pilot.cli.commands.watch import tell_end, until_ended
    from pilot.cli.common import asking
    from pilot.head import head_jobs

    job = os.environ.get("PILOT_JOB_ID", "")
    began = head_jobs.wanted(site)

    def look(_: dict[str, int]) -> None:
        record = head_jobs.wanted(site)
        if record is None or began is None or record.number == began.number:
            return
        if head_jobs.is_here(site, record.number):
            raise _HandedOver(head_jobs.job_of(site, record))

    with asking(site, quiet=True) as ask:
        try:
            counts = until_ended(ask, session, look, None)
        except _HandedOver as over:
            note(f"job {over} goes on with session {session} in place of job {job}")
            return 0
        assert counts is not None, "there was no time limit"
        status = tell_end(site, ask, session, counts, as_json=False)
    note_exit(site, hosted, status)
    return status


# --- on the login node ---------------------------------------------------------------------------


def run_as_job(
    site: Site,
    words: Sequence[str],
    wish: Wish,
    detach: bool,
    *,
    is_program: bool = False,
    as_json: bool = False,
) -> int:
    """Submit a job that runs a workflow or program, and show it until it has ended.

    Parameters
    ----------
    site
        The site.
    words
        What stands behind ``pilot run``: options, the file, arguments.
    wish
        What the job is to be like.
    detach
        Only submit, and print the job's id.
    is_program
        True if its output and exit status are what is to be shown.
    as_json
        Print the summary as JSON.

    Returns
    -------
    int
        The exit code: that of the run.

    Raises
    ------
    BatchError
        The job was not submitted.
    HeadError
        It has ended before it had begun, or was cancelled.
    """
    from pilot.head import head_jobs
    from pilot.interpreter import command_of_site
    from pilot.scheduler.batch import base, open_batch
    from pilot.site import working_directory

    site.prepare()
    wish.check(site)
    name = head_jobs.new_name(site, "run")
    where = ["--site", str(site.directory), "--directory", str(working_directory())]
    python = site.config.environment.python
    command = command_of_site(python, "run", *where, "--hosted", name, *wish.options, *words)
    # A program that was begun again would submit all of its tasks once more.
    request = head_jobs.request(site, name, command, *wish, restarts=not is_program)
    batch = open_batch(site.config, site.jobs)
    try:
        try:
            job = batch.submit(request)
        except base.BatchUnavailable as error:
            raise BatchError(f"{error}. The job may come all the same: look for {name}") from error
        except (base.SubmitRefused, ValueError) as error:
            raise BatchError(f"the run was not submitted: {error}") from error
        note(f"job {job} runs it; its output: {site.jobs / f'{job}.out'}")
        if detach:
            if as_json:
                print_json({"job": job, "name": name})
            else:
                click.echo(job)
            return 0
        run = _Run(site, batch, name, job)
        try:
            return run.follow_program() if is_program else _follow_workflow(run, wish, as_json)
        except KeyboardInterrupt:
            note(f"job {job} goes on; {site.config.kind.end_advice(job)}, and its tasks")
            return INTERRUPTED
    finally:
        batch.close()


def _follow_workflow(run: _Run, wish: Wish, as_json: bool) -> int:
    from pilot.cli.commands.watch import watch_session
    from pilot.client.head_in_job import ensure_head_in_job

    session = run.await_session()
    if isinstance(session, HeadError):
        raise session
    note(f"session {session} on {run.site.name}, in job {run.job}")
    record = wish.record(ends_with_work=True)

    def ensure(site: Site) -> Any:
        return ensure_head_in_job(site, follows=True, wish=record)

    return watch_session(run.site, session, as_json=as_json, ensure=ensure)


class _Run:
    """A run in a job, as whoever waits for it sees it."""

    def __init__(self, site: Site, batch: BatchSystem, name: str, job: str) -> None:
        self.site, self.job = site, job
        self._batch, self._name = batch, name
        self._asked = time.monotonic()
        self._told = ""
        self._ended_since: float | None = None

    def _read(self, what: str) -> int | None:
        try:
            return int((self.site.jobs / f"{self._name}.{what}").read_text())
        except (OSError, ValueError):
            return None

    def await_session(self) -> int | HeadError:
        """Return the session of the run, or why there is none."""
        while (session := self._read("session")) is None:
            if (how := self._how_ended()) is not None:
                return self._lost(how)
            time.sleep(_LOOK_S)
        return session

    def follow_program(self) -> int:
        """Show the output of a program until it has ended; return its exit status."""
        output = self.site.jobs / f"{self.job}.out"
        shown = 0
        while True:
            status = self._read("exit")
            how = self._how_ended() if status is None else None
            shown = _copy(output, shown)
            if status is not None:
                return status
            if how is not None:
                raise self._lost(how)
            time.sleep(_LOOK_S)

    def _how_ended(self) -> str | None:
        """Return how the job has ended; None while it has not, or nobody knows.

        What it has written last may be seen late, so its end counts a while later.
        """
        from pilot.scheduler.batch import BatchError as NoAnswer
        from pilot.scheduler.batch import Phase

        now = time.monotonic()
        manners = self.site.config.manners
        if now - self._asked >= min(_ASK_S, max(manners.poll_interval_s, _LOOK_S)):
            self._asked = now
            with suppress(NoAnswer):
                listed = self._batch.jobs(self._name, [self.job])
                found = listed.get(self.job) or self._batch.account([self.job]).get(self.job)
                self._tell(found)
                ended = found is None or found.phase is Phase.ENDED
                if not ended:
                    self._ended_since = None
                elif self._ended_since is None:
                    self._ended_since = now
        patience_s = max(self.site.config.data.patience_s, 2 * _LOOK_S)
        if self._ended_since is None or now - self._ended_since < patience_s:
            return None
        return self._told or "is not known any more"

    def _tell(self, found: JobStatus | None) -> None:
        from pilot.client.head_in_job import judge

        said = judge(found, True, 1e9, 0.0, 0.0).words
        if said != self._told and "waits" in said:
            note(f"job {self.job} {said}")
        self._told = said

    def _lost(self, how: str) -> HeadError:
        from pilot.client.head_in_job import last_words

        return HeadError(
            f"job {self.job} has ended before the run: {how}"
            + last_words(self.site, self.job)
            + ". What it had submitted goes on with the next head: `pilot session list` shows it"
        )


def _copy(path: Path, begin: int) -> int:
    """Write what has come to a file since a position to stdout; return the new position."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            while piece := file.read(_PIECE):
                begin += len(piece)
                sys.stdout.buffer.write(piece)
    except FileNotFoundError:
        return begin
    sys.stdout.flush()
    return begin
