"""Functions of tasks as calls see them: names of parameters, and how many results there are.

Read once for each function; calls need neither `inspect` nor the source.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pilot.compat.compss.errors import PyCOMPSsException

#: In place of what a task returns: the parameter itself.
_PARAMETER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_VALUE_OF = re.compile(r"value_of\((.+)\)", re.S)


class Signature(NamedTuple):
    """The parameters of a function."""

    #: Those that may be given by place.
    names: tuple[str, ...]
    #: The name of ``*args`` and of ``**kwargs``; empty: there is none.
    rest: str
    keywords: str
    defaults: Mapping[str, Any]

    @property
    def is_method(self) -> bool:
        """True if the first parameter is the object."""
        return self.names[:1] == ("self",)

    def name_at(self, place: int) -> str:
        """Return the name of the parameter at a place; that of ``*args`` behind the others."""
        return self.names[place] if place < len(self.names) else self.rest

    def has(self, name: str) -> bool:
        """Tell whether there is a parameter of this name."""
        return name in self.names or name in self.defaults or name in (self.rest, self.keywords)


def read_signature(function: Callable[..., Any]) -> Signature:
    """Return the parameters of a function."""
    names, defaults, rest, keywords = [], {}, "", ""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return Signature((), "args", "kwargs", {})
    for parameter in found:
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords = parameter.name
        else:
            if parameter.kind is not parameter.KEYWORD_ONLY:
                names.append(parameter.name)
            if parameter.default is not parameter.empty:
                defaults[parameter.name] = parameter.default
    return Signature(tuple(names), rest, keywords, defaults)


class Returns(NamedTuple):
    """The results that a function returns."""

    #: The number of results; -1: `expression` gives it.
    number: int
    #: The classes of what is returned, where they are known.
    kinds: tuple[Any, ...] = ()
    #: The name of the parameter that the result is; empty: none.
    parameter: str = ""
    #: An expression of the arguments that gives the number; empty: it is known.
    expression: str = ""


def read_returns(function: Any, given: Any = False) -> Returns:
    """Return what a function returns.

    Parameters
    ----------
    function
        The function.
    given
        What ``returns=`` says; False: nothing. Then it is the type hint, or what the source has
        behind ``return``.

    Raises
    ------
    PyCOMPSsException
        It means nothing.
    """
    if given is False:
        return _of_hint(function) or _of_source(function)
    if given is None:
        return Returns(0)
    if isinstance(given, str):
        return _of_text(function, given)
    if isinstance(given, bool):
        return Returns(1)
    if isinstance(given, int):
        if given < 0:
            raise PyCOMPSsException(f"returns={given}: there is no such number of results")
        return Returns(given)
    if isinstance(given, (tuple, list, set)):
        return Returns(len(given), tuple(given))
    return Returns(1, (given,))


def _of_text(function: Any, given: str) -> Returns:
    text = given.strip()
    if text.isdecimal():
        return Returns(int(text))
    if found := _PARAMETER.fullmatch(text):
        return Returns(1, parameter=found[1])
    if found := _VALUE_OF.fullmatch(text):
        return Returns(-1, expression=found[1])
    known = getattr(function, "__globals__", {}).get(text)
    if isinstance(known, int):
        return Returns(int(known))
    if known is not None:
        return read_returns(function, known)
    return Returns(-1, expression=text)


def _of_hint(function: Any) -> Returns | None:
    hints = getattr(function, "__annotations__", {})
    if "return" not in hints:
        return None
    hint = hints["return"]
    if isinstance(hint, str):
        # Names of local scope have no value here: the text alone is read then.
        try:
            hint = typing.get_type_hints(function).get("return", hint)
        except Exception:
            return _of_hint_text(hint)
    if hint is None or hint is type(None):
        return Returns(0)
    if isinstance(hint, (tuple, list)):
        return Returns(len(hint), tuple(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        return Returns(1) if ... in kinds or not kinds else Returns(len(kinds), kinds)
    return Returns(1, (hint,))


def _of_hint_text(hint: str) -> Returns:
    try:
        read = ast.parse(hint, mode="eval").body
    except SyntaxError:
        return Returns(1)
    if isinstance(read, ast.Constant) and read.value is None:
        return Returns(0)
    if isinstance(read, ast.Subscript) and ast.unparse(read.value).lower().endswith("tuple"):
        read = read.slice
    return Returns(len(read.elts) if isinstance(read, (ast.Tuple, ast.List)) else 1)


def _of_source(function: Any) -> Returns:
    """Return how many results the source has behind ``return``; several: the most of them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return Returns(1)
    body: list[ast.AST] = []
    for defined in tree.body:
        if isinstance(defined, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body += defined.body
    counts = [0]
    while body:
        node = body.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            is_several = isinstance(node.value, (ast.Tuple, ast.List))
            counts.append(len(node.value.elts) if is_several else 1)  # type: ignore[attr-defined]  # as just asked
        elif not isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
        ):
            body += ast.iter_child_nodes(node)
    return Returns(max(counts))


def evaluate(text: str, function: Any, arguments: Mapping[str, Any]) -> Any:
    """Return what a text of a decorator means for a call.

    Parameters
    ----------
    text
        A number, ``$VARIABLE`` or ``${VARIABLE}``, the name of a parameter or of a global, or an
        expression of these.
    function
        The function, whose globals count.
    arguments
        The arguments of the call, by name.

    Raises
    ------
    PyCOMPSsException
        It means nothing.
    """
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        pass
    if text.startswith("$"):
        name = text[1:].strip("{}")
        if name not in os.environ:
            raise PyCOMPSsException(f"{text}: there is no environment variable {name}")
        return os.environ[name]
    names = {**getattr(function, "__globals__", {}), **arguments}
    if text in names:
        return names[text]
    try:
        # The text stands in the program itself, which may do anything anyway.
        return eval(text, names)
    except Exception as error:
        raise PyCOMPSsException(f"{text!r:.100} means nothing here: {error}") from error
