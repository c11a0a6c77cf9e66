"""One run of a command: in its directory, by a shell or without, in a container, or as MPI ranks.

Invariants
----------
- The directory of this process is afterwards as it was.
- A scratch directory is gone afterwards, whatever happens.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pilot.client.command import CommandResult, ShellCommand, no_directory, status_text
from pilot.client.context import Context
from pilot.client.stopping import Stopping
from pilot.data.patience import is_there, when_there
from pilot.errors import CommandError, PilotError, Stopped
from pilot.launchers import ON_ONE_NODE
from pilot.launchers.activation import activated
from pilot.launchers.containers import INDIRECT
from pilot.model.software import Container, Software
from pilot.site import Site
from pilot.variables import CORES, task_variables
from pilot.wire.endpoints import temporary_dir
from pilot.wire.messages.worker import LaunchPlan
from pilot.worker.entering import contained, user_name
from pilot.worker.mpi_program import as_ranks
from pilot.worker.node_cache import NodeCache
from pilot.worker.program import Program
from pilot.worker.shell_words import plain_words

if TYPE_CHECKING:
    from pilot.client.staging import Scratch


class Here(NamedTuple):
    """The process in which commands run, as they find it."""

    site: Site
    cache: NodeCache
    #: The words by which tasks here are told to stop.
    stopping: Stopping
    #: The environment of commands.
    environ: Mapping[str, str]
    #: The variables and the working directory of the session.
    variables: Mapping[str, str]
    working_dir: str
    #: The nodes of the task, and its cores on each, by their places; empty where it is one node.
    nodes: tuple[str, ...]
    cores: tuple[tuple[int, ...], ...]


class CommandRun:
    """One run of a command.

    Parameters
    ----------
    command
        The command.
    args, kwargs
        Its arguments.
    plan
        How an MPI program is started; None for all else.
    context
        The context of its task.
    software
        The environment or container that it runs in; None: that of this process.
    here
        The process in which it runs.
    """

    def __init__(
        self,
        command: ShellCommand,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        plan: LaunchPlan | None,
        context: Context,
        software: Software | None,
        here: Here,
    ) -> None:
        self._command = command
        self._args = args
        self._kwargs = kwargs
        self._plan = plan
        self._context = context
        self._software = software
        self._here = here
        #: The peak of the memory of its program, in KiB.
        self.peak_kib = 0

    def run(self) -> CommandResult:
        """Run the command; return how it ended.

        Raises
        ------
        CommandError
            It cannot be run as it was asked for, or its files are not there.
        """
        command, kwargs = self._command, self._kwargs
        command.check_inputs(kwargs)
        scratch, shown = None, kwargs
        if command.scratch:
            scratch = self._make_scratch()
            shown = {**kwargs, **scratch.names}
        try:
            result = self._run_there(shown, scratch)
            if scratch is not None and result.returncode in command.success:
                scratch.take_back()
        finally:
            if scratch is not None:
                shutil.rmtree(scratch.directory, ignore_errors=True)
        if result.returncode in command.success:
            outputs = command.collect_outputs(kwargs)
            return msgspec.structs.replace(result, outputs=outputs)
        return msgspec.structs.replace(result, outputs=command.named_outputs(kwargs))

    def _make_scratch(self) -> Scratch:
        """Make the directory in which a command runs, with its inputs."""
        from pilot.worker.own_directory import make_own_directory  # few tasks have one

        if self._plan is not None:
            raise CommandError(
                "scratch is a directory on one node, which the ranks of an MPI program do not "
                "share; have it run in cwd",
                self._command.__name__,
            )
        directory = make_own_directory("scratch", self._here.cache, self._here.site)
        try:
            return self._command.scratch_in(directory, self._kwargs)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _run_there(self, shown: dict[str, Any], scratch: Scratch | None) -> CommandResult:
        """Run it in its directory, where its files are called as `shown` says."""
        command, args, kwargs, plan = self._command, self._args, self._kwargs, self._plan
        context, software, here = self._context, self._software, self._here
        line = command.line(args, shown)
        container = None if software is None else software.container
        launched: list[str] | None = []
        if command.script is None:
            is_plain = plan is None and container is None
            launched = _without_shell(command, line) if is_plain else None
        if launched is None:
            launched = command.argv(args, shown)
        told = task_variables(context.task_id, context.attempt)
        added = command.variables(kwargs)
        env: Mapping[str, str] = {**here.environ, **told, **added}
        if plan is None and command.script is None and len(here.nodes) == 1:
            env = {**ON_ONE_NODE, **env}
        home = None
        if command.cwd:
            home = Path.cwd()
            try:
                when_there(Path(command.cwd), partial(os.chdir, command.cwd))
            except OSError as error:
                raise no_directory(command.cwd, error) from error
        try:
            if container is not None and command.script is not None:
                raise PilotError(
                    "a job script does not run in a container, but what it starts may: call the "
                    "engine in the script"
                )
            stdin = command.path(command.stdin, args, kwargs)
            if stdin:
                is_there(Path(stdin))  # soon; the start of the command says what is wrong
            program = Program()
            if command.script is not None:
                from pilot.worker.script_run import run_script  # few tasks are

                where = (here.nodes, here.cores)
                status = run_script(
                    command,
                    kwargs,
                    context,
                    here.site,
                    here.cache,
                    where,
                    env,
                    program,
                    here.stopping,
                )
            else:
                if command.stop_signal:
                    program.is_signalled = True
                    to_all = plan is None and isinstance(command.command, str)
                    context.on_stop(partial(program.send, command.stop_signal, to_all))
                stdout, stderr = (
                    command.path(text, args, kwargs) for text in (command.stdout, command.stderr)
                )
                if scratch is not None:
                    stdin, stdout, stderr = (
                        None if path is None else str(Path(path).absolute())
                        for path in (stdin, stdout, stderr)
                    )
                    home = home or Path.cwd()
                    os.chdir(scratch.directory)
                if container is not None:
                    launched = [*self._contained(container, command.argv(args, shown), env)]
                    program.is_indirect = launched[0] in INDIRECT
                    env = {"USER": user_name(), **env}
                if plan is not None:
                    if software is not None:
                        # On other nodes, too, of which the launcher may know nothing of this one's.
                        launched = [*activated(launched or (), *software.places)]
                    own = (stdout or "", stderr or "") if command.output_per_rank else ("", "")
                    told[CORES] = str(context.resources.cores)
                    for_all = {**here.variables, **told, **added}
                    launched, env = as_ranks(plan, launched, env, for_all, *own)
                if command.output_per_rank:
                    stdout, stderr = (
                        f"{text}.0" if text and plan is None else None for text in (stdout, stderr)
                    )
                launched, env = command.with_prolog(launched, env)
                program.start(launched, env, stdin, stdout, stderr)
                status = program.wait(here.stopping, lambda: context.should_stop)
            self.peak_kib = program.peak_kib
        finally:
            if home is not None:
                os.chdir(home)
        if (
            command.stop_signal
            and status not in command.success
            and status in command.unfinished
            and context.should_stop
        ):
            raise Stopped(f"it has stopped, with {status_text(status)}: {context.stop_reason}")
        return CommandResult(line, status, "")

    def _contained(
        self, container: Container, words: list[str], env: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Return the words that run a command in a container, in the present directory."""
        cwd = str(Path.cwd())
        binds = [cwd, self._here.working_dir, str(temporary_dir())]
        try:
            return contained(container, words, cwd, binds, env, self._plan is not None)
        except ValueError as error:
            raise PilotError(str(error)) from None


def _without_shell(command: ShellCommand, line: str) -> list[str] | None:
    """Return the words of a line whose program can start without a shell; None for other
    commands."""
    if not isinstance(command.command, str) or "PATH" in command.env:
        return None
    words = plain_words(line)
    # A program that is not there is the shell's to tell of, in its words and with its status.
    if words is None or words[0].startswith(".") or not shutil.which(words[0]):
        return None
    return words
