"""Expansion of plans to the graph: foreach unfolded, references resolved, options made.

Pure: it starts nothing and looks at no file. Groups come out in an order in which each task comes
after those that it waits for; circles are reported, and left out.
"""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pilot.client.command import ShellCommand
from pilot.client.http_request import HttpRequest
from pilot.client.task import HTTP, Options, command_kind, make_options
from pilot.errors import CommandError
from pilot.model.states import TaskKind
from pilot.site_configs.yamlfile import YamlPath
from pilot.workflow.commands import CommandPlan
from pilot.workflow.graph import Graph, Node, Result, TaskGroup, results_in
from pilot.workflow.http_plans import HTTP_ATTRIBUTES
from pilot.workflow.plans import Plan, Plans, RangePlan, with_option
from pilot.workflow.problems import Problems, Wrong
from pilot.workflow.ranges import Allowance, numbers
from pilot.workflow.references import (
    COMMAND_ATTRIBUTES,
    INDEX,
    TASKS,
    Compiled,
    Outline,
    Scope,
    Text,
    take_values,
    texts_in,
    value_of,
)
from pilot.workflow.targets import Target


def without_circles(plans: Plans, line_of: Callable[..., int], problems: Problems) -> Plans:
    """Return the plans without tasks that wait for each other in a circle; report each circle.

    Parameters
    ----------
    plans
        The plans.
    line_of
        A function that returns the line of a place in the file.
    problems
        Collects the circles, with the names of their tasks and the lines.
    """
    while circle := _circle(plans.tasks):
        first = min(circle, key=lambda name: line_of(TASKS, name))
        begin = circle.index(first)
        names = [*circle[begin:], *circle[:begin], first]
        shown = " needs ".join(f"{name} (line {line_of(TASKS, name)})" for name in names)
        problems.add(
            (TASKS, first),
            f"tasks wait for each other in a circle: {shown}; take one of these away",
        )
        plans = plans.without(circle)
    return plans


def _circle(plans: Mapping[str, Plan]) -> list[str]:
    """Return tasks that each need the next one, the last one the first; empty if there are none."""
    try:
        graphlib.TopologicalSorter({name: plan.after for name, plan in plans.items()}).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))[:-1]
    return []


def _in_order(plans: Mapping[str, Plan]) -> list[Plan]:
    """Return the plans, each after those that it waits for."""
    sorter = graphlib.TopologicalSorter({name: plan.after for name, plan in plans.items()})
    return [plans[name] for name in sorter.static_order() if name in plans]


def expand(
    plans: Plans,
    targets: Mapping[str, Target],
    *,
    name: str,
    line_of: Callable[..., int],
    problems: Problems,
    allowance: Allowance,
) -> Graph:
    """Return the graph of all tasks.

    Parameters
    ----------
    targets
        The functions that the Python and MPI tasks run, by name of the task.
    name
        The name of the workflow.
    line_of
        A function that returns the line of a place in the file.
    problems
        Collects the findings; a task that waits for a wrong one is left out.
    allowance
        The number of tasks and values that the workflow may unfold to.
    """
    ordered = _in_order(plans.tasks)
    outlines: dict[str, Outline] = {}
    scope = Scope(plans.variables, outlines, allowance=allowance)
    makers: dict[str, _Makers] = {}
    # How many there are is known before any is made.
    for plan in ordered:
        if all(needed in outlines for needed in plan.after):
            with problems.caught():
                rows = _rows(plan, scope)
                makers[plan.name] = _Makers(plan, targets.get(plan.name))
                outlines[plan.name] = makers[plan.name].outline(rows)
    groups: dict[str, TaskGroup] = {}
    for plan in ordered:
        if plan.name not in outlines or any(needed not in groups for needed in plan.after):
            continue
        with problems.caught():
            groups[plan.name] = TaskGroup(
                name=plan.name,
                line=line_of(*plan.path),
                text=plan.text,
                variables=None if plan.foreach is None else tuple(plan.foreach),
                after=plan.after,
                nodes=tuple(makers[plan.name].nodes(outlines[plan.name].rows, scope)),
            )
    results: dict[str, Any] = {}
    if len(outlines) == len(plans.tasks):
        for key, value in plans.results.items():
            with problems.caught():
                results[key] = value_of(value, Scope(plans.variables, outlines))
    return Graph(name, tuple(groups.values()), results)


