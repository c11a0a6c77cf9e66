"""The digest of a user's code and data, and of everything that they refer to, recursively.

Code counts by what its source means, data by its pickle. Installed code (the standard library,
packages) counts by name and version.

Invariants
----------
- Comments, docstrings, layout, and decorators that leave a function as it is change nothing.
- In doubt the digest differs: then a task runs that need not have run.
- Nothing is imported: modules that a function imports when it is called are read as files.
"""

from __future__ import annotations

import abc
import ast
import dis
import functools
import hashlib
import importlib.util
import inspect
import io
import sys
import sysconfig
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from pilot.client.command import ShellCommand
from pilot.client.future import Future
from pilot.client.task import Task
from pilot.data.file_stamps import DIGEST_BYTES, file_digest
from pilot.data.pickling_by_value import registered
from pilot.errors import SubmissionError

_PROTOCOL = 5
#: The directories of installed code; Pilot itself may also be a checkout.
_INSTALLED = (
    *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    f"{Path(__file__).parents[2]}/",
)
_CODE = (Task, ShellCommand, FunctionType, type, ModuleType, MethodType, functools.partial)


class Digest:
    """A digest of a user's objects, and of the objects that these refer to.

    Parameters
    ----------
    task
        The name of the task, for messages.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        #: The objects met so far, in order (cycles occur); kept, so that no id is used again.
        self._met: dict[int, tuple[int, object]] = {}
        self._modules: set[str] = set()
        #: In arguments: futures, and their numbers.
        self._inputs: dict[object, int] | None = None

    def result(self) -> bytes:
        """Return the digest of everything that was added."""
        return self._hash.digest()

    def note(self, *facts: object) -> None:
        """Add facts whose text is the same in every run."""
        text = repr(facts).encode()
        self._hash.update(b"%d:" % len(text))
        self._hash.update(text)

    def add(self, thing: object) -> None:
        """Add an object, and what it refers to.

        Raises
        ------
        SubmissionError
            The object cannot be pickled, so it has no digest.
        """
        if isinstance(thing, BuiltinFunctionType):
            self.note("builtin", thing.__module__, thing.__qualname__)
        elif not _is_code(thing):
            self._add_value(thing)
        elif id(thing) in self._met:
            self.note("again", self._met[id(thing)][0])
        else:
            self._met[id(thing)] = (len(self._met), thing)
            self._add_code(thing)

    def add_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Add the arguments of a call. Of futures among them only the places count.

        Raises
        ------
        SubmissionError
            One cannot be pickled.
        """
        self._inputs = {}
        self._add_value((args, kwargs))

    # --- code ------------------------------------------------------------------------------------

    def _add_code(self, thing: Any) -> None:
        if isinstance(thing, Task):
            self.add(thing.function)
        elif isinstance(thing, ShellCommand):
            self.note("command", thing.command, thing.inputs, thing.outputs, thing.cwd)
            self.note(thing.stdin, thing.stdout, thing.stderr, sorted(thing.env.items()))
            self.note(thing.success)
            if thing.filled:
                self.note(thing.filled)
            if thing.output_per_rank:
                self.note("output per rank")
        elif isinstance(thing, MethodType):
            self.add(thing.__func__)
            self.add(thing.__self__)
        elif isinstance(thing, functools.partial):
            self.add(thing.func)
            self._add_value((thing.args, thing.keywords))
        elif isinstance(thing, ModuleType):
            self._add_module(thing)
        elif _is_installed(thing):
            self._add_installed(thing)
        elif isinstance(thing, FunctionType):
            self._add_function(thing)
        elif isinstance(thing, type):
            self._add_class(thing)
        else:
            self.note("wrapper", type(thing).__qualname__)
            # Ranks with other parts of the arguments do something else.
            self.note(*getattr(thing, "rank_parts", ()))
            self.add(thing.__wrapped__)

    def _add_installed(self, thing: Any) -> None:
        """Add an installed object by its name, and the user's function that it wraps."""
        self.note("installed", thing.__module__, thing.__qualname__, _version(thing.__module__))
        if not _is_plain(thing):
            self.add(thing.__wrapped__)
            self._add_wrapping(thing)

    def _add_wrapping(self, wrapper: FunctionType) -> None:
        """Add what else an installed wrapper holds, such as the functions that it chooses from."""
        for value in _closed_over(wrapper):
            if isinstance(value, FunctionType) and _is_plain(value):
                if id(value) not in self._met:
                    self._met[id(value)] = (len(self._met), value)
                    self._add_wrapping(value)
            else:
                self._try_to_add(value)

    def _add_function(self, function: FunctionType) -> None:
        self.note("function", *_source(function))
        self._add_all("default", function.__defaults__ or ())
        self._add_all("default", sorted((function.__kwdefaults__ or {}).items()))
        self._add_all("closure", _closed_over(function))
        scope = function.__globals__
        for name in sorted(_names(function.__code__)):
            if name in scope:
                self.note("name", name)
                self.add(scope[name])
        self._add_imports(function.__code__, str(scope.get("__package__") or ""))

    def _add_class(self, kind: type) -> None:
        source = _source(kind)
        self.note("class", *source)
        self._add_all("base", (*kind.__bases__, type(kind)))
        if isinstance(kind, abc.ABCMeta):
            self._add_all("registered", sorted(registered(kind), key=lambda one: one.__qualname__))
        for name, value in sorted(vars(kind).items()):
            functions = list(_functions(value))
            for function in functions:
                # What a decorator such as that of dataclasses has written follows from the source.
                if not isinstance(function, FunctionType) or (
                    source[0] != "source" or _source(function)[0] == "source"
                ):
                    self.note("method", name)
                    self.add(function)
            if not functions and not name.startswith("__"):
                self.note("attribute", name)
                self._try_to_add(value)

    # --- modules ---------------------------------------------------------------------------------

    def _add_module(self, module: ModuleType) -> None:
        """Add a module as a whole, since the parts that are used are not known."""
        self._add_module_named(module.__name__)
        if not _is_installed(module):
            for name, value in sorted(vars(module).items()):
                if isinstance(value, ModuleType) and not name.startswith("__"):
                    self.note("name", name)
                    self.add(value)

    def _add_module_named(self, name: str) -> None:
        """Add a module by its source, and by the modules that it imports."""
        self.note("module", name)
        if name in self._modules:
            return
        self._modules.add(name)
        file = _file_of(name)
        if file is None or _is_in_installation(name, file):
            self.note("installed", _version(name))
        elif not file.endswith(".py"):
            self._hash.update(file_digest(Path(file)))
        else:
            with tokenize.open(file) as opened:  # it may say which encoding it has
                source = opened.read()
            self.note(_normal(source))
            is_package = Path(file).name == "__init__.py"
            package = name if is_package else name.rpartition(".")[0]
            self._add_imports(compile(source, file, "exec"), package)

    def _add_imports(self, code: CodeType, package: str) -> None:
        """Add the modules that code imports when it runs, with the packages that they are in."""
        for name, members in _imports(code, package):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                self._add_module_named(".".join(parts[:end]))
            for member in members:
                if _file_of(name + "." + member):
                    self._add_module_named(name + "." + member)

    # --- data ------------------------------------------------------------------------------------

    def _add_value(self, value: object) -> None:
        """Add data by its pickle, with the code that is found in it."""
        found: list[object] = []

        def stand_in(item: object) -> object:
            if isinstance(item, Future) and self._inputs is not None:
                return ("input", self._inputs.setdefault(item.key, len(self._inputs)))
            if not _is_code(item) or _is_plain(item):
                return None
            found.append(item)
            return "code"

        try:
            payload = _pickled(value, stand_in)
        except Exception as error:
            raise SubmissionError(
                f"task {self._task!r} has cache=True, but uses {type(value).__name__} "
                f"{_shortened(value)}, which has no digest: {error}. Pass it as an argument, or "
                "leave the cache out"
            ) from error
        self._hash.update(b"%d:" % len(payload))
        self._hash.update(payload)
        self._add_all("in it", found)

    def _try_to_add(self, value: object) -> None:
        """Add a value; of one that cannot be pickled (a lock, say) only its type."""
        try:
            self.add(value)
        except SubmissionError:
            self.note(type(value).__qualname__)

    def _add_all(self, title: str, things: Iterable[Any]) -> None:
        for thing in things:
            self.note(title)
            self.add(thing)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no type hints
    """A pickler that replaces some objects by stand-ins."""

    def __init__(self, file: io.BytesIO, stand_in: Callable[[object], object]) -> None:
        super().__init__(file, _PROTOCOL)
        self._stand_in = stand_in

    def persistent_id(self, item: object) -> object:
        if isinstance(item, (set, frozenset)):
            # Their order differs from run to run.
            return ("set", sorted(item, key=_order))
        return self._stand_in(item)


