"""``pilot fleet``: the pilots, each of them a job of the batch system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.output import ago, note, print_json, print_table
from pilot.cli.parameters import Number
from pilot.client.progress import remark


@click.group()
def fleet() -> None:
    """List the pilots: jobs of the batch system that run tasks."""


@fleet.command("list")
@click.option("--all", "everything", is_flag=True, help="Also pilots that have ended.")
@click.option("--limit", type=Number(1), default=100, show_default=True)
@json_option
@site_option
def list_(everything: bool, limit: int, as_json: bool) -> None:
    """List the pilots, the newest first."""
    site = current_site()
    with asking(site) as ask:
        rows = ask("fleet", alive=not everything, limit=limit)
    if as_json:
        print_json(rows)
    elif rows:
        print_pilots(rows)
    else:
        note("no pilots" + ("" if everything else " now; --all shows those that have ended"))


def print_pilots(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the query ``fleet``."""
    print_table(
        ("pilot", "pool", "job", "state", "nodes", "cores", "tasks", "started", "remark"),
        [
            (
                row["name"],
                row["pool"],
                row["job"],
                row["state"],
                row["nodes"],
                row["cores"],
                row["tasks"],
                ago(row["started"]),
                remark(row),
            )
            for row in rows
        ],
        cut={"remark": 20},
        drop=("cores", "nodes", "pool", "started"),
    )
