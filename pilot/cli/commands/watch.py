"""``pilot session wait`` and ``watch``: following tasks that another program submitted.

Both ask now and then how many tasks have ended, and end with the session's last one. They
neither own nor change the session: Ctrl-C ends only the view.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from pilot.cli.arguments import newest_session_argument, sessions_argument
from pilot.cli.common import INTERRUPTED, asking, current_site, json_option, site_option
from pilot.cli.output import counted, note
from pilot.errors import PilotError, TaskError
from pilot.model.states import FAILURES, FINAL, UNSUCCESSFUL

if TYPE_CHECKING:
    from pilot.client.query_client import QueryClient
    from pilot.site import Site

#: Has a head of a site started where none runs.
Ensure: TypeAlias = "Callable[[Site], object]"
#: The least and the most time between two looks, in seconds. In between it is `_PAUSES` times what
#: a look takes; one that met a head that was about to end takes long, and says nothing of the next.
_LOOK_S, _LOOK_MOST_S = 0.5, 5.0
_PAUSES = 20.0
#: The exit code after a timeout, as of the program `timeout`.
TIMED_OUT = 124


@click.command()
@sessions_argument
@click.option("--timeout", metavar="TIME", help="Wait no longer than this, such as 10m.")
@site_option
def wait(session_ids: tuple[int, ...], timeout: str | None) -> None:
    """Wait until all tasks of sessions have ended.

    The exit code is 0 if all completed, 8 if one did not, 124 if the time is over.
    """
    from pilot.scheduler.resources import parse_duration_s

    try:
        limit_s = None if timeout is None else parse_duration_s(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from None
    deadline = None if limit_s is None else time.monotonic() + limit_s
    worst = 0
    with asking(current_site(), quiet=True) as ask:
        for session in dict.fromkeys(session_ids):
            counts = until_ended(ask, session, lambda _: None, deadline)
            if counts is None:
                note(f"session {session} has not ended after {timeout}")
                worst = TIMED_OUT
                break
            if bad := sum(counts.get(state, 0) for state in UNSUCCESSFUL):
                states = " ".join(f"--state {state}" for state in UNSUCCESSFUL if counts.get(state))
                note(
                    f"session {session}: {counted(bad, 'task')} of {sum(counts.values())} did not "
                    f"complete; `pilot task list --session {session} {states}` shows them"
                )
                worst = TaskError.exit_code
    click.get_current_context().exit(worst)


@click.command()
@newest_session_argument
@json_option
@site_option
def watch(session_id: int | None, as_json: bool) -> None:
    """Show the progress of a session (default: the newest), until its tasks have ended.

    The results of a workflow are printed at the end, as `pilot run` does. Ctrl-C ends the view,
    and nothing else.
    """
    site = current_site()
    with asking(site, quiet=True) as ask:
        number = ask("session", session=session_id)["id"]
    click.get_current_context().exit(watch_session(site, number, as_json=as_json))


def watch_session(
    site: Site, number: int, *, as_json: bool = False, ensure: Ensure | None = None
) -> int:
    """Show the progress of a session until its tasks have ended; return the exit code.

    Parameters
    ----------
    site, number
        The site, and the session.
    as_json
        Print the summary as JSON.
    ensure
        Has a head started where none runs; None: as any client does.
    """
    with asking(site, quiet=True) as ask:
        try:
            with _view(ask) as show:
                counts = until_ended(ask, number, show, None, ensure)
        except KeyboardInterrupt:
            note(f"session {number} goes on; `pilot session watch {number}` shows it again")
            return INTERRUPTED
        assert counts is not None, "there was no time limit"
        return tell_end(site, ask, number, counts, as_json)


def tell_end(
    site: Site, ask: QueryClient, number: int, counts: dict[str, int], as_json: bool
) -> int:
    """Print how a session has ended; return the exit code."""
    from pilot.cli.summaries import show_end
    from pilot.workflow.record import read_record
    from pilot.workflow.summary import summarise

    session = ask("session", session=number)
    # Classes of the user's own come from where the session's program found them.
    sys.path += [path for path in session["sys_path"] if path not in sys.path]
    record = read_record(site.results, number)
    if record is None:
        summary = _plain_summary(ask, number, counts)
    else:
        summary = summarise(record, number, site.results, ask)
    last = ask("tasks", session=number, sort="ended", reverse=True, limit=1)
    seconds = last[0]["ended"] - session["created"] if last else 0.0
    return show_end(session["name"], site, number, round(seconds, 3), summary, as_json)


def _plain_summary(ask: QueryClient, number: int, counts: dict[str, int]) -> dict[str, Any]:
    """Return the summary of a session without a workflow."""
    rows = ask("tasks", session=number, state=FAILURES, limit=100, current=True)
    errors = ((row, ask("task", task=row["id"])["error"] or {}) for row in rows)
    return {
        "tasks": sum(counts.values()),
        "states": counts,
        "found": 0,
        "failed": [
            {
                "task": row["id"],
                "label": row["name"],
                "state": row["state"],
                "error": f"{error.get('type', '')}: {error.get('message', '')}",
            }
            for row, error in errors
        ],
        "results": {},
        "data": None,
    }


def until_ended(
    ask: QueryClient,
    session: int,
    show: Callable[[dict[str, int]], None],
    deadline: float | None,
    ensure: Ensure | None = None,
) -> dict[str, int] | None:
    """Wait until no task of a session is unfinished.

    A head is started where none runs: without one nothing would ever end.

    Returns
    -------
    dict or None
        The number of tasks by state; None where the deadline came first.
    """
    while True:
        asked = time.monotonic()
        counts: dict[str, int] = ask("task_counts", session=session, current=True)
        if counts.keys() <= FINAL:
            return counts
        if not ask.has_head:
            (ensure or ensure_to_follow)(ask.site)
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return None
        show(counts)
        pause = min(max(_LOOK_S, _PAUSES * (now - asked)), _LOOK_MOST_S)
        time.sleep(pause if deadline is None else min(pause, max(0.0, deadline - now)))


def ensure_to_follow(site: Site) -> None:
    """Start a head where none runs, unless its job was cancelled."""
    from pilot.client.starter import ensure_head

    ensure_head(site, follows=True)


@contextmanager
def _view(ask: QueryClient) -> Iterator[Callable[[dict[str, int]], None]]:
    """Yield a function that shows counts of states, as the progress of `pilot run` does."""
    from pilot.client.hints import Hint, hint_of
    from pilot.client.progress import LineView, LiveView, Tally, View

    tally = Tally({})
    view: View | None = None

    def show(counts: dict[str, int]) -> None:
        nonlocal view
        tally.take(counts)
        if view is None:
            if not sys.stderr.isatty():
                note(f"{tally.ended} of {counted(tally.total, 'task')} ended")
            view = (LiveView if sys.stderr.isatty() else LineView)(tally)
            view.__enter__()
        try:
            hint = hint_of(ask("head"), ask("fleet", alive=True))
        except PilotError:
            hint = Hint()
        view.show(hint)

    try:
        yield show
    finally:
        if view is not None:
            view.__exit__(None, None, None)
