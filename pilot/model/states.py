"""The states of tasks, sessions and pilots, and how users know them."""

from __future__ import annotations

#: The states that things come into, by kind.
STATES = {
    "task": (
        "PENDING",
        "READY",
        "ASSIGNED",
        "RUNNING",
        "DELEGATED",
        "COMPLETED",
        "FAILED",
        "TIMED_OUT",
        "CANCELLED",
        "ABORTED",
    ),
    "session": ("OPEN", "PAUSED", "RESUMED", "STOPPED", "CLOSING", "CLOSED", "PURGED", "DELETED"),
    "pilot": ("QUEUED", "JOINED", "DRAINING", "LEFT", "ENDED"),
    "head": ("STARTED",),
}
