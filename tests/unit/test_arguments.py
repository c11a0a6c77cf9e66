"""How arguments travel, with futures at any depth."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.client.arguments import decode_arguments, encode_arguments, refer
from pilot.errors import PilotError

HERE = Path("/nowhere")


class Promise:
    """What a future is to the encoding."""

    def __init__(self, task: int, *indices: int) -> None:
        self._reference = (task, indices or (0,), len(indices) > 1)

    def __reduce__(self) -> Any:
        return refer(*self._reference)


@dataclasses.dataclass
class Holder:
    first: Any
    second: Any


def there_and_back(*args: Any, values: dict[tuple[int, int], Any], **kwargs: Any) -> Any:
    payload, inputs = encode_arguments(args, kwargs)
    return decode_arguments(payload, [values[ref] for ref in inputs], HERE)


@given(
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    )
)
def test_plain_arguments_come_as_they_were(value: Any) -> None:
    payload, inputs = encode_arguments((value,), {"name": value})
    assert inputs == ()
    assert decode_arguments(payload, [], HERE) == ((value,), {"name": value})


def test_futures_anywhere_become_values() -> None:
    values = {(1, 0): "one", (2, 0): ["two"]}
    args, kwargs = there_and_back(
        Promise(1),
        [Promise(2), {"deep": (Promise(1),)}],
        keyword=Holder(Promise(1), {"x": [Promise(2)]}),
        values=values,
    )
    assert args == ("one", [["two"], {"deep": ("one",)}])
    assert kwargs["keyword"] == Holder("one", {"x": [["two"]]})


def test_each_input_is_named_once_in_order() -> None:
    _, inputs = encode_arguments((Promise(5), Promise(3), Promise(5), Promise(5, 1)), {})
    assert inputs == ((5, 0), (3, 0), (5, 1))


def test_several_results() -> None:
    values = {(1, 0): "a", (1, 1): "b"}
    args, _ = there_and_back(Promise(1, 0, 1), Promise(1, 1), values=values)
    assert args == (("a", "b"), "b")


def test_same_call_has_the_same_bytes_whatever_the_ids() -> None:
    first, _ = encode_arguments(([Promise(1), Promise(2)],), {})
    second, _ = encode_arguments(([Promise(70), Promise(80)],), {})
    assert first == second


def test_future_means_nothing_elsewhere() -> None:
    with pytest.raises(TypeError, match="only be pickled as an argument of a task"):
        pickle.dumps(Promise(1))
    encode_arguments((Promise(1),), {})
    with pytest.raises(TypeError):
        pickle.dumps(Promise(1))


def test_what_cannot_be_pickled_is_named_and_leaves_nothing_behind() -> None:
    with pytest.raises(PilotError, match="lock"):
        encode_arguments((Promise(1), threading.Lock()), {})
    assert encode_arguments((Promise(2),), {})[1] == ((2, 0),)


def test_threads_do_not_meet() -> None:
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(200):
            found[number] = encode_arguments(([Promise(number)] * 3,), {})[1]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: ((number, 0),) for number in range(4)}
