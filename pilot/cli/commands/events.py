"""``pilot events``: the changes of states, so far and as they happen."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import click

from pilot.cli.common import INTERRUPTED, asking, current_site, site_option
from pilot.cli.completing import complete_session, complete_task
from pilot.cli.output import coloured, json_text, moment, note
from pilot.cli.parameters import SESSION, TASK, Number
from pilot.texts import printable

if TYPE_CHECKING:
    from pilot.client.events import Event

#: No site comes to a number of an event that is higher.
_EVENTS = 10**18


@click.command()
@click.option(
    "--session",
    "session_id",
    type=SESSION,
    metavar="ID",
    help="Only events of this session. Default: all of the site.",
    shell_complete=complete_session,
)
@click.option(
    "--task",
    "task_id",
    metavar="ID",
    type=TASK,
    help="Only events of this task.",
    shell_complete=complete_task,
)
@click.option("--state", "states", multiple=True, help="Only changes into this state. Repeatable.")
@click.option(
    "--since",
    type=Number(-_EVENTS, _EVENTS),
    default=0,
    metavar="N",
    help="Only events after number N; negative: the last N events. Default: all.",
)
@click.option("--follow", "-f", is_flag=True, help="Wait for further events.")
@click.option("--limit", type=Number(1), help="Maximum number of events.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in each line.")
@site_option
@click.pass_context
def events(
    context: click.Context,
    session_id: int | None,
    task_id: str | None,
    states: tuple[str, ...],
    since: int,
    follow: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show every change of a state, once and in order.

    Each event has a number: --since N goes on after event N. --follow ends when the
    session is closed or the task has ended, and goes on over restarts of the head; without
    either it ends by Ctrl-C, and prints the number of the last event.
    """
    from pilot.client.events import read_events

    if session_id is not None and task_id is not None:
        raise click.UsageError("--task is in one session only; leave --session out")
    reached = since
    try:
        with asking(current_site(), quiet=follow) as ask:
            found = read_events(
                ask,
                since,
                session=session_id,
                task=task_id,
                state=states or None,
                follow=follow,
            )
            for event in itertools.islice(found, limit):
                click.echo(_json(event) if as_json else _line(event))
                reached = event.number
    except KeyboardInterrupt:
        note(f"go on with --since {reached}" if reached > 0 else "nothing has happened")
        context.exit(INTERRUPTED)


def _json(event: Event) -> str:
    return json_text(event._asdict())


def _line(event: Event) -> str:
    what = event.kind
    if event.task is not None:
        what += f" {event.task}"
    elif event.session:
        what += f" {event.session}"
    words = (f"{event.number:>8}", moment(event.at, exact=True), f"{what:14}")
    state = coloured(f"{event.state:9}" if event.detail else event.state)
    detail = printable(event.detail)
    return "  ".join((*words, state, detail) if detail else (*words, state))
