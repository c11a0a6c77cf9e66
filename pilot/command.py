"""Commands: what `shell` makes a task of, how its parameters become words, and what comes out.

Called directly a `ShellCommand` runs here and now; as a task it runs in an executor, or is started
as the ranks of an MPI program.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pilot.command_text import command_text
from pilot.data.patience import is_there
from pilot.errors import CommandFailed
from pilot.task import COMMAND, OptionError, Task


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. In another command's text it stands for its (only) output file."""

    command: str
    returncode: int
    #: What it wrote to stdout and stderr, up to 64 KiB from the end.
    stdout: str = ""
    #: The files that it was to make, by the name of their parameter.
    outputs: dict[str, Path] = field(default_factory=dict)
    #: What was in them: with ``cache=True`` hexadecimal digests, otherwise their sizes and times.
    digests: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if len(self.outputs) == 1:
            return str(next(iter(self.outputs.values())))
        return self.stdout.strip()

    def __getitem__(self, name: str) -> Path:
        return self.outputs[name]


@dataclass(frozen=True)
class ShellCommand:
    """A command line with parameters. Called, it runs the command here and now."""

    #: With ``{name}`` for parameters; or the words of a command that needs no shell.
    command: str | tuple[str, ...]
    #: Parameters that name files which must be there before, and after.
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    cwd: str | None = None
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    #: Exit statuses that mean success.
    success: tuple[int, ...] = (0,)

    @property
    def __name__(self) -> str:
        words = self.command.split() if isinstance(self.command, str) else self.command
        return Path(words[0]).name if words else "command"

    def argv(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        """Return the words to execute: of a text those of a shell, with the values beside it.

        Raises
        ------
        CommandError
            A parameter is missing, or its value cannot stand where it is to.
        """
        if not isinstance(self.command, str):
            return list(self.command)
        return command_text(self.command).argv(args, kwargs)

    def check(self) -> None:
        """See that its texts mean something, and that values can stand where they have them.

        Raises
        ------
        CommandError
            It is not so.
        """
        if isinstance(self.command, str):
            command_text(self.command).check()
        for text in (self.stdin, self.stdout, self.stderr):
            if text is not None:
                command_text(text)

    def check_values(self, kwargs: Mapping[str, Any]) -> None:
        """See that these parameters are all that its text needs, and can stand where it has them.

        Raises
        ------
        CommandError
            One is missing, or cannot.
        """
        if isinstance(self.command, str):
            command_text(self.command).check_values((), kwargs)

    def line(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the command as one would type it.

        Raises
        ------
        CommandError
            A parameter is missing, or its value cannot stand where it is to.
        """
        if not isinstance(self.command, str):
            return shlex.join(self.command)
        return command_text(self.command).line(args, kwargs)

    def path(
        self, text: str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> str | None:
        """Return a file name with its parameters filled in.

        Raises
        ------
        CommandError
            A parameter is missing.
        """
        return None if text is None else command_text(text).plain(args, kwargs)

    def check_inputs(self, kwargs: Mapping[str, Any]) -> None:
        """See that the input files are there.

        Raises
        ------
        FileNotFoundError
            One is not.
        """
        for name in self.inputs:
            path = Path(self.cwd or ".") / str(kwargs[name])
            if not is_there(path):
                raise FileNotFoundError(
                    f"input file {name}={path} of {self.__name__!r} is not there"
                )

    def collect_outputs(self, kwargs: Mapping[str, Any]) -> dict[str, Path]:
        """The output files, as absolute paths.

        Raises
        ------
        FileNotFoundError
            The command did not make one.
        """
        made = {}
        for name in self.outputs:
            path = (Path(self.cwd or ".") / str(kwargs[name])).absolute()
            if not is_there(path):
                raise FileNotFoundError(f"{self.__name__!r} did not make its output {name}={path}")
            made[name] = path
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> CommandResult:
        self.check_inputs(kwargs)
        argv, line = self.argv(args, kwargs), self.line(args, kwargs)
        done = subprocess.run(argv, cwd=self.cwd, capture_output=True, text=True, check=False)
        if done.returncode not in self.success:
            text = failure_text(line, done.returncode, done.stdout + done.stderr)
            raise CommandFailed(text, done.returncode)
        return CommandResult(
            line,
            done.returncode,
            done.stdout + done.stderr,
            self.collect_outputs(kwargs),
        )


def failure_text(command: str, returncode: int, output: str) -> str:
    """What to say of a command that failed."""
    if returncode == 127:
        why = "command not found (exit status 127); is it on the PATH of the compute nodes?"
    elif returncode < 0:
        why = f"killed by signal {-returncode}"
    else:
        why = f"exit status {returncode}"
    tail = "\n".join(output.strip().splitlines()[-10:])
    return f"{command}: {why}" + (f"\n{tail}" if tail else "")


def shell(
    command: str | Sequence[str],
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    cwd: str | Path | None = None,
    stdin: str | None = None,
    stdout: str | None = None,
    stderr: str | None = None,
    env: Mapping[str, str] | None = None,
    success: Sequence[int] = (0,),
    **options: Any,
) -> Task[..., CommandResult]:
    """Make a command a task: ``shell("gmx mdrun -s {tpr} -o {out}", outputs=["out"])``.

    ``submit(tpr=…, out=…)`` fills the parameters in: whatever they hold, each is one word there;
    ``{x:raw}`` is shell text. With ``ranks=`` the command is started as an MPI program by the
    site's launcher.

    Parameters
    ----------
    command
        A text for ``/bin/sh``, or the words of a command that needs no shell.
    inputs, outputs
        Parameters that name files: those must be there before, these after the command.
    cwd, stdin, stdout, stderr
        Working directory and files; output that goes to no file is kept in the task's log.
    env
        Additions to the environment.
    success
        Exit statuses that mean success.
    **options
        See `Options`.

    Raises
    ------
    OptionError
        There is no such option, or a value has no meaning.
    CommandError
        The text has a parameter where no value can stand, such as in single quotes.
    """
    if not command or (isinstance(command, str) and not command.strip()):
        raise OptionError("the command is empty")
    function = ShellCommand(
        command if isinstance(command, str) else tuple(str(word) for word in command),
        tuple(inputs),
        tuple(outputs),
        None if cwd is None else str(cwd),
        stdin,
        stdout,
        stderr,
        dict(env or {}),
        tuple(success),
    )
    function.check()
    return Task(cast("Callable[..., CommandResult]", function), COMMAND, options)
