"""By what tasks are found again: which edits change a digest, and which do not."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.builders import spec, template

import pilot
from pilot.client.caching.keys import call_digest, source_digest, stamps
from pilot.client.command import CommandResult
from pilot.client.task import Task, as_task
from pilot.data.file_stamps import file_digest, unchanged
from pilot.data.pickles import encode
from pilot.errors import SubmissionError
from pilot.head.core import memo_keys
from pilot.model.values import Value

PROGRAM = """
import helpers
import pilot

FACTOR = 2

def scaled(x):
    return x * FACTOR

class Box:
    size = 1

    def volume(self):
        return self.size ** 3

@pilot.task(cache=True)
def work(x, y=1):
    '''What it does.'''
    inner = [scaled(value) for value in x]
    return inner, Box().volume(), helpers.twice(y)

def unused():
    return 1
"""
HELPERS = "def twice(x):\n    return 2 * x\n"

Digest = Callable[..., bytes]
Load = Callable[[str, str], Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Makes a module of its source."""
    numbers = itertools.count()

    def load(name: str, source: str) -> Any:
        # Each in a directory of its own: what Python remembers of files is not looked at here.
        path = tmp_path / str(next(numbers)) / f"{name}.py"
        path.parent.mkdir()
        path.write_text(source)
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        monkeypatch.setitem(sys.modules, name, module)
        found.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def digest(load: Load) -> Digest:
    """The digest of ``work`` in the program, after edits of it or of its helpers."""

    def digest(*edits: tuple[str, str], helpers: str = HELPERS, ranks: int = 1) -> bytes:
        source = PROGRAM
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        load("helpers", helpers)
        return source_digest(load("program", source).work, ranks)

    return digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it does.", "What it does, in other words."),
        ("cache=True", "cache=True, retries=3, cores=2"),
        ("for value in x]", "for value in x]  # a comment"),
        ("def unused():\n    return 1", "def unused():\n    return 2"),
        ("    inner = [", "\n\n    inner   =  ["),
    ],
)
def test_edit_that_means_nothing(digest: Digest, old: str, new: str) -> None:
    assert digest((old, new)) == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for value in x]", "for value in x[1:]]"),
        ("x * FACTOR", "x + FACTOR"),
        ("FACTOR = 2", "FACTOR = 3"),
        ("self.size ** 3", "self.size ** 2"),
        ("size = 1", "size = 2"),
        ("y=1", "y=2"),
        ("cache=True", "cache=True, returns=3"),
    ],
)
def test_edit_that_matters(digest: Digest, old: str, new: str) -> None:
    assert digest((old, new)) != digest()


def test_edit_of_another_module_of_the_user(digest: Digest) -> None:
    assert digest(helpers=HELPERS.replace("2 * x", "3 * x")) != digest()
    assert digest(helpers=HELPERS + "# nothing\n") == digest()


#: Ways to the helper: what stands before the task, and what it returns.
WAYS = {
    "a table": ("import helpers\nTABLE = {'a': [helpers.twice]}", "TABLE['a'][0](x)"),
    "a set": ("import helpers\nCHOICE = {helpers.twice}", "[f(x) for f in CHOICE]"),
    "an instance": ("import helpers\nBOX = helpers.Box()", "BOX.get(x)"),
    "an attribute": ("import helpers\nbox = helpers.Box()\nbox.f = helpers.twice", "box.f(x)"),
    "an attribute of a class": ("import helpers\nclass K:\n    t = [helpers.twice]", "K.t[0](x)"),
    "a default": ("import helpers\ndef f(x, g=[helpers.twice]): return g[0](x)", "f(x)"),
    "a closure": (
        "import helpers\ndef make():\n    t = {1: helpers.twice}\n"
        "    return lambda x: t[1](x)\nf = make()",
        "f(x)",
    ),
    "a decorator": (
        "import functools, helpers\ndef twice(f):\n    @functools.wraps(f)\n"
        "    def g(x): return helpers.twice(f(x))\n    return g\n@twice\ndef f(x): return x",
        "f(x)",
    ),
    "a cache": ("import functools, helpers\nf = functools.lru_cache(helpers.twice)", "f(x)"),
    "a context manager": (
        "import contextlib, helpers\n@contextlib.contextmanager\ndef f(x): yield helpers.twice(x)",
        "f(x).__enter__()",
    ),
    "a dispatched function": (
        "import functools, helpers\n@functools.singledispatch\ndef f(x): return 0\n"
        "@f.register\ndef _(x: int): return helpers.twice(x)\nf(1)",
        "f(x)",
    ),
    "a property": (
        "import functools, helpers\nclass K:\n    @functools.cached_property\n"
        "    def v(self): return helpers.twice(1)",
        "K().v",
    ),
    "a dataclass": (
        "import dataclasses, helpers\n@dataclasses.dataclass\nclass K:\n    x: int = 1\n"
        "    def get(self): return helpers.twice(self.x)",
        "K().get()",
    ),
    "an enumeration": (
        "import enum, helpers\nclass K(enum.Enum):\n    A = 1\n"
        "    def get(self): return helpers.twice(1)",
        "K.A.get()",
    ),
    "an abstract class": (
        "import abc, threading, helpers\nclass K(abc.ABC):\n    lock = threading.Lock()\n"
        "    def get(self): return helpers.twice(1)",
        "K().get()",
    ),
    "an import inside": ("def f(x):\n    import helpers\n    return helpers.twice(x)", "f(x)"),
    "a name imported inside": (
        "def f(x):\n    from helpers import twice\n    return twice(x)",
        "f(x)",
    ),
}
LINKS = """
def twice(x):
    return 2 * x

class Box:
    def get(self, x):
        return twice(x)
"""


