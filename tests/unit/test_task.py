"""Tasks as users make them: options, direct calls, commands, and how they travel."""

from __future__ import annotations

import functools
import pickle
import re
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tasks

import pilot
from pilot.client.command import CommandResult, ShellCommand, failure_text
from pilot.client.task import COMMAND, MPI_COMMAND, OptionError, Task, as_task
from pilot.data.pickles import decode, encode
from pilot.errors import CommandError, CommandFailed, PilotError
from pilot.scheduler.amounts import UNIT


@pilot.task(cores=2)
def decorated(x: int) -> int:
    """Say something."""
    return x + 1


def resolve(task: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    return task.task_options.resolve(args, kwargs)


# --- functions ------------------------------------------------------------------------------------


def test_task_is_called_like_its_function() -> None:
    assert decorated(3) == 4
    assert (decorated.__name__, decorated.__doc__) == ("decorated", "Say something.")
    assert pilot.task(lambda: 5)() == 5


def test_both_forms_of_the_decorator() -> None:
    assert pilot.task(tasks.square)(3) == 9
    assert pilot.task()(tasks.square)(3) == 9
    assert pilot.mpi(ranks=2)(tasks.square)(3) == 9


def test_options_give_a_copy() -> None:
    changed = decorated.options(cores=4, priority=2)
    assert changed(3) == 4 and changed is not decorated
    assert resolve(changed, 1).resources.cores == 4
    assert resolve(decorated, 1).resources.cores == 2


def test_options_in_the_programs_units() -> None:
    made = pilot.task(cores=2, memory="1.5G", gpus=1, time_limit="1m")(tasks.square)
    resolved = resolve(made, 1)
    assert resolved.time_limit_s == 60.0
    resources = resolved.resources
    assert (resources.cores, resources.memory_mib, resources.gpus, resources.ranks) == (
        2,
        1536,
        1,
        1,
    )


def test_options_may_depend_on_the_arguments() -> None:
    made = pilot.task(
        cores=lambda n, **_: n, memory=lambda n, **_: f"{n}G", time_limit=lambda n, slow: n * slow
    )(tasks.square)
    resolved = resolve(made, 3, slow=10)
    assert (resolved.resources.cores, resolved.resources.memory_mib) == (3, 3072)
    assert resolved.time_limit_s == 30.0
    with pytest.raises(OptionError, match="cores='x': give a whole number"):
        resolve(pilot.task(cores=lambda: "x")(tasks.square))


def test_no_more_ranks_on_a_node_than_there_are() -> None:
    made = pilot.mpi(ranks=2, ranks_per_node=4)(tasks.square)
    assert resolve(made, 1).resources.ranks_per_node == 2


@pytest.mark.parametrize(
    ("named", "names"),
    [
        (None, ()),
        (ValueError, ("ValueError",)),
        ("ValueError", ("ValueError",)),
        ([OSError, "KeyError"], ("OSError", "KeyError")),
        (75, ("exit 75",)),
        ((75, TimeoutError), ("exit 75", "TimeoutError")),
        ((-9, "exit 3"), ("exit -9", "exit 3")),
    ],
)
def test_names_of_failures(named: Any, names: tuple[str, ...]) -> None:
    assert pilot.task(retry_on=named)(tasks.square).task_options.retry_names() == names
    assert pilot.task(no_retry_on=named)(tasks.square).task_options.no_retry_names() == names


@pytest.mark.parametrize(
    ("returns", "count", "names"), [(1, 1, ()), (3, 3, ()), (["a", "b"], 2, ("a", "b"))]
)
def test_returns(returns: Any, count: int, names: tuple[str, ...]) -> None:
    options = pilot.task(returns=returns)(tasks.square).task_options
    assert (options.return_count, options.return_names) == (count, names)


@pytest.mark.parametrize(
    "options",
    [
        {"cores": -1},
        {"cores": True},
        {"cores": 2.0},
        {"gpus": -1},
        {"gpus": 0.00001},
        {"gpus": "much"},
        {"ranks": 0},
        {"ranks_per_node": 0},
        {"memory": "4 apples"},
        {"time_limit": "never"},
        {"retries": -1},
        {"retries": 1.5},
        {"max_crashes": -1},
        {"priority": "high"},
        {"returns": 0},
        {"returns": []},
        {"returns": "name"},
        {"on_failure": "panic"},
        {"core": 1},
    ],
)
def test_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        pilot.task(**options)(tasks.square)
    assert next(iter(options)) in str(caught.value)


@pytest.mark.parametrize("thing", [5, None, "text"])
def test_what_cannot_be_called_is_no_task(thing: Any) -> None:
    with pytest.raises(OptionError, match="a task is made of a function"):
        as_task(thing)


def test_coroutines_are_no_tasks() -> None:
    async def later() -> None: ...

    with pytest.raises(OptionError, match="later is a coroutine function"):
        as_task(later)


def test_classes_and_bound_methods_are_tasks() -> None:
    assert as_task(int)("5") == 5
    assert as_task([1, 2, 2].count)(2) == 2


def test_task_travels_by_name_where_it_can_be_imported() -> None:
    local = 7

    @pilot.task(priority=3)
    def closure(x: int) -> int:
        return x + local

    again = decode(encode(closure))
    assert again(1) == 8 and again.task_options.priority == 3


# --- commands -------------------------------------------------------------------------------------


def command(text: str | tuple[str, ...], **fields: Any) -> ShellCommand:
    return ShellCommand(text, **fields)


@pytest.mark.parametrize(
    ("text", "arguments", "line"),
    [
        ("echo {a}", {"a": "x y"}, "echo 'x y'"),
        ("echo {a}", {"a": "$(rm -rf /)"}, "echo '$(rm -rf /)'"),
        ("echo {a:raw}", {"a": "x | y"}, "echo x | y"),
        ("echo {a}", {"a": ["1 2", 3]}, "echo '1 2' 3"),
        ("echo {a:.2f}", {"a": 3.14159}, "echo 3.14"),
        ("echo {a}", {"a": Path("/tmp/a b")}, "echo '/tmp/a b'"),
        ("echo {{a}}", {}, "echo {a}"),
        ("echo {a}", {"a": ""}, "echo ''"),
    ],
)
def test_parameters_of_a_command(text: str, arguments: dict[str, Any], line: str) -> None:
    assert command(text).line((), arguments) == line


def test_words_are_taken_as_they_are() -> None:
    assert command(("echo", "{a}", "$b")).argv((), {}) == ["echo", "{a}", "$b"]


def test_positions() -> None:
    assert command("echo {0} {1}").line(("a", "b c"), {}) == "echo a 'b c'"


def test_missing_parameter() -> None:
    with pytest.raises(PilotError, match=r"'echo \{a\}': it needs a parameter 'a'"):
        command("echo {a}").argv((), {})


def test_empty_command() -> None:
    with pytest.raises(OptionError, match="the command is empty"):
        pilot.shell("")


def test_command_called_here(tmp_path: Path) -> None:
    make = pilot.shell("echo {text} > {out}", outputs=["out"])
    result = make(text="hello", out=tmp_path / "file")
    assert result.outputs == {"out": tmp_path / "file"}
    assert (tmp_path / "file").read_text() == "hello\n"
    with pytest.raises(CommandFailed, match="exit status 3"):
        pilot.shell("exit 3")()


def test_called_here_a_command_does_what_its_task_does(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from a file\n")
    command = pilot.shell(
        "cat; echo $COLOUR; echo wrong >&2",
        cwd=tmp_path,
        stdin="in.txt",
        stdout="out-{name}.txt",
        stderr=Path("err-{name}.txt"),
        env={"COLOUR": "green"},
    )
    assert command(name="a").stdout == ""
    assert (tmp_path / "out-a.txt").read_text() == "from a file\ngreen\n"
    assert (tmp_path / "err-a.txt").read_text() == "wrong\n"
    both = pilot.shell("echo 1; echo 2 >&2; echo 3", stdout="{f}", stderr="{f}", cwd=tmp_path)
    both(f="both")
    assert (tmp_path / "both").read_text() == "1\n2\n3\n"
    mixed = pilot.shell("echo 1; echo 2 >&2; cat; echo 3; printf '\\351'; exit 2", success=[2])
    assert (mixed().stdout, mixed().returncode) == ("1\n2\n3\n\ufffd", 2)
    assert len(pilot.shell("yes | head -c 100000")().stdout) == 64 * 1024
    with pytest.raises(PilotError, match=r"nosuch\.txt, which is to be its standard input"):
        pilot.shell("cat", stdin="nosuch.txt", cwd=tmp_path)()


@pytest.mark.parametrize(
    ("words", "told", "status"),
    [
        (["nosuch-program"], "command not found: nosuch-program", 127),
        (["./not-executable"], "not-executable cannot be started: Permission denied", 126),
        (["cat", "x" * 1_000_000] * 3, "longer than the system takes", 126),
    ],
)
def test_a_command_that_cannot_be_started_has_the_exit_status_of_a_shell(
    tmp_path: Path, words: list[str], told: str, status: int
) -> None:
    (tmp_path / "not-executable").touch()
    with pytest.raises(CommandFailed, match=told) as caught:
        pilot.shell(words, cwd=tmp_path)()
    assert caught.value.returncode == status


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        (5, {}, "the command 5: give a text, or a list of words"),
        (b"ls", {}, "give a text, or a list of words"),
        ([], {}, "the command is empty"),
        (" \n", {}, "the command is empty"),
        (["a", None], {}, "the command has None"),
        (["a\0"], {}, "NUL"),
        ("a", {"env": {"N": 4}}, 'env has \'N\': 4; give texts, such as "N": "4"'),
        ("a", {"env": ["N=4"]}, "give a dict of texts"),
        ("a", {"env": {"N=": "4"}}, "env has 'N=', which is no name"),
        ("a", {"env": {"N": "a\0"}}, "env has a NUL character"),
        ("a", {"cwd": 3}, "cwd=3: give the name of a file or directory"),
        ("a", {"cwd": "a\0"}, "cwd has a NUL character"),
        ("a", {"stdin": 3}, "stdin=3: give the name"),
        ("a", {"stdout": "{x"}, "the command '{x': expected '}' before end of string"),
        ("a", {"inputs": "tpr"}, "inputs='tpr': give a list of names"),
        ("a", {"outputs": [1]}, "give a list of names"),
        ("a", {"outputs": 1}, "outputs=1: give a list of names"),
        ("a", {"success": 0}, "success=0: give a list of exit statuses"),
        ("a", {"success": ["0"]}, "give a list of exit statuses"),
        ("a {x", {}, "expected '}' before end of string"),
    ],
)
def test_mistakes_in_a_command_are_told_at_once(
    command: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises((OptionError, CommandError), match=re.escape(told)):
        pilot.shell(command, **options)


def test_mistakes_in_a_call_of_a_command(tmp_path: Path) -> None:
    make = pilot.shell("make {text} {out}", inputs=["text"], outputs=["out"])
    for call, told in (
        ({}, "needs a parameter 'out'; call submit(out=…)"),
        ({"txt": 1, "out": 2}, "needs a parameter 'text'; is it what you call 'txt'?"),
        ({"text": ["a"], "out": 2}, "text=['a'] is to name one file"),
    ):
        with pytest.raises(CommandError, match=re.escape(told)):
            make(**call)


def test_result_stands_for_its_file_in_other_commands() -> None:
    made = CommandResult("make", 0, "said\n", {"out": Path("/a b")})
    assert command("cat {x}").line((), {"x": made}) == "cat '/a b'"
    said = CommandResult("say", 0, "said\n")
    assert command("echo {x}").line((), {"x": said}) == "echo said"
    assert made["out"] == Path("/a b")


def test_kinds_of_commands() -> None:
    assert pilot.shell("true").kind == COMMAND
    assert pilot.shell("true", ranks=2).kind == MPI_COMMAND
    assert pilot.shell("true").options(ranks=2).kind == MPI_COMMAND
    assert pilot.shell("true", ranks=2).options(ranks=1).kind == COMMAND


def test_command_travels() -> None:
    made = pilot.shell("echo {a}", outputs=["out"], env={"A": "1"}, success=(0, 2))
    assert pickle.loads(pickle.dumps(made.function)) == made.function


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "exit status 1"), (127, "command not found"), (-9, "killed by signal 9")],
)
def test_failures_in_words(status: int, words: str) -> None:
    text = failure_text("make it", status, "line\n" * 100 + "last\n")
    assert text.startswith("make it: ") and words in text
    assert text.endswith("last") and len(text.splitlines()) == 11


