"""Sessions that end with their clients, and the time for which these have been gone.

Only who has opened such a session, or attached to it, counts; it may come back as long as the
session's grace has not gone by.

Invariants
----------
- A session with a client that lives does not end.
- Only time counts in which the head could have heard of a client: neither that in which the head
  or its machine stood still, nor that in which there was no head. After a new head has started,
  clients have time to find it, besides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

#: The most that counts from one look to the next, in seconds (of a short grace a quarter): if that
#: was longer ago, the head stood still.
STEP_S = 1.0


class BoundSessions:
    """Decides which sessions to end because their clients have gone.

    Parameters
    ----------
    find_s
        The time that clients may need to find a new head, in seconds.
    """

    def __init__(self, find_s: float) -> None:
        self._find_s = find_s
        self._grace_s: dict[int, float] = {}
        #: The time for which each session has had no client; below 0: it is waited for longer.
        self._gone_s: dict[int, float] = {}
        self._looked: float | None = None

    def bind(self, session: int, grace_s: float, restored: bool = False) -> None:
        """Have a session end when its clients have been gone for so long, in seconds.

        Parameters
        ----------
        session
            The session.
        grace_s
            The time; 0: it does not end with its clients.
        restored
            True if an earlier head has bound it.
        """
        if grace_s > 0:
            self._grace_s[session] = grace_s
            self._gone_s[session] = -self._find_s if restored else 0.0
        else:
            self.release(session)

    def release(self, session: int) -> None:
        """Let a session live without its clients."""
        self._grace_s.pop(session, None)
        self._gone_s.pop(session, None)

    def due(
        self,
        sessions: Collection[int],
        is_attended: Callable[[int, float], bool],
        now: float,
    ) -> list[tuple[int, float]]:
        """Return the sessions to end now, each with its grace in seconds.

        Parameters
        ----------
        sessions
            The sessions that have not ended.
        is_attended
            Tells whether a client of a session is there, or was heard since a time.
        now
            The time.
        """
        last = now if self._looked is None else self._looked
        self._looked = now
        step = min(max(0.0, now - last), STEP_S)
        ended = []
        for session, grace_s in list(self._grace_s.items()):
            if session not in sessions:
                self.release(session)
            elif is_attended(session, last):
                self._gone_s[session] = 0.0
            else:
                self._gone_s[session] += min(step, grace_s / 4)
                if self._gone_s[session] >= grace_s:
                    ended.append((session, grace_s))
        return ended
