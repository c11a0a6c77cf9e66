"""Progress of a run: a live view on a terminal, elsewhere a line now and then. All on stderr.

The numbers come from the futures as they are settled: no result is read for that. The head is
asked, now and then and without waiting for it, only for the causes of waiting: jobs in the queue,
a batch system that does not answer.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.util
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from pilot.client.future import Future
from pilot.client.hints import Hint, hint_of
from pilot.errors import PilotError
from pilot.formatting import counted, duration, shortened_cell
from pilot.notes import note
from pilot.texts import printable

if TYPE_CHECKING:
    from pilot.client.future import Owner

#: The interval at which the view is renewed, in seconds.
_REFRESH_S = 0.25
#: The interval at which the head is asked, in seconds.
_ASK_S = 2.0
#: The least time between two lines, where there is no terminal.
_LINE_S = 10.0
#: No guess is made of the end before, in seconds.
_GUESS_S = 2.0
#: The widest that names of groups are shown.
_NAME = 30
#: The factor between the time that an answer takes and the interval of asking, at least.
_SELDOM = 20
#: States of tasks that have ended otherwise than well, and what they are called.
_BAD = {"FAILED": "failed", "TIMED_OUT": "failed", "ABORTED": "aborted", "CANCELLED": "cancelled"}
#: The number of groups of tasks shown at a time.
_ROWS = 12


class Tally:
    """Counts of the tasks that have ended, by group.

    Parameters
    ----------
    groups
        The futures by the name of their group.
    """

    def __init__(self, groups: Mapping[str, Sequence[concurrent.futures.Future[Any]]]) -> None:
        self._changed = threading.Condition()
        self.totals = {name: len(futures) for name, futures in groups.items()}
        self.done = dict.fromkeys(groups, 0)
        self.total = sum(self.totals.values())
        self.ended = 0
        #: Numbers of tasks that have not ended well, by the word for it.
        self.bad = dict.fromkeys(_BAD.values(), 0)
        #: The number of running tasks, as far as is known.
        self.running = 0
        #: The number of tasks that had ended at the first look.
        self._before = 0
        for name, futures in groups.items():
            for future in futures:
                if isinstance(future, Future):
                    # Not as a user's callback: programs that wait in one shall see it, too.
                    future._when_done(functools.partial(self._end, name, future))
                else:
                    future.add_done_callback(functools.partial(self._end, name))

    def _end(self, name: str, future: concurrent.futures.Future[Any]) -> None:
        if isinstance(future, Future):
            state = future.state  # an exception is only unpickled on demand
        elif future.cancelled():
            state = "CANCELLED"
        else:
            state = "COMPLETED" if future.exception() is None else "FAILED"
        with self._changed:
            self.done[name] += 1
            self.ended += 1
            if state != "COMPLETED":
                self.bad[_BAD.get(state, "failed")] += 1
            if self.ended == self.total:
                self._changed.notify_all()

    def take(self, states: Mapping[str, int]) -> None:
        """Set the counts from the numbers of tasks by state, which somebody else has counted."""
        first = not self.total
        self.total = sum(states.values())
        self.ended = sum(states.get(state, 0) for state in ("COMPLETED", *_BAD))
        self.running = states.get("RUNNING", 0)
        self.bad = dict.fromkeys(_BAD.values(), 0)
        for state, word in _BAD.items():
            self.bad[word] += states.get(state, 0)
        if first:
            self._before = self.ended

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the end of all tasks; return True when they have ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended == self.total, timeout_s)

    def left_s(self, elapsed_s: float) -> float | None:
        """Return the estimated seconds until the end at the present rate; None where unknown."""
        ended = self.ended - self._before
        if ended <= 0 or self.ended >= self.total or elapsed_s < _GUESS_S:
            return None
        return elapsed_s / ended * (self.total - self.ended)

    def words(self, elapsed_s: float) -> list[str]:
        """Return the parts of a line besides the number of tasks that have ended."""
        said = [f"{self.running} running"] if self.running and self.ended < self.total else []
        said += [f"{count} {word}" for word, count in self.bad.items() if count]
        left = self.left_s(elapsed_s)
        return said if left is None else [*said, f"about {_guess(left)} left"]


def _guess(seconds: float) -> str:
    """Return an estimated time in words, without digits that mean nothing."""
    return duration(seconds) if seconds >= 59.5 else f"{max(1, round(seconds))} s"


class _Hints:
    """A source of hints that asks the head now and then, and never waits for it."""

    def __init__(self, session: Owner, tally: Tally) -> None:
        self._session = session
        self._tally = tally
        self._every_s = _ASK_S
        self._asked = time.monotonic() - _ASK_S / 2
        self._answers: list[concurrent.futures.Future[Any]] = []
        self._hint = Hint()

    def now(self) -> Hint:
        """Return the newest hint."""
        now = time.monotonic()
        if self._answers and all(answer.done() for answer in self._answers):
            if not any(answer.exception() for answer in self._answers):
                head, pilots, counts = (answer.result() for answer in self._answers)
                self._hint = hint_of(head, pilots)
                self._tally.running = counts.get("RUNNING", 0)
            self._answers = []
            took_s = now - self._asked - 2 * _REFRESH_S
            self._every_s = max(_ASK_S, _SELDOM * took_s)
        if not self._answers and now - self._asked >= self._every_s:
            self._asked = now
            with contextlib.suppress(PilotError):  # the futures tell what is wrong
                self._answers = [
                    self._session.ask("head"),
                    self._session.ask("fleet", alive=True),
                    self._session.ask("task_counts", session=self._session.id, state="RUNNING"),
                ]
        return self._hint


class View(Protocol):
    """A view of the tally."""

    def show(self, hint: Hint, last: bool = False) -> None:
        """Show the present progress; `last`: all tasks have ended."""

    def __enter__(self) -> View:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""


def follow(session: Owner, groups: Mapping[str, Sequence[Future[Any]]]) -> None:
    """Show the progress of tasks until all have ended."""
    tally = Tally(groups)
    _follow(tally, _Hints(session, tally))


def show(futures: Sequence[concurrent.futures.Future[Any]], timeout: float | None = None) -> None:
    """Show the progress of futures until all have ended, or the time is over."""
    groups: dict[str, list[concurrent.futures.Future[Any]]] = {}
    session: Owner | None = None
    for future in dict.fromkeys(futures):
        name = ""
        if isinstance(future, Future):
            name, session = future._name, future._session
        groups.setdefault(name or "tasks", []).append(future)
    tally = Tally(groups)
    hints = _Hints(session, tally) if session is not None and session.is_open else None
    _follow(tally, hints, timeout)


def _follow(tally: Tally, hints: _Hints | None, timeout: float | None = None) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    view: View = LiveView(tally) if sys.stderr.isatty() or _in_notebook() else LineView(tally)
    with view:
        while not tally.wait(_REFRESH_S):
            view.show(hints.now() if hints is not None else Hint())
            if end is not None and time.monotonic() >= end:
                return
        view.show(Hint(), last=True)


def _in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook that can draw bars."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    is_kernel = get_ipython is not None and hasattr(get_ipython(), "kernel")
    return is_kernel and importlib.util.find_spec("ipywidgets") is not None


def _label(name: str) -> str:
    return shortened_cell(printable(name), _NAME)


class LineView:
    """A view that writes a line when something is new, but not too often."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._begin = self._shown_at = time.monotonic()
        self._shown: object = (0, Hint())

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, hint: Hint, last: bool = False) -> None:
        """Write a line if it is time; the last one only after others."""
        tally, now = self._tally, time.monotonic()
        said = (tally.ended, hint if hint.waiting else Hint())
        if said == self._shown or now - self._shown_at < _LINE_S * (not hint.waiting):
            return
        self._shown, self._shown_at = said, now
        words = [f"{tally.ended} of {counted(tally.total, 'task')} ended"]
        words += [] if last else tally.words(now - self._begin)
        text = ", ".join(words) + (f"; {hint.text}" if hint.text else "")
        note(text)


