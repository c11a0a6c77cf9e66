"""The command line without a head: parsing, exit codes, what is printed, and the pure parts."""

from __future__ import annotations

import inspect
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.builders import spec, template

from pilot.cli import as_job as as_job_module
from pilot.cli import cli
from pilot.cli.commands import COMMANDS as LISTED
from pilot.cli.commands import run as run_module
from pilot.cli.commands.result import plain, save
from pilot.cli.commands.session import STATES as SESSION_STATES
from pilot.cli.commands.submit import exit_status
from pilot.cli.commands.task import SORTS, stages
from pilot.cli.lists import state_of
from pilot.cli.output import ago, amount, duration, moment, print_table
from pilot.cli.parameters import TASK, Number
from pilot.client.command import failure_text
from pilot.client.hints import Hint, hint_of
from pilot.client.logs import Output, follow, last_attempt
from pilot.client.progress import LineView, LiveView, Tally
from pilot.errors import CommandFailed, PilotError, ResultError, StorageError
from pilot.head import offline, queries, running
from pilot.head.core.core import Core
from pilot.head.core.events import TasksSubmitted
from pilot.head.head_jobs import HOST_VARIABLE, host_here
from pilot.head.lease import Lease
from pilot.head.store import search
from pilot.head.store.batch import Batch
from pilot.head.store.store import Store
from pilot.model.tasks import Environment
from pilot.site import Site, create_site
from pilot.site_configs import templates
from pilot.wire.messages.client import OpenSession

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PILOT_SITE", "PILOT_DEBUG", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PILOT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def pilot(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="pilot")


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, by the words that call it."""

    def inside(words: tuple[str, ...], group: click.Group) -> Iterator[Any]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from inside((*words, name), command)
            else:
                yield (*words, name), command

    return inside((), cli)


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", LISTED)
def test_the_list_says_of_each_command_what_its_help_begins_with(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.help
    begins = inspect.cleandoc(command.help).split("\n\n")[0]
    assert LISTED[name][1] == begins.replace("\n", " ")


# --- the whole -----------------------------------------------------------------------------------


def test_the_commands_are_those_that_are_promised() -> None:
    assert {" ".join(words) for words in COMMANDS} == {
        "init",
        "run",
        "submit",
        "retry",
        "doctor",
        "status",
        "why",
        "head start",
        "head stop",
        "head status",
        "site size",
        "site backup",
        "site reset",
        "site leave-out",
        "session list",
        "session show",
        "session wait",
        "session watch",
        "session pause",
        "session resume",
        "session budget",
        "session stop",
        "session close",
        "session cancel",
        "session purge",
        "session delete",
        "session gantt",
        "task list",
        "task show",
        "task attempts",
        "task cancel",
        "task logs",
        "result get",
        "result path",
        "result delete",
        "object list",
        "object show",
        "object rm",
        "object alias",
        "environment list",
        "environment rm",
        "events",
        "fleet list",
        "fleet explain",
        "fleet scale",
        "fleet hold",
        "fleet resume",
        "fleet drain",
        "fleet cancel",
        "fleet adopt",
        "compat path",
        "completion",
    }


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(words: tuple[str, ...], option: str) -> None:
    result = pilot(*words, option)
    assert result.exit_code == 0
    assert result.output.startswith(" ".join(["Usage: pilot", *words]))


def test_version() -> None:
    from pilot.version import __version__

    assert pilot("--version").output == f"pilot {__version__}\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_documentation_names_every_command_and_option(words: tuple[str, ...]) -> None:
    text = DOCUMENTATION.read_text()
    heading = f"### `pilot {' '.join(words)}"
    assert heading in text
    section = re.split(r"^##", text.split(heading, 1)[1], flags=re.MULTILINE)[0]
    for parameter in COMMANDS[words].params:
        is_told = isinstance(parameter, click.Option) and not parameter.hidden
        if is_told and "--site" not in parameter.opts:
            assert f"`{max(parameter.opts, key=len)}" in section


@pytest.mark.parametrize(
    "words",
    [words for words in COMMANDS if words[-1] in ("list", "show", "status")],
    ids=" ".join,
)
def test_what_lists_and_shows_can_do_it_in_json(words: tuple[str, ...]) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[words].params)


def test_importing_the_command_line_loads_nothing_large() -> None:
    code = "import sys, pilot.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    large = {"numpy", "h5py", "rich", "cloudpickle", "pilot.workflow", "sqlite3"}
    assert not large & set(loaded.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["task", "list", "--state", "SLEEPY"],
        ["task", "list", "--limit", "0"],
        ["task", "show"],
        ["task", "logs", "1.1", "-f", "--attempt", "1"],
        ["session", "show", "three"],
        ["result", "get", "1.1", "-o", "value.txt"],
        ["submit"],
        ["submit", "--cores", "many", "--", "true"],
        ["submit", "--env", "NOVALUE", "--", "true"],
        ["run"],
        ["run", "nosuch.yaml"],
        ["run", "file.txt"],
        ["run", "file.yaml", "-p", "x"],
        ["run", "file.yaml", "word"],
        ["run", "--detach", "program.py"],
        ["run", "-p", "x=1", "program.py"],
        ["init", "--template", "nosuch"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], tmp_path: Path) -> None:
    for name in ("file.txt", "file.yaml", "program.py"):
        (tmp_path / name).write_text("")
    result = pilot(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


#: What stands for a number and is none that can be: too large, too small, no whole one, none.
NO_NUMBERS = ("9" * 23, f"-{'9' * 23}", "1e30", "1.5.2", "nan", "x", "9" * 5000, "1" + "\0")


def _holds(parameter: click.Parameter) -> bool:
    """Whether the type of a parameter sees that a number, or an id, is within bounds."""
    return isinstance(parameter.type, (Number, type(TASK)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_number_and_id_has_bounds(words: tuple[str, ...]) -> None:
    for parameter in COMMANDS[words].params:
        unbounded = (type(click.INT), type(click.FLOAT), click.IntRange, click.FloatRange)
        assert not isinstance(parameter.type, unbounded), f"{parameter.name}: give it a Number"
        if re.search(r"(^|_)(ids?|session|subject)$", parameter.name or ""):
            assert _holds(parameter), f"{parameter.name}: give it the type of an id"


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=lambda text: text[:10])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_number_that_cannot_be_is_told_with_its_name(words: tuple[str, ...], wrong: str) -> None:
    for parameter in filter(_holds, COMMANDS[words].params):
        if isinstance(parameter, click.Option):
            name = max(parameter.opts, key=len)
            given = [f"{name}={wrong}"]
        else:
            name = str(parameter.make_metavar(click.Context(COMMANDS[words])))
            given = ["--", wrong]
        result = pilot(*words, *given)
        assert result.exit_code == 2, result.output
        assert f"Invalid value for '{name}'" in result.stderr
        assert len(result.stderr) < 1000


@pytest.mark.parametrize("wrong", ["9" * 23 + "d", "9" * 5000 + "d", "1e30", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--timeout", ["session", "wait", "1"]),
        ("--since", ["session", "list"]),
        ("--created-since", ["task", "list"]),
        ("--created-until", ["task", "list"]),
        ("--ended-since", ["task", "list"]),
        ("--ended-until", ["task", "list"]),
        ("time_limit", ["submit"]),
    ],
)
def test_a_time_that_cannot_be_is_told_with_its_name(
    option: str, words: list[str], wrong: str
) -> None:
    given = f"--time-limit={wrong}" if option == "time_limit" else f"{option}={wrong}"
    result = pilot(*words, given, *(["--", "true"] if words == ["submit"] else []))
    assert result.exit_code == 2 and option in result.stderr
    assert "Traceback" not in result.output and len(result.stderr) < 1000


@pytest.mark.parametrize("wrong", ["9" * 23 + "T", "9" * 5000, "1e30G", "-1G", "nan"])
def test_memory_that_cannot_be_is_told_with_its_name(wrong: str) -> None:
    result = pilot("submit", f"--memory={wrong}", "--", "true")
    assert result.exit_code == 2 and "memory: " in result.stderr
    assert len(result.stderr) < 1000


def test_an_error_is_one_message_and_its_own_exit_code() -> None:
    result = pilot("--site", "nosuch", "status")
    assert result.exit_code == 3
    assert result.stderr.startswith("pilot: there is no site 'nosuch'")
    assert "Traceback" not in result.output


def test_the_traceback_is_there_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_DEBUG", "1")
    result = pilot("status", "--site", "nosuch")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["status",], "callback", interrupted)
    result = pilot("status")
    assert result.exit_code == 130
    assert result.stderr == "pilot: interrupted\n"


def test_the_site_may_stand_before_and_behind(home: Path) -> None:
    for name in ("a", "b"):
        create_site(home / name, "local")
    assert json.loads(pilot("-s", "a", "status", "--json").stdout)["site"] == "a"
    assert json.loads(pilot("-s", "a", "status", "--json", "-s", "b").stdout)["site"] == "b"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = pilot("completion", shell)
    assert result.exit_code == 0
    assert "_PILOT_COMPLETE" in result.output


def completed(words: str, incomplete: str) -> list[str]:
    """What bash is offered."""
    environment = {
        **os.environ,
        "_PILOT_COMPLETE": "bash_complete",
        "COMP_WORDS": f"{words} {incomplete}",
        "COMP_CWORD": str(len(words.split())),
    }
    code = "from pilot.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert not done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_completion_knows_commands_and_sites(home: Path) -> None:
    create_site(home / "cluster", "local")
    assert completed("pilot", "se") == ["session"]
    assert completed("pilot status --site", "cl") == ["cluster"]


def test_completion_knows_sessions_tasks_and_parameters(site: Site, tmp_path: Path) -> None:
    site.prepare()
    store = Store(site.database)
    core, batch = Core(), Batch()
    for name in ("first", "second"):
        session = store.add_session(OpenSession(1, name, Environment("/")), 1.0)
        known = template(session, session)
        tasks = [spec(session << 32 | n, session) for n in (1, 2)]
        batch.add_templates([known])
        batch.add_tasks(core.apply(TasksSubmitted(session, [known], tasks, {}), 1.0).accepted)
    store.write(batch, lambda _: None)
    store.close()
    assert completed("pilot session show", "") == ["2", "1"]
    assert completed("pilot task show", "2.") == ["2.2", "2.1"]
    assert completed("pilot task show", "1.1") == ["1.1"]
    assert completed("pilot why", "1") == ["1", "1.2", "1.1"]
    (tmp_path / "w.yaml").write_text("parameters: {alpha: 1, beta: 2}\ntasks: {}\n")
    assert completed("pilot run w.yaml -p", "") == ["alpha=", "beta="]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_any_name_is_printed_in_any_encoding(site: Site, encoding: str) -> None:
    site.prepare()
    store = Store(site.database)
    store.add_session(OpenSession(1, "日本\u2026é", Environment("/")), 1.0)
    store.close()

    def told(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pilot", *words],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(encoding)

    shown = "日本…é".encode(encoding, "backslashreplace").decode(encoding)
    assert shown in told("session", "list")
    (row,) = json.loads(told("session", "list", "--json"))
    assert row["name"] == "日本…é"


# --- init ----------------------------------------------------------------------------------------


def test_init_lists_all_templates(home: Path) -> None:
    """Its help, its message and the shell name each one; the shell says what it is, too."""
    wrong = pilot("init", "-t", "nosuch").stderr
    help_ = " ".join(pilot("init", "--help").output.split())
    assert "there is no template 'nosuch'; there are" in wrong
    for name, meaning in templates().items():
        assert re.search(rf"(?m)^  {name} +{re.escape(meaning)}$", wrong)
        assert f"{name} {meaning}" in help_
    assert completed("pilot init -t", "") == [*templates()]
    option = next(p for p in COMMANDS["init",].params if p.name == "template")
    with click.Context(COMMANDS["init",]) as context:
        offered = option.shell_complete(context, "lo")
    assert [(item.value, item.help) for item in offered] == [("local", templates()["local"])]


def test_init_makes_a_site_and_says_what_to_edit(home: Path) -> None:
    result = pilot("init", "--template", "slurm", "cluster")
    assert result.exit_code == 0
    file = home / "cluster" / "site.yaml"
    assert f"made site cluster: {file}" in result.output
    lines = file.read_text().splitlines()
    told = re.findall(rf"{re.escape(str(file))}:(\d+): (.*)", result.output)
    assert [text for _, text in told] == [lines[int(number) - 1].strip() for number, _ in told]
    keys = [re.sub(r"^# ", "", text).partition(":")[0] for _, text in told]
    assert keys == [
        "address",
        "setup",
        "partition",
        "account",
        "cores_per_node",
        "memory_per_node",
        "max_nodes",
        "walltime",
    ]


def test_init_takes_a_path_and_never_overwrites(tmp_path: Path) -> None:
    assert pilot("init", "./here").exit_code == 0
    file = tmp_path / "here" / "site.yaml"
    file.write_text(file.read_text() + "# mine\n")
    again = pilot("init", "./here")
    assert again.exit_code == 3
    assert "exists already" in again.stderr
    assert file.read_text().endswith("# mine\n")


def test_init_without_a_name_takes_the_template_s(home: Path) -> None:
    assert pilot("init", "-t", "virtual").exit_code == 0
    assert (home / "virtual" / "site.yaml").is_file()


# --- run -----------------------------------------------------------------------------------------


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    (tmp_path / "cli_workflow_module.py").write_text("def double(x):\n    return 2 * x\n")
    file = tmp_path / "double.yaml"
    file.write_text(
        "parameters: {n: 3}\n"
        "tasks:\n"
        "  double:\n"
        "    python: cli_workflow_module:double\n"
        "    foreach: {x: {from: 1, to: '${n}'}}\n"
        "    args: ['${x}']\n"
        "results: {all: '${tasks.double}'}\n"
    )
    return file


def test_dry_run_prints_the_graph_and_needs_no_site(
    workflow: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("PILOT_SITE", "nosuch")
    result = pilot("run", workflow, "--dry-run", "-p", "n=5")
    assert result.exit_code == 0
    assert result.output.startswith("double: 5 tasks\n")
    data = json.loads(pilot("run", "--dry-run", "--json", workflow).stdout)
    assert (data["count"], data["tasks"][0]["name"]) == (3, "double")
    assert not home.exists()


def test_an_error_in_a_workflow_names_file_and_line(workflow: Path) -> None:
    workflow.write_text(workflow.read_text().replace("foreach", "for_each"))
    result = pilot("run", workflow)
    assert result.exit_code == 4
    assert result.stderr.startswith(f"pilot: {workflow}:5: ")


def test_a_parameter_that_is_not_there(workflow: Path) -> None:
    result = pilot("run", workflow, "-p", "m=5")
    assert result.exit_code == 4
    assert "'m'" in result.stderr


def test_a_program_gets_its_arguments_and_the_site(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = create_site(tmp_path / "site", "local")
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys\n"
        "print(json.dumps([sys.argv[1:], os.environ['PILOT_SITE']]))\n"
        "sys.exit(7)\n"
    )
    words = [
        "run",
        "-s",
        str(site.directory),
        str(program),
        "x",
        "-p",
        "y",
        "--site",
        "z",
        "--help",
    ]
    assert pilot(*words).exit_code == 7
    assert json.loads(capfd.readouterr().out) == [words[4:], str(site.directory)]


def test_a_limit_of_threads_is_one_line_that_names_it(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(run_module, "_run_workflow", fails)
    result = pilot("run", workflow)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "no more processes and threads" in line and "ulimit -u" in line


def test_a_program_that_is_killed_ends_as_in_a_shell(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert pilot("run", program).exit_code == 137


class TestInABatchJob:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        calls: list[tuple[str, str]] = []

        def ensure_head(site: Site) -> None:
            host = host_here(site)
            assert host is not None and host.adopts
            calls.append(("start", host.job))

        monkeypatch.setattr("pilot.client.starter.ensure_head", ensure_head)
        monkeypatch.setattr(
            as_job_module, "end_program", lambda site, job: calls.append(("stop", job))
        )
        monkeypatch.setenv("SLURM_JOB_ID", "4711")
        monkeypatch.setenv(HOST_VARIABLE, "")  # what is set in it does not stay
        return calls

    @pytest.fixture
    def program(self, tmp_path: Path) -> Path:
        program = tmp_path / "program.py"
        program.write_text("")
        return program

    def test_the_head_uses_the_job_and_ends_with_the_run(
        self, calls: list[tuple[str, str]], program: Path, home: Path
    ) -> None:
        create_site(home / "cluster", "slurm")
        assert pilot("run", "-s", "cluster", program).exit_code == 0
        assert calls == [("start", "4711"), ("stop", "4711")]

    def test_it_ends_also_after_an_error(
        self, calls: list[tuple[str, str]], workflow: Path, home: Path, monkeypatch: Any
    ) -> None:
        def fails(*_: object) -> int:
            raise PilotError("it fails")

        create_site(home / "cluster", "slurm")
        monkeypatch.setattr(run_module, "_run_workflow", fails)
        assert pilot("run", "-s", "cluster", workflow).exit_code == 1
        assert calls == [("start", "4711"), ("stop", "4711")]

    def test_a_head_that_runs_is_left_alone(
        self, calls: list[tuple[str, str]], program: Path, home: Path, monkeypatch: Any
    ) -> None:
        create_site(home / "cluster", "slurm")
        monkeypatch.setattr("pilot.head.running.find_head", lambda _: object())
        assert pilot("run", "-s", "cluster", program).exit_code == 0
        assert calls == [("stop", "4711")], "which that of another job does not heed"

    def test_a_site_without_slurm_has_nothing_to_do_with_the_job(
        self, calls: list[tuple[str, str]], program: Path
    ) -> None:
        assert pilot("run", program).exit_code == 0
        assert calls == []


# --- without a head ------------------------------------------------------------------------------


@pytest.fixture
def site(home: Path) -> Site:
    return create_site(home / "local", "local")


def test_a_site_that_never_had_a_head(site: Site) -> None:
    assert pilot("head", "status").exit_code == 3
    assert json.loads(pilot("head", "status", "--json").stdout)["running"] is False
    assert "the head does not run, 0 unfinished tasks" in pilot("status").stdout
    assert pilot("events").stdout == ""
    for words in (("task", "list"), ("session", "list"), ("fleet", "list", "--all")):
        result = pilot(*words, "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (0, [])
        assert "no head of local runs" in result.stderr
    assert pilot("task", "show", "1.1").exit_code == 1
    assert pilot("session", "show").exit_code == 1
    assert pilot("head", "stop").exit_code == 0
    assert not site.database.exists()


def test_while_somebody_has_the_lease_the_file_is_not_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_SETTLE_S", 0.05)
    lease = Lease(site.lease_file, 1.0, 10.0)
    lease.acquire()
    try:
        result = pilot("task", "list")
    finally:
        lease.release()
    assert result.exit_code == 5
    assert "starts or ends right now" in result.stderr


def test_a_journal_that_must_be_rolled_back_is_left_to_the_head(site: Site) -> None:
    site.database.write_bytes(b"half written")
    (site.directory / "tasks.db-journal").write_bytes(b"what was there before")
    result = pilot("task", "list")
    assert result.exit_code == 5
    assert "`pilot head start` sets it right" in result.stderr


def test_a_file_that_is_no_database(site: Site) -> None:
    site.database.write_bytes(b"no database at all, but long enough to be one" * 100)
    result = pilot("task", "list")
    assert result.exit_code == 5
    assert "cannot be read" in result.stderr


def test_the_states_are_those_of_the_head() -> None:
    assert SORTS == search.SORTS
    assert set(SESSION_STATES) == set(queries._SESSION_STATES)


# --- filters -------------------------------------------------------------------------------------


class TestFilters:
    """What is written on the command line, and what the head is asked then."""

    @pytest.fixture
    def asked(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        def answer(_site: Site, query: str, arguments: dict[str, Any]) -> list[Any]:
            asked.update(arguments, query=query)
            return []

        monkeypatch.setattr(offline, "answer", answer)
        return asked

    def test_all_of_them(self, asked: dict[str, Any]) -> None:
        words = "--session 3 --state failed --failed --name a --name b --pool p --error E"
        order = "--sort ended --reverse --limit 5 --offset 2"
        times = ["--created-since", "2026-11-20", "--ended-until", "2026-11-20 14:30:05"]
        assert pilot("task", "list", *words.split(), *order.split(), *times).exit_code == 0
        assert asked == {
            "query": "tasks",
            "session": 3,
            "state": ["FAILED", "FAILED", "TIMED_OUT"],
            "name": ["a", "b"],
            "pool": ["p"],
            "error": ["E"],
            "current": True,
            "created_since": datetime(2026, 11, 20).timestamp(),
            "created_until": None,
            "ended_since": None,
            "ended_until": datetime(2026, 11, 20, 14, 30, 5).timestamp(),
            "sort": "ended",
            "reverse": True,
            "limit": 6,
            "offset": 2,
        }

    def test_none(self, asked: dict[str, Any]) -> None:
        assert pilot("task", "list", "--count").exit_code == 0
        assert asked.pop("query") == "task_counts"
        assert set(asked.values()) == {None}

    @pytest.mark.parametrize(
        ("age", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259200), ("45", 45)]
    )
    def test_ages(self, asked: dict[str, Any], age: str, seconds: float) -> None:
        before = time.time() - seconds
        assert pilot("session", "list", "--since", age, "--state", "paused").exit_code == 0
        assert before <= asked["since"] <= time.time() - seconds
        assert (asked["state"], asked["name"]) == (["PAUSED"], None)


@pytest.mark.parametrize(
    "words",
    [
        "task list --ended-since yesterday",
        "task list --ended-since 2026-13-01",
        "task list --state DONE",
        "task list --sort size",
        "session list --state RUNNING",
        "session pause",
        "session pause x",
        "task cancel",
        "events --session 1 --task 1.1",
    ],
)
def test_what_cannot_be_meant_is_refused(site: Site, words: str) -> None:
    result = pilot(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: pilot" in result.stderr


# --- what is printed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-0.001, "0.0 ms"),
        (0.00012, "0.1 ms"),
        (0.9994, "999.4 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1m 00s"),
        (200, "3m 20s"),
        (3599.6, "1h 00m"),
        (7500, "2h 05m"),
        (86400 * 3 + 4 * 3600, "3d 04h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("before", "text"),
    [(-5, "0s ago"), (59, "59s ago"), (60, "1m ago"), (7300, "2h ago"), (200000, "2d ago")],
)
def test_ago(before: float, text: str) -> None:
    assert ago(1e9 - before, 1e9) == text
    assert ago(None) == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_amount(size: int, text: str) -> None:
    assert amount(size) == text


def test_moments_to_the_millisecond() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.250", moment(1e9 + 0.25, exact=True))


def test_the_stages_of_an_attempt_are_those_it_came_to() -> None:
    attempt = dict.fromkeys(("created", "ready", "assigned", "ended", "reported", "committed"), 5.0)
    rows = stages({**attempt, "received": 0.0, "fetched": None, "started": 0.0, "ended": 6.5})
    assert [(stage, after) for stage, _, after in rows] == [
        ("created", ""),
        ("ready", "0.0 ms"),
        ("assigned", "0.0 ms"),
        ("ended", "1.5 s"),
        ("reported", "0.0 ms"),
        ("committed", "0.0 ms"),
    ]


@pytest.mark.parametrize(
    ("state", "paused", "shown"),
    [
        ("OPEN", False, "OPEN"),
        ("OPEN", True, "PAUSED"),
        ("STOPPED", True, "STOPPED, PAUSED"),
        ("CLOSED", True, "CLOSED"),
    ],
)
def test_sessions_that_are_paused_say_so(state: str, paused: bool, shown: str) -> None:
    assert state_of({"state": state, "paused": paused}) == shown


def test_a_table_without_a_terminal_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "number"), [("long name", 5), ("", 1234), (None, 17)])
    assert capsys.readouterr().out.splitlines() == [
        "NAME       NUMBER",
        "long name       5",
        "-            1234",
        "-              17",
    ]


def test_a_table_on_a_terminal_shows_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("state", "tasks"), [("COMPLETED", 5), ("[red]", 1)])
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert [line.split() for line in lines] == [
        ["STATE", "TASKS"],
        ["COMPLETED", "5"],
        ["[red]", "1"],
    ]


# --- logs ----------------------------------------------------------------------------------------


def span(path: str, start: int, end: int, attempt: int = 1) -> dict[str, Any]:
    return {"path": path, "start": start, "end": end, "attempt": attempt}


class TestLogs:
    @pytest.fixture
    def shown(self) -> list[bytes]:
        return []

    @pytest.fixture
    def output(self, tmp_path: Path, shown: list[bytes]) -> Output:
        (tmp_path / "a.out").write_bytes(b"before|mine|after")
        (tmp_path / "b.out").write_bytes(b"other")
        return Output(tmp_path, shown.append)

    def test_only_the_task_s_part_is_shown_and_only_once(
        self, output: Output, shown: list[bytes]
    ) -> None:
        output.show([span("a.out", 7, 11)])
        output.show([span("a.out", 7, 11)])
        assert b"".join(shown) == b"mine"

    def test_a_running_task_is_shown_to_the_end(self, output: Output, shown: list[bytes]) -> None:
        output.show([span("a.out", 7, -1)])
        assert b"".join(shown) == b"mine|after"

    def test_what_was_written_after_the_question_waits(
        self, output: Output, shown: list[bytes], tmp_path: Path
    ) -> None:
        output.show([span("a.out", 7, -1)])
        known = output.sizes()
        with (tmp_path / "a.out").open("ab") as file:
            file.write(b"|next task")
        output.show([span("a.out", 7, -1)], known)
        assert b"".join(shown) == b"mine|after"
        output.show([span("a.out", 7, 18)])
        assert b"".join(shown) == b"mine|after|"

    def test_several_files_have_headings(self, output: Output, shown: list[bytes]) -> None:
        output.show([span("a.out", 7, 11), span("b.out", 0, 5)])
        assert b"".join(shown) == b"==> a.out <==\nmine==> b.out <==\nother"

    def test_a_file_that_is_gone(self, output: Output, shown: list[bytes]) -> None:
        output.show([span("c.out", 0, 5)])
        assert b"c.out is gone" in shown[0]

    def test_following_ends_with_the_task(
        self, output: Output, shown: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pilot.client.logs.POLL_S", 0.0)
        answers = iter(
            [
                (False, []),
                (False, [span("b.out", 0, -1)]),
                (True, [span("b.out", 0, 5), span("a.out", 7, 11, attempt=2)]),
            ]
        )
        follow(output, lambda: next(answers))
        assert b"".join(shown) == b"othermine"

    def test_the_last_attempt(self) -> None:
        spans = [span("a.out", 0, 1, 1), span("a.out", 5, 6, 3), span("b.out", 0, 1, 3)]
        assert last_attempt(spans) == spans[1:]
        assert last_attempt([]) == []


# --- results -------------------------------------------------------------------------------------


def test_plain_values() -> None:
    value = {1: (np.float64(2.5), np.arange(3)), "p": Path("/a"), "n": float("nan"), "o": {1}}
    assert plain(value) == {"1": [2.5, [0, 1, 2]], "p": "/a", "n": None, "o": "{1}"}


def test_values_are_saved_as_the_name_says(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    save(array, tmp_path / "x.npy")
    save(array, tmp_path / "x.json")
    save({"a": array}, tmp_path / "x.pkl")
    assert np.array_equal(np.load(tmp_path / "x.npy"), array)
    assert json.loads((tmp_path / "x.json").read_text()) == array.tolist()
    assert np.array_equal(pickle.loads((tmp_path / "x.pkl").read_bytes())["a"], array)
    assert len(list(tmp_path.glob("*x.*"))) == 3


@pytest.mark.parametrize("value", [{"a": 1}, [[1, 2], [3]], ["a", object()]], ids=repr)
def test_what_is_no_array_is_not_saved_as_one(value: object, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is no array"):
        save(value, tmp_path / "x.npy")
    assert not list(tmp_path.glob("*x.npy*"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nosuch/x\.json cannot be written"):
        save(1, tmp_path / "nosuch" / "x.json")


# --- submit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"), [(1, 1), (127, 127), (255, 255), (-9, 137), (-15, 143)]
)
@pytest.mark.parametrize("output", ["", "exit status 4\n", "a: exit status 9"])
def test_the_exit_status_of_a_command(status: int, code: int, output: str) -> None:
    command = "sh -c 'echo x: exit status 5\nfalse'"
    error = CommandFailed(failure_text(command, status, output), status)
    assert exit_status(error) == code
    assert exit_status(pickle.loads(pickle.dumps(error))) == code


def test_an_error_that_is_no_exit_status() -> None:
    assert exit_status(PilotError("command not found: nosuch; is it…")) is None
    assert exit_status(ValueError("something else")) is None


# --- progress ------------------------------------------------------------------------------------


def head(trouble: str = "") -> dict[str, Any]:
    return {"trouble": trouble}


def pilot_row(state: str, **changes: Any) -> dict[str, Any]:
    row = {"state": state, "cores": None, "job": "17", "waits_for": "", "expected": None}
    return {**row, "started": None, "draining": False, "reason": "", "order": None, **changes}


def test_hints() -> None:
    running = pilot_row("RUNNING", cores=8)
    queued = pilot_row("QUEUED", waits_for="Priority")
    assert hint_of(head(), []) == Hint()
    assert hint_of(head(), [queued]) == Hint(
        "waiting for 1 pilot: job 17 waits for Priority", waiting=True
    )
    intended = pilot_row("INTENDED", job=None)
    assert hint_of(head(), [intended]).text == "waiting for 1 pilot: being submitted"
    assert hint_of(head(), [queued, running, running]) == Hint(
        "2 pilots, 16 cores; 1 more in the queue"
    )
    assert hint_of(head("no sbatch"), [queued]) == Hint("no sbatch", waiting=True)
    assert hint_of(head("no sbatch"), [running]).waiting is False


def test_the_tally_counts_by_group_and_ends_with_the_last() -> None:
    futures: list[Future[int]] = [Future() for _ in range(4)]
    futures[0].set_result(1)
    tally = Tally({"a": futures[:3], "b": futures[3:]})
    futures[1].set_exception(ValueError())
    futures[2].cancel()
    futures[2].set_running_or_notify_cancel()
    assert not tally.wait(0.0)
    assert (tally.done, tally.ended, tally.total) == ({"a": 3, "b": 0}, 3, 4)
    assert tally.words(0.0) == ["1 failed", "1 cancelled"]
    threading.Timer(0.01, futures[3].set_result, [1]).start()
    assert tally.wait(30.0)
    assert tally.bad == {"failed": 1, "aborted": 0, "cancelled": 1}


def test_what_ended_before_anybody_looked_says_nothing_of_the_rest() -> None:
    tally = Tally({})
    tally.take({"COMPLETED": 900, "ABORTED": 1, "RUNNING": 2, "READY": 97})
    assert (tally.total, tally.ended) == (1000, 901)
    assert tally.words(10.0) == ["2 running", "1 aborted"]
    tally.take({"COMPLETED": 910, "ABORTED": 1, "FAILED": 1, "TIMED_OUT": 2, "READY": 86})
    assert tally.words(13.0) == ["3 failed", "1 aborted", "about 1m 26s left"]
    assert tally.words(3.0)[-1].endswith(" s left") and "." not in tally.words(3.0)[-1]


def test_the_bar_takes_what_the_terminal_has_and_names_leave_it_room() -> None:
    from rich.console import Console

    futures = {"evil\x1b[31m[red]name" + "x" * 300: [Future[int]()], "b": [Future[int]()] * 2}
    view = LiveView(Tally(futures))
    futures["b"][0].set_result(1)
    for width in (60, 80, 200):
        view._live.console = console = Console(file=io.StringIO(), width=width)
        view.show(Hint("1 pilot"))
        for row in view._bars.task_ids:
            view._bars.update(row, visible=True)
        with console.capture() as captured:
            console.print(view._bars)
        lines = captured.get().splitlines()
        assert [len(line) for line in lines] == [width] * 3
        assert lines[1].startswith(r"  evil\x1b[31m[red]name") and "━" in lines[0]


def test_lines_come_when_there_is_something_to_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr("pilot.client.progress.time.monotonic", lambda: clock)
    futures: list[Future[int]] = [Future() for _ in range(2)]
    view = LineView(Tally({"a": futures}))
    waiting = Hint("waiting for 1 pilot: job 17", waiting=True)
    view.show(Hint())
    view.show(waiting)
    view.show(waiting)
    futures[0].set_exception(ValueError())
    view.show(Hint("1 pilot, 2 cores"))
    clock += 10.0
    view.show(Hint("1 pilot, 2 cores"))
    view.show(Hint("1 pilot, 2 cores"))
    assert capsys.readouterr().err.splitlines() == [
        "pilot: 0 of 2 tasks ended; waiting for 1 pilot: job 17",
        "pilot: 1 of 2 tasks ended, 1 failed, about 10 s left; 1 pilot, 2 cores",
    ]
