"""Pickling by value: the pickler for what only a user's script defines.

It is cloudpickle's, and what that leaves out: classes with ``__slots__``, functions behind
`functools.lru_cache`, and `functools.cached_property` before Python 3.12.

Invariants
----------
- Code is run by no other Python than that whose code it is: bytecode of another minor version ends
  the process, or gives wrong values. It is refused before it is a function.
- A class stays what it is in the process that defines it, whatever comes back from others.
- Everywhere else it is what it was when it was sent: with the bases, the attributes and the
  registry of that moment, and with no others. What cannot be had so is refused in words.
- Importing this module loads no cloudpickle.
"""

from __future__ import annotations

import abc
import collections.abc
import enum
import functools
import io
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple

from pilot.errors import EncodingError
from pilot.pickled import pickled_name

PROTOCOL = 5

#: The types that are reduced in another way than cloudpickle's, besides classes.
_OURS = frozenset({CodeType, functools._lru_cache_wrapper, functools.cached_property})
#: The place of the file's name among the arguments of a code object.
_FILENAME = 10
#: The attributes that every class has.
_LASTING = ("__doc__", "__module__")
_VERSION = sys.version_info[:2]
#: The attributes that the machinery of enumerations keeps in a member.
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
    """Tell whether an object cannot be imported by its name."""
    if obj.__module__ == "__main__":
        return True
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not obj


