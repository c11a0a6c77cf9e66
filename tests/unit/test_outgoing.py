"""What cannot be sent is told by its name, to whoever wanted to send it."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.client.outgoing import plain
from pilot.errors import PilotError
from pilot.wire.messages import client as m

BIG = 10**30


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (m.Query(1, "tasks", {"session": 1, "limit": BIG}), "limit"),
        (m.Query(1, "tasks", {"since": {"offset": [1, -BIG]}}), "offset"),
        (m.Reserve(1, BIG, 1), "session"),
        (m.ControlSession(BIG, 1, "close"), "request"),
        (m.Cancel(1, 1, [3, BIG]), "tasks"),
    ],
)
def test_a_number_that_is_too_large_is_told_by_its_name(message: Any, name: str) -> None:
    with pytest.raises(PilotError, match=f"^{name}: the number is too large to be sent"):
        plain(message)