# --- resources by name ----------------------------------------------------------------------------


def test_tasks_may_ask_for_a_part_of_a_gpu() -> None:
    need = pilot.task(gpus=0.5)(abs).task_options.resolve((), {}).resources
    assert need.named == (("gpus", UNIT // 2),)
    assert need.gpus == 0.5


def test_resources_by_name() -> None:
    made = pilot.task(cores=2, gpus=1, resources={"matlab": 1, "space": "2.5", "none": 0})(abs)
    assert made.resolved is not None
    need = made.resolved.resources
    assert need.named == (("gpus", UNIT), ("matlab", UNIT), ("space", 5 * UNIT // 2))
    assert need.amounts == {"cores": 2, "gpus": 1, "matlab": 1, "space": 2.5}
    by_size = pilot.task(resources=lambda n: {"space": n / 4})(abs)
    assert by_size.resolved is None
    assert by_size.task_options.resolve((3,), {}).resources.amounts["space"] == 0.75
    with pytest.raises(pilot.PilotError, match=r"resources: space: -0\.25 is not an amount"):
        by_size.task_options.resolve((-1,), {})


def _named(made: pilot.Task[..., Any], *args: Any) -> dict[str, float]:
    """The resources of a call that a site declares."""
    amounts = made.task_options.resolve(args, {}).resources.amounts
    return {name: amount for name, amount in amounts.items() if name != "cores"}


def test_resources_are_merged_by_name() -> None:
    made = pilot.task(resources={"matlab": 1, "space": 2})(abs)
    assert _named(made.options(resources={"space": 5, "gate": 1})) == {
        "matlab": 1,
        "space": 5,
        "gate": 1,
    }
    assert _named(made.options(resources={"matlab": 0})) == {"space": 2}
    assert _named(made.options(resources={})) == _named(made) == {"matlab": 1, "space": 2}
    assert _named(made.options(resources=None)) == {}
    assert _named(made.options(cores=2).options(resources={"space": 1}))["matlab"] == 1
    defaults = made.with_defaults({"resources": {"space": 9, "gate": 1}})
    assert _named(defaults) == {"matlab": 1, "space": 2, "gate": 1}


def test_resources_of_functions_are_merged_by_name_in_each_call() -> None:
    fixed = pilot.task(resources={"matlab": 1, "space": 2})(abs)
    by_size = fixed.options(resources=lambda n: {"space": n})
    assert by_size.resolved is None
    assert _named(by_size, 4) == {"matlab": 1, "space": 4}
    both = by_size.options(resources=lambda n: {"matlab": 0, "gate": 2 * n})
    assert _named(both, 4) == {"space": 4, "gate": 8}
    assert _named(both.options(resources={"space": 1}), 4) == {"space": 1, "gate": 8}
    assert _named(both.options(resources=lambda n: None), 4) == {}
    with pytest.raises(OptionError, match="give names with amounts"):
        _named(fixed.options(resources=lambda n: [n]), 4)
    with pytest.raises(OptionError, match="give names with amounts"):
        fixed.options(resources=["matlab"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"matlab": -1}, "resources: matlab: -1 is not an amount; write a number from 0"),
        ({"matlab": "one"}, "resources: matlab: 'one' is not an amount"),
        ({"matlab": 1 / 3}, "at most 4 decimals"),
        ({"Matlab": 1}, "resources: Matlab: 'Matlab' is not a valid name of a resource"),
        ({"memory": 1}, "resources: 'memory' is an option of its own: give memory="),
        (["matlab"], "give names with amounts"),
    ],
)
def test_resources_that_mean_nothing(given: Any, words: str) -> None:
    with pytest.raises(pilot.PilotError, match=words):
        pilot.task(resources=given)(abs)


# --- numbers and names of other libraries ---------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_numbers_of_numpy_are_numbers(kind: Any) -> None:
    made = pilot.task(
        cores=kind(2),
        gpus=kind(1),
        ranks_per_node=kind(1),
        memory=kind(10),
        retries=kind(3),
        max_crashes=kind(4),
        priority=kind(5),
        returns=kind(2),
        time_limit=kind(6),
    )(abs)
    options = made.task_options
    assert made.resolved is not None
    assert (made.resolved.resources.cores, made.resolved.resources.memory_mib) == (2, 10)
    assert made.resolved.time_limit_s == 6.0
    plain = (options.retries, options.max_crashes, options.priority, options.returns)
    assert plain == (3, 4, 5, 2) and {type(number) for number in plain} == {int}
    assert options.return_count == 2 and options.return_names == ()
    dynamic = pilot.task(cores=lambda n: np.int64(n) // 2)(abs)
    assert dynamic.task_options.resolve((6,), {}).resources.cores == 3


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (np.float32(5), 5.0),
        (timedelta(hours=1, seconds=1), 3601.0),
        ("1h30m", 5400.0),
        ("1h 30min 5.5s", 5405.5),
        ("2d12h", 216000.0),
        (Fraction(1, 2), 0.5),
    ],
)
def test_lengths_of_time(limit: Any, seconds: float) -> None:
    made = pilot.task(time_limit=limit)(abs)
    assert made.resolved is not None and made.resolved.time_limit_s == seconds


def test_defaults_of_named_results_are_by_name_or_in_order() -> None:
    named = pilot.task(returns=["a", "b"], on_failure="ignore")
    for default in ({"b": 2, "a": 1}, (1, 2)):
        assert named(abs).options(default=default).task_options.defaults == (1, 2)
    assert named(abs).options(default=[1, 2]).task_options.defaults is None
    one = pilot.task(on_failure="ignore", default={"a": 1})(abs)
    assert one.task_options.defaults is None and one.task_options.default == {"a": 1}


def test_a_default_goes_with_its_policy() -> None:
    ignoring = pilot.task(on_failure="ignore", default=3)(abs)
    assert ignoring.options(on_failure="fail").task_options.default is None
    assert ignoring.options(retries=1).task_options.default == 3
    of_session = {"on_failure": "ignore", "default": 3}
    assert pilot.task(abs).with_defaults(of_session).task_options.default == 3
    failing = pilot.task(on_failure="fail")(abs).with_defaults(of_session)
    assert failing.task_options.default is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_limit": float("nan")}, "time_limit: a length of time cannot be nan"),
        ({"time_limit": float("inf")}, "time_limit: a length of time cannot be inf"),
        ({"time_limit": timedelta(seconds=-1)}, "time_limit: .* negative"),
        ({"time_limit": "1h30"}, "time_limit: '1h30' is not a duration"),
        ({"memory": float("nan")}, "memory: memory cannot be nan"),
        ({"cores": np.int64(-1)}, "cores=.*: give a whole number, at least 0"),
        ({"cores": True}, "cores=True: give a whole number, at least 0"),
        ({"cores": np.float64(1)}, "cores=.*: give a whole number, at least 0"),
        ({"cores": 0, "ranks": 2}, "cores=0: ranks of an MPI task need cores"),
        ({"cores": 0, "ranks_per_node": 1}, "cores=0: ranks of an MPI task need cores"),
        ({"cores": 10**20}, "cores=.*: give a whole number, at least 0, at most 2147483647"),
        ({"priority": 10**20}, "priority=.*: give a whole number, at most 2147483647"),
        ({"priority": 1.0}, "priority=1.0: give a whole number$"),
        ({"retries": 10**12}, "retries=.*at most 2147483647"),
        ({"returns": ["a", "b", "a"]}, "returns=.*: the name 'a' is there twice"),
        ({"returns": [1, 2]}, "returns=.*: give a number from 1, or a list of names"),
        ({"returns": "ab"}, "returns='ab': give a number from 1, or a list of names"),
        ({"returns": []}, "returns=.*: give a number from 1, or a list of names"),
        ({"returns": None}, "returns=None: give a number from 1, or a list of names"),
        ({"returns": 0}, "returns=0: give a number from 1, or a list of names"),
        ({"retry_on": [3.0]}, "retry_on=.*: give exception classes, their names, or exit"),
        ({"retry_on": int}, "retry_on=.*: give exception classes"),
        ({"no_retry_on": [True]}, "no_retry_on=.True.: give exception classes"),
        ({"no_retry_on": ValueError()}, "no_retry_on=ValueError.*: give exception classes"),
        ({"no_retry_on": "builtins.OSError"}, "no_retry_on='builtins.OSError' .* 'OSError'"),
        ({"retry_on": [OSError, "75"]}, "retry_on='75' .*without quotes: retry_on=75"),
        ({"retry_on": "OS Error"}, "retry_on='OS Error' is no name of an exception class$"),
        ({"no_retry_on": 300}, "no_retry_on=300: an exit status is at most 255"),
        ({"retry_on": [1, -65]}, "retry_on=-65: an exit status is at most 255"),
        ({"default": 0}, "default=0 goes with on_failure='ignore', and not with 'fail'"),
        (
            {"default": {"a": 1}, "on_failure": "ignore", "returns": ["a", "b"]},
            "give one value for each result by its name, of a, b, or one for all that is no mapp",
        ),
        ({"retry_timeouts": 1}, "retry_timeouts=1: give True or False"),
        ({"pool": 3}, "pool=3: give the name of a pool"),
    ],
)
def test_what_has_no_meaning_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        pilot.task(**options)(abs)


