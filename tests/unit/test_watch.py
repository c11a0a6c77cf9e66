"""Following a session from outside: how often it is looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilot.cli.commands import watch
from pilot.client.query_client import QueryClient


@pytest.mark.parametrize(
    ("took_s", "pause_s"),
    [(0.001, 0.5), (0.1, 2.0), (60.0, 5.0)],
    ids=["at once", "a large session", "a head that was about to end"],
)
def test_a_session_is_looked_at_again_soon_however_long_a_look_takes(
    monkeypatch: pytest.MonkeyPatch, took_s: float, pause_s: float
) -> None:
    now: list[float] = [0.0]
    pauses: list[float] = []
    answers = iter([{"RUNNING": 1}, {"COMPLETED": 1}])

    class Asking:
        has_head = True

        def __call__(self, _query: str, **_arguments: Any) -> dict[str, int]:
            now[0] += took_s
            return next(answers)

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=pauses.append)
    monkeypatch.setattr(watch, "time", clock)
    ask = cast("QueryClient", Asking())
    assert watch.until_ended(ask, 1, lambda _: None, None) == {"COMPLETED": 1}
    assert pauses == [pytest.approx(pause_s)]
