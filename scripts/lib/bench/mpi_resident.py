"""Ranks that stay in MPI, as one writes them by hand: a program that a launcher starts.

Rank 0 tells all which function to call and with what, all call it, and rank 0 gathers what they
give. It says ``ready``, waits for a line, makes as many calls as its argument says, and says
``done``.
"""

from __future__ import annotations

import sys

from mpi4py import MPI


def sum_over_ranks(number: int) -> tuple[int, int]:
    """Return the number of ranks, and the sum of `number` over them, as in `bench.tasks`."""
    return MPI.COMM_WORLD.size, MPI.COMM_WORLD.allreduce(number)


FUNCTIONS = (sum_over_ranks,)


def main(count: int) -> None:
    """Make `count` calls."""
    world = MPI.COMM_WORLD
    root = world.rank == 0
    if root:
        print("ready", flush=True)
        sys.stdin.readline()
    for number in range(count):
        index, argument = world.bcast((0, number) if root else None)
        values = world.gather(FUNCTIONS[index](argument))
        if values and values[0] != (world.size, world.size * number):
            raise SystemExit(f"wrong: {values}")
    if root:
        print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
