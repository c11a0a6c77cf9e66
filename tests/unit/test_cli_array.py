"""Arrays of the command line: what the options say, and values reach commands as they are."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.client.array import array_command, array_path, array_rows, check_name, line_rows
from pilot.client.command import ShellCommand


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("0-9:3", [0, 3, 6, 9]),
        ("1,5,7", [1, 5, 7]),
        ("7, 1-2", [7, 1, 2]),
        ("5", [5]),
    ],
)
def test_ranges_are_read_as_slurm_writes_them(text: str, indices: list[int]) -> None:
    assert [row["index"] for row in array_rows(text)] == [str(index) for index in indices]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write numbers and ranges"),
        ("a", "write numbers and ranges"),
        ("5-3", "has no numbers"),
        ("1-5:0", "the step is 0"),
        ("1-3,2", "2 is there twice"),
        ("0-9%4", "Pilot has no %"),
        ("0-10000000", "more than 1,000,000 tasks"),
        ("0-999999999999999999", "more than 1,000,000 tasks"),
        ("0-9999999999999999999", "up to 18 digits"),
        ("9" * 5000, "up to 18 digits"),
        ("0-9:" + "9" * 5000, "up to 18 digits"),
    ],
)
def test_what_is_no_array_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        array_rows(text)


def test_each_line_that_is_not_empty_is_a_row() -> None:
    rows = list(line_rows(["a b\n", "\n", "c\r\n", "d"]))
    assert rows == [
        {"index": "0", "line": "a b"},
        {"index": "1", "line": "c"},
        {"index": "2", "line": "d"},
    ]


@pytest.mark.parametrize("lines", [[], ["\n"], ["a\0b\n"]])
def test_files_without_usable_lines_are_refused(lines: list[str]) -> None:
    with pytest.raises(ValueError, match=r"lines|NUL"):
        line_rows(lines)


def test_only_the_names_of_the_array_are_parameters_in_file_names() -> None:
    assert array_path("out-{index}-{other}.{{x}}", ("index",)) == "out-{index}-{{other}}.{{{{x}}}}"
    assert array_path(None, ("index",)) is None


SPLIT = re.compile(r"(\{index\}|\{line\})")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(WORDS, max_size=3), WORDS.filter(bool))
def test_words_and_lines_reach_the_command_as_they_are(words: list[str], line: str) -> None:
    show = r'printf "%s\0" "$@" "$PILOT_LINE"'
    command = ["/bin/sh", "-c", show, "sh", *words, "<{line}>{index}"]

    def filled(word: str) -> str:
        return "".join({"{index}": "7", "{line}": line}.get(p, p) for p in SPLIT.split(word))

    function = array_command(ShellCommand(tuple(command)), ("index", "line"))
    row = {"index": "7", "line": line}
    argv, env = function.argv((), row), {**os.environ, **function.variables(row)}
    shown = subprocess.run(argv, capture_output=True, check=True, env=env).stdout
    assert shown.decode().split("\0") == [*map(filled, words), f"<{line}>7", line, ""]
    assert function.line((), row) == shlex.join(map(filled, command))


def test_a_name_with_a_parameter_is_refused() -> None:
    check_name("n-{line}", ("index",))
    with pytest.raises(ValueError, match="share one name"):
        check_name("n-{line}", ("index", "line"))
