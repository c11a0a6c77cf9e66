"""Whoever is not let in is logged, and cannot fill the log."""

from __future__ import annotations

import time

import pytest

from pilot.wire import refusals


def test_there_is_one_line_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(refusals, "_last", 0.0)
    monkeypatch.setattr(refusals, "_others", 0)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(10_000):
        refusals.refused("a stranger")
    assert caplog.messages == ["refused: a stranger"]
    now += 2.0
    refusals.refused("another one")
    assert caplog.messages[1:] == ["refused: another one (9999 more since the last line)"]
    now += 2.0
    refusals.refused("the last")
    assert caplog.messages[2:] == ["refused: the last"]
