"""The encoding of values: inline up to a limit, beyond that as references into segments.

Responsible for turning objects into bytes and back, and for deciding which way they go. Reads and
writes no files itself. Importing it loads neither NumPy nor HDF5: a process with small values only
does not wait for them.

Invariants:

- a `Value` that is a reference names a sealed file;
- pickles refer to nothing that is defined in a user's script: a worker could not import it;
- an array larger than the limit is never pickled to find out how large it is.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pilot.data import pickling
from pilot.errors import EncodingError, PilotError
from pilot.texts import said

#: What refers to nothing, and is pickled by C alone; and what of that is small, too.
_PLAIN = frozenset({int, float, bool, type(None), str, bytes})
SMALL = frozenset({float, bool, type(None)})


def are_plain(objects: Iterable[object]) -> bool:
    """Tell whether all objects are plain: numbers, text and the like, which refer to nothing."""
    return _PLAIN.issuperset(map(type, objects))


def encode_plain(obj: object) -> bytes:
    """Pickle an object that is plain, or made of tuples and dicts of plain ones; faster than
    `encode`."""
    return pickle.dumps(obj, pickling.PROTOCOL)


def encode(obj: object) -> bytes:
    """Pickle `obj`; what only the user's script defines is pickled by value.

    Raises
    ------
    EncodingError
        It, or something in it, cannot be pickled.
    PilotError
        Something in it is Pilot's, and refuses, such as a future of another site.
    """
    if type(obj) in _PLAIN:
        return encode_plain(obj)
    try:
        payload = pickle.dumps(obj, pickling.PROTOCOL)
        if not needs_cloudpickle(payload):
            return payload
    except (MemoryError, PilotError):
        raise
    except Exception:
        pass  # Lambdas and local classes; for the rest, cloudpickle's error is the one to show.
    try:
        return pickling.dumps(obj)
    except (MemoryError, PilotError):
        raise
    except Exception as cause:
        raise encoding_error(obj, cause) from cause


def encode_within(obj: object, limit: int) -> bytes:
    """Pickle `obj` as `encode` does, up to `limit` bytes; larger data is not even copied.

    Raises
    ------
    TooLargeError
        It has more.
    EncodingError
        It, or something in it, cannot be pickled.
    """
    file = BoundedFile(limit)
    try:
        pickle.Pickler(file, pickling.PROTOCOL).dump(obj)
        if not needs_cloudpickle(file.getvalue()):
            return file.getvalue()
    except (MemoryError, TooLargeError, PilotError):
        raise
    except Exception:
        pass  # as in `encode`
    file = BoundedFile(limit)
    try:
        pickling.pickler()(file).dump(obj)
    except (MemoryError, TooLargeError, PilotError):
        raise
    except Exception as cause:
        raise encoding_error(obj, cause) from cause
    return file.getvalue()


def decode(payload: bytes) -> Any:
    """Return the object that `encode` was given.

    Raises
    ------
    EncodingError
        Its pickle needs something that is not here, such as a module.
    PilotError
        Whatever it stands for is not what it was, such as a file that was imported.
    """
    try:
        return unpickled(payload)
    except (MemoryError, PilotError):
        raise
    except Exception as cause:
        raise decoding_error(cause) from cause


def unpickled(payload: bytes, buffers: Iterable[Any] | None = None) -> Any:
    """Unpickle an object; its arrays are writable, also those that were read-only.

    A task's arguments are its own, and what it may do with them must not depend on their size, nor
    on the way that they took.
    """
    if b"_frombuffer" in payload:
        return _ArrayUnpickler(io.BytesIO(payload), buffers=buffers).load()
    return pickle.loads(payload) if buffers is None else pickle.loads(payload, buffers=buffers)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes writable arrays: pickles hold read-only arrays as immutable bytes."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return partial(_writable, found) if name == "_frombuffer" else found


def _writable(make: Callable[..., Any], *arguments: Any) -> Any:
    array = make(*arguments)
    return array if array.flags.writeable else array.copy(order="K")


class TooLargeError(Exception):
    """An error of a `BoundedFile`: the pickle is larger than the file may be."""


class BoundedFile(io.BytesIO):
    """A file in memory that takes up to a number of bytes, and refuses the rest.

    Parameters
    ----------
    limit
        The bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._left = limit

    def write(self, data: Any) -> int:
        """Add data to the file.

        Raises
        ------
        TooLargeError
            It is too much.
        """
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise TooLargeError
        return super().write(data)


