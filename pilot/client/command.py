"""Commands: what `shell` makes a task of, how its parameters become words, and its results.

Called directly a `ShellCommand` runs in this process; as a task it runs in an executor, or is
started as the ranks of an MPI program.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from pilot.client.job_script import JobScript
from pilot.client.task import COMMAND, OptionError, Task
from pilot.data.patience import is_there
from pilot.errors import CommandError, CommandFailed, PilotError
from pilot.pickled import pickled_name, public

if TYPE_CHECKING:
    from pilot.client.command_text import CommandText
    from pilot.client.staging import Scratch

#: The bytes of a command's output, from the end, that are part of its result.
OUTPUT_BYTES = 64 * 1024
#: In place of the exit status of a command that has none: its time was over, its node was lost, or
#: it has never run.
NO_STATUS = -1

#: The exit status of a program that has stopped, unfinished, and is to be run again
#: (``EX_TEMPFAIL`` of sysexits.h).
UNFINISHED = 75
#: The exit statuses of shells for a command that is not found, or cannot be started.
_NOT_FOUND, _NOT_STARTED = 127, 126


@public
class CommandResult(Struct, frozen=True):
    """The result of a command. In another command's text it stands for its (only) output file."""

    command: str
    #: The exit status; negative: the signal that ended it; `NO_STATUS` of a command that has none
    #: and whose failure is ignored.
    returncode: int
    #: The output to stdout and stderr, up to 64 KiB from the end.
    stdout: str = ""
    #: The output files, by the name of their parameter.
    outputs: dict[str, Path] = {}
    #: The digests of the files: hexadecimal with ``cache=True``, otherwise sizes and times.
    digests: dict[str, str] = {}

    def __str__(self) -> str:
        if len(self.outputs) == 1:
            return str(next(iter(self.outputs.values())))
        return self.stdout.strip()

    def __getitem__(self, name: str) -> Path:
        return self.outputs[name]


