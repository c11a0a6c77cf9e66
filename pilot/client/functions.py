"""Encoding of a task's function: by name, by value, and with large data.

A function that workers can import goes by its name. Any other is pickled, with the globals, the
closures and the objects that it refers to. A small pickle goes in messages. Beyond the limit for
values it goes into a segment, as large arguments do, its arrays beside the pickle: big data never
pass through the head, its database, or the agents.

Invariants
----------
- The pickle of a function without its arrays has at most `limits.FUNCTION_BYTES`. A larger one
  is refused before it is copied, with the name of the large object.
- The generators behind `random.random` and `numpy.random.rand` go by name: each process has its
  own. Of any other that a function reaches, each executor gets a copy in the same state; a
  warning says so.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from pilot.client.function_watch import is_by_name, names_of
from pilot.client.task import Task, import_object
from pilot.data.pickles import BoundedFile, TooLargeError, encode
from pilot.data.pickling_by_value import pickler
from pilot.data.unpicklable import (
    attributes,
    can_be_pickled,
    encoding_error,
    is_future,
    unpicklable_error,
)
from pilot.errors import EncodingError, PilotError, SubmissionError
from pilot.limits import FUNCTION_BYTES
from pilot.texts import size_text

if TYPE_CHECKING:
    from pilot.data.parts import Parts

_DIGEST_BYTES = 16
#: Things that are looked at to find the name of one of them, and how far from the function.
_SEARCH_THINGS = 10_000
_SEARCH_DEPTH = 8
#: The number of parts that are tried of a function that cannot be pickled.
_SEARCH_PARTS = 1000


class EncodedFunction(Struct, frozen=True):
    """A function as it is sent."""

    #: The digest of the function's contents.
    digest: bytes
    #: The pickle, where it is small.
    payload: bytes
    #: The parts that go into a segment, if they are large.
    parts: Parts | None
    #: Random generators that each executor gets a copy of, in words.
    generators: tuple[str, ...] = ()
    #: True if it has code, which only the same minor version of Python can run.
    has_code: bool = False


def encode_function(task: Task[..., Any], limit: int) -> EncodedFunction:
    """Return the function of a task as it is sent.

    Parameters
    ----------
    task
        The task.
    limit
        The bytes that go in messages.

    Raises
    ------
    SubmissionError
        The function cannot be pickled, or is too large.
    """
    function = task.function
    try:
        if isinstance(task.__reduce__()[1][0], str):
            return _small(encode(task))
        if isinstance(function, (FunctionType, type)) and is_by_name(function):
            return _small(encode(function))
        return _by_value(function, limit)
    except TooLargeError:
        raise SubmissionError(_too_large(task)) from None
    except PilotError as error:
        told: PilotError = error
        if isinstance(error, EncodingError) and error.__cause__ is not None:
            name, thing = _culprit(function)
            if name:
                told = unpicklable_error(name, thing, error.__cause__)
        raise SubmissionError(
            f"the function {task.__qualname__} cannot be sent to workers: {told}"
        ) from error


def _small(
    payload: bytes, generators: tuple[str, ...] = (), has_code: bool = False
) -> EncodedFunction:
    digest = hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()
    return EncodedFunction(digest, payload, None, generators, has_code)


def _by_value(function: object, limit: int) -> EncodedFunction:
    reducer = _Reducer(limit)
    file = BoundedFile(limit)
    try:
        _dump(function, file, reducer)
    except TooLargeError:
        return _large(function)
    return _small(file.getvalue(), _generators(function, reducer), reducer.has_code)


def _large(function: object) -> EncodedFunction:
    from pilot.data.parts import raw, take_apart  # they load NumPy and HDF5

    reducer = _Reducer(None)
    parts = take_apart(function, BoundedFile(FUNCTION_BYTES), reducer)
    digest = hashlib.blake2b(parts.skeleton or b"", digest_size=_DIGEST_BYTES)
    for array in parts.arrays:
        digest.update(repr((array.dtype, array.shape)).encode())
        digest.update(raw(array).data)
    generators = _generators(function, reducer)
    return EncodedFunction(digest.digest(), b"", parts, generators, reducer.has_code)


def _dump(function: object, file: io.BytesIO, reducer: _Reducer) -> None:
    try:
        _pickler()(file, reducer).dump(function)
    except (MemoryError, TooLargeError, PilotError):
        raise
    except Exception as cause:
        raise encoding_error(function, cause) from cause


@functools.cache
def _pickler() -> Any:
    """Return the class of the pickler. Cloudpickle is loaded when a function needs it."""

    class Pickler(pickler()):  # type: ignore[misc]  # made late
        def __init__(self, file: io.BytesIO, reducer: _Reducer) -> None:
            super().__init__(file)
            self._reducer = reducer

        def reducer_override(self, obj: Any) -> Any:
            found = self._reducer(obj)
            return super().reducer_override(obj) if found is NotImplemented else found

    return Pickler


class _Reducer:
    """A reducer of objects that are pickled in another way, or noted, in a function.

    Parameters
    ----------
    limit
        The bytes of arrays from which on they are not copied into the pickle; None: they are not
        copied anyway.
    """

    def __init__(self, limit: int | None) -> None:
        self._left = limit
        self._random = sys.modules.get("random")
        numpy = sys.modules.get("numpy")
        self._array = getattr(numpy, "ndarray", None)
        self._numpy_random = sys.modules.get("numpy.random")
        self._kinds = _generator_kinds()
        self.generators: list[object] = []
        self.has_code = False

    def __call__(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is self._array and self._left is not None:
            self._left -= obj.nbytes
            if self._left < 0:
                raise TooLargeError
        elif kind is CodeType:
            self.has_code = True
        elif isinstance(obj, self._kinds):
            if obj is getattr(self._random, "_inst", None):
                return import_object, ("random", "_inst")
            if obj is _of_numpy(self._numpy_random):
                return import_object, ("numpy.random.mtrand", "_rand")
            self.generators.append(obj)
        return NotImplemented


def _of_numpy(module: Any) -> object:
    """Return the generator behind the functions of `numpy.random`."""
    return getattr(getattr(module, "mtrand", None), "_rand", None)


def _generator_kinds() -> tuple[type, ...]:
    """Return the classes of random generators, of libraries that are loaded."""
    kinds = []
    for module, names in (
        ("random", ("Random",)),
        ("numpy.random", ("Generator", "RandomState")),
    ):
        found = sys.modules.get(module)
        kinds += [getattr(found, name) for name in names if hasattr(found, name)]
    return tuple(kinds)


# --- names for what is found ---------------------------------------------------------------------


def _generators(function: object, reducer: _Reducer) -> tuple[str, ...]:
    if not reducer.generators:
        return ()
    wanted = {id(one): one for one in reducer.generators}
    named: dict[int, str] = {}
    for way, thing in _reached(function):
        if id(thing) in wanted:
            named.setdefault(id(thing), f"{way} ({_kind(thing)})")
    return tuple(named.get(key) or f"a {_kind(one)}" for key, one in wanted.items())


def largest(task: Task[..., Any]) -> str:
    """Return the path to the largest object that a task's function refers to, and its size."""
    sizes = [(_bytes_in(thing), way) for way, thing in _reached(task.function, depth=3)]
    size, way = max(sizes, default=(0, ""))
    return f"{way} of {size_text(size)}" if size else "large data"


