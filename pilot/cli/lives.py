"""The session of a run whose job may be requeued: the next life of the job goes on with it.

A requeued job begins its script anew, under the same id. ``pilot run WORKFLOW`` in it is begun
again too, and its tasks, which the next head has, are not to be submitted a second time. So a run
in a job notes in the site directory which session it has opened, and in which life of the job.

Invariants
----------
- A session is noted before a task of it is submitted, and once more when all of them are accepted.
- Of the runs of one workflow in a life of a job, the first goes on with the first session of the
  lives before that has all its tasks, the second with the second. A session that was cut off while
  it was submitted is cancelled, and another takes its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pilot.cli.output import note
from pilot.errors import PilotError
from pilot.model.bounds import UNREADABLE
from pilot.regular_files import NotRegularError, read_regular

if TYPE_CHECKING:
    from pilot.site import Site

#: More than the notes of any job take.
_MOST_BYTES = 1 << 20


class Note(msgspec.Struct, frozen=True, array_like=True):
    """A note of a run: its session, in a life of the job."""

    life: int
    session: int
    #: True once all of its tasks are accepted.
    is_whole: bool = False


class Earlier(NamedTuple):
    """The sessions of earlier lives that concern a run."""

    #: The session to go on with; None: there is none.
    goes_on: int | None
    #: Those that were cut off while they were submitted.
    cut_off: tuple[int, ...] = ()


def earlier(notes: Sequence[Note], life: int) -> Earlier:
    """Return what a run that begins in this life finds of earlier ones."""
    before = [note for note in notes if note.life < life]
    whole = list(dict.fromkeys(note.session for note in before if note.is_whole))
    here = {note.session for note in notes if note.life == life and note.is_whole}
    if len(here) < len(whole):
        return Earlier(whole[len(here)])
    opened = dict.fromkeys(note.session for note in before)
    return Earlier(None, tuple(session for session in opened if session not in whole))


class Lives:
    """The notes of a run in a job.

    Parameters
    ----------
    site
        The site.
    job
        The id of the job.
    life
        The number of its restarts.
    words
        The words that tell this run from others in the same job.
    """

    def __init__(self, site: Site, job: str, life: int, words: Sequence[str]) -> None:
        digest = hashlib.sha256("\0".join(words).encode(errors="surrogatepass")).hexdigest()[:12]
        self._path = site.jobs / f"{job}.{digest}.lives"
        self._site, self._life = site, life

    def begun(self) -> int | None:
        """Return the session of an earlier life to go on with; None: open one.

        What an earlier life has submitted in part is cancelled.
        """
        if not self._life:
            return None
        found = earlier(self._read(), self._life)
        for session in found.cut_off:
            _cancel(self._site, session)
        if found.goes_on is not None:
            self.note(found.goes_on, is_whole=True)
            _close(self._site, found.goes_on)
        return found.goes_on

    def note(self, session: int, *, is_whole: bool) -> None:
        """Note the session of this life.

        A run does not fail if that cannot be written: it prints a note.
        """
        line = msgspec.json.encode(Note(self._life, session, is_whole)) + b"\n"
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            note(f"if this job is requeued, it will submit session {session} anew: {error}")

    def _read(self) -> list[Note]:
        """Return the notes; of those that cannot be read, none."""
        notes = []
        try:
            for line in read_regular(self._path, _MOST_BYTES).splitlines():
                try:
                    notes.append(msgspec.json.decode(line, type=Note))
                except UNREADABLE:
                    continue  # the last one, cut off
        except FileNotFoundError:
            return []
        except (OSError, NotRegularError) as error:
            note(f"what this job has run before cannot be read: {error}")
        return notes


def _close(site: Site, session: int) -> None:
    """Have a session end with its last task: nobody is there to close it."""
    from pilot.cli.common import commanding
    from pilot.wire.messages import client as m

    with suppress(PilotError), commanding(site) as command:  # it has ended, or ends by itself
        command(lambda n: m.ControlSession(n, session, "close"))


def _cancel(site: Site, session: int) -> None:
    """End the tasks of a session that was cut off while it was submitted, and close it."""
    from pilot.cli.common import commanding
    from pilot.wire.messages import client as m

    try:
        with commanding(site) as command:
            command(lambda n: m.Cancel(n, session, [], ""))
            command(lambda n: m.ControlSession(n, session, "close"))
    except PilotError as error:
        note(f"session {session}, which was submitted in part, is not cancelled: {error}")
    else:
        note(f"session {session}, which was submitted in part, is cancelled: it begins anew")
