"""``pilot status``: the head, the open sessions and the pilots, in short."""

from __future__ import annotations

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.fleet import print_pilots
from pilot.cli.output import counted, note, print_json
from pilot.cli.session import print_sessions


@click.command()
@json_option
@site_option
def status(as_json: bool) -> None:
    """Show what is going on: head, open sessions, pilots."""
    site = current_site()
    with asking(site, quiet=True) as ask:
        data = ask("status")
    running = data["pid"] is not None
    if as_json:
        print_json({"running": running, **data})
        return
    where = f"runs (pid {data['pid']} on {data['host']})" if running else "does not run"
    click.echo(
        f"site {data['site']}: the head {where}, {counted(data['unfinished'], 'unfinished task')}"
    )
    if data["trouble"]:
        note(data["trouble"])
    if data["sessions"]:
        click.echo()
        print_sessions(data["sessions"])
    if data["fleet"]:
        click.echo()
        print_pilots(data["fleet"])