def _class(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return how to pickle a class by value, based on cloudpickle's answer."""
    if _has_slots(kind) and len(reduced[1]) == 6 and isinstance(reduced[1][3], dict):
        reduced = _with_slots(kind, reduced)
    given: dict[str, dict[str, Any]] = {}
    if isinstance(kind, enum.EnumMeta):
        reduced, given = _with_members(kind, reduced)
    make, parts, (names, slots), *between, set_state = reduced
    # Left out where a base has the same; and they are what cannot be taken away from a class.
    kept = {name: vars(kind)[name] for name in _LASTING if name in vars(kind)}
    state = ({**names, **kept}, slots)
    made_as = (type(kind), kind.__bases__, kind.__name__, kind.__qualname__)
    return (class_of, (make, *parts), (set_state, state, made_as, given), *between, set_class)


#: The members of each enumeration when it was sent first, by their names.
_members_sent: weakref.WeakKeyDictionary[type, list[tuple[str, int, int]]]
_members_sent = weakref.WeakKeyDictionary()


def _with_members(
    kind: Any, reduced: tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """Return the reduced form with all names of an enumeration's members, and the members'
    attributes.

    Raises
    ------
    EncodingError
        The enumeration has other members than when it was sent first.
    """
    make, (*first, _, module, tracker, extra), (names, slots), *rest = reduced
    found = kind.__members__
    now = [(name, id(member), id(member._value_)) for name, member in found.items()]
    before = _members_sent.setdefault(kind, now)
    if now != before:
        raise EncodingError(
            f"the members of the enumeration {kind.__qualname__} were changed in place since it "
            f"was sent first (it had {', '.join(name for name, *_ in before)}, and has "
            f"{', '.join(found)}): where it is already it has those that it had. Define the "
            "enumeration anew, by another class statement"
        )
    # Other names of members are no attributes.
    state = ({name: names[name] for name in names if name not in found}, slots)
    members = {name: member._value_ for name, member in found.items()}
    given = {
        name: {key: value for key, value in vars(member).items() if key not in _OF_MEMBERS}
        for name, member in found.items()
    }
    return (make, (*first, members, module, tracker, extra), state, *rest), (
        given if any(given.values()) else {}
    )


def _has_slots(kind: type) -> bool:
    # Classes of `typing.NamedTuple` have their slots when they are made again, and refuse others.
    named = getattr(sys.modules.get("typing"), "NamedTuple", None)
    return "__slots__" in vars(kind) and named not in vars(kind).get("__orig_bases__", ())


def _with_slots(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduced form with the slots of the class, which cloudpickle would leave out.

    Its slots are those that it was made with, whatever `__slots__` says since; and what has taken
    the place of one since is an attribute like others.
    """
    make, (*first, members, tracker, extra), (names, slots), *rest = reduced
    has = vars(kind)
    said = has["__slots__"]
    said = (said,) if isinstance(said, str) else tuple(said)
    own = {name for name, value in has.items() if _is_slot(kind, value)}
    # Private names are those of the class.
    mangled = {name: _mangled(kind, name) for name in said}
    made_with = [*said, *sorted(own.difference(mangled.values()))]
    made_with += [
        name
        for name in ("__dict__", "__weakref__")
        if isinstance(has.get(name), GetSetDescriptorType) and name not in said
    ]
    replaced = {name: has[name] for name in mangled.values() if name in has and name not in own}
    state = ({name: value for name, value in names.items() if name not in own} | replaced, slots)
    members = {**members, "__slots__": said if len(made_with) == len(said) else tuple(made_with)}
    return (make, (*first, members, tracker, extra), state, *rest)


def _is_slot(kind: type, attribute: object) -> bool:
    return isinstance(attribute, MemberDescriptorType) and attribute.__objclass__ is kind


def _mangled(kind: type, name: str) -> str:
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if is_private else name


# --- called by pickles; their names are part of the format ---------------------------------------


@pickled_name
def code_of(version: tuple[int, int], interpreter: str, make: Any, *parts: Any) -> Any:
    """Return a code object made from its parts.

    Raises
    ------
    EncodingError
        The code is of another minor version of Python.
    """
    if version != _VERSION:
        raise EncodingError(
            f"a function of the script was sent by {interpreter}, and cannot run in {INTERPRETER} "
            f"on {os.uname().nodename}: {wrong_python(version)}"
        )
    return make(*parts)


def minor_version(interpreter: str) -> tuple[int, int]:
    """Return the minor version of an interpreter from `INTERPRETER`'s form; (0, 0) if unknown."""
    words = interpreter.split()
    numbers = words[1].split(".") if len(words) > 1 else []
    if len(numbers) < 2 or not (numbers[0].isdecimal() and numbers[1].isdecimal()):
        return (0, 0)
    return int(numbers[0]), int(numbers[1])


#: Classes that were made by unpickling, by their ids.
_made: weakref.WeakValueDictionary[int, type] = weakref.WeakValueDictionary()


@pickled_name
def class_of(make: Any, *parts: Any) -> Any:
    """Return a class: the existing one, or else a new one; see `set_class`."""
    from cloudpickle import cloudpickle

    # The last but one is what tells a class from others in all processes.
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(parts[-2])
    if known is not None:
        # To make another one would be seen, by `__init_subclass__` for one.
        return known
    found = make(*parts)
    _made[id(found)] = found
    return found


@pickled_name
def set_class(kind: Any, state: tuple[Any, ...]) -> None:
    """Restore a class to its state when it was sent, unless it was defined here.

    That is what the user's program says. It would be set back to what it was when it was sent, with
    methods that see the globals of that time.
    """
    if _made.get(id(kind)) is kind:
        given = ClassState(kind, *state)
        _give(given)
        if _given.noting is not None:
            _given.noting.append(given)


# --- classes as functions know them --------------------------------------------------------------


class ClassState(NamedTuple):
    """A class, and its state when it was sent."""

    kind: Any
    #: Gives it its attributes.
    set_state: Callable[[Any, Any], object]
    #: By their names; and what is in slots of the class of classes, which is nothing.
    attributes: tuple[dict[str, Any], dict[str, Any]]
    #: The class's own class, its bases, its name and its qualified name.
    made_as: tuple[type, tuple[type, ...], str, str]
    #: The attributes of the members of an enumeration.
    of_members: dict[str, dict[str, Any]]


class _Given:
    #: How often a class was given attributes.
    times = 0
    #: Where that is noted, while it is.
    noting: list[ClassState] | None = None
    #: The names of the attributes that each class was given last.
    names: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()
    #: Slots of classes in whose place there is something else, or was.
    slots: dict[tuple[type, str], Any] = {}


_given = _Given()


def _give(state: ClassState) -> None:
    """Set the attributes of a class to the sent state, and remove those that it did not have."""
    _given.times += 1
    kind, (names, slots) = state.kind, state.attributes
    _make_as(kind, *state.made_as)
    registered = names.get(_REGISTRY)
    names = {name: value for name, value in names.items() if name != _REGISTRY}
    before, now = _given.names.get(kind), frozenset(names)
    for name in (before or now) - now:
        if slot := _given.slots.get((kind, name)):
            type.__setattr__(kind, name, slot)
        elif name in vars(kind):
            type.__delattr__(kind, name)
    for name in now - (before or frozenset()):
        if _is_slot(kind, vars(kind).get(name)):
            _given.slots[kind, name] = vars(kind)[name]
    state.set_state(kind, (names, slots))
    if registered is not None:
        _register(kind, registered)
    if before is not None and before != now:
        _forget_answers(kind)
    _given.names[kind] = now
    for name, attributes in state.of_members.items():
        vars(kind.__members__[name]).update(attributes)


#: Cloudpickle's name for the classes that are registered with an abstract one.
_REGISTRY = "_abc_impl"


def _make_as(kind: Any, metaclass: type, bases: tuple[type, ...], name: str, qualname: str) -> None:
    """Give a class its metaclass, its bases and its names, where they differ."""
    try:
        if type(kind) is not metaclass:
            type.__setattr__(kind, "__class__", metaclass)
        if list(map(id, kind.__bases__)) != list(map(id, bases)):
            _forget_answers(kind)
            type.__setattr__(kind, "__bases__", bases)
            _forget_answers(kind)
    except TypeError as error:
        raise EncodingError(
            f"the class {qualname} had another class or other bases when it came to process "
            f"{os.getpid()} of {os.uname().nodename} first, and cannot be given those that it has "
            f"now: {error}. Define it anew, by another class statement"
        ) from error
    if kind.__name__ != name:
        type.__setattr__(kind, "__name__", name)
    if kind.__qualname__ != qualname:
        type.__setattr__(kind, "__qualname__", qualname)


def _register(kind: Any, wanted: Iterable[type | None]) -> None:
    """Register exactly these classes with an abstract one."""
    classes = [one for one in wanted if one is not None]
    if registered(kind) != set(classes):
        _forget_answers(kind)
        abc._reset_registry(kind)  # type: ignore[attr-defined]  # not in its stubs
        for one in classes:
            abc.ABCMeta.register(kind, one)


def registered(kind: abc.ABCMeta) -> set[type]:
    """Return the classes that are registered with an abstract one."""
    references = abc._get_dump(kind)[0]  # type: ignore[attr-defined]  # not in its stubs
    return {one for one in (reference() for reference in references) if one is not None}


def _forget_answers(kind: type) -> None:
    """Clear the answers that abstract classes have cached about a class."""
    for one in (*kind.__mro__, *vars(collections.abc).values()):
        if isinstance(one, abc.ABCMeta):
            abc._reset_caches(one)  # type: ignore[attr-defined]  # not in its stubs


@contextmanager
def class_states() -> Iterator[list[ClassState]]:
    """Record the states that classes are given while something is unpickled.

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
    """Restore classes to their states when a function was sent."""
    for state in states:
        _give(state)


def times_given() -> int:
    """Return a number that grows whenever any class is given attributes."""
    return _given.times


def wrong_python(version: tuple[int, int]) -> str:
    """Return advice for a program whose Python version differs from the pilots'."""
    wanted = ".".join(map(str, version))
    return (
        "functions go by value only within one minor version. Run the program with the Python of "
        f"the pilots; or end the head (`pilot head stop`), and let a program of Python {wanted} "
        "start the next one; or set environment.python in the site file. Functions of modules go "
        "by name, and may have another version"
    )


@pickled_name
def lru_cached(parameters: dict[str, Any]) -> Any:
    """Return a cached function with an empty cache of its own; see `set_wrapped`."""

    def late(*args: Any, **kwargs: Any) -> Any:
        return cached.__wrapped__(*args, **kwargs)

    cached: Any = functools.lru_cache(**parameters)(late)
    return cached


@pickled_name
def set_wrapped(cached: Any, function: Any) -> None:
    """Set the function behind a cache; the function may refer to itself by the cached name."""
    functools.update_wrapper(cached, function)


@pickled_name
def cached_property() -> Any:
    """Return an empty cached property; see `set_cached_property`."""
    return functools.cached_property.__new__(functools.cached_property)


@pickled_name
def set_cached_property(made: Any, state: tuple[Any, str | None]) -> None:
    """Set the function behind a cached property, and its name."""
    function, name = state
    made.__init__(function)
    made.attrname = name