class _Makers:
    """A maker of the nodes of one task; parts that several of them share are made once."""

    def __init__(self, plan: Plan, target: Target | None) -> None:
        self.plan = plan
        self.target = target
        self.is_command = plan.command is not None or (
            target is not None and target.command is not None
        )
        #: The arguments by name or position, and of those that are the same for all, since they
        #: have no references, the value, which is made once.
        self._arguments = [
            (key, value, None if any(texts_in(value)) else self._argument(value))
            for key, value in (*plan.kwargs.items(), *enumerate(plan.args))
        ]
        self._options: dict[str, Options] = {}
        self._same_options = not any(list(texts_in(option.value)) for option in plan.options)
        self._commands: dict[str, ShellCommand] = {}
        command = plan.command
        self._same_command = command is not None and not any(texts_in([command.cwd, command.env]))

    def nodes(self, rows: Sequence[Mapping[str, Any]] | None, outer: Scope) -> Iterator[Node]:
        """Yield one node for each row, or the only one."""
        if rows is None:
            yield self.node(None, {}, outer)
            return
        for index, values in enumerate(rows):
            variables = {**outer.variables, **values, INDEX: index}
            yield self.node(
                index, values, Scope(variables, outer.outlines, allowance=outer.allowance)
            )

    def node(self, index: int | None, values: Mapping[str, Any], scope: Scope) -> Node:
        options = self.options(scope)
        given: dict[str | int, Any] = {}
        sizes = 0
        for key, value, made in self._arguments:
            given[key], size = made or self._argument(value_of(value, scope))
            sizes += size
        if sizes:
            take_values(sizes, scope, self.plan.path)
        kwargs = {name: given[name] for name in self.plan.kwargs}
        function, kind = self.function(options, kwargs, scope)
        if isinstance(function, HttpRequest):
            try:
                function.check_call((), kwargs)
            except CommandError as error:
                raise Wrong((*self.plan.path, self.plan.kind), error.told) from None
        if isinstance(function, ShellCommand) and not any(results_in(kwargs)):
            try:
                function.check_values(kwargs)
            except CommandError as error:
                raise Wrong((*self.plan.path, self.plan.kind), error.told) from None
        return Node(
            task=self.plan.name,
            index=index,
            values=values,
            function=function,
            kind=kind,
            options=options,
            args=tuple(given[number] for number in range(len(self.plan.args))),
            kwargs=kwargs,
            needs=tuple(r for text in self.plan.needs for r in self._needed(text, scope)),
            follows=tuple(r for text in self.plan.follows for r in self._needed(text, scope)),
        )

    def _argument(self, value: Any) -> tuple[Any, int]:
        """Return a value as the task gets it, and the number of values in it."""
        return _for_shell(value) if self.is_command else value, _size(value)

    def outline(self, rows: Sequence[Mapping[str, Any]] | None) -> Outline:
        attributes: tuple[str, ...] | None = None
        if self.is_command:
            plan, target = self.plan.command, self.target
            command = target.command if target is not None else None
            files = command.outputs if command is not None else plan.outputs if plan else ()
            attributes = (*files, *COMMAND_ATTRIBUTES)
        elif self.plan.http is not None:
            attributes = HTTP_ATTRIBUTES
        options = self.target.options if self.target is not None else Options()
        for option in self.plan.options:
            if option.name == "returns":  # the same for all items: a reference cannot stand there
                options = with_option(options, "returns", option.value, option.path)
        return Outline(self.plan.name, rows, options.return_count, options.return_names, attributes)

    # --- options

    def options(self, scope: Scope) -> Options:
        """Return the options of one item: the decorator's, then the file's, then the task's."""
        if self._same_options and self._options:
            return next(iter(self._options.values()))
        before = scope.without_results("an option, which must be known before")
        values = [value_of(option.value, before) for option in self.plan.options]
        key = repr(values)
        if key not in self._options:
            base = self.target.options if self.target is not None else Options()
            if self.plan.http is not None:
                base = make_options(base, {"cores": 0})
            options = make_options(base, {"name": self.plan.name})
            for option, value in zip(self.plan.options, values, strict=True):
                given = value
                if (
                    option.name == "default"
                    and isinstance(value, list)
                    and options.return_count > 1
                ):
                    given = tuple(value)
                options = with_option(options, option.name, given, option.path)
            self._options[key] = options
        return self._options[key]

    # --- functions and commands

    def function(
        self, options: Options, kwargs: dict[str, Any], scope: Scope
    ) -> tuple[Callable[..., Any], TaskKind]:
        """Return the function that one item runs, and its kind."""
        if self.plan.command is not None:
            self._check_files(self.plan.command, kwargs)
            return self._command(self.plan.command, scope), command_kind(options)
        if self.plan.http is not None:
            return self.plan.http.request, HTTP
        assert self.target is not None
        kind = command_kind(options) if self.is_command else self.target.kind
        return self.target.function, kind

    def _command(self, plan: CommandPlan, scope: Scope) -> ShellCommand:
        if self._same_command and self._commands:
            return next(iter(self._commands.values()))
        before = scope.without_results("a value that must be known before the command starts")
        cwd, env = value_of(plan.cwd, before), value_of(plan.env, before)
        key = repr((cwd, env))
        if key not in self._commands:
            self._commands[key] = ShellCommand(
                plan.run,
                tuple(plan.inputs),
                tuple(plan.outputs),
                None if cwd is None else str(cwd),
                plan.streams.get("stdin"),
                plan.streams.get("stdout"),
                plan.streams.get("stderr"),
                {name: str(_for_shell(value)) for name, value in env.items()},
                plan.success,
                stop_signal=plan.stop_signal,
                output_per_rank=plan.output_per_rank,
                scratch=plan.scratch,
                prolog=plan.prolog,
                epilog=plan.epilog,
            )
        return self._commands[key]

    def _check_files(self, command: CommandPlan, kwargs: Mapping[str, Any]) -> None:
        for key, names in (("inputs", command.inputs), ("outputs", command.outputs)):
            for name in names:
                value, where = kwargs[name], (*self.plan.path, key, name)
                if key == "outputs" and isinstance(value, Result):
                    raise Wrong(where, "the name of an output must be known before the run")
                if not isinstance(value, (str, int, float, Result)):
                    raise Wrong(where, f"expected the name of one file, got {value!r}")

    def _needed(self, text: Text, scope: Scope) -> list[Result]:
        found = list(results_in(value_of(text, scope)))
        if any(result.part is not None for result in found):
            raise Wrong(
                text.path, f"{text.alone}: name a task or an item of it, no part of a result"
            )
        return found


