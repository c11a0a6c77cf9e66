"""By value: the pickler for what only a user's script defines.

It is cloudpickle's, and what that leaves out: classes with ``__slots__``, functions behind
`functools.lru_cache`, and `functools.cached_property` before Python 3.12.

Invariants
----------
- Code is run by no other Python than that whose code it is: bytecode of another minor version ends
  the process, or gives wrong values. It is refused before it is a function.
- A class stays what it is in the process that defines it, whatever comes back from others.
- Importing this module loads no cloudpickle.
"""

from __future__ import annotations

import enum
import functools
import io
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from pilot.errors import EncodingError

PROTOCOL = 5

#: What is reduced in another way than cloudpickle's, besides classes.
_OURS = frozenset({CodeType, functools._lru_cache_wrapper, functools.cached_property})
#: Where the arguments of a code object have the name of its file.
_FILENAME = 10
_VERSION = sys.version_info[:2]
#: What the machinery of enumerations keeps in a member.
_OF_MEMBERS = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
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
            if kind is not FunctionType and not isinstance(obj, type):
                # Nothing else is cloudpickle's to reduce here, and there may be many of them.
                return self._reduced(obj) if kind in _OURS else NotImplemented
            found = super().reducer_override(obj)
            if kind is not FunctionType and isinstance(found, tuple) and len(found) == 6:
                return _class(obj, found)
            return found

        def _reduced(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is CodeType:
                make, parts = of_code(obj)
                # Newer releases of cloudpickle leave the file out, which tracebacks are read by.
                parts = (*parts[:_FILENAME], obj.co_filename, *parts[_FILENAME + 1 :])
                return code_of, (_VERSION, INTERPRETER, make, *parts)
            if kind is functools._lru_cache_wrapper and _is_of_the_script(obj):
                wrapped = obj.__wrapped__
                return lru_cached, (obj.cache_parameters(),), wrapped, None, None, set_wrapped
            if kind is functools.cached_property:
                state = (obj.func, obj.attrname)
                return cached_property, (), state, None, None, set_cached_property
            return NotImplemented

    return Pickler


def _is_of_the_script(obj: Any) -> bool:
    """Return whether something cannot be imported by its name."""
    if obj.__module__ == "__main__":
        return True
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not obj


def _class(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return how a class goes by value, made of how cloudpickle has it."""
    if _has_slots(kind) and len(reduced[1]) == 6 and isinstance(reduced[1][3], dict):
        reduced = _with_slots(kind, reduced)
    if isinstance(kind, enum.EnumMeta):
        reduced = _with_members(kind, reduced)
    make, parts, state, *between, set_state = reduced
    return (class_of, (make, *parts), (set_state, state), *between, set_class)


def _with_members(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the same with all names of members, and with the attributes that members have."""
    make, (*first, _, module, tracker, extra), (names, slots), *between, set_state = reduced
    # Other names of members are no attributes.
    state: Any = ({name: names[name] for name in names if name not in kind.__members__}, slots)
    members = {name: member.value for name, member in kind.__members__.items()}
    given = {
        name: {key: value for key, value in vars(member).items() if key not in _OF_MEMBERS}
        for name, member in kind.__members__.items()
    }
    if any(given.values()):
        state, set_state = (set_state, state, given), set_members
    return (make, (*first, members, module, tracker, extra), state, *between, set_state)


def _has_slots(kind: type) -> bool:
    # What `typing.NamedTuple` makes has its slots by being made again, and refuses to be given any.
    named = getattr(sys.modules.get("typing"), "NamedTuple", None)
    return "__slots__" in vars(kind) and named not in vars(kind).get("__orig_bases__", ())


def _with_slots(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the same with the slots of the class: it would be made without them."""
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


#: Classes that were made by unpickling, by their ids.
_made: weakref.WeakValueDictionary[int, type] = weakref.WeakValueDictionary()


def class_of(make: Any, *parts: Any) -> Any:
    """Return a class: the one of this process where it was defined here; see `set_class`."""
    from cloudpickle import cloudpickle

    # The last but one is what tells a class from others in all processes.
    # It is held here: known by a weak reference alone, it may be gone before it is found.
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(parts[-2])
    found = make(*parts)
    if found is not known:
        _made[id(found)] = found
    return found


def set_class(kind: Any, state: tuple[Any, Any]) -> None:
    """Give a class its attributes, but for one that was defined here.

    That is what the user's program says. It would be set back to what it was when it was sent, with
    methods that see the globals of that time.
    """
    set_state, attributes = state
    if _made.get(id(kind)) is kind:
        _give(kind, set_state, attributes)
        if _given.noting is not None:
            _given.noting.append((kind, set_state, attributes))


# --- classes as functions know them --------------------------------------------------------------

#: A class, and how it is given its attributes, and which.
ClassState: TypeAlias = tuple[Any, Callable[[Any, Any], object], Any]


class _Given:
    #: How often a class was given attributes.
    times = 0
    #: Where that is noted, while it is.
    noting: list[ClassState] | None = None


_given = _Given()


def set_members(kind: Any, state: tuple[Any, Any, dict[str, dict[str, Any]]]) -> None:
    """Give an enumeration its attributes, and its members those that their `__init__` gave them."""
    set_state, attributes, given = state
    set_state(kind, attributes)
    for name, member in kind.__members__.items():
        vars(member).update(given.get(name, {}))


def _give(kind: Any, set_state: Callable[[Any, Any], object], attributes: Any) -> None:
    _given.times += 1
    set_state(kind, attributes)


@contextmanager
def class_states() -> Iterator[list[ClassState]]:
    """Note what classes are given while something is unpickled.

    A class is one in a process, whatever it was when each of the functions that use it was sent: so
    who calls one of these after another `give_again` what it knows.
    """
    noted: list[ClassState] = []
    _given.noting = noted
    try:
        yield noted
    finally:
        _given.noting = None


def give_again(states: list[ClassState]) -> None:
    """Have classes be what they were when a function was sent."""
    for state in states:
        _give(*state)


def times_given() -> int:
    """Return a number that grows when any class is given attributes."""
    return _given.times


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
    return functools.cached_property.__new__(functools.cached_property)


def set_cached_property(made: Any, state: tuple[Any, str | None]) -> None:
    """Say what computes it, and its name."""
    function, name = state
    made.__init__(function)
    made.attrname = name