class LiveView:
    """A view with bars on the terminal: one for all tasks, and one for each active group."""

    def __init__(self, tally: Tally) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        self._tally = tally
        # The bar takes what the terminal has, and names do not take more than a part of it.
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            auto_refresh=False,
            expand=True,
        )
        only = next(iter(tally.totals)) if len(tally.totals) == 1 else ""
        self._all = self._bars.add_task(_label(only) or "all tasks", total=tally.total)
        self._rows = {
            name: self._bars.add_task(f"  {_label(name)}", total=total, visible=False)
            for name, total in tally.totals.items()
            if not only
        }
        self._begin = time.monotonic()
        console = Console(stderr=True)
        # A notebook keeps what was shown last.
        transient = not console.is_jupyter
        self._live = Live(console=console, auto_refresh=False, transient=transient)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, hint: Hint, last: bool = False) -> None:
        """Draw everything anew."""
        from rich.console import Group
        from rich.text import Text

        tally = self._tally
        self._bars.update(self._all, completed=tally.ended, total=tally.total)
        under_way = [n for n, done in tally.done.items() if 0 < done < tally.totals[n]][:_ROWS]
        for name, row in self._rows.items():
            self._bars.update(row, completed=tally.done[name], visible=name in under_way)
        elapsed_s = time.monotonic() - self._begin
        parts = [duration(elapsed_s), *tally.words(elapsed_s)]
        if hint.text and not last:
            parts.append(hint.text)
        text = Text(
            printable("; ".join(parts)),
            style="yellow" if hint.waiting else "dim",
            overflow="ellipsis",
        )
        self._live.update(Group(self._bars, text), refresh=True)
