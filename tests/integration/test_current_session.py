"""Which session a task is submitted to where none is named."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from support.sites import SiteUnderTest

import pilot
from pilot.client.session_settings import program_name

DEADLINE_S = 30.0


def test_newest_session_of_the_thread_is_the_current_one(local_site: SiteUnderTest) -> None:
    task = pilot.task(lambda: pilot.context().session_id)
    first = local_site.session()
    second = local_site.session()  # as a cell of a notebook does that is run again
    try:
        assert pilot.current_session() is second
        assert task.submit().result(DEADLINE_S) == second.id
        with first:
            assert pilot.current_session() is first
            first.detach()
        assert pilot.current_session() is second
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(pilot.current_session()))
        thread.start()
        thread.join()
        assert seen == [second]  # the only one that is open
    finally:
        second.shutdown()
    with pytest.raises(pilot.PilotError, match="there is no current session"):
        pilot.current_session()


def test_no_session_is_taken_where_several_sites_are_open(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    a, b = make_site().session(), make_site().session()
    with pytest.raises(pilot.PilotError, match=r"of several sites; call session\.submit"):
        pilot.current_session()
    a.shutdown()
    assert pilot.current_session() is b
    b.shutdown()


def test_a_forgotten_older_session_does_not_take_the_place_of_one_that_was_left(
    local_site: SiteUnderTest,
) -> None:
    task = pilot.task(len)
    first = local_site.session()
    with local_site.session():
        pass
    assert pilot.current_session() is first  # a block says where it begins and ends
    second = local_site.session()  # as the same cell of a notebook, run again
    second.shutdown()
    with pytest.raises(pilot.PilotError, match=rf"and session {first.id} \(.*\) is an older one"):
        task.submit("abc")
    assert first.submit(len, "abc").result(DEADLINE_S) == 3
    third = local_site.session()
    assert pilot.current_session() is third
    third.shutdown()
    first.shutdown()


def test_a_session_that_was_left_tells_how_to_come_back(local_site: SiteUnderTest) -> None:
    session = local_site.session()
    future = session.submit(len, "abc")
    assert future.result(DEADLINE_S) == 3
    session.detach()
    attach = rf"pilot\.Session\(site=…, session_id={session.id}\)"
    for use in (
        lambda: session.submit(len, "abc"),
        lambda: session.future(future.task_id),
        lambda: session.retry(),
    ):
        with pytest.raises((pilot.PilotError, RuntimeError), match=attach):
            use()
    assert [row["id"] for row in session.tasks()] == [future.task_id]  # asking goes on


@pytest.mark.parametrize(
    ("program", "variable", "name"),
    [
        ("/lib/ipykernel_launcher.py", "/home/me/heat.ipynb", "heat"),
        ("/lib/ipykernel_launcher.py", "", "notebook"),
        ("-", "", "python"),
        ("-c", "", "python"),
        ("", "", "python"),
        ("study.py", "/home/me/heat.ipynb", "study"),
    ],
)
def test_a_session_is_called_as_its_program(
    monkeypatch: pytest.MonkeyPatch, program: str, variable: str, name: str
) -> None:
    monkeypatch.setattr("sys.argv", [program])
    monkeypatch.setenv("JPY_SESSION_NAME", variable)
    assert program_name() == name
