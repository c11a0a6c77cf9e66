"""The SQL of the database: its statements by name, its tables, and the steps to their version."""

from __future__ import annotations

import re
from pathlib import Path

SCHEMA_VERSION = 20
#: Tells tools such as `file` that this is a database of Pilot ("Pilt").
APPLICATION_ID = 0x50696C74

_HERE = Path(__file__).parent


def tables() -> str:
    """Return the statements that make the tables."""
    return (_HERE / "schema.sql").read_text("utf-8")


def upgrades(version: int) -> str | None:
    """Return the statements that bring a database of this version up to date; None: none can."""
    steps = _sections("version", (_HERE / "upgrades.sql").read_text("utf-8"))
    wanted = [str(number) for number in range(version + 1, SCHEMA_VERSION + 1)]
    return "\n".join(steps[each] for each in wanted) if steps.keys() >= {*wanted} else None


def _sections(word: str, text: str) -> dict[str, str]:
    """Split text at its lines ``-- word: name``, by name."""
    parts = re.split(rf"^-- {word}: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


QUERIES = _sections("name", (_HERE / "queries.sql").read_text("utf-8"))
