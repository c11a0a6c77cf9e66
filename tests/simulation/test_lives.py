"""Whole sites through random lives, long and short, with the program's own head and pilots.

``PILOT_SIMULATION_SEED=123 pytest tests/simulation -k short`` replays one of the short ones, with
nothing but the moves that it takes to fail; ``PILOT_SIMULATIONS=10000`` runs that many, from
``PILOT_SIMULATION_FIRST`` on.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pilot.agent.rules.kept import Kept
from pilot.head.core import pilot_reports, releases
from pilot.head.core.state import Task
from pilot.model.ids import Ref

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated.cluster import Cluster
from simulated.life import LONG, SHORT, Life, Size
from simulated.moves import MOVES

_SEED = os.environ.get("PILOT_SIMULATION_SEED")
_FIRST = int(_SEED or os.environ.get("PILOT_SIMULATION_FIRST", "0"))
_COUNT = os.environ.get("PILOT_SIMULATIONS")
#: How many lives of a size there are in a test, and in all.
_CHUNKS = {LONG: (20, 60), SHORT: (100, 800)}
#: In so many lives all that may go wrong does.
_ENOUGH = {LONG: 60, SHORT: 500}
#: What happened in the lives of a size that were run.
_seen: dict[Size, Counter[str]] = {LONG: Counter(), SHORT: Counter()}


def _life(seed: int, size: Size) -> Life:
    return Life.draw(Random(seed), size)


def _failure(life: Life) -> BaseException | None:
    """Return what is wrong with a life."""
    cluster = Cluster(life)
    try:
        cluster.run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return error
    _seen[life.size].update(cluster.oracle.seen, lives=1)
    return None


def _fails(kind: type, life: Life) -> bool:
    return isinstance(_failure(life), kind)


def _chunks(size: Size) -> list[range]:
    if _SEED:
        return [range(_FIRST, _FIRST + 1)]
    chunk, count = _CHUNKS[size]
    end = _FIRST + int(_COUNT or count)
    return [range(first, min(first + chunk, end)) for first in range(_FIRST, end, chunk)]


def _check(seeds: range, size: Size) -> None:
    for seed in seeds:
        life = _life(seed, size)
        if (error := _failure(life)) is None:
            continue
        kind = type(error)
        shorter = life.shortest(partial(_fails, kind))
        if _SEED:
            Cluster(shorter).run()
        pytest.fail(
            f"seed {seed}: {kind.__name__}: {error}\nit takes {shorter.moves}\n"
            f"replay it with PILOT_SIMULATION_SEED={seed}",
            pytrace=False,
        )


@pytest.mark.parametrize("seeds", _chunks(LONG), ids=lambda seeds: f"seeds-from-{seeds.start}")
def test_long_lives_end_well(seeds: range) -> None:
    _check(seeds, LONG)


@pytest.mark.parametrize("seeds", _chunks(SHORT), ids=lambda seeds: f"seeds-from-{seeds.start}")
def test_short_lives_end_well(seeds: range) -> None:
    _check(seeds, SHORT)


@settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False).map(lambda rng: Life.draw(rng, SHORT)))
def test_lives_that_hypothesis_chooses_end_well(life: Life) -> None:
    """As others; of one that fails hypothesis tells the simplest, whatever made it fail."""
    assert _failure(life) is None


@pytest.mark.parametrize("size", [LONG, SHORT], ids=["long", "short"])
def test_a_seed_is_a_life(size: Size) -> None:
    def story() -> tuple[float, dict[int, str], Counter[str]]:
        cluster = Cluster(_life(7, size))
        cluster.run()
        return cluster.clock.now, cluster.oracle.told, cluster.oracle.seen

    assert story() == story()


def test_a_life_that_fails_is_made_shorter() -> None:
    life = _life(7, LONG)
    needed = {life.moves[1], life.moves[-2]}
    assert set(life.shortest(lambda one: needed <= set(one.moves)).moves) == needed
    assert not life.shortest(lambda _: True).moves


def _forget_what_is_handed_on(task: Task) -> tuple[Ref, ...]:
    return task.inputs


def _forget_inputs(task: Task) -> tuple[Ref, ...]:
    return task.borrows


@pytest.mark.parametrize("fault", [_forget_what_is_handed_on, _forget_inputs])
def test_a_result_that_goes_while_it_is_needed_is_found(
    fault: Callable[[Task], tuple[Ref, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that is planted in the core, which forgets that results are needed."""
    monkeypatch.setattr(releases, "_needed", fault)
    found = (_failure(_life(seed, SHORT)) for seed in range(200))
    assert any("released while needed" in str(error) for error in found)


def _forget_what_is_unwritten(*_: object) -> bool:
    return False


def test_an_end_that_is_told_before_its_result_is_written_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Kept, "hold", _forget_what_is_unwritten)
    found = (_failure(_life(seed, SHORT)) for seed in range(200))
    assert any("nowhere but on a node" in str(error) for error in found)


def test_a_result_that_is_let_go_while_it_is_needed_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pilot that takes tasks that run for tasks that have ended, and a head that believes it."""
    needs = Kept.release

    def forgets(self: Kept, task: int, index: int, _: Collection[int]) -> None:
        needs(self, task, index, ())

    monkeypatch.setattr(Kept, "release", forgets)
    monkeypatch.setattr(pilot_reports, "sound", lambda ends, *_: ends)
    found = (_failure(_life(seed, SHORT)) for seed in range(200))
    signs = ("was released", "is not to be had")
    assert any(sign in str(error) for error in found for sign in signs)


@pytest.mark.parametrize("size", [LONG, SHORT], ids=["long", "short"])
def test_what_may_go_wrong_is_reached(size: Size) -> None:
    """A simulation in which nothing goes wrong tests nothing."""
    seen = _seen[size]
    if seen["lives"] < _ENOUGH[size]:
        pytest.skip(f"only {seen['lives']} lives were run before this")
    for what in (
        "killed",
        "inputs from the store of a node alone",
        "told without a result that was let go",
        "asked back",
        "nodes given back",
        "sent early",
        "submitted after its input was lost",
        "after one that had not ended well",
        "lost: its job was requeued",
        "lost: it was silent",
        "lost: its job has ended: node failure (ENDED)",
        "lost: its job was preempted and waits again",
        "detached",
        "waited for others",
        "went on",
        "lost: told to",
        "CancelWork",
        "EndPilot",
        "ForgetSession",
        "all licence in use",
        "all buffer in use",
        "removed",
        "started in the head's own job",
        "stopped as told",
        "turn",
        "version that was read after turns",
        "pilots that waited for their turn",
        "version put",
        # Short lives are over before that.
        *(("version removed", "version of a removed session") if size is LONG else ()),
        "ended with clients",
        "released, and still needed",
        "released",
        "Released",
        *(f"move: {kind}" for kind in ("submit", *MOVES)),
    ):
        assert seen[what], f"{what}: never, in {seen}"
