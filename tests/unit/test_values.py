"""Values: pickling by reference and by value, inline or in a segment, clear errors."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import fractions
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cloudpickle
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.client.arguments import decode_arguments, encode_arguments
from pilot.data import pickles, storing
from pilot.data.pickles import decode, encode
from pilot.data.segments import SegmentWriter, Unsealed
from pilot.data.storing import announceable, load, store
from pilot.errors import EncodingError
from pilot.model.values import Value

LIMIT = 1000


CONTAINERS: dict[str, tuple[Any, Any]] = {
    "alone": (lambda array: array, lambda made: made),
    "in a list": (lambda array: [1, array], lambda made: made[1]),
    "in an object": (lambda array: types.SimpleNamespace(held=array), lambda made: made.held),
}


@pytest.mark.parametrize("size", [2, 200])
@pytest.mark.parametrize("where", CONTAINERS)
@pytest.mark.parametrize("how", ["argument", "value"])
def test_arrays_keep_their_order_and_can_be_written_to(
    writer: SegmentWriter, tmp_path: Path, size: int, where: str, how: str
) -> None:
    fortran = np.asfortranarray(np.arange(size * size, dtype=float).reshape(size, size))
    frozen = fortran.copy(order="F")
    frozen.setflags(write=False)
    for array in (fortran, frozen, fortran.copy(order="C").T, frozen.T):
        wrap, unwrap = CONTAINERS[where]
        obj = wrap(array)
        if how == "argument":
            back = decode_arguments(encode_arguments((obj,), {})[0], [], tmp_path)[0][0]
        else:
            stored = put(writer, obj)
            writer.seal()
            back = load(announceable(stored), tmp_path)
        back = unwrap(back)
        assert np.array_equal(back, array)
        assert back.flags.f_contiguous == array.flags.f_contiguous
        back[0, 0] = 7


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SegmentWriter]:
    writer = SegmentWriter(tmp_path, "executor-1")
    yield writer
    writer.discard()


def put(writer: SegmentWriter, obj: object, limit: int = LIMIT) -> Value | Unsealed:
    return store(obj, writer=writer, session="s1", task_name="f", task_id="t1", inline_limit=limit)


plain_objects = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@settings(max_examples=30)
@given(plain_objects)
def test_plain_objects_come_back_as_they_went(obj: object) -> None:
    back = decode(encode(obj))
    assert back == obj
    assert type(back) is type(obj)


def test_importable_functions_travel_by_reference() -> None:
    assert decode(encode(math.gcd)) is math.gcd
    assert len(encode(fractions.Fraction)) < 100


def test_lambdas_and_closures_travel_by_value() -> None:
    factor = 3
    assert decode(encode(lambda x: x * factor))(5) == 15


def test_what_a_script_defines_can_be_read_where_the_script_is_not(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import dataclasses, sys\n"
        "from pathlib import Path\n"
        "from pilot.data.pickles import encode\n"
        "@dataclasses.dataclass\n"
        "class Point:\n"
        "    x: float\n"
        "    def norm(self): return abs(self.x)\n"
        "def double(p): return Point(2 * p.x)\n"
        "Path(sys.argv[1]).write_bytes(encode((double, Point(-4.0))))\n"
    )
    out = tmp_path / "out"
    root = Path(pickles.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, script, out], check=True, env=environment, timeout=60)
    double, point = decode(out.read_bytes())
    assert double(point).norm() == 8.0


def test_a_pickle_by_reference_into_the_script_is_seen() -> None:
    assert pickles.needs_cloudpickle(b"...\x8c\x08__main__\x94...")
    assert not pickles.needs_cloudpickle(pickle.dumps(math.gcd))


def test_modules_that_the_user_registers_travel_by_value() -> None:
    module = types.ModuleType("a_module_of_the_user")
    exec("def f(): return 7", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        cloudpickle.register_pickle_by_value(module)
        payload = encode(module.f)
        cloudpickle.unregister_pickle_by_value(module)
    finally:
        del sys.modules[module.__name__]
    assert decode(payload)() == 7


def test_the_error_names_the_part_that_cannot_be_pickled() -> None:
    obj = {"fine": 1, "deep": [0, {"lock": threading.Lock()}]}
    with pytest.raises(EncodingError) as caught:
        encode(obj)
    message = str(caught.value)
    assert "object of type dict" in message
    assert "['deep'][1]['lock'] of type _thread.lock" in message
    assert "cannot pickle '_thread.lock' object" in message
    assert isinstance(caught.value.__cause__, TypeError)


def test_the_error_looks_into_attributes() -> None:
    holder = types.SimpleNamespace(numbers=[1], stream=(x for x in "abc"))
    with pytest.raises(EncodingError, match=r"its part \.stream of type generator"):
        encode(holder)


def test_who_says_itself_why_is_believed() -> None:
    class Refuses:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __reduce__(self) -> Any:
            raise TypeError("give its number")

    class Slots:
        __slots__ = ("held",)
        held: list[Refuses]

    slots = Slots()
    slots.held = [Refuses()]
    with pytest.raises(EncodingError, match=r"its part \.held\[0\] of type .*Refuses") as raised:
        encode(slots)
    text = str(raised.value)
    assert "give its number. It is" in text and f"Refuses.__reduce__ ({__file__}, line" in text
    assert "lock" not in text


@pytest.mark.parametrize("future", [concurrent.futures.Future(), asyncio.Future(loop=Mock())])
def test_what_other_executors_give_is_told_as_that(future: Any) -> None:
    with pytest.raises(EncodingError, match=r"another executor.*give its result") as raised:
        encode([future])
    assert "module beside the script" not in str(raised.value)


def test_the_error_survives_objects_that_contain_themselves() -> None:
    loop: list[object] = [threading.Lock()]
    loop.insert(0, loop)
    with pytest.raises(EncodingError, match="cannot pickle an object of type list"):
        encode(loop)


def test_a_module_that_is_missing_here_is_named() -> None:
    module = types.ModuleType("gone_module")
    exec("def f(): pass", module.__dict__)
    sys.modules["gone_module"] = module
    payload = encode(module.f)
    del sys.modules["gone_module"]
    with pytest.raises(EncodingError, match=r"No module named 'gone_module'.*importable"):
        decode(payload)


def test_errors_can_be_sent_themselves() -> None:
    with pytest.raises(EncodingError) as caught:
        encode(threading.Lock())
    assert str(decode(encode(caught.value))) == str(caught.value)


def test_small_values_are_inline_and_need_no_file(writer: SegmentWriter, tmp_path: Path) -> None:
    objects: list[Any] = [None, 3, "abc", [1, 2], np.arange(5), np.float32(2.5)]
    for obj in objects:
        stored = put(writer, obj)
        assert isinstance(stored, Value)
        assert stored.is_inline
        assert announceable(stored) is stored
        assert stored.size == len(stored.payload)
        back = load(stored, tmp_path)
        assert type(back) is type(obj)
        assert np.array_equal(back, obj) if isinstance(obj, np.ndarray) else back == obj
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_that_of_the_pickle(writer: SegmentWriter) -> None:
    obj = b"x" * 100
    size = len(encode(obj))
    assert isinstance(put(writer, obj, limit=size), Value)
    assert isinstance(put(writer, obj, limit=size - 1), Unsealed)


@pytest.mark.parametrize(
    "obj",
    [
        b"x" * 2000,
        "x" * 2000,
        list(range(2000)),
        np.arange(2000),
        {"a": [np.arange(2000)]},
        collections.Counter({str(n): n for n in range(1000)}),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_large_values_go_into_a_segment(writer: SegmentWriter, tmp_path: Path, obj: Any) -> None:
    stored = put(writer, obj)
    assert isinstance(stored, Unsealed)
    with pytest.raises(RuntimeError, match="not sealed"):
        announceable(stored)
    writer.seal()
    value = announceable(stored)
    assert not value.is_inline
    assert value.payload == b""
    assert value.size >= 2000
    back = load(value, tmp_path)
    assert type(back) is type(obj)
    np.testing.assert_equal(back, obj)


#: Values of about so many bytes, of each kind that is looked at in a way of its own.
SIZED: dict[str, Any] = {
    "bytes": lambda size: b"x" * size,
    "text": lambda size: "é" * (size // 2),
    "numbers": lambda size: list(range(size // 3)),
    "dict": lambda size: {"a": [b"x" * (size // 2)], "b": (b"y" * (size - size // 2),)},
    "array": lambda size: np.arange(size, dtype=np.uint8),
    "arrays": lambda size: {"a": np.ones(size // 2, np.uint8), "b": [np.ones(size // 2, np.uint8)]},
    "objects": lambda size: np.array([b"x" * (size - size // 2), b"y" * (size // 2)], object),
    "twice": lambda size: [b"x" * size] * 2,
}


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(SIZED)),
    st.sampled_from([LIMIT, 64 * 1024]),
    st.integers(-400, 60) | st.sampled_from([-1, 0, 1, 136_000]),
)
def test_a_value_of_any_size_comes_back(kind: str, limit: int, more: int) -> None:
    obj = SIZED[kind](limit + more)
    with tempfile.TemporaryDirectory() as directory:
        with SegmentWriter(Path(directory), "owner") as writer:
            stored = put(writer, obj, limit)
        value = announceable(stored)
        back = load(value, Path(directory))
    assert type(back) is type(obj)
    if kind in ("array", "arrays", "objects"):
        np.testing.assert_equal(back, obj)
    else:
        assert back == obj
    # What is in two places counts twice.
    size = len(encode(obj))
    assert value.is_inline == (size <= limit) or (kind == "twice" and not value.is_inline)
    assert not value.is_inline or len(value.payload) == value.size <= limit


def test_large_arrays_are_not_pickled_to_find_their_size(
    writer: SegmentWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("pickled")

    monkeypatch.setattr(storing, "encode", forbidden)
    array = np.zeros(1000)
    for obj in (array, [array], (1, {"k": array}), {"k": [1, (array,)]}, [np.zeros(100)] * 20):
        assert isinstance(put(writer, obj), Unsealed)


def test_object_arrays_are_measured_by_their_pickle(writer: SegmentWriter) -> None:
    assert isinstance(put(writer, np.full(500, None)), Value)


def test_containers_that_contain_themselves_have_an_end(writer: SegmentWriter) -> None:
    loop: list[object] = []
    loop.append(loop)
    stored = put(writer, loop)
    assert isinstance(stored, Value)
    back = decode(stored.payload)
    assert back[0] is back


def test_values_are_small_on_the_wire() -> None:
    inline = Value(2, b"ab")
    assert len(msgspec.msgpack.encode(inline)) <= len(b"ab") + 10
    reference = Value(2**20, b"", "results/s1/e1-0.h5", "/s1/f/t1/0", 2**32 - 1)
    for value in (inline, reference):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=Value) == value


def test_handling_small_values_loads_neither_numpy_nor_hdf5() -> None:
    root = Path(pickles.__file__).parents[2]
    code = (
        "import sys, types\n"
        "package = types.ModuleType('pilot')\n"  # This module alone, not the whole API.
        f"package.__path__ = [{str(root / 'pilot')!r}]\n"
        "sys.modules['pilot'] = package\n"
        "from pilot.data import storing as v\n"
        "s = v.store([1], writer=None, session='', task_name='', task_id='')\n"
        "assert v.load(s, None) == [1]\n"
        "assert not {'numpy', 'h5py', 'cloudpickle'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
