"""Types of options and arguments: numbers within bounds, ids, files, names of templates.

Invariant: a wrong value is reported with the name of the option or argument, before anything is
done.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilot.scheduler.amounts import amount_number, parse_amount
from pilot.texts import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # which takes no parameter in older releases

#: More than there is of anything that is counted, and within what messages can carry.
MOST = 1_000_000_000
#: The most characters of a wrong word that are shown.
_SHOWN = 40


class _Amount(_Type):
    """An amount of a resource, such as 1 or 0.5."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """Read the amount."""
        try:
            return amount_number(parse_amount(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


AMOUNT = _Amount()


class Number(_Type):
    """A whole number.

    Parameters
    ----------
    least, most
        The bounds of the number.
    """

    name = "integer"

    def __init__(self, least: int, most: int = MOST) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        try:
            number = int(value)
        except ValueError:  # also of a number with more digits than Python reads
            number = None
        if number is None or not self.least <= number <= self.most:
            self.fail(
                f"{_shown(str(value))} is no whole number from {self.least} to {self.most}",
                param,
                ctx,
            )
        return number


class _Read(_Type):
    """A text that a function `read` accepts; its ValueError is the message of a wrong one."""

    def __init__(self, read: Callable[[str], Any], name: str) -> None:
        self._read, self.name = read, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _duration_s(text: str) -> float:
    from pilot.scheduler.resources import parse_duration_s

    try:
        return parse_duration_s(text)
    except ValueError:
        raise ValueError(f"{text!r:.60} is no time; write 90s, 10m or 2h") from None


#: A length of time in seconds, such as ``5m``.
DURATION = _Read(_duration_s, "time")


class _Id(_Read):
    """An id."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        super().__init__(read, "id")


class RegularFile(click.Path):
    """A file that exists and can be read to its end: no FIFO, no device."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check that the path is a regular file."""
        from pilot.regular_files import NotRegularError, check_regular

        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]  # by its path_type
        try:
            check_regular(path)
        except NotRegularError as error:
            self.fail(f"{printable(str(path))}: {error.strerror}", param, ctx)
        return path


def _session(text: str) -> int:
    from pilot.model.ids import SESSIONS

    number = int(text) if text.isdecimal() and len(text) <= len(str(SESSIONS)) else 0
    if not 1 <= number <= SESSIONS:
        raise ValueError(f"{_shown(text)} is no session's number; `pilot session list` shows them")
    return number


def _task(text: str) -> str:
    from pilot.model.ids import parse_task_label

    parse_task_label(text)
    return text


def _task_or_session(text: str) -> str:
    if text.isdecimal():
        _session(text)
        return text
    try:
        return _task(text)
    except ValueError as error:
        raise ValueError(f"{error}, and sessions like 3") from None


def _subject(text: str) -> str:
    if text.isdecimal():
        _session(text)
        return text
    try:
        _task(re.split(r"[/\[]", text, maxsplit=1)[0])
    except ValueError as error:
        raise ValueError(
            f"{error}; results like 3.17/0 or 3.17/name, and sessions like 3"
        ) from None
    return text


def _task_or_object(text: str) -> str:
    from pilot.errors import PilotError
    from pilot.model.objects import parse

    if text.strip("0123456789.") == "":
        try:
            return _task(text)
        except ValueError as error:
            raise ValueError(f"{error}, and named objects like mesh or mesh@3") from None
    try:
        parse(text)
    except PilotError as error:
        raise ValueError(
            f"{_shown(text)} is neither a task like 3.17 nor an object: {error}"
        ) from None
    return text


def _template(text: str) -> str:
    from pilot.site_configs import templates

    known = templates()
    if text not in known:
        width = max(map(len, known))
        listed = "\n".join(f"  {name:<{width}}  {meaning}" for name, meaning in known.items())
        raise ValueError(f"there is no template {_shown(text)}; there are\n{listed}")
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


SESSION = _Id(_session)
#: Given on as it is written.
TASK = _Id(_task)
TASK_OR_SESSION = _Id(_task_or_session)
#: A task, or a version of a named object.
TASK_OR_OBJECT = _Read(_task_or_object, "name")
#: The subject of a question: a task, a result or a session.
SUBJECT = _Id(_subject)
#: The name of a shipped site file.
TEMPLATE = _Read(_template, "name")
