"""By value: the pickler for what only a user's script defines.

It is cloudpickle's, and what that leaves out: classes with ``__slots__``, functions behind
`functools.lru_cache`, and `functools.cached_property` before Python 3.12.

Invariants
----------
- Code is run by no other Python than that whose code it is: bytecode of another minor version ends
  the process, or gives wrong values. It is refused before it is a function.
- Importing this module loads no cloudpickle.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

from pilot.errors import EncodingError

PROTOCOL = 5

_VERSION = sys.version_info[:2]
#: This interpreter, for people.
INTERPRETER = f"Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"


def dumps(obj: object) -> bytes:
    """Pickle `obj` by value."""
    file = io.BytesIO()
    pickler()(file).dump(obj)
    return file.getvalue()


@functools.cache
def pickler() -> Any:
    """Return the class of the pickler, which loads cloudpickle."""
    import cloudpickle

    of_code = cloudpickle.Pickler.dispatch_table[CodeType]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no type hints
        def __init__(
            self,
            file: io.BytesIO,
            protocol: int = PROTOCOL,
            buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
        ) -> None:
            super().__init__(file, protocol, buffer_callback)

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is CodeType:
                make, parts = of_code(obj)
                return code_of, (_VERSION, INTERPRETER, make, *parts)
            if kind is functools._lru_cache_wrapper and _is_of_the_script(obj):
                wrapped = obj.__wrapped__
                return lru_cached, (obj.cache_parameters(),), wrapped, None, None, set_wrapped
            if kind is functools.cached_property:
                state = (obj.func, obj.attrname)
                return cached_property, (), state, None, None, set_cached_property
            found = super().reducer_override(obj)
            if isinstance(obj, type) and "__slots__" in vars(obj) and isinstance(found, tuple):
                return _with_slots(obj, found)
            return found

    return Pickler


def _is_of_the_script(obj: Any) -> bool:
    """Return whether something cannot be imported by its name."""
    if obj.__module__ == "__main__":
        return True
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not obj


def _with_slots(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return how cloudpickle pickles a class, with its slots: it would be made without them."""
    if len(reduced) < 3 or len(reduced[1]) < 4 or not isinstance(reduced[1][3], dict):
        return reduced  # by name, or by another version of cloudpickle
    make, (*first, members, tracker, extra), (names, slots), *rest = reduced
    given = vars(kind)["__slots__"]
    given = (given,) if isinstance(given, str) else given
    # Private names are those of the class.
    mangled = {f"_{kind.__name__.lstrip('_')}{name}" for name in given if name.startswith("__")}
    state = ({name: value for name, value in names.items() if name not in mangled}, slots)
    return (make, (*first, {**members, "__slots__": given}, tracker, extra), state, *rest)


# --- called by pickles; their names are part of the format ---------------------------------------


def code_of(version: tuple[int, int], interpreter: str, make: Any, *parts: Any) -> Any:
    """Return a code object.

    Raises
    ------
    EncodingError
        It is of another minor version of Python.
    """
    if version != _VERSION:
        raise EncodingError(
            f"a function of the script was sent by {interpreter}, and cannot run in {INTERPRETER} "
            f"on {os.uname().nodename}: {wrong_python(version)}"
        )
    return make(*parts)


def minor_version(interpreter: str) -> tuple[int, int]:
    """Return the minor version of an interpreter, as `INTERPRETER` has it; (0, 0): unknown."""
    words = interpreter.split()
    numbers = words[1].split(".") if len(words) > 1 else []
    if len(numbers) < 2 or not (numbers[0].isdecimal() and numbers[1].isdecimal()):
        return (0, 0)
    return int(numbers[0]), int(numbers[1])


def wrong_python(version: tuple[int, int]) -> str:
    """Return what to do about a program whose Python the pilots do not have."""
    wanted = ".".join(map(str, version))
    return (
        "functions go by value only within one minor version. Run the program with the Python of "
        f"the pilots; or end the head (`pilot head stop`), and let a program of Python {wanted} "
        "start the next one; or set environment.python in the site file. Functions of modules go "
        "by name, and may have another version"
    )


def lru_cached(parameters: dict[str, Any]) -> Any:
    """Return a function with a cache of its own, which is empty; see `set_wrapped`."""

    def late(*args: Any, **kwargs: Any) -> Any:
        return cached.__wrapped__(*args, **kwargs)

    cached: Any = functools.lru_cache(**parameters)(late)
    return cached


def set_wrapped(cached: Any, function: Any) -> None:
    """Say which function it is; it may call itself by the name of what has the cache."""
    functools.update_wrapper(cached, function)


def cached_property() -> Any:
    """Return a property; see `set_cached_property`."""
    return functools.cached_property(None)  # type: ignore[arg-type]


def set_cached_property(made: Any, state: tuple[Any, str | None]) -> None:
    """Say what computes it, and its name."""
    made.func, made.attrname = state
    made.__doc__ = state[0].__doc__
