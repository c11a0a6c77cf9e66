"""The machine under the head: threads that are there, or are missed at once."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from pilot.head.machine import HERE


def test_a_thread_does_one_thing_after_the_other() -> None:
    thread = HERE.start_thread("test")
    names = [thread.submit(lambda: threading.current_thread().name).result() for _ in range(2)]
    thread.shutdown()
    assert names[0] == names[1] and names[0].startswith("test")


def test_a_thread_that_cannot_be_is_missed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="start new thread"):
        HERE.start_thread("commit")
