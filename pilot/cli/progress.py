"""How far a run is: a live view on a terminal, elsewhere a line now and then. All on stderr.

The numbers come from the futures; the head is asked, now and then and without waiting for it, only
for what the run waits for: jobs in the queue, a batch system that does not answer.
"""

from __future__ import annotations

import concurrent.futures
import functools
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pilot.cli.fleet import remark
from pilot.cli.output import counted, note

if TYPE_CHECKING:
    from pilot.future import Future
    from pilot.session import Session

#: How often the view is renewed, in seconds.
_REFRESH_S = 0.25
#: How often the head is asked, in seconds.
_ASK_S = 2.0
#: The least time between two lines, where there is no terminal.
_LINE_S = 10.0
#: So many groups of tasks are shown at a time.
_ROWS = 12


class Tally:
    """Counts the tasks that end, by group.

    Parameters
    ----------
    groups
        The futures by the name of their group.
    """

    def __init__(self, groups: Mapping[str, Sequence[Future[Any]]]) -> None:
        self._changed = threading.Condition()
        self.totals = {name: len(futures) for name, futures in groups.items()}
        self.done = dict.fromkeys(groups, 0)
        self.total = sum(self.totals.values())
        self.ended = 0
        self.failed = 0
        for name, futures in groups.items():
            for future in futures:
                future.add_done_callback(functools.partial(self._end, name))

    def _end(self, name: str, future: concurrent.futures.Future[Any]) -> None:
        failed = future.cancelled() or future.exception() is not None
        with self._changed:
            self.done[name] += 1
            self.ended += 1
            self.failed += failed
            if self.ended == self.total:
                self._changed.notify_all()

    def set(self, total: int, ended: int, failed: int) -> None:
        """Take over counts from who counts otherwise."""
        self.total, self.ended, self.failed = total, ended, failed

    def wait(self, timeout_s: float) -> bool:
        """Wait so long for the end of all; True when it has come."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended == self.total, timeout_s)


class Hint(NamedTuple):
    """What there is to say of the pilots."""

    text: str = ""
    #: Nothing goes on until this changes.
    waiting: bool = False


def hint_of(head: Mapping[str, Any], pilots: Sequence[Mapping[str, Any]]) -> Hint:
    """What to say, from the answers to the queries ``head`` and ``fleet``."""
    running = [row for row in pilots if row["state"] == "RUNNING"]
    queued = [row for row in pilots if row["state"] not in ("RUNNING", "ENDED")]
    if running:
        cores = sum(row["cores"] or 0 for row in running)
        text = f"{counted(len(running), 'pilot')}, {counted(cores, 'core')}"
        return Hint(text + (f"; {len(queued)} more in the queue" if queued else ""))
    if head["trouble"]:
        return Hint(head["trouble"], waiting=True)
    if queued:
        job = f"job {queued[-1]['job']}" if queued[-1]["job"] else "being submitted"
        why = remark(dict(queued[-1]))
        return Hint(
            f"waiting for {counted(len(queued), 'pilot')}: {job}" + (f" {why}" if why else ""),
            waiting=True,
        )
    return Hint()


class _Hints:
    """Asks the head now and then, and never waits for it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked = time.monotonic() - _ASK_S / 2
        self._answers: list[concurrent.futures.Future[Any]] = []
        self._hint = Hint()

    def now(self) -> Hint:
        """The newest that is known."""
        if self._answers and all(answer.done() for answer in self._answers):
            if not any(answer.exception() for answer in self._answers):
                self._hint = hint_of(*(answer.result() for answer in self._answers))
            self._answers = []
        if not self._answers and time.monotonic() - self._asked >= _ASK_S:
            self._asked = time.monotonic()
            self._answers = [
                self._session.ask("head"),
                self._session.ask("fleet", alive=True),
            ]
        return self._hint


class View(Protocol):
    """What shows the tally."""

    def show(self, hint: Hint) -> None:
        """Show how far it is now."""

    def __enter__(self) -> View:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""


def follow(session: Session, groups: Mapping[str, Sequence[Future[Any]]]) -> None:
    """Show how far the tasks are until all have ended."""
    tally = Tally(groups)
    hints = _Hints(session)
    view: View = LiveView(tally) if sys.stderr.isatty() else LineView(tally)
    with view:
        while not tally.wait(_REFRESH_S):
            view.show(hints.now())


class LineView:
    """A line when there is something new, but not too often."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._shown_at = time.monotonic()
        self._shown: object = (0, Hint())

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, hint: Hint) -> None:
        """Write a line, if it is time."""
        tally = self._tally
        said = (tally.ended, hint if hint.waiting else Hint())
        if said == self._shown or time.monotonic() - self._shown_at < _LINE_S * (not hint.waiting):
            return
        self._shown, self._shown_at = said, time.monotonic()
        failed = f", {tally.failed} failed" if tally.failed else ""
        text = f"; {hint.text}" if hint.text else ""
        note(f"{tally.ended} of {counted(tally.total, 'task')} ended{failed}{text}")


class LiveView:
    """Bars on the terminal: one for all tasks, one for each group that is under way."""

    def __init__(self, tally: Tally) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._tally = tally
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), auto_refresh=False
        )
        self._all = self._bars.add_task("all tasks", total=tally.total)
        self._rows = {
            name: self._bars.add_task(f"  {name}", total=total, visible=False)
            for name, total in tally.totals.items()
        }
        self._begin = time.monotonic()
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, hint: Hint) -> None:
        """Draw everything anew."""
        from rich.console import Group
        from rich.text import Text

        from pilot.cli.output import duration

        tally = self._tally
        self._bars.update(self._all, completed=tally.ended, total=tally.total)
        under_way = [n for n, done in tally.done.items() if 0 < done < tally.totals[n]][:_ROWS]
        for name, row in self._rows.items():
            self._bars.update(row, completed=tally.done[name], visible=name in under_way)
        parts = [duration(time.monotonic() - self._begin)]
        if tally.failed:
            parts.append(f"{tally.failed} failed")
        if hint.text:
            parts.append(hint.text)
        text = Text(
            "; ".join(parts), style="yellow" if hint.waiting else "dim", overflow="ellipsis"
        )
        self._live.update(Group(self._bars, text), refresh=True)