def _for_shell(value: Any) -> Any:
    """Return a value as a command gets it: ``true`` as YAML writes it, not as Python does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return [_for_shell(item) for item in value]
    return value


def _size(value: Any) -> int:
    """Return the number of values in lists and mappings, at any depth."""
    if isinstance(value, dict):
        return len(value) + sum(map(_size, value.values()))
    if isinstance(value, list):
        return len(value) + sum(map(_size, value))
    return 0


# --- foreach -------------------------------------------------------------------------------------


def _rows(plan: Plan, scope: Scope) -> list[dict[str, Any]] | None:
    """Return the values of each item's variables, the last variable changing fastest."""
    if plan.foreach is None:
        return None
    where = (*plan.path, "foreach")
    columns = {
        name: values_of(values, (*where, name), scope) for name, values in plan.foreach.items()
    }
    if plan.side_by_side:
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise Wrong(where, f"variables side by side need equally many values: {shown}")
        count = min(lengths.values())
        combinations: Any = zip(*columns.values(), strict=True)
    else:
        count = math.prod(len(values) for values in columns.values())
        combinations = itertools.product(*columns.values())
    if scope.allowance is not None:
        try:
            scope.allowance.take_items(count)
        except ValueError as error:
            raise Wrong(where, str(error)) from None
    take_values(count * len(columns), scope, where)
    return [dict(zip(columns, values, strict=True)) for values in combinations]


def values_of(values: Compiled, where: YamlPath, scope: Scope) -> list[Any]:
    """Return the values of a foreach variable or of a list.

    Raises
    ------
    Wrong
        The value is not a list.
    """
    if isinstance(values, RangePlan):
        return _range(values, scope)
    found = value_of(values, scope)
    if isinstance(found, Result):
        found = _parts(found, scope)
    if not isinstance(found, list):
        shown = f"{values.alone}: " if isinstance(values, Text) else ""
        raise Wrong(where, f"expected a list, got {shown}{_described(found)}")
    return found


def _parts(result: Result, scope: Scope) -> Any:
    """Return the result of one task with several results as a list of them."""
    assert scope.outlines is not None
    count = scope.outlines[result.task].result_count
    if result.part is not None or count == 1:
        return result
    return [Result(result.task, result.index, part) for part in range(count)]


def _range(plan: RangePlan, scope: Scope) -> list[Any]:
    before = scope.without_results("a limit of a range, which must be known before")
    limits = {key: value_of(value, before) for key, value in plan.limits.items()}
    for key, value in limits.items():
        wanted = (int,) if key == "count" else (int, float)
        if value is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            kind = "a whole number" if key == "count" else "a number"
            raise Wrong((*plan.path, key), f"expected {kind}, got {value!r}")
    try:
        found = numbers(limits["from"], limits["to"], limits["step"], limits["count"])
        take_values(len(found), scope, plan.path)
        return list(found)
    except ValueError as error:
        raise Wrong(plan.path, str(error)) from None
    except OverflowError:
        raise Wrong(plan.path, "the numbers of this range are too large") from None


def _described(value: Any) -> str:
    return "the result of one task" if isinstance(value, Result) else repr(value)
