"""How lists look: they fit, a row is a line, and whatever is in a name is only text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot.cli import cli
from pilot.cli.commands.events import _line
from pilot.cli.commands.head import check_batch
from pilot.cli.commands.result import plain
from pilot.cli.common import asking
from pilot.cli.lists import print_sessions
from pilot.cli.output import CELL_MOST, json_text, last_words, note, print_fields, print_table, say
from pilot.client.arguments import spilled
from pilot.client.calls import read_calls
from pilot.client.command import CommandResult, ShellCommand
from pilot.client.events import Event
from pilot.data.pickles import encode
from pilot.errors import BatchError
from pilot.formatting import shortened_cell, text_width
from pilot.model.values import Value
from pilot.site import Site, create_site
from pilot.site_configs import pool_type

EVIL = "a\nb\x1b]0;title\x07\r\u202e\udce9"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return create_site(tmp_path / "here", "local")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes stdout a terminal of some width."""

    def set_width(width: int) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))

    return set_width


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return click.unstyle(capsys.readouterr().out).splitlines()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.text(), st.sampled_from(["COMPLETED", "READY"]), st.text())),
    width=st.integers(50, 200),
)
def test_every_row_is_one_line_that_fits(
    rows: list[tuple[str, str, str]],
    width: int,
    terminal: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    terminal(width)
    print_table(("name", "state", "error"), rows, cut={"name": 8, "error": 20})
    lines = printed(capsys)
    assert len(lines) == len(rows) + 1
    assert all(text_width(line) <= width and line.isprintable() for line in lines)
    assert all(state in line for (_, state, _), line in zip(rows, lines[1:], strict=True))


def test_a_narrow_terminal_does_without_what_matters_least(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    row = ("1.1", "n" * 40, "COMPLETED", "main", "E" * 100)
    headings = ("task", "name", "state", "pool", "error")
    shown = []
    for width in (120, 60, 45):
        terminal(width)
        print_table(headings, [row], cut={"name": 8, "error": 20}, drop=("pool", "state"))
        first, second = printed(capsys)
        assert max(len(first), len(second)) <= width
        shown.append(first.split())
    assert shown[0] == shown[1] == ["TASK", "NAME", "STATE", "POOL", "ERROR"]
    assert shown[2] == ["TASK", "NAME", "ERROR"] or shown[2] == ["TASK", "NAME", "STATE", "ERROR"]


def test_a_long_name_is_cut_in_a_pipe_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "state"), [("x" * 300, "READY"), (EVIL, "READY")], cut={"name": 8})
    lines = printed(capsys)
    assert len(lines) == 3 and all(len(line) < CELL_MOST + 20 for line in lines)
    assert "…" in lines[1] and r"a\nb\x1b]0;title\x07\r\u202e\udce9" in lines[2]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 6, "日本語"), ("日本語", 5, "日本…")],
)
def test_cells_are_cut_by_what_they_take_on_the_terminal(text: str, width: int, shown: str) -> None:
    assert shortened_cell(text, width) == shown


def test_no_command_reaches_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"name": EVIL})
    say(f"it is {EVIL}")
    note(EVIL)
    row = {"id": 1, "name": EVIL, "state": "OPEN", "paused": False, "tasks": 1, "unfinished": 0}
    print_sessions([{**row, "failed": 1, "outcome": "failed", "created": 0.0, "ended": None}])
    print(_line(Event(1, 0.0, "task", "FAILED", 1, "1.1", EVIL)))
    captured = capsys.readouterr()
    for line in (captured.out + captured.err).splitlines():
        assert click.unstyle(line).isprintable(), line


def test_a_message_is_told_once() -> None:
    told = last_words(
        {"type": "ValueError", "message": "no\nway", "detail": "T:\nValueError: no\nway"}
    )
    assert told == "T:\nValueError: no\nway"
    told = last_words({"type": "exit 3", "message": "as told", "detail": "the last lines"})
    assert told == "exit 3: as told\n\nthe last lines"
    assert last_words({"type": "timeout", "message": "2 s", "detail": ""}) == "timeout: 2 s"


def test_the_result_of_a_command_is_json() -> None:
    value = CommandResult("ls", 0, "a\n", {"out": Path("/tmp/a")})
    assert json.loads(json.dumps(plain({"x": [value]}))) == {
        "x": [
            {
                "command": "ls",
                "returncode": 0,
                "stdout": "a\n",
                "outputs": {"out": "/tmp/a"},
                "digests": {},
            }
        ]
    }


# --- what is told beside the answer ---------------------------------------------------------------


def test_that_there_is_no_head_is_said_once(site: Site) -> None:
    @click.command()
    def look() -> None:
        for _ in range(3):
            with asking(site) as ask:
                assert ask("tasks") == []

    result = CliRunner().invoke(look)
    assert result.exit_code == 0, result.exception
    assert result.stderr.count("no head of here runs") == 1 and len(result.stderr) < 80