@pytest.mark.parametrize("way", WAYS)
def test_edit_is_seen_by_way_of(load: Load, way: str) -> None:
    before, returned = WAYS[way]
    program = f"{before}\ndef work(x):\n    return {returned}\n"

    def one(program: str, helpers: str) -> bytes:
        load("helpers", helpers)
        return source_digest(as_task(load("program", program).work), 1)

    first = one(program, LINKS)
    assert one(program, LINKS) == first
    assert one(program, LINKS.replace("2 * x", "3 * x")) != first


def test_edit_of_a_decorator(load: Load) -> None:
    program = """
import functools
def more(f):
    @functools.wraps(f)
    def g(x):
        return f(x) + 1
    return g

@more
def work(x):
    return x
"""

    def one(program: str) -> bytes:
        return source_digest(as_task(load("program", program).work), 1)

    assert one(program) == one(program) != one(program.replace("+ 1", "+ 2"))


def test_edit_of_a_module_that_a_module_imports(load: Load) -> None:
    def one(deep: str) -> bytes:
        load("deep", deep)
        load("helpers", "from deep import f\ndef twice(x):\n    return f(x)\n")
        program = "import helpers\ndef work(x):\n    return helpers.twice(x)\n"
        return source_digest(as_task(load("program", program).work), 1)

    assert one("def f(x): return x") == one("def f(x): return x") != one("def f(x): return -x")


