"""Values end to end on a local site: put once, imported, deleted, and the space given back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session
from pilot.client.arguments import encode_arguments
from pilot.data.pickles import encode
from pilot.data.stored_array import StoredArray
from pilot.worker.node_cache import RECORD, cache_dir

DEADLINE_S = 60.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def total(array: Any) -> float:
    return float(array.sum())


def zeros(mib: float) -> Any:
    return np.zeros(int(mib * MIB), np.uint8)


def used_mib(site: SiteUnderTest) -> float:
    """What ``du`` says of the results."""
    results = site.directory / "results"
    if not results.exists():
        return 0.0
    out = subprocess.run(["du", "-sk", results], check=True, capture_output=True, text=True).stdout
    return int(out.split()[0]) / 1024


# --- sizes ----------------------------------------------------------------------------------------


def made(size: int, as_argument: bool = False) -> list[bytes]:
    """A value whose pickle has so many bytes, or the pickle of arguments that are only this."""
    value = [bytes(size // 2), b""]
    left = size
    while left:
        value[1] = bytes(len(value[1]) + left)
        left = size - len(encode_arguments((value,), {})[0] if as_argument else encode(value))
    return value


def measure(*values: list[bytes]) -> tuple[int, ...]:
    assert not any(any(part) for value in values for part in value)
    return tuple(sum(map(len, value)) for value in values)


def several(size: int, count: int) -> list[list[bytes]]:
    return [made(size) for _ in range(count)]


@pytest.mark.parametrize("limit", ["64K", "16M"])
def test_values_at_the_bounds_come_as_they_went(make_site: Any, limit: str) -> None:
    site = make_site(data={"inline_limit": limit, "patience": "200ms"})
    bound = site.site.config.data.inline_limit_bytes
    with site.session() as session:
        for size in (bound - 1, bound, bound + 1, 200_000):
            value, argument = made(size), made(size, as_argument=True)
            result = session.submit(made, size)
            # As an input, in the pilot and from the head; as an argument, and with a function.
            futures = [
                session.submit(measure, result),
                session.submit(measure, value),
                session.submit(measure, argument),
                session.submit(lambda value=value: measure(value)),
                session.submit(measure, session.put(value)),
            ]
            assert result.result(DEADLINE_S) == value
            futures.append(session.submit(measure, result))
            wanted = measure(value)
            assert pilot.gather(futures, timeout=DEADLINE_S) == [
                *(wanted, wanted, measure(argument), *3 * [wanted])
            ]
            stored = site.query("result", task=result.task_id)["values"]
            assert [bool(one["path"]) for one in stored] == [size > bound]
        many = session.submit(pilot.task(returns=4)(several), bound, 4)
        assert session.submit(measure, *many).result(DEADLINE_S) == 4 * measure(made(bound))
        assert many.result(DEADLINE_S) == (made(bound),) * 4


# --- put ------------------------------------------------------------------------------------------


def test_many_values_are_put_at_once(session: Session, shared_site: SiteUnderTest) -> None:
    blocks: list[Any] = [np.full(20_000, float(n)) for n in range(10)]
    futures = session.put_many([*blocks, "small"], name="blocks")
    sums = session.submit_many(total, [(future,) for future in futures[:10]])
    assert pilot.gather(sums, timeout=DEADLINE_S) == [20_000.0 * n for n in range(10)]
    assert futures[10].result(DEADLINE_S) == "small"
    values = [
        shared_site.query("result", task=future.task_id)["values"][0]["path"] for future in futures
    ]
    assert len(set(values[:10])) == 1 and not values[10]
    assert session.put_many(iter(())) == []
    with pytest.raises(pilot.EncodingError, match=r"^value 1: "):
        session.put_many([1, (x for x in "abc")])
    # The file goes with its last value.
    session.purge(futures[:9])
    assert np.array_equal(futures[9].result(DEADLINE_S), blocks[9])
    session.purge(futures[9:])
    file = shared_site.directory / values[0]
    wait_until(lambda: not file.exists(), DEADLINE_S, "the file of the values to go")


@pytest.mark.parametrize("detached", [False, True])
def test_a_task_puts_many_values_at_once(session: Session, detached: bool) -> None:
    def sums() -> Any:
        here = pilot.context().session
        assert here.put_many([], detached=detached) == []
        blocks = here.put_many([np.full(20_000, float(n)) for n in range(3)], detached=detached)
        return here.submit(lambda *arrays: [total(each) for each in arrays], *blocks)

    assert session.submit(sums).result(DEADLINE_S) == [0.0, 20_000.0, 40_000.0]


def test_a_value_is_put_once_and_used_by_many(session: Session) -> None:
    small = session.put({"a": 1}, name="small")
    large = session.put(np.arange(100_000.0), name="large")
    many = session.submit_many(total, [(large,)] * 20)
    nested = session.submit(tasks.echo, [small, {"deep": (large, small)}])
    assert {future.result(DEADLINE_S) for future in many} == {float(np.arange(100_000.0).sum())}
    args, _ = nested.result(DEADLINE_S)
    assert args[0][0] == {"a": 1} and args[0][1]["deep"][1] == {"a": 1}
    assert np.array_equal(args[0][1]["deep"][0], np.arange(100_000.0))
    assert small.result(DEADLINE_S) == {"a": 1}
    assert np.array_equal(large.result(DEADLINE_S), np.arange(100_000.0))
    rows = {row["id"]: row for row in session.tasks(name="large")}
    assert (rows[large.task_id]["kind"], rows[large.task_id]["state"]) == ("value", "COMPLETED")
    (stored,) = session.query("task", task=large.task_id)["results"]
    assert stored["file"] and stored["name"].startswith(f"/{session.id}/large/{large.task_id}/")


def test_what_happens_to_the_object_later_changes_nothing(session: Session) -> None:
    array = np.ones(100_000)
    future = session.put(array)
    array[:] = 7
    assert session.submit(total, future).result(DEADLINE_S) == 100_000


def test_a_value_of_an_other_process(session: Session) -> None:
    future = session.put(list(range(30_000)))
    again = session.future(future.task_id)
    assert again.result(DEADLINE_S) == future.result(DEADLINE_S) == list(range(30_000))
    assert session.submit(len, again).result(DEADLINE_S) == 30_000


def test_what_cannot_be_pickled_cannot_be_put(session: Session) -> None:
    with pytest.raises(pilot.PilotError, match="generator"):
        session.put(x for x in "abc")
    assert session.submit(tasks.square, session.put(3)).result(DEADLINE_S) == 9


def test_a_task_puts_a_value_for_its_children(session: Session) -> None:
    def parent(size: int, detached: bool) -> Any:
        shared = pilot.context().session.put(np.ones(size), name="of-a-task", detached=detached)
        return pilot.context().session.submit(
            add_all,
            [pilot.context().session.submit(total, shared, detached=detached) for _ in range(5)],
        )

    for size in (10, 200_000):
        for detached in (False, True):
            assert session.submit(parent, size, detached).result(DEADLINE_S) == 5 * size
    rows = session.tasks(name="of-a-task")
    assert [(row["kind"], row["state"]) for row in rows] == [("value", "COMPLETED")] * 4


def add_all(values: list[float]) -> float:
    return sum(values)


def test_a_task_returns_what_it_has_put(session: Session) -> None:
    def parent() -> Any:
        return pilot.context().session.put(np.ones(100_000))

    future = session.submit(parent)
    assert total(future.result(DEADLINE_S)) == 100_000
    assert session.submit(total, future).result(DEADLINE_S) == 100_000


def test_a_node_fetches_a_value_once(make_site: Any) -> None:
    site = make_site(cores=4)
    array = np.arange(8 * MIB // 8)
    ready = site.scratch / "ready"
    ready.mkdir()

    def use(value: Any, number: int, directory: str) -> tuple[int, int]:
        # The first ones wait for each other: so all four executors have it.
        if number < 4:
            (Path(directory) / str(number)).touch()
            wait_until(lambda: len(os.listdir(directory)) == 4, 60)
        return os.getpid(), int(value.sum())

    with site.session() as session:
        value = session.put(array)
        futures = session.submit_many(use, [(value, n, str(ready)) for n in range(50)])
        results = [future.result(DEADLINE_S) for future in futures]
        assert {found for _, found in results} == {int(array.sum())}
        assert len({pid for pid, _ in results}) == 4
        whose = cache_dir(site.site, "pilot-")  # and the rest of the pilot's name
        (cache,) = whose.parent.glob(f"{whose.name}*")
        fetched = (cache / RECORD).read_text().splitlines()
        assert len(fetched) == 1 and fetched[0].startswith("results/")
        session.release(value)
        wait_until(lambda: not list(cache.rglob("*.h5")), DEADLINE_S, "the released copy to go")
    site.stop()
    wait_until(lambda: not cache.exists(), DEADLINE_S, "the cache to go with its pilot")


# --- files that exist -----------------------------------------------------------------------------


def grids(rows: int) -> dict[str, Any]:
    return {"u": np.arange(rows * 100.0).reshape(rows, 100), "rows": rows}


def two_grids(rows: int) -> tuple[Any, Any]:
    return grids(rows)["u"], rows


def test_a_part_of_a_result_is_read_without_the_rest(session: Session) -> None:
    future = session.submit(grids, 1000)
    field: Any = future.array("u", timeout=DEADLINE_S)
    assert isinstance(field, StoredArray) and field.shape == (1000, 100)
    assert np.array_equal(field[10:20, 3], np.arange(1003.0, 2003.0, 100.0))
    with pytest.raises(KeyError, match="it has u"):
        future.array()
    # What is in memory by now is not read again.
    assert np.array_equal(future.result()["u"], field)
    assert isinstance(future.array("u"), np.ndarray)


def test_parts_of_one_of_several_results(session: Session) -> None:
    future = session.submit(pilot.task(returns=2)(two_grids), 1000)
    with pytest.raises(TypeError, match="2 results"):
        future.array()
    assert future[0].array(timeout=DEADLINE_S)[999, 99] == 99999.0


def test_a_compressed_result_is_one_for_other_programs_too(
    session: Session, shared_site: SiteUnderTest
) -> None:
    future = session.submit(pilot.task(compression="gzip:1")(grids), 3000)
    field: Any = future.array("u", timeout=DEADLINE_S)
    assert np.array_equal(field[10:20, 3], np.arange(1003.0, 2003.0, 100.0))
    assert np.array_equal(future.result()["u"], grids(3000)["u"])
    (value,) = shared_site.query("result", task=future.task_id)["values"]
    with h5py.File(shared_site.directory / value["path"]) as file:
        stored = file[value["name"]]["u"]
        assert stored.compression == "gzip" and np.array_equal(stored[()], grids(3000)["u"])


def test_a_put_that_is_compressed_is_what_tasks_get(
    session: Session, shared_site: SiteUnderTest
) -> None:
    def puts() -> Any:
        own = pilot.context().session
        inner = own.put(np.zeros(500_000), compression="gzip:1")
        (other,) = own.put_many([np.zeros(500_000)], compression="gzip:1")
        return inner, other

    field = session.put(np.zeros(500_000), compression="gzip:1")
    many = session.put_many([np.zeros(500_000)], compression="gzip:1")
    assert session.submit(np.size, field).result(DEADLINE_S) == 500_000
    made = session.submit(pilot.task(returns=2)(puts))
    assert [array.size for array in made.result(DEADLINE_S)] == [500_000, 500_000]
    for future in (field, *many, made):
        for value in shared_site.query("result", task=future.task_id)["values"]:
            if value["path"]:
                assert (shared_site.directory / value["path"]).stat().st_size < 1_000_000


def test_a_task_that_has_failed_has_no_array(session: Session) -> None:
    with pytest.raises(ZeroDivisionError):
        session.submit(divmod, 1, 0).array(timeout=DEADLINE_S)


def test_an_imported_file_is_a_path(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("hello")
    before = path.stat()
    future = session.import_file(path)
    assert future.result(DEADLINE_S) == path
    assert session.submit(Path.read_text, future).result(DEADLINE_S) == "hello"
    assert session.submit(lambda paths: [type(p) for p in paths], [future]).result(DEADLINE_S) == [
        type(path)
    ]
    row = session.query("task", task=future.task_id)
    assert (row["kind"], row["name"], row["results"][0]["file"]) == ("value", "file", None)
    assert path.stat().st_ino == before.st_ino


def test_relative_paths_are_made_absolute(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert session.import_file("x").result(DEADLINE_S) == tmp_path / "x"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.write_text("longer text"), "has 11 bytes, and had 5 when it was imported"),
        (lambda p: os.utime(p, ns=(0, p.stat().st_mtime_ns + 1000)), "was written at"),
        (lambda p: p.unlink(), "there is no such file"),
    ],
    ids=["longer", "touched", "gone"],
)
def test_a_changed_file_is_noticed(
    session: Session, tmp_path: Path, change: Any, said: str
) -> None:
    path = tmp_path / "data.txt"
    path.write_text("hello")
    future = session.import_file(path)
    assert session.submit(Path.read_text, future).result(DEADLINE_S) == "hello"
    change(path)
    for broken in (session.submit(Path.read_text, future), session.future(future.task_id)):
        with pytest.raises(pilot.ResultError, match=said) as error:
            broken.result(DEADLINE_S)
        assert str(path) in str(error.value)


def test_only_files_that_can_be_read_are_imported(session: Session, tmp_path: Path) -> None:
    with pytest.raises(pilot.ResultError, match="nowhere: there is no such file"):
        session.import_file(tmp_path / "nowhere")
    with pytest.raises(pilot.ResultError, match="it is a directory"):
        session.import_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(pilot.ResultError, match="not a regular file"):
        session.import_file(tmp_path / "pipe")
    with pytest.raises(pilot.ResultError, match="Not a directory"):
        session.import_file("/dev/null/x")


def test_a_task_imports_what_it_has_written(session: Session, tmp_path: Path) -> None:
    def parent(directory: str) -> Any:
        path = Path(directory) / "made"
        path.write_text("made by a task")
        children = pilot.context().session
        return children.submit(Path.read_text, children.import_file(path))

    assert session.submit(parent, str(tmp_path)).result(DEADLINE_S) == "made by a task"


# --- deletion -------------------------------------------------------------------------------------


def test_deleted_results_give_their_space_back(make_site: Any) -> None:
    site = make_site()
    with site.session() as session:
        value = session.put(zeros(8))
        futures = [session.submit(zeros, 4) for _ in range(6)]
        consumer = session.submit(total, futures[0])
        assert consumer.result(DEADLINE_S) == 0
        kept = futures.pop()
        for future in (*futures, kept):
            future.result(DEADLINE_S)
        assert used_mib(site) > 32
        session.purge([value, *futures])
        wait_until(lambda: used_mib(site) < 5, DEADLINE_S, "the space of 28 MiB")
        assert kept.result().nbytes == 4 * MIB and total(session.future(kept.task_id).result()) == 0
        # What is deleted is told by its name, to whoever asks and whoever needs it.
        with pytest.raises(pilot.ResultError, match=f"{futures[0].task_id} was deleted"):
            session.future(futures[0].task_id).result(DEADLINE_S)
        with pytest.raises(pilot.PilotError, match=f"{value.task_id}, which is DELETED"):
            session.submit(total, value).result(DEADLINE_S)
        assert session.query("result", task=futures[1].task_id)["state"] == "DELETED"
        # The records stay, what was made of it stays, and once more is no harm.
        assert session.query("task", task=futures[1].task_id)["state"] == "COMPLETED"
        assert session.future(consumer.task_id).result(DEADLINE_S) == 0
        session.purge(futures)


def test_what_is_needed_is_not_deleted(session: Session, tmp_path: Path) -> None:
    value = session.put(np.ones(100_000))
    other = session.put(1)
    gate, go = tmp_path / "gate", tmp_path / "go"
    held = session.submit(tasks.wait_for_file, str(gate), str(go))
    after = session.submit(lambda array, _: float(array.sum()), value, held)
    with pytest.raises(pilot.PilotError, match=f"{after.task_id} still needs .*{value.task_id}"):
        session.purge([other, value])
    with pytest.raises(pilot.PilotError, match=f"{held.task_id} has not ended"):
        session.purge([other, held])
    go.touch()
    assert after.result(DEADLINE_S) == 100_000
    assert session.future(other.task_id).result(DEADLINE_S) == 1, "nothing was deleted"
    session.purge([other, value, held])
    with pytest.raises(pilot.ResultError, match="was deleted"):
        session.future(value.task_id).result(DEADLINE_S)


def test_a_result_that_was_handed_on_stays(session: Session) -> None:
    """The value of a parent is its child's; either may be deleted without the other."""

    def parent() -> Any:
        return pilot.context().session.submit(ones)

    def children_of(future: Any) -> list[str]:
        rows = session.tasks(name="ones")
        return [
            row["id"]
            for row in rows
            if session.query("task", task=row["id"])["parent"] == future.task_id
        ]

    future = session.submit(parent)
    assert total(future.result(DEADLINE_S)) == 200_000
    (child,) = children_of(future)
    (stored,) = session.query("task", task=future.task_id)["results"]
    path = session.site.directory / stored["file"]
    session.purge([session.future(child)])
    assert total(session.future(future.task_id).result(DEADLINE_S)) == 200_000
    assert path.exists()
    session.purge([future])
    wait_until(lambda: not path.exists(), DEADLINE_S, "the file to go with its last reference")


