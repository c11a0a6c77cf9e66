"""``pilot object``: named objects, their versions and aliases."""

from __future__ import annotations

import json
from typing import Any

import click

from pilot.cli.common import asking, commanding, current_site, json_option, site_option
from pilot.cli.completing import complete_object
from pilot.cli.output import ago, moment, note, print_fields, print_json, print_table, say
from pilot.cli.parameters import Number
from pilot.model.objects import parse
from pilot.texts import size_text


@click.group()
def object() -> None:  # noqa: A001 - the command has this name
    """List, show and remove named objects, and move their aliases."""


@object.command("list")
@click.argument("name", required=False, shell_complete=complete_object)
@click.option("--removed", is_flag=True, help="Also versions that were removed.")
@click.option("--limit", type=Number(1), default=100, show_default=True)
@json_option
@site_option
def list_(name: str | None, removed: bool, limit: int, as_json: bool) -> None:
    """List the versions of named objects (default: of all), by name, the newest first."""
    with asking(current_site()) as ask:
        # One more, to see whether there are any.
        rows = ask("objects", name=name, removed=removed, limit=limit + 1)
    has_more = len(rows) > limit
    del rows[limit:]
    if as_json:
        print_json(rows)
    elif rows:
        _print_objects(rows, removed)
    else:
        note("no named objects")
    if has_more:
        note("there are more: name one, or give a larger --limit")


def _print_objects(rows: list[dict[str, Any]], removed: bool) -> None:
    print_table(
        (
            *("object", "aliases", "size", "type", "tags", "session", "made by", "user"),
            *("made", *(("removed",) if removed else ())),
        ),
        [
            (
                row["object"],
                ", ".join(row["aliases"]),
                size_text(row["size"]),
                row["type"],
                _tags(row["tags"]),
                row["session"],
                row["made_by"],
                row["user"],
                ago(row["made"]),
                *((ago(row["removed"]),) if removed else ()),
            )
            for row in rows
        ],
        cut={"object": 16, "aliases": 8, "tags": 12, "type": 12},
        drop=("user", "session", "tags", "type"),
    )


def _tags(tags: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in tags.items()
    )


@object.command()
@click.argument("name", shell_complete=complete_object)
@json_option
@site_option
def show(name: str, as_json: bool) -> None:
    """Show a version: mesh is the newest, mesh@3 this one, mesh@best that of an alias."""
    with asking(current_site()) as ask:
        data = ask("named", name=name)
    value = data.pop("value")
    for inner in ("number", "count", "database"):
        del data[inner]
    data["file"], data["dataset"] = value["path"] or None, value["name"] or None
    if as_json:
        print_json(data)
        return
    print_fields(
        {
            "object": data["object"],
            "aliases": ", ".join(data["aliases"]) or None,
            "made": moment(data["made"]),
            "by": f"{data['user']}, in session {data['session']} ({data['session_name']})"
            + (f", task {data['made_by']}" if data["made_by"] else ""),
            "size": size_text(data["size"]),
            "type": data["type"] or None,
            "tags": _tags(data["tags"]) or None,
            "kept": f"until {moment(data['expires'])}" if data["expires"] else "until removed",
            "value": f"result {data['place']} of task {data['task']}",
            "file": f"{data['file']}: {data['dataset']}" if data["file"] else None,
        }
    )


@object.command()
@click.argument(
    "names", metavar="NAME@VERSION...", nargs=-1, required=True, shell_complete=complete_object
)
@site_option
def rm(names: tuple[str, ...]) -> None:
    """Remove versions, as mesh@3, for good: the numbers are not given again.

    Nothing is removed where an alias stands for one of them, or a task that has not ended needs it.
    """
    from pilot.wire.messages import client as m

    with commanding(current_site()) as command:
        say(command(lambda n: m.ControlObject(n, "remove", list(names))))


@object.command()
@click.argument("name", shell_complete=complete_object)
@click.argument("alias")
@click.argument("version", required=False)
@click.option("--remove", is_flag=True, help="Remove the alias.")
@site_option
def alias(name: str, alias: str, version: str | None, remove: bool) -> None:
    """Have an ALIAS of an object, as best in mesh@best, stand for a VERSION from now on."""
    from pilot.wire.messages import client as m

    if remove == (version is not None):
        raise click.UsageError("give a version, or --remove")
    wanted = parse(name)
    if wanted.version or wanted.alias:
        raise click.UsageError(f"{name!r}: give the name alone, such as {wanted.name!r}")
    verb, this = "unalias", name
    if version is not None:
        verb, this = "alias", f"{name}@{version}"
        if not parse(this).version:
            raise click.BadParameter(f"{version!r:.40} is no version: give a number from 1")
    with commanding(current_site()) as command:
        say(command(lambda n: m.ControlObject(n, verb, [this], alias)))
