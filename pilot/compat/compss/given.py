"""The arguments of decorators, by their usual names: missing ones are errors, unknown ones warned
of, as PyCOMPSs does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pilot.compat.compss.constraints import snake, warn_once
from pilot.compat.compss.errors import PyCOMPSsException


def read_given(
    decorator: str,
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    needed: Iterable[str] = (),
    known: Iterable[str] = (),
    hints: Iterable[str] = (),
) -> dict[str, Any]:
    """Return what a decorator was given, by usual names.

    Parameters
    ----------
    decorator
        Its name.
    args, given
        What it was given.
    needed, known
        The names that it must have, and may have.
    hints
        Those without a meaning here.

    Raises
    ------
    PyCOMPSsException
        One is missing.
    """
    needed, known, hints = set(needed), set(known), set(hints)
    if args:
        names = ", ".join(f"{name}=…" for name in sorted(needed) or ["…"])
        raise PyCOMPSsException(f"@{decorator} takes names: @{decorator}({names})")
    found = {}
    for name, value in given.items():
        usual = name if name in needed | known else snake(name)
        # A capital at the beginning is a mistake, which PyCOMPSs names.
        if name[:1].isupper() or usual not in needed | known | hints:
            warn_once(
                f"{decorator}.{name}",
                f"@{decorator}({name}=…): there is no such argument, and it is ignored; there are "
                + ", ".join(sorted(needed | known)),
            )
        elif usual in hints:
            warn_once(
                f"{decorator}.{name}",
                f"@{decorator}({name}=…) has no meaning on Pilot, and is ignored",
            )
        else:
            found[usual] = value
    missing = sorted(needed - found.keys())
    if missing:
        raise PyCOMPSsException(f"@{decorator}: {missing[0]}=… is missing")
    return found