def ones() -> Any:
    return np.ones(200_000)


def test_a_child_s_result_is_needed_until_its_parent_has_all(
    session: Session, tmp_path: Path
) -> None:
    @pilot.task(returns=2)
    def parent(gate: str, go: str) -> Any:
        children = pilot.context().session
        return children.submit(early, 5), children.submit(tasks.wait_for_file, gate, go)

    gate, go = tmp_path / "gate", tmp_path / "go"
    future = session.submit(parent, str(gate), str(go))
    wait_until(gate.exists, DEADLINE_S)
    wait_until(
        lambda: [row["state"] for row in session.tasks(name="early")] == ["COMPLETED"], DEADLINE_S
    )
    child = session.future(session.tasks(name="early")[0]["id"])
    with pytest.raises(pilot.PilotError, match=f"{future.task_id} still needs .*{child.task_id}"):
        session.purge([child])
    go.touch()
    assert future.result(DEADLINE_S) == (5, str(gate))
    session.purge([child])
    assert session.future(future.task_id).result(DEADLINE_S) == (5, str(gate))


def early(x: int) -> int:
    return x


def test_a_purged_session_gives_its_space_back(make_site: Any) -> None:
    site = make_site()
    with site.session() as session:
        value = session.put(zeros(8))
        futures = [session.submit(tasks.echo, value, zeros(2)) for _ in range(3)]
        pilot.gather(futures, timeout=DEADLINE_S)
    assert used_mib(site) > 30  # the value, and arguments and results with it
    session.purge()
    wait_until(lambda: used_mib(site) < 0.1, DEADLINE_S, "the space of a session")
    assert site.query("result", task=futures[0].task_id)["state"] == "DELETED"
    assert site.query("session", session=session.id)["state"] == "PURGED"
    session.delete()
    with pytest.raises(pilot.PilotError, match=f"there is no session {session.id}"):
        site.query("session", session=session.id)


