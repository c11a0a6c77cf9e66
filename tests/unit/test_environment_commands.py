"""``pilot environment``: what pip has built is listed, and removed by name or when it is unused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pilot.cli import cli
from pilot.client import pip_builds
from pilot.client.pip_builds import MARK, built, digest_of, read_mark
from pilot.site import Site, create_site

DAY_S = 86400.0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("PILOT_SITE", "PILOT_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return create_site(tmp_path / "site", "local")


def make(site: Site, name: str, pip: list[str], days: float) -> Path:
    """An environment that was made and used last so many days ago."""
    place = site.environments / name
    place.mkdir(parents=True)
    then = time.time() - days * DAY_S
    said = {"pip": pip, "options": [], "python": "3.11.2", "made": then}
    (place / MARK).write_text(json.dumps(said))
    os.utime(place / MARK, (then, then))
    return place


def run(site: Site, *words: str) -> Result:
    return CliRunner().invoke(cli, ["environment", *words, "-s", str(site.directory)])


def test_environments_are_listed_with_what_they_have(site: Site) -> None:
    assert "no environments" in run(site, "list").output
    make(site, "aa", ["numpy==2.0"], 3.0)
    (site.environments / "half").mkdir()  # nobody's but its builder's
    shown = run(site, "list").output
    assert "aa" in shown and "numpy==2.0" in shown and "half" not in shown
    (row,) = json.loads(run(site, "list", "--json").output)
    assert (row["environment"], row["pip"], row["python"]) == ("aa", ["numpy==2.0"], "3.11.2")
    assert abs(time.time() - row["used"] - 3 * DAY_S) < 3600


def test_those_that_are_named_are_removed_or_none(site: Site) -> None:
    one, other = (make(site, name, ["x"], 1.0) for name in ("aa", "bb"))
    for bad in ("cc", "../local", ".."):
        told = run(site, "rm", "aa", bad)
        assert told.exit_code and "there is no environment" in str(told.exception) + told.output
    assert one.exists()
    assert run(site, "rm", "aa").exit_code == 0
    assert not one.exists() and other.exists()


def test_those_that_nobody_has_asked_for_are_removed(site: Site) -> None:
    old, new = make(site, "old", ["x"], 91.0), make(site, "new", ["y"], 89.0)
    (site.environments / "aa.building").mkdir()
    told = run(site, "rm", "--unused", "90d")
    assert told.exit_code == 0 and "old" in told.output
    assert not old.exists() and new.exists() and (site.environments / "aa.building").exists()
    assert "no environment has been unused" in run(site, "rm", "--unused", "90d").output
    for words in (("rm",), ("rm", "new", "--unused", "1d")):
        assert "give the names of environments, or --unused" in run(site, *words).output
    assert new.exists()


def test_whoever_asks_for_one_uses_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make(site, digest_of(["x"], ()), ["x"], 30.0)
    monkeypatch.setattr(pip_builds, "_build", None)
    assert built(site.environments, site.directory, ["x"], ()) == place
    assert time.time() - read_mark(place)["used"] < DAY_S
