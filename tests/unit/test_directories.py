"""Directories of a site, also of one that is not there any more: nothing is made in its place."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pilot.client.starter import ensure_head
from pilot.data.checkpoint import Checkpoint
from pilot.data.directories import make_private
from pilot.data.durable import make_directory
from pilot.data.segments import SegmentWriter
from pilot.errors import PilotError
from pilot.scheduler.batch.local.processes import LocalBatch
from pilot.site import Site, SiteGone, create_site
from pilot.workflow.record import Record, write_record


@pytest.fixture
def gone(tmp_path: Path) -> Site:
    """A site whose directory has been moved away."""
    site = create_site(tmp_path / "site", "local")
    site.directory.rename(tmp_path / "elsewhere")
    return site


def test_what_is_missing_above_is_made_too_and_private(tmp_path: Path) -> None:
    for within in (None, tmp_path):
        path = tmp_path / str(within is None) / "a" / "b"
        make_private(path, within)
        make_private(path, within)
        for made in (path, path.parent, path.parent.parent):
            assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("make", [make_private, make_directory])
def test_what_must_be_there_is_not_made(
    tmp_path: Path, make: Callable[[Path, Path | None], None]
) -> None:
    within = tmp_path / "gone"
    with pytest.raises(FileNotFoundError, match="gone"):
        make(within / "a" / "b", within)
    assert not within.exists()


WRITERS: list[Callable[[Site], object]] = [
    lambda site: site.prepare(),
    lambda site: ensure_head(site),
    lambda site: SegmentWriter(site.directory, "me").add("1", "f", "1.1", 0, np.ones(100_000)),
    lambda site: Checkpoint(site.checkpoints / "1" / "1.1", within=site.directory).save(1, 2),
    lambda site: write_record(site.results, 1, Record("w", [], {}, False)),
    lambda site: LocalBatch(site.jobs)._new_record(),
]


@pytest.mark.parametrize("write", WRITERS, ids=range(len(WRITERS)))
def test_nobody_makes_a_site_anew_that_has_gone(gone: Site, write: Callable[[Site], None]) -> None:
    with pytest.raises((OSError, PilotError)):
        write(gone)
    assert not gone.directory.exists()


def test_a_site_that_has_gone_is_told_in_words(gone: Site) -> None:
    with pytest.raises(SiteGone, match=r"site is gone: was it moved .* Put it back"):
        gone.check_there()
    gone.directory.mkdir()
    with pytest.raises(SiteGone, match=r"site has no site\.yaml: was it moved"):
        gone.prepare()
    assert not list(gone.directory.iterdir())
