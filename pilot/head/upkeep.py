"""Upkeep of a site by hand: start afresh, or go on without a damaged session.

Invariant: nothing is deleted, and nothing is touched while a head runs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pilot import clock
from pilot.data.durable import sync_directory
from pilot.errors import PilotError, SiteError
from pilot.head.lease import Lease
from pilot.head.store.database_file import SUFFIXES, fence, refuse_if_missing
from pilot.head.store.store import Store
from pilot.site import Site
from pilot.wire.discovery import read_address


def leave_out(site: Site, session: int) -> None:
    """Let the next head start without a session that is damaged.

    It counts as closed then. Its unfinished tasks stay as they are, and nothing of it is deleted.

    Raises
    ------
    HeadError
        A head runs.
    PilotError
        There is no such session that has not ended.
    """
    config = site.config.lease
    lease = Lease(site.lease_file, config.renew_s, config.expire_s)
    known = read_address(site.address_file)
    lease.acquire(known.epoch if known is not None else 0)
    lease.keep()
    try:
        refuse_if_missing(site, lease.database)
        if lease.unfenced:
            fence(site.database)
        store = Store(site.database, site.config.store.journal)
        try:
            lease.note(database=store.identity, unclosed=True)
            if not store.leave_out(session, clock.now()):
                raise PilotError(f"there is no open session {session}")
        finally:
            store.close()
            lease.note(unclosed=False)
    finally:
        lease.release()


def reset(site: Site) -> Path | None:
    """Move all tasks of a site aside, so that the next head begins with none.

    The epoch goes on: pilots that are left meet another database, and end.

    Parameters
    ----------
    site
        The site. What a user has set, keys and logs stay.

    Returns
    -------
    Path or None
        Where everything is now; None: there was nothing.

    Raises
    ------
    HeadError
        A head runs.
    SiteError
        The directory cannot be written.
    """
    config = site.config.lease
    lease = Lease(site.lease_file, config.renew_s, config.expire_s)
    known = read_address(site.address_file)
    lease.acquire(known.epoch if known is not None else 0)
    try:
        database = site.database
        files = [database.with_name(database.name + suffix) for suffix in SUFFIXES]
        there = [path for path in (*files, site.results, site.checkpoints) if path.exists()]
        aside = site.directory / time.strftime(f"before-%Y%m%d-%H%M%S-{os.getpid()}")
        if there:
            aside.mkdir(mode=0o700)
        for path in there:
            path.rename(aside / path.name)
        site.address_file.unlink(missing_ok=True)
        sync_directory(site.directory)
        lease.progress = lambda: 0
        lease.note(database="", unclosed=False)
    except OSError as error:
        raise SiteError(
            f"{error.filename} cannot be moved to {aside}: {error.strerror}; then try again"
        ) from error
    finally:
        lease.release()
    return aside if there else None
