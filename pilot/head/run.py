"""The head as a process: its log, its name in ``ps``, and its errors at the start."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

from pilot.data.patience import is_passing
from pilot.errors import HeadError, PilotError
from pilot.head.in_job import enter
from pilot.head.running import LOCKED, TRY_AGAIN, DatabaseLocked
from pilot.head.server import Head
from pilot.head.store.opening import open_error
from pilot.head.store.writer import may_pass
from pilot.launchers import leave_identity
from pilot.process import name_process, raise_file_limit, start_log
from pilot.site import open_site


def main(directory: Path, number: str = "", job: str = "", adopts: str = "") -> None:
    """Run the head of a site until it is told to end, or idle for long.

    Parameters
    ----------
    directory
        The site directory.
    number
        The number of the record of the batch job that this process runs in; empty: it is in none.
    job
        The id of that job, where this process is the child of a program in it.
    adopts
        Not empty if the job's nodes are to be the first pilot.
    """
    start_log()
    leave_identity(os.environ)
    try:
        site = open_site(directory)
        name_process(f"pilot head {site.name}")
        raise_file_limit()
        head = Head(site, enter(site, int(number), job, bool(adopts)) if number else None)
    except (PilotError, sqlite3.Error, OSError, RuntimeError) as error:
        passes = is_passing(error) or may_pass(error) or may_pass(error.__cause__)
        if isinstance(error, RuntimeError):
            if "start new thread" not in str(error):
                raise
            error = HeadError(
                f"the head cannot have the threads that it needs: {error}. There are as many "
                "processes and threads of yours as may be (ulimit -u; in a container its pids "
                "limit): end some, or start the head on another machine"
            )
        elif isinstance(error, sqlite3.Error):
            error = open_error(site.database, error)
        elif isinstance(error, OSError):
            if not passes:
                raise
            error = HeadError(f"the site directory cannot be read: {error}")
        is_locked = isinstance(error, DatabaseLocked)
        print(f"pilot: {error}", file=sys.stderr)  # noqa: T201 - the starter reads it
        # Not sys.exit: threads of a half-made head must not keep the process.
        sys.stderr.flush()
        os._exit(TRY_AGAIN if passes else LOCKED if is_locked else error.exit_code)
    head.run()