@pytest.mark.parametrize(
    "option", ["--time-limit=5x", "--memory=lots", "--cores=-1", "--ranks=-1", "--retries=-1"]
)
def test_an_option_without_a_meaning_is_a_wrong_command_line(site: Site, option: str) -> None:
    result = CliRunner().invoke(cli, ["submit", "--site", str(site.directory), option, "true"])
    assert result.exit_code == 2, result.output
    assert not site.database.exists(), "a head was started for it"


@pytest.mark.parametrize(
    ("sinfo", "told"),
    [
        ("echo cpu; echo gpu", ""),
        ("echo gpu", "no partition 'cpu' (pool main); it has gpu"),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", "Unable to contact slurm"),
        ("", "sinfo was not found"),
    ],
)
def test_starting_a_head_tells_what_is_wrong_with_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sinfo: str, told: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if sinfo:
        (programs / "sinfo").write_text(f"#!/bin/sh\n{sinfo}\n")
        (programs / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    site = create_site(tmp_path / "cluster", "slurm")
    pool: Any = pool_type("slurm")
    pools = {"main": pool(partition="cpu"), "any": pool()}
    config = msgspec.structs.replace(site.config, pools=pools)
    here = msgspec.structs.replace(site, config=config)
    if not told:
        check_batch(here)
        return
    with pytest.raises(BatchError, match=re.escape(told)) as caught:
        check_batch(here)
    assert caught.value.exit_code == 6


# --- what a task was called with ------------------------------------------------------------------


def calls(function: Any, *rows: tuple[tuple[Any, ...], dict[str, Any]], **changes: Any) -> Any:
    """What the head answers."""
    made = [
        {
            "id": f"1.{number}",
            "name": "echo",
            "kind": "command",
            "payload": encode(row),
            "why": "",
            "inputs": [],
            "function": 0,
            **changes,
        }
        for number, row in enumerate(rows, 1)
    ]
    return lambda _name, tasks: {"functions": [encode(function)], "calls": made[: len(tasks)]}


def test_a_command_is_shown_as_it_runs(tmp_path: Path) -> None:
    command = ShellCommand("echo {n} {who}", cwd="/tmp", stdout="out-{n}", env={"A": "1"})
    ask = calls(command, ((), {"n": 3, "who": "it's me"}), ((), {"n": 4}))
    found = read_calls(ask, tmp_path, ["1.1", "1.2"])
    call = found["1.1"]
    assert call.command.startswith("echo 3 ") and "me" in call.command and call.is_named_so
    assert call.places == {"directory": "/tmp", "stdout": "out-3"}
    assert call.env == {"A": "1"} and call.arguments == 'n=3, who="it\'s me"'
    assert found["1.2"].command == "echo {n} {who}", "a parameter is missing"


def test_words_need_no_shell(tmp_path: Path) -> None:
    ask = calls(ShellCommand(("ls", "a b")), ((), {}), name="mine")
    (call,) = read_calls(ask, tmp_path, ["1.1"]).values()
    assert call.command == "ls 'a b'" and not call.is_named_so


def test_arguments_are_shown_in_short(tmp_path: Path) -> None:
    ask = calls(len, (([1] * 1000, "x" * 10_000, EVIL), {"deep": {"a": [[[1]]]}}))
    (call,) = read_calls(ask, tmp_path, ["1.1"]).values()
    assert not call.command and len(call.arguments) < 600 and call.arguments.isprintable()
    assert "deep=" in call.arguments


def test_what_cannot_be_read_here_is_said(tmp_path: Path) -> None:
    broken = encode(((), {})).replace(b"}", b"cnowhere\nThing\n", 1)
    ask = calls(len, ((), {}), payload=broken)
    (call,) = read_calls(ask, tmp_path, ["1.1"]).values()
    assert call.arguments.startswith("(they cannot be read here: ")
    ask = calls(len, ((), {}), payload=None, why="(3.0 MiB)")
    assert read_calls(ask, tmp_path, ["1.1"])["1.1"].arguments == "(3.0 MiB)"
    assert read_calls(ask, tmp_path, []) == {}


def test_large_arguments_are_told_by_their_size_and_not_read(tmp_path: Path) -> None:
    value = Value(5 << 30, path="results/1/nowhere.h5", name="/1/f/1.1/0")
    ask = calls(ShellCommand("echo"), ((), {}), payload=spilled(value))
    assert read_calls(ask, tmp_path, ["1.1"])["1.1"].arguments == "(5.0 GiB)"


def test_functions_of_python_tasks_are_not_read(tmp_path: Path) -> None:
    ask = calls(b"", ((1,), {}), kind="python")
    data = {**ask("calls", ["1.1"]), "functions": [b"no pickle"]}
    assert read_calls(lambda *_, **__: data, tmp_path, ["1.1"])["1.1"].arguments == "1"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_is_as_python_writes_it(data: Any) -> None:
    assert json_text(data, indent=2) == json.dumps(data, indent=2, ensure_ascii=False)


def test_json_of_what_utf_8_cannot_carry_is_escaped() -> None:
    assert json_text({"a": ["\udce9"]}, indent=2) == json.dumps({"a": ["\udce9"]}, indent=2)
