"""Tasks as users write them: functions with options, MPI functions, and commands.

`task`, `mpi`, `shell` (in `pilot.client.command`) and `http` (in `pilot.client.http_request`) make
a `Task`. Called directly it runs as plain Python, at once; ``submit`` and ``map`` send it to the
session. Options may be given to the decorator and, per call, by ``options``; the values of
resources may be functions of the call's arguments.
"""

from __future__ import annotations

import importlib
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from msgspec import Struct
from msgspec.structs import replace

from pilot.client.current import find_current
from pilot.client.environments import (
    check_container,
    check_environment,
    check_together,
    merged_environments,
)
from pilot.client.failure_hints import warn_of_statuses, warn_of_typing_error
from pilot.client.ordering import After, as_futures, as_tuple
from pilot.compression import parse_compression
from pilot.errors import PilotError
from pilot.model.states import ON_FAILURE, OnFailure, TaskKind
from pilot.model.tasks import exit_name
from pilot.pickled import pickled_name, public
from pilot.scheduler.amounts import CORELESS, GPUS, MOST, RESERVED, check_name, parse_amount
from pilot.scheduler.features import check_constraint
from pilot.scheduler.resources import Resources, needs, parse_duration_s, parse_memory_mib
from pilot.texts import as_name

if TYPE_CHECKING:
    from pilot.client.future import Future

P = ParamSpec("P")
R = TypeVar("R")

#: Options that may be functions of the arguments.
DYNAMIC = (
    "cores",
    "memory",
    "gpus",
    "resources",
    "ranks",
    "ranks_per_node",
    "time_limit",
    "nodes",
)
PYTHON: Final = "python"
MPI: Final = "mpi"
COMMAND: Final = "command"
MPI_COMMAND: Final = "mpi-command"
HTTP: Final = "http"
NO_CORES_FOR_RANKS: Final = "cores=0: ranks of an MPI task need cores; give each at least 1"
#: `inspect.CO_COROUTINE`, without what takes a twentieth of the time that a session needs to start.
_CO_COROUTINE = 0x80


#: The bounds of exit statuses, and of signals.
_MOST_STATUS, _MOST_SIGNAL = 255, 64

#: What a task shares with others; see `Options`.
ISOLATIONS = ("shared", "fresh")
#: An exception class or its name, or the exit status of a command.
FailureKind: TypeAlias = "type[BaseException] | str | int"


@public
class OptionError(PilotError, ValueError):
    """An option of a task is not valid."""


