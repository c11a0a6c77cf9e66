"""``pilot environment``: the virtual environments that were made for tasks of a site."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import click

from pilot.cli.common import current_site, json_option, site_option
from pilot.cli.output import ago, amount, note, print_json, print_table
from pilot.cli.parameters import DURATION
from pilot.errors import PilotError


@click.group()
def environment() -> None:
    """List and remove the environments that were built for tasks."""


@environment.command("list")
@json_option
@site_option
def list_(as_json: bool) -> None:
    """List the environments of pip's making: what they were asked to have, and their size."""
    from pilot.client.pip_builds import read_mark

    directory = current_site().environments
    rows: list[dict[str, Any]] = [
        {"environment": place.name, **mark, "size": _size(place)}
        for place in (sorted(directory.iterdir()) if directory.is_dir() else ())
        if (mark := read_mark(place))
    ]
    if as_json:
        print_json(rows)
    elif not rows:
        note("no environments")
    else:
        print_table(
            ("environment", "pip", "options", "python", "size", "made", "used"),
            [
                (
                    row["environment"],
                    " ".join(row["pip"]),
                    " ".join(row["options"]),
                    row["python"],
                    amount(row["size"]),
                    ago(row["made"]),
                    ago(row["used"]),
                )
                for row in rows
            ],
            cut={"pip": 20, "options": 12},
            drop=("options", "python", "made"),
        )


@environment.command()
@click.argument("names", nargs=-1, metavar="[ENVIRONMENT]…")
@click.option(
    "--unused",
    type=DURATION,
    metavar="TIME",
    help="Remove those that no program has asked for so long, as 90d.",
)
@site_option
def rm(names: tuple[str, ...], unused: float | None) -> None:
    """Remove environments; one that is asked for later is built again.

    Tasks that have one, and have not ended, fail.
    """
    from pilot.client.pip_builds import MARK, read_mark

    if bool(names) == (unused is not None):
        raise click.UsageError("give the names of environments, or --unused TIME")
    directory = current_site().environments
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    places = [place for place in entries if place.is_dir()]
    if unused is not None:
        before = time.time() - unused
        marks = {place.name: read_mark(place) for place in places}
        names = tuple(name for name, mark in marks.items() if mark and mark["used"] < before)
        if not names:
            note("no environment has been unused for so long")
    here = {place.name for place in places}
    for name in names:
        if name not in here:
            raise PilotError(
                f"there is no environment {name!r} in {directory}; `pilot environment list` shows "
                "them"
            )
    for name in names:
        (directory / name / MARK).unlink(missing_ok=True)  # first: nobody begins to use it
        shutil.rmtree(directory / name, ignore_errors=True)
        click.echo(f"environment {name} is removed")


def _size(place: Path) -> int:
    return sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir())
