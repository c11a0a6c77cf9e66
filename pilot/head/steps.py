"""The steps of the head's loop: a step that fails is logged, and the loop goes on.

Whatever is wrong with one task, pilot or file must not end everybody's work, and the next head
would meet the same. So a step that fails is tried again, later each time, while the others go on.

Invariants
----------
- A step that fails each time takes no more than one try in `MOST_S`, and writes no more than a line
  in `AGAIN_S`; the first time, with the traceback.
- What ends the process on purpose (`SystemExit`, a lost lease) is let through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pilot import clock
from pilot.clock import Clock

log = logging.getLogger("pilot.head")

#: The time until a failed step is tried again, in seconds: at first, and at most.
FIRST_S, MOST_S = 0.25, 10.0
#: The time between two log lines about a step that keeps failing, in seconds.
AGAIN_S = 60.0


class _Failing:
    """A step that failed the last time."""

    def __init__(self) -> None:
        self.error = ""
        self.count = 0
        self.logged = 0.0
        self.until = 0.0

    def note(self, name: str, error: Exception, now: float) -> None:
        self.count += 1
        self.error = f"{type(error).__name__}: {error}"
        self.until = now + min(MOST_S, FIRST_S * 2 ** min(self.count - 1, 10))
        if self.count == 1:
            log.error("%s: %s; the head goes on", name, self.error, exc_info=error)
        elif now - self.logged >= AGAIN_S:
            log.error("%s: %s; for the %d. time", name, self.error, self.count)
        else:
            return
        self.logged = now


class Steps:
    """Runs steps of the loop, whatever they raise.

    Parameters
    ----------
    now
        Tells the time.
    """

    def __init__(self, now: Clock = clock.now) -> None:
        self._now = now
        self._failing: dict[str, _Failing] = {}

    @property
    def trouble(self) -> str:
        """The step that fails now, and the error; empty if none fails."""
        for name, failing in self._failing.items():
            return f"{name}: {failing.error}"
        return ""

    def run(self, name: str, step: Callable[..., Any], *arguments: Any) -> bool:
        """Run a step, unless it has failed a moment ago; return True if it succeeded."""
        if self._failing:
            failing = self._failing.get(name)
            if failing is not None and self._now() < failing.until:
                return False
        return self.attempt(name, step, *arguments)

    def attempt(self, name: str, step: Callable[..., Any], *arguments: Any) -> bool:
        """Run a step that cannot be postponed, even if the same step has failed a moment ago."""
        try:
            step(*arguments)
        except Exception as error:
            self._failing.setdefault(name, _Failing()).note(name, error, self._now())
            return False
        if name in self._failing:
            del self._failing[name]
            log.info("%s: works again", name)
        return True
