"""Plans: the entries of a workflow file with their keys checked and their texts parsed.

Pure: the file's content comes in; `Plan`s for `expand` and findings go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import UNSET
from msgspec.structs import asdict

from pilot.client.task import Options, make_options
from pilot.errors import PilotError
from pilot.site_configs.yamlfile import YamlPath
from pilot.workflow.commands import (
    STREAMS,
    CommandPlan,
    check_programs,
    command_kwargs,
    command_plan,
    program_ranks,
    run_text,
    wrong_places,
)
from pilot.workflow.expression import (
    NAME,
    Attribute,
    ExpressionError,
    Reference,
    parse_reference,
)
from pilot.workflow.http_plans import HttpPlan, http_plan, wrong_http_keys
from pilot.workflow.problems import Problems, Wrong
from pilot.workflow.references import (
    INDEX,
    RESERVED,
    TASKS,
    Compiled,
    Outline,
    Scope,
    Text,
    check_names,
    compiled,
    texts_in,
)
from pilot.workflow.schema import CommonOptions, Range, TaskEntry, WorkflowFile

_KINDS = ("python", "mpi", "run", "http")
#: Keys that mean something for commands only.
_COMMAND_KEYS = (
    *("inputs", "outputs", "cwd", *STREAMS, "env", "success", "stop_signal"),
    *("output_per_rank", "scratch", "prolog", "epilog"),
)
#: Keys without which there would be many more findings that only follow from that.
_FOLLOWED = (*_KINDS, "foreach", "with", "args", "inputs", "outputs")
#: Options of one task that are no common ones.
_OWN_OPTIONS = ("name", "ranks", "ranks_per_node", "returns", "default")


@dataclass(frozen=True)
class Option:
    """An option of a task, and its place in the file."""

    name: str
    value: Compiled
    path: YamlPath


@dataclass(frozen=True)
class RangePlan:
    """Numbers at equal distances: ``from``, ``to``, ``step`` and ``count``."""

    limits: Mapping[str, Compiled]
    path: YamlPath


@dataclass(frozen=True)
class Plan:
    """An entry of ``tasks``."""

    name: str
    #: ``python``, ``mpi``, ``run`` or ``http``, and its text.
    kind: str
    text: str
    options: tuple[Option, ...]
    #: None where the task has no foreach.
    foreach: Mapping[str, Compiled] | None
    side_by_side: bool
    args: Compiled
    kwargs: Compiled
    needs: tuple[Text, ...]
    #: The tasks of the key ``after``.
    follows: tuple[Text, ...]
    command: CommandPlan | None
    http: HttpPlan | None = None
    #: The tasks that it refers to, in whatever way.
    after: tuple[str, ...] = ()

    @property
    def path(self) -> YamlPath:
        """The place of the entry in the file."""
        return (TASKS, self.name)


@dataclass(frozen=True)
class Plans:
    """The plans of a workflow file."""

    tasks: Mapping[str, Plan]
    results: Compiled
    #: The variables that every entry may refer to.
    variables: Mapping[str, Any]

    def without(self, names: Iterable[str]) -> Plans:
        """Return the plans without some tasks; if there are any, without results too."""
        gone = set(names)
        left = {name: plan for name, plan in self.tasks.items() if name not in gone}
        return replace(self, tasks=left, results={} if gone else self.results)


def make_plans(file: WorkflowFile, variables: Mapping[str, Any], problems: Problems) -> Plans:
    """Read every entry; findings are added to `problems`.

    Parameters
    ----------
    variables
        The parameters and lists, and the variables of the workflow itself.
    """
    if not file.tasks:
        problems.add((TASKS,), "there is no task; add one")
    for section, names in (("parameters", file.parameters), ("lists", file.lists)):
        for name in names:
            with problems.caught():
                _check_name(name, (section, name), RESERVED)
    outlines = {name: Outline(name, None) for name in file.tasks}
    tasks: dict[str, Plan] = {}
    for option in _options_of(file.defaults, CommonOptions.__struct_fields__, ("defaults",)):
        with problems.caught():
            check_option(option)
    for name, entry in file.tasks.items():
        with problems.caught():
            _check_name(name, (TASKS, name), ())
        for option in _options(entry, CommonOptions(), (TASKS, name)):
            with problems.caught():
                check_option(option)
        if any((TASKS, name, key) in problems.left_out for key in _FOLLOWED):
            continue  # much of what would be told follows from that
        with problems.caught():
            plan = _plan(name, entry, file.defaults, problems)
            tasks[name] = plan
            outer = Scope(variables, outlines)
            inner = outer
            if plan.foreach is not None:
                inner = Scope({**variables, **dict.fromkeys(plan.foreach), INDEX: 0}, outlines)
            after: dict[str, None] = {}
            for text, is_outer in _texts(plan):
                if text.path[2:3] == ("returns",) and problems.are_at(*text.path):
                    continue  # it is to be a name, and no reference at all
                with problems.caught():
                    after.update(dict.fromkeys(check_names(text, outer if is_outer else inner)))
            tasks[name] = replace(plan, after=tuple(after))
    results: Compiled = {}
    with problems.caught():
        results = compiled(file.results, ("results",))
        for text in texts_in(results):
            with problems.caught():
                list(check_names(text, Scope(variables, outlines)))
    return Plans(tasks, results, variables)


def check_option(option: Option) -> None:
    """Check the value of an option, where it is already known.

    Raises
    ------
    Wrong
        The value is not valid.
    """
    if option.name != "default" and not any(texts_in(option.value)):  # that goes with others
        with_option(Options(), option.name, option.value, option.path)


def with_option(options: Options, name: str, value: Any, path: YamlPath) -> Options:
    """Return options with one of them changed.

    Raises
    ------
    Wrong
        The value is not valid.
    """
    if name in ("name", "pool") and value is not None and not isinstance(value, str):
        raise Wrong(path, f"expected a text, got {value!r}")
    try:
        return make_options(options, {name: value})
    except PilotError as error:
        told = str(error)
        for opening in (f"{name}=", f"{name}: "):
            told = told.removeprefix(opening)
        raise Wrong(path, told) from None


def _plan(name: str, entry: TaskEntry, defaults: CommonOptions, problems: Problems) -> Plan:
    path: YamlPath = (TASKS, name)
    given = [kind for kind in _KINDS if getattr(entry, kind) is not None]
    if len(given) != 1:
        told = "says nothing to run" if not given else f"has {' and '.join(given)}"
        raise Wrong(path, f"the task {told}; give one of python, mpi, run and http")
    kind = given[0]
    for wrong in _wrong_keys(entry, kind, path):
        problems.add(wrong.path, wrong.message)
    check_programs(entry, path)
    command = command_plan(entry, path) if kind == "run" else None
    http = http_plan(entry, path) if kind == "http" else None
    kwargs = compiled(entry.with_, (*path, "with")) if http is None else http.kwargs
    if command is not None:
        kwargs = command_kwargs(command, kwargs, path)
        for wrong in wrong_places(command, path):
            problems.add(wrong.path, wrong.message)
    return Plan(
        name=name,
        kind=kind,
        text=run_text(entry) if kind == "run" else str(getattr(entry, kind)),
        options=tuple(_options(entry, defaults, path)),
        foreach=_foreach(entry, path, problems),
        side_by_side=entry.combine == "zip",
        args=compiled(entry.args, (*path, "args")),
        kwargs=kwargs,
        needs=tuple(_named(entry.needs, (*path, "needs"))),
        follows=tuple(_named(entry.after, (*path, "after"))),
        command=command,
        http=http,
    )


def _wrong_keys(entry: TaskEntry, kind: str, path: YamlPath) -> Iterator[Wrong]:
    """Yield the keys that have no meaning beside others: they are errors, not ignored."""
    if kind != "http":
        yield from wrong_http_keys(entry, path)
    elif entry.args:
        yield Wrong((*path, "args"), "a request takes its arguments by name: use 'with'")
    elif entry.returns is not UNSET:
        yield Wrong((*path, "returns"), "a request has one result, its answer; remove this")
    if kind != "run":
        for key in _COMMAND_KEYS:
            if kind == "http" and key == "success":
                continue
            if getattr(entry, key) not in (None, {}, False, ""):
                yield Wrong((*path, key), f"{key!r} goes with 'run' only, not with {kind!r}")
    else:
        if entry.args:
            yield Wrong((*path, "args"), "a command takes its arguments by name: use 'with'")
        if entry.returns is not UNSET:
            yield Wrong(
                (*path, "returns"),
                "a command's results are the files in 'outputs', and its stdout; remove this",
            )
    if isinstance(entry.returns, list):
        for number, name in enumerate(entry.returns):
            try:
                _check_name(name, (*path, "returns", number), ())
            except Wrong as wrong:
                yield wrong
    if kind in ("python", "http"):
        for key in ("ranks", "ranks_per_node"):
            if getattr(entry, key) is not UNSET:
                yield Wrong((*path, key), f"{key!r} goes with 'mpi' and 'run'; write 'mpi:'")
    if entry.combine is not None and entry.foreach is None:
        yield Wrong((*path, "combine"), "'combine' says how the variables of 'foreach' go together")


def _options(entry: TaskEntry, defaults: CommonOptions, path: YamlPath) -> Iterator[Option]:
    common = CommonOptions.__struct_fields__
    yield from _options_of(defaults, common, ("defaults",))
    yield from _options_of(entry, (*common, *_OWN_OPTIONS), path)
    if ranks := program_ranks(entry):
        yield Option("ranks", ranks, (*path, "run"))


def _options_of(source: CommonOptions, names: Iterable[str], path: YamlPath) -> Iterator[Option]:
    for name in names:
        value = getattr(source, name)
        if value is not UNSET:
            yield Option(name, compiled(value, (*path, name)), (*path, name))


def _foreach(entry: TaskEntry, path: YamlPath, problems: Problems) -> dict[str, Compiled] | None:
    if entry.foreach is None:
        return None
    if not entry.foreach:
        raise Wrong((*path, "foreach"), "names no variable; write NAME: [VALUE, …]")
    plans: dict[str, Compiled] = {}
    for name, values in entry.foreach.items():
        where = (*path, "foreach", name)
        plans[name] = []  # known, whatever its values are
        with problems.caught():
            _check_name(name, where, RESERVED)
            plans[name] = values_plan(values, where)
    return plans


def values_plan(values: list[Any] | Range | str, where: YamlPath) -> Compiled:
    """Return the plan of a list, a range (as a `RangePlan`), or a reference to a list.

    Raises
    ------
    Wrong
        The value is a text that is not a reference.
    """
    if isinstance(values, Range):
        limits = {key.rstrip("_"): value for key, value in asdict(values).items()}
        return RangePlan(compiled(limits, where), where)
    plan = compiled(values, where)
    if isinstance(values, str) and not (isinstance(plan, Text) and plan.alone is not None):
        raise Wrong(
            where,
            "expected a list, a range (from, to, step or count) or one ${…} that is a list, "
            f"got the text {values!r}",
        )
    return plan


def _named(given: str | list[str], path: YamlPath) -> Iterator[Text]:
    """Yield the references to tasks that are named alone, as in ``needs: [prepare]``."""
    for number, text in enumerate([given] if isinstance(given, str) else given):
        where = path if isinstance(given, str) else (*path, number)
        if "${" in text:
            told = f"write the task's name alone, such as {path[-1]}: [prepare]"
            raise Wrong(where, f"{text!r}: {told}")
        try:
            inner = parse_reference(text)
        except ExpressionError as error:
            raise Wrong(where, str(error)) from None
        yield Text((Reference(TASKS, (Attribute(inner.name), *inner.steps)),), where)


def _texts(plan: Plan) -> Iterator[tuple[Text, bool]]:
    """Yield every text with references of a task, and whether it is outside of its foreach."""
    for values in (plan.foreach or {}).values():
        limits = values.limits if isinstance(values, RangePlan) else values
        yield from ((text, True) for text in texts_in(limits))
    inner: list[Compiled] = [option.value for option in plan.options]
    inner += [plan.args, plan.kwargs, list(plan.needs), list(plan.follows)]
    if plan.command is not None:
        inner += [plan.command.cwd, plan.command.env]
    yield from ((text, False) for text in texts_in(inner))


def _check_name(name: str, path: YamlPath, reserved: tuple[str, ...]) -> None:
    if not NAME.fullmatch(name):
        raise Wrong(path, f"{name!r} is no name; use letters, digits, '_' and '-'")
    if name in reserved:
        raise Wrong(path, f"{name!r} has a meaning of its own in references; choose another name")
