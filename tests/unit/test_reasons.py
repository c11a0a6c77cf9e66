"""The reasons of exceptions to the rules: where types are ignored, it is said why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pilot", "scheduler", "launchers", "site_configs", "scripts", "examples", "tests")
IGNORED = re.compile(r"#\s*type:\s*ignore")
#: The rules that are ignored, maybe some of ruff's, and a reason.
GOOD = re.compile(r"# type: ignore\[[a-z, -]+\](?:  # noqa: [A-Z0-9, ]+?)?  # (?!noqa)\w")


def _places() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name == Path(__file__).name:
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if IGNORED.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}", line


def test_each_place_that_ignores_types_says_which_rule_and_why() -> None:
    places = dict(_places())
    assert len(places) > 50
    assert not [place for place, line in places.items() if not GOOD.search(line)]
