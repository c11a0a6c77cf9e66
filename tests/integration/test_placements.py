"""Where attempts ran is on record, and can be drawn."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pilot
from pilot.scheduler.placement_text import read_placement

if TYPE_CHECKING:
    from support.sites import SiteUnderTest


def echo(number: int) -> int:
    return number


def command(site: SiteUnderTest, *arguments: str) -> str:
    """Run a command of Pilot on a site, and return what it prints."""
    words = [sys.executable, "-m", "pilot", "--site", str(site.directory), *arguments]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def fail() -> None:
    raise ValueError("as told")


def test_each_attempt_tells_its_cores(
    shared_site: SiteUnderTest, session: pilot.Session, tmp_path: Path
) -> None:
    both = session.submit(pilot.task(cores=2)(echo), 1)
    one = session.submit(echo, 2)
    failed = session.submit(pilot.task(retries=1)(fail))
    assert (both.result(60), one.result(60)) == (1, 2)
    assert isinstance(failed.exception(60), ValueError)
    answer = session.query("placements", session=session.id)
    rows = {(row["id"], row["number"]): row for row in answer["placements"]}
    assert answer["last"] is None and len(rows) == 4
    (placed,) = read_placement(rows[both.task_id, 1]["placement"])
    assert placed.cores == (0, 1) and placed.node
    assert len(next(read_placement(rows[failed.task_id, 2]["placement"])).cores) == 1
    first = session.query("placements", session=session.id, limit=1)
    task, number = first["last"]
    more = session.query("placements", session=session.id, after=task, number=number)
    assert len(more["placements"]) == 3
    picture = tmp_path / "picture.svg"
    command(shared_site, "session", "gantt", str(session.id), "-o", str(picture))
    assert ET.parse(picture).getroot().tag.endswith("svg")
    assert f"{placed.node}:0-1" in command(shared_site, "task", "attempts", both.task_id)
