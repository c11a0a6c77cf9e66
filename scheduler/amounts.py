"""Amounts of named resources: whole numbers of ten-thousandths, read and written in one place.

An amount is never a float: taking and returning it a million times must leave no difference.
Names are those of a site file; `cores`, `memory` (in MiB) and `gpus` mean the same on every site.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, TypeAlias

import msgspec

#: The number of parts that make one unit.
UNIT = 10_000
_DECIMALS = 4
#: The largest whole number of anything.
MOST = (1 << 31) - 1
_TOO_MANY = MOST * UNIT + 1

#: An amount in parts of `UNIT`.
Amount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST * UNIT)]
#: Amounts by name, in the order of the names, without zeros: equal amounts compare equal.
Amounts: TypeAlias = tuple[tuple[str, Amount], ...]

MEMORY, GPUS = "memory", "gpus"
#: The places for tasks without a core: each of them takes one of its node's.
CORELESS = "coreless"
#: Names with a key or an option of their own.
RESERVED = ("cores", MEMORY, GPUS, CORELESS)
_NAME = r"[a-z][a-z0-9_]{0,63}"


def check_name(name: object) -> str:
    """Return the name of a resource if it is valid.

    Raises
    ------
    ValueError
        The name is not valid, or is one of `RESERVED`.
    """
    if name in RESERVED:
        raise ValueError(f"{name!r} has a key of its own; write that")
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise ValueError(
            f"{name!r} is not a valid name of a resource; use small letters, digits and '_', and "
            "begin with a letter, as in scratch_gib"
        )
    return name


def parse_amount(value: object) -> int:
    """Read an amount: a number of any kind, or its text, with up to four decimals.

    Raises
    ------
    ValueError
        The value is not such a number.
    """
    parts = _parts(value)
    if parts is None:
        raise ValueError(
            f"{_shown(value)} is not an amount; write a number from 0, with at most {_DECIMALS} "
            "decimals"
        )
    if parts >= _TOO_MANY:
        raise ValueError(f"{_shown(value)} is too large an amount; the largest is {MOST}")
    return parts


def _shown(value: object) -> str:
    """Return a value as text for a message; Python prints no number of very many digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of so many digits"
    return text if len(text) <= 40 else f"{text[:40]}…"


def _parts(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (str, Decimal)):
        try:
            exact = Decimal(value) * UNIT
        except ArithmeticError:
            return None
        if not exact.is_finite() or exact < 0:
            return None
        if exact > MOST * UNIT:
            return _TOO_MANY  # there may be very many digits
        return int(exact) if exact == int(exact) else None
    if isinstance(value, numbers.Integral):
        whole = int(value)
        return whole * UNIT if whole >= 0 else None
    if isinstance(value, numbers.Real):
        scaled = float(value) * UNIT
        # Sums of floats, such as 0.1 + 0.2, are a little beside what they mean.
        if 0 <= scaled < math.inf and abs(scaled - round(scaled)) <= 1e-9 * max(1.0, scaled):
            return round(scaled)
    return None


def make_amounts(given: Mapping[str, int] | Iterable[tuple[str, int]]) -> Amounts:
    """Bring amounts by name into their one canonical form."""
    items = given.items() if isinstance(given, Mapping) else given
    return tuple(sorted((name, amount) for name, amount in items if amount))


def amount_number(amount: int) -> int | float:
    """Return an amount as a number for people and their programs."""
    return amount // UNIT if amount % UNIT == 0 else amount / UNIT


def amount_text(name: str, amount: int) -> str:
    """Return an amount and its name as people read them."""
    whole, part = divmod(amount, UNIT)
    number = f"{whole}.{part:0{_DECIMALS}d}".rstrip("0") if part else str(whole)
    if name == MEMORY:
        return f"{number} MiB"
    if name == CORELESS:
        return f"{number} task" + ("s" if amount != UNIT else "") + " without a core"
    if name == GPUS:
        return f"{number} GPU" + ("s" if amount != UNIT else "")
    return f"{number} {name}"