def _pickled(value: object, stand_in: Callable[[object], object]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, stand_in).dump(value)
    return file.getvalue()


def _order(item: object) -> bytes:
    """Return the sort key of a member of a set."""
    return _pickled(
        item, lambda part: getattr(part, "__qualname__", "code") if _is_code(part) else None
    )


# --- what things are made of ---------------------------------------------------------------------


def _is_code(thing: object) -> bool:
    return isinstance(thing, _CODE) or (callable(thing) and hasattr(thing, "__wrapped__"))


def _is_plain(thing: object) -> bool:
    """Tell whether the name of a function or class identifies it fully."""
    if not isinstance(thing, (FunctionType, type)) or not _is_installed(thing):
        return False
    wrapped = getattr(thing, "__wrapped__", None)
    return wrapped is None or _is_plain(wrapped)


def _is_installed(thing: Any) -> bool:
    """Tell whether an object belongs to the standard library, an installed package or Pilot."""
    if isinstance(thing, ModuleType):
        name = thing.__name__
    elif isinstance(thing, FunctionType):
        # The module that it was written in. A wrapper may bear the name of the function inside it.
        name = str(thing.__globals__.get("__name__"))
    else:
        name = str(thing.__module__)
    return _is_in_installation(name, getattr(sys.modules.get(name), "__file__", None) or "")