def test_a_site_keeps_no_more_than_it_says(make_site: Any) -> None:
    """The data of sessions that have ended go, and their records stay."""
    site = make_site(data={"keep": "1ms"})
    with site.session() as session:
        pilot.gather([session.submit(zeros, 2) for _ in range(2)], timeout=DEADLINE_S)
    wait_until(lambda: site.query("session", session=session.id)["ended"], DEADLINE_S)
    assert used_mib(site) > 3.5, "a head looks at its start, and then every ten minutes"
    os.kill(site.head_pid, signal.SIGKILL)
    with site.session() as later:
        later.submit(tasks.square, 2).result(DEADLINE_S)
        wait_until(lambda: used_mib(site) < 0.1, DEADLINE_S, "the space of a session")
        assert site.query("session", session=session.id)["state"] == "PURGED"
        assert site.query("session", session=later.id)["state"] == "OPEN"


def test_another_session_still_needs_it(make_site: Any) -> None:
    site = make_site()
    gate, go = site.scratch / "gate", site.scratch / "go"
    with site.session() as first:
        value = first.put(np.ones(100_000))
        value.result(DEADLINE_S)
    with site.session() as second:
        held = second.submit(tasks.wait_for_file, str(gate), str(go))
        after = second.submit(
            lambda array, _: float(array.sum()), second.future(value.task_id), held
        )
        second.flush()
        with pytest.raises(pilot.PilotError, match=f"{after.task_id} still needs"):
            first.purge()
        go.touch()
        assert after.result(DEADLINE_S) == 100_000
    first.purge()
    wait_until(lambda: used_mib(site) < 0.1, DEADLINE_S, "the space of a session")


