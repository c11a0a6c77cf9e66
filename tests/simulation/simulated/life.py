"""A life: how large a site is, what is done there and what goes wrong, and when; from a seed.

Each move has a seed of its own, and so has each part of the site (`Cluster.chance`): where one move
is left out the others stay what they were, so that a life that fails can be made shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from simulated.moves import MOVES


class Size(NamedTuple):
    """The size of lives."""

    #: After this time nothing goes wrong any more, and what is left has to end, in seconds.
    calm_s: float
    #: All that takes long, and the patience of the program, is so many times shorter.
    haste: float
    #: The least and the largest number of submissions, and of other moves.
    submissions: tuple[int, int]
    others: tuple[int, int]
    #: The largest number of tasks in most submissions.
    tasks: int
    #: How likely a head dies at each thing that it asks of its ports, in one life or another.
    deaths: tuple[float, ...]


#: Two minutes with the program's own patience, in which hundreds of tasks run.
LONG = Size(120.0, 1.0, (5, 30), (0, 25), 7, (0.0, 0.0, 0.0002, 0.002))
#: Some seconds with a few tasks, in which as much goes wrong.
SHORT = Size(6.0, 10.0, (1, 6), (0, 8), 4, (0.0, 0.0, 0.001, 0.01))


class Move(NamedTuple):
    """Something that somebody does, or that goes wrong, so long after the beginning."""

    at_s: float
    kind: str
    seed: int


class Life(NamedTuple):
    """All that distinguishes a life from others."""

    size: Size
    seed: int
    moves: tuple[Move, ...]

    @staticmethod
    def draw(rng: Random, size: Size) -> Life:
        """Leave a life to chance."""
        seed = rng.randrange(1 << 32)
        kinds = ["submit"] * rng.randint(*size.submissions)
        kinds += [rng.choice(MOVES) for _ in range(rng.randint(*size.others))]
        moves = (
            Move(rng.uniform(0.0, size.calm_s * 0.95), kind, rng.randrange(1 << 32))
            for kind in kinds
        )
        return Life(size, seed, tuple(moves))

    def shortest(self, fails: Callable[[Life], bool]) -> Life:
        """Return this life, which fails, with only those of its moves that it takes."""
        life, count = self, len(self.moves)
        while count:
            first = 0
            while first < len(life.moves):
                moves = life.moves[:first] + life.moves[first + count :]
                shorter = life._replace(moves=moves)
                if fails(shorter):
                    life = shorter
                else:
                    first += count
            count //= 2
        return life
