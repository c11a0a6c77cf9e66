"""What users get wrong: each mistake, and that its message says what, where, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session
from pilot.client import connection
from pilot.wire.keys import load_keys, make_keys

DEADLINE_S = 30.0


# --- sites ----------------------------------------------------------------------------------------


def test_unknown_site(local_site: SiteUnderTest) -> None:
    with pytest.raises(pilot.SiteError) as caught:
        Session("cluster")
    text = str(caught.value)
    assert "no site 'cluster'" in text and str(local_site.home) in text
    assert "there: local" in text and "pilot init" in text


def test_path_that_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(pilot.SiteError, match=r"is not a site: it has no site\.yaml; `pilot init`"):
        Session(tmp_path)


def test_name_that_cannot_be_one() -> None:
    with pytest.raises(pilot.SiteError, match="'a b' is not a valid site name"):
        Session("a b")


def test_site_file_with_a_wrong_type(local_site: SiteUnderTest) -> None:
    path = local_site.directory / "site.yaml"
    text = path.read_text()
    path.write_text(text.replace("cores_per_node: 2", "cores_per_node: many"))
    with pytest.raises(pilot.SiteError) as caught:
        Session(local_site.directory)
    line = path.read_text().splitlines().index("    cores_per_node: many") + 1
    assert f"{path}:{line}" in str(caught.value) and "cores_per_node" in str(caught.value)


def test_site_directory_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a file, since root may write wherever modes forbid it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PILOT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(pilot.SiteError) as caught:
        Session("local")
    text = str(caught.value)
    assert str(tmp_path / "file" / "home") in text and "PILOT_HOME" in text


def test_site_directory_without_write_permission(local_site: SiteUnderTest) -> None:
    with read_only(local_site.directory), pytest.raises(pilot.SiteError) as caught:
        Session(local_site.directory)
    text = str(caught.value)
    assert str(local_site.directory) in text and "cannot be written" in text


class read_only:  # noqa: N801 - used as a function
    """A directory that nobody can write, not even root: mounted on itself, read-only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        if os.geteuid() != 0:
            self._path.chmod(0o500)
            return
        mount = ["mount", "--bind", str(self._path), str(self._path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("bind mounts are not allowed here")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self._path)], check=True)

    def __exit__(self, *_: object) -> None:
        if os.geteuid() != 0:
            self._path.chmod(0o700)
        else:
            subprocess.run(["umount", str(self._path)], check=True)


