"""Workflow files: read, checked as a whole, and ready to run.

Loading needs no site and no session; it imports the modules that the tasks name.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.client.session_settings import grace_s, preloaded
from pilot.errors import PilotError
from pilot.scheduler.budgets import HOUR_S
from pilot.site_configs import yamlfile
from pilot.workflow.expand import expand, values_of, without_circles
from pilot.workflow.files import check_files
from pilot.workflow.graph import Graph
from pilot.workflow.parameters import parameter_values
from pilot.workflow.plans import Plan, make_plans, values_plan
from pilot.workflow.problems import Problems
from pilot.workflow.ranges import Allowance
from pilot.workflow.references import TASKS, WORKFLOW, Scope
from pilot.workflow.schema import WorkflowFile, WorkflowFileError
from pilot.workflow.targets import Target, add_to_search_path, find_target

if TYPE_CHECKING:
    from pilot.client.session import Session
    from pilot.workflow.run import SubmittedWorkflow


@dataclass(frozen=True)
class Workflow:
    """A workflow that was read and checked."""

    name: str
    #: The file, as an absolute path.
    path: Path
    #: The values of all parameters.
    parameters: Mapping[str, Any]
    #: Directories that the workers must search for modules: `Session(sys_path=…)`.
    sys_path: tuple[Path, ...]
    #: Node-hours that its tasks may use, or None: `Session(budget=…)`.
    budget: str | float | None
    #: Modules that the executors have from their start: `Session(preload=…)`.
    preload: tuple[str, ...]
    #: The time without a client after which its session ends, in seconds; 0: it does not:
    #: `Session(ends_with_client=…)`.
    ends_with_client: float
    _graph: Graph

    def graph(self) -> Graph:
        """Return the tasks that would run, with their dependencies."""
        return self._graph

    def submit(self, session: Session) -> SubmittedWorkflow:
        """Submit all tasks to a session, each after those that it waits for.

        Raises
        ------
        SubmissionError
            No pool can ever run a task, or it cannot be sent.
        """
        from pilot.workflow.run import submit_graph

        return submit_graph(self._graph, session)


def load_workflow(path: str | Path, parameters: Mapping[str, Any] | None = None) -> Workflow:
    """Read and check a workflow file.

    Modules that it names are imported, from its directory first, which is added to ``sys.path`` as
    that of a script would be.

    Parameters
    ----------
    path
        The file.
    parameters
        Values in place of the file's defaults, as texts or as values of their types.

    Raises
    ------
    WorkflowError
        The file or a parameter is wrong. The message has one line
        ``file:line: where: what is wrong; what to do`` for each finding.
    """
    path = Path(path)
    file, findings = yamlfile.load_what_fits(path, WorkflowFile, error_type=WorkflowFileError)
    problems = Problems(file)
    problems.take(findings)
    try:
        values = parameter_values(file.value.parameters, parameters or {}, problems)
    except WorkflowFileError as error:
        raise WorkflowFileError(f"{path}: {error}") from None
    home = path.absolute().parent
    name = file.value.name or path.stem
    variables = {**values, WORKFLOW: {"name": name, "directory": str(home)}}
    allowance = Allowance()
    variables |= _lists(file.value, variables, problems, allowance)
    # Keys that were left out are known by their names: one mistake, one message.
    for section in ("parameters", "lists"):
        if (section,) in problems.left_out:
            problems.raise_if_any()
        variables |= {str(p[1]): None for p in problems.left_out if p[0] == section and len(p) > 1}
    plans = make_plans(file.value, variables, problems)
    sys_path = _search_path(file.value, home, problems)
    add_to_search_path(sys_path)
    targets: dict[str, Target] = {}
    for plan in plans.tasks.values():
        if plan.kind not in ("run", "http") and not problems.are_at(*plan.path, plan.kind):
            with problems.caught():
                targets[plan.name] = _target(plan, sys_path)
    if problems.are_at("parameters") or problems.are_at("lists"):
        problems.raise_if_any()
    # Tasks that are right by themselves are looked at further, whatever else is wrong.
    plans = without_circles(plans, file.line_of, problems)
    plans = plans.without(name for name in file.value.tasks if problems.are_at(TASKS, name))
    with _no_collecting():
        graph = expand(
            plans, targets, name=name, line_of=file.line_of, problems=problems, allowance=allowance
        )
        check_files(graph, problems)
    budget = file.value.budget
    if budget is not None and budget.per != "total":
        with problems.caught():
            raise file.error("budget", message="a session has one budget for all of its time")
    try:
        preload = preloaded(file.value.preload)
    except PilotError as error:
        with problems.caught():
            raise file.error("preload", message=str(error)) from None
    grace = 0.0
    with problems.caught():
        grace = _grace_s(file)
    problems.raise_if_any()
    hours = None if budget is None else budget.node_s / HOUR_S
    return Workflow(name, path.absolute(), values, sys_path, hours, preload, grace, graph)


def _grace_s(file: yamlfile.YamlFile[WorkflowFile]) -> float:
    try:
        return grace_s(file.value.ends_with_client)
    except PilotError as error:
        told = str(error).removeprefix("ends_with_client: ").removeprefix("ends_with_client=")
        raise file.error("ends_with_client", message=told) from None


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    """Suspend garbage collection, while very many objects are made that stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _lists(
    file: WorkflowFile, variables: Mapping[str, Any], problems: Problems, allowance: Allowance
) -> dict[str, list[Any]]:
    """Return the values of the section ``lists``; one may refer to those above it."""
    found: dict[str, list[Any]] = {}
    for name, values in file.lists.items():
        where = ("lists", name)
        if name in file.parameters:
            problems.add(where, f"{name!r} is a parameter too; choose another name")
        scope = Scope({**variables, **found}, allowance=allowance)
        found[name] = []  # a wrong one is known all the same: one mistake, one message
        with problems.caught():
            found[name] = values_of(values_plan(values, where), where, scope)
    return found


def _search_path(file: WorkflowFile, home: Path, problems: Problems) -> tuple[Path, ...]:
    found = [home]
    for number, text in enumerate(file.path):
        directory = (home / Path(text).expanduser()).resolve()
        if directory.is_dir():
            found.append(directory)
        else:
            problems.add(("path", number), f"there is no directory {directory}")
    return tuple(dict.fromkeys(found))


def _target(plan: Plan, sys_path: tuple[Path, ...]) -> Target:
    target = find_target(plan.text, plan.kind == "mpi", (*plan.path, plan.kind), sys_path)
    target.check_call(plan.args, list(plan.kwargs), (*plan.path, "args"), (*plan.path, "with"))
    return target
