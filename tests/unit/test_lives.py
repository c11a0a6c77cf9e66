"""The traces that a run in a job finds of the lives that the job had before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.cli import lives
from pilot.cli.lives import Earlier, Lives, Note, earlier
from pilot.site import Site, create_site


@pytest.mark.parametrize(
    ("notes", "life", "expected"),
    [
        ([], 1, Earlier(None)),
        ([Note(0, 3), Note(0, 3, True)], 1, Earlier(3)),
        # Another run of the same workflow in the same life.
        ([Note(0, 3), Note(0, 3, True)], 0, Earlier(None)),
        # It was killed while it submitted.
        ([Note(0, 3)], 1, Earlier(None, (3,))),
        ([Note(0, 3), Note(1, 5), Note(1, 5, True)], 2, Earlier(5)),
        # The script runs the same workflow twice.
        ([Note(0, 3, True), Note(0, 4, True)], 1, Earlier(3)),
        ([Note(0, 3, True), Note(0, 4, True), Note(1, 3, True)], 1, Earlier(4)),
        ([Note(0, 3, True), Note(0, 4), Note(1, 3, True)], 1, Earlier(None, (4,))),
        # The third life finds what the second one went on with, once.
        ([Note(0, 3, True), Note(1, 3, True)], 2, Earlier(3)),
    ],
)
def test_which_session_a_run_goes_on_with(notes: list[Note], life: int, expected: Earlier) -> None:
    assert earlier(notes, life) == expected


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(lives, "_cancel", lambda _, session: told.append(("cancel", session)))
    monkeypatch.setattr(lives, "_close", lambda _, session: told.append(("close", session)))
    return told


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = create_site(tmp_path / "site", "local")
    site.prepare()
    return site


def test_notes_are_those_of_one_run_in_one_job(site: Site, told: list[tuple[str, int]]) -> None:
    first = Lives(site, "7", 0, ["a.yaml", "n=1"])
    assert first.begun() is None
    first.note(3, is_whole=False)
    first.note(3, is_whole=True)
    assert Lives(site, "7", 1, ["a.yaml", "n=2"]).begun() is None
    assert Lives(site, "8", 1, ["a.yaml", "n=1"]).begun() is None
    assert not told
    assert Lives(site, "7", 1, ["a.yaml", "n=1"]).begun() == 3
    assert told == [("close", 3)], "nobody else would"


def test_a_note_that_was_cut_off_is_none(site: Site, told: list[tuple[str, int]]) -> None:
    Lives(site, "7", 0, ["a.yaml"]).note(3, is_whole=False)
    (path,) = site.jobs.iterdir()
    with path.open("ab") as file:
        file.write(b"[0,3,tr")
    assert Lives(site, "7", 1, ["a.yaml"]).begun() is None
    assert told == [("cancel", 3)]


def test_a_run_does_not_fail_for_its_notes(
    site: Site, told: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Lives(site, "7", 1, ["a.yaml"])
    run.note(3, is_whole=False)
    (path,) = site.jobs.iterdir()
    path.unlink()
    path.mkdir()
    run.note(3, is_whole=True)
    assert "it will submit session 3 anew" in capsys.readouterr().err
    assert run.begun() is None
    assert "cannot be read" in capsys.readouterr().err
