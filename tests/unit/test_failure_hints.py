"""Names of failures that are taken, and may not be what was meant."""

from __future__ import annotations

import pytest

import pilot
from pilot.client import failure_hints


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_hints, "_told", set[str]())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ValueEror", "ValueError"),
        ("TimeOutError", "TimeoutError"),
        ("ValueError", ""),
        ("TaskCrashed", ""),
        ("MyValueError", ""),
        ("Nonsense", ""),
    ],
)
def test_a_name_that_is_nearly_one_of_python_s(
    caplog: pytest.LogCaptureFixture, name: str, meant: str
) -> None:
    for _ in range(2):
        pilot.task(retry_on=name)(abs)
    told = [record.getMessage() for record in caplog.records]
    wanted = f"pilot: retry_on={name!r}: is {meant!r} meant, which is an exception of Python?"
    assert told == ([wanted] if meant else [])


def test_exit_statuses_of_a_function(caplog: pytest.LogCaptureFixture) -> None:
    made = pilot.task(retry_on=75, no_retry_on=[ValueError, 3])(abs)
    made.options(name="again")
    first, second, *again = (record.getMessage() for record in caplog.records)
    assert first.startswith("pilot: abs: retry_on=75: exit statuses are those of commands")
    assert second.startswith("pilot: abs: no_retry_on=3: ") and len(again) == 2
    caplog.clear()
    pilot.shell("true", retry_on=75)
    assert not caplog.records
