"""``pilot init``: make a site. ``pilot site``: what it takes on the disk; copy its database, or
begin anew."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click

from pilot.cli.common import asking, commanding, current_site, json_option, site_option
from pilot.cli.completing import complete_template
from pilot.cli.output import amount, note, print_json, print_table
from pilot.cli.parameters import SESSION, TEMPLATE, Number

#: The mark of settings that a person has to check in a site file.
_MARK = "CHANGE"
#: A setting, which may be commented out.
_SETTING = re.compile(rf"\s*(# ?)?(?!{_MARK})\w+:")


class _Init(click.Command):
    """The command whose help lists the templates: they are files, read when somebody asks."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and the templates below them."""
        from pilot.site_configs import templates

        super().format_options(ctx, formatter)
        with formatter.section("Templates"):
            formatter.write_dl([*templates().items()])


@click.command(cls=_Init)
@click.option(
    "--template",
    "-t",
    type=TEMPLATE,
    shell_complete=complete_template,
    default="local",
    show_default=True,
    help="The site file to begin with.",
)
@click.argument("name", metavar="[NAME|PATH]", required=False)
def init(template: str, name: str | None) -> None:
    """Make a site, and say what to edit next.

    A NAME makes it under $PILOT_HOME (default: ~/.pilot), a PATH (with a slash) anywhere: choose a
    file system that the compute nodes share. Without either it is named as the template. Existing
    files are never overwritten.
    """
    from pilot.site import SITE_FILE, create_site, pilot_home

    wanted = name or template
    is_path = "/" in wanted or wanted.startswith(".")
    directory = Path(wanted).expanduser().absolute() if is_path else pilot_home() / wanted
    site = create_site(directory, template)
    file = directory / SITE_FILE
    click.echo(f"made site {site.name}: {file}")
    marked = _marked_lines(file.read_text("utf-8"))
    if marked:
        click.echo(f"\nEdit the lines that are marked {_MARK}:")
        for number, line in marked:
            click.echo(f"  {file}:{number}: {line}")
        click.echo("\nThen:")
    else:
        click.echo("\nNext:")
    said = shlex.quote(str(directory) if is_path else wanted)
    for command, meaning in (
        (f"export PILOT_SITE={said}", "if this is to be your default site"),
        (f"pilot head start --site {said}", "tells whether all is well"),
        (f"pilot submit --site {said} --wait -- hostname", "runs a first task"),
    ):
        click.echo(f"  {command:<{44 + len(said)}}  # {meaning}")


@click.group()
def site() -> None:
    """See what a site takes on the disk, copy its database, or begin with a new one."""


@site.command("size")
@click.option(
    "--limit", type=Number(0), default=10, show_default=True, help="The sessions that are listed."
)
@json_option
@site_option
def size_(limit: int, as_json: bool) -> None:
    """Show what the site takes on the disk, by what it is for, and the largest sessions.

    Each file is asked for its size: minutes where there are a million.
    """
    from pilot.data.usage import BY_SESSION, measure

    found = current_site()
    usage = measure(found.directory)
    largest = sorted(
        usage.sessions.items(), key=lambda item: -sum(part.size for part in item[1].values())
    )[:limit]
    with asking(found) as ask:
        known = {row["id"]: row for row in ask("sessions", limit=1_000_000)} if largest else {}
    sessions: list[dict[str, Any]] = [
        {
            "session": number,
            "name": known[number]["name"] if number in known else None,
            "state": known[number]["state"] if number in known else None,
            **{
                name: {"bytes": parts[name].size, "files": parts[name].files}
                for name in BY_SESSION
                if name in parts
            },
        }
        for number, parts in largest
    ]
    total = sum(part.size for part in usage.parts.values())
    if as_json:
        parts = {
            name: {"bytes": part.size, "files": part.files} for name, part in usage.parts.items()
        }
        print_json({"bytes": total, "parts": parts, "sessions": sessions})
        return
    print_table(
        ("part", "size", "files"),
        [(name, amount(part.size), part.files) for name, part in usage.parts.items() if part.files]
        + [("all", amount(total), sum(part.files for part in usage.parts.values()))],
    )
    if not sessions:
        return
    print_table(
        ("session", "name", "state", *BY_SESSION),
        [
            (
                row["session"],
                row["name"],
                row["state"],
                *(amount(row[name]["bytes"]) if name in row else "" for name in BY_SESSION),
            )
            for row in sessions
        ],
        cut={"name": 8},
    )
    note("`pilot session purge ID` deletes the results and checkpoints of a session that has ended")


@site.command()
@click.argument("file", type=click.Path(path_type=Path))
@site_option
def backup(file: Path) -> None:
    """Write a copy of the database into a new FILE.

    The head writes it, with all that is committed, and does nothing else meanwhile: some seconds
    for a million tasks. Results in files, below `results` in the site directory, are not in it. To
    go back to the copy, stop the head, put it in the place of tasks.db (and remove tasks.db-wal):
    pilots that have later tasks end then.
    """
    from pilot.wire.messages import client as m

    target = file.absolute()
    with commanding(current_site()) as command:
        command(lambda n: m.Command(n, "backup", {"file": str(target)}), None)
    click.echo(f"wrote {target}, {target.stat().st_size / 2**20:.1f} MiB")


@site.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@site_option
def reset(yes: bool) -> None:
    """Begin anew: move the database, results and checkpoints aside.

    Nothing is deleted: everything moves to a directory below that of the site. Keys, logs and
    site.yaml stay. No head may run.
    """
    from pilot.head.upkeep import reset as move_aside

    found = current_site()
    if not yes:
        click.confirm(f"move all tasks and results of {found.directory} aside?", abort=True)
    aside = move_aside(found)
    click.echo(f"moved everything to {aside}" if aside else f"{found.name} has no tasks")


@site.command(name="leave-out")
@click.argument("session", type=SESSION)
@site_option
def leave_out(session: int) -> None:
    """Count a SESSION as closed whose records in the database are damaged.

    Its unfinished tasks do not run. Nothing is deleted. No head may run.
    """
    from pilot.head.upkeep import leave_out as close

    close(current_site(), session)
    click.echo(f"session {session} is left out: it counts as closed")


def _marked_lines(text: str) -> list[tuple[int, str]]:
    """Return number and text of the settings that are marked, or follow a marked comment."""
    lines = text.splitlines()
    header = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    found = []
    announced = False
    for number, line in enumerate(lines[header:], start=header + 1):
        announced = announced or _MARK in line
        if announced and _SETTING.match(line):
            found.append((number, line.strip()))
            announced = False
    return found
