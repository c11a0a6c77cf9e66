"""The environment that tasks see: their program's and the site's, whoever started the head."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from support.sites import SiteUnderTest, local_template, site_under_test

import pilot

DEADLINE_S = 60.0
NAMES = ("HUE", "SHADE", "ONLY_FIRST", "PATH", "FROM_SITE", "OMP_NUM_THREADS", "PILOT_GIVEN")


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    setup = "export PATH=/from/site:$PATH SHADE=site-made\nunset UNWANTED"
    environment = {"setup": setup, "variables": {"FROM_SITE": "1"}}
    with site_under_test(local_template(environment=environment)) as site:
        yield site


def seen() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in NAMES}


def of_command(session: pilot.Session) -> dict[str, str]:
    text = session.submit(pilot.shell("env")).result(DEADLINE_S).stdout
    lines = (line.partition("=") for line in text.splitlines())
    return {name: value for name, _, value in lines}


def test_tasks_see_the_environment_of_their_own_program(
    site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    for name in ("SHADE", "FROM_SITE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUE", "red")
    monkeypatch.setenv("ONLY_FIRST", "yes")
    with site.session() as first:  # it starts the head
        told = first.submit(seen).result(DEADLINE_S)
    assert (told["HUE"], told["ONLY_FIRST"]) == ("red", "yes")
    monkeypatch.setenv("HUE", "blue")
    monkeypatch.setenv("SHADE", "mine")
    monkeypatch.setenv("PATH", f"/mine:{path}")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("UNWANTED", "1")
    monkeypatch.delenv("ONLY_FIRST")
    with site.session(variables={"FROM_SITE": "no, mine"}) as second:
        told = second.submit(seen).result(DEADLINE_S)
        assert told == {
            "HUE": "blue",
            "SHADE": "site-made",
            "ONLY_FIRST": None,
            "PATH": f"/from/site:/mine:{path}",
            "FROM_SITE": "no, mine",
            "OMP_NUM_THREADS": "7",
            "PILOT_GIVEN": None,
        }
        env = of_command(second)
        assert {name: env.get(name) for name in NAMES} == told
        monkeypatch.setenv("HUE", "green")  # it counts what was there when the session was opened
        assert second.submit(seen).result(DEADLINE_S)["HUE"] == "blue"


def test_modules_that_are_preloaded_see_it_too(
    site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUE", "yellow")
    with site.session(preload=["json"]) as session:
        told = session.submit(seen).result(DEADLINE_S)
    assert told["HUE"] == "yellow" and str(told["PATH"]).count("/from/site:") == 1


def test_ranks_see_it_too(site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mpi4py")
    monkeypatch.setenv("HUE", "white")
    with site.session() as session:
        told = session.submit(pilot.mpi(ranks=2)(seen)).result(DEADLINE_S)
        assert told["HUE"] == "white" and str(told["PATH"]).count("/from/site:") == 1
        program = session.submit(pilot.shell("printf '%s\\n' $HUE", ranks=2))
        assert program.result(DEADLINE_S).stdout.split() == ["white"] * 2


def test_a_new_head_knows_it(site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUE", "black")
    with site.session() as session:
        before = session.id
        with site.session() as other:
            assert other.submit(seen).result(DEADLINE_S)["HUE"] == "black"
        os.kill(site.head_pid, signal.SIGKILL)
        monkeypatch.setenv("HUE", "another")
        assert session.submit(seen).result(DEADLINE_S)["HUE"] == "black"
        assert session.id == before
