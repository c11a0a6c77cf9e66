"""The comparison of this program's installation with the pilots'.

Code of another minor version of Python is refused when it is submitted. Packages that differ are
told, once for each session that submits functions: they may understand each other.
"""

from __future__ import annotations

import logging
import sys

from pilot.data.pickling_by_value import INTERPRETER, minor_version
from pilot.model.installation import Installation, difference
from pilot.texts import printable

log = logging.getLogger("pilot.client")


class Comparison:
    """The known part of the pilots' installation, and the sessions that were told."""

    def __init__(self) -> None:
        #: The Python of the pilots, for people; empty: not known.
        self.python = ""
        self._packages: dict[str, str] = {}
        #: The sessions that have submitted functions, those of them for which it was looked what
        #: differs, and those that were told.
        self._asked: set[int] = set()
        self._looked: set[int] = set()
        self._told: set[int] = set()

    def learn(self, there: Installation) -> None:
        """Take in what the head says of the pilots."""
        self.python, self._packages = there.python, there.packages
        self._looked = set(self._told)
        for session in list(self._asked):
            self.tell(session)

    def tell(self, session: int) -> None:
        """Tell the user of a session, which submits functions, what differs; once."""
        self._asked.add(session)
        if session in self._looked or self.python in ("", INTERPRETER):
            return
        self._looked.add(session)
        text = self._difference()
        if text:
            self._told.add(session)
            log.warning("pilot: session %d: %s", session, printable(text))

    def _difference(self) -> str:
        from pilot.installed import installed  # only where the Pythons are not the same

        here = Installation(INTERPRETER, installed())
        there = Installation(self.python, self._packages)
        packages = difference(here, there, list(sys.modules))
        text = ""
        if minor_version(self.python) not in (sys.version_info[:2], (0, 0)):
            text = f"this program runs in {INTERPRETER}, and tasks in {self.python}"
        elif packages:
            text = f"tasks run in {self.python}, and this program does not"
        if packages:
            text += (
                f"; packages have other versions here (there): {packages}; what is pickled by one "
                "may not be understood by the other"
            )
        return text
