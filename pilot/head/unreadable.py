"""The head's answers to data that is not a valid message: damaged, or of another release.

Invariants
----------
- A client that waits for an answer gets one, where the number of its request can be read.
- A pilot is asked to greet again, since what it told may be lost; not at each such message, so that
  one that it sends again and again keeps nobody busy.
"""

from __future__ import annotations

import typing

from pilot.head.connections import Send
from pilot.version import __version__
from pilot.wire.channel import Unreadable
from pilot.wire.messages import client as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome
from pilot.wire.messages.head import ToHead

#: The shortest time between two requests to a pilot to greet again, in seconds.
GREET_S = 10.0

_KINDS = {kind.__name__: kind.__struct_fields__[:1] for kind in typing.get_args(ToHead)}


class Answers:
    """Answers peers whose messages cannot be read.

    Parameters
    ----------
    epoch
        The head's epoch.
    send
        Sends a message to a peer.
    """

    def __init__(self, epoch: int, send: Send) -> None:
        self._epoch = epoch
        self._send = send
        self._asked: dict[bytes, float] = {}

    def answer(self, peer: bytes, what: Unreadable, now: float) -> None:
        """Tell a peer what was wrong with its message, if that can be said."""
        if peer.startswith(b"pilot:"):
            # Those that were asked longer ago may be asked again, and are as if they had not been.
            self._asked = {who: at for who, at in self._asked.items() if now - at <= GREET_S}
            if peer not in self._asked:
                self._asked[peer] = now
                self._send(peer, Welcome(self._epoch, __version__, refused=WHO_ARE_YOU))
        elif what.number is not None and _KINDS.get(what.kind, ("request",)) in (
            ("request",),
            ("seq",),
        ):
            unknown = "" if what.kind in _KINDS else f"; this head is Pilot {__version__}"
            self._send(
                peer,
                m.Reply(
                    what.number,
                    error=f"the head cannot read this {what.kind}: {what.reason}{unknown}",
                ),
            )
