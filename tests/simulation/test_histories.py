"""The core through ten thousand short random histories; see `histories` for what is checked.

``PILOT_HISTORY_SEED=123 pytest tests/simulation/test_histories.py`` replays one of them;
``PILOT_HISTORIES=100000`` runs that many.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from histories import History, story

_SEED = os.environ.get("PILOT_HISTORY_SEED")
_COUNT = int(os.environ.get("PILOT_HISTORIES", "5000"))
_CHUNK = 1000


@pytest.mark.parametrize(
    "first", [int(_SEED)] if _SEED else range(0, _COUNT, _CHUNK), ids=lambda n: f"seeds-from-{n}"
)
def test_every_history_ends_well(first: int) -> None:
    for seed in range(first, first + 1 if _SEED else min(first + _CHUNK, _COUNT)):
        try:
            History(seed).run()
        except Exception as error:
            pytest.fail(
                f"seed {seed}: {type(error).__name__}: {error}\n"
                f"replay it with PILOT_HISTORY_SEED={seed}",
                pytrace=bool(_SEED),
            )


def test_a_seed_is_a_history() -> None:
    assert story(7) == story(7)
