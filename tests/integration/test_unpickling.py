"""Classes and modules of a user's that raise or exit while something is pickled or unpickled."""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sites import TESTS, SiteUnderTest, local_template, site_under_test

import pilot
from pilot import Session

DEADLINE_S = 60.0

#: Classes of a module beside the script. Each misbehaves in executors, or in the program, alone.
MODULE = """
import os, sys

PROGRAM = int(os.environ["PROGRAM"])

class Here:
    where = "executor"
    def __init__(self, what): self.what = what
    def __setstate__(self, state):
        self.__dict__.update(state)
        self.misbehave()
    def misbehave(self):
        if (os.getpid() == PROGRAM) == (self.where == "program"):
            if self.what is ValueError: raise ValueError("bad state")
            if self.what is SystemExit: sys.exit(3)
            raise self.what("so")

class There(Here):
    where = "program"

class Going(Here):
    def __setstate__(self, state): self.__dict__.update(state)
    def __getstate__(self):
        self.misbehave()
        return vars(self)

class Proxy:
    def __init__(self, held): self.held = held
    def __getattr__(self, name): return getattr(self.held, name)

class Bare:
    def __new__(cls, x): return object.__new__(cls)
    def __init__(self, x): self.x = x

class Stop(BaseException): pass

class Unprintable(Exception):
    def __str__(self): sys.exit(7)
    __repr__ = __str__

class Unpicklable(Exception):
    def __reduce__(self): sys.exit(7)

def make(kind, what): return kind(what)
def echo(it): return type(it).__name__
def use(it): return it
def fail(kind): raise kind("told")
"""


@pytest.fixture(scope="module")
def one_core() -> Iterator[SiteUnderTest]:
    """A site where all tasks of a session are in one process."""
    with site_under_test(local_template(cores=1)) as site:
        yield site


