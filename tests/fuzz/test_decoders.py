"""Whatever is decoded: nothing raises but what callers expect, and nothing takes long."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fuzz.decoders import Decoders

#: How many samples each decoder gets: together some seconds.
COUNTS = {
    "messages": 4000,
    "texts": 500,
    "head.json": 500,
    "lease": 500,
    "site file": 150,
    "workflow": 250,
    "expression": 1000,
    "slurm": 300,
    "segment": 150,
    "checkpoint": 100,
}


@pytest.mark.parametrize("name", COUNTS)
def test_nothing_that_is_decoded_does_harm(name: str, tmp_path: Path) -> None:
    decoders = Decoders(1, tmp_path)
    assert decoders.all.keys() == COUNTS.keys()
    decoders.run(name, COUNTS[name])
