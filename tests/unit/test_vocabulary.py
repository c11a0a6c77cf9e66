"""The vocabulary: classes of the core and the rules are called by the words of the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pilot/head/core", "pilot/agent/rules")

#: Verbs, as events and actions have them, and what binds words: these name no thing.
GRAMMAR = {
    *("from", "on", "up"),
    *("start", "stop", "run", "go", "give", "forget"),
    *("submitted", "opened", "restored", "cancelled", "joined", "changed", "lost", "learned"),
    *("ended", "running", "leaving", "failing", "reusable", "unfit", "looked", "delegated"),
    "released",
    *("waiting",),
}


def _classes() -> list[str]:
    return [
        node.name
        for room in ROOMS
        for path in sorted((ROOT / room).glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def _words() -> set[str]:
    """The words of the table, singular."""
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    section = text.split("## Words\n", 1)[1].split("\n## ", 1)[0]
    terms = [row.split("|")[1] for row in section.splitlines() if row.startswith("| ")][1:]
    return {word.lower().removesuffix("s") for term in terms for word in re.findall(r"\w+", term)}


CLASSES = _classes()


def test_there_are_classes_and_words() -> None:
    assert len(CLASSES) > 30 and len(_words()) > 30


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_called_by_words_of_the_table(name: str) -> None:
    parts = [part.lower() for part in re.findall("[A-Z][a-z]+", name)]
    unknown = {part for part in parts if part not in GRAMMAR} - {
        part for part in parts if part.removesuffix("s") in _words()
    }
    assert not unknown, f"{name}: put {unknown} into the table of words in architecture.md"
