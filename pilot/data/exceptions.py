"""The encoding of exceptions, including those whose class cannot be called with their `args`.

Python pickles an exception as its class and `args`, and makes it again by calling the one with the
other. ``class Bad(Exception): def __init__(self, a, b): super().__init__(f"{a}: {b}")`` cannot be
made so, or is made wrong, and what is in `__slots__` is lost. Such an exception is made without its
`__init__`: with the `args`, and what its attributes were.

Invariants
----------
- What `decode` gives for `pickled` has the class, the text and the attributes of the exception, or
  nothing is given.
- A class that says itself how it is pickled (`__reduce__`), and then refuses, is left alone.
"""

from __future__ import annotations

import copyreg
from typing import Any

from pilot.data.pickles import TooLargeError, decode, encode_within
from pilot.pickled import pickled_name


def pickled(error: BaseException, limit: int) -> bytes:
    """Encode an exception so that `pilot.data.pickles.decode` makes the same one again.

    Parameters
    ----------
    error
        The exception.
    limit
        So many bytes, and no more.

    Returns
    -------
    bytes
        Empty where it cannot travel.

    Raises
    ------
    TooLargeError
        The pickle would have more bytes than that.
    """
    try:
        payload = encode_within(error, limit)
        in_slots = _in_slots(error) and not _has_a_way_of_its_own(error)
        if not in_slots and _is_made_again(payload, error):
            return payload
    except TooLargeError:
        raise
    except BaseException:  # as its class says how it is pickled, it may exit as well
        if _has_a_way_of_its_own(error):
            return b""
    try:
        payload = encode_within(_carried(error, _Known()), limit)
        return payload if _is_made_again(payload, error) else b""
    except TooLargeError:
        raise
    except BaseException:
        return b""


class _Known:
    """The findings about exceptions that may refer to each other, and to themselves."""

    def __init__(self) -> None:
        #: By the ids of exceptions and values.
        self.remade: dict[int, _Remade] = {}
        self.can_travel: dict[int, bool] = {}


class _Remade:
    """An exception that is made again without the `__init__` of its class."""

    def __init__(self, error: BaseException, known: _Known) -> None:
        self._error = error
        self._known = known

    def __reduce__(self) -> tuple[Any, ...]:
        error, known = self._error, self._known
        base = _builtin_base(type(error))
        # The reduction of a class in C holds more than `args` tells.
        reduced: Any = base.__reduce__(error)
        args = reduced[1]
        state = {**(reduced[2] if len(reduced) > 2 and reduced[2] else {}), **_in_slots(error)}
        carried = {
            name: _carried(value, known)
            for name, value in state.items()
            if _can_travel(value, known)
        }
        # The attributes come when there is an exception that they may refer to.
        arguments: tuple[Any, ...] = (type(error), base, _carried(args, known), {})
        return (make_exception, arguments, carried, None, None, set_attributes)


@pickled_name
def make_exception(
    kind: type[BaseException],
    base: type[BaseException],
    args: tuple[Any, ...],
    state: dict[str, Any],
) -> BaseException:
    error = base.__new__(kind, *args)
    base.__init__(error, *args)
    set_attributes(error, state)
    return error


@pickled_name
def set_attributes(error: BaseException, state: dict[str, Any]) -> None:
    for name, value in state.items():
        object.__setattr__(error, name, value)  # whatever its class says of that


def _builtin_base(kind: type[BaseException]) -> type[BaseException]:
    """Return the nearest built-in base of an exception class."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _in_slots(error: BaseException) -> dict[str, Any]:
    names = copyreg._slotnames(type(error))  # type: ignore[attr-defined]  # not in its stubs
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def _carried(value: Any, known: _Known) -> Any:
    """Return a value with the exceptions in it replaced by forms that can be pickled."""
    if isinstance(value, BaseException):
        return known.remade.setdefault(id(value), _Remade(value, known))
    if type(value) in (list, tuple):
        return type(value)(_carried(item, known) for item in value)
    return value


def _can_travel(value: Any, known: _Known) -> bool:
    """Tell whether an attribute can be pickled; others, such as sockets, are left out."""
    if isinstance(value, (str, int, float, bytes, type(None))):
        return True
    found = known.can_travel.get(id(value))
    if found is None:
        # Each is tried once, however many refer to it; what refers to itself is not in its own way.
        known.can_travel[id(value)] = True
        found = known.can_travel[id(value)] = _is_pickled(value, known)
    return found


def _is_pickled(value: Any, known: _Known) -> bool:
    try:
        encode_within(_carried(value, known), _ANY)
    except TooLargeError:
        return True  # which is told of the whole
    except BaseException:
        return False
    return True


_ANY = 1 << 20


def _has_a_way_of_its_own(error: BaseException) -> bool:
    """Tell whether the exception's class, and not one of Python's, defines how it is pickled."""
    kinds = type(error).__mro__
    own = kinds[: kinds.index(_builtin_base(type(error)))]
    return any("__reduce__" in vars(kind) or "__reduce_ex__" in vars(kind) for kind in own)


def _is_made_again(payload: bytes, error: BaseException) -> bool:
    try:
        made = decode(payload)
    except BaseException:  # its class may exit, or refuse in any other way
        return False
    known = _Known()
    return (
        isinstance(made, BaseException)
        and type(made).__qualname__ == type(error).__qualname__
        and len(made.args) == len(error.args)
        and _text(made) == _text(error)
        and set(vars(made))
        >= {name for name, value in vars(error).items() if _can_travel(value, known)}
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return ""
