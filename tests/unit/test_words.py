"""Which command lines are executed without a shell, and that they mean the same there."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.worker.shell_words import plain_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/bin/true", ["/bin/true"]),
        ("  gmx mdrun -s in.tpr  -nt 4 ", ["gmx", "mdrun", "-s", "in.tpr", "-nt", "4"]),
        ("prog --size=3 'a b;c$x' ''", ["prog", "--size=3", "a b;c$x", ""]),
        ("env A=1 prog", ["env", "A=1", "prog"]),
    ],
)
def test_plain_words(line: str, words: list[str]) -> None:
    assert plain_words(line) == words


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "A=1 prog",
        "cd /tmp",
        "exit 3",
        "echo -n x",
        "a | b",
        "a; b",
        "a && b",
        "a > b",
        "a *",
        "a $X",
        'a "b"',
        "a \\b",
        "a ~",
        "a b'c'",
        "a #b",
        "a\nb",
        "(a)",
        "a {1,2}",
        "! a",
    ],
)
def test_what_only_a_shell_understands(line: str) -> None:
    assert plain_words(line) is None


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1))
def test_words_are_those_of_the_shell(words: list[str]) -> None:
    line = shlex.join(["printenv-not-there", *words])
    found = plain_words(line)
    assert found is None or found[1:] == words


def test_shell_gives_a_program_the_same_words() -> None:
    shows = "import sys; sys.stdout.write(repr(sys.argv[1:]))"
    line = f"{sys.executable} -c '{shows}' a=b --x=,y 'c  d' %e @f +g ''"
    words = plain_words(line)
    assert words is not None
    by_shell = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout
    assert subprocess.run(words, capture_output=True, check=True).stdout == by_shell
