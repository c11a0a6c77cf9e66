"""The installation in which the pilots' tasks run, as far as the head knows it.

Where site.yaml leaves the Python to Pilot it is the head's own; what it names may be another one in
each job's environment, so that pilots tell. What the last one has told is kept in the database, for
the next head, as long as site.yaml names the same.
"""

from __future__ import annotations

import logging
import sqlite3

import msgspec

from pilot.data.pickling_by_value import INTERPRETER
from pilot.head.store.store import Store
from pilot.installed import installed
from pilot.model.installation import Installation

log = logging.getLogger("pilot.head")

_KEY = "installation"


class _Kept(msgspec.Struct, frozen=True):
    """The part of an installation that is kept."""

    setting: str
    installation: Installation


class PilotsInstallation:
    """The installation of the pilots.

    Parameters
    ----------
    store
        The database.
    setting
        ``environment.python`` of the site.
    """

    def __init__(self, store: Store, setting: str) -> None:
        self._store = store
        self._setting = setting
        self._own = setting == "auto"
        self._told = Installation(INTERPRETER) if self._own else self._kept()

    @property
    def python(self) -> str:
        """The Python of the pilots, for people; empty: not known."""
        return self._told.python

    @property
    def installation(self) -> Installation:
        """The whole of it."""
        if self._own and not self._told.packages:
            self._told = Installation(INTERPRETER, installed())
        return self._told

    def learn(self, told: Installation) -> bool:
        """Take in what a pilot tells of itself; return True if clients do not know that."""
        if self._own or not told.python or told == self._told:
            return False
        self._told = told
        try:
            kept = msgspec.json.encode(_Kept(self._setting, told)).decode()
            self._store.set_meta(_KEY, kept)
        except sqlite3.Error as error:
            log.warning("the packages of the pilots are not kept for the next head: %s", error)
        return True

    def _kept(self) -> Installation:
        try:
            kept = msgspec.json.decode(self._store.meta(_KEY) or "null", type=_Kept | None)
        except (msgspec.MsgspecError, sqlite3.Error):
            kept = None
        return kept.installation if kept and kept.setting == self._setting else Installation()