def test_a_killed_head_s_garbage_is_removed_by_the_next(make_site: Any) -> None:
    """SIGKILL right after the deletion is on the disk, whatever the janitor has done by then."""
    site = make_site()
    for _ in range(3):
        with site.session() as session:
            futures = [session.submit(zeros, 2) for _ in range(4)]
            pilot.gather(futures, timeout=DEADLINE_S)
            session.purge(futures[1:])
            os.kill(site.head_pid, signal.SIGKILL)
            kept = session.future(futures[0].task_id)
            assert total(kept.result(DEADLINE_S)) == 0
            wait_until(lambda: used_mib(site) < 2.5, DEADLINE_S, "the space of 6 MiB")
            session.purge([kept])
            wait_until(lambda: used_mib(site) < 0.1, DEADLINE_S, "the rest")


def test_results_are_deleted_from_the_command_line(session: Session) -> None:
    futures = [session.submit(tasks.square, 2), session.submit(tasks.square, 3)]
    pilot.gather(futures, timeout=DEADLINE_S)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pilot", "result", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    deleted = run("delete", *(future.task_id for future in futures))
    assert (deleted.returncode, deleted.stdout) == (0, "results of 2 tasks deleted\n")
    shown = run("get", futures[0].task_id)
    assert shown.returncode == 1 and "was deleted; run the task again" in shown.stderr
    wrong = run("delete", "99.1")
    assert wrong.returncode != 0 and "99.1 does not exist; nothing was deleted" in wrong.stderr
    assert run("delete", "nonsense").returncode == 2


def test_the_command_line_tells_what_a_session_takes(make_site: Any) -> None:
    site = make_site()
    with site.session(name="large ones") as session:
        pilot.gather([session.submit(zeros, 2) for _ in range(3)], timeout=DEADLINE_S)
    with site.session(name="small ones") as small:
        small.submit(tasks.square, 2).result(DEADLINE_S)
    command = [sys.executable, "-m", "pilot", "site", "size"]

    def told(*words: str) -> str:
        return subprocess.run(
            [*command, *words, "--site", str(site.directory)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    found = json.loads(told("--json"))
    (first,) = found["sessions"]  # the other one has no files
    assert (first["session"], first["name"]) == (session.id, "large ones")
    assert 6 * MIB <= first["results"]["bytes"] == found["parts"]["results"]["bytes"] < 7 * MIB
    assert found["bytes"] == sum(part["bytes"] for part in found["parts"].values())
    shown = told()
    assert "large ones" in shown and f"{session.id}" in shown and "database" in shown
    session.purge()
    wait_until(lambda: used_mib(site) < 0.1, DEADLINE_S, "the space of a session")
    assert json.loads(told("--json"))["sessions"] == []