def _too_large(task: Task[..., Any]) -> str:
    return (
        f"the function {task.__qualname__} uses {largest(task)}; with a function travel at most "
        f"{size_text(FUNCTION_BYTES)} beside NumPy arrays. Give it as an argument; what many tasks "
        "need is put once, by session.put(value), and given to them as a future"
    )


def _kind(thing: object) -> str:
    kind = type(thing)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__.split('._')[0]}."
    return f"{module}{kind.__qualname__}"


def _bytes_in(thing: Any, left: int = _SEARCH_THINGS) -> int:
    """Return about how many bytes a thing has, of texts and buffers in plain containers."""
    total, stack = 0, [thing]
    while stack and left:
        one, left = stack.pop(), left - 1
        if isinstance(one, (bytes, bytearray, str)):
            total += len(one)
        elif isinstance(getattr(one, "nbytes", None), int) and type(one) is not type:
            total += one.nbytes
        elif isinstance(one, dict):
            stack += [*one, *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            total += 8 * len(one)
            stack += one
    return total


def _reached(function: object, depth: int = _SEARCH_DEPTH) -> Iterator[tuple[str, object]]:
    """Yield the objects that a function reaches, each with the path in words, nearest first."""
    met = {id(function)}
    level: list[tuple[str, object]] = [("", function)]
    for _ in range(depth):
        below: list[tuple[str, object]] = []
        for way, thing in level:
            for name, part in _next_to(thing, way):
                if id(part) not in met and len(met) < _SEARCH_THINGS:
                    met.add(id(part))
                    below.append((name, part))
        yield from below
        level = below


def _culprit(function: object) -> tuple[str, object]:
    """Return the object that makes a function impossible to pickle, with the path to it."""
    way, found = "", function
    met = {id(function)}
    for _ in range(_SEARCH_DEPTH):
        parts = () if is_future(found) else _next_to(found, way)
        for name, part in itertools.islice(parts, _SEARCH_PARTS):
            if id(part) not in met and not can_be_pickled(part):
                met.add(id(part))
                way, found = name, part
                break
        else:
            break
    return way, found


def _next_to(thing: Any, way: str) -> Iterator[tuple[str, object]]:
    """Yield the parts of an object, each with the path to it."""
    of = f" of {way}" if way else ""
    if isinstance(thing, Task):
        yield way or "its function", thing.function
    elif isinstance(thing, FunctionType):
        if is_by_name(thing):
            return
        code = thing.__code__
        held = zip(code.co_freevars, thing.__closure__ or (), strict=True)
        for name, cell in held:
            try:
                yield f"{name!r}, which it closes over", cell.cell_contents
            except ValueError:
                continue
        for name in names_of(code):
            if name in thing.__globals__:
                yield f"the global {name!r}", thing.__globals__[name]
        for value in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
            yield f"a default value{of}", value
    elif isinstance(thing, (MethodType, BuiltinFunctionType)):
        yield way or f"the object of the method ({_kind(thing.__self__)})", thing.__self__
        yield way, getattr(thing, "__func__", None)
    elif isinstance(thing, functools.partial):
        yield way, thing.func
        for value in (*thing.args, *thing.keywords.values()):
            yield f"an argument of the partial{of}", value
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield f"[{key!r:.60}]{of}", value
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for value in thing:
            yield f"an item{of}" if of else "an item", value
    elif not isinstance(thing, (type, ModuleType)):
        for name, value in attributes(thing).items():
            yield f"the attribute {name!r}{of}", value
