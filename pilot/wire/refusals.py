"""The log of refused connections: limited, so that it does not fill a disk."""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger("pilot.auth")

#: One line at most in so many seconds.
_EVERY_S = 1.0

_lock = threading.Lock()
_last = -_EVERY_S
_others = 0


def refused(whom: str) -> None:
    """Log that a connection was refused; safe in any thread."""
    global _last, _others
    with _lock:
        now = time.monotonic()
        if now - _last < _EVERY_S:
            _others += 1
            return
        others, _last, _others = _others, now, 0
    log.warning("refused: %s%s", whom, f" ({others} more since the last line)" if others else "")
