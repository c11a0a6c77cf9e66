"""What is said to who has sent what is no message."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.head.unreadable import GREET_S, Answers
from pilot.wire.channel import Unreadable
from pilot.wire.messages.common import WHO_ARE_YOU


@pytest.fixture
def said() -> list[tuple[bytes, Any]]:
    return []


@pytest.fixture
def answers(said: list[tuple[bytes, Any]]) -> Answers:
    return Answers(7, lambda peer, message: said.append((peer, message)))


@pytest.mark.parametrize("kind", ["Query", "OpenSession", "Cancel", "Submit", "Detach"])
def test_who_waits_for_an_answer_gets_one(
    answers: Answers, said: list[tuple[bytes, Any]], kind: str
) -> None:
    answers.answer(b"client:1", Unreadable(kind, 3, "Expected `str`, got `int`"), 1.0)
    ((peer, reply),) = said
    assert peer == b"client:1" and reply.request == 3
    assert f"cannot read this {kind}: Expected `str`" in reply.error and "Pilot" not in reply.error


def test_what_a_later_release_asks_is_answered(
    answers: Answers, said: list[tuple[bytes, Any]]
) -> None:
    answers.answer(b"client:1", Unreadable("Move", 3, "Invalid value 'Move'"), 1.0)
    ((_, reply),) = said
    assert reply.request == 3 and "this head is Pilot" in reply.error


@pytest.mark.parametrize("kind", ["ClientHello", "Watch", "ClientBye"])
def test_the_first_number_of_others_is_no_request(
    answers: Answers, said: list[tuple[bytes, Any]], kind: str
) -> None:
    answers.answer(b"client:1", Unreadable(kind, 1, "damaged"), 1.0)
    answers.answer(b"client:1", Unreadable("Query", None, "damaged"), 1.0)
    assert not said


def test_a_pilot_is_asked_to_greet_again_and_not_without_end(
    answers: Answers, said: list[tuple[bytes, Any]]
) -> None:
    for _ in range(5):
        answers.answer(b"pilot:p:0#1", Unreadable("Completions", None, "damaged"), 100.0)
    answers.answer(b"pilot:q:0#1", Unreadable("PilotHello", 1, "damaged"), 100.0)
    assert [peer for peer, _ in said] == [b"pilot:p:0#1", b"pilot:q:0#1"]
    assert all(welcome.refused == WHO_ARE_YOU for _, welcome in said)
    answers.answer(b"pilot:p:0#1", Unreadable("Completions", None, ""), 101.0 + GREET_S)
    assert len(said) == 3


def test_what_is_known_of_pilots_does_not_grow_with_them(answers: Answers) -> None:
    for number in range(1000):
        peer = b"pilot:p%d:0#1" % number
        answers.answer(peer, Unreadable("Completions", None, ""), number * GREET_S)
    assert len(answers._asked) < 5
