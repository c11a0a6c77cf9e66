"""Clients are told how their tasks ended, as fast as each of them reads, and all of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pilot.head.outcome_cache import Outcomes
from pilot.head.telling import PORTION, Telling
from pilot.limits import TOLD_BYTES
from pilot.model.tasks import TaskOutcome
from pilot.model.values import Value
from pilot.wire.messages import client as m

VALUE = Value(60_000, bytes(60_000))


class Client:
    """One that reads when it is told to."""

    def __init__(self) -> None:
        self.unread: list[m.Outcomes] = []
        self.heard: list[int] = []
        self.most = 0

    def send(self, _peer: bytes, message: Any) -> None:
        self.unread.append(message)
        self.most = max(self.most, self.unsent(b""))

    def unsent(self, _peer: bytes) -> int:
        return sum(v.size for o in self.unread for outcome in o.outcomes for v in outcome.values)

    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.unread))):
            self.heard += [outcome.task for outcome in self.unread.pop(0).outcomes]


class Ended:
    """All tasks have ended, with a value of some size."""

    def told(self, tasks: Iterable[int]) -> list[TaskOutcome]:
        return [TaskOutcome(task, "COMPLETED", (VALUE,)) for task in tasks]


def telling(client: Client) -> Telling:
    return Telling(client.send, client.unsent, cast(Outcomes, Ended()), lambda *_: False)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), max_size=40))
def test_all_is_told_once_in_order_and_bounded(steps: list[tuple[int, int]]) -> None:
    client = Client()
    teller, first = telling(client), 1
    for ended, read in steps:
        teller.tell(b"c", Ended().told(range(first, first + ended)))
        first += ended
        client.read(read)
        teller.go_on()
    while len(client.heard) < first - 1:
        client.read(1)
        teller.go_on()
    assert client.heard == list(range(1, first))
    assert client.most <= TOLD_BYTES + PORTION * VALUE.size


def test_a_client_that_reads_nothing_is_sent_little() -> None:
    client = Client()
    teller = telling(client)
    for first in range(1, 100_000, 50):
        teller.tell(b"c", Ended().told(range(first, first + 50)))
        teller.go_on()
    assert client.most <= TOLD_BYTES + PORTION * VALUE.size
    teller.forget(b"c")
    client.read(10_000)
    teller.go_on()
    assert not client.unread


def test_what_ended_before_is_told_in_portions() -> None:
    client = Client()
    teller = telling(client)
    teller.look_up(b"c", range(10_000))
    teller.look_up(b"c", [])
    teller.go_on()
    assert len(client.unread) == 2 and client.most <= TOLD_BYTES + PORTION * VALUE.size
    while client.unread:
        client.read(1)
        teller.go_on()
    assert client.heard == list(range(10_000))
