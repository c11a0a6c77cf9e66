"""The lists that several commands print: of sessions, of pilots, and of orders for pools.

Invariant: no command is made here, so that those who only print a list start quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilot.cli.output import ago, print_table, say
from pilot.client.hints import remark
from pilot.model.states import CLOSED_STATES


def print_sessions(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the query ``sessions``."""
    print_table(
        (
            "session",
            "name",
            "state",
            "tasks",
            "unfinished",
            "failed",
            "outcome",
            "created",
            "ended",
        ),
        [
            (
                row["id"],
                row["name"],
                state_of(row),
                row["tasks"],
                row["unfinished"],
                row["failed"],
                row["outcome"],
                ago(row["created"]),
                ago(row["ended"]),
            )
            for row in rows
        ],
        cut={"name": 8},
        drop=("ended", "created"),
    )


def state_of(row: dict[str, Any]) -> str:
    """Return the state of a session in a row, and whether it is paused."""
    state = str(row["state"])
    if not row["paused"] or state in CLOSED_STATES:
        return state
    return "PAUSED" if state == "OPEN" else f"{state}, PAUSED"


def print_budgets(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the query ``budgets``, in node-hours."""
    print_table(
        ("budget of", "per", "node-hours", "used", "committed", "left"),
        [
            (
                f"pool {row['pool']}" if row["pool"] else f"session {row['session']}",
                row["per"],
                *(f"{row[key]:,.2f}" for key in ("budget", "used", "committed", "left")),
            )
            for row in rows
        ],
    )


def print_orders(orders: Sequence[dict[str, Any]]) -> None:
    """Print what users have ordered for pools, a line for each."""
    for order in orders:
        if order["verb"] in ("scale", "hold"):
            say(f"pool {order['subject']} is {order['text']} ({ago(order['at'])})")


def print_pilots(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the query ``fleet``."""
    print_table(
        ("pilot", "pool", "job", "state", "nodes", "cores", "tasks", "started", "remark"),
        [
            (
                row["name"],
                row["pool"],
                row["job"],
                row["state"],
                row["nodes"],
                row["cores"],
                row["tasks"],
                ago(row["started"]),
                remark(row),
            )
            for row in rows
        ],
        cut={"remark": 20},
        drop=("cores", "nodes", "pool", "started"),
    )
