"""Commands: what `shell` makes a task of, how its parameters become words, and what comes out.

Called directly a `ShellCommand` runs here and now; as a task it runs in an executor, or is started
as the ranks of an MPI program.
"""

from __future__ import annotations

import shlex
import string
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pilot.data.patience import is_there
from pilot.errors import CommandFailed, PilotError
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


class _ShellFormatter(string.Formatter):
    """`str.format` for shells: what is put in is quoted; ``{x:raw}`` puts it in as it is."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "raw":
            return str(value)
        if isinstance(value, (list, tuple)):
            return " ".join(shlex.quote(str(item)) for item in value)
        return shlex.quote(format(value, format_spec) if format_spec else str(value))


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
        """The words to execute.

        Raises
        ------
        PilotError
            A parameter is missing.
        """
        if not isinstance(self.command, str):
            return list(self.command)
        return ["/bin/sh", "-c", self._format(self.command, args, kwargs)]

    def path(
        self, text: str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> str | None:
        """A file name with its parameters filled in."""
        return None if text is None else self._format(text, args, kwargs, raw=True)

    def _format(
        self, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], raw: bool = False
    ) -> str:
        formatter = string.Formatter() if raw else _ShellFormatter()
        try:
            return formatter.vformat(text, args, kwargs)
        except (KeyError, IndexError) as error:
            raise PilotError(
                f"the command {text!r} needs a parameter {error}; call submit({str(error)[1:-1]}=…)"
            ) from None

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
        argv = self.argv(args, kwargs)
        done = subprocess.run(argv, cwd=self.cwd, capture_output=True, text=True, check=False)
        if done.returncode not in self.success:
            text = failure_text(argv, done.returncode, done.stdout + done.stderr)
            raise CommandFailed(text, done.returncode)
        return CommandResult(
            argv[-1] if isinstance(self.command, str) else shlex.join(argv),
            done.returncode,
            done.stdout + done.stderr,
            self.collect_outputs(kwargs),
        )


def failure_text(argv: Sequence[str], returncode: int, output: str) -> str:
    """What to say of a command that failed."""
    command = argv[-1] if argv[:2] == ["/bin/sh", "-c"] else shlex.join(argv)
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

    ``submit(tpr=…, out=…)`` fills the parameters in, quoted for the shell; ``{x:raw}`` is not
    quoted. With ``ranks=`` the command is started as an MPI program by the site's launcher.

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
    """
    if not command:
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
    return Task(cast("Callable[..., CommandResult]", function), COMMAND, options)
