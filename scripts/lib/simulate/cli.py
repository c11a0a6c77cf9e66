"""The command line of ``scripts/simulate``. Exit status: 0; 1: a policy did not finish the work;
2: wrong usage."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pictures

from simulate import plot
from simulate.report import Row, table, write_trace
from simulate.run import simulate
from simulate.scenarios import POLICIES, RATES, SCENARIOS, Options, policy_for

_DESCRIPTION = """\
Let policies that ask Slurm for nodes meet the same work on the same simulated cluster: Pilot's own
decisions, Parsl's strategy "simple", HyperQueue's automatic allocation (both as documented), and
fixed allocations. docs/explanation/elasticity.md says what is simulated, and what is not.
"""
_SCENARIOS = """\
scenarios:
  w10         W10: 200 short tasks, 40 over two nodes, 100 short ones, with pauses between; for
              1,000 nodes 250 times as many tasks, 60 times as long
  preemption  work for 20 minutes on all nodes, with checkpoints every 10 s, while 0 to 50 % of the
              nodes are taken away each minute
  day         a day on a machine that others use too: sweeps, gangs of 8 nodes, rounds of short
              tasks, single ones

used/held is the part of the node-seconds that jobs had in which tasks made progress that counts;
starting, idle and lost (to interruptions) are the rest.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command given by `arguments` and return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.picture and (why := pictures.why_not()):
        parser.error(f"--picture: {why}")
    for path in (given.trace, given.picture):
        if path and not path.parent.is_dir():
            parser.error(f"{path}: there is no directory {path.parent}")
    options = Options(
        nodes=given.nodes,
        nodes_per_pilot=given.nodes_per_pilot,
        max_queued=given.max_queued,
        stretch=given.stretch,
        load=given.load,
        startup_s=given.startup,
        rates=given.rates or RATES,
        seed=given.seed,
        flexible=not given.inflexible,
    )
    began = time.monotonic()
    rows: list[Row] = []
    for variant, case in SCENARIOS[given.scenario](options):
        for name in given.policy or POLICIES:
            print(f"{name} {variant} …", file=sys.stderr, flush=True)
            rows.append(
                Row(
                    variant,
                    simulate(case, policy_for(name, case, given.submit_interval, given.idle_time)),
                )
            )
    is_rates = given.scenario == "preemption"
    print(table(rows, "%/min" if is_rates else ""))
    print(f"simulated in {time.monotonic() - began:.0f} s", file=sys.stderr)
    if given.trace:
        write_trace(given.trace, rows)
        print(f"trace: {given.trace}")
    if given.picture:
        (plot.draw_rates if is_rates else plot.draw_times)(given.picture, rows)
        print(f"picture: {given.picture}")
    return 0 if all(math.isfinite(row.outcome.makespan_s) for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulate",
        description=_DESCRIPTION,
        epilog=_SCENARIOS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scenario", choices=SCENARIOS, metavar="SCENARIO", help="one of those below"
    )
    parser.add_argument("--nodes", type=_count, default=0, metavar="N", help="of the cluster; 1000")
    parser.add_argument(
        "--nodes-per-pilot",
        type=_count,
        default=0,
        metavar="N",
        help="the most nodes of a pilot, block or allocation",
    )
    parser.add_argument(
        "--max-queued",
        type=_count,
        default=0,
        metavar="N",
        help="max_pilots_queued, or HyperQueue's backlog",
    )
    parser.add_argument(
        "--stretch", type=_seconds, default=0.0, metavar="X", help="w10: how many times as long"
    )
    parser.add_argument(
        "--load",
        type=_part,
        default=-1.0,
        metavar="P",
        help="the part of the machine that others keep busy, 0 to 1",
    )
    parser.add_argument(
        "--startup",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="seconds from the start of a job to the first word of its pilot",
    )
    parser.add_argument(
        "--submit-interval",
        type=_seconds,
        metavar="S",
        help="seconds between two submissions of ours; by default twice as long as one takes",
    )
    parser.add_argument(
        "--idle-time",
        type=_seconds,
        metavar="S",
        help="seconds for which ours keeps idle nodes; by what they were waited for",
    )
    parser.add_argument(
        "--inflexible",
        action="store_true",
        help="ours asks for pilots of the pool's shape, whatever starts first",
    )
    parser.add_argument(
        "--rate",
        type=_percent,
        action="append",
        dest="rates",
        metavar="P",
        help="preemption: %% of nodes taken away in a minute; may be repeated",
    )
    parser.add_argument(
        "--policy", choices=POLICIES, action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another history; 1")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write samples over time as CSV")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="draw them; needs matplotlib"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100000")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _part(text: str) -> float:
    number = float(text)
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _percent(text: str) -> float:
    return _part(str(float(text) / 100))
