"""Messages for people beside the answer of a command or program."""

from __future__ import annotations

import click

from pilot.texts import printable


def note(message: str) -> None:
    """Print a message beside the answer, to stderr."""
    text = "\n".join(printable(line.expandtabs()) for line in message.split("\n"))
    click.echo(f"pilot: {text}", err=True)
