"""The report of a run: rows, reasons for what is missing, raw data; as a table and as JSON.
Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_HEADINGS = ("", "case", "unit", "pilot", "reference", "", "ratio")


@dataclass(frozen=True)
class Row:
    """A measure of Pilot beside one reference."""

    workload: str
    case: str
    unit: str
    ours: float | None
    #: What it is compared to; empty where there is nothing to compare to.
    reference: str = ""
    #: None where there is a reference that has no such thing.
    theirs: float | None = None
    more_is_better: bool = True

    @property
    def ratio(self) -> float | None:
        """The factor by which Pilot is better than the reference: above 1 is better, whatever the
        unit.

        None where there is no reference, or where one of the two is 0 or cannot be had.
        """
        if not self.theirs or not self.ours:
            return None
        return self.ours / self.theirs if self.more_is_better else self.theirs / self.ours


@dataclass(frozen=True)
class Missing:
    """A measure that is missing, and the reason."""

    workload: str
    what: str
    reason: str


@dataclass
class Findings:
    """The findings of a workload."""

    rows: list[Row] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    #: Samples, for pictures and for whoever wants to know more.
    data: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        workload: str,
        case: str,
        unit: str,
        ours: float | None,
        others: Mapping[str, float | None] | None = None,
        *,
        more_is_better: bool = True,
    ) -> None:
        """Add a measure: one row for each reference, or one without any."""
        if not others:
            self.rows.append(Row(workload, case, unit, ours, more_is_better=more_is_better))
        for name, theirs in (others or {}).items():
            self.rows.append(Row(workload, case, unit, ours, name, theirs, more_is_better))

    def miss(self, workload: str, what: str, reason: str) -> None:
        """Note that something was not measured."""
        self.missing.append(Missing(workload, what, reason))

    def extend(self, other: Findings) -> None:
        """Take in what another workload has found."""
        self.rows.extend(other.rows)
        self.missing.extend(other.missing)
        self.data.update(other.data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; rows with their ratio."""
        return {
            "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in self.rows],
            "missing": [dataclasses.asdict(missing) for missing in self.missing],
            "data": self.data,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Findings:
        """Make findings from the result of `to_dict`."""
        rows = [
            Row(**{name: value for name, value in row.items() if name != "ratio"})
            for row in plain["rows"]
        ]
        return cls(rows, [Missing(**row) for row in plain["missing"]], dict(plain["data"]))


def number(value: float | None) -> str:
    """Format a number with three significant digits; None as a hyphen."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def table(rows: Sequence[Row]) -> str:
    """Format rows as aligned text; repetitions of the line above are left out."""
    lines = [_HEADINGS]
    before: Row | None = None
    for row in rows:
        same_workload = before is not None and before.workload == row.workload
        same = (
            same_workload
            and before is not None
            and (before.case, before.unit)
            == (
                row.case,
                row.unit,
            )
        )
        lines.append(
            (
                "" if same_workload else row.workload,
                "" if same else row.case,
                "" if same else row.unit,
                "" if same else number(row.ours),
                row.reference,
                number(row.theirs) if row.reference else "",
                "" if row.ratio is None else f"{row.ratio:.2f}",
            )
        )
        before = row
    return _aligned(lines, right=(3, 5, 6))


def markdown(rows: Sequence[Row]) -> str:
    """Format rows as Markdown tables, one for each workload, with a column for each reference.

    Behind a reference's figure, in brackets, is how many times as good Pilot is.
    """
    tables = []
    for workload, its in itertools.groupby(rows, lambda row: row.workload):
        cases: dict[tuple[str, str, str], dict[str, str]] = {}
        references: dict[str, None] = {}
        for row in its:
            cells = cases.setdefault((row.case, row.unit, number(row.ours)), {})
            if row.reference:
                references[row.reference] = None
                ratio = "" if row.ratio is None else f" ({number(row.ratio)})"
                cells[row.reference] = number(row.theirs) + ratio
        lines = [(workload, "unit", "Pilot", *references)]
        lines += [
            (*case, *(cells.get(name, "") for name in references)) for case, cells in cases.items()
        ]
        rule = "| --- | --- |" + " ---: |" * (len(references) + 1)
        heading, *rest = (f"| {' | '.join(line)} |" for line in lines)
        tables.append("\n".join((heading, rule, *rest)))
    return "\n\n".join(tables)


def _aligned(lines: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
