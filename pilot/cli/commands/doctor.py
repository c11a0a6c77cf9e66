"""``pilot doctor``: check a site, here and on its nodes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.common import current_site, json_option, site_option
from pilot.cli.output import coloured, counted, note, print_json, say
from pilot.cli.parameters import DURATION

if TYPE_CHECKING:
    from pilot.doctor.report import Line
    from pilot.site import Site

#: Exit code where a problem was found.
PROBLEM = 1


@click.command()
@click.argument("pool", required=False)
@click.option("--job", "by_job", is_flag=True, help="Check nodes too, by a small job of POOL.")
@click.option(
    "--deadline",
    type=DURATION,
    metavar="TIME",
    default="10m",
    show_default=True,
    help="Give the job up after this time.",
)
@json_option
@site_option
@click.pass_context
def doctor(
    context: click.Context, pool: str | None, by_job: bool, deadline: float, as_json: bool
) -> None:
    """Check a site: file system, batch system, network, limits, MPI; say what to do.

    Without --job nothing is submitted, and it takes seconds. With it, one small job of the POOL
    (default: the first one of the site) checks nodes from inside; it is waited for and then
    cancelled, also by Ctrl-C. Exit code 1 if there is a problem.
    """
    from pilot.doctor.opening import open_in_time
    from pilot.doctor.report import summary

    site = open_in_time(_prepared_site)
    if pool is not None and not by_job:
        raise click.UsageError("a POOL is named for --job; without it all pools are checked")
    if pool is not None and pool not in site.config.pools:
        raise click.UsageError(
            f"there is no pool {pool!r}; there are {', '.join(site.config.pools)}"
        )
    lines: list[Line] = []
    for line in _lines(site, (pool or next(iter(site.config.pools))) if by_job else None, deadline):
        lines.append(line)
        if not as_json:
            _print(line)
    problems, warnings = summary(lines)
    if as_json:
        print_json(_data(site, lines, problems, warnings))
    else:
        click.echo(
            f"\n{counted(problems, 'problem')}, {counted(warnings, 'warning')}"
            + ("" if by_job else "; `pilot doctor --job` checks nodes too")
        )
    if problems:
        context.exit(PROBLEM)


def _prepared_site() -> Site:
    site = current_site()
    site.prepare()
    return site


def _lines(site: Site, pool: str | None, deadline_s: float) -> Iterator[Line]:
    from pilot.doctor.job import examine
    from pilot.doctor.report import Line, report_here, report_there
    from pilot.errors import BatchError, SiteError
    from pilot.findings import Level

    yield from report_here(site, pool is not None)
    if pool is None:
        return
    try:
        with _ending_by_signals():
            job, examined = examine(site, pool, deadline_s, note)
    except (BatchError, SiteError) as error:
        yield Line("job", Level.PROBLEM, str(error), "mend that, and try again")
        return
    yield from report_there(site, job, examined)


@contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Have signals that end this process raise an exception, so that the job is cancelled."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(line: Line) -> None:
    where = f"{', '.join(line.nodes)}: " if line.nodes else ""
    click.echo(coloured(f"{line.level.value:<8}") + f" {line.check:<16} ", nl=False)
    say(f"{where}{line.found}")
    if line.todo and line.level != "ok":
        say(f"{'':<25} -> {line.todo}")


def _data(site: Site, lines: list[Line], problems: int, warnings: int) -> dict[str, Any]:
    import msgspec

    return {
        "site": site.name,
        "problems": problems,
        "warnings": warnings,
        "findings": msgspec.to_builtins(lines),
    }
