"""``pilot fleet``: the pilots, each of them a job of the batch system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pilot.cli.common import (
    asking,
    commanding,
    current_site,
    json_option,
    site_option,
    when_option,
)
from pilot.cli.lists import print_orders, print_pilots
from pilot.cli.output import moment, note, print_json, say
from pilot.cli.parameters import DURATION, Number

C = TypeVar("C", bound=Callable[..., Any])


@click.group()
def fleet() -> None:
    """See and steer the pilots: jobs of the batch system that run tasks."""


@fleet.command("list")
@click.option("--all", "everything", is_flag=True, help="Also pilots that have ended.")
@click.option("--limit", type=Number(1), default=100, show_default=True)
@json_option
@site_option
def list_(everything: bool, limit: int, as_json: bool) -> None:
    """List the pilots, the newest first."""
    site = current_site()
    with asking(site) as ask:
        rows = ask("fleet", alive=not everything, limit=limit)
        orders = [] if as_json else ask("orders")
    if as_json:
        print_json(rows)
        return
    print_orders(orders)
    if rows:
        print_pilots(rows)
    else:
        note("no pilots" + ("" if everything else " now; --all shows those that have ended"))


def reason_option(command: C) -> C:
    """Add ``--reason``."""
    return click.option("--reason", default="", help="Kept, and shown by lists and explanations.")(
        command
    )


def _order(
    verb: str, subject: str, reason: str, nodes: int = 0, pool: str = "", within_s: float = 0.0
) -> None:
    """Send an order to the head, and print what will happen."""
    from pilot.wire.messages import client as m

    with commanding(current_site()) as command:
        say(command(lambda n: m.ControlFleet(n, verb, subject, nodes, reason, pool, within_s)))


@fleet.command()
@click.argument("pool")
@click.argument("nodes", metavar="N|auto")
@reason_option
@site_option
def scale(pool: str, nodes: str, reason: str) -> None:
    """Have a POOL keep N nodes, whatever there is to do, or follow its work again (auto).

    It holds until it is taken back, also for the next head. Pilots that are too many end with
    their tasks.
    """
    if nodes == "auto":
        _order("scale auto", pool, reason)
    elif nodes.isdecimal() and len(nodes) < 10:
        _order("scale", pool, reason, int(nodes))
    else:
        raise click.BadParameter(f"{nodes!r:.40} is neither a number of nodes nor auto")


@fleet.command()
@click.argument("pool")
@reason_option
@site_option
def hold(pool: str, reason: str) -> None:
    """Let no new pilots of a POOL come; those that are there, and in the queue, go on."""
    _order("hold", pool, reason)


@fleet.command()
@click.argument("pool")
@reason_option
@site_option
def resume(pool: str, reason: str) -> None:
    """Let new pilots of a POOL come again."""
    _order("resume", pool, reason)


@fleet.command()
@click.argument("pilot", required=False)
@click.option("--all", "everything", is_flag=True, help="All pilots.")
@click.option(
    "--within",
    "within_s",
    type=DURATION,
    metavar="TIME",
    default=0.0,
    help="Tell its tasks to stop, and end what still runs after this time, as 5m.",
)
@reason_option
@site_option
def drain(pilot: str | None, everything: bool, within_s: float, reason: str) -> None:
    """Have a PILOT, named or by its job, end when its tasks have; it gets no more."""
    if everything == (pilot is not None):
        raise click.UsageError("name a pilot or a job, or give --all")
    _order("drain", pilot or "", reason, within_s=within_s)


@fleet.command()
@click.argument("pilot")
@reason_option
@site_option
def cancel(pilot: str, reason: str) -> None:
    """Cancel the job of a PILOT, named or by its job; its tasks run elsewhere.

    An allocation that you have made yourself is not ended.
    """
    _order("cancel", pilot, reason)


@fleet.command()
@click.argument("job")
@click.option("--pool", default="", metavar="POOL", help="The pilot's pool; default: the first.")
@reason_option
@site_option
def adopt(job: str, pool: str, reason: str) -> None:
    """Make a running JOB of yours (salloc, a notebook's) a pilot, with what that has.

    Tasks use the cores, the memory and the GPUs that the job has on each node, and no more. The job
    stays yours: it is never ended, and `pilot fleet drain` has the pilot leave it.
    """
    _order("adopt", job, reason, pool=pool)


@fleet.command()
@when_option("--since", "Only what was decided at this time or later: 12h, or a date. Default: 1d.")
@click.option("--pool", metavar="POOL", help="Only this pool.")
@click.option("--limit", type=Number(1), default=1000, show_default=True)
@json_option
@site_option
def explain(since: float | None, pool: str | None, limit: int, as_json: bool) -> None:
    """Say what was decided on pilots, and why; the last lines say how pools stand now.

    The history is kept for 30 days, also while no head runs. It has what changed: pilots asked for
    and ended, and each new reason why a pool asks for no more nodes.
    """
    import time

    since = time.time() - 86400 if since is None else since
    with asking(current_site()) as ask:
        data = ask("explain_fleet", since=since, pool=pool, limit=limit)
    if as_json:
        print_json(data)
        return
    if data["cut"]:
        note(f"only the last {limit} lines are shown; --limit and --since show others")
    for entry in data["history"]:
        say(f"{moment(entry['at'])}  {entry['text']}")
    for pool_now in data["pools"]:
        say(f"pool {pool_now['pool']} now: {pool_now['text']}")
    if not (data["history"] or data["pools"]):
        note(f"nothing was decided since {moment(since)}")