def needs_cloudpickle(payload: bytes) -> bool:
    """Tell whether a pickle made by reference may refer to something that a worker cannot
    import."""
    if b"__main__" in payload:
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())


#: How many nested objects are counted before the answer is "maybe not".
_COUNTED = 10_000


def surely_larger(obj: object, limit: int) -> bool:
    """Tell whether `obj` holds more than `limit` bytes in arrays and strings, without pickling it.

    What is in two places counts twice: then a value goes into a segment that might have been
    inline, which is harmless.
    """
    numpy = sys.modules.get("numpy")  # Where it is not loaded, there are no arrays.
    size = 0
    left = _COUNTED
    stack: list[Iterable[object]] = [(obj,)]
    while stack:
        for item in stack.pop():
            kind = type(item)
            if kind in (bytes, bytearray, str):
                size += len(item)  # type: ignore[arg-type]
            elif kind in (list, tuple):
                stack.append(item)  # type: ignore[arg-type]
            elif kind is dict:
                stack.append(item.values())  # type: ignore[attr-defined]
            elif numpy is not None and kind is numpy.ndarray:
                size += 0 if item.dtype.hasobject else item.nbytes  # type: ignore[attr-defined]
            left -= 1
            if size > limit:
                return True
            if not left:
                return False
    return False


def encoding_error(obj: object, cause: Exception) -> EncodingError:
    """Make the error that names the part of `obj` that cannot be pickled."""
    where, part = _culprit(obj)
    what = f"an object of type {_type_name(obj)}"
    if where:
        what += f" (its part {where} of type {_type_name(part)})"
    return EncodingError(f"cannot pickle {what}: {said(cause)}. {_advice(part, cause)}".rstrip())


def argument_error(
    args: Sequence[Any], kwargs: Mapping[str, Any], cause: BaseException
) -> EncodingError:
    """Make the error that names the argument of a call that cannot be pickled."""
    named = [(f"argument {n}", value) for n, value in enumerate(args, 1)]
    named += [(f"the argument {name}", value) for name, value in kwargs.items()]
    for name, value in named:
        if not can_be_pickled(value):
            where, part = _culprit(value)
            return unpicklable_error(f"{name}{where and f', its part {where}'}", part, cause)
    return unpicklable_error("an argument", args, cause)


def unpicklable_error(name: str, thing: object, cause: BaseException) -> EncodingError:
    """Make the error for an object that has a name for users, such as ``the global 'lock'``."""
    text = f"{name} (of type {_type_name(thing)}) cannot be pickled: {said(cause)}. "
    return EncodingError((text + _advice(thing, cause)).rstrip())


#: In a program, and in a task.
_FUTURES = frozenset({("pilot", "Future"), ("pilot.client.child_tasks", "ChildFuture")})


#: Of other executors and of event loops.
_OTHER_FUTURES = frozenset({("concurrent.futures._base", "Future"), ("_asyncio", "Future")})


def is_future(thing: object) -> bool:
    """Tell whether an object is a task's future, without importing the modules of futures."""
    return _is_one_of(_FUTURES, thing)


def _is_one_of(kinds: frozenset[tuple[str, str]], thing: object) -> bool:
    names = ((kind.__module__, kind.__qualname__) for kind in type(thing).__mro__)
    return not kinds.isdisjoint(names)


def _advice(thing: object, cause: BaseException) -> str:
    """Return advice on what to send in place of an object that cannot be pickled."""
    if isinstance(thing, types.GeneratorType):
        return "Give a list of its items."
    if is_future(thing):
        return (
            "Give the future itself as an argument of the task, which gets its value; in a task it "
            "may also be what is returned."
        )
    if _is_one_of(_OTHER_FUTURES, thing):
        return "It is of another executor, or of an event loop: give its result in its place."
    if type(thing).__module__.partition(".")[0] == "pilot":
        return ""  # it has said so itself
    if place := _at_fault(cause):
        return f"It is {place} that raised this, while it was pickled: mend that."
    advice = "Pass what it can be made from, such as a path or numbers, and make it inside the task"
    return advice + (
        "; functions and classes that hold such a thing (a lock, a weak reference, an open file) "
        "can be used where they are defined in a module beside the script, which tasks import."
    )


