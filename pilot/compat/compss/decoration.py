"""Tasks as programs write them: ``@task``, and the decorators above it.

What a call does is decided when it is made: with an application that runs (a launcher has started
it) it is a task; without one, and inside of a task, it is the plain function.

Invariants
----------
- A call of a function that was called before reads neither its signature nor its source.
- A worker finds the function by module and name where it can; in the program itself, and in other
  functions, it goes by value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Final, NamedTuple, TypeAlias, overload

from pilot.client.task import PYTHON, import_object
from pilot.compat.compss import running
from pilot.compat.compss.alternatives import ALTERNATIVES
from pilot.compat.compss.compiled import compiled_layer
from pilot.compat.compss.constraints import is_fixed, read_constraints, snake, warn_once
from pilot.compat.compss.errors import NotSupportedError, PyCOMPSsException
from pilot.compat.compss.layers import CallShape, Layer, Layers
from pilot.compat.compss.parameters import PLAIN, Parameter, parameter_of
from pilot.compat.compss.policies import IGNORE, RETRY, policy_of
from pilot.compat.compss.signatures import Returns, Signature, read_returns, read_signature
from pilot.model.states import TaskKind

#: What ``@task`` says beside parameters and `returns`, by usual names.
_SETTINGS: Final = frozenset(
    {"priority", "on_failure", "defaults", "time_out", "target_direction", "varargs_type"}
)
#: What it says of Numba.
_NUMBA: Final = frozenset({"numba", "numba_flags", "numba_signature", "numba_declaration"})
#: The places of what decorators put around a function, from the function outwards.
_PLACES: Final = ("body", "nodes", "epilog", "prolog")
#: Makes a layer, when a task is called first: of the task, and of what its decorator was given.
LayerOf: TypeAlias = "Callable[[TaskFunction, Mapping[str, Any]], Layer]"
#: What has no meaning here.
_HINTS: Final = frozenset(
    {"is_replicated", "is_distributed", "computing_nodes", "processes_per_node", "cache_returns"}
    | {"tracing_hook", "weight", "core_element", "chunk_size", "is_reduce"}
)


class Plan(NamedTuple):
    """The facts that hold for all calls of a function."""

    signature: Signature
    returns: Returns
    #: What is no plain input, by name; `rest` is what ``*args`` are.
    parameters: Mapping[str, Parameter]
    rest: Parameter
    #: True if all arguments are only read, all calls need the same, and all return as many.
    is_plain: bool
    #: Where workers find it; empty: it goes by value.
    module: str
    name: str
    priority: int
    policy: str
    defaults: Mapping[str, Any]
    time_limit: Any
    constraints: Mapping[str, Any]
    #: True if all calls need the same.
    is_fixed: bool
    #: The parameters with a default that is an argument of each call.
    with_defaults: tuple[str, ...]
    #: What is around the function, or in its place; None: nothing.
    layers: Layers | None = None
    kind: TaskKind = PYTHON


class TaskFunction:
    """A function that is a task when an application runs.

    Parameters
    ----------
    function
        The function.
    given
        What ``@task`` was given.
    """

    def __init__(self, function: Any, given: Mapping[str, Any]) -> None:
        if isinstance(function, (staticmethod, classmethod)):
            raise PyCOMPSsException("write @staticmethod or @classmethod above @task")
        if not callable(function):
            raise PyCOMPSsException(f"@task is for functions, not for {function!r:.60}")
        self.function = function
        self.given = dict(given)
        #: What other decorators say: `constraints`, `policy`, `defaults`, `chunk_size`, `is_local`,
        #: `needs_no_core`, `container`, `is_workflow`; `config` and `transformations`, which are
        #: functions with what they get.
        self.said: dict[str, Any] = {}
        #: What they put around it, by place.
        self.layered: dict[str, tuple[LayerOf, Mapping[str, Any]]] = {}
        #: Its other implementations, and how many changes of all there were when they were read.
        self.others: tuple[TaskFunction, ...] = ()
        self._changes = 0
        self._plan: Plan | None = None
        #: Tasks of Pilot, by what differs between calls.
        self.made: dict[Any, Any] = {}
        self.__name__: str = getattr(function, "__name__", type(function).__name__)
        self.__qualname__: str = getattr(function, "__qualname__", self.__name__)
        self.__module__ = getattr(function, "__module__", None) or ""
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.check()

    def check(self) -> None:
        """Refuse what means nothing, where it is written.

        Raises
        ------
        PyCOMPSsException
            Something of it means nothing.
        """
        settings, _ = _split(self.given)
        if "on_failure" in settings:
            policy_of(settings["on_failure"])
        for name, value in self.given.items():
            if name not in _NUMBA | {"returns"} and snake(name) not in _SETTINGS | _HINTS:
                parameter_of(name, value, self.__qualname__)

    def say(self, **said: Any) -> None:
        """Note what another decorator says."""
        self.said.update(said)
        self._plan = None
        self.made.clear()

    def put_around(self, place: str, layer_of: LayerOf, given: Mapping[str, Any]) -> None:
        """Have something around the function, or in its place, which is made when it is called."""
        self.layered[place] = (layer_of, dict(given))
        self.say()

    @property
    def plan(self) -> Plan:
        """The facts that hold for all calls."""
        if self._changes != ALTERNATIVES.changes:
            self._changes = ALTERNATIVES.changes
            if (others := ALTERNATIVES.of(self)) != self.others:
                self.others = others
                self.say()
        if self._plan is None:
            self._read_file()
            self._plan = _plan_of(self)
        return self._plan

    def _read_file(self) -> None:
        if "config" in self.said:
            configure, path = self.said.pop("config")
            configure(self, path)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.said:
            self._read_file()
            if "transformations" in self.said:
                transform, all_of_them = self.said["transformations"]
                args, kwargs = transform(self, all_of_them, args, kwargs)
        app = running.current
        if app is None or "is_workflow" in self.said:
            return self.run_here(args, kwargs)
        return app.call(self, args, kwargs)

    def run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function in this process."""
        if "returns" in kwargs and not read_signature(self.function).has("returns"):
            kwargs = {name: value for name, value in kwargs.items() if name != "returns"}
        if not (self.layered or self.given.get("numba")):
            return self.function(*args, **kwargs)
        plan = self.plan
        called = self.function
        if plan.layers is not None:
            called = plan.layers.over(called, is_task=False)
            kwargs = {**self._defaults_beside(args), **kwargs}
        return called(*args, **kwargs)

    def _defaults_beside(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """Return the defaults of the parameters that are not given by place."""
        signature = self.plan.signature
        by_place = signature.names[: len(args)]
        return {name: v for name, v in signature.defaults.items() if name not in by_place}

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def is_by_name(self) -> bool:
        """Tell whether workers can import it."""
        found: Any = sys.modules.get(self.__module__)
        if self.__module__ == "__main__" or found is None:
            return False
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        # Of a method of a class: the function of a bound one.
        return getattr(found, "__func__", found) is self

    def watched_parts(self) -> tuple[Any, ...]:
        """Return what may change after decoration, for `pilot.client.function_watch`."""
        return () if self.is_by_name() else (self.function,)

    def __reduce__(self) -> Any:
        if self.is_by_name():
            return import_object, (self.__module__, self.__qualname__)
        return _function_of, (self.function, self.given, self.said, self.layered)

    def __repr__(self) -> str:
        return f"<task {self.__qualname__}>"


def _function_of(
    function: Any,
    given: Mapping[str, Any],
    said: Mapping[str, Any],
    layered: Mapping[str, tuple[LayerOf, Mapping[str, Any]]],
) -> TaskFunction:
    made = TaskFunction(function, given)
    made.said.update(said)
    made.layered.update(layered)
    return made


def _split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a decorator, and what it says of parameters."""
    settings, parameters = {}, {}
    for name, value in given.items():
        usual = snake(name)
        if usual in _SETTINGS:
            settings[usual] = value
        elif usual in _HINTS:
            if value not in (False, None):
                warn_once(usual, f"@task({name}=…) has no meaning on Pilot, and is ignored")
        elif name not in _NUMBA | {"returns"}:
            parameters[name] = value
    return settings, parameters


def _plan_of(made: TaskFunction) -> Plan:
    settings, given = _split(made.given)
    settings |= made.said
    signature = read_signature(made.function)
    returns = read_returns(made.function, made.given.get("returns", False))
    named = {
        name: parameter_of(name, value, made.__qualname__)
        for name, value in given.items()
        if signature.has(name) or signature.keywords
    }
    for name in given.keys() - named.keys():
        warn_once(
            f"{made.__qualname__}.{name}",
            f"@task({name}=…): {made.__qualname__} has no parameter {name!r}, and it is ignored",
        )
    if signature.is_method and "self" not in named:
        direction = settings.get("target_direction")
        said = Parameter(direction="inout") if direction is None else direction
        named["self"] = parameter_of("self", said, made.__qualname__)
    rest = PLAIN
    if signature.rest and "varargs_type" in settings:
        rest = parameter_of(signature.rest, settings["varargs_type"], made.__qualname__)
    if signature.rest in named:
        rest = named.pop(signature.rest)
    parameters = {name: found for name, found in named.items() if found != PLAIN}
    policy = policy_of(settings["on_failure"]) if "on_failure" in settings else RETRY
    constraints = read_constraints(settings.get("constraints") or {})
    fixed = is_fixed(constraints)
    layers = _layers_of(made, signature, named)
    is_sent = layers is None or not layers.replaces
    module, name = ("", "")
    if is_sent and made.is_by_name():
        module, name = made.__module__, made.__qualname__
    fixed = fixed and all(other.plan.is_fixed for other in made.others)
    if layers is not None:
        fixed = fixed and is_fixed({"": [layer.values for layer in layers.layers]})
    is_plain = (
        not parameters
        and rest == PLAIN
        and fixed
        and policy != IGNORE
        and not (returns.expression or returns.parameter)
        and not ("chunk_size" in made.said or "is_local" in made.said)
        and layers is None
        and not made.others
    )
    is_argument = parameters if layers is None else signature.defaults
    return Plan(
        signature,
        returns,
        parameters,
        rest,
        is_plain,
        module,
        name,
        int(bool(settings.get("priority"))),
        policy,
        settings.get("defaults") or {},
        settings.get("time_out") or None,
        constraints,
        fixed,
        tuple(name for name in signature.defaults if name in is_argument),
        layers,
        PYTHON if layers is None else layers.kind,
    )


def _layers_of(
    made: TaskFunction, signature: Signature, parameters: Mapping[str, Parameter]
) -> Layers | None:
    """Return what is around a function, or in its place; None: nothing."""
    found: list[Layer | None] = [compiled_layer(made.given)]
    for place in _PLACES:
        if place in made.layered:
            layer_of, given = made.layered[place]
            found.append(layer_of(made, given))
    layers = tuple(layer for layer in found if layer is not None)
    if not layers:
        return None
    call = CallShape(
        signature.names,
        signature.rest,
        {name: p.stream for name, p in parameters.items() if p.stream},
        {name: p.prefix for name, p in parameters.items() if p.prefix},
        {name: p.direction for name, p in parameters.items() if p.is_file},
    )
    return Layers(layers, call)


def as_task_function(given: Any, decorator: str) -> TaskFunction:
    """Return the task that a decorator is above.

    Raises
    ------
    PyCOMPSsException
        It is above something else.
    """
    if not isinstance(given, TaskFunction):
        raise PyCOMPSsException(f"write @{decorator} above @task")
    return given


@overload
def task(function: Callable[..., Any], /) -> TaskFunction: ...
@overload
def task(**given: Any) -> Callable[[Any], TaskFunction]: ...
def task(*args: Any, **given: Any) -> TaskFunction | Callable[[Any], TaskFunction]:
    """Make a function a task: ``@task(returns=1, block=INOUT)``.

    Parameters
    ----------
    **given
        Names of parameters with what they are, such as ``INOUT`` or ``FILE_OUT``; `returns`,
        `priority`, `on_failure`, `defaults`, `time_out`, `target_direction` and `varargs_type`.

    Raises
    ------
    PyCOMPSsException
        Something of that means nothing, or is not supported.
    """
    if len(args) == 1 and not given and callable(args[0]):
        return TaskFunction(args[0], {})
    if args:
        raise PyCOMPSsException("@task takes names: @task(returns=1, block=INOUT)")
    return lambda function: TaskFunction(function, given)


def constraint(**given: Any) -> Callable[[Any], TaskFunction]:
    """Say what a task needs: ``@constraint(computing_units=4, memory_size=8)``, in GB.

    Raises
    ------
    PyCOMPSsException
        There is no such constraint.
    """
    read_constraints(given)

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "constraint")
        made.say(constraints={**made.said.get("constraints", {}), **given})
        return made

    return decorate


def on_failure(management: str = "RETRY", **defaults: Any) -> Callable[[Any], TaskFunction]:
    """Say what follows when a task fails, and what its results are then.

    Parameters
    ----------
    management
        ``RETRY``, ``FAIL``, ``IGNORE`` or ``CANCEL_SUCCESSORS``.
    **defaults
        With ``IGNORE``: `returns`, and names of parameters that are written.
    """
    policy_of(management)

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "on_failure")
        made.say(on_failure=management, defaults=defaults)
        return made

    return decorate


def reduction(chunk_size: Any = 2, **hints: Any) -> Callable[[Any], TaskFunction]:
    """Have a task with a collection be a tree of tasks, each of them over a chunk.

    Parameters
    ----------
    chunk_size
        The number of elements that a task gets; a number, or a text as constraints have.
    **hints
        Of no meaning here.
    """
    del hints

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "reduction")
        made.say(chunk_size=chunk_size)
        return made

    return decorate


@overload
def local(function: Callable[..., Any], /) -> TaskFunction: ...
@overload
def local(**hints: Any) -> Callable[[Any], TaskFunction]: ...
def local(function: Any = None, /, **hints: Any) -> Any:
    """Have a function run in the program itself, when what it gets is there."""
    del hints

    def decorate(decorated: Any) -> TaskFunction:
        made = decorated if isinstance(decorated, TaskFunction) else TaskFunction(decorated, {})
        made.say(is_local=True)
        return made

    return decorate if function is None else decorate(function)


def io(function: Any = None, **hints: Any) -> Any:
    """Have a task need no core: it only reads and writes."""
    del hints

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "IO")
        made.say(needs_no_core=True)
        return made

    return decorate if function is None else decorate(function)


def unsupported(name: str, instead: str = "") -> Callable[..., Any]:
    """Return a decorator that says that it is not supported, where it is written."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotSupportedError(f"@{name}", instead)

    refuse.__name__ = name
    return refuse
