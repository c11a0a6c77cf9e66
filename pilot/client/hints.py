"""Remarks on pilots, in a few words: what one waits for, and what all tasks wait for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pilot.formatting import counted, duration


class Hint(NamedTuple):
    """A remark on the pilots, for the progress line."""

    text: str = ""
    #: Nothing goes on until this changes.
    waiting: bool = False


def remark(row: dict[str, Any]) -> str:
    """Return the reason for which a pilot waits, drains or has ended."""
    if row["state"] == "ENDED":
        return str(row["reason"])
    if row["order"]:
        return str(row["order"]["text"])
    if row["draining"]:
        return "drains"
    parts = [f"waits for {row['waits_for']}"] if row["waits_for"] else []
    if row["expected"] and row["started"] is None:
        parts.append(f"expected in {duration(max(0.0, row['expected'] - time.time()))}")
    return ", ".join(parts)


def hint_of(head: Mapping[str, Any], pilots: Sequence[Mapping[str, Any]]) -> Hint:
    """Return the remark that follows from the answers to the queries ``head`` and ``fleet``."""
    running = [row for row in pilots if row["state"] == "RUNNING"]
    queued = [row for row in pilots if row["state"] not in ("RUNNING", "ENDED")]
    if running:
        cores = sum(row["cores"] or 0 for row in running)
        text = f"{counted(len(running), 'pilot')}, {counted(cores, 'core')}"
        return Hint(text + (f"; {len(queued)} more in the queue" if queued else ""))
    if head["trouble"]:
        return Hint(head["trouble"], waiting=True)
    if queued:
        job = f"job {queued[-1]['job']}" if queued[-1]["job"] else "being submitted"
        why = remark(dict(queued[-1]))
        return Hint(
            f"waiting for {counted(len(queued), 'pilot')}: {job}" + (f" {why}" if why else ""),
            waiting=True,
        )
    return Hint()
