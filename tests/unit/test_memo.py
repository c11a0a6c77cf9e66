"""By what tasks are found again: which edits change a digest, and which do not."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.builders import spec, template

import pilot
from pilot.data.values import Value
from pilot.errors import SubmissionError
from pilot.head import memo
from pilot.memo import call_digest, file_digest, source_digest, stamps, unchanged
from pilot.task import CommandResult, Task, as_task

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


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Digest]:
    """The digest of ``work`` in the program, after edits of it or of its helpers."""
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

    def digest(*edits: tuple[str, str], helpers: str = HELPERS, ranks: int = 1) -> bytes:
        source = PROGRAM
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        load("helpers", helpers)
        return source_digest(load("program", source).work, ranks)

    yield digest


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


def test_number_of_ranks_matters(digest: Digest) -> None:
    assert digest(ranks=2) != digest()


def test_what_a_function_closes_over() -> None:
    def made(number: int) -> Task[..., Any]:
        return as_task(lambda x: x + number)

    assert source_digest(made(1), 1) == source_digest(made(1), 1) != source_digest(made(2), 1)


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


def test_contents_of_input_files(tmp_path: Path) -> None:
    command = pilot.shell("sort {data}", inputs=["data"]).function
    file = tmp_path / "data"
    file.write_text("b\na\n")

    def one() -> bytes:
        return call_digest(command, {"data": str(file)}, b"payload")

    before = one()
    os.utime(file, (1, 1))
    assert one() == before
    file.write_text("b\nc\n")
    assert one() != before
    file.unlink()
    assert one() != before
    assert call_digest(command, {"data": "x"}, b"payload") != call_digest(
        command, {"data": "x"}, b"other"
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
    start = memo.base(template(cache=b"source"), spec(1))
    assert start == memo.base(template(2, cache=b"source", retries=5), spec(7))
    assert start != memo.base(template(cache=b"other"), spec(1))
    inline = Value(3, b"abc")
    assert memo.key(start, [inline]) == memo.key(start, [Value(3, b"abc")])
    assert memo.key(start, [inline]) != memo.key(start, [])
    assert memo.key(start, [inline, Value(1, b"d")]) != memo.key(start, [Value(1, b"d"), inline])


def test_large_results_of_a_task_with_a_key_are_alike_in_every_run() -> None:
    first = memo.marked((Value(9, path="a.h5", name="/1"), Value(1, b"x")), b"key")
    again = memo.marked((Value(9, path="b.h5", name="/2"), Value(1, b"x")), b"key")
    assert memo.key(b"", first) == memo.key(b"", again)
    other = memo.marked((Value(9, path="b.h5", name="/2"), Value(1, b"x")), b"another")
    assert memo.key(b"", first) != memo.key(b"", other)
    unmarked = Value(9, path="a.h5", name="/1")
    assert memo.key(b"", [unmarked]) != memo.key(b"", [Value(9, path="b.h5", name="/2")])