def test_other_keys_than_the_head(
    local_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that sees a copy of the site directory: the head sees no change."""
    with local_site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    head, others = local_site.head_pid, local_site.home / "other-keys"
    make_keys(others)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "load_keys", lambda _: load_keys(others))
        with pytest.raises(pilot.AuthenticationError) as caught:
            local_site.session()
    text = str(caught.value)
    assert "different keys" in text and str(others) in text
    # The head has taken no harm.
    with local_site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
    assert local_site.head_pid == head


def test_keys_that_others_can_read(local_site: SiteUnderTest) -> None:
    path = local_site.site.keys / "client.key_secret"
    path.chmod(0o644)
    with pytest.raises(pilot.SiteError, match=f"can be read by others.*chmod 600 {path}"):
        local_site.session()


def test_slurm_site_without_slurm(
    make_site: Callable[..., SiteUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    site = make_site(batch="slurm")
    trouble: list[str] = []

    def seen() -> bool:
        trouble[:] = [site.query("status")["trouble"]]
        return bool(trouble[0])

    with site.session() as session:
        future = session.submit(tasks.square, 2)
        wait_until(seen, DEADLINE_S, "the head to say what is wrong")
        assert "sbatch" in trouble[0]
        assert "PATH" in trouble[0] or "not installed" in trouble[0] or "not found" in trouble[0]
        assert not future.done(), "it waits: nothing is lost, Slurm may come back"
        future.cancel()


# --- tasks that cannot be sent --------------------------------------------------------------------


def test_function_that_cannot_be_pickled(shared_site: SiteUnderTest) -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    with shared_site.session() as session:
        with pytest.raises(pilot.SubmissionError) as caught:
            session.submit(locked)
        text = str(caught.value)
        assert "locked" in text and "cannot be sent" in text and "lock" in text
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4


def test_argument_that_cannot_be_pickled(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        with pytest.raises(pilot.PilotError, match=r"(?s)pickle.*lock|lock.*pickle"):
            session.submit(tasks.echo, threading.Lock())
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4


def test_result_that_cannot_be_pickled(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        error = session.submit(threading.Lock).exception(DEADLINE_S)
        assert isinstance(error, pilot.PilotError)
        assert "lock" in str(error) and "pickle" in str(error)
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4


def test_future_of_nothing_that_exists(shared_site: SiteUnderTest) -> None:
    """A dependency on a task that has ended badly ends as one that had waited for it."""
    with shared_site.session() as session:
        failed = session.submit(tasks.fail)
        assert failed.exception(DEADLINE_S)
        late = session.submit(tasks.echo, failed)
        error = late.exception(DEADLINE_S)
        assert isinstance(error, pilot.TaskAborted) and late.state == "ABORTED"
        assert failed.task_id in str(error) and "FAILED" in str(error)


def test_task_larger_than_any_pool(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        for options, words in (
            ({"cores": 64}, "needs 64 cores, but a node of pool 'main' has 2 cores"),
            ({"ranks": 64}, "takes 32 nodes, a pilot of pool 'main' has at most 1"),
            ({"gpus": 1}, "a node of pool 'main' has 2 cores, 0 GPUs"),
        ):
            with pytest.raises(pilot.SubmissionError) as caught:
                session.submit(pilot.task(**options)(tasks.square), 2)
            text = str(caught.value)
            assert "'square'" in text and "no pool can run it" in text
            assert words in text
        with pytest.raises(pilot.SubmissionError, match=r"time limit .* walltime of pool 'main'"):
            session.submit(pilot.task(time_limit="2d")(tasks.square), 2)
        with pytest.raises(pilot.SubmissionError, match="no pool 'gpu'; the site has main"):
            session.submit(pilot.task(pool="gpu")(tasks.square), 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cores": -1}, "cores=-1: give a whole number, at least 0"),
        ({"cores": 1.5}, "cores=1.5"),
        ({"memory": "much"}, "memory: 'much'"),
        ({"time_limit": "soon"}, "time_limit: 'soon'"),
        ({"retries": -1}, "retries=-1"),
        ({"on_failure": "cry"}, "on_failure='cry': give one of fail, ignore"),
        ({"cors": 1}, "no option 'cors'; did you mean 'cores'? There are after, cache"),
    ],
)
def test_option_without_meaning(options: dict[str, object], words: str) -> None:
    with pytest.raises(pilot.PilotError) as caught:
        pilot.task(**options)(tasks.square)
    assert words in str(caught.value)


def test_submit_without_a_session() -> None:
    with pytest.raises(pilot.PilotError, match="no current session; submit inside `with pilot"):
        pilot.task(tasks.square).submit(2)


# --- tasks that cannot run there ------------------------------------------------------------------


def test_module_that_workers_cannot_import(
    shared_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("made_in_memory")
    exec("def function(x):\n    return x", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_in_memory", module)
    with shared_site.session() as session:
        error = session.submit(module.function, 1).exception(DEADLINE_S)
    text = f"{error} {error.__cause__}" if error else ""
    assert "made_in_memory" in text and "No module named" in text


def test_module_beside_the_script_is_importable(shared_site: SiteUnderTest) -> None:
    """What a user would take for granted, from another directory than the head's."""
    project = shared_site.scratch / "project"
    project.mkdir()
    (project / "mymodule.py").write_text("def twice(x):\n    return 2 * x\n")
    (project / "script.py").write_text(
        "import sys, pilot, mymodule\n"
        "with pilot.Session(sys.argv[1]) as session:\n"
        "    print(session.submit(mymodule.twice, 21).result(60))\n"
    )
    done = subprocess.run(
        [sys.executable, str(project / "script.py"), str(shared_site.directory)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_working_directory_that_is_gone(
    shared_site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = shared_site.scratch / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    session = shared_site.session()
    monkeypatch.chdir(TESTS)
    gone.rmdir()
    with session:
        error = session.submit(tasks.square, 2).exception(DEADLINE_S)
    assert isinstance(error, FileNotFoundError)
    assert str(gone) in str(error) and "shared file system" in str(error)


def test_command_not_found(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        for command in ("no-such-program --x", ["no-such-program", "--x"]):
            error = session.submit(pilot.shell(command)).exception(DEADLINE_S)
            assert isinstance(error, pilot.CommandFailed) and error.returncode == 127
            text = str(error)
            assert "no-such-program" in text and "command not found" in text and "PATH" in text


def test_command_that_fails_shows_its_output(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        error = session.submit(pilot.shell("echo oh dear; exit 3")).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed)
    assert "exit status 3" in str(error) and "oh dear" in str(error)


def test_command_without_its_parameter(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        with pytest.raises(pilot.CommandError, match="needs a parameter 'word'"):
            session.submit(pilot.shell("echo {word}"))
        with pytest.raises(pilot.CommandError, match="is it what you call 'wrod'"):
            pilot.shell("echo {word}", inputs=["word"]).submit(wrod="x")
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_context_outside_of_a_task() -> None:
    with pytest.raises(pilot.PilotError, match="does not run in a task"):
        pilot.context()
