"""The core and the pilots' rules, through hundreds of random lives of a site.

``PILOT_SIMULATION_SEED=123 pytest tests/simulation`` replays one of them;
``PILOT_SIMULATIONS=10000`` runs that many.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster import Cluster

_SEED = os.environ.get("PILOT_SIMULATION_SEED")
_COUNT = int(os.environ.get("PILOT_SIMULATIONS", "150"))
_CHUNK = 25


@pytest.mark.parametrize(
    "first", [int(_SEED)] if _SEED else range(0, _COUNT, _CHUNK), ids=lambda n: f"seeds-from-{n}"
)
def test_everything_ends_well(first: int) -> None:
    for seed in range(first, first + (1 if _SEED else _CHUNK)):
        try:
            Cluster(seed).run()
        except Exception as error:
            pytest.fail(
                f"seed {seed}: {type(error).__name__}: {error}\n"
                f"replay it with PILOT_SIMULATION_SEED={seed}",
                pytrace=bool(_SEED),
            )


def test_a_seed_is_a_run() -> None:
    def story(seed: int) -> tuple[float, dict[int, str]]:
        cluster = Cluster(seed)
        cluster.run()
        return cluster.now, cluster.store.announced

    assert story(7) == story(7)