@pickled_name
class ShellCommand(Struct, frozen=True):
    """A command line with parameters. Calling it runs the command in this process."""

    #: With ``{name}`` for parameters; or the words of a command that needs no shell.
    command: str | tuple[str, ...]
    #: Parameters that name files which must be there before, and after.
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    cwd: str | None = None
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    env: dict[str, str] = {}
    #: Exit statuses that mean success.
    success: tuple[int, ...] = (0,)
    #: Parameters that are filled in where the words have them in braces, and a variable that the
    #: command gets each of them in. All other braces stay as they are.
    filled: tuple[tuple[str, str], ...] = ()
    #: The signal that tells it to stop soon; 0: it is not told.
    stop_signal: int = 0
    #: True if each rank has files of its own in place of `stdout` and `stderr`, with its number
    #: behind a dot at the end of their names.
    output_per_rank: bool = False
    #: The job script that it is: the words of the command are its name and its arguments.
    script: JobScript | None = None
    #: In place of a working directory that is there: an empty one for each try, to which inputs are
    #: brought as a ``copy`` or a ``link``, and from which outputs are taken; empty: none.
    scratch: str = ""
    #: Shell text that is run before it, in the same shell, and after it, however it has ended.
    prolog: str = ""
    epilog: str = ""

    @property
    def unfinished(self) -> tuple[int, ...]:
        """The exit statuses that mean, of a command that was told to stop, that it has not
        finished."""
        return UNFINISHED, -self.stop_signal, 128 + self.stop_signal

    @property
    def __name__(self) -> str:
        words = self.command.split() if isinstance(self.command, str) else self.command
        return Path(words[0]).name if words else "command"

    def argv(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        """Return the words to execute; for a text those of a shell, with the values as arguments.

        Raises
        ------
        CommandError
            A parameter is missing, or its value is not allowed in its place.
        """
        if not isinstance(self.command, str):
            return self._filled_words(kwargs)
        return _text_of(self.command).argv(args, kwargs)

    def _filled_words(self, kwargs: Mapping[str, Any]) -> list[str]:
        if not self.filled or self.script is not None:
            return list(self.command)
        found = {f"{{{name}}}": str(kwargs[name]) for name, _ in self.filled}
        pattern = re.compile("|".join(map(re.escape, found)))
        return [pattern.sub(lambda place: found[place[0]], word) for word in self.command]

    def variables(self, kwargs: Mapping[str, Any]) -> dict[str, str]:
        """Return the additions to the environment."""
        return {**self.env, **{variable: str(kwargs[name]) for name, variable in self.filled}}

    def check(self) -> None:
        """Check that the texts are valid, and that values are allowed in the places of parameters.

        Raises
        ------
        CommandError
            A text is not valid, or a parameter is in a place where no value is allowed.
        """
        if isinstance(self.command, str):
            _text_of(self.command).check()
        for text in (self.stdin, self.stdout, self.stderr):
            if text is not None:
                _text_of(text)
        for what, texts in (("cwd", [self.cwd or ""]), ("env", [*self.env, *self.env.values()])):
            if any("\0" in text for text in texts):
                raise CommandError(f"{what} has a NUL character", str(self.command))
        for what, text in (("prolog", self.prolog), ("epilog", self.epilog)):
            if "\0" in text:
                raise CommandError(f"{what} has a NUL character", str(self.command))
        for name in self.env:
            if not name or "=" in name:
                raise CommandError(f"env has {name!r}, which is no name", str(self.command))

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters that each call must give."""
        return _parameters(self)

    def check_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check that a call gives all parameters.

        Raises
        ------
        CommandError
            A parameter is missing.
        """
        missing = self.parameters - kwargs.keys()
        missing -= {str(number) for number in range(len(args))}
        if missing:
            raise self._missing(min(missing), kwargs)

    def _missing(self, name: str, kwargs: Mapping[str, Any]) -> CommandError:
        import difflib

        close = difflib.get_close_matches(name, kwargs, n=1)
        return CommandError(
            f"it needs a parameter {name!r}; "
            + (f"is it what you call {close[0]!r}?" if close else f"call submit({name}=…)"),
            self.command if isinstance(self.command, str) else shlex.join(self.command),
        )

    def check_values(self, kwargs: Mapping[str, Any]) -> None:
        """Check that the values suffice for the text, and are allowed in their places.

        Raises
        ------
        CommandError
            A value is missing, or is not allowed in its place.
        """
        if isinstance(self.command, str):
            _text_of(self.command).check_values((), kwargs)

    def line(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the command as one would type it.

        Raises
        ------
        CommandError
            A parameter is missing, or its value is not allowed in its place.
        """
        if not isinstance(self.command, str):
            return shlex.join(self._filled_words(kwargs))
        return _text_of(self.command).line(args, kwargs)

    def path(
        self, text: str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> str | None:
        """Return a file name with its parameters filled in.

        Raises
        ------
        CommandError
            A parameter is missing.
        """
        return None if text is None else _text_of(text).plain(args, kwargs)

    def check_inputs(self, kwargs: Mapping[str, Any]) -> None:
        """Check that the input files exist.

        Raises
        ------
        CommandError
            A parameter's value does not name a file.
        FileNotFoundError
            An input file does not exist.
        """
        for name in self.inputs:
            path = self._file(name, kwargs)
            if not is_there(path):
                raise FileNotFoundError(
                    f"input file {name}={path} of {self.__name__!r} is not there"
                )

    def named_outputs(self, kwargs: Mapping[str, Any]) -> dict[str, Path]:
        """Return the output files, as absolute paths, whether they are there or not.

        Raises
        ------
        CommandError
            A parameter's value does not name a file.
        """
        return {name: self._file(name, kwargs).absolute() for name in self.outputs}

    def collect_outputs(self, kwargs: Mapping[str, Any]) -> dict[str, Path]:
        """Return the output files, as absolute paths.

        Raises
        ------
        CommandError
            A parameter's value does not name a file.
        FileNotFoundError
            The command did not make an output file.
        """
        named = self.named_outputs(kwargs)
        for name, path in named.items():
            if not is_there(path):
                raise FileNotFoundError(f"{self.__name__!r} did not make its output {name}={path}")
        return named

    def with_prolog(
        self, argv: list[str], env: Mapping[str, str]
    ) -> tuple[list[str], Mapping[str, str]]:
        """Return words and environment with the prolog and epilog around them, if there are any."""
        if not (self.prolog or self.epilog):
            return argv, env
        from pilot.client.staging import around

        return around(argv, env, self.prolog, self.epilog)

    def scratch_in(self, directory: Path, kwargs: Mapping[str, Any]) -> Scratch:
        """Return an empty directory with the inputs, for one try of the command.

        Raises
        ------
        CommandError
            Two of its files have the same name, or a value does not name a file.
        OSError
            An input cannot be copied.
        """
        from pilot.client.staging import Scratch

        inputs, outputs = (
            {name: self._file(name, kwargs).absolute() for name in names}
            for names in (self.inputs, self.outputs)
        )
        return Scratch(directory, inputs, outputs, self.scratch)

    def _file(self, name: str, kwargs: Mapping[str, Any]) -> Path:
        if name not in kwargs:
            raise self._missing(name, kwargs)
        value = kwargs[name]
        if isinstance(value, (list, tuple, dict)) or "\0" in str(value):
            raise CommandError(f"{name}={value!r} is to name one file", self.__name__)
        return Path(self.cwd or ".") / str(value)

    def __call__(self, *args: Any, **kwargs: Any) -> CommandResult:
        """Run the command in this process, as a task does.

        Raises
        ------
        CommandFailed
            The command ended with an exit status that means failure, or cannot be started.
        PilotError
            The standard input or the working directory does not exist.
        """
        import subprocess  # what most processes of a pilot do not need
        import tempfile

        self.check_call(args, kwargs)
        self.check_inputs(kwargs)
        home = Path(self.cwd or ".")
        stdin, stdout, stderr = (
            None if text is None else home / str(self.path(text, args, kwargs))
            for text in (self.stdin, self.stdout, self.stderr)
        )
        if self.output_per_rank:
            stdout, stderr = (
                path and path.with_name(f"{path.name}.0") for path in (stdout, stderr)
            )
        with contextlib.ExitStack() as files:
            cwd, shown, scratch = self.cwd, kwargs, None
            if self.scratch:
                cwd = files.enter_context(tempfile.TemporaryDirectory(prefix="pilot-scratch-"))
                scratch = self.scratch_in(Path(cwd), kwargs)
                shown = {**kwargs, **scratch.names}
            argv, line = self.argv(args, shown), self.line(args, shown)
            env: Mapping[str, str] = {**os.environ, **self.variables(kwargs)}
            argv, env = self.with_prolog(argv, env)
            kept = files.enter_context(tempfile.TemporaryFile())
            try:
                reads = files.enter_context(open(stdin or os.devnull, "rb"))
            except FileNotFoundError as error:
                raise cannot_start(argv, error, str(stdin)) from error
            out = files.enter_context(stdout.open("wb")) if stdout else kept
            err = files.enter_context(stderr.open("wb")) if stderr and stderr != stdout else kept
            try:
                status = subprocess.run(
                    argv,
                    cwd=cwd,
                    env=env,
                    stdin=reads,
                    stdout=out,
                    stderr=out if stderr == stdout else err,
                    check=False,
                ).returncode
            except OSError as error:
                if self.cwd and not Path(self.cwd).is_dir():
                    raise no_directory(self.cwd, error) from error
                raise cannot_start(argv, error) from error
            kept.seek(max(0, kept.seek(0, os.SEEK_END) - OUTPUT_BYTES))
            output = kept.read().decode(errors="replace")
            if status not in self.success:
                raise CommandFailed(failure_text(line, status, output), status)
            if scratch is not None:
                scratch.take_back()
        return CommandResult(line, status, output, self.collect_outputs(kwargs))


def _text_of(text: str) -> CommandText:
    # Late: it takes as long to import as all the rest of a task, and few processes have commands.
    from pilot.client.command_text import command_text

    return command_text(text)


@functools.lru_cache(maxsize=512)
def _parameters_of(command: str | tuple[str, ...], *more: str | None) -> frozenset[str]:
    texts = [command, *more] if isinstance(command, str) else [*more]
    return frozenset(
        name for text in texts if text is not None for name in _text_of(text).parameters()
    )


def _parameters(command: ShellCommand) -> frozenset[str]:
    texts = _parameters_of(command.command, command.stdin, command.stdout, command.stderr)
    return texts.union(command.inputs, command.outputs, (name for name, _ in command.filled))


def cannot_start(argv: Sequence[str], error: OSError, stdin: str | None = None) -> PilotError:
    """Return the error for a command that cannot be started, with a shell's exit status."""
    if isinstance(error, FileNotFoundError):
        if stdin and not Path(stdin).exists():
            return PilotError(f"{stdin}, which is to be its standard input, is not there")
        return CommandFailed(
            f"command not found: {argv[0]}; is it on the PATH of the compute nodes?", _NOT_FOUND
        )
    if error.errno == errno.E2BIG:
        size = sum(len(os.fsencode(word)) + 1 for word in argv)
        return CommandFailed(
            f"{argv[0]} cannot be started: its words ({size} bytes) and its environment are "
            "together longer than the system takes (getconf ARG_MAX); write what is long to a "
            "file, and name the file",
            _NOT_STARTED,
        )
    return CommandFailed(f"{argv[0]} cannot be started: {error.strerror}", _NOT_STARTED)


def no_directory(path: str, error: OSError) -> PilotError:
    """Return the error for a command whose working directory cannot be entered."""
    return PilotError(f"its working directory {path} cannot be entered: {error.strerror}")


def status_text(returncode: int) -> str:
    """Return an exit status in words."""
    return f"exit status {returncode}" if returncode >= 0 else f"killed by signal {-returncode}"


def failure_text(command: str, returncode: int, output: str) -> str:
    """Return the message for a command that failed."""
    why = status_text(returncode)
    if returncode == _NOT_FOUND:
        why = "command not found (exit status 127); is it on the PATH of the compute nodes?"
    tail = "\n".join(output.strip().splitlines()[-10:])
    return f"{command}: {why}" + (f"\n{tail}" if tail else "")


@public
def shell(
    command: str | Sequence[str],
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    cwd: str | Path | None = None,
    stdin: str | Path | None = None,
    stdout: str | Path | None = None,
    stderr: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    success: Sequence[int] = (0,),
    stop_signal: str | int | None = None,
    output_per_rank: bool = False,
    scratch: str | None = None,
    prolog: str = "",
    epilog: str = "",
    **options: Any,
) -> Task[..., CommandResult]:
    """Make a command a task: ``shell("gmx mdrun -s {tpr} -o {out}", outputs=["out"])``.

    ``submit(tpr=…, out=…)`` fills in the parameters; each is one word, whatever it contains;
    ``{x:raw}`` is shell text. With ``ranks=`` the command is started as an MPI program by the
    site's launcher.

    Parameters
    ----------
    command
        A text for ``/bin/sh``, or the words of a command that needs no shell.
    inputs, outputs
        Parameters that name files; inputs must exist before the command runs, outputs after it.
    cwd, stdin, stdout, stderr
        Working directory and files; output that goes to no file is kept in the task's log.
    env
        Additions to the environment.
    success
        Exit statuses that mean success.
    stop_signal
        The signal (``"SIGTERM"``) that the command gets when its pilot ends soon; None: none. If it
        then ends by that signal, or with exit status 75, it is run again elsewhere.
    output_per_rank
        With ``ranks=``: each rank has its own `stdout` and `stderr`, the number of the rank behind
        a dot at the end of their names.
    scratch
        ``"copy"`` or ``"link"``: it runs in an empty directory of its own on the node, to which its
        inputs are brought so; its outputs are taken from there when it has ended well. None: in
        `cwd`.
    prolog, epilog
        Shell text that is run before it in the same shell, which its failure ends; and after it,
        however it has ended, with its status in ``$PILOT_STATUS``.
    **options
        See `Options`.

    Raises
    ------
    OptionError
        There is no such option, or a value has no meaning.
    CommandError
        The text has a parameter where no value can stand, such as in single quotes.
    """
    function = ShellCommand(
        _words(command),
        _names("inputs", inputs),
        _names("outputs", outputs),
        _path("cwd", cwd),
        _path("stdin", stdin),
        _path("stdout", stdout),
        _path("stderr", stderr),
        _environment(env),
        _statuses(success),
        stop_signal=signal_number(stop_signal),
        output_per_rank=_output_per_rank(output_per_rank, stdout, stderr),
        scratch=scratch_option(scratch),
        prolog=_shell_text("prolog", prolog),
        epilog=_shell_text("epilog", epilog),
    )
    function.check()
    return Task(cast("Callable[..., CommandResult]", function), COMMAND, options)


def scratch_option(given: object) -> str:
    """Return how inputs get to a directory of the command's own; empty: it has none.

    Raises
    ------
    OptionError
        There is no such way.
    """
    if given is None:
        return ""
    if given not in ("copy", "link"):
        raise OptionError(f'scratch={given!r}: give "copy" or "link", or None to run in place')
    return str(given)


def _shell_text(option: str, text: object) -> str:
    if not isinstance(text, str):
        raise OptionError(f"{option}={text!r}: give a text for the shell")
    return text


def _words(command: object) -> str | tuple[str, ...]:
    if isinstance(command, str):
        if not command.strip():
            raise OptionError("the command is empty")
        return command
    if not isinstance(command, Sequence) or isinstance(command, (bytes, bytearray)):
        raise OptionError(f"the command {command!r}: give a text, or a list of words")
    if not command:
        raise OptionError("the command is empty")
    for word in command:
        if not isinstance(word, (str, os.PathLike, int, float)) or "\0" in str(word):
            raise OptionError(f"the command has {word!r}: give texts without NUL characters")
    return tuple(str(word) for word in command)


def _names(option: str, names: object) -> tuple[str, ...]:
    found = tuple(names) if isinstance(names, Iterable) else (None,)
    if isinstance(names, str) or not all(isinstance(name, str) for name in found):
        raise OptionError(f"{option}={names!r}: give a list of names of parameters")
    return cast("tuple[str, ...]", found)


def _path(option: str, path: object) -> str | None:
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise OptionError(f"{option}={path!r}: give the name of a file or directory, as a text")
    return str(path)


def _environment(env: object) -> dict[str, str]:
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise OptionError(f"env={env!r}: give a dict of texts")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise OptionError(
                f'env has {name!r}: {value!r}; give texts, such as "{name}": "{value}"'
            )
    return dict(env)


def _statuses(success: object) -> tuple[int, ...]:
    found = tuple(success) if isinstance(success, Iterable) else (None,)
    if not all(type(status) is int and -64 <= status <= 255 for status in found):
        raise OptionError(f"success={success!r}: give a list of exit statuses, such as [0, 2]")
    return cast("tuple[int, ...]", found)


def _output_per_rank(given: object, stdout: object, stderr: object) -> bool:
    if not isinstance(given, bool):
        raise OptionError(f"output_per_rank={given!r}: give True or False")
    if given and stdout is None and stderr is None:
        raise OptionError(
            "output_per_rank=True: give stdout=, stderr= or both, the names of the files that each "
            "rank's number is appended to"
        )
    return given


def signal_number(given: object) -> int:
    """Return the number of a signal that a program may get in time; 0 for None.

    Raises
    ------
    OptionError
        There is no such signal, or no program can handle it.
    """
    if given is None:
        return 0
    found: object = None
    if isinstance(given, str):
        name = given.strip().upper()
        found = getattr(signal.Signals, name if name.startswith("SIG") else f"SIG{name}", None)
    elif isinstance(given, int) and not isinstance(given, bool) and given in signal.valid_signals():
        found = given
    if not isinstance(found, int) or found in (signal.SIGKILL, signal.SIGSTOP):
        raise OptionError(
            f"stop_signal={given!r}: give the name of a signal that a program can handle, as "
            '"SIGTERM" or "SIGUSR1"'
        )
    return int(found)
