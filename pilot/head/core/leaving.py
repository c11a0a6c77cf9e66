"""Abandoned sessions: their tasks have ended, and their clients have gone.

Such a session is closed after a while, so that lists do not fill up with sessions of notebooks
and programs that have ended. It is opened again when a client comes back to it.

Invariants
----------
- A session with an unfinished task, or with a client that lives, is not closed.
- Clients have the whole time to come back to a head that has just started.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from pilot.head.core.state import Session

#: The silence after which a client has gone, in seconds; a live one sends something each minute.
CLIENT_S = 300.0
#: The time between two searches for sessions to close, in seconds.
_LOOK_S = 1.0
#: The number of closed sessions that are remembered, for clients that come back.
_KNOWN = 10_000


class Leaving:
    """Decides which sessions to close, and which of the closed ones may be opened again.

    Parameters
    ----------
    grace_s
        The time that an abandoned session stays open, in seconds.
    known
        The sessions that earlier heads closed, as `text` gave them.
    """

    def __init__(self, grace_s: float, known: str = "") -> None:
        self._grace_s = grace_s
        self._since: dict[int, float] = {}
        self._looked = 0.0
        self._closed = dict.fromkeys(map(int, filter(None, known.split(","))))

    def due(
        self, sessions: Mapping[int, Session], is_attended: Callable[[int], bool], now: float
    ) -> list[int]:
        """Return the sessions to close now.

        Parameters
        ----------
        sessions
            The sessions that have not ended.
        is_attended
            Tells whether a client of a session lives.
        now
            The time.
        """
        if now - self._looked < _LOOK_S:
            return []
        self._looked = now
        left = [
            session.id
            for session in sessions.values()
            if not session.unfinished and not session.closed and not is_attended(session.id)
        ]
        self._since = {session: self._since.get(session, now) for session in left}
        return [session for session, since in self._since.items() if now - since >= self._grace_s]

    def closed(self, sessions: Iterable[int]) -> None:
        """Note that these sessions were closed."""
        self._closed.update(dict.fromkeys(sessions))
        for session in list(self._closed)[:-_KNOWN]:
            del self._closed[session]

    def opened(self, session: int) -> None:
        """Note that a session was opened again."""
        self._closed.pop(session, None)

    def __contains__(self, session: int) -> bool:
        return session in self._closed

    @property
    def text(self) -> str:
        """The sessions that were closed so, as text for the next head."""
        return ",".join(map(str, self._closed))


def lives(heard: Mapping[bytes, float], peers: Collection[bytes], now: float) -> bool:
    """Tell whether one of these clients has been heard from lately."""
    return any(now - heard.get(peer, 0.0) < CLIENT_S for peer in peers)
