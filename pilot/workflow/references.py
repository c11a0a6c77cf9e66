"""Resolution of references: to parameters, variables, and the results of tasks.

`compiled` takes the texts of a file apart, once; `value_of` puts values in their places, for each
item of a foreach anew. A result has no value yet: a `Result` stands for it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from pilot.site_configs.yamlfile import YamlPath
from pilot.workflow.expression import (
    Attribute,
    Escaped,
    ExpressionError,
    Piece,
    Reference,
    Scalar,
    Selection,
    Step,
    Subscript,
    parse,
)
from pilot.workflow.graph import Result
from pilot.workflow.problems import Wrong, suggestion
from pilot.workflow.ranges import Allowance

TASKS, WORKFLOW, INDEX = "tasks", "workflow", "index"
#: Names that no parameter and no variable may have.
RESERVED = (TASKS, WORKFLOW, INDEX)
#: The fields of every command's result, beside its files.
COMMAND_ATTRIBUTES = ("stdout", "returncode")


@dataclass(frozen=True)
class Text:
    """A text with references, and its place in the file."""

    pieces: tuple[Piece, ...]
    path: YamlPath

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references in the text."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Reference))

    @functools.cached_property
    def alone(self) -> Reference | None:
        """The reference that makes up the whole text, otherwise None."""
        only = self.pieces[0] if len(self.pieces) == 1 else None
        return only if isinstance(only, Reference) else None


#: Plain data in which each text with a ``${`` is a `Text`.
Compiled: TypeAlias = Any


@dataclass(frozen=True)
class Outline:
    """The parts of a task that can be referred to."""

    name: str
    #: The values of the foreach variables of each item; None where there is no foreach.
    rows: Sequence[Mapping[str, Any]] | None
    #: The number of the function's results, and their names, if they have any.
    result_count: int = 1
    result_names: tuple[str, ...] = ()
    #: The parts that have names, of the result of a command or an HTTP request; None for a
    #: function.
    attributes: tuple[str, ...] | None = None
    #: Items by the values of some variables, once they were asked for.
    _selections: dict[tuple[str, ...], dict[tuple[Any, ...], list[int]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    #: The results of all items, by their part, once they were asked for.
    _all: dict[int | str | None, list[Result]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def all_results(self, part: int | str | None) -> list[Result]:
        """Return the results of all items; the same list each time."""
        if part not in self._all:
            self._all[part] = [Result(self.name, n, part) for n in range(len(self.rows or ()))]
        return self._all[part]

    def select(self, where: Mapping[str, Any]) -> Sequence[int]:
        """Return the numbers of the items whose variables have these values."""
        rows, names, wanted = self.rows or (), tuple(where), tuple(where.values())
        try:
            if names not in self._selections:
                found: dict[tuple[Any, ...], list[int]] = {}
                for index, row in enumerate(rows):
                    found.setdefault(tuple(row[name] for name in names), []).append(index)
                self._selections[names] = found
            return self._selections[names].get(wanted, ())
        except TypeError:  # a list or mapping among the values has no hash
            return [i for i, row in enumerate(rows) if tuple(row[n] for n in names) == wanted]


@dataclass(frozen=True)
class Scope:
    """The names that references may use in one place."""

    variables: Mapping[str, Any]
    #: None where results cannot stand, as a value is needed before anything runs.
    outlines: Mapping[str, Outline] | None = None
    #: The reason why results are not allowed, for messages.
    outlines_missing: str = field(default="a value that is known before anything runs")
    #: The size to which the workflow may still unfold.
    allowance: Allowance | None = None

    def without_results(self, what: str) -> Scope:
        """Return the scope without results; `what` (for messages) must be known before."""
        return replace(self, outlines=None, outlines_missing=what)


def compiled(value: Any, path: YamlPath) -> Compiled:
    """Return the value with its texts parsed.

    Raises
    ------
    Wrong
        A ``${`` in it begins no reference.
    """
    if isinstance(value, str) and "${" in value:
        try:
            return Text(parse(value), path)
        except ExpressionError as error:
            raise Wrong(path, str(error)) from None
    if isinstance(value, dict):
        return {key: compiled(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [compiled(item, (*path, number)) for number, item in enumerate(value)]
    return value


def texts_in(value: Compiled) -> Iterator[Text]:
    """Yield every text with references, at any depth."""
    if isinstance(value, Text):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts_in(item)


def check_names(text: Text, scope: Scope) -> Iterator[str]:
    """Check that every name in a text is in the scope; yield the tasks that it refers to.

    Raises
    ------
    Wrong
        A name is not in the scope.
    """
    waiting = list(text.references)
    while waiting:
        reference = waiting.pop()
        if reference.name == TASKS:
            yield _task(reference, scope, text.path).outline.name
        elif reference.name not in scope.variables:
            raise Wrong(text.path, _no_such_name(reference, scope))
        for step in reference.steps:
            values = [v for _, v in step.where] if isinstance(step, Selection) else [step_key(step)]
            waiting += [value for value in values if isinstance(value, Reference)]


def step_key(step: Attribute | Subscript) -> int | str | Reference:
    """Return the name or index that a step asks for."""
    return step.name if isinstance(step, Attribute) else step.key


def value_of(value: Compiled, scope: Scope) -> Any:
    """Return the value with all references replaced by their values.

    Raises
    ------
    Wrong
        A reference leads to nothing, or to a value that is not allowed there.
    """
    if isinstance(value, Text):
        return _text_value(value, scope)
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: value_of(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [value_of(item, scope) for item in value]
    return value


def look_up(reference: Reference, scope: Scope, path: YamlPath) -> Any:
    """Return the value of one reference: a plain value, a `Result` or a list of them.

    Raises
    ------
    Wrong
        The reference leads to nothing.
    """
    steps = reference.steps
    value: Any
    if reference.name == TASKS:
        value = _task(reference, scope, path)
        steps = steps[1:]
    elif reference.name in scope.variables:
        value = scope.variables[reference.name]
    else:
        raise Wrong(path, _no_such_name(reference, scope))
    for step in steps:
        value = _step(value, step, reference, scope, path)
    if isinstance(value, _Items):
        if value.many:
            take_values(len(value.indices), scope, path)
        return value.results()
    if scope.outlines is None and isinstance(value, (Result, list)) and _has_result(value):
        raise Wrong(path, _too_early(reference, scope))
    return value


def take_values(count: int, scope: Scope, path: YamlPath) -> None:
    """Count values that a workflow unfolds to.

    Raises
    ------
    Wrong
        There are too many.
    """
    if scope.allowance is not None:
        try:
            scope.allowance.take_values(count)
        except ValueError as error:
            raise Wrong(path, str(error)) from None


def word(value: Any, path: YamlPath, reference: Reference) -> str:
    """Return a plain value as a part of a text.

    Raises
    ------
    Wrong
        The value is a list, a mapping, null, or a result.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    if _has_result(value):
        raise Wrong(
            path,
            f"${{{reference}}} is a result, known only after the run: it must be the whole value, "
            "not a part of a text",
        )
    kind = "a list" if isinstance(value, list) else "a mapping" if value else "nothing"
    raise Wrong(path, f"${{{reference}}} is {kind}, which cannot be a part of a text")


def _text_value(text: Text, scope: Scope) -> Any:
    if text.alone is not None:
        return look_up(text.alone, scope, text.path)
    parts = []
    for piece in text.pieces:
        if isinstance(piece, Reference):
            parts.append(word(look_up(piece, scope, text.path), text.path, piece))
        else:
            parts.append(piece.text if isinstance(piece, Escaped) else piece)
    return "".join(parts)


# --- steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Items:
    """The results that a partly followed reference has reached: of one item, or of many."""

    outline: Outline
    #: Holds None for a task without foreach.
    indices: Sequence[int | None]
    many: bool
    part: int | str | None = None

    def of_part(self, part: int | str) -> _Items:
        return _Items(self.outline, self.indices, self.many, part)

    def results(self) -> Result | list[Result]:
        if self.many and isinstance(self.indices, range):
            return self.outline.all_results(self.part)
        found = [Result(self.outline.name, index, self.part) for index in self.indices]
        return found if self.many else found[0]


def _task(reference: Reference, scope: Scope, path: YamlPath) -> _Items:
    step = reference.steps[0] if reference.steps else None
    name = None if step is None or isinstance(step, Selection) else step_key(step)
    if not isinstance(name, str):
        raise Wrong(path, f"${{{reference}}} names no task; write ${{tasks.NAME}}")
    if scope.outlines is None:
        raise Wrong(path, _too_early(reference, scope))
    outline = scope.outlines.get(name)
    if outline is None:
        raise Wrong(path, f"there is no task {name!r}; {suggestion(name, scope.outlines)}")
    if outline.rows is None:
        return _Items(outline, (None,), many=False)
    return _Items(outline, range(len(outline.rows)), many=True)


def _step(value: Any, step: Step, reference: Reference, scope: Scope, path: YamlPath) -> Any:
    if isinstance(value, Result) and scope.outlines is not None:
        outline = scope.outlines[value.task]
        value = _Items(outline, (value.index,), many=False, part=value.part)
    if isinstance(step, Selection):
        if not (isinstance(value, _Items) and isinstance(value.indices, range)):
            raise Wrong(
                path, f"{step} in ${{{reference}}} must follow the name of a task with foreach"
            )
        return _select(value, step, scope, path)
    key: Any = step_key(step)
    if isinstance(key, Reference):
        key = look_up(key, scope, path)
    if isinstance(value, _Items):
        if value.many and isinstance(key, int) and not isinstance(key, bool):
            return _item(value, key, reference, path)
        return _part(value, key, reference, path)
    return _inside(value, key, reference, scope, path)


def _item(items: _Items, number: int, reference: Reference, path: YamlPath) -> _Items:
    count = len(items.indices)
    if not -count <= number < count:
        raise Wrong(
            path,
            f"there is no item {number} in ${{{reference}}}: {items.outline.name} has {count}, "
            "counted from 0",
        )
    return _Items(items.outline, (items.indices[number],), many=False, part=items.part)


def _part(items: _Items, key: Any, reference: Reference, path: YamlPath) -> _Items:
    """Return one of several results, or a known field of a command's result."""
    outline = items.outline
    if items.part is not None:
        raise Wrong(path, f"nothing is known of what is inside of ${{{reference}}} before it runs")
    if outline.attributes is not None:
        if key not in outline.attributes:
            of = "command" if "stdout" in outline.attributes else "request"
            raise Wrong(
                path,
                f"the {of} {outline.name!r} has no output {key!r}; "
                f"{suggestion(str(key), outline.attributes)}",
            )
        return items.of_part(key)
    if key in outline.result_names:
        return items.of_part(outline.result_names.index(key))
    count = outline.result_count
    if isinstance(key, int) and not isinstance(key, bool) and count > 1:
        if not -count <= key < count:
            raise Wrong(
                path, f"there is no result {key} of {outline.name!r}: it has {count}, from 0"
            )
        return items.of_part(key % count)
    if outline.result_names:
        told = suggestion(str(key), outline.result_names)
    elif isinstance(key, str):
        told = f"its results have no names; give them some, such as 'returns: [{key}, other]'"
    else:
        told = "it has one result, and no foreach"
    raise Wrong(path, f"task {outline.name!r} has no result {key!r}; {told}")


def _select(items: _Items, step: Selection, scope: Scope, path: YamlPath) -> _Items:
    rows = items.outline.rows or ()
    where: dict[str, Any] = {}
    for name, wanted in step.where:
        known = list(rows[0]) if rows else [name]
        if name not in known:
            raise Wrong(
                path,
                f"{items.outline.name!r} has no foreach variable {name!r}; "
                f"{suggestion(name, known)}",
            )
        where[name] = _scalar(wanted, scope, path)
    found = items.outline.select(where)
    if not found:
        shown = ", ".join(f"{name} = {value!r}" for name, value in where.items())
        raise Wrong(path, f"no item of {items.outline.name!r} has {shown}")
    return replace(items, indices=found)


def _scalar(value: Scalar, scope: Scope, path: YamlPath) -> Any:
    return look_up(value, scope, path) if isinstance(value, Reference) else value


def _inside(value: Any, key: Any, reference: Reference, scope: Scope, path: YamlPath) -> Any:
    """Return a part of a plain value."""
    if isinstance(value, Mapping):
        if key not in value:
            raise Wrong(
                path,
                f"${{{reference}}}: there is no key {key!r}; "
                f"{suggestion(str(key), map(str, value))}",
            )
        return value[key]
    if isinstance(value, list) and isinstance(key, int) and not isinstance(key, bool):
        if not -len(value) <= key < len(value):
            raise Wrong(path, f"${{{reference}}}: there is no item {key} in a list of {len(value)}")
        return value[key]
    if isinstance(value, Result):
        raise Wrong(path, _too_early(reference, scope))
    kind = "a list" if isinstance(value, list) else repr(value)
    raise Wrong(path, f"${{{reference}}}: {kind} has no {key!r}")


def _has_result(value: Any) -> bool:
    return isinstance(value, Result) or (isinstance(value, list) and any(map(_has_result, value)))


def _too_early(reference: Reference, scope: Scope) -> str:
    return (
        f"${{{reference}}} is the result of a task, known only after the run; "
        f"here stands {scope.outlines_missing}"
    )


def _no_such_name(reference: Reference, scope: Scope) -> str:
    name = reference.name
    known = sorted(set(scope.variables) | ({TASKS} if scope.outlines is not None else set()))
    if name == INDEX:
        return f"{name!r} is the number of an item: it is known in tasks with foreach"
    if scope.outlines is not None and name in scope.outlines:
        return f"there is no parameter {name!r}; the result of that task is ${{tasks.{reference}}}"
    return f"there is no parameter or variable {name!r}; {suggestion(name, known)}" + (
        f". A shell's own variable is written $${{{name}}}" if name.isupper() else ""
    )
