"""The current instance: that of the innermost ``with`` block, or of the task that runs.

Each thread, and each asynchronous task, has its own.
"""

from __future__ import annotations

import contextvars
from typing import Any

_current: contextvars.ContextVar[Any] = contextvars.ContextVar("pymonik", default=None)

set_current = _current.set
reset_current = _current.reset


def current_instance() -> Any:
    """Return the current instance.

    Raises
    ------
    RuntimeError
        There is none.
    """
    found = _current.get()
    if found is None:
        raise RuntimeError(
            "there is no current instance of Pymonik: invoke tasks inside of "
            "`with Pymonik() as pymonik:`, or give pymonik="
        )
    return found
