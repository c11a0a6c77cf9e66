"""Which session a task is submitted to where none is named."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from support.sites import SiteUnderTest

import pilot

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
