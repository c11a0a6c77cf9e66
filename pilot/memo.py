"""What a task comes of: digests by which its results are found again in a later run.

Only tasks with ``cache=True`` are looked at. What their results depend on is followed from the
function: its source, the values that it closes over, and whatever of the user's it names, further
and further. What is installed (the standard library, packages) counts by name and version.

Invariants
----------
- Comments, docstrings, layout, and the options that only say how a task is run change nothing.
- In doubt the digest is another one: then a task runs that need not have run.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from pilot.data.values import encode
from pilot.errors import PilotError, SubmissionError
from pilot.task import CommandResult, ShellCommand, Task
from pilot.wire.messages import FileStamp

_SIZE = 16
#: Pilot's own packages, which need not be installed where others are.
_OWN = frozenset({"pilot", "scheduler", "launchers", "site_configs"})
_INSTALLED = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_CHUNK_BYTES = 1 << 20


def source_digest(task: Task[..., Any], ranks: int) -> bytes:
    """The digest of all that a task's results come of, but for its arguments.

    Parameters
    ----------
    task
        The task.
    ranks
        The number of MPI ranks.

    Raises
    ------
    SubmissionError
        Something that the function uses has no digest.
    """
    digest = _Digest(task.__name__)
    digest.add(task.function)
    digest.note(task.kind, task.task_options.return_count, task.task_options.return_names, ranks)
    return digest.result()


def call_digest(function: object, kwargs: Mapping[str, Any], payload: bytes) -> bytes:
    """The digest of a call's arguments, and of the input files of a command.

    Parameters
    ----------
    function
        The function, or a command: then the contents of its input files count, of those that are
        there already. Others are made by tasks whose results the call gets.
    kwargs
        The arguments that have names.
    payload
        All arguments, encoded.
    """
    digest = hashlib.blake2b(payload, digest_size=_SIZE)
    for path in _input_files(function, kwargs):
        digest.update(file_digest(path) if path.is_file() else b"-")
    return digest.digest()


def _input_files(function: object, kwargs: Mapping[str, Any]) -> list[Path]:
    if not isinstance(function, ShellCommand):
        return []
    given = (kwargs.get(name) for name in function.inputs)
    names = [name for name in given if isinstance(name, (str, os.PathLike))]
    if function.stdin and "{" not in function.stdin:
        names.append(function.stdin)
    return [Path(function.cwd or ".", name) for name in names]


def with_digests(result: CommandResult) -> CommandResult:
    """What a command gave, with the digests of its output files: who gets it depends on them."""
    digests = {name: file_digest(path).hex() for name, path in result.outputs.items()}
    return dataclasses.replace(result, digests=digests)


def stamps(result: object) -> tuple[FileStamp, ...]:
    """The output files of a command as they are now."""
    if not isinstance(result, CommandResult):
        return ()
    found = ((path, path.stat()) for path in result.outputs.values())
    return tuple(FileStamp(str(path), s.st_size, s.st_mtime_ns) for path, s in found)


def unchanged(files: Iterable[FileStamp]) -> bool:
    """Whether these files are there as they were."""
    for stamp in files:
        try:
            status = Path(stamp.path).stat()
        except OSError:
            return False
        if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
            return False
    return True


def file_digest(path: Path) -> bytes:
    """The digest of a file's contents; read once while its size and time stay the same."""
    status = path.stat()
    return _file_digest(str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _file_digest(path: str, *_identity: int) -> bytes:
    digest = hashlib.blake2b(digest_size=_SIZE)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()


class _Digest:
    """A digest of things of the user's, and of the things that these name."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._hash = hashlib.blake2b(digest_size=_SIZE)
        #: What was met already, in order: it may name itself. Kept, so that no id is used again.
        self._met: dict[int, tuple[int, object]] = {}

    def result(self) -> bytes:
        return self._hash.digest()

    def note(self, *facts: object) -> None:
        """Add what is written the same in every run."""
        text = repr(facts).encode()
        self._hash.update(b"%d:" % len(text))
        self._hash.update(text)

    def add(self, thing: object) -> None:
        """Add a thing, and what it names."""
        if isinstance(thing, Task):
            self.add(thing.function)
        elif isinstance(thing, (FunctionType, type, ModuleType, MethodType, functools.partial)):
            if id(thing) in self._met:
                self.note("again", self._met[id(thing)][0])
                return
            self._met[id(thing)] = (len(self._met), thing)
            self._add_code(thing)
        elif isinstance(thing, BuiltinFunctionType):
            self.note("builtin", thing.__module__, thing.__qualname__)
        elif isinstance(thing, ShellCommand):
            self.note("command", thing.command, thing.inputs, thing.outputs, thing.cwd)
            self.note(thing.stdin, thing.stdout, thing.stderr, sorted(thing.env.items()))
            self.note(thing.success)
        else:
            self._add_value(thing)

    def _add_code(self, thing: object) -> None:
        if isinstance(thing, MethodType):
            self.add(thing.__func__)
            self.add(thing.__self__)
        elif isinstance(thing, functools.partial):
            self.add(thing.func)
            self._add_value((thing.args, thing.keywords))
        elif _is_installed(thing):
            self._add_installed(thing)
        elif isinstance(thing, FunctionType):
            self._add_function(thing)
        elif isinstance(thing, type):
            self._add_class(thing)
        elif isinstance(thing, ModuleType):
            self._add_module(thing)

    def _add_installed(self, thing: Any) -> None:
        module = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
        version = getattr(sys.modules.get(module.partition(".")[0]), "__version__", "")
        self.note("installed", module, getattr(thing, "__qualname__", ""), str(version))

    def _add_function(self, function: FunctionType) -> None:
        self.note("function", *_source(function))
        self._add_all("default", function.__defaults__ or ())
        self._add_all("default", sorted((function.__kwdefaults__ or {}).items()))
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self.note("empty")  # it is not bound yet
        self._add_names(function.__code__, function.__globals__)

    def _add_names(self, code: CodeType, scope: Mapping[str, Any]) -> None:
        """Add what a function finds in its module."""
        for name in sorted(_names(code)):
            if name in scope:
                self.note("name", name)
                self.add(scope[name])

    def _add_class(self, kind: type) -> None:
        self.note("class", *_source(kind))
        self._add_all("base", kind.__bases__)
        for name, value in sorted(vars(kind).items()):
            inner = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            inner = inner.fget if isinstance(inner, property) else inner
            if isinstance(inner, FunctionType):
                self.note("method", name)
                self._add_names(inner.__code__, inner.__globals__)

    def _add_module(self, module: ModuleType) -> None:
        """All of it: which part is used cannot be told."""
        file = getattr(module, "__file__", None)
        self.note("module", module.__name__)
        if file and file.endswith(".py"):
            self.note(_normal(Path(file).read_text()))
        elif file:
            self._hash.update(file_digest(Path(file)))
        for name, value in sorted(vars(module).items()):
            if isinstance(value, ModuleType) and not name.startswith("__"):
                self.note("name", name)
                self.add(value)

    def _add_all(self, title: str, things: Iterable[Any]) -> None:
        for thing in things:
            self.note(title)
            self.add(thing)

    def _add_value(self, value: object) -> None:
        """Add data: by what it is pickled to, and the code of its class."""
        if isinstance(value, (set, frozenset)):
            # Their order differs from run to run.
            self.note("set", *sorted(hashlib.blake2b(encode(item)).digest() for item in value))
            return
        try:
            payload = encode(value)
        except PilotError as error:
            raise SubmissionError(
                f"task {self._task!r} has cache=True, but uses {type(value).__name__} "
                f"{_shortened(value)}, which has no digest: {error}. Pass it as an argument, or "
                "leave the cache out"
            ) from error
        self._hash.update(b"%d:" % len(payload))
        self._hash.update(payload)
        if not _is_installed(type(value)):
            self.add(type(value))


def _is_installed(thing: Any) -> bool:
    """Whether something is of the standard library, of an installed package, or of Pilot."""
    name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    top = str(name).partition(".")[0]
    if top in _OWN or top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return top != "__main__"
    file = getattr(
        thing if isinstance(thing, ModuleType) else sys.modules.get(name), "__file__", ""
    )
    return bool(file) and (file.startswith(_INSTALLED) or "-packages/" in file)


def _source(thing: Any) -> tuple[object, ...]:
    """The source of a function or class as it means, or else its compiled form."""
    is_lambda = isinstance(thing, FunctionType) and thing.__name__ == "<lambda>"
    if not is_lambda:
        try:
            return ("source", _normal(textwrap.dedent(inspect.getsource(thing))))
        except (OSError, TypeError, SyntaxError):
            pass
    if isinstance(thing, FunctionType):
        return ("compiled", sys.version_info[:2], *_compiled(thing.__code__))
    # A class without source: its methods, compiled.
    methods = [value for _, value in sorted(vars(thing).items()) if isinstance(value, FunctionType)]
    return ("compiled", thing.__qualname__, *(_compiled(method.__code__) for method in methods))


def _compiled(code: CodeType) -> tuple[object, ...]:
    constants = tuple(
        _compiled(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts
    )
    return (code.co_code, code.co_names, code.co_varnames, constants)


def _names(code: CodeType) -> set[str]:
    """The names that a function, and those inside of it, may look up in its module."""
    names = set(code.co_names)
    for item in code.co_consts:
        if isinstance(item, CodeType):
            names |= _names(item)
    return names


def _normal(source: str) -> str:
    """Source without what means nothing: layout, comments, docstrings.

    The decorators of the outermost definition are left out as well: what they have made of it is
    looked at itself, and options of a task are no part of what it computes.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    if len(tree.body) == 1 and isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        tree.body[0].decorator_list = []
    return ast.dump(tree, annotate_fields=False)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
