"""``pilot compat``: programs that were written for other systems."""

from __future__ import annotations

import click


@click.group()
def compat() -> None:
    """Run programs that were written for PymoniK or PyCOMPSs."""


@compat.command()
def path() -> None:
    """Print the directory with the modules that such programs import, for $PYTHONPATH.

    \b
    PYTHONPATH=$(pilot compat path) python program.py
    """
    from pilot.compat import search_directory

    click.echo(search_directory())
