"""``@mpi`` and ``@mpmd_mpi``: programs, or the function itself, on ranks of MPI.

The ranks are started by the site's launcher, whatever ``runner`` says: that has a meaning in a
program that runs without a launcher alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from pilot.client.mpmd import joined_text
from pilot.client.task import MPI_COMMAND
from pilot.compat.compss.binaries import program_of, set_body
from pilot.compat.compss.decoration import TaskFunction
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.given import read_given
from pilot.compat.compss.layers import CallShape, Layer, WorkOut
from pilot.compat.compss.policies import IGNORE, policy_of
from pilot.compat.compss.programs import (
    Program,
    directory_of,
    expanded,
    is_true,
    run_words,
    streams_of,
)
from pilot.compat.compss.rank_functions import Layout, OnRanks
from pilot.compat.compss.ranks import Ranks
from pilot.errors import CommandFailed
from pilot.model.states import TaskKind


class MpiProgram(Layer, frozen=True):
    """A program of MPI in the place of a function; the result is its exit status."""

    program: Program
    ranks: Ranks
    runner: str
    kind: ClassVar[TaskKind] = MPI_COMMAND
    replaces: ClassVar[bool] = True

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that may differ between calls."""
        return self.ranks.values

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for the ranks."""
        self.ranks.adapt(options, work_out)

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what runs the program."""
        del function
        if is_task:
            return partial(_run_on_ranks, [(self.program, 0)], self.program, call)
        count = self.ranks.count_here()
        return partial(_run_here, self.runner, [(self.program, count)], self.program, call)


class Mpmd(Layer, frozen=True):
    """Several programs in one world, in the place of a function."""

    programs: tuple[tuple[Program, int], ...]
    ranks: Ranks
    runner: str
    #: Its directory, and what its exit status means, are those of all.
    place: Program
    kind: ClassVar[TaskKind] = MPI_COMMAND
    replaces: ClassVar[bool] = True

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for the ranks of all."""
        self.ranks.adapt(options, work_out)

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what runs the programs."""
        del function
        if is_task:
            return partial(_run_on_ranks, self.programs, self.place, call)
        return partial(_run_here, self.runner, self.programs, self.place, call)


def _run_on_ranks(
    programs: Iterable[tuple[Program, int]],
    place: Program,
    call: CallShape,
    /,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Run programs on the ranks of this task."""
    pairs = list(call.named(args, kwargs))
    lines = [(program.line(call, pairs), ranks) for program, ranks in programs]
    words, ranks = lines[0]
    if ranks:
        words = ["/bin/sh", "-c", joined_text([(shlex.join(line), n) for line, n in lines])]
    where = directory_of(place.working_dir, pairs)
    status, told = run_words(words, where, streams_of(call, pairs), True)
    if status and place.fails:
        raise CommandFailed(told, status)
    return status


def _run_here(
    runner: str,
    programs: Iterable[tuple[Program, int]],
    place: Program,
    call: CallShape,
    /,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Run programs by the runner that the decorator names, without a launcher of Pilot's."""
    pairs = list(call.named(args, kwargs))
    words: list[str] = []
    for program, ranks in programs:
        words += [":"] if words else []
        words += ["-n", str(ranks), *program.line(call, pairs)]
    where = directory_of(place.working_dir, pairs)
    status, _ = run_words([*shlex.split(runner), *words], where, streams_of(call, pairs), False)
    return status


# --- decorators


def mpi(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run on ranks of MPI: a program, or without `binary` the function on each.

    The result of a function is the list of what the ranks return.

    Parameters
    ----------
    **given
        `runner`; `binary`, and with it `args`, `working_dir` and `fail_by_exit_value` as of
        `binary`; `processes`; `processes_per_node`; `scale_by_cu`, True where each of these is as
        many ranks as the task has computing units; ``<parameter>_layout``, which part of a
        collection each rank gets.

    Raises
    ------
    PyCOMPSsException
        `runner` is missing, or a layout means nothing.
    """
    layouts = {
        name.removesuffix("_layout"): Layout.read(name, value)
        for name, value in given.items()
        if name.endswith("_layout")
    }
    plain = {name: value for name, value in given.items() if not name.endswith("_layout")}
    known = ["binary", "processes", "processes_per_node", "scale_by_cu", "computing_nodes"]
    known += ["working_dir", "fail_by_exit_value", "args", "params"]
    read = read_given("mpi", args, plain, ["runner"], known, ["flags"])
    is_true(read.get("scale_by_cu", False), "@mpi: scale_by_cu")
    if layouts and "binary" in read:
        raise PyCOMPSsException("@mpi: layouts are for functions; a program gets the whole")
    read["layouts"] = layouts
    return lambda decorated: set_body(decorated, "mpi", mpi_layer, read)


def mpi_layer(made: TaskFunction, given: Mapping[str, Any]) -> Layer:
    """Return what runs in place of a function below ``@mpi``."""
    processes = given.get("processes", given.get("computing_nodes", 1))
    scales = is_true(given.get("scale_by_cu", False), "@mpi: scale_by_cu")
    ranks = Ranks(processes, given.get("processes_per_node"), scales)
    if "binary" in given:
        program = program_of("mpi", given, given["binary"])
        return MpiProgram(program, ranks, expanded(str(given["runner"]), "@mpi: runner"))
    said = made.said.get("on_failure", made.given.get("on_failure", "RETRY"))
    return OnRanks(ranks, given["layouts"], policy_of(said) == IGNORE)


def mpmd_mpi(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run several programs in one world of MPI.

    Parameters
    ----------
    **given
        `runner`; `programs`, a list of dicts with `binary`, `processes` and `args`;
        `working_dir`; `processes_per_node`; `fail_by_exit_value`.

    Raises
    ------
    PyCOMPSsException
        `runner` or `programs` is missing, or a program means nothing.
    """
    known = ["working_dir", "processes_per_node", "fail_by_exit_value"]
    read = read_given("mpmd_mpi", args, given, ["runner", "programs"], known, ["ppn"])
    programs = read["programs"]
    if not isinstance(programs, (list, tuple)) or not programs:
        raise PyCOMPSsException(f"@mpmd_mpi(programs={programs!r:.60}): give a list of dicts")
    for each in programs:
        if not isinstance(each, Mapping) or not each.get("binary"):
            raise PyCOMPSsException(
                f"@mpmd_mpi: {each!r:.100} is no program: give a dict with binary, and maybe "
                "processes and args"
            )
    return lambda decorated: set_body(decorated, "mpmd_mpi", mpmd_layer, read)


def mpmd_layer(made: TaskFunction, given: Mapping[str, Any]) -> Layer:
    """Return what runs in place of a function below ``@mpmd_mpi``."""
    del made
    programs = []
    for each in given["programs"]:
        count = _whole(each.get("processes", 1))
        # A program without `args` gets nothing: parameters are shared by all of them.
        told = {"args": each.get("args", each.get("params", ""))}
        programs.append((program_of("mpmd_mpi", told, each["binary"]), count))
    place = {name: given[name] for name in ("working_dir", "fail_by_exit_value") if name in given}
    ranks = Ranks(sum(count for _, count in programs), given.get("processes_per_node"), False)
    runner = expanded(str(given["runner"]), "@mpmd_mpi: runner")
    return Mpmd(tuple(programs), ranks, runner, program_of("mpmd_mpi", place))


def _whole(given: Any) -> int:
    try:
        count = int(expanded(given, "@mpmd_mpi: processes") if isinstance(given, str) else given)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise PyCOMPSsException(f"@mpmd_mpi: processes={given!r:.60} is no number of processes")
    return count
