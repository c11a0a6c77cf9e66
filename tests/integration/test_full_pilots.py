"""A pilot whose cores are all taken keeps no work from one that has cores to spare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot

DEADLINE_S = 30.0


def pool(cores: int) -> dict[str, object]:
    """One pilot of so many cores, from the beginning to the end."""
    return {"cores_per_node": cores, "walltime": "1h", "min_nodes": 1, "max_nodes": 1}


def wait_for_pilots(site: SiteUnderTest) -> None:
    def joined() -> bool:
        return [bool(row["cores"]) for row in site.query("fleet")] == [True, True]

    wait_until(joined, DEADLINE_S, "two pilots")


@pytest.mark.parametrize("first", ["endless", "short"])
def test_short_tasks_end_beside_an_endless_one(
    make_site: Callable[..., SiteUnderTest], first: str
) -> None:
    site = make_site(pools={"main": pool(2), "full": pool(1)})
    mark, go = str(site.scratch / "mark"), str(site.scratch / "go")
    block = pilot.task(pool="full")(tasks.wait_for_file)
    with site.session() as session:
        wait_for_pilots(site)
        if first == "short":
            session.submit_many(tasks.square, [(n,) for n in range(100)])
        endless = session.submit(block, mark, go)
        wait_until(Path(mark).exists, DEADLINE_S, "the endless task")
        futures = session.submit_many(tasks.square, [(n,) for n in range(100)])
        assert pilot.gather(futures, timeout=DEADLINE_S) == [n * n for n in range(100)]
        assert not endless.done()
        Path(go).touch()
        endless.result(DEADLINE_S)


def test_what_waits_behind_an_outlier_of_its_kind_goes_elsewhere(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    site = make_site(pools={"one": pool(1), "other": pool(1)})
    lock, go, runs = site.scratch / "lock", site.scratch / "go", site.scratch / "runs"
    runs.mkdir()
    with site.session() as session:
        wait_for_pilots(site)

        def submit(numbers: range, lock: str) -> list[pilot.Future[int]]:
            # Longer than what executors are sent ahead, shorter than what pilots are.
            rows = [(str(runs), n, 0.03, lock, str(go)) for n in numbers]
            return session.submit_many(tasks.note_run_once_blocked, rows)

        pilot.gather(submit(range(20), ""), timeout=DEADLINE_S)
        futures = submit(range(20, 60), str(lock))
        wait_until(
            lambda: sum(future.done() for future in futures) == len(futures) - 1,
            DEADLINE_S,
            "all but one",
        )
        go.touch()
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(20, 60))
        assert {len(path.read_text().splitlines()) for path in runs.iterdir()} == {1}
        moved = [event for event in session.events() if event.state == "READY" and event.detail]
        assert moved and {event.detail for event in moved} == {"interrupted"}
