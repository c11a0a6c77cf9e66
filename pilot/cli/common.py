"""Common parts of all commands: options, the current site, asking the head, exit codes."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pilot.cli.output import note
from pilot.errors import PilotError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pilot.client.query_client import QueryClient
    from pilot.site import Site

C = TypeVar("C", bound=Callable[..., Any])

#: Sends what a function gives for the number of the request, and gives the reply.
Command = Callable[..., Any]

INTERRUPTED = 130

#: The key under which a command notes that it has reported the missing head.
_SAID = "pilot.said_no_head"

_DATE = r"\d{4}-\d\d-\d\d"


class Settings:
    """The options before the command's name, which hold for it."""

    def __init__(self) -> None:
        #: Name or path of the site; None: ``$PILOT_SITE``, or ``local``.
        self.site: str | None = None


#: What Python says where it can start no thread: it has no class of its own.
_NO_THREAD = "can't start new thread"


class Program(click.Group):
    """The whole command line: exceptions of its commands become a message and an exit code.

    Its commands are imported when they are asked for: all of them take as long as one that runs.

    Parameters
    ----------
    late
        For each command: the module in `pilot.cli.commands` that defines it under its name, and its
        line in the list.
    """

    def __init__(self, *args: Any, late: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late = late

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, if there is one."""
        if cmd_name in self._late and cmd_name not in self.commands:
            module = import_module(f"pilot.cli.commands.{self._late[cmd_name][0]}")
            self.add_command(getattr(module, cmd_name))
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands, as click does, without importing them."""
        width = formatter.width - 6 - max(map(len, self._late))
        rows = [
            (name, click.Command(name, help=line).get_short_help_str(width))
            for name, (_, line) in self._late.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PilotError as error:
            _show_traceback()
            note(str(error))
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise  # whoever read the answer has enough of it
        except RuntimeError as error:
            if _NO_THREAD not in str(error):
                raise
            _show_traceback()
            note(_too_many_threads())
            ctx.exit(PilotError.exit_code)
        except OSError as error:
            _show_traceback()
            note(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
            # What could not be written is not tried again at the end, which would end with 120.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as we live
            ctx.exit(PilotError.exit_code)
        except KeyboardInterrupt:
            note("interrupted")
            ctx.exit(INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as in click
        """Return the commands in the order in which a new user needs them."""
        return list(self._late)


def _too_many_threads() -> str:
    """Return the message that no more processes and threads can be started."""
    import resource  # only now: it hardly ever happens

    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    allowed = "" if limit == resource.RLIM_INFINITY else f" There may be {limit} of yours here."
    return (
        "no more processes and threads can be started: have fewer of them, or raise the limit "
        f"(`ulimit -u`), which counts all of yours on a machine.{allowed}"
    )


def _show_traceback() -> None:
    """Print the traceback of the present exception, for people who look for faults in Pilot."""
    if os.environ.get("PILOT_DEBUG"):
        import traceback  # late, as all that a command may not need

        traceback.print_exc()


# --- options -------------------------------------------------------------------------------------


def _keep_site(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    settings = context.ensure_object(Settings)
    if value is not None:
        settings.site = value


def _complete_site(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from pilot.site import list_sites

    return [CompletionItem(name) for name in list_sites() if name.startswith(incomplete)]


def site_option(command: C) -> C:
    """Add ``--site``, which may stand before and behind the command's name."""
    return click.option(
        "--site",
        "-s",
        metavar="SITE",
        expose_value=False,
        callback=_keep_site,
        shell_complete=_complete_site,
        help="Name or path of the site. Default: $PILOT_SITE, or local.",
    )(command)


def json_option(command: C) -> C:
    """Add ``--json``, given to the command as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON; times in seconds since the epoch."
    )(command)


def when_option(name: str, help_text: str) -> Callable[[C], C]:
    """Return an option for a time: an age or a date; the value is in seconds since the epoch."""
    return click.option(name, metavar="TIME", callback=_when, help=help_text)


def _when(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from pilot.scheduler.resources import parse_duration_s

    try:
        if re.match(_DATE, value):
            return datetime.fromisoformat(value).timestamp()
        return time.time() - parse_duration_s(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r:.60} is no time; write an age as 90s, 10m, 2h or 3d, or a date as "
            "2026-11-20 or '2026-11-20 14:30'"
        ) from None


def current_site() -> Site:
    """Return the site that the command is for.

    Raises
    ------
    SiteError
        There is no such site.
    """
    from pilot.site import find_site

    return find_site(click.get_current_context().ensure_object(Settings).site)


# --- asking --------------------------------------------------------------------------------------


@contextmanager
def asking(site: Site, *, quiet: bool = False) -> Iterator[QueryClient]:
    """Yield a client that asks the head, or else the database, with a note unless `quiet`.

    Raises
    ------
    HeadError
        The head does not answer, or the database cannot be read.
    """
    from pilot.client.query_client import QueryClient

    with QueryClient(site) as ask:
        if not (ask.has_head or quiet or click.get_current_context().meta.get(_SAID)):
            click.get_current_context().meta[_SAID] = True
            note(f"no head of {site.name} runs: this is what its database has")
        yield ask


@contextmanager
def commanding(site: Site) -> Iterator[Command]:
    """Yield a `Command` that sends requests to the head of a site, which is started if necessary.

    Raises
    ------
    HeadError
        The head does not start or does not answer.
    """
    from pilot.client.connection import Connection

    connection = Connection(site, submits=False)
    try:
        yield connection.request
    finally:
        connection.close()
