"""Queries without a head: the same ones, on the database file, read-only.

Invariants
----------
- Nothing is written to the database, and a head that starts is not kept waiting: the file is open
  for the one question only, and not even locked where it was closed in good order.
- Nothing is read while somebody holds the lease: then the head is the one to ask.
- What was committed is seen, also after a head was killed and left its journal behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from pilot import clock
from pilot.errors import HeadError
from pilot.head import queries
from pilot.head.budget import recorded_accounts, recorded_session_accounts
from pilot.head.core.core import Core
from pilot.head.explain.view import View
from pilot.head.lease_files import read_lease
from pilot.head.outlook import ProvisioningView, budgets_of
from pilot.head.running import HeadChanges, lease_holder
from pilot.head.store.database_file import lacks_its_log, log_of, refuse_if_missing
from pilot.head.store.opening import readable
from pilot.head.store.reader import Reader
from pilot.head.store.statements import QUERIES, SCHEMA_VERSION, tables, upgrades
from pilot.site import Site
from pilot.site_configs import SiteConfig
from pilot.version import __version__


def _open(path: Path) -> Reader:
    """Open the database; if there never was one, an empty one in memory."""
    if _is_filled(path) or _is_filled(path.with_name(f"{path.name}-wal")):
        return Reader(_connect(f"file:{quote(str(path))}?{_mode(path)}"))
    database = _connect(":memory:")
    database.executescript(tables())
    database.execute(QUERIES["set_meta"], ("schema", str(SCHEMA_VERSION)))
    return Reader(database)


def _connect(uri: str) -> sqlite3.Connection:
    database = sqlite3.connect(uri, uri=True, isolation_level=None)
    database.text_factory = readable
    return database


def _mode(path: Path) -> str:
    """Return the options with which SQLite opens the file and sees everything committed.

    Raises
    ------
    HeadError
        The file needs to be repaired first.
    """
    if _is_filled(path.with_name(f"{path.name}-wal")):
        return "mode=ro"  # a head was killed: what it wrote last is still in the log
    if _is_filled(path.with_name(f"{path.name}-journal")):
        raise HeadError(
            f"the last head was killed while it wrote to {path}; `pilot head start` sets it right"
        )
    # Nobody writes: SQLite needs no lock, and no files of its own beside it.
    return "mode=ro&immutable=1"


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


class _NoFleet:
    """The fleet when no head runs: only the database knows of pilots."""

    pilots: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, config: SiteConfig, reader: Reader) -> None:
        self._config = config
        self._reader = reader

    def outlook(self) -> ProvisioningView:
        """Return an outlook without pilots, with the budgets."""
        accounts = recorded_accounts(self._reader, budgets_of(self._config), clock.now())
        of_sessions = recorded_session_accounts(self._reader)
        return ProvisioningView(self._config.kind, accounts=accounts, session_accounts=of_sessions)


def answer(site: Site, name: str, arguments: dict[str, Any]) -> Any:
    """Answer a query of `pilot.head.queries` from the database of a site without a head.

    Raises
    ------
    HeadChanges
        A head is just starting or ending.
    HeadError
        The file cannot be read.
    PilotError
        The subject of the question does not exist.
    """
    _check_lease(site)
    holder = read_lease(site.lease_file)
    refuse_if_missing(site, holder.database if holder is not None else "")
    has_log = log_of(site.database).exists()
    try:
        reader = _open(site.database)
        try:
            _check_schema(reader, site.database)
            if holder is not None and holder.unclosed and not has_log:
                known = holder.events if holder.database == reader.identity else 0
                if reader.next_event() <= known:
                    raise lacks_its_log(site.database)
            view = View(
                reader,
                Core(),
                _NoFleet(site.config, reader),
                {},
                lambda: _status(site, reader),
                reader.next_event() - 1,
            )
            found = queries.answer(view, name, arguments)
        finally:
            reader.close()
    except sqlite3.Error as error:
        _check_lease(site)
        raise HeadError(
            f"the database {site.database} cannot be read: {error}; `pilot head start` says more"
        ) from error
    _check_lease(site)  # it may have been written while it was read
    return found


def _check_lease(site: Site) -> None:
    holder = lease_holder(site)
    if holder is not None:
        raise HeadChanges(
            f"a head of {site.name} (pid {holder.pid} on {holder.host}) starts or ends right now; "
            "ask again in a moment"
        )


def _check_schema(reader: Reader, path: Path) -> None:
    version = reader.schema_version()
    if version == SCHEMA_VERSION:
        return
    known = version < SCHEMA_VERSION and upgrades(version) is not None
    raise HeadError(
        f"the database {path} has schema version {version}, this release of Pilot knows "
        f"{SCHEMA_VERSION}; "
        + ("`pilot head start` brings it up to date" if known else "use the release that wrote it")
    )


def _status(site: Site, reader: Reader) -> dict[str, Any]:
    """Return the status that a head would give, with None for what only a head has."""
    return {
        "site": site.name,
        "directory": str(site.directory),
        "host": None,
        "pid": None,
        "epoch": None,
        "version": __version__,
        "started": None,
        "unfinished": reader.rows("count_unfinished", {})[0]["tasks"],
        "clients": 0,
        "pilots": len(reader.rows("pilots_alive", {})),
        "trouble": "",
        "unwritten": "",
        "over_files": [],
        "stopping": "",
        "job": None,
        "awaits": None,
    }