class Options(Struct, frozen=True):
    """The options of a task. Resource values may be functions of the task's arguments."""

    #: The task's name in lists; default: the function's name.
    name: str | None = None
    #: Cores (of each rank); 0: it needs none, since it only waits or moves data.
    cores: int | Callable[..., int] = 1
    #: Memory (of each rank): ``"4G"``, or a number of MiB.
    memory: int | float | str | Callable[..., Any] = 0
    #: GPUs (of each rank).
    gpus: float | Callable[..., float] = 0
    #: Other resources, by names that the site declares: ``{"matlab": 1, "scratch_gib": 20}``. Of
    #: a node's resources each rank gets so much, of the site's the task as a whole. They are merged
    #: by name with those of the decorator and of the session; an amount of 0 takes one out.
    resources: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None
    #: MPI ranks.
    ranks: int | Callable[..., int] = 1
    #: Ranks on each node; None: as it fits.
    ranks_per_node: int | Callable[..., int] | None = None
    #: Longest run: ``"10m"``, or seconds; None: no limit.
    time_limit: float | str | Callable[..., Any] | None = None
    #: Number of retries after the task's own error.
    retries: int = 0
    #: Exception classes (or their names), and exit statuses of commands, that are retried; None:
    #: all.
    retry_on: FailureKind | Sequence[FailureKind] | None = None
    #: Exception classes (or their names), and exit statuses of commands, that are never retried.
    no_retry_on: FailureKind | Sequence[FailureKind] | None = None
    #: True if a try that ended by the time limit is retried as one that raised.
    retry_timeouts: bool = False
    #: Number of retries after the task's process died.
    max_crashes: int = 3
    #: Higher goes first.
    priority: int = 0
    #: The pool to run in; None: any that fits.
    pool: str | None = None
    #: Number of results, or their names.
    returns: int | Sequence[str] = 1
    #: ``fail``, ``ignore``, ``cancel_successors`` or ``stop_session``.
    on_failure: OnFailure = "fail"
    #: With ``on_failure="ignore"``: what dependents get in place of the result; of several results
    #: in place of each, or one for each, as a tuple or by their names. Of a command None is its own
    #: result, with its exit status and output.
    default: Any = None
    #: Take the results of an earlier run where code, arguments and inputs are the same.
    cache: bool = False
    #: Compression of large results in their files: ``"gzip:1"`` (fast) to ``"gzip:9"`` (small), or
    #: ``"none"``; None: as the site file says.
    compression: str | None = None
    #: The tasks, as futures or ids, after whose ends it starts, however they end.
    after: Any = ()
    #: The values, as futures that are among the arguments, that it takes by turns with other tasks,
    #: in any order: in their places it gets the latest versions, and its first results are the next
    #: ones.
    commutative: Any = ()
    #: Nodes that it has, each with so many cores, and all else; it runs as one process on the first
    #: of them, and does with the others what it likes.
    nodes: int | Callable[..., int] = 1
    #: True: it has its nodes for itself, with all their cores. No other task runs there meanwhile.
    exclusive: bool = False
    #: The features that its nodes must have, as Slurm's ``--constraint``: ``"a100&nvme"``, or
    #: ``"(a100|h100)&nvme"``; None: any nodes will do.
    constraint: str | None = None
    #: ``shared``: its process runs other tasks of the session before and after it; ``fresh``: a new
    #: one, of an MPI task a new world, runs it alone.
    isolation: str = "shared"
    #: The environment of its processes: ``pip``, ``pip_options``, ``venv``, ``conda``, ``modules``
    #: and ``variables``; merged by these with those of the decorator and of the session.
    environment: Mapping[str, Any] | None = None
    #: The container that it runs in: an image, or ``image``, ``engine``, ``binds``, ``options`` and
    #: ``python``.
    container: Any = None

    @property
    def return_names(self) -> tuple[str, ...]:
        """The names of the results; empty where they have none."""
        return () if isinstance(self.returns, int) else tuple(self.returns)

    @property
    def return_count(self) -> int:
        """The number of the task's results."""
        return self.returns if isinstance(self.returns, int) else len(self.returns)

    @property
    def defaults(self) -> tuple[Any, ...] | None:
        """The values of `default` for each of several results; None where it is one for all.

        Raises
        ------
        OptionError
            It has not one value for each.
        """
        default, count, names = self.default, self.return_count, self.return_names
        if self.on_failure != "ignore":
            return None
        if isinstance(default, Mapping) and names:
            if default.keys() == set(names):
                return tuple(default[name] for name in names)
            raise OptionError(
                f"default={default!r:.100}: give one value for each result by its name, of "
                f"{', '.join(names)}, or one for all that is no mapping"
            )
        if not isinstance(default, tuple) or count == 1:
            return None
        if len(default) == count:
            return default
        raise OptionError(
            f"default={default!r:.100}: give {count} values, one for each result, or one for all "
            "that is no tuple"
        )

    def retry_names(self) -> tuple[str, ...]:
        """Return the names of the failures that are retried; empty for all."""
        return _failure_names("retry_on", self.retry_on)

    def no_retry_names(self) -> tuple[str, ...]:
        """Return the names of the failures that are never retried."""
        return _failure_names("no_retry_on", self.no_retry_on)

    def resolve(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ResolvedOptions:
        """Return the resources of one call, in the program's units.

        Raises
        ------
        OptionError
            A value is not valid; the message names the option.
        """

        def value(name: str) -> Any:
            given = getattr(self, name)
            return given(*args, **kwargs) if callable(given) else given

        def whole(name: str, least: int) -> int:
            return _whole(name, value(name), least)

        try:
            memory_mib = parse_memory_mib(value("memory"))
        except ValueError as error:
            raise OptionError(f"memory: {error}") from None
        try:
            limit = value("time_limit")
            time_limit_s = 0.0 if limit is None else parse_duration_s(limit)
        except ValueError as error:
            raise OptionError(f"time_limit: {error}") from None
        try:
            gpus = parse_amount(value("gpus"))
        except ValueError as error:
            raise OptionError(f"gpus: {error}") from None
        ranks = whole("ranks", 1)
        each = 0 if self.ranks_per_node is None else whole("ranks_per_node", 1)
        cores = whole("cores", 0)
        if not cores and (ranks > 1 or each):
            raise OptionError(NO_CORES_FOR_RANKS)
        nodes = whole("nodes", 1)
        if nodes > 1 and (ranks > 1 or each):
            raise OptionError(
                f"nodes={nodes}: that is for one process that has several nodes; where ranks of "
                "MPI are to be spread over them, give ranks_per_node"
            )
        if nodes > 1 and not cores:
            raise OptionError(f"nodes={nodes}: a task of several nodes needs cores on each")
        if self.exclusive and not cores:
            raise OptionError("exclusive=True: a task without a core has no node for itself")
        resources = needs(
            cores,
            memory_mib=memory_mib,
            ranks=ranks,
            ranks_per_node=min(ranks, each),
            named={**_named(value("resources")), GPUS: gpus},
            nodes=nodes,
            exclusive=self.exclusive,
            constraint=self.constraint or "",
        )
        return ResolvedOptions(resources, time_limit_s)

    def changes(self) -> dict[str, Any]:
        """Return the options that differ from the defaults."""
        default = Options()
        named = {name: getattr(self, name) for name in OPTIONS}
        return {name: v for name, v in named.items() if v is not getattr(default, name)}

    def is_dynamic(self) -> bool:
        """Tell whether any resource is a function of the arguments."""
        return any(callable(getattr(self, name)) for name in DYNAMIC)


class ResolvedOptions(Struct, frozen=True):
    """The part of the options that may depend on the arguments."""

    resources: Resources
    time_limit_s: float


#: The names of the options.
OPTIONS = Options.__struct_fields__


def _whole(name: str, given: Any, least: int) -> int:
    """Return a whole number, which may be one of NumPy's.

    Raises
    ------
    OptionError
        The value is not a whole number, or it is too small or too large.
    """
    try:
        number = operator.index(given)
    except TypeError:
        number = least - 1
    if isinstance(given, bool) or not least <= number <= MOST:
        bound = f", at least {least}" if least >= 0 else ""
        bound += f", at most {MOST}" if number > MOST else ""
        # Python writes no number of so many digits.
        told = "a number of very many digits" if abs(number) > MOST**4 else repr(given)
        raise OptionError(f"{name}={told}: give a whole number{bound}")
    return number


def _failure_names(option: str, given: Any) -> tuple[str, ...]:
    """Return the names of failures: of exception classes, and of exit statuses.

    Raises
    ------
    OptionError
        One is neither.
    """
    if given is None:
        return ()
    names = []
    for item in [given] if isinstance(given, (type, str, int)) else _listed(given):
        if isinstance(item, str):
            names.append(_failure_name(option, item))
        elif isinstance(item, type) and issubclass(item, BaseException):
            names.append(item.__name__)
        elif isinstance(item, int) and not isinstance(item, bool):
            if not -_MOST_SIGNAL <= item <= _MOST_STATUS:
                raise OptionError(
                    f"{option}={item}: an exit status is at most {_MOST_STATUS}, or the negative "
                    "number of a signal"
                )
            names.append(exit_name(item))
        else:
            raise OptionError(
                f"{option}={given!r}: give exception classes, their names, or exit statuses of "
                "commands"
            )
    return tuple(names)


def _failure_name(option: str, name: str) -> str:
    """Return the name of a class, or of an exit status, as failures have it.

    Raises
    ------
    OptionError
        No failure has such a name.
    """
    if name.isidentifier():
        warn_of_typing_error(option, name)
        return name
    if re.fullmatch(r"exit -?\d{1,3}", name):
        return name
    last = name.rpartition(".")[2]
    if name.strip("-").isdecimal():
        hint = f"; an exit status is a number, without quotes: {option}={name:.20}"
    elif last.isidentifier():
        hint = f"; classes are known by their own name, without the module's: {last!r:.60}"
    else:
        hint = ""
    raise OptionError(f"{option}={name!r:.60} is no name of an exception class{hint}")


def _listed(given: Any) -> Iterable[Any]:
    """Return what was given, if it can be read again and again, or else a list of only that."""
    return given if isinstance(given, (list, tuple, set, frozenset)) else [given]


def _named(given: Any) -> dict[str, int]:
    """Return the amounts of resources by name, in parts of `UNIT`.

    Raises
    ------
    OptionError
        A name or an amount is not valid.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise OptionError(f'resources={given!r}: give names with amounts, as in {{"matlab": 1}}')
    amounts = {}
    for name, amount in given.items():
        if name == CORELESS:
            raise OptionError("resources: tasks without a core are made by cores=0")
        if name in RESERVED:
            raise OptionError(f"resources: {name!r} is an option of its own: give {name}=…")
        try:
            amounts[check_name(name)] = parse_amount(amount)
        except ValueError as error:
            raise OptionError(f"resources: {name}: {error}") from None
    return amounts


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return options: those of `above`, and of `below` what `above` does not name; resources too
    are merged by name."""
    options = {**below, **above}
    if "default" not in above and options.get("on_failure") != "ignore":
        options.pop("default", None)
    if "resources" in below and "resources" in above:
        options["resources"] = _merged_resources(below["resources"], above["resources"])
    if "environment" in below and "environment" in above:
        options["environment"] = merged_environments(below["environment"], above["environment"])
    return options


def _merged_resources(below: Any, above: Any) -> Any:
    """Return resources by name, or a function that returns them: those of `above` first.

    None above has none of `below`. What is not a mapping is refused when it is used.
    """
    if below is None or above is None:
        return above
    if callable(below) or callable(above):
        return partial(resources_of_call, below, above)
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **above}


