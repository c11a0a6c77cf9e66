"""Whole sites through hundreds of random lives, with the program's own head and pilots.

``PILOT_SIMULATION_SEED=123 pytest tests/simulation`` replays one of them;
``PILOT_SIMULATIONS=10000`` runs that many, from ``PILOT_SIMULATION_FIRST`` on.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated.cluster import Cluster

_SEED = os.environ.get("PILOT_SIMULATION_SEED")
_FIRST = int(_SEED or os.environ.get("PILOT_SIMULATION_FIRST", "0"))
_COUNT = 1 if _SEED else int(os.environ.get("PILOT_SIMULATIONS", "80"))
_CHUNK = 20
#: In so many lives everything that may go wrong does.
_ENOUGH = 60
#: How many were run, and what happened in them.
_runs = 0
_seen: Counter[str] = Counter()


@pytest.mark.parametrize(
    "first", range(_FIRST, _FIRST + _COUNT, _CHUNK), ids=lambda n: f"seeds-from-{n}"
)
def test_everything_ends_well(first: int) -> None:
    global _runs
    for seed in range(first, min(first + _CHUNK, _FIRST + _COUNT)):
        try:
            cluster = Cluster(seed)
            cluster.run()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            pytest.fail(
                f"seed {seed}: {type(error).__name__}: {error}\n"
                f"replay it with PILOT_SIMULATION_SEED={seed}",
                pytrace=bool(_SEED),
            )
        _runs += 1
        _seen.update(cluster.oracle.seen)


def test_a_seed_is_a_run() -> None:
    def story(seed: int) -> tuple[float, dict[int, str], Counter[str]]:
        cluster = Cluster(seed)
        cluster.run()
        return cluster.clock.now, cluster.oracle.told, cluster.oracle.seen

    assert story(7) == story(7)


def test_what_may_go_wrong_is_reached() -> None:
    """A simulation in which nothing goes wrong tests nothing."""
    if _runs < _ENOUGH:
        pytest.skip(f"only {_runs} lives were run before this")
    seen = _seen
    for what in (
        "killed",
        "asked back",
        "sent early",
        "lost: its job was requeued",
        "lost: it was silent",
        "lost: its job has ended: node_failure",
        "lost: its job was preempted and waits again",
        "detached",
        "lost: told to",
        "CancelWork",
        "EndPilot",
        "ForgetSession",
        "all licence in use",
        "all buffer in use",
    ):
        assert seen[what], f"{what}: never, in {seen}"
