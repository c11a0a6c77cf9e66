"""Watches on functions that travel by value: has one changed since it was pickled?

A submission uses globals, closures and helper functions as they are at that moment. Pickling
the function each time would be the simplest way, but a third of a small task's cost in its
program. So the parts that a pickle was made of are noted here, as long as they are nothing but
constants: names and what they were bound to. As long as they are, the pickle is good.

Invariants
----------
- What can change without a name being bound anew (a list, an array, an object) is never noted:
  then there is no `Watch`, and the function is pickled for each submission.
- In doubt there is no `Watch` either.
- A watch keeps constants, modules, functions and classes alive, and no data of a user's.
"""

from __future__ import annotations

import abc
import datetime
import decimal
import functools
import logging
import pathlib
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Set
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pilot.client.command import ShellCommand
from pilot.client.task import Task

#: Exactly these types: a subclass may have attributes. Loggers are pickled by their names.
_CONSTANT = frozenset(
    {
        *(bool, int, float, complex, type(None), type(...), type(NotImplemented), range),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta),
        *(decimal.Decimal, re.Pattern, ShellCommand),
        *(pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath),
        *(logging.Logger, logging.RootLogger),
    }
)
#: Texts beyond that are data: they would be kept alive.
_TEXT_BYTES = 4096
#: Attributes that Python keeps in a class: only the identity of their values counts.
_OF_CLASSES = frozenset(
    {"__annotations__", "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__"}
    | {"__doc__", "__weakref__", "__dict__", "__abstractmethods__", "_abc_impl", "__slots__"}
    | {"__orig_bases__", "__parameters__", "__slotnames__", "__classcell__"}
)
_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_MISSING = object()


class Watch:
    """A function's bindings at the time it was pickled; made by `watch`."""

    __slots__ = ("_bound", "_codes", "_kinds", "_registered", "_sizes")

    def __init__(self) -> None:
        #: A mapping, a name, and what it was bound to.
        self._bound: list[tuple[Mapping[str, Any], str, object]] = []
        #: Mappings all of whose names count.
        self._sizes: list[tuple[Mapping[str, Any], int]] = []
        #: A function, what it is made of, and what its cells hold.
        self._codes: list[tuple[FunctionType, tuple[object, ...], tuple[object, ...]]] = []
        #: Classes, and what they are made of.
        self._kinds: list[tuple[type, tuple[object, ...]]] = []
        #: Changes with each class that is registered with an abstract one.
        self._registered = abc.get_cache_token()

    def is_same(self) -> bool:
        """Tell whether all names are still bound to the same objects."""
        for mapping, name, found in self._bound:
            if mapping.get(name, _MISSING) is not found:
                return False
        for mapping, size in self._sizes:
            if len(mapping) != size:
                return False
        for function, made_of, held in self._codes:
            if not all(map(_is, _made_of(function), made_of)):
                return False
            if held and not all(map(_is, _closed_over(function), held)):
                return False
        for kind, made_of in self._kinds:
            if not all(map(_is, _kind_made_of(kind), made_of)):
                return False
        return not self._kinds or self._registered == abc.get_cache_token()


def watch(function: object) -> Watch | None:
    """Return a watch over a function; None where that needs more than names and constants."""
    made = Watch()
    return made if _Noting(made).note(function) else None


def is_by_name(thing: Any) -> bool:
    """Tell whether a function or class is pickled by its name, since workers can import it."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is not None and cloudpickle.list_registry_pickle_by_value():
        return False
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is thing


def names_of(code: CodeType) -> Iterator[str]:
    """Yield the names that code, and what is defined inside of it, may look up in its module."""
    yield from code.co_names
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from names_of(item)


def _is(one: object, other: object) -> bool:
    return one is other


def _made_of(function: FunctionType) -> tuple[object, ...]:
    """Return the attributes of a function that can be replaced as a whole."""
    return (
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        function.__dict__,
    )


def _kind_made_of(kind: type) -> tuple[object, ...]:
    """Return the attributes of a class that can be replaced as a whole."""
    return type(kind), kind.__bases__, kind.__name__, kind.__qualname__


def _closed_over(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            yield _MISSING


class _Noting:
    """A walk over everything that a function refers to, recursively."""

    def __init__(self, made: Watch) -> None:
        self._made = made
        self._met: set[int] = set()

    def note(self, thing: Any) -> bool:
        """Note an object; return whether it can be watched."""
        kind = type(thing)
        if kind in _CONSTANT or thing is _MISSING:
            return True
        if kind in (str, bytes):
            return len(thing) <= _TEXT_BYTES
        if kind in (tuple, frozenset):
            return len(thing) <= _TEXT_BYTES and all(map(self.note, thing))
        if kind is ModuleType:
            return sys.modules.get(thing.__name__) is thing
        if kind is types.BuiltinFunctionType:
            # A method of an object goes with the object.
            return thing.__self__ is None or isinstance(thing.__self__, ModuleType)
        if id(thing) in self._met:
            return True
        self._met.add(id(thing))
        if kind is FunctionType:
            return is_by_name(thing) or self._function(thing)
        if isinstance(thing, type):
            return is_by_name(thing) or self._class(thing)
        if kind is Task:
            return self._task(thing)
        if (parts := getattr(kind, "watched_parts", None)) is not None:
            # An object that says so: it is nothing but a function with what never changes.
            return all(map(self.note, parts(thing)))
        if kind is functools._lru_cache_wrapper:
            return is_by_name(thing) or self.note(thing.__wrapped__)
        return kind.__name__ == "ufunc" and is_by_name(kind)

    def _function(self, function: FunctionType) -> bool:
        held = tuple(_closed_over(function))
        self._made._codes.append((function, _made_of(function), held))
        return (
            all(map(self.note, held))
            and self.note(function.__defaults__)
            and self._all_of(function.__kwdefaults__ or {})
            and self._all_of(vars(function))
            and self._some_of(function.__globals__, set(names_of(function.__code__)))
        )

    def _class(self, kind: type) -> bool:
        self._made._kinds.append((kind, _kind_made_of(kind)))
        return (
            is_by_name(type(kind))
            and all(map(self.note, kind.__bases__))
            and self._all_of(vars(kind), _OF_CLASSES)
        )

    def _task(self, task: Task[..., Any]) -> bool:
        if isinstance(task.__reduce__()[1][0], str):
            return True
        parts = (task.given, task.versions)
        return self.note(task.function) and all(map(self._all_of, parts))

    def _all_of(self, mapping: Mapping[str, Any], but: Set[str] = frozenset()) -> bool:
        self._made._sizes.append((mapping, len(mapping)))
        for name in mapping.keys() & but:
            found = mapping[name]
            self._made._bound.append((mapping, name, found))
            if type(found) is dict:
                self._made._sizes.append((found, len(found)))
                self._made._bound += [(found, key, value) for key, value in found.items()]
        return self._some_of(mapping, [name for name in mapping if name not in but])

    def _some_of(self, mapping: Mapping[str, Any], names: Iterable[str]) -> bool:
        for name in names:
            found = mapping.get(name, _MISSING)
            if not all(map(self.note, _parts(found))):
                return False
            self._made._bound.append((mapping, name, found))
        return True


def _parts(found: Any) -> tuple[object, ...]:
    """Return the objects that a binding consists of: descriptors are taken apart."""
    kind = type(found)
    if kind in _DESCRIPTORS:
        return ()
    if kind in (staticmethod, classmethod):
        return (found.__func__,)
    if kind is property:
        return (found.fget, found.fset, found.fdel)
    if kind is functools.cached_property:
        return (found.func,)
    return (found,)
