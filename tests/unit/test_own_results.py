"""Which results an executor hands to its next task as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pilot.worker.own_results import is_own


def sealed_off() -> Any:
    array = np.ones(3)
    array.flags.writeable = False
    return array


def shuffled() -> Any:
    """An array that owns its data, which are in neither order."""
    return np.copy(np.ones((2, 3, 4)).transpose(1, 0, 2), order="K")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: np.ones((3, 4)), True),
        (lambda: np.ones((3, 4), order="F"), True),
        (sealed_off, False),
        (lambda: np.frombuffer(bytes(24)), False),
        (lambda: np.broadcast_to(np.ones(1), 3), False),
        (shuffled, False),
        (lambda: np.array([None]), False),
        (lambda: [1], False),
    ],
)
def test_only_what_reading_would_give_alike_is_handed_over(
    make: Callable[[], Any], expected: bool
) -> None:
    result = make()
    assert is_own(result) == expected


def test_what_others_refer_to_is_not_handed_over() -> None:
    result = np.ones(3)
    other = result
    assert not is_own(result)
    del other
    assert is_own(result)
