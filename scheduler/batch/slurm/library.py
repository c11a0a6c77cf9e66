"""Slurm by its library, pyslurm, where that is better than its commands: the second adapter.

The list of jobs, which is asked for all the time, comes from the library, without a new process for
each question, and with host lists of any length. All else goes by the commands, as in `commands`:

- Submissions, since ``sbatch`` does more than the library: SPANK and filter plugins, limits and
  umask that go with the job, and any option that a site file may hold.
- Accounting, cancelling, shrinking, allocations and trials, which are rare: pyslurm takes 128 off
  exit statuses from 128 on, takes any error number that is left over for one of cancelling, counts
  CPUs as if there were no hyper-threads, and has no trial.

Invariants:

- The library is in a process of its own (`library_process`), with a time limit for each question.
  Whatever it does, the head lives.
- Where the library gives no answer, for whatever reason, the commands are asked at once, and alone
  for a while: a Slurm that was upgraded, or a controller that comes back, is noticed.
- Both answer the same: what the library does not tell exactly is asked by the commands.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from typing import IO, Any, NamedTuple

from pilot.scheduler.batch.base import NO_PREFIX, BatchUnavailable, JobStatus, WhyEnded
from pilot.scheduler.batch.slurm import library_process
from pilot.scheduler.batch.slurm.answers import cut, read_row, release_of
from pilot.scheduler.batch.slurm.commands import SlurmBatch, command_environment

log = logging.getLogger("pilot.fleet")

#: After the library has failed, the commands are asked for so long, in seconds.
REST_S = 600.0
#: The library always gives the jobs of all users: where there are more, the controller is spared.
MOST_JOBS = 2000


class LibraryFailed(Exception):
    """The error that the library gave no answer; the message says why."""


class Versions(NamedTuple):
    """The versions of what has to fit together."""

    pyslurm: str
    #: The release of the library that pyslurm is bound to; empty: unknown.
    library: str
    controller: str


def why_not(interface: str, cluster: str) -> str:
    """Return the reason why the library is not even tried; empty if it is.

    Parameters
    ----------
    interface, cluster
        The keys of the site file, see `SlurmMannersKeys`.
    """
    if interface == "commands":
        return "slurm.interface says so"
    if cluster:
        return "pyslurm speaks to the default cluster alone, and slurm.cluster names one"
    if importlib.util.find_spec("pyslurm") is None:
        return "pyslurm is not installed"
    return ""


def mismatch(versions: Versions) -> str:
    """Return the reason why these versions do not fit; empty if they do.

    pyslurm reads the library's structures, which differ between releases; and a library of another
    release than the controller's may not understand what it is told.
    """
    release = release_of(versions.pyslurm)
    if versions.library and release_of(versions.library) != release:
        return (
            f"pyslurm {versions.pyslurm} was not built for the library that it finds, which is of "
            f"Slurm {versions.library}"
        )
    if release_of(versions.controller) != release:
        return (
            f"pyslurm {versions.pyslurm} is for another release than that of the cluster, Slurm "
            f"{versions.controller}"
        )
    return ""


def try_library(manners: Any) -> tuple[str, str]:
    """Return the version of pyslurm if it lists the jobs here, and else why it does not.

    Parameters
    ----------
    manners
        As for `BatchKind.open`.
    """
    if why := why_not(manners.interface, manners.cluster):
        return "", why
    batch = LibraryBatch(manners.command_limit_s, insists=manners.interface == "pyslurm")
    try:
        batch.jobs(NO_PREFIX)
        return batch.version, batch.trouble
    except BatchUnavailable as error:
        return "", batch.trouble or str(error)
    finally:
        batch.close()


class Library:
    """The process that has the library; it is started by the first question.

    Parameters
    ----------
    limit_s
        The time after which a question is given up, and the process ended, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._read = b""

    def start(self) -> Versions:
        """Start the process anew and return the versions that it tells.

        Raises
        ------
        LibraryFailed
            pyslurm cannot be loaded, or the controller gives no answer.
        """
        self.close()
        try:
            # In append mode, so that it can be emptied.
            self._errors = tempfile.TemporaryFile("a+b", prefix="pilot-slurm-")  # noqa: SIM115
            self._process = subprocess.Popen(
                # By its path: nothing in the current directory is taken for a module.
                [sys.executable, library_process.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=command_environment(os.environ, "pyslurm"),
                cwd="/",
            )
        except OSError as error:
            self.close()
            raise LibraryFailed(f"the process for pyslurm cannot be started: {error}") from error
        told = self._receive()
        return Versions(told["pyslurm"], told["library"], told["controller"])

    @property
    def runs(self) -> bool:
        """True if the process is there."""
        return self._process is not None

    def jobs(self, user: int) -> tuple[list[JobStatus], int]:
        """Return the jobs of a user, and the number of all users' jobs.

        Raises
        ------
        LibraryFailed
            No answer; the process is ended.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"%d\n" % user)
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: that it gives no answer says why
        told = self._receive()
        found = [read_row(row) for row in told["rows"]]
        return [job for job in found if job is not None], int(told["total"])

    def _receive(self) -> dict[str, Any]:
        """Return the next answer; end the process if there is none."""
        try:
            told: dict[str, Any] = json.loads(self._line())
            if "error" in told:
                raise LibraryFailed(str(told["error"]))
        except LibraryFailed:
            self.close()
            raise
        except ValueError as error:
            self.close()
            raise LibraryFailed(f"the answer of pyslurm's process is damaged: {error}") from error
        assert self._errors is not None
        self._errors.truncate(0)
        return told

    def _line(self) -> bytes:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        deadline = time.monotonic() + self._limit_s
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                raise LibraryFailed(f"pyslurm gave no answer within {self._limit_s:g} s")
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                raise LibraryFailed(f"pyslurm has ended its process: {self._last_words()}")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _last_words(self) -> str:
        assert self._process is not None
        assert self._errors is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = " ".join(line.strip() for line in lines[-6:] if line.strip())
        return cut(said) or f"exit status {self._process.returncode}"

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process, self._read = self._process, None, b""
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        if self._errors is not None:
            self._errors.close()
            self._errors = None


class LibraryBatch(SlurmBatch):
    """Pilots as jobs of a Slurm cluster that pyslurm lists. See `BatchSystem`.

    Parameters
    ----------
    command_limit_s
        The time after which a command, or a question to the library, is given up, in seconds.
    insists
        True if the library is to be used where it is of another release, or has to list many
        jobs of others, too.
    """

    def __init__(self, command_limit_s: float = 30.0, *, insists: bool = False) -> None:
        super().__init__(command_limit_s)
        self._insists = insists
        self._library = Library(command_limit_s)
        #: The version of pyslurm; empty: the commands are asked at present.
        self.version = ""
        #: The reason why the commands are asked at present; empty: the library is.
        self.trouble = ""
        #: The time until which the commands are asked, by the monotonic clock.
        self._rests_until = 0.0
        #: The jobs that failed, as the commands told them, by id.
        self._failed: dict[str, JobStatus] = {}

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """Return this user's jobs with this prefix of the name, or these ids, by one question."""
        if time.monotonic() < self._rests_until:
            return super().jobs(name_prefix, job_ids)
        try:
            self.open_library()
            listed, total = self._library.jobs(os.getuid())
        except LibraryFailed as why:
            self._rest(str(why))
            return super().jobs(name_prefix, job_ids)
        if total > MOST_JOBS and not self._insists:
            self._rest(f"pyslurm asks for the jobs of all users, and there are {total}")
        found = {
            job.job_id: job
            for job in listed
            if job.name.startswith(name_prefix) or job.job_id in job_ids
        }
        return self._exact(found, name_prefix, job_ids)

    def open_library(self) -> None:
        """Start the library if it is not there.

        Raises
        ------
        LibraryFailed
            It cannot be used; the message says why.
        """
        if self._library.runs:
            return
        versions = self._library.start()
        if not self._insists and (wrong := mismatch(versions)):
            raise LibraryFailed(wrong)
        self.trouble, self.version = "", versions.pyslurm
        log.info("jobs are listed by pyslurm %s from now on", versions.pyslurm)

    def _rest(self, why: str) -> None:
        self._library.close()
        self.version = ""
        self._rests_until = time.monotonic() + REST_S
        if why != self.trouble:
            log.info("jobs are listed by squeue for now: %s", why)
        self.trouble = why

    def _exact(
        self, found: dict[str, JobStatus], name_prefix: str, job_ids: Collection[str]
    ) -> dict[str, JobStatus]:
        """Return jobs with the exact exit statuses, which for those that failed are asked once."""
        failed = {id_: job for id_, job in found.items() if job.why_ended is WhyEnded.FAILED}
        exact = {
            id_: self._failed[id_]
            for id_, job in failed.items()
            if id_ in self._failed and self._failed[id_].ends_at == job.ends_at
        }
        if failed.keys() - exact.keys():
            found = super().jobs(name_prefix, job_ids)
            exact = {id_: job for id_, job in found.items() if job.why_ended is WhyEnded.FAILED}
        self._failed = exact
        return {**found, **exact}

    def close(self) -> None:
        """End the library's process."""
        self._library.close()
