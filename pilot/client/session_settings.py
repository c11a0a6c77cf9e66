"""The settings of a session: checked, and in the form in which the head gets them.

Invariant: what a user has given and cannot be sent is refused here, by its name, before anything
else is done.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pilot.client.search_path import absolute, search_path
from pilot.client.task import OptionError, Options, make_options
from pilot.data.pickles import TooLargeError, encode_within
from pilot.errors import PilotError, SiteError
from pilot.limits import OPTIONS_BYTES, VALUE_BYTES
from pilot.model.tasks import Environment
from pilot.scheduler.budgets import parse_budget
from pilot.scheduler.resources import parse_duration_s
from pilot.site import working_directory
from pilot.texts import as_name, size_text

#: The time without a client after which a session that ends with it does so, and the shortest one
#: that may be asked for, in seconds.
GRACE_S, LEAST_GRACE_S = 60.0, 1.0


class Settings(NamedTuple):
    """The settings of a session, in the order of the fields of `OpenSession`."""

    name: str
    environment: Environment
    #: The session to attach to; 0: a new one.
    session: int
    weight: float
    priority: int
    #: The default options of its tasks, pickled.
    options: bytes
    #: The node-seconds that its tasks may use; 0: there is no such limit.
    budget: float
    #: It ends when its clients have been gone for so long, in seconds; 0: it does not.
    grace_s: float


def check_settings(
    name: str | None,
    session_id: int | None,
    sys_path: Sequence[str | os.PathLike[str]],
    variables: Mapping[str, str] | None,
    weight: float,
    priority: int,
    options: Mapping[str, Any] | None,
    budget: str | float | None = None,
    ends_with_client: bool | float | str | timedelta = False,
    preload: Sequence[str] = (),
) -> Settings:
    """Return the settings of a session; the parameters are those of `pilot.Session`.

    Raises
    ------
    PilotError
        A value has no meaning, or cannot be sent.
    """
    return Settings(
        as_name(name or program_name()),
        Environment(
            _working_dir(),
            _searched(sys_path),
            _variables(variables),
            len(absolute(sys_path)),
            preloaded(preload),
            own_variables() if session_id is None else {},
        ),
        0 if session_id is None else whole_number("session_id", session_id),
        _positive("weight", weight),
        whole_number("priority", priority),
        _options(options),
        0.0 if budget is None else session_budget(budget),
        _grace_of(ends_with_client, session_id),
    )


def preloaded(given: Any) -> tuple[str, ...]:
    """Return the names of the modules that are to be in the executors of a session.

    Raises
    ------
    PilotError
        One cannot be the name of a module, or must not be preloaded.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise PilotError(f'preload={given!r:.100}: give a list of modules, as ["numpy"]')
    names = tuple(given)
    for name in names:
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split("."))):
            raise PilotError(f"preload: {name!r:.100} cannot be the name of a module")
        if name == "mpi4py.MPI":
            raise PilotError(
                "preload: mpi4py.MPI starts MPI, which must not be forked; MPI tasks have it anyway"
            )
    _check_size("preload", names, "name packages, which import their own modules")
    return tuple(dict.fromkeys(names))


def session_budget(given: str | float) -> float:
    """Return a session's budget in node-seconds.

    Raises
    ------
    PilotError
        The value is no budget, or one for a period.
    """
    try:
        budget = parse_budget(given)
    except ValueError as error:
        raise PilotError(f"budget: {error}") from None
    if budget.per != "total":
        raise PilotError(f"budget={given!r}: a session has one budget for all of its time")
    return budget.node_s


def _grace_of(given: Any, session_id: int | None) -> float:
    """Return what `grace_s` does, for a session that is new.

    Raises
    ------
    PilotError
        The value is none, or the session is not new.
    """
    if given is False or given is None:
        return 0.0
    if session_id is not None:
        raise PilotError(
            f"ends_with_client={given!r}: that is said when a session is opened, and session "
            f"{session_id!r} was opened before"
        )
    return grace_s(given)


def grace_s(given: Any) -> float:
    """Return the time without a client after which a session ends; 0: it does not.

    Raises
    ------
    PilotError
        The value is neither True or False nor a length of time.
    """
    if given is False or given is None:
        return 0.0
    if given is True:
        return GRACE_S
    try:
        seconds = parse_duration_s(given)
    except ValueError as error:
        raise PilotError(f"ends_with_client: {error}") from None
    if seconds < LEAST_GRACE_S:
        raise PilotError(f"ends_with_client={given!r}: give at least {LEAST_GRACE_S:g} s")
    return seconds


