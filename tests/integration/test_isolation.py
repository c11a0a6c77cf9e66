"""What tasks, sessions and sites do not see of each other."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.agent.rules.warm_pool import IDLE_S

DEADLINE_S = 30.0


def set_global(value: int) -> int:
    import json

    json.left_here = value  # type: ignore[attr-defined]  # left in a module, which has no such name
    return os.getpid()


def get_global() -> object:
    import json

    return getattr(json, "left_here", None)


def test_sessions_have_executors_of_their_own(shared_site: SiteUnderTest) -> None:
    whole = pilot.task(cores=2)
    with shared_site.session() as first, shared_site.session() as second:
        pid = first.submit(whole(set_global), 1).result(DEADLINE_S)
        assert first.submit(whole(tasks.process_id)).result(DEADLINE_S) == pid, "it is kept warm"
        assert second.submit(whole(get_global)).result(DEADLINE_S) is None
        assert second.submit(whole(tasks.process_id)).result(DEADLINE_S) != pid


def test_executors_end_with_their_session(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as other:
        stays = other.submit(tasks.process_id).result(DEADLINE_S)
        with shared_site.session() as session:
            goes = session.submit(tasks.process_id).result(DEADLINE_S)

        def is_gone() -> bool:
            return goes not in {each.pid for each in shared_site.processes("pilot executor")}

        wait_until(is_gone, IDLE_S / 2, "the end of an executor")
        assert other.submit(tasks.process_id).result(DEADLINE_S) == stays


def test_sessions_may_have_modules_of_the_same_name(shared_site: SiteUnderTest) -> None:
    found = []
    for word in ("one", "two"):
        directory = shared_site.scratch / word
        directory.mkdir()
        (directory / "samename.py").write_text(f"WORD = {word!r}\n")
        with pilot.Session(shared_site.site, sys_path=[directory]) as session:

            def read() -> str:
                import samename  # type: ignore[import-not-found]  # a module that the test writes

                return str(samename.WORD)

            found.append(session.submit(read).result(DEADLINE_S))
    assert found == ["one", "two"]


def test_directories_that_are_named_come_first_also_those_of_the_interpreter(
    shared_site: SiteUnderTest,
) -> None:
    libraries, here = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))
    named = [libraries / "numpy", shared_site.scratch / "missing", libraries, here / "json"]

    def found() -> tuple[list[str], str]:
        import decoder  # type: ignore[import-not-found]  # of json, which has it inside only

        return sys.path, decoder.__file__

    with pilot.Session(shared_site.site, sys_path=named) as session:
        paths, decoder = session.submit(found).result(DEADLINE_S)
    assert paths[:4] == list(map(str, named)) and paths.count(str(libraries)) == 1
    assert decoder == str(here / "json" / "decoder.py")


def test_sessions_are_cancelled_alone(shared_site: SiteUnderTest, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with shared_site.session() as first, shared_site.session() as second:
        a = first.submit(tasks.wait_for_file, str(tmp_path / "a"), str(go))
        b = second.submit(tasks.wait_for_file, str(tmp_path / "b"), str(go))
        wait_until(lambda: (tmp_path / "b").exists(), DEADLINE_S, "the second session's task")
        first.cancel()
        go.touch()
        assert a.cancelled() and b.result(DEADLINE_S) == str(tmp_path / "b")


def test_ids_of_two_clients_never_meet(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as first, shared_site.session() as second:
        futures = [s.submit(tasks.square, n) for n in range(20) for s in (first, second)]
        assert len({future.task_id for future in futures}) == 40
        pilot.gather(futures, timeout=DEADLINE_S)


def test_sites_run_beside_each_other(make_site: Callable[..., SiteUnderTest]) -> None:
    one, two = make_site(), make_site()
    with one.session() as first, two.session() as second:
        a, b = first.submit(tasks.process_id), second.submit(tasks.process_id)
        assert a.result(DEADLINE_S) != b.result(DEADLINE_S)
        assert one.head_pid != two.head_pid


def test_everything_in_a_site_is_private(shared_site: SiteUnderTest) -> None:
    with shared_site.session() as session:
        session.submit(tasks.echo, "x" * 200_000).result(DEADLINE_S)
        session.submit(pilot.shell("echo hello")).result(DEADLINE_S)
    assert stat.S_IMODE(shared_site.directory.stat().st_mode) == 0o700
    for path in shared_site.site.keys.glob("*_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in Path(os.environ["TMPDIR"]).glob("pilot-*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_secrets_are_not_shown(shared_site: SiteUnderTest) -> None:
    """Not in command lines, not in first environments, not in scripts or logs."""
    with shared_site.session() as session:
        session.submit(tasks.square, 2).result(DEADLINE_S)
        secrets = [
            line.split('"')[1].encode()
            for path in shared_site.site.keys.glob("*_secret")
            for line in path.read_text().splitlines()
            if "secret-key" in line
        ]
        assert len(secrets) == 2
        texts = [
            Path(f"/proc/{process.pid}/{name}").read_bytes()
            for process in shared_site.processes()
            for name in ("cmdline", "environ")
        ]
    files = [*shared_site.site.logs.rglob("*"), *shared_site.site.jobs.rglob("*")]
    texts += [path.read_bytes() for path in files if path.is_file()]
    assert not any(secret in text for secret in secrets for text in texts)
