"""Peers of ``scripts/bench`` from the outside, and what is ended after them; nothing is timed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0,
    str(Path(os.environ.get("CHECKOUT", Path(__file__).resolve().parents[2])) / "scripts" / "lib"),
)

from bench import graphs, measure, peer_process, peers, plot, report
from bench.contenders import medians
from bench.measure import DeadlineError
from bench.peer_process import PeerError
from bench.report import Findings

FAKE = r"""
import json, subprocess, sys
say = lambda answer: print(json.dumps(answer), flush=True)
say({"name": "Fake 1.0"})
for line in sys.stdin:
    asked = json.loads(line)
    if asked["load"] == "detach":  # as daemons do: a session of its own, and it stays
        child = subprocess.Popen(["sleep", "600"], cwd="/", start_new_session=True)
        say({"found": child.pid})
    elif asked["load"] == "fail":
        say({"error": "ValueError: no"})
    elif asked["load"] == "die":
        sys.exit("I go")
    elif asked["load"] == "half":
        say({"found": asked["count"] / 2})
    elif asked["load"] == "none":
        say({"found": None})
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "command", lambda *_: [sys.executable, "-c", FAKE])
    monkeypatch.setitem(peers.PEERS, "fake", "fake")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any directory of the test."""
    process = subprocess.Popen(["sleep", "600"], cwd="/")
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("fake")
def test_a_peer_answers_and_leaves_neither_processes_nor_files(tmp_path: Path) -> None:
    with peer_process.opened("fake", 2, "W1", tmp_path) as peer:
        assert peer.name == "Fake 1.0"
        assert peer.do("half", count=8) == 4
        assert peer.do("none") is None
        detached = peer.do("detach")
        os.kill(detached, 0)
    status = Path(f"/proc/{detached}/stat")
    assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake")
def test_what_a_peer_says_of_a_failure_is_told_and_it_can_be_asked_again(tmp_path: Path) -> None:
    with peer_process.opened("fake", 2, "W1", tmp_path) as peer:
        with pytest.raises(PeerError, match="ValueError: no"):
            peer.do("fail")
        assert peer.do("half", count=2) == 1


@pytest.mark.usefixtures("fake")
def test_the_last_words_of_a_peer_that_dies_are_told(tmp_path: Path) -> None:
    with (
        pytest.raises(PeerError, match="I go"),
        peer_process.opened("fake", 2, "W1", tmp_path) as peer,
    ):
        peer.do("die")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake")
def test_a_peer_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_process, "LIMIT_S", 2.0)
    with pytest.raises(DeadlineError), peer_process.opened("fake", 2, "W1", tmp_path) as peer:
        peer.do("says nothing")
    assert list(tmp_path.iterdir()) == []


def test_only_processes_of_the_directory_are_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    mine, other = tmp_path / "bench", tmp_path / "bench-2"
    mine.mkdir()
    other.mkdir()
    by_place = subprocess.Popen(["sleep", "600"], cwd=mine)
    by_name = subprocess.Popen(["sleep", "600"], cwd="/", env={**os.environ, "HOME": str(mine)})
    beside = subprocess.Popen(["sleep", "600"], cwd=other, env={**os.environ, "A": f"x={mine}"})
    try:
        assert set(measure.processes_of(mine)) == {by_place.pid, by_name.pid}
        measure.end_processes(mine)
        assert (by_place.wait(10), by_name.wait(10)) == (-9, -9)
        assert beside.poll() is None
        assert sleeper.poll() is None
        assert measure.processes_of(mine) == []
    finally:
        for process in (by_place, by_name, beside):
            process.kill()
            process.wait()


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "nobody", "nobody")
    assert "--install-peers" in peers.why_not("nobody")


def test_an_environment_of_its_own_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "dask" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    assert peers.interpreter("dask") == python
    assert peers.interpreter("parsl") == Path(sys.executable)


def test_what_a_peer_cannot_do_is_a_hyphen() -> None:
    samples: dict[str, list[dict[str, float | None]]] = {
        "pilot": [{"a": 1.0}, {"a": 3.0}, {"a": 2.0}],
        "peer": [{"a": None}],
    }
    assert medians(samples, "a") == {"pilot": 2.0, "peer": None}
    findings = Findings()
    findings.add("W1", "a", "tasks/s", 2.0, {"peer": None})
    assert report.table(findings.rows).splitlines()[1].split()[-2:] == ["peer", "-"]
    assert report.markdown(findings.rows).endswith("| a | tasks/s | 2 | - |")


@pytest.mark.parametrize("in_row", [True, False])
def test_fork_joins_as_numbers_are_forks_branches_and_joins(in_row: bool) -> None:
    needs = graphs._join_needs(3, in_row=in_row)
    assert len(needs) == 3 * graphs.JOIN_TASKS
    forks = [number * graphs.JOIN_TASKS for number in range(3)]
    assert [needs[fork] for fork in forks] == [
        [],
        *([[f - 1] if in_row else [] for f in forks[1:]]),
    ]
    for fork in forks:
        branches = range(fork + 1, fork + 1 + graphs.WIDTH)
        assert all(needs[branch] == [fork] for branch in branches)
        assert needs[fork + 1 + graphs.WIDTH] == list(branches)


def test_pictures_are_small_and_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    line = [(1, 0.5), (10, 0.9)]
    data = {
        "W2": {"1": {"pilot": [0.001, 0.002], "pool": [0.003]}, "10": {"pilot": [0.004]}},
        "CURVES": {
            "lengths": {"pilot": line, "ideal": line},
            "executors": {"10 ms": {"pilot": line}},
            "waiting": {"core": {"elapsed": line, "head": line}},
        },
    }
    first, again = (plot.draw(data, tmp_path / name) for name in ("first", "again"))
    assert {path.stem for path in first} == {"latency", "length", "executors", "waiting"}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert max(path.stat().st_size for path in first) < 100_000
    assert [path.stem for path in plot.draw({"W2": data["W2"]}, tmp_path / "one")] == ["latency"]
