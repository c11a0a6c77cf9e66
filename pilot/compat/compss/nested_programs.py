"""``@compss``: a program for PyCOMPSs as one task of another.

It is a client like any other, with a session of its own, whose tasks go to the pools of the same
site. So the task itself has no cores: it only waits.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from pilot.client.task import COMMAND
from pilot.compat.compss.binaries import program_of, set_body
from pilot.compat.compss.decoration import TaskFunction
from pilot.compat.compss.given import read_given
from pilot.compat.compss.layers import CallShape, Layer, WorkOut
from pilot.compat.compss.programs import Program, run_program
from pilot.model.states import TaskKind


class NestedProgram(Layer, frozen=True):
    """A program for PyCOMPSs in the place of a function; the result is its exit status."""

    #: Its words without those that start Python.
    program: Program
    kind: ClassVar[TaskKind] = COMMAND

    replaces: ClassVar[bool] = True

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for no core: what it needs its tasks ask for."""
        del work_out
        options["cores"] = 0
        for name in ("memory", "gpus", "nodes"):
            options.pop(name, None)

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what runs the program."""
        del function
        words = (sys.executable, "-m", "pilot.compat.compss.commands", *self.program.words)
        return partial(run_program, self.program._replace(words=words), call, is_task)


def compss(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run a program for PyCOMPSs: ``@compss(app_name="solve.py", flags="-d")``.

    Parameters
    ----------
    **given
        `app_name`, `flags`, `working_dir`, `fail_by_exit_value`.

    Raises
    ------
    PyCOMPSsException
        `app_name` is missing.
    """
    known = ["flags", "working_dir", "fail_by_exit_value"]
    hints = ["runcompss", "worker_in_master", "computing_nodes"]
    read = read_given("compss", args, given, ["app_name"], [*known, *hints])
    return lambda decorated: set_body(decorated, "compss", compss_layer, read)


def compss_layer(made: TaskFunction, given: Mapping[str, Any]) -> Layer:
    """Return what runs in place of a function below ``@compss``."""
    del made
    words = [*shlex.split(str(given.get("flags") or "")), given["app_name"]]
    return NestedProgram(program_of("compss", given, *words))
