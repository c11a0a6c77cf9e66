"""The command line ``pilot``, on top of the Python API: `commands`, and what several of them need.

Code that a Python caller would need as well does not belong here. Exit codes are those of
`pilot.errors`, 2 for a wrong command line, 130 after Ctrl-C; errors of Pilot are one message
without a traceback.

Invariant: importing this package loads click and nothing larger, so that ``--help`` and the
completion of shells are quick. A command's module is imported when the command is asked for, and
that imports what it needs when it runs.
"""

from __future__ import annotations

import io
import os
import sys

import click

from pilot.cli.commands import COMMANDS
from pilot.cli.common import Program, Settings, site_option
from pilot.version import __version__


@click.group(cls=Program, late=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pilot", message="%(prog)s %(version)s")
@site_option
@click.pass_context
def cli(context: click.Context) -> None:
    """Elastic pilot jobs for Slurm: Python, MPI and shell tasks by the million.

    \b
    pilot run workflow.yaml        run a workflow, with its progress
    pilot submit -- COMMAND        run one command
    pilot status                   what is going on

    Exit codes: 0 all is well, 2 the command line is wrong, 3 the site (or: no head runs), 4 the
    workflow file, 5 the head, 6 the batch system, 7 a task was refused, 8 a task failed, 9 the
    disk is full, 130 Ctrl-C, 1 anything else.
    """
    context.ensure_object(Settings)


def main() -> None:
    """Run the console script ``pilot``."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Whatever is in a name, and whatever the terminal's encoding: it is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="pilot")


def _open_what_is_closed() -> None:
    """Open closed standard streams, so that no socket or file gets the number of one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as we live


__all__ = ["cli", "main"]
