"""What the reports of two runs of a file of tests say together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree


class Report(NamedTuple):
    """One run of a file."""

    #: The outcome of each test by its name: ``passed``, ``failed`` or ``skipped``.
    outcomes: Mapping[str, str]
    seconds: float

    def count(self, outcome: str) -> int:
        """Return how many tests ended so."""
        return sum(found == outcome for found in self.outcomes.values())


def read_report(xml: str) -> Report:
    """Return what pytest has written with ``--junitxml``."""
    outcomes: dict[str, str] = {}
    seconds = 0.0
    for case in ElementTree.fromstring(xml).iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        seconds += float(case.get("time", 0.0))
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcomes[name] = "failed"
        else:
            # A test may be told twice: once with its end, once with an error after it.
            outcomes.setdefault(name, "skipped" if "skipped" in kinds else "passed")
    return Report(outcomes, seconds)


def worse(ours: Report, control: Report) -> list[str]:
    """Return the tests that pass in the control and not on Pilot."""
    return [
        name
        for name, outcome in control.outcomes.items()
        if outcome == "passed" and ours.outcomes.get(name) != "passed"
    ]


def table(rows: Sequence[tuple[str, Report | None, Report | None]]) -> str:
    """Return the reports as a table; None: there is none, since the run had no end."""
    lines = [
        "| file | passed | failed | skipped | s | control: passed | failed | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, ours, control in rows:
        lines.append(f"| {name} | {' | '.join([*_cells(ours, True), *_cells(control, False)])} |")
    return "\n".join(lines)


def _cells(report: Report | None, with_skipped: bool) -> list[str]:
    kinds = ["passed", "failed", "skipped"] if with_skipped else ["passed", "failed"]
    if report is None:
        return ["-"] * (len(kinds) + 1)
    return [*(str(report.count(kind)) for kind in kinds), f"{report.seconds:.0f}"]
