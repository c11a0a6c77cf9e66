"""States, outcomes and kinds: each is listed once, and messages are checked against the lists."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from pilot.model import states
from pilot.model.tasks import Completion, TaskOutcome

ROOT = Path(__file__).resolve().parents[2]


def test_final_states_are_states() -> None:
    assert set(states.TASK_STATES) > states.FINAL
    assert {states.COMPLETED, *states.UNSUCCESSFUL} == states.FINAL
    assert set(states.FAILURES) < set(states.UNSUCCESSFUL)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(Completion, [1, 1, "wonderful"]), (TaskOutcome, [1, "WONDERFUL"])],
)
def test_others_are_refused_on_the_wire(kind: type, fields: list[object]) -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=kind)


def test_lists_of_states_are_written_nowhere_else() -> None:
    """Two final states in a row are a list that would have to be kept in step with the others."""
    word = "|".join(states.FINAL)
    pair = re.compile(rf"\"({word})\",\s*\"({word})\"")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pilot").rglob("*.py")
        if pair.search(path.read_text())
    }
    assert found == {"pilot/model/states.py"}


def test_the_reference_names_all_of_them() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text()
    for kind, names in states.EVENT_STATES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind} | `"))
        assert set(names) - set(re.findall("`([A-Z_]+)`", row)) <= states.FINAL
