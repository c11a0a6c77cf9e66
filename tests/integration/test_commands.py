"""Commands as tasks: parameters, files, output, exit statuses, limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def test_output_is_the_result(session: Session) -> None:
    result = session.submit(pilot.shell("echo out; echo err >&2")).result(DEADLINE_S)
    assert result.returncode == 0
    assert sorted(result.stdout.split()) == ["err", "out"]
    assert result.command == "echo out; echo err >&2"


def seen(result: pilot.CommandResult) -> tuple[int, str, list[str]]:
    return result.returncode, result.stdout, sorted(result.outputs)


def test_dependents_of_an_ignored_failure_get_what_the_command_gave(
    session: Session, shared_site: SiteUnderTest
) -> None:
    script = "echo out; exit {status}"
    failing = pilot.shell(script, outputs=["file"], on_failure="ignore", retries=1)
    failed = session.submit(failing, status=3, file="none.txt")
    in_text = pilot.shell("echo {before.returncode} {before.stdout}")
    assert session.submit(in_text, before=failed).result(DEADLINE_S).stdout == "3 out\n\n"
    with pytest.raises(pilot.CommandFailed):
        failed.result(DEADLINE_S)
    late = pilot.shell("sleep 60", on_failure="ignore", time_limit=0.1)
    given = pilot.shell("false", on_failure="ignore", default="mine")
    assert session.submit(seen, failed).result(DEADLINE_S) == (3, "out\n", ["file"])
    assert session.submit(seen, session.submit(late)).result(DEADLINE_S)[0] < 0
    own: Any = session.submit(tasks.echo, session.submit(given)).result(DEADLINE_S)
    assert own[0] == ("mine",)
    # From the database, for who comes later.
    with shared_site.session() as other:
        again = other.submit(seen, failed)
        assert again.result(DEADLINE_S) == (3, "out\n", ["file"])


def test_parameters_are_quoted(session: Session) -> None:
    echo = pilot.shell("printf '%s|' {words} {one} {plain:raw}")
    nasty = "a b; echo $HOME 'x'"
    result = session.submit(echo, words=["1 2", "3"], one=nasty, plain="p q").result(DEADLINE_S)
    assert result.stdout == f"1 2|3|{nasty}|p|q|"


def test_words_need_no_shell(session: Session) -> None:
    result = session.submit(pilot.shell(["printf", "%s", "$HOME *"])).result(DEADLINE_S)
    assert result.stdout == "$HOME *"


def test_files_in_and_out(session: Session, tmp_path: Path) -> None:
    make = pilot.shell("seq {n} > {out}", outputs=["out"])
    text = "awk '{{sum += $1}} END {{print sum}}' {numbers} > {out}"
    add = pilot.shell(text, inputs=["numbers"], outputs=["out"])
    numbers = session.submit(make, n=100, out=tmp_path / "numbers")
    total = session.submit(add, numbers=numbers, out=tmp_path / "total")
    result = total.result(DEADLINE_S)
    assert result["out"] == tmp_path / "total"
    assert result["out"].read_text() == "5050\n"


def test_output_that_was_not_made(session: Session, tmp_path: Path) -> None:
    error = session.submit(
        pilot.shell("true {out}", outputs=["out"]), out=tmp_path / "missing"
    ).exception(DEADLINE_S)
    assert isinstance(error, FileNotFoundError)
    assert f"did not make its output out={tmp_path / 'missing'}" in str(error)


def test_input_that_is_not_there(session: Session, tmp_path: Path) -> None:
    error = session.submit(
        pilot.shell("cat {data}", inputs=["data"]), data=tmp_path / "missing"
    ).exception(DEADLINE_S)
    assert isinstance(error, FileNotFoundError)
    assert f"input file data={tmp_path / 'missing'}" in str(error)


def test_streams_directory_and_environment(session: Session, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from a file\n")
    task = pilot.shell(
        "cat; pwd; echo $COLOUR; echo wrong >&2",
        cwd=tmp_path,
        stdin="in.txt",
        stdout="out-{name}.txt",
        stderr="err-{name}.txt",
        env={"COLOUR": "green"},
    )
    session.submit(task, name="a").result(DEADLINE_S)
    assert (tmp_path / "out-a.txt").read_text() == f"from a file\n{tmp_path}\ngreen\n"
    assert (tmp_path / "err-a.txt").read_text() == "wrong\n"


def test_a_command_knows_its_task_and_what_it_has(session: Session) -> None:
    text = "echo $PILOT_TASK_ID $PILOT_ATTEMPT $PILOT_CORES $PILOT_RANK $PILOT_RANKS; "
    future = session.submit(pilot.shell(f"{text} [ $PILOT_ATTEMPT = 2 ]", cores=2, retries=1))
    assert future.result(DEADLINE_S).stdout == f"{future.task_id} 2 2 0 1\n"
    own = pilot.shell("echo $PILOT_TASK_ID", env={"PILOT_TASK_ID": "mine"})
    assert session.submit(own).result(DEADLINE_S).stdout == "mine\n"


def test_environment_is_not_what_functions_leave_behind(session: Session) -> None:
    def paint() -> int:
        os.environ["PAINT"] = "wet"
        return os.getpid()

    painted = {session.submit(paint).result(DEADLINE_S) for _ in range(8)}
    seen = pilot.shell("echo $PPID:$PAINT")
    results = [session.submit(seen).result(DEADLINE_S).stdout for _ in range(8)]
    assert painted & {int(text.partition(":")[0]) for text in results}
    assert not any("wet" in text for text in results)


def test_exit_status(session: Session) -> None:
    error = session.submit(pilot.shell("echo last words; exit 7")).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed)
    assert "exit status 7" in str(error) and "last words" in str(error)
    allowed = session.submit(pilot.shell("exit 7", success=[0, 7])).result(DEADLINE_S)
    assert allowed.returncode == 7


def test_signal(session: Session) -> None:
    error = session.submit(pilot.shell("kill -SEGV $$")).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed) and "signal 11" in str(error)


def test_retries(session: Session, tmp_path: Path) -> None:
    task = pilot.shell("echo x >> {runs}; test $(wc -l < {runs}) -ge 3", retries=2)
    result = session.submit(task, runs=tmp_path / "runs").result(DEADLINE_S)
    assert result.returncode == 0
    assert (tmp_path / "runs").read_text() == "x\n" * 3


def test_time_limit_kills_the_whole_group(
    session: Session, shared_site: SiteUnderTest, tmp_path: Path
) -> None:
    task = pilot.shell("sleep 1000 & echo $! > {pid}; wait", time_limit=0.5)
    error = session.submit(task, pid=tmp_path / "pid").exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskTimedOut)
    child = int((tmp_path / "pid").read_text())
    wait_until(
        lambda: child not in [process.pid for process in shared_site.processes()],
        DEADLINE_S,
        "the command's child to end",
    )


def test_cancel(session: Session, shared_site: SiteUnderTest, tmp_path: Path) -> None:
    future = session.submit(pilot.shell("echo $$ > {pid}; exec sleep 1000"), pid=tmp_path / "pid")
    path = tmp_path / "pid"
    wait_until(lambda: path.exists() and path.read_text(), DEADLINE_S, "the command to run")
    child = int(path.read_text())
    assert future.cancel()
    wait_until(
        lambda: child not in [process.pid for process in shared_site.processes()],
        DEADLINE_S,
        "the command to end",
    )


def test_many_commands(session: Session) -> None:
    echo = pilot.shell("echo {n}")
    results = pilot.gather([session.submit(echo, n=n) for n in range(60)], timeout=DEADLINE_S)
    assert [int(result.stdout) for result in results] == list(range(60))


def test_output_of_a_command_is_in_its_log_only(
    session: Session, shared_site: SiteUnderTest
) -> None:
    futures = [session.submit(pilot.shell("echo only {n}"), n=n) for n in range(5)]
    pilot.gather(futures, timeout=DEADLINE_S)
    for number, future in enumerate(futures):
        (span,) = shared_site.query("logs", task=future.task_id)
        data = (shared_site.directory / span["path"]).read_bytes()[span["start"] : span["end"]]
        assert data == b"only %d\n" % number


def test_directly_called_it_runs_here() -> None:
    assert pilot.shell("echo {word}")(word="here").stdout == "here\n"
    with pytest.raises(pilot.CommandFailed, match="exit status 4"):
        pilot.shell("exit 4")()


def test_command_is_a_process_of_the_executor(session: Session) -> None:
    parent = int(session.submit(pilot.shell("echo $PPID")).result(DEADLINE_S).stdout)
    assert parent != os.getpid()
    assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4


def test_a_command_runs_in_a_directory_of_its_own(session: Session, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("a\nb\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_text("leaf")
    text = "pwd; ls; wc -l < {data} > {out}; mkdir {more}; cp {tree}/leaf {more}; exit {status}"
    task = pilot.shell(
        text,
        inputs=["data", "tree"],
        outputs=["out", "more"],
        cwd=tmp_path,
        scratch="copy",
        stdout="said-{status}",
        success=[0, 2],
    )
    given = {"data": "data.txt", "tree": "tree", "out": "count", "more": tmp_path / "more"}
    error = session.submit(task, **given, status=1).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed)
    assert not (tmp_path / "count").exists() and not (tmp_path / "more").exists()
    result = session.submit(task, **given, status=2).result(DEADLINE_S)
    assert result["out"] == tmp_path / "count" and result["out"].read_text() == "2\n"
    assert (tmp_path / "more" / "leaf").read_text() == "leaf"
    place, *files = (tmp_path / "said-2").read_text().split()
    assert files == ["data.txt", "tree"]
    assert not Path(place).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("count", "data.txt", "more", "said-1", "said-2", "tree")
    ]
    # Another try writes anew what is there; a link leads to the file itself.
    linked = pilot.shell(
        "readlink {data} > {out}", inputs=["data"], outputs=["out"], cwd=tmp_path, scratch="link"
    )
    again = session.submit(linked, data="data.txt", out="count").result(DEADLINE_S)
    assert again["out"].read_text() == f"{tmp_path / 'data.txt'}\n"
    here = linked(data="data.txt", out="count-here")
    assert here["out"].read_text() == f"{tmp_path / 'data.txt'}\n"


def test_an_output_that_is_not_made_in_its_own_directory_is_told(
    session: Session, tmp_path: Path
) -> None:
    task = pilot.shell("true {out}", outputs=["out"], scratch="copy")
    error = session.submit(task, out=tmp_path / "gone").exception(DEADLINE_S)
    assert isinstance(error, FileNotFoundError) and "did not make its output" in str(error)
    both = pilot.shell("true {a} {b}", inputs=["a"], outputs=["b"], scratch="copy")
    (tmp_path / "x").write_text("")
    error = session.submit(both, a=tmp_path / "x", b=tmp_path / "other" / "x").exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandError) and "are both called 'x'" in str(error)


def test_a_prolog_sets_what_the_command_finds_and_an_epilog_sees_its_status(
    session: Session, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "prolog": f"cd {tmp_path}; export COLOUR='a b'; f() {{ echo f; }}",
        "epilog": "echo epilog $PILOT_STATUS",
    }
    said = session.submit(pilot.shell('echo "$COLOUR"; pwd', **options)).result(DEADLINE_S).stdout
    assert said == f"a b\n{tmp_path}\nepilog 0\n"
    words = pilot.shell(["sh", "-c", "exit 3"], **options)
    error = session.submit(words).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed)
    assert error.returncode == 3 and "epilog 3" in str(error)
    failing = pilot.shell("echo never", prolog="false")
    error = session.submit(failing).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed) and error.returncode == 1
    assert "\nnever" not in str(error)
    error = session.submit(pilot.shell("true", epilog="exit 4")).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed) and error.returncode == 4
    assert pilot.shell("echo $A", prolog="A=1; export A")().stdout == "1\n"
    with pytest.raises(pilot.PilotError, match="give a text for the shell"):
        pilot.shell("true", prolog=1)  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(pilot.PilotError, match='give "copy" or "link"'):
        pilot.shell("true", scratch="move")
