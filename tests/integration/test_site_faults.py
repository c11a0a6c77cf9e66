"""Any single call on the site directory may fail, once, in every process: all tasks end right.

A run of all tests tries a few calls of each process. All of them, by hand, in two hours::

    PILOT_TEST_FAULTS=all pytest tests/integration/test_site_faults.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import fail_once

#: More than the calls that each process makes.
CALLS = {"agent": 40, "node worker": 20, "executor": 110, "client": 150, "head": 250, "rank": 60}
SAMPLE = 3
SEED = 4


def _cases() -> Iterator[tuple[str, int, int]]:
    chosen = random.Random(SEED)
    for process, most in CALLS.items():
        if os.environ.get("PILOT_TEST_FAULTS") == "all":
            yield from (
                (process, call, number)
                for call in range(1, most + 1)
                for number in fail_once.ERRORS
            )
        else:
            for call in sorted(chosen.sample(range(1, most + 1), SAMPLE)):
                yield process, call, chosen.choice(fail_once.ERRORS)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = fail_once.build(tmp_path_factory.mktemp("faults"))
    if library is None:
        pytest.skip("there is no C compiler, which the library that lets calls fail needs")
    return library


@pytest.mark.parametrize(("process", "call", "number"), list(_cases()))
def test_a_call_that_fails_once_changes_nothing(
    library: Path, process: str, call: int, number: int
) -> None:
    if process == "rank":
        pytest.importorskip("mpi4py")
    outcome = fail_once.run(library, process, call, number)
    assert not outcome.wrong, outcome.failed
