"""``pilot why``: the causes for which something waits, and advice."""

from __future__ import annotations

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.completing import complete_task_or_session
from pilot.cli.output import print_json, say
from pilot.cli.parameters import SUBJECT


@click.command()
@click.argument(
    "subject",
    metavar="[TASK|RESULT|SESSION]",
    type=SUBJECT,
    required=False,
    shell_complete=complete_task_or_session,
)
@json_option
@site_option
def why(subject: str | None, as_json: bool) -> None:
    """Say what a task, a result or a session waits for, or how it ended.

    A task is named as 3.17, one of its results as 3.17/0 or 3.17/name, a session as 3; without
    an id it is the newest session. The first line has the answer, the lines below have the causes,
    and the last ones say what can be done.
    """
    with asking(current_site()) as ask:
        data = ask("why", subject=subject)
    if as_json:
        print_json(data)
        return
    from pilot.client.query_client import in_words

    say(in_words(data))
