"""The options of commands for the jobs that heads run in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from pilot.cli.common import C

if TYPE_CHECKING:
    from pilot.head.head_jobs import HeadJob
    from pilot.site import Site


class Wish(NamedTuple):
    """The wishes for the job, where they differ from the site file."""

    #: In seconds; 0: as the site file says.
    walltime_s: float = 0.0
    pool: str = ""

    @property
    def is_any(self) -> bool:
        """True if anything was wished for."""
        return self != Wish()

    @property
    def options(self) -> list[str]:
        """The options of the command line that say the same."""
        walltime = ["--time", f"{self.walltime_s:g}s"] if self.walltime_s else []
        return walltime + (["--pool", self.pool] if self.pool else [])

    def check(self, site: Site) -> None:
        """Check that the site has the pool.

        Raises
        ------
        click.BadParameter
            It has not.
        """
        pools = site.config.pools
        if self.pool and self.pool not in pools:
            raise click.BadParameter(
                f"there is no pool {self.pool!r}; there are {', '.join(pools)}", param_hint="--pool"
            )

    def record(self, ends_with_work: bool) -> HeadJob:
        """Return it as what a record is to say."""
        from pilot.head.head_jobs import HeadJob

        return HeadJob(
            number=0, walltime_s=self.walltime_s, pool=self.pool, ends_with_work=ends_with_work
        )


def _walltime(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float:
    from pilot.scheduler.resources import parse_duration_s

    if text is None:
        return 0.0
    try:
        seconds = parse_duration_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not seconds > 0:
        raise click.BadParameter("must be longer than 0 s")
    return seconds


def walltime_option(command: C) -> C:
    """Add ``--time``."""
    return click.option(
        "--time",
        "walltime",
        metavar="TIME",
        callback=_walltime,
        help="The walltime of the job, such as 2h. Default: head.job.walltime of the site file.",
    )(command)


def pool_option(command: C) -> C:
    """Add ``--pool``."""
    return click.option(
        "--pool",
        default="",
        metavar="POOL",
        help="The pool whose partition, account and the like the job has.",
    )(command)


def hosted_options(command: C) -> C:
    """Add the options by which the job runs this command, which nobody else needs."""
    command = click.option("--directory", hidden=True)(command)
    return click.option("--hosted", hidden=True)(command)