@pickled_name
def resources_of_call(below: Any, above: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Return the resources of a call, of which some depend on its arguments."""
    first, then = (given(*args, **kwargs) if callable(given) else given for given in (below, above))
    return _merged_resources(first, then)


def _constraint(given: Any) -> str:
    """Return a constraint on features of nodes.

    Raises
    ------
    OptionError
        It cannot be read.
    """
    try:
        if not isinstance(given, str):
            raise ValueError(f"{given!r:.80}: give a text, as 'a100&nvme'")
        return check_constraint(given)
    except ValueError as error:
        raise OptionError(f"constraint={error}") from None


def _returns(given: Any) -> int | Sequence[str]:
    """Return the number of results, or their names.

    Raises
    ------
    OptionError
        The value is neither, or a name occurs twice.
    """
    wrong = f"returns={given!r}: give a number from 1, or a list of names"
    if hasattr(given, "__index__"):
        try:
            return _whole("returns", given, 1)
        except OptionError:
            raise OptionError(wrong) from None
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise OptionError(wrong)
    names = tuple(given)
    if not names or not all(isinstance(name, str) for name in names):
        raise OptionError(wrong)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"returns={given!r}: the name {twice!r} is there twice")
    return given if isinstance(given, (list, tuple)) else names


def make_options(base: Options, changes: Mapping[str, Any]) -> Options:
    """Return options with changes.

    Raises
    ------
    OptionError
        There is no such option, or a value has no meaning.
    """
    unknown = sorted(changes.keys() - OPTIONS)
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], OPTIONS, n=1)
        hint = f"did you mean {close[0]!r}? There" if close else "there"
        raise OptionError(
            f"there is no option {unknown[0]!r}; {hint} are {', '.join(sorted(OPTIONS))}"
        )
    plain = dict(changes)
    if "resources" in plain:
        plain["resources"] = _merged_resources(base.resources, plain["resources"])
    for name, least in (("retries", 0), ("max_crashes", 0), ("priority", -MOST)):
        if name in plain:
            plain[name] = _whole(name, plain[name], least)
    if "after" in plain:
        try:
            plain["after"] = as_tuple(plain["after"])
        except ValueError as error:
            raise OptionError(f"after: {error}") from None
    if "commutative" in plain:
        try:
            plain["commutative"] = as_futures(plain["commutative"])
        except ValueError as error:
            raise OptionError(f"commutative: {error}") from None
    if plain.get("constraint") is not None:
        plain["constraint"] = _constraint(plain["constraint"])
    if "returns" in plain:
        plain["returns"] = _returns(plain["returns"])
    try:
        if "environment" in plain:
            given = merged_environments(base.environment, plain["environment"])
            plain["environment"] = check_environment(given)
        if "container" in plain:
            plain["container"] = check_container(plain["container"])
    except ValueError as error:
        raise OptionError(str(error)) from None
    options = replace(base, **plain)
    if options.default is not None and options.on_failure != "ignore":
        if plain.get("default") is not None:
            raise OptionError(
                f"default={options.default!r:.100} goes with on_failure='ignore', and not with "
                f"{options.on_failure!r}"
            )
        options = replace(options, default=None)  # that of a policy that is another one now
    if options.on_failure not in ON_FAILURE:
        raise OptionError(f"on_failure={options.on_failure!r}: give one of {', '.join(ON_FAILURE)}")
    _ = options.defaults
    try:
        check_together(options.environment, options.container)
    except ValueError as error:
        raise OptionError(str(error)) from None
    options.retry_names(), options.no_retry_names()
    if options.compression is not None:
        try:
            parse_compression(options.compression)
        except ValueError as error:
            raise OptionError(f"compression={error}") from None
    if options.isolation not in ISOLATIONS:
        raise OptionError(f"isolation={options.isolation!r:.60}: give one of shared, fresh")
    if options.pool is not None and not isinstance(options.pool, str):
        raise OptionError(f"pool={options.pool!r}: give the name of a pool")
    if options.cache and options.commutative:
        raise OptionError("cache=True: what a task takes by turns (commutative) is never the same")
    for name in ("cache", "exclusive", "retry_timeouts"):
        if not isinstance(given := getattr(options, name), bool):
            raise OptionError(f"{name}={given!r}: give True or False")
    if not options.is_dynamic():
        options.resolve((), {})
    return options


@public
class Task(Generic[P, R]):
    """A function that can be run as a task.

    Made by `task`, `mpi`, `shell` or `http`; `options` gives a copy with other options.
    """

    def __init__(
        self,
        function: Callable[P, R],
        kind: TaskKind,
        given: Mapping[str, Any] | None = None,
        preset: Mapping[str, Any] = MappingProxyType({}),
        versions: dict[str, Task[..., Any]] | None = None,
    ) -> None:
        if isinstance(function, _MpiDecorator):
            raise function._misused()
        if not callable(function):
            raise OptionError(f"a task is made of a function, not of {function!r:.100}")
        if _is_coroutine_function(function):
            named = getattr(function, "__name__", repr(function))
            raise OptionError(f"{named} is a coroutine function; give a plain function")
        self.function = function
        #: The arguments that each call has unless it gives others.
        self.preset = dict(preset)
        #: Other ways to make its result, by their labels: each with the options that it names
        #: itself (`pilot.client.versions`). Copies of the task with other options have the same.
        self.versions = {} if versions is None else versions
        #: The same with all their options, as far as these were asked for.
        self.complete: dict[str, Task[..., Any]] = {}
        #: The options that were given, and all of them.
        self.given = dict(given or {})
        self.task_options = options = make_options(Options(), self.given)
        #: The resources of every call, if none depends on the arguments.
        self.resolved = None if options.is_dynamic() else options.resolve((), {})
        self.kind = command_kind(options) if kind in (COMMAND, MPI_COMMAND) else kind
        if kind == MPI and options.cores == 0:
            raise OptionError(NO_CORES_FOR_RANKS)
        if kind == MPI and options.nodes != 1:
            raise OptionError(
                f"nodes={options.nodes!r}: ranks of MPI are spread over nodes by ranks_per_node"
            )
        name = as_name(options.name or getattr(function, "__name__", type(function).__name__))
        if kind in (PYTHON, MPI) and ("retry_on" in self.given or "no_retry_on" in self.given):
            warn_of_statuses(name, "retry_on", options.retry_names())
            warn_of_statuses(name, "no_retry_on", options.no_retry_names())
        self.__name__ = name
        self.__qualname__: str = getattr(function, "__qualname__", name)
        self.__module__ = getattr(function, "__module__", "")
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in this process at once, without Pilot."""
        if self.preset:
            kwargs = cast("Any", {**self.preset, **kwargs})
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Task[..., R]:
        """Bind a task that is a method, as functions are; the object is sent with it."""
        if instance is None:
            return self
        versions = {label: own.__get__(instance, owner) for label, own in self.versions.items()}
        if isinstance(self.function, FunctionType):
            function: Callable[..., R] = MethodType(self.function, instance)
        elif (bound := getattr(self.function, "bound_to", None)) is not None:
            function = bound(instance)
        else:
            return self
        return Task(function, self.kind, self.given, versions=versions)

    def options(self, **changes: Any) -> Task[P, R]:
        """Return the same task with other options; of `resources`, those that are named change.

        Raises
        ------
        OptionError
            There is no such option, or a value has no meaning.
        """
        given = merged(self.given, changes)
        return Task(self.function, self.kind, given, self.preset, self.versions)

    @overload
    def version(self, function: Callable[..., Any], /) -> Task[..., Any]: ...
    @overload
    def version(self, /, **options: Any) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...
    def version(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a function another version of the task: ``@square.version(gpus=1)``.

        It gets the same arguments, and makes the same result. Where a task is to start, the first
        version that can start at that moment runs, the task itself before all others.

        Parameters
        ----------
        **options
            See `Options`; those that are not given are the task's. ``name`` is what records call
            it; default: the function's name.

        Returns
        -------
        Task
            The version, as a task of its own.

        Raises
        ------
        OptionError
            An option has no meaning, or is of the task as a whole.
        """
        # By name: that knows of tasks.
        add = import_object("pilot.client.versions", "add_version")

        def decorate(decorated: Callable[..., Any]) -> Any:
            return add(self, decorated, options)

        return decorate if function is None else decorate(function)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Task[P, R]:
        """Return the same task with other defaults for the options that it does not set itself."""
        given = merged(defaults, self.given)
        return Task(self.function, self.kind, given, self.preset, self.versions)

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[R]:
        """Run the task in the current session. Arguments may hold futures, at any depth.

        With `after` (futures, or ids) it starts when these tasks have ended, however they end;
        where the function has a parameter of that name, give this as an option.
        """
        return cast("Future[R]", find_current().submit(self, *args, **kwargs))

    def map(self, *iterables: Iterable[Any], after: After = ()) -> list[Future[R]]:
        """Submit one task for each item (for each row of several iterables), sent as one.

        They start when the tasks of `after` (futures, or ids) have ended, however these end.
        """
        rows = zip(*iterables, strict=False)
        return cast("list[Future[R]]", find_current().submit_many(self, rows, after=after))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a reference by name if a worker can import the task, or else its parts."""
        module = sys.modules.get(self.__module__)
        if self.__module__ != "__main__" and getattr(module, self.__qualname__, None) is self:
            return (import_object, (self.__module__, self.__qualname__))
        # Tasks that it waits for mean nothing elsewhere.
        waits = ("after", "commutative")
        given = {name: value for name, value in self.given.items() if name not in waits}
        return (Task, (self.function, self.kind, given, self.preset, self.versions))

    def __repr__(self) -> str:
        return f"<pilot {self.kind} task {self.__name__}>"


def _is_coroutine_function(function: Any) -> bool:
    """Tell whether a function, or the one that a `functools.partial` of it calls, is ``async``."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and bool(code.co_flags & _CO_COROUTINE)


@pickled_name
def import_object(module: str, name: str) -> Any:
    """Return the object of this name in a module; names may have dots."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
@public
def task(function: Callable[P, R] | None = None, /, **options: Any) -> Any:
    """Make a function a task: ``@pilot.task``, or ``@pilot.task(cores=2, memory="4G")``.

    Parameters
    ----------
    **options
        See `Options`.

    Raises
    ------
    OptionError
        There is no such option, or a value has no meaning.
    """

    def decorate(decorated: Callable[P, R]) -> Task[P, R]:
        return Task(decorated, PYTHON, options)

    return decorate if function is None else decorate(function)


@public
def mpi(
    ranks: int | Callable[..., int],
    *,
    split: str | Sequence[str] = (),
    result: str = "first",
    **options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function an MPI task: its body runs on every rank.

    ``MPI.COMM_WORLD`` has exactly these ranks; the result is what rank 0 returns.

    Parameters
    ----------
    ranks
        Number of ranks.
    split
        Parameters of which each rank gets its part: of an array its rows, of a list its items.
    result
        ``"first"``: what rank 0 returns; ``"list"``: a list of what each rank returns; ``"rows"``:
        the arrays of all ranks as one, those of rank 0 on top.
    **options
        See `Options`, such as ``ranks_per_node=2``.
    """

    return _MpiDecorator({"ranks": ranks, **options}, split, result)


class _MpiDecorator:
    """A decorator that makes functions MPI tasks; used as a task, it says that ranks are missing.

    `mpi` without brackets gets the function in place of the ranks, which may be a function, too.
    """

    def __init__(self, options: dict[str, Any], split: object, result: object) -> None:
        self._options = options
        self._split = split
        self._result = result

    def __call__(self, decorated: Callable[P, R]) -> Task[P, R]:
        if not callable(decorated) and callable(self._options["ranks"]):
            raise self._misused()
        if (self._split == () and self._result == "first") or not callable(decorated):
            return Task(decorated, MPI, self._options)
        # By name: that knows of running tasks, which know of this module.
        make = import_object("pilot.client.rank_function", "make_rank_function")
        if isinstance(decorated, Task):
            raise OptionError(f"{decorated.__name__} is a task; give pilot.mpi(…) a plain function")
        try:
            function = make(decorated, self._split, self._result)
        except ValueError as error:
            raise OptionError(str(error)) from None
        return Task(function, MPI, self._options)

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_TASKS:
            raise self._misused()
        raise AttributeError(f"the decorator pilot.mpi(…) has no attribute {name!r}")

    def _misused(self) -> OptionError:
        ranks = self._options["ranks"]
        named = getattr(ranks, "__name__", "…")
        if not callable(ranks):
            return OptionError(
                f"pilot.mpi(ranks={ranks!r}) is to be called with a function: write "
                f"`@pilot.mpi(ranks={ranks!r})` above `def …`"
            )
        return OptionError(
            f"{named!r} is no task yet: mpi needs the number of ranks; write "
            f"`@pilot.mpi(ranks=2)` above `def {named}(…)`"
        )


#: Methods of tasks that users call.
_OF_TASKS = frozenset({"submit", "map", "options", "version"})


def command_kind(options: Options) -> TaskKind:
    """Return the kind of a command: started once, or as the ranks of an MPI job."""
    return COMMAND if options.ranks == 1 and options.ranks_per_node is None else MPI_COMMAND


def as_task(function: Any) -> Task[..., Any]:
    """Return a `Task` of a callable.

    Raises
    ------
    OptionError
        The object cannot be called.
    """
    if isinstance(function, Task):
        return function
    return Task(function, PYTHON)
