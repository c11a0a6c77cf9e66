"""Released results with real processes: they go from the disk, also where something is killed.

Takes some 15 s, most of it the start of heads and pilots.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import as_completed, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session
from pilot.cli import cli
from pilot.data import patience
from pilot.data.stored_array import StoredArray

DEADLINE_S = 60.0
#: Numbers of an array that goes into a file.
LARGE = 20_000


def block(value: float) -> Any:
    return np.full(LARGE, value)


def add(a: Any, b: Any) -> Any:
    return a + b


def total(a: Any) -> float:
    return float(np.sum(a))


def blocks() -> tuple[Any, Any]:
    return block(1.0), block(2.0)


def once(path: str, value: Any) -> Any:
    """Fail in the first attempt."""
    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("as told")
    return value


def when_there(path: str, value: Any) -> float:
    wait_until(Path(path).exists, DEADLINE_S, path)
    return total(value)


def parent(kept: float) -> Any:
    """Have children, of which one is for the other alone, and one is returned."""
    session = pilot.context().session
    first = session.submit(block, kept)
    last = session.submit(add, first, first)
    put = session.put(block(5.0))
    session.release([first, put])
    try:
        session.submit(total, first)
    except pilot.SubmissionError as error:
        assert "released" in str(error)
    else:
        raise AssertionError("it is released")
    session.release(last)  # it is this task's result all the same
    return last


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def files(session: Session) -> list[Path]:
    """The files with results of a session."""
    walk = os.walk(session.site.directory / "results" / str(session.id))
    return sorted(Path(above, name) for above, _, names in walk for name in names if name[0] != ".")


def is_empty(session: Session) -> bool:
    return not files(session)


def run(session: Session, *words: str) -> Any:
    line = ["--site", str(session.site.directory), *words]
    return CliRunner().invoke(cli, line, prog_name="pilot")


def test_an_array_that_was_released_says_so(session: Session) -> None:
    future = session.submit(block, 1.0)
    array = future.array(timeout=DEADLINE_S)
    other = session.future(future.task_id).array(timeout=DEADLINE_S)
    assert isinstance(array, StoredArray)
    assert array[0] == other[0] == 1.0
    session.release(future)
    wait_until(lambda: not array.file.exists(), DEADLINE_S, "the end of its file")
    for each in (array, other):
        with pytest.raises(pilot.ResultError, match=f"task {future.task_id} was released"):
            _ = each[0]


def test_what_is_released_goes_and_who_needs_it_gets_it(session: Session) -> None:
    first, second = session.submit(block, 1.0), session.put(block(2.0))
    both = session.submit(add, first, second)
    session.release([first, second])
    session.release(second)  # twice does no harm
    result = session.submit(total, both)
    session.release(both)
    assert result.result(DEADLINE_S) == 3 * LARGE
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")
    assert not wait([first, both], DEADLINE_S).not_done
    assert {*as_completed([first, both])} == {first, both}
    assert (first.state, both.state) == ("COMPLETED", "COMPLETED")
    for future in (first, both, session.future(first.task_id)):
        with pytest.raises(pilot.ResultError, match=f"task {future.task_id} was released"):
            future.result(DEADLINE_S)
        with pytest.raises(pilot.ResultError, match="released"):
            future.array()
    with pytest.raises(pilot.SubmissionError, match="released"):
        session.submit(total, [first])
    late = session.submit(total, session.future(first.task_id))
    with pytest.raises(pilot.SubmissionError, match=f"{first.task_id}, which was released"):
        late.result(DEADLINE_S)
    shown = run(session, "task", "show", first.task_id)
    assert "released" in shown.output and "COMPLETED" in shown.output
    got = run(session, "result", "get", first.task_id)
    assert got.exit_code and "was released" in got.output
    assert "its result was released" in session.why(first)


def test_a_value_that_is_here_stays_here(session: Session) -> None:
    small, large = session.submit(tasks.square, 3), session.submit(block, 4.0)
    assert small.result(DEADLINE_S) == 9 and total(large.result(DEADLINE_S)) == 4 * LARGE
    session.release([small, large])
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")
    assert small.result() == 9 and total(large.result()) == 4 * LARGE


def test_another_client_is_told_why_the_file_is_gone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = session.submit(pilot.task(returns=2)(blocks))
    with Session(site=session.site, session_id=session.id) as other:
        others = other.future(future.task_id)
        wait([others, future], DEADLINE_S)
        monkeypatch.setattr(patience._Patience, "seconds", 0.1)
        session.release(future)
        wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")
        for each in (others, others[1]):
            with pytest.raises(pilot.ResultError, match="was released"):
                each.result()
        other.detach()


def test_one_of_several_results_goes_alone(session: Session) -> None:
    both = session.submit(pilot.task(returns=2)(blocks))
    first, second = both
    session.release(first)
    assert total(second.result(DEADLINE_S)) == 2 * LARGE
    with pytest.raises(pilot.ResultError, match="released"):
        first.result(DEADLINE_S)
    with pytest.raises(pilot.ResultError, match="released"):
        both.result(DEADLINE_S)
    assert session.submit(total, both[1]).result(DEADLINE_S) == 2 * LARGE
    session.release(both)
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")


def test_who_is_tried_again_finds_its_input(session: Session, tmp_path: Path) -> None:
    value = session.put(block(3.0))
    tried = session.submit(pilot.task(retries=1)(once), str(tmp_path / "tried"), value)
    session.release([value, tried])
    after = session.submit(total, session.put(1.0))
    assert after.result(DEADLINE_S) == 1.0
    wait([tried], DEADLINE_S)
    assert tried.state == "COMPLETED"
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")


def test_a_task_releases_what_it_has_submitted(session: Session) -> None:
    future = session.submit(parent, 2.0)
    assert total(future.result(DEADLINE_S)) == 4 * LARGE
    wait_until(lambda: len(files(session)) == 1, DEADLINE_S, "the file with the result alone")
    session.release(future)
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")


def test_what_others_find_stays(session: Session) -> None:
    named = session.put(block(6.0), name="kept after its release")
    session.release(named)
    session.flush()
    found = pilot.named("kept after its release")
    assert session.submit(total, found).result(DEADLINE_S) == 6 * LARGE
    found.remove()
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")


def test_an_imported_file_is_never_deleted(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")
    future = session.import_file(path)
    assert future.result(DEADLINE_S) == path
    session.release(future)
    session.flush()
    with pytest.raises(pilot.ResultError, match="released"):
        session.future(future.task_id).result(DEADLINE_S)
    assert path.read_text() == "mine"


def test_what_is_no_future_of_the_session_s_is_refused(session: Session) -> None:
    mine = session.put(block(7.0))
    with Session(site=session.site) as other:
        theirs = other.put(1)
        with pytest.raises(pilot.PilotError, match=f"of session {other.id}"):
            session.release([mine, theirs])
    with pytest.raises(pilot.PilotError, match="no future of a task"):
        session.release([mine, 3])  # type: ignore[list-item]  # that is the mistake
    wrong: Any
    for wrong, told in (
        (mine.task_id, "is the id of a task, and nothing was done; give its future"),
        ([mine, mine.task_id], "is the id of a task"),
        (3, "3 is no future of a task"),
        ("mine", "'mine' is no future of a task"),
    ):
        for refuse in (session.release, session.cancel, session.purge):
            with pytest.raises(pilot.PilotError, match=told):
                refuse(wrong)
    with pytest.raises(pilot.PilotError, match="None is no future of a task"):
        session.release(None)  # type: ignore[arg-type]  # as above
    ignored = pilot.task(on_failure="ignore", default=mine)(total)
    with pytest.raises(pilot.SubmissionError, match="default has a future, and a default is"):
        session.submit(ignored, mine)
    assert session.submit(total, mine).result(DEADLINE_S) == 7 * LARGE
    session.release(mine)


def test_deleted_futures_release_their_results(session: Session) -> None:
    """From any thread, before or after the end, with parts and callbacks."""
    site = session.site
    with Session(site=site, release_on_del=True) as releasing:
        value = releasing.put(block(0.0))
        for _ in range(10):
            value = releasing.submit(add, value, value)
        assert total(value.result(DEADLINE_S)) == 0.0
        wait_until(lambda: len(files(releasing)) == 1, DEADLINE_S, "the last file alone")
        second = releasing.submit(pilot.task(returns=2)(blocks))[1]
        assert total(second.result(DEADLINE_S)) == 2 * LARGE
        called: list[float] = []
        releasing.submit(total, second).add_done_callback(lambda f: called.append(f.result()))
        held = [value, second]
        thread = threading.Thread(target=held.clear)
        del value, second
        thread.start()
        thread.join()
        gc.collect()
        wait_until(lambda: is_empty(releasing), DEADLINE_S, "an empty directory")
    assert called == [2 * LARGE]


def test_a_forked_copy_releases_nothing(session: Session) -> None:
    with Session(site=session.site, release_on_del=True) as releasing:
        kept = [releasing.submit(block, 1.0)]
        assert total(kept[0].result(DEADLINE_S)) == LARGE
        if not (child := os.fork()):
            try:
                kept.clear()
                gc.collect()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert releasing.submit(total, kept[0]).result(DEADLINE_S) == LARGE
        kept.clear()


def test_results_of_a_session_are_purged_while_it_goes_on(session: Session, tmp_path: Path) -> None:
    there = tmp_path / "there"
    needed, free = session.put(block(8.0)), session.put(block(9.0))
    waiting = session.submit(when_there, str(there), needed)
    session.flush()
    done = run(session, "session", "purge", "--results", "--yes", str(session.id))
    assert not done.exit_code and "released" in done.output, done.output
    wait_until(lambda: len(files(session)) == 1, DEADLINE_S, "what is needed alone")
    with pytest.raises(pilot.ResultError, match="released"):
        session.future(free.task_id).result(DEADLINE_S)
    there.touch()
    assert waiting.result(DEADLINE_S) == 8 * LARGE
    wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")


def test_a_killed_head_loses_no_release_and_is_never_too_early(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    with local_site.session() as session:
        # A pilot that starts while its head is killed takes its time.
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
        values = [session.put(block(float(number))) for number in range(4)]
        waiting = session.submit(when_there, str(there), values[0])
        session.release(values[:2])
        session.flush()
        os.kill(local_site.head_pid, signal.SIGKILL)
        session.release(values[2:])  # nobody hears that but the next head
        session.flush()
        wait_until(lambda: len(files(session)) == 1, DEADLINE_S, "what is needed alone")
        os.kill(local_site.head_pid, signal.SIGKILL)
        there.touch()
        assert waiting.result(DEADLINE_S) == 0.0
        wait_until(lambda: is_empty(session), DEADLINE_S, "an empty directory")
