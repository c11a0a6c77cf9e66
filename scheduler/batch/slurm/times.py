"""The times that Slurm prints. Pure."""

from __future__ import annotations

import re
from datetime import datetime


def parse_time(text: str) -> float | None:
    """Return a time of Slurm in seconds since 1970, from a number or local time in ISO format."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None  # "N/A", "Unknown", "None"
