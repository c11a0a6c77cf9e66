"""What stands for the results of other tasks, where it is told what a task was called with."""

from __future__ import annotations

import itertools
from typing import cast

import pytest

from pilot.client.calls import _Awaited
from pilot.client.command import CommandResult
from pilot.workflow.run import command_part


@pytest.mark.parametrize("name", ["out", "stdout", "returncode"])
def test_a_part_of_a_command_s_result(name: str) -> None:
    result = cast("CommandResult", _Awaited("3.1", 0))
    assert repr(command_part(result, name)) == "<result of 3.1>"


def test_it_has_no_items_to_go_through_without_end() -> None:
    with pytest.raises(TypeError):
        list(itertools.islice(_Awaited("3.1", 1), 3))  # type: ignore[call-overload]  # not iterable
    assert repr(_Awaited("3.1", 1)[5].name) == "<result 1 of 3.1>"
