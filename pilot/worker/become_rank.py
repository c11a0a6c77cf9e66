"""The last step before an MPI program: this process becomes one of its ranks.

The launcher starts this script in place of the program. It takes the cores, devices, variables and
output files of its rank, and then runs the program in its own place.

It is a script of what Python has loaded when it starts: each rank of each program pays for it, and
`json` and `typing` would cost it more than all the rest.

Invariants
----------
- What is not known for sure is left as it was: a rank without a number, or on another host than
  was planned, is not pinned.
- The program is the same process: whoever watches or ends the one watches and ends the other.
"""

from __future__ import annotations

import binascii
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: The variable with the plan of all ranks, as `mpi_program.RankPlan` has it.
VARIABLE = "PILOT_RANK_PLAN"
_NOT_FOUND, _NOT_STARTED = 127, 126


def packed(plan: dict[str, Any]) -> str:
    """Return a plan as the text of a variable, for this Python on the nodes of a pilot."""
    return binascii.b2a_base64(marshal.dumps(plan), newline=False).decode()


def unpacked(text: str) -> Any:
    """Return the plan that was `packed`."""
    return marshal.loads(binascii.a2b_base64(text))


def rank_in(environment: Mapping[str, str], names: Sequence[str]) -> int:
    """Return the number of this rank, which its launcher has told in one of these variables, the
    first of them that is there; -1 where it did not."""
    for name in names:
        text = environment.get(name, "")
        if text.isdecimal():
            return int(text)
    return -1


def cores_in(text: str) -> list[int]:
    """Return the numbers of cores in a text such as ``0-3,8``."""
    cores: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores


def own_cores(
    there: Sequence[int], cores: Sequence[int], each: int, local: int, of_node: int
) -> list[int]:
    """Return the real cores of a rank; empty where they are not known.

    Parameters
    ----------
    there
        The real cores that this process may run on.
    cores
        The cores of all ranks of this host, by their numbers among those of the node.
    each
        How many of them are one rank's.
    local
        The place of this rank among those of its host.
    of_node
        How many cores tasks may use of the node.
    """
    if len(there) >= of_node:
        known = [there[core] for core in cores if core < len(there)]
    elif len(there) == len(cores):
        known = list(there)  # the launcher runs on these cores itself, and so do its ranks
    else:
        return []
    return known[local * each : (local + 1) * each]


def share_of(plan: Mapping[str, Any], rank: int) -> tuple[Any, int]:
    """Return the share of the host of a rank, and the place of the rank among its ranks; None, 0
    for a rank that was not planned."""
    before = 0
    for share in plan["hosts"]:
        if before <= rank < before + share[1]:
            return share, rank - before
        before += share[1]
    return None, 0


def is_here(host: str) -> bool:
    """Tell whether a host is this one, named with or without its domain."""
    return host.split(".")[0] in ("localhost", os.uname().nodename.split(".")[0])


def take_share(plan: Mapping[str, Any], rank: int) -> None:
    """Take the cores, devices and variables of a rank."""
    os.environ.update(plan["variables"])
    if rank < 0:
        return
    share, local = share_of(plan, rank)
    os.environ["PILOT_RANK"] = str(rank)
    os.environ["PILOT_RANKS"] = str(sum(ranks for _, ranks, *_ in plan["hosts"]))
    if share is None or not is_here(share[0]):
        return
    _, _, cores, devices = share
    if devices:
        os.environ.update(devices[local])
    of_node = plan["cores_of_node"]
    if of_node > (os.cpu_count() or 1):
        return  # a node that is told to have more than there are, as in tests
    there = sorted(os.sched_getaffinity(0))
    if own := own_cores(there, cores_in(cores), plan["cores_per_rank"], local, of_node):
        os.sched_setaffinity(0, own)


def open_files(stdout: str, stderr: str, rank: int) -> None:
    """Open the files of a rank's output, where it has some of its own."""
    how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    ending = f".{rank}" if rank >= 0 else ""
    if stdout:
        os.dup2(os.open(stdout + ending, how, 0o666), 1)
    if stderr and stderr == stdout:
        os.dup2(1, 2)
    elif stderr:
        os.dup2(os.open(stderr + ending, how, 0o666), 2)


def main(words: Sequence[str]) -> None:
    """Become the program of these words; does not return."""
    plan = unpacked(os.environ.pop(VARIABLE))
    rank = rank_in(os.environ, plan["numbers"])
    try:
        take_share(plan, rank)
        open_files(plan["stdout"], plan["stderr"], rank)
        os.execvp(words[0], list(words))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = error.filename if error.filename is not None else words[0]
        # In one write: lines of several ranks must not mix.
        told = f"rank {rank} cannot start {words[0]}: {what}: {error.strerror}\n"
        os.write(2, told.encode(errors="replace"))
        os._exit(_NOT_FOUND if missing else _NOT_STARTED)


if __name__ == "__main__":
    main(sys.argv[1:])
