"""Errors for objects that cannot be pickled or unpickled: which part, why, and what to do instead.

Invariant: an object is looked at, and nothing of it is called but what pickling it calls.
"""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pilot.data.pickling_by_value import dumps
from pilot.errors import EncodingError
from pilot.texts import said


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


#: Futures of other executors and of event loops.
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


#: The directories of code that pickles and unpickles for others.
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
    for name in copyreg._slotnames(type(obj)):  # type: ignore[attr-defined]  # not in its stubs
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
        dumps(obj)
    except KeyboardInterrupt:
        raise
    except BaseException:  # its class may exit
        return False
    return True