def decoding_error(cause: BaseException) -> EncodingError:
    """Make the error for a pickle that cannot be read in this process."""
    place = _at_fault(cause)
    if isinstance(cause, ImportError):
        advice = (
            "The module must be importable here as it was where the object was made: keep it "
            "beside the script or in a directory of sys.path that all nodes see."
        )
        if place:
            advice = f"It is {place} that needs it. {advice}"
    elif place:
        advice = (
            f"It is {place} that raised this. What makes an object again (its class's __new__, "
            "__setstate__, __getattr__, __init_subclass__, and the modules that it needs) runs "
            "here before the object has its attributes, and must neither need these nor exit; of a "
            "library, the version here may be another one than where it was pickled."
        )
    elif isinstance(cause, AttributeError) and "__main__" in said(cause):
        advice = (
            "It went by its name in the script, which is not run here: define it in a module "
            "beside the script, which tasks import."
        )
    elif isinstance(cause, (AttributeError, pickle.UnpicklingError, EOFError)):
        advice = "It was written by another version of the program, or its class has changed."
    else:
        advice = (
            "What its class says of how it is made again (__reduce__, __getnewargs__) does not do "
            "here; what needs keywords in class statements (__init_subclass__) must be in a module "
            "beside the script, which tasks import. Or it was written by another version of the "
            "program."
        )
    return EncodingError(f"cannot unpickle a value: {said(cause)}. {advice}")


#: Where code is that pickles and unpickles for others.
_PILOT = f"{Path(__file__).parents[1]}{os.sep}"
_LIBRARY = f"{Path(pickle.__file__).parent}{os.sep}"


def _at_fault(error: BaseException) -> str:
    """Return the place in the code that raised an error during pickling or unpickling; empty if
    there is none."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not _is_machinery(code.co_filename):
            name = _qualified_name(trace.tb_frame)
            if name == "<module>":
                name = f"the module {trace.tb_frame.f_globals.get('__name__')}"
            return f"{name} ({code.co_filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return ""


def _qualified_name(frame: types.FrameType) -> str:
    code = frame.f_code
    if sys.version_info >= (3, 11):
        return code.co_qualname
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    kind = first if isinstance(first, type) else type(first)
    for one in kind.__mro__:
        method = vars(one).get(code.co_name)
        if getattr(getattr(method, "__func__", method), "__code__", None) is code:
            return f"{one.__qualname__}.{code.co_name}"
    return code.co_name


def _is_machinery(file: str) -> bool:
    if file.startswith(("<frozen ", _PILOT)) or f"{os.sep}cloudpickle{os.sep}" in file:
        return True
    return file.startswith(_LIBRARY) and "-packages" not in file


def _type_name(obj: object) -> str:
    kind = type(obj)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )


#: How deep, and among how many parts of one object, the error message looks for the reason.
_SEARCH_DEPTH = 8
_SEARCH_WIDTH = 1000


def _culprit(obj: object, where: str = "", depth: int = _SEARCH_DEPTH) -> tuple[str, object]:
    """Find the smallest part of `obj` that cannot be pickled; return the path to it, and the
    part."""
    for step, part in _inside(obj) if depth else ():
        if not can_be_pickled(part):
            return _culprit(part, where + step, depth - 1)
    return where, obj


def _inside(obj: object) -> list[tuple[str, object]]:
    if isinstance(obj, dict):
        found = [(f"[{key!r:.60}]", part) for key, part in obj.items()]
    elif isinstance(obj, (list, tuple)):
        found = [(f"[{n}]", part) for n, part in enumerate(obj[:_SEARCH_WIDTH])]
    elif isinstance(obj, type):
        found = []
    else:
        found = [(f".{name}", part) for name, part in attributes(obj).items()]
    return found[:_SEARCH_WIDTH]


def attributes(obj: object) -> dict[str, Any]:
    """Return the attributes by which an object is pickled, including those in slots."""
    if _is_one_of(_FUTURES | _OTHER_FUTURES, obj) or _says_itself(obj):
        return {}
    found = getattr(obj, "__dict__", None)
    found = dict(found) if isinstance(found, dict) else {}
    for name in copyreg._slotnames(type(obj)):  # type: ignore[attr-defined]
        with contextlib.suppress(AttributeError):
            found[name] = object.__getattribute__(obj, name)
    return found


def _says_itself(obj: object) -> bool:
    """Tell whether a class written in Python defines how its objects are pickled."""
    ways = ("__reduce__", "__reduce_ex__")
    found = (vars(kind).get(way) for kind in type(obj).__mro__ for way in ways)
    return any(isinstance(way, types.FunctionType) for way in found)


def can_be_pickled(obj: object) -> bool:
    """Tell whether an object can be sent, by pickling it."""
    if type(obj) in (int, float, bool, str, bytes, type(None)):
        return True
    try:
        pickling.dumps(obj)
    except KeyboardInterrupt:
        raise
    except BaseException:  # its class may exit
        return False
    return True
