"""``pilot status``: the head, what the site has only once, open sessions and pilots, in short."""

from __future__ import annotations

from collections.abc import Mapping

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.lists import print_budgets, print_orders, print_pilots, print_sessions
from pilot.cli.output import counted, note, print_json, print_table


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
    if data["job"]:
        from pilot.cli.commands.head import in_job

        click.echo(f"the head runs in {in_job(data['job'])}")
    elif not running and data["unfinished"]:
        from pilot.client.head_in_job import prospect

        if words := prospect(site):
            note(words)
    if data["trouble"]:
        note(data["trouble"])
    if data["over_files"] and site.config.head.transport == "auto":
        note(
            f"{counted(len(data['over_files']), 'pilot')} reach this head over the shared file "
            "system, since the network does not lead to it: short tasks take longer so. Set "
            "head.address in site.yaml if there is an address that nodes reach, or head.transport "
            "to files, and pilots lose no time with trying"
        )
    if data["resources"]:
        click.echo()
        print_resources(data["resources"])
    if data["unheard"]:
        pilots = counted(len(data["unheard"]), "pilot")
        note(f"{pilots} of the previous head may use more of it, and have not reported yet")
    if data["sessions"]:
        click.echo()
        print_sessions(data["sessions"])
    if data["budgets"]:
        click.echo()
        print_budgets(data["budgets"])
    if data["orders"]:
        click.echo()
        print_orders(data["orders"])
    if data["fleet"]:
        click.echo()
        print_pilots(data["fleet"])


def print_resources(resources: Mapping[str, Mapping[str, float]]) -> None:
    """Print the resources that exist once per site, with what tasks have of them."""
    rows = [(name, amount["used"], amount["total"]) for name, amount in resources.items()]
    print_table(("resource", "used", "total"), rows)
