"""Layers around a function: what decorators have it run in, or what runs in its place.

`@task` alone has none. `@binary` puts a program in the place of the function, `@prolog` puts one
before it. A layer is data that goes to the worker with the function; what it needs of the pilot it
says in the program.

Invariant: a worker imports this module, so it loads nothing that a task would not need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from msgspec import Struct

from pilot.client.task import PYTHON
from pilot.compat.compss.files import path_of
from pilot.model.states import TaskKind

#: Works out what a decorator says for a call, a number: its name there, and the value.
WorkOut = Callable[[str, Any], float]
#: In place of a prefix: the parameter is no word of the program.
_SKIPPED = "#"


class CallShape(NamedTuple):
    """The parameters of a function as programs get them."""

    #: Those that may be given by place, and that of ``*args``.
    names: tuple[str, ...] = ()
    rest: str = ""
    #: Parameters that are ``stdin``, ``stdout`` or ``stderr``.
    streams: Mapping[str, str] = {}
    #: The texts before values.
    prefixes: Mapping[str, str] = {}
    #: The parameters that are files, with what is done with each.
    files: Mapping[str, str] = {}

    def named(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield parameters and values, in the order of the function's parameters."""
        places: dict[str, list[Any]] = {}
        for place, value in enumerate(args):
            name = self.names[place] if place < len(self.names) else self.rest
            places.setdefault(name, []).append(value)
        for name in (*self.names, self.rest):
            for value in places.get(name, ()):
                yield name, value
            if name in kwargs:
                yield name, kwargs[name]
        for name, value in kwargs.items():
            if name not in self.names and name != self.rest:
                yield name, value

    def words(self, name: str, value: Any) -> list[str]:
        """Return a value as words of a program."""
        prefix = self.prefixes.get(name, "")
        if prefix == _SKIPPED or value is None or name == "self" or name in self.streams:
            return []
        if isinstance(value, (list, tuple, set, frozenset)):
            words = [word for item in value for word in _plain_words(item)]
            return [prefix, *words] if prefix else words
        if name in self.files:
            value = path_of(value)  # it may run in another directory
        return [prefix + as_word(value)]


def _plain_words(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _plain_words(item)
    elif value is not None:
        yield as_word(value)


def as_word(value: Any) -> str:
    """Return a value as one word of a program."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


class Layer(Struct, frozen=True):
    """A thing around a function, or in its place."""

    #: The kind of Pilot's task; that of functions: as it is without.
    kind: ClassVar[TaskKind] = PYTHON
    #: True if the function itself is not called.
    replaces: ClassVar[bool] = False

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that may differ between calls."""
        return ()

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Change Pilot's options as it needs them."""

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what is called in place of `function`.

        Parameters
        ----------
        function
            The function, with the layers below.
        call
            Its parameters.
        is_task
            True in a task; False where the program runs without a launcher.
        """
        raise NotImplementedError


class Layers(NamedTuple):
    """The layers around a function, the innermost first."""

    layers: tuple[Layer, ...]
    call: CallShape

    def over(self, function: Any, is_task: bool = True) -> Callable[..., Any]:
        """Return what is called in place of a function."""
        for layer in self.layers:
            function = layer.over(function, self.call, is_task)
        called: Callable[..., Any] = function
        return called

    @property
    def kind(self) -> TaskKind:
        """The kind of Pilot's task."""
        return next((layer.kind for layer in self.layers if layer.kind != PYTHON), PYTHON)

    @property
    def replaces(self) -> bool:
        """True if the function itself is not called."""
        return any(layer.replaces for layer in self.layers)
