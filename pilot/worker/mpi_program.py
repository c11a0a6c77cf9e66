"""The plan of an MPI program's ranks: which cores, devices, variables and files are each rank's.

Launchers know nothing of a pilot's cores. So they start `become_rank` in place of the program, and
every rank finds its own part in a plan that all get.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from pilot.launchers import RANK_NUMBERS
from pilot.process import resource_variables
from pilot.scheduler.amounts import GPUS
from pilot.scheduler.placement import NodeAllocation
from pilot.scheduler.resources import Resources
from pilot.variables import RANK, RANKS, thread_defaults
from pilot.wire.messages.worker import PROGRAM, LaunchPlan
from pilot.worker.become_rank import VARIABLE, packed, unpacked


class HostPart(msgspec.Struct, array_like=True):
    """The part of one host in a program, for consecutive ranks."""

    host: str
    ranks: int
    #: The cores of all these ranks, as runs: ``0-3,8``. A list of numbers, for each of a thousand
    #: hosts, would be longer than a variable may be.
    cores: str
    #: For each rank, the variables that tell it its devices; empty where there are none.
    devices: list[dict[str, str]] = []


class RankPlan(msgspec.Struct):
    """The plan of all ranks of a program."""

    hosts: list[HostPart]
    cores_per_rank: int
    cores_of_node: int
    #: Variables of all ranks: launchers hand on the environment that they are started in, or not.
    variables: dict[str, str] = {}
    #: Files of each rank, its number to be appended to their names; empty: they are the launcher's.
    stdout: str = ""
    stderr: str = ""
    #: The variables that may tell a rank its number.
    numbers: tuple[str, ...] = RANK_NUMBERS


def plan_ranks(
    shares: Sequence[NodeAllocation], need: Resources, cores_of_node: int
) -> dict[str, str]:
    """Return the variable with the plan of the ranks of a program on these shares."""
    hosts = [
        HostPart(share.node, share.ranks, runs(share.cores), _devices(share, share is shares[0]))
        for share in shares
    ]
    return _variable(RankPlan(hosts, need.cores, cores_of_node))


def as_ranks(
    plan: LaunchPlan,
    words: Sequence[str],
    environ: Mapping[str, str],
    variables: Mapping[str, str],
    stdout: str = "",
    stderr: str = "",
) -> tuple[list[str], dict[str, str]]:
    """Return the words that start a program as ranks, and the environment to start them in.

    Parameters
    ----------
    plan
        How ranks are started.
    words
        The program and its arguments.
    environ
        The environment of the executor, whose numbers of threads are for all ranks of its node
        together, if nobody has set others.
    variables
        What all ranks get in their environments, on whatever host.
    stdout, stderr
        Files of each rank; see `RankPlan`.
    """
    ranks = msgspec.convert(unpacked(plan.env[VARIABLE]), RankPlan)
    of_all = thread_defaults({}, max(1, ranks.hosts[0].ranks * ranks.cores_per_rank))
    of_each = thread_defaults({}, max(1, ranks.cores_per_rank))
    threads = {name: of_each[name] for name in of_all if environ.get(name) == of_all[name]}
    ranks.variables = {**threads, **variables}
    ranks.stdout, ranks.stderr = stdout, stderr
    # What the executor itself is means nothing for them.
    environ = {name: text for name, text in environ.items() if name not in (RANK, RANKS)}
    launched: list[str] = []
    for word in plan.argv:
        launched += _rank_words(words) if word == PROGRAM else [word]
    return launched, {**environ, **plan.env, **variables, **_variable(ranks)}


def _rank_words(words: Iterable[str]) -> list[str]:
    """Return the words by which a process that is started as a rank becomes a program."""
    script = Path(__file__).with_name("become_rank.py")
    # -I -S: what is installed, and variables for Python, are the program's.
    return [sys.executable, "-I", "-S", str(script), *words]


def runs(cores: Iterable[int]) -> str:
    """Return numbers as runs of numbers in a row, in their order: ``0-3,8``."""
    found = []
    for _, run in groupby(enumerate(cores), lambda item: item[1] - item[0]):
        numbers = [number for _, number in run]
        last = f"-{numbers[-1]}" if len(numbers) > 1 else ""
        found.append(f"{numbers[0]}{last}")
    return ",".join(found)


def _devices(share: NodeAllocation, is_first: bool) -> list[dict[str, str]]:
    """Return, for each rank of a host, the variables that tell which things are its own; of the
    first host, where this process runs, by the names that the job has for its GPUs."""
    if not share.indexed:
        return []
    found = []
    for rank in range(share.ranks):
        indices = {portion.name: portion.of_rank(rank).indices for portion in share.indexed}
        variables, _ = resource_variables(indices, len(indices.get(GPUS, ())), is_first)
        found.append(variables)
    return found


def _variable(plan: RankPlan) -> dict[str, str]:
    return {VARIABLE: packed(msgspec.to_builtins(plan))}
