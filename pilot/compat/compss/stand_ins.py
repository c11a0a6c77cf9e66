"""Stand-ins for results in the program, and in a task for what it is to make."""

from __future__ import annotations

from typing import Any

from pilot.compat.compss.tracker import PRIMITIVES, Entry, Tracker
from pilot.compat.compss.values import Fresh, Future

#: Classes of which a worker makes a new one for a parameter that is only written.
_MADE_NEW = (list, dict, set, bytearray, object)


def for_program(
    tracker: Tracker, kinds: tuple[Any, ...], parts: list[Any], count: int, default: Any = None
) -> Any:
    """Return what the program gets for results: one, a list, or None."""
    if count == 0:
        return None
    is_each = count > 1 and isinstance(default, (tuple, list)) and len(default) == count
    found = [
        _stand_in(
            tracker,
            kinds[n] if n < len(kinds) else None,
            parts[n],
            default[n] if is_each else default,
        )
        for n in range(count)
    ]
    return found[0] if count == 1 else found


def _stand_in(tracker: Tracker, kind: Any, part: Any, default: Any) -> Any:
    """Return what stands for a result: an object of its class where that can be made, since tasks
    that are methods may be called on it."""
    if isinstance(kind, type) and kind.__module__ not in ("builtins", "numpy", "typing"):
        try:
            made = kind()
        except Exception:
            made = None  # it needs arguments: it is opaque then
        if made is not None and type(made) not in PRIMITIVES:
            tracker.track(made).versions.append(part)
            return made
    future = Future(default)
    future.entry.versions.append(part)
    return future


def fresh(value: Any) -> Any:
    """Return what has the worker make a new object of the class; the object where it cannot."""
    kind = type(value)
    if kind in _MADE_NEW:
        return Fresh(kind)
    if kind is Future:
        return None
    try:
        kind()
    except Exception:
        return value
    return Fresh(kind)


def or_default(now: Any) -> Any:
    """Return what a task gets for an object; for a result that never comes what it is then."""
    return now.default if type(now) is Future else now


def nowhere() -> Entry:
    """Return an entry of nothing: what is written to a number or text is lost."""
    return Entry(_Nothing())


class _Nothing:
    pass
