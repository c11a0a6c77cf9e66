"""Messages in a form that can be sent: checked in the thread that makes them.

Invariant: a message that was checked here can be encoded by the connection's thread, and decoded by
the other side: only the caller who made a mistake is refused, and no other user of the connection.
"""

from __future__ import annotations

import operator
import os
from typing import Any, TypeVar

import msgspec

from pilot.errors import PilotError

M = TypeVar("M", bound=msgspec.Struct)

_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}


def _as_plain(value: Any) -> Any:
    """Return an object of another library as the plain value that it stands for."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (str, int, float)):  # of a class of its own
        return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()  # a number of NumPy's
    if hasattr(value, "__index__"):
        return operator.index(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encode = msgspec.msgpack.Encoder(enc_hook=_as_plain).encode


def plain(message: M) -> M:
    """Return a message in plain types, as the other side will read it.

    Raises
    ------
    PilotError
        The message holds a value that cannot be sent or will not be understood; the text names it.
    """
    kind = type(message)
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        made: M = decoder.decode(_encode(message))
    except UnicodeEncodeError as error:
        raise PilotError(
            f"{error.object!a:.200} cannot be sent: it holds bytes that are no UTF-8, as old file "
            "names do"
        ) from None
    except OverflowError:
        raise PilotError(
            f"{_too_large(message)} is too large to be sent: it needs more than 64 bits"
        ) from None
    except RecursionError:
        raise PilotError("what is to be sent is nested too deeply") from None
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise PilotError(f"{_named(error, kind)}") from None
    return made


def _too_large(message: msgspec.Struct) -> str:
    """Return the name of the field, or of the argument in it, that holds too large a number."""
    waiting = list(reversed(list(msgspec.structs.asdict(message).items())))
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += reversed(list(value.items()))
            continue
        try:
            _encode(value)
        except OverflowError:
            return f"{name}: the number"
        except Exception:  # it is told once the numbers are right
            continue
    return "a number"


def _named(error: Exception, kind: type) -> str:
    """Return the text of an error, with the name of the field in place of its number."""
    text = str(error)
    before, at, place = text.rpartition(" - at `$[")
    number = place.partition("]")[0]
    fields = getattr(kind, "__struct_fields__", ())
    tagged = 1 if getattr(kind.__struct_config__, "tag", None) else 0  # type: ignore[attr-defined]  # a struct
    if at and number.isdigit() and 0 <= int(number) - tagged < len(fields):
        return f"{fields[int(number) - tagged]}: {before}"
    return text