def whole_number(what: str, number: Any) -> int:
    """Return a whole number that fits into messages.

    Raises
    ------
    PilotError
        The value is not a whole number, or too large.
    """
    try:
        whole = operator.index(number)
    except TypeError:
        raise PilotError(f"{what}={number!r}: give a whole number") from None
    if abs(whole) >= 1 << 31:
        raise PilotError(f"{what}={number!r}: the number is too large")
    return whole


def _positive(what: str, number: Any) -> float:
    try:
        given = float(number)
    except (TypeError, ValueError, OverflowError):
        raise PilotError(f"{what}={number!r}: give a number") from None
    if not (math.isfinite(given) and given > 0):
        raise PilotError(f"{what}={number!r}: give a number above 0")
    return given


def _can_be_sent(text: str) -> bool:
    """Tell whether a text is UTF-8, and can be a path or a variable of a process."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _variables(given: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the additions to the environment of tasks.

    Raises
    ------
    SiteError
        A name or value cannot be a variable of a process.
    """
    variables = {}
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not name or "=" in name or not _can_be_sent(name):
            raise SiteError(f"variables: {name!r} cannot be the name of a variable")
        if not isinstance(value, (str, os.PathLike)):
            raise SiteError(
                f"variables: {name} is {value!r}, a {type(value).__name__}; give a text: "
                f'{{"{name}": "{value}"}}'
            )
        text = os.fspath(value)
        if not isinstance(text, str) or not _can_be_sent(text):
            raise SiteError(
                f"variables: {name} is {text!a}, which cannot be sent: it holds a NUL or bytes "
                "that are no UTF-8"
            )
        variables[name] = str(text)
    _check_size("variables", [*variables, *variables.values()], "give what is large as an argument")
    return variables


def own_variables() -> dict[str, str]:
    """Return the variables of this program that can be sent: the head takes what tasks may see."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) <= VALUE_BYTES and _can_be_sent(name) and _can_be_sent(value)
    }


def _check_size(what: str, texts: Iterable[str], advice: str) -> None:
    """Refuse texts that are too large for the messages and rows of each session.

    Raises
    ------
    SiteError
        The texts are too large.
    """
    size = sum(len(text.encode()) for text in texts)
    if size > OPTIONS_BYTES:
        raise SiteError(
            f"{what}: they have {size_text(size)}, and at most {size_text(OPTIONS_BYTES)} may "
            f"travel with a session; {advice}"
        )


def _options(given: Mapping[str, Any] | None) -> bytes:
    """Return the default options of a session, checked and encoded.

    Raises
    ------
    OptionError
        An option is not valid, or they are too large.
    """
    options = dict(given or {})
    make_options(Options(), options)
    try:
        return encode_within(options, OPTIONS_BYTES)
    except TooLargeError:
        raise OptionError(
            f"options: they are larger than {size_text(OPTIONS_BYTES)}; a default, or what a "
            "function among them refers to, must be small"
        ) from None


def _searched(first: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the directories that workers search, without entries that cannot be sent.

    Raises
    ------
    SiteError
        One that was given cannot be sent.
    """
    if isinstance(first, (str, bytes)):
        raise SiteError(f"sys_path={first!r}: give a list of directories")
    for path in first:
        if not _can_be_sent(str(path)):
            raise SiteError(f"sys_path: {str(path)!a} has a name that is no UTF-8; rename it")
    found = tuple(path for path in search_path(first) if _can_be_sent(path))
    _check_size("sys_path", found, "name fewer directories")
    return found


def program_name() -> str:
    """Return the name of this program: of a notebook its file's name, where that is known."""
    name = Path(sys.argv[0] if sys.argv else "").stem
    if name == "ipykernel_launcher":
        main = getattr(sys.modules.get("__main__"), "__dict__", {})
        file = os.environ.get("JPY_SESSION_NAME") or main.get("__vsc_ipynb_file__") or ""
        return Path(str(file)).stem or "notebook"
    return "python" if name in ("", "-", "-c", "-m") else name


def _working_dir() -> str:
    path = str(working_directory())
    if not _can_be_sent(path):
        raise SiteError(
            f"the working directory {path!a} has a name that is no UTF-8, so tasks cannot be sent "
            "there; rename it, or work in another"
        )
    return path