def test_module_that_is_imported_inside_is_only_read(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "heavy_package"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    (package / "__init__.py").write_text("raise RuntimeError('not on a login node')")
    (package / "solver.py").write_text("from . import parts\n")
    work = load("program", "def work():\n    from heavy_package import solver\n").work

    def one(parts: str) -> bytes:
        (package / "parts.py").write_text(parts)
        return source_digest(as_task(work), 1)

    assert one("N = 1") == one("N = 1  # first") != one("N = 2")


def test_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from pilot.client.caching.keys import source_digest\n"
        "from pilot.client.task import as_task\n"
        "KINDS = {'liquid', 'gas', 'solid'}\n"
        "f = lambda x: x in {'liquid', 'gas'}\n"
        "def work(x): return f(x) and x in KINDS\n"
        "print(source_digest(as_task(work), 1).hex())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONHASHSEED": str(seed),
                "PYTHONPATH": str(Path(pilot.__file__).parents[1]),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(found) == 1


def test_number_of_ranks_matters(digest: Digest) -> None:
    assert digest(ranks=2) != digest()


def test_what_a_function_closes_over() -> None:
    def made(number: int) -> Task[..., Any]:
        return as_task(lambda x: x + number)

    assert source_digest(made(1), 1) == source_digest(made(1), 1) != source_digest(made(2), 1)


def test_classes_that_are_registered_with_an_abstract_one(load: Load) -> None:
    program = "import abc\nclass Shape(abc.ABC): ...\nclass Square: ...\nclass Circle: ...\n"
    module = load("program", program + "def work(x): return isinstance(x, Shape)\n")
    digests = [source_digest(as_task(module.work), 1)]
    for kind in (module.Square, module.Circle):
        module.Shape.register(kind)
        digests.append(source_digest(as_task(module.work), 1))
        assert digests[-1] == source_digest(as_task(module.work), 1)
    assert len(set(digests)) == 3


def test_functions_that_name_each_other() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert source_digest(as_task(even), 1) == source_digest(as_task(even), 1)
    assert source_digest(as_task(even), 1) != source_digest(as_task(odd), 1)


def test_partial_and_method() -> None:
    class Adder:
        def __init__(self, number: int) -> None:
            self.number = number

        def add(self, x: int) -> int:
            return x + self.number

    def one(thing: Any) -> bytes:
        return source_digest(Task(thing, "python", {"name": "t"}), 1)

    assert one(functools.partial(max, 1)) == one(functools.partial(max, 1))
    assert one(functools.partial(max, 1)) != one(functools.partial(max, 2))
    assert one(Adder(1).add) == one(Adder(1).add) != one(Adder(2).add)


def test_commands() -> None:
    def one(text: str, **options: Any) -> bytes:
        return source_digest(pilot.shell(text, **options), 1)

    assert one("sort {x}") == one("sort {x}", retries=2)
    assert one("sort {x}") != one("sort -r {x}")
    assert one("sort {x}") != one("sort {x}", env={"LC_ALL": "C"})


def test_what_has_no_digest_is_named() -> None:
    lock = threading.Lock()

    def locked() -> None:
        lock.acquire()

    with pytest.raises(SubmissionError, match="cache=True, but uses lock"):
        source_digest(as_task(locked), 1)


# --- arguments and files -------------------------------------------------------------------------


def given(*args: Any) -> bytes:
    return call_digest(as_task(print), args, {}, encode((args, {})))


def test_code_among_the_arguments(load: Load) -> None:
    def one(source: str) -> bytes:
        helpers = load("helpers", source)
        return given([helpers.twice], helpers.Box())

    assert one(LINKS) == one(LINKS) != one(LINKS.replace("2 * x", "3 * x"))
    assert given(lambda x: x + 1) == given(lambda x: x + 1) != given(lambda x: x + 2)


def test_sets_and_arrays_among_the_arguments() -> None:
    names = [f"name {number}" for number in range(100)]
    backwards = names[::-1]
    assert given(set(names)) == given(set(backwards)) != given(set(names[1:]))
    assert given(np.arange(5.0)) == given(np.arange(5.0)) != given(np.arange(6.0))


def test_contents_of_input_files(tmp_path: Path) -> None:
    command = pilot.shell("sort {data}", inputs=["data"])
    file = tmp_path / "data"
    file.write_text("b\na\n")

    def one() -> bytes:
        return call_digest(command, (), {"data": str(file)}, b"payload")

    before = one()
    os.utime(file, (1, 1))
    assert one() == before
    file.write_text("b\nc\n")
    assert one() != before
    file.unlink()
    assert one() != before
    assert call_digest(command, (), {"data": "x"}, b"payload") != call_digest(
        command, (), {"data": "x"}, b"other"
    )


def test_output_files_must_be_there_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("x")
    made = stamps(CommandResult("make", 0, outputs={"out": file}))
    assert unchanged(made)
    os.utime(file, ns=(1, 1))
    assert not unchanged(made)
    file.unlink()
    assert not unchanged(made)
    assert stamps(3) == ()


def test_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    first = file_digest(file)
    file.write_text("two!")
    assert file_digest(file) != first


# --- keys ----------------------------------------------------------------------------------------


def test_key_depends_on_source_arguments_and_inputs() -> None:
    start = memo_keys.base(template(cache=b"source"), spec(1))
    assert start == memo_keys.base(template(2, cache=b"source", retries=5), spec(7))
    assert start != memo_keys.base(template(cache=b"other"), spec(1))
    inline = Value(3, b"abc")
    assert memo_keys.key(start, [inline]) == memo_keys.key(start, [Value(3, b"abc")])
    assert memo_keys.key(start, [inline]) != memo_keys.key(start, [])
    assert memo_keys.key(start, [inline, Value(1, b"d")]) != memo_keys.key(
        start, [Value(1, b"d"), inline]
    )


def test_large_results_of_a_task_with_a_key_are_alike_in_every_run() -> None:
    first = memo_keys.marked((Value(9, path="a.h5", name="/1"), Value(1, b"x")), b"key")
    again = memo_keys.marked((Value(9, path="b.h5", name="/2"), Value(1, b"x")), b"key")
    assert memo_keys.key(b"", first) == memo_keys.key(b"", again)
    other = memo_keys.marked((Value(9, path="b.h5", name="/2"), Value(1, b"x")), b"another")
    assert memo_keys.key(b"", first) != memo_keys.key(b"", other)
    unmarked = Value(9, path="a.h5", name="/1")
    assert memo_keys.key(b"", [unmarked]) != memo_keys.key(b"", [Value(9, path="b.h5", name="/2")])


def test_pilot_counts_by_its_version_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as a checkout: its own modules are not read for what a task closes over of it."""
    before = source_digest(as_task(pilot.gather), 1)
    monkeypatch.setattr(pilot, "__version__", "0.0.test")
    assert source_digest(as_task(pilot.gather), 1) != before
    read: list[str] = []
    monkeypatch.setattr("tokenize.open", read.append)
    source_digest(as_task(lambda: pilot.gather([])), 1)
    assert read == []
