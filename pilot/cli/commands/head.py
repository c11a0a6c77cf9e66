"""``pilot head``: start, stop and look at the process that keeps the tasks."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.common import asking, current_site, json_option, site_option
from pilot.cli.job_options import Wish, pool_option, walltime_option
from pilot.cli.output import counted, duration, moment, note, print_fields, print_json

if TYPE_CHECKING:
    from pilot.site import Site
    from pilot.wire.discovery import HeadAddress

#: Longer than a head waits for its pilots when it is told to end, in seconds.
_STOP_LIMIT_S = 60.0
#: Exit code of ``head status`` where none runs.
NOT_RUNNING = 3


@click.group()
def head() -> None:
    """Control the head: the process on the login node that keeps the tasks.

    The head starts by itself when it is needed, and ends when it has been idle for long.
    """


@head.command()
@click.option("--foreground", is_flag=True, help="Stay here, and log to the terminal.")
@click.option("--as-job", is_flag=True, help="Start it in a batch job, and wait for that.")
@walltime_option
@pool_option
@site_option
def start(foreground: bool, as_job: bool, walltime: float, pool: str) -> None:
    """Start the head, where none runs yet."""
    from pilot.client.starter import ensure_head, head_command
    from pilot.head.running import find_head, lives

    site = current_site()
    found = find_head(site)
    if found is not None and lives(site, found):
        click.echo(f"the head of {site.name} runs already: pid {found.pid} on {found.host}")
        check_batch(site)
        return
    wish = Wish(walltime, pool)
    if (wish.is_any or as_job) and (foreground or not as_job):
        raise click.UsageError("--time and --pool are for --as-job, which excludes --foreground")
    if as_job:
        from pilot.client.head_in_job import ensure_head_in_job

        wish.check(site)
        in_job = ensure_head_in_job(site, wish=wish.record(ends_with_work=False))
        assert in_job is not None, "a job was wished for"
        click.echo(f"the head of {site.name} runs: pid {in_job.pid} on {in_job.host}")
        return
    if foreground:
        command = head_command(site)
        os.execv(command[0], command)
    address = ensure_head(site)
    click.echo(f"the head of {site.name} runs: pid {address.pid} on {address.host}")
    check_batch(site)


def check_batch(site: Site) -> None:
    """Check that the batch system answers, and has what the site's pools name.

    Raises
    ------
    BatchError
        The batch system does not answer, or refuses the pools.
    """
    from pilot.errors import BatchError
    from pilot.scheduler.batch import base, open_batch

    batch = open_batch(site.config, site.jobs)
    try:
        trouble = batch.check(site.config.pools)
    except base.BatchError as error:
        raise BatchError(f"but it gets no pilots: {error}") from error
    finally:
        batch.close()
    if trouble:
        raise BatchError(
            f"but {trouble}. Mend {site.directory / 'site.yaml'}, and start the head again"
        )


@head.command()
@click.option(
    "--leave-pilots", is_flag=True, help="Let pilots go on with the tasks that they have."
)
@site_option
def stop(leave_pilots: bool) -> None:
    """End the head and its pilots, and wait until it is gone.

    Tasks that are not finished stay in the database; the next head goes on with them.
    """
    site = current_site()
    from pilot.client.head_in_job import withdraw

    if stop_head(site, leave_pilots) is None:
        job = withdraw(site, "`pilot head stop` was said")
        waited = f"; job {job}, which was to be, is cancelled" if job else ""
        click.echo(f"no head of {site.name} runs{waited}")
    else:
        click.echo(f"the head of {site.name} has ended")


def stop_head(site: Site, leave_pilots: bool = False) -> HeadAddress | None:
    """Tell a head to end, and wait until it has ended; return None where none runs.

    A head that does not answer, and does not renew its lease either, is killed.

    Raises
    ------
    HeadError
        The head does not answer, or does not end.
    """
    from pilot.client.connection import Connection
    from pilot.errors import HeadError
    from pilot.head.running import find_head
    from pilot.wire.discovery import read_address
    from pilot.wire.messages import client as m

    address = read_address(site.address_file)
    if address is None or address.is_dead() or not address.is_of(site.directory):
        return None
    if find_head(site) is None:
        return _stop_silent(site, address)
    try:
        connection = Connection(site, start=False)
        try:
            arguments = {"leave_pilots": leave_pilots}
            connection.request(lambda n: m.Command(n, "stop", arguments))
        finally:
            connection.close()
    except HeadError:
        if find_head(site) is not None:
            raise
        if not _is_gone(site, address):
            return _stop_silent(site, address)
        # Otherwise somebody else has just stopped it.
    await_end(site, address)
    return address


def await_end(site: Site, address: HeadAddress) -> None:
    """Wait until a head that was told to end has ended.

    Raises
    ------
    HeadError
        It goes on.
    """
    from pilot.errors import HeadError

    deadline = time.monotonic() + _STOP_LIMIT_S
    while not _is_gone(site, address):
        if time.monotonic() > deadline:
            raise HeadError(
                f"the head of {site.name} (pid {address.pid} on {address.host}) was told to end "
                f"{_STOP_LIMIT_S:.0f} s ago and has not; see {site.logs / 'head.log'}. "
                f"`kill -9 {address.pid}` there ends it, and nothing is lost by that"
            )
        time.sleep(0.05)


def _stop_silent(site: Site, address: HeadAddress) -> HeadAddress | None:
    """Kill a head whose lease has run out; where it is on another node, only report it."""
    from pilot.head.killing import kill_head

    why = (
        f"the head of {site.name} (pid {address.pid} on {address.host}) does not answer, and has "
        f"not renewed its lease for {site.config.lease.expire_s:g} s"
    )
    rest = "nothing is lost, and its pilots go on: the next head finds them"
    if kill_head(address, f"the head of {site.name}"):
        note(f"{why}: it was killed; {rest}")
        return address
    note(f"{why}: it counts as dead; {rest}")
    return None


def _is_gone(site: Site, address: HeadAddress) -> bool:
    from pilot.head.running import lease_holder

    if address.is_here():
        return address.is_dead()
    holder = lease_holder(site)
    return holder is None or holder.epoch != address.epoch


@head.command()
@json_option
@site_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Say whether the head runs: exit code 0 if so, 3 if not."""
    site = current_site()
    with asking(site, quiet=True) as ask:
        data = ask("head")
    running = data["pid"] is not None
    if as_json:
        print_json({"running": running, **data})
    elif running:
        print_fields(
            {
                "site": f"{data['site']}  {data['directory']}",
                "head": f"pid {data['pid']} on {data['host']}",
                "version": data["version"],
                "since": f"{moment(data['started'])} ({duration(time.time() - data['started'])})",
                "work": f"{counted(data['unfinished'], 'unfinished task')}, "
                f"{counted(data['pilots'], 'pilot')}",
                "job": in_job(data["job"]),
                "trouble": data["trouble"],
            }
        )
    else:
        click.echo(f"no head of {site.name} runs: {_why_not(site, data['unfinished'])}")
    context.exit(0 if running else NOT_RUNNING)


def in_job(job: dict[str, Any] | None) -> str:
    """Return what there is to say of the job that a head runs in; empty if it runs in none."""
    if job is None:
        return ""
    words = f"job {job['id']}"
    if job["ends"]:
        words += f", until {moment(job['ends'])}"
    if job["successor"]:
        words += f"; then job {job['successor']}: {job['successor_state']}"
    return words


def _why_not(site: Site, unfinished: int) -> str:
    from pilot.client.head_in_job import prospect
    from pilot.wire.discovery import read_address

    died = read_address(site.address_file)
    if coming := prospect(site):
        return coming
    why = f"the last one (pid {died.pid} on {died.host}) died" if died else "none was needed"
    if unfinished:
        note(
            f"{counted(unfinished, 'task')} {'is' if unfinished == 1 else 'are'} unfinished; "
            "`pilot head start` goes on with them"
        )
    return why
