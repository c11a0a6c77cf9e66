"""The nodes that jobs held, by accounting: of each life and each size."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from taken.accounting import Span, gaps, spans

OUTPUT = """\
7|1000|1010|4|PREEMPTED
7|1030|1100|4|CANCELLED by 0
8|1005|1020|2|RESIZING
8|1020|1100|1|COMPLETED
9|Unknown|Unknown|1|PENDING
10|None|1050|1|CANCELLED
"""


def test_each_life_and_each_size_counts() -> None:
    found = spans(OUTPUT)
    assert [(span.job, span.nodes, span.state) for span in found] == [
        ("7", 4, "PREEMPTED"),
        ("8", 2, "RESIZING"),
        ("8", 1, "COMPLETED"),
        ("7", 4, "CANCELLED"),
    ]
    assert sum(span.node_s for span in found) == 40 + 280 + 30 + 80


def test_a_gap_is_a_time_without_a_node() -> None:
    held = [Span(str(n), start, end, 1, "") for n, (start, end) in enumerate([(0, 50), (10, 20)])]
    assert gaps(held, 100.0) == []
    later = [*held, Span("3", 53, 60, 1, ""), Span("4", 90, 95, 1, "")]
    assert gaps(later, 70.0) == [3.0, 10.0]
