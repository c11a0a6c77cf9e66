"""``pilot retry``: running failed tasks again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pilot.cli.common import commanding, current_site, site_option
from pilot.cli.completing import complete_task_or_session
from pilot.cli.output import counted, note
from pilot.cli.parameters import TASK_OR_SESSION
from pilot.errors import PilotError

if TYPE_CHECKING:
    from pilot.site import Site


@click.command()
@click.argument(
    "ids",
    metavar="SESSION|TASK...",
    type=TASK_OR_SESSION,
    nargs=-1,
    required=True,
    shell_complete=complete_task_or_session,
)
@click.option(
    "--wait", is_flag=True, help="Wait, with the progress shown, as `pilot session watch` does."
)
@site_option
def retry(ids: tuple[str, ...], wait: bool) -> None:
    """Run failed tasks of sessions (3), or single ones (3.17), also cancelled ones, again.

    What was cancelled because the session ended with its client counts as failed.
    They become new tasks of the same session, with the same arguments; tasks that were aborted for
    want of their results run again, too. The results of a workflow are then those of the new tasks.
    """
    from pilot.cli.commands.watch import watch_session

    site = current_site()
    status = 0
    for session, tasks in _by_session(ids).items():
        count = _retry(site, session, tasks)
        if not count:
            note(
                f"session {session} has no failed tasks; cancelled ones run again where they are "
                f"named, as {session}.1"
            )
        elif wait:
            status = watch_session(site, session) or status
        else:
            note(
                f"{counted(count, 'task')} of session {session} again; `pilot session watch "
                f"{session}` shows how far they are"
            )
    click.get_current_context().exit(status)


def _by_session(ids: tuple[str, ...]) -> dict[int, list[str] | None]:
    """Return the ids sorted by session; None stands for all failed tasks of one."""
    from pilot.model.ids import parse_task_label, session_of

    found: dict[int, list[str] | None] = {}
    for text in ids:
        session = int(text) if text.isdecimal() else session_of(parse_task_label(text))
        if text.isdecimal():
            found[session] = None
        elif (tasks := found.setdefault(session, [])) is not None:
            tasks.append(text)
    return found


def _retry(site: Site, number: int, tasks: list[str] | None) -> int:
    """Run tasks of a session again; return their number. An ended session ends again."""
    from pilot.client.session import Session
    from pilot.wire.messages import client as m

    with commanding(site) as command:
        row = command(lambda n: m.Query(n, "session", {"session": number}))
        command(lambda n: m.ControlSession(n, number, "reopen"))
    session = Session(site, session_id=number)
    try:
        futures = session.retry(tasks)
        session.flush()
    finally:
        session.detach()
        if row["state"] != "OPEN":
            with commanding(site) as command:
                command(lambda n: m.ControlSession(n, number, "close"))
    _keep(site, number, {before: future.task for before, future in futures.items()})
    return len(futures)


def _keep(site: Site, session: int, new: dict[str, int]) -> None:
    """Change the record of a workflow, so that its results come from the new tasks."""
    from pilot.model.ids import parse_task_label
    from pilot.workflow.record import read_record, write_record

    record = read_record(site.results, session)
    if record is not None and new:
        ids = {parse_task_label(before): after for before, after in new.items()}
        try:
            write_record(site.results, session, record.with_ids(ids))
        except OSError as error:
            raise PilotError(
                f"`pilot session watch {session}` shows old results: {error}"
            ) from error
