"""The end of a program that has open sessions: they are detached, and their tasks go on.

Those of a session that ends with its client end a while later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from pilot.client import current
from pilot.errors import PilotError


def detach_all() -> None:
    """Detach all sessions at the end of a program, which leaves its tasks running for now."""
    try:
        for session in current.opened_here():
            session._detach()
    except PilotError as error:
        _end_badly(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end_badly("interrupted before the head had accepted all that was submitted", 130)


def _end_badly(text: str, status: int) -> None:
    """End a program that is already at its end: its exit status can be set in no other way."""
    print(f"pilot: {text}", file=sys.stderr)  # noqa: T201 - nobody else is left to
    with contextlib.suppress(Exception):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(status)