@pytest.fixture(scope="module")
def odd(one_core: SiteUnderTest) -> Iterator[Any]:
    """The module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROGRAM", str(os.getpid()))
        patch.syspath_prepend(str(one_core.scratch))
        (one_core.scratch / "odd.py").write_text(MODULE)
        odd = importlib.import_module("odd")

        yield odd
        del sys.modules["odd"]


@pytest.fixture(scope="module")
def session(one_core: SiteUnderTest, odd: Any) -> Iterator[Session]:
    paths = [one_core.scratch, TESTS]
    variables = {"PROGRAM": str(os.getpid())}
    with pilot.Session(one_core.site, sys_path=paths, variables=variables) as session:
        yield session


def line_of(text: str) -> int:
    return MODULE.splitlines().index(text) + 1


def error_of(future: pilot.Future[Any]) -> str:
    error = future.exception(DEADLINE_S)
    assert isinstance(error, pilot.EncodingError), error
    return str(error)


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "KeyboardInterrupt", "Stop"])
def test_whoever_raises_while_an_argument_is_unpickled_is_named(
    session: Session, odd: Any, name: str
) -> None:
    kind = getattr(odd, name, None) or getattr(builtins, name)
    before = session.submit(pow, 2, 3)
    text = error_of(session.submit(odd.echo, odd.Here(kind)))
    line = line_of("        self.misbehave()")
    assert text.startswith(f"the arguments: cannot unpickle a value: {name}: ")
    assert f"Here.__setstate__ ({odd.__file__}, line {line}) that raised this" in text
    assert "written by another version" not in text and "__setstate__" in text
    assert before.result(DEADLINE_S) == 8


def test_whoever_raises_while_an_input_is_unpickled_is_named(session: Session, odd: Any) -> None:
    made = session.submit(odd.make, odd.Here, SystemExit)
    text = error_of(session.submit(odd.echo, made))
    assert text.startswith(f"the result of task {made.task_id}, an input: cannot unpickle")
    assert "SystemExit: 3" in text and "Here.__setstate__" in text


def test_whoever_raises_while_a_function_is_unpickled_is_named(session: Session, odd: Any) -> None:
    held = odd.Here(SystemExit)
    text = error_of(session.submit(lambda: held))
    assert text.startswith("the function: cannot unpickle") and "Here.__setstate__" in text


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "Stop"])
def test_whoever_raises_while_a_result_is_pickled_is_named(
    session: Session, odd: Any, name: str
) -> None:
    kind = getattr(odd, name, None) or getattr(builtins, name)
    text = error_of(session.submit(odd.make, odd.Going, kind))
    assert text.startswith("the result") and f"{name}: " in text
    assert f"Going.__getstate__ ({odd.__file__}, line" in text and "while it was pickled" in text


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "Stop"])
def test_whoever_raises_while_a_result_is_unpickled_is_named(
    session: Session, odd: Any, name: str
) -> None:
    kind = getattr(odd, name, None) or getattr(builtins, name)
    future = session.submit(odd.make, odd.There, kind)
    with pytest.raises(pilot.EncodingError) as raised:
        future.result(DEADLINE_S)
    text = str(raised.value)
    assert f"task {future.task_id}" in text and "Here.__setstate__" in text
    assert "written by another version" not in text


def test_a_getattr_that_needs_what_is_not_there_yet_is_named(session: Session, odd: Any) -> None:
    text = error_of(session.submit(odd.echo, odd.Proxy([1])))
    assert "RecursionError" in text and "Proxy.__getattr__" in text


def test_a_class_that_cannot_be_called_so_is_told_what_to_have(session: Session, odd: Any) -> None:
    text = error_of(session.submit(odd.echo, odd.Bare(1)))
    assert "missing 1 required positional argument: 'x'" in text and "__getnewargs__" in text


def test_keywords_of_a_class_statement_do_not_travel_and_that_is_told(session: Session) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "class Base:\n    def __init_subclass__(cls, *, key): cls.key = key\n"
        "class Derived(Base, key='k'): pass\ndef f(): return Derived.key",
        names,
    )
    text = error_of(session.submit(names["f"]))
    assert "__init_subclass__() missing 1 required" in text and "module beside the script" in text


@pytest.mark.parametrize("name", ["Unprintable", "Unpicklable"])
def test_an_exception_that_exits_where_it_is_told_keeps_its_class(
    one_core: SiteUnderTest, session: Session, odd: Any, name: str
) -> None:
    future = session.submit(odd.fail, getattr(odd, name))
    error = future.exception(DEADLINE_S)
    assert error is not None
    (attempt,) = one_core.query("task", task=future.task_id)["attempts_made"]
    assert attempt["error"].startswith(f"{name}: ") and attempt["outcome"] == "error"
    assert type(error).__name__ == name or f"{name}: " in str(error)
    assert "cannot be had: SystemExit: 7" in attempt["error"] or name == "Unpicklable"
    assert "line" in str(error.__cause__) and "in fail" in str(error.__cause__)


# --- modules --------------------------------------------------------------------------------------

IMPORTED = {
    "exits": ("import sys\nsys.exit('not here')\n", "SystemExit: not here"),
    "interrupts": ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    "raises": ("1 / 0\n", "ZeroDivisionError"),
    "misses": ("import there_is_no_such_module\n", "No module named 'there_is_no_such_module'"),
}


@pytest.mark.parametrize("name", IMPORTED)
@pytest.mark.parametrize("by", ["function", "argument"])
def test_a_module_that_ends_badly_while_it_is_imported_is_named(
    one_core: SiteUnderTest, session: Session, name: str, by: str
) -> None:
    source, words = IMPORTED[name]
    path = one_core.scratch / f"{name}.py"
    function = _importable(path, source)
    future = session.submit(function) if by == "function" else session.submit(repr, function)
    text = error_of(future)
    line = source.count("\n")
    assert words in text and f"the module {name} ({path}, line {line})" in text
    assert text.startswith("the function" if by == "function" else "the arguments")
    assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32


@pytest.mark.parametrize(
    ("name", "source", "options", "error"),
    [
        ("hangs", "import time\ntime.sleep(600)\n", {"time_limit": 1.0}, pilot.TaskTimedOut),
        ("ends", "import os\nos._exit(9)\n", {"max_crashes": 1}, pilot.TaskCrashed),
    ],
)
def test_a_module_that_hangs_or_ends_its_process_while_it_is_imported_harms_no_other_task(
    one_core: SiteUnderTest,
    session: Session,
    name: str,
    source: str,
    options: dict[str, Any],
    error: type[pilot.TaskError],
) -> None:
    function = _importable(one_core.scratch / f"{name}.py", source)
    failing = session.submit(pilot.task(**options)(function))
    after = [session.submit(pow, 2, n) for n in range(20)]
    assert isinstance(failing.exception(DEADLINE_S), error)
    assert pilot.gather(after, timeout=DEADLINE_S) == [2**n for n in range(20)]


def _importable(path: Path, source: str) -> Any:
    """Return a function of a module whose file is another one in executors."""
    module = types.ModuleType(path.stem)
    exec("def function(): return 1", module.__dict__)
    sys.modules[path.stem] = module
    path.write_text(source)
    return module.function
