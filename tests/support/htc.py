"""The HTC Mock of ``examples/``, for tests: what must come out of it, it computes itself."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pilot

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import htc_mock as htc_mock

#: So many that there are some of every kind in `TREE`.
MANY_FAULTS = htc_mock.Faults(error=0.1, exit=0.01, kill=0.01, hang=0.005, limit_s=3.0)
#: A small tree, without faults.
TREE = htc_mock.Mock(tasks=500, levels=20)


def check(session: pilot.Session, mock: htc_mock.Mock, deadline_s: float) -> None:
    """Run a tree in a new session: its answer and all its attempts are as they must be."""
    found, _ = htc_mock.run(session, mock, deadline_s)
    assert found == htc_mock.expected(mock)
    # Not only all together: so many tasks were tried once, so many twice, ….
    tries: Counter[int] = Counter()
    for branch in htc_mock.walk(mock):
        for number in {branch.first, branch.last}:
            tries[len(htc_mock.attempts(mock, number, branch.is_leaf))] += 1
    rows = session.tasks(limit=mock.tasks + 1)
    assert Counter(row["attempts"] for row in rows) == tries