def test_coroutine_functions_are_refused_however_they_are_given() -> None:
    async def work(x: int) -> int:
        return x

    for make in (
        lambda: pilot.task(work),
        lambda: pilot.task(cores=2)(work),
        lambda: pilot.mpi(ranks=2)(work),
        lambda: as_task(functools.partial(work, 1)),
        lambda: pilot.task(functools.partial(work, 1)),
    ):
        with pytest.raises(OptionError, match="is a coroutine function; give a plain function"):
            make()
    with pytest.raises(OptionError, match="made of a function, not of 3"):
        pilot.mpi(ranks=2)(3)  # type: ignore[arg-type]  # no function


def test_mpi_without_brackets_says_that_the_ranks_are_missing() -> None:
    def solve(x: int) -> int:
        return x

    decorated: Any = pilot.mpi(solve)
    for use in (
        lambda: decorated.submit(1),
        lambda: decorated.map([1]),
        lambda: decorated(1),
        lambda: as_task(decorated),
    ):
        with pytest.raises(OptionError, match=r"'solve' is no task yet.*@pilot\.mpi\(ranks=2\)"):
            use()
    assert not hasattr(decorated, "__wrapped__")
    with pytest.raises(OptionError, match=r"to be called with a function"):
        pilot.mpi(2).submit(1)  # type: ignore[attr-defined]  # a decorator


def test_an_option_that_is_misspelt_is_told_what_it_may_be() -> None:
    with pytest.raises(OptionError, match=r"no option 'retires'; did you mean 'retries'\?"):
        pilot.task(retires=1)(len)