def _is_in_installation(module: str, file: str) -> bool:
    if file:
        # The file, not the name: a user's module may have the name of one in the standard library.
        return file.startswith(_INSTALLED) or "-packages/" in file
    return module != "__main__" and module.partition(".")[0] in sys.stdlib_module_names


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))


def _closed_over(function: FunctionType) -> Iterator[object]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:
            yield "not bound yet"


def _functions(attribute: object) -> Iterator[object]:
    """Yield the functions that an attribute of a class is made of."""
    if isinstance(attribute, (staticmethod, classmethod)):
        yield attribute.__func__
    elif isinstance(attribute, property):
        yield from filter(None, (attribute.fget, attribute.fset, attribute.fdel))
    elif isinstance(attribute, functools.cached_property):
        yield attribute.func
    elif isinstance(attribute, FunctionType):
        yield attribute


def _source(thing: Any) -> tuple[object, ...]:
    """Return the normalised source of a function or class, or else its compiled form."""
    is_function = isinstance(thing, FunctionType)
    if not (is_function and thing.__name__ == "<lambda>"):
        # By its code object: of a wrapper, not of what it is wrapped around.
        written = thing.__code__ if is_function else thing
        try:
            return ("source", _normal(textwrap.dedent(inspect.getsource(written))))
        except (OSError, TypeError, SyntaxError):
            pass
    if is_function:
        return ("compiled", sys.version_info[:2], *_compiled(thing.__code__))
    # A class without source: its methods, compiled.
    methods = [value for _, value in sorted(vars(thing).items()) if isinstance(value, FunctionType)]
    return ("compiled", thing.__qualname__, *(_compiled(method.__code__) for method in methods))


def _compiled(code: CodeType) -> tuple[object, ...]:
    constants = tuple(
        _compiled(item)
        if isinstance(item, CodeType)
        else sorted(map(repr, item))
        if isinstance(item, frozenset)
        else repr(item)
        for item in code.co_consts
    )
    return (code.co_code, code.co_names, code.co_varnames, constants)


def _nested(code: CodeType) -> Iterator[CodeType]:
    """Yield code, and the code of the functions inside of it."""
    yield code
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _nested(item)


def _names(code: CodeType) -> set[str]:
    """Return the names that a function, and those inside of it, may look up in its module."""
    return {name for part in _nested(code) for name in part.co_names}


def _imports(code: CodeType, package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules that code imports, and the names that it takes from them."""
    for part in _nested(code):
        before: list[Any] = [None, None]
        for step in dis.get_instructions(part):
            if step.opname == "EXTENDED_ARG":
                continue
            if step.opname == "IMPORT_NAME":
                level, members = before
                try:
                    name = importlib.util.resolve_name("." * level + step.argval, package)
                except ImportError:
                    name = step.argval  # it would fail when it is run, too
                yield name, members or ()
            before = [before[1], step.argval]


def _file_of(module: str) -> str | None:
    """Return the file of a module, which need not be loaded; None where there is none."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None)
    path = None
    found = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        found = PathFinder.find_spec(".".join(parts[:end]), path)
        if found is None:
            return None
        path = found.submodule_search_locations
    return found.origin if found is not None and found.has_location else None


def _normal(source: str) -> str:
    """Return source without layout, comments and docstrings.

    The decorators of the outermost definition are left out as well: the object
    that they made is looked at itself, and a task's options are no part of what it computes.
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
