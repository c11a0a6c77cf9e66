"""Named objects on a local site: versions, aliases, what keeps them, and heads that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot import Session

DEADLINE_S = 60.0
#: Beyond what travels in messages.
LARGE = 100_000


@pytest.fixture(scope="module")
def session(shared_site: SiteUnderTest) -> Iterator[Session]:
    with shared_site.session() as session:
        yield session


def total(array: Any) -> float:
    return float(np.sum(array))


def files(site: SiteUnderTest) -> list[Path]:
    """The files with results; directories may go meanwhile."""
    walk = os.walk(site.directory / "results")
    return sorted(Path(above, name) for above, _, names in walk for name in names if name[0] != ".")


def versions(site: SiteUnderTest, name: str, **more: Any) -> list[int]:
    return [row["version"] for row in pilot.objects(name, site=site.directory, **more)]


def command(
    site: SiteUnderTest | Session, *words: str, noun: str = "object"
) -> subprocess.CompletedProcess[str]:
    """Run ``pilot object …``."""
    directory = site.site.directory if isinstance(site, Session) else site.directory
    line = [sys.executable, "-m", "pilot", "--site", str(directory), noun, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


# --- versions and aliases -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, LARGE], ids=["inline", "in a file"])
def test_a_name_counts_versions_that_all_sessions_may_use(session: Session, size: int) -> None:
    name = f"counted {size}"
    for number in (1, 2, 3):
        session.put(np.full(size, float(number)), name=name, tags={"run": number})
    newest = pilot.named(name)
    assert (newest.name, newest.version, newest.object_name) == (f"{name}@3", 3, name)
    assert (newest.tags, newest.done(), newest.state) == ({"run": 3}, True, "COMPLETED")
    first = pilot.named(f"{name}@1")
    assert total(first.result()) == size
    first.alias("best")
    assert pilot.named(f"{name}@best").version == 1
    pilot.named(f"{name}@2").alias("best")
    with Session(site=session.site, name="another") as other:
        best = pilot.named(f"{name}@best")
        assert other.submit(total, best).result(DEADLINE_S) == 2 * size
        assert other.submit(sum_of, [{"a": first}, best]).result(DEADLINE_S) == 3 * size
        assert total(best.array()[:]) == 2 * size
    told = newest.info
    assert (told["session"], told["session_name"]) == (session.id, session.name)
    assert (told["type"], told["made_by"], told["expires"]) == ("numpy.ndarray", None, None)
    assert told["size"] > 8 * size - 1 and told["user"]
    assert [row["aliases"] for row in pilot.objects(name)] == [[], ["best"], []]
    first.unalias("best")
    with pytest.raises(pilot.PilotError, match="has no alias 'best'; it has none"):
        pilot.named(f"{name}@best")


def sum_of(parts: Any) -> float:
    return total(parts[0]["a"]) + total(parts[1])


def test_what_has_no_name_of_a_user_s_is_no_object(session: Session, tmp_path: Path) -> None:
    before = pilot.objects()
    (tmp_path / "file").write_text("")
    session.put(1)
    session.put_many([1, 2], name="many")
    session.import_file(tmp_path / "file", name="a file")
    assert pilot.objects() == before


def look_up(name: str) -> Any:
    value = pilot.named(name)
    child = pilot.context().session.submit(total, value)
    return value.result(), value.version, child


def put_in_task(name: str, detached: bool) -> None:
    pilot.context().session.put(np.ones(LARGE), name=name, tags={"of": "task"}, detached=detached)


def alias_in_task(name: str) -> int:
    pilot.named(name).alias("by-task")
    return pilot.named(f"{name}@by-task").version


def test_tasks_look_objects_up_and_make_them(session: Session) -> None:
    session.put(7, name="in tasks")
    looked_up = session.submit(pilot.task(returns=3)(look_up), "in tasks")
    assert looked_up.result(DEADLINE_S) == (7, 1, 7.0)
    assert session.submit(alias_in_task, "in tasks").result(DEADLINE_S) == 1
    for number, detached in enumerate((False, True), 1):
        future = session.submit(put_in_task, "by a task", detached)
        future.result(DEADLINE_S)
        made = pilot.named("by a task")
        assert (made.version, made.tags) == (number, {"of": "task"})
        assert made.info["made_by"] == future.task_id
        assert session.submit(total, made).result(DEADLINE_S) == LARGE


def pair() -> tuple[Any, Any]:
    return np.zeros(LARGE), np.ones(LARGE)


def test_results_of_tasks_get_names(session: Session) -> None:
    future = session.submit(pair_task, detail="x")
    named = session.publish(future[1], "result", tags={"loss": np.float64(0.5)})
    assert (named.name, named.info["made_by"]) == ("result@1", future.task_id)
    assert (named.tags, total(named.result())) == ({"loss": 0.5}, LARGE)
    assert session.submit(total, named).result(DEADLINE_S) == LARGE
    # Said twice, it is the same version; another result is another one.
    assert session.publish(future[1], "result").version == 1
    assert named.info["expires"] is None
    again = session.publish(future[1], "result", tags={"loss": 0.5}, keep="30d")
    assert again.version == 1 and again.info["expires"] > time.time() + 29 * 86400
    with pytest.raises(pilot.PilotError, match=r'is result@1 already, with the tags .*"loss"'):
        session.publish(future[1], "result", tags={"loss": 1}, keep="1d")
    assert session.publish(future[1], "result").info["expires"] == again.info["expires"]
    assert session.publish(future[0], "result").version == 2
    assert session.publish(session.submit(tasks.square, 3), "other").info["type"] == "int"
    with pytest.raises(pilot.PilotError, match=r"has 2 results: take the future of one"):
        session.publish(future, "result")
    with pytest.raises(ValueError, match="no good"):
        session.publish(session.submit(fails), "result")
    with pytest.raises(pilot.PilotError, match=rf"{future.task_id} is result@1; nothing was del"):
        session.purge([future])


@pilot.task(returns=2)
def pair_task(detail: str) -> tuple[Any, Any]:
    return pair() if detail else (0, 0)


def fails() -> None:
    raise ValueError("no good")


# --- what keeps a version -------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["purge", "delete", "purge, delete"])
def test_a_version_outlives_its_session(make_site: Any, end: str) -> None:
    site = make_site()
    with site.session() as first:
        first.put(np.ones(LARGE), name="kept")
        first.put("small", name="small")
        first.put(np.ones(LARGE))
        first.submit(np.zeros, LARGE).result(DEADLINE_S)
        first.publish(first.submit(np.full, LARGE, 2.0), "result")
    for verb in end.split(", "):
        getattr(first, verb)()
    wait_until(lambda: len(files(site)) == 2, DEADLINE_S, "the files of the two versions")
    os.kill(site.head_pid, signal.SIGKILL)  # the next one knows them, too
    with site.session() as second:
        inputs = [pilot.named(name) for name in ("kept", "small", "result")]
        assert second.submit(total, inputs[0]).result(DEADLINE_S) == LARGE
        assert second.submit(str, inputs[1]).result(DEADLINE_S) == "small"
        assert second.submit(total, inputs[2]).result(DEADLINE_S) == 2 * LARGE
        assert inputs[0].info["session"] == first.id
        line = [sys.executable, "-m", "pilot", "-s", str(site.directory), "result", "get"]
        line.append(inputs[1].task_id)
        assert subprocess.run(line, capture_output=True, text=True).stdout == "'small'\n"
        for each in inputs:
            each.remove()
        wait_until(lambda: not files(site), DEADLINE_S, "the space of the versions")
        with pytest.raises(pilot.PilotError, match=r"kept@1 was removed, on 20\d\d-"):
            pilot.named("kept@1")
        with pytest.raises(pilot.PilotError, match="all versions of object 'kept' were removed"):
            pilot.named("kept")
        second.put(0, name="kept")
        assert pilot.named("kept").version == 2
    assert versions(site, "kept", removed=True) == [2, 1]


def test_a_result_stays_that_of_its_task(make_site: Any) -> None:
    """What was put under a name goes with the version, what a task has returned does not."""
    site = make_site()
    with site.session() as session:
        result = session.submit(np.ones, LARGE)
        made = [session.publish(result, name) for name in ("one", "two")]
        session.put(np.zeros(LARGE), name="put")
        assert len(files(site)) == 2
        pilot.named("put").remove()
        wait_until(lambda: len(files(site)) == 1, DEADLINE_S, "the space of what was put")
        made[0].remove()
        assert session.submit(total, result).result(DEADLINE_S) == LARGE
    session.purge()
    with site.session() as second:
        assert second.submit(total, made[1]).result(DEADLINE_S) == LARGE
        made[1].remove()
        wait_until(lambda: not files(site), DEADLINE_S, "the space of the result")


def test_no_version_goes_that_is_needed(make_site: Any) -> None:
    site = make_site()
    gate, go = site.scratch / "gate", site.scratch / "go"
    with site.session() as first:
        first.put(np.ones(LARGE), name="mesh")
    with site.session() as second:
        mesh = pilot.named("mesh")
        held = second.submit(tasks.wait_for_file, str(gate), str(go))
        after = second.submit(lambda array, _: total(array), mesh, held)
        second.flush()
        with pytest.raises(pilot.PilotError, match=f"{after.task_id}, which has not .* mesh@1"):
            mesh.remove()
        first.purge()  # and its session does not need to wait for that
        mesh.alias("best")
        go.touch()
        assert after.result(DEADLINE_S) == LARGE
        with pytest.raises(pilot.PilotError, match="mesh@1 is mesh@best: move that alias"):
            mesh.remove()
        mesh.unalias("best")
        mesh.remove()
        with pytest.raises(pilot.SubmissionError, match=r"DELETED|does not exist"):
            second.submit(total, mesh).result(DEADLINE_S)


def test_a_killed_head_loses_no_version_and_makes_none_twice(make_site: Any) -> None:
    """SIGKILL while versions are put and published: what was announced is there, once."""
    site = make_site()
    announced: dict[int, str] = {}
    for first in range(0, 40, 10):  # a client gives up a site whose heads end again and again
        with site.session() as session:
            for number in range(first, first + 10):
                future = session.put([number] * (LARGE if number % 8 == 0 else 1), name="counted")
                if number % 4 == 1:
                    os.kill(site.head_pid, signal.SIGKILL)
                session.flush()
                announced[number] = future.task_id
                if number % 4 == 3:
                    done = session.submit(tasks.square, number)
                    done.result(DEADLINE_S)
                    os.kill(site.head_pid, signal.SIGKILL)
                    session.publish(done, "squares")
    with site.session():
        rows = pilot.objects("counted")
        assert [row["version"] for row in rows] == list(range(40, 0, -1))
        assert [row["task"] for row in reversed(rows)] == list(announced.values())
        for number in (0, 17, 39):
            assert pilot.named(f"counted@{number + 1}").result()[0] == number
        squares = [pilot.named(f"squares@{n}").result() for n in range(1, 11)]
        assert squares == [number**2 for number in range(3, 40, 4)]
        assert pilot.named("squares").version == 10


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: pilot.named("nothing"), "there is no object 'nothing'; `pilot object list`"),
        (lambda s: pilot.objects("nothing"), "there is no object 'nothing'"),
        (lambda s: pilot.named("there@7"), "object 'there' has no version 7: the last one is 1"),
        (lambda s: pilot.named("there@0"), "versions are counted from 1"),
        (lambda s: pilot.named("there@worst"), "has no alias 'worst'; it has best"),
        (lambda s: pilot.named("there@"), "after the @ comes a version or an alias"),
        (lambda s: pilot.named("a@b@c"), "after the @ comes"),
        (lambda s: pilot.named(""), "at least one character"),
        (lambda s: pilot.named(cast("Any", 3)), "at least one character, not 3"),
        (lambda s: s.put(1, name="a@b"), "has no @"),
        (lambda s: s.put(1, name="a\nb"), r"no control characters, .* not 'a\\nb'"),
        (lambda s: s.put(1, name="m\udcfcller"), "can be written in UTF-8"),
        (lambda s: s.put(1, name=" a"), "does not begin or end with a space"),
        (lambda s: s.put(1, name="n" * 201), "has 200 bytes at most, and .* has 201"),
        (lambda s: s.put(1, name=3), "at least one character, not 3"),
        (lambda s: s.put(1, tags={"a": 1}), "give it a name="),
        (lambda s: s.put(1, name="a", tags={"a": s}), "give texts, numbers, or lists"),
        (lambda s: s.put(1, name="a", tags={3: 1}), "give names with values"),
        (lambda s: s.put(1, name="a", tags={"a": "x" * 20_000}), "16 KiB at most"),
        (lambda s: s.put(1, name="a", keep="soon"), "keep='soon': "),
        (lambda s: s.put(1, name="a", keep=0), "above 0, such as 30d"),
        (lambda s: pilot.named("there").alias("3"), "an alias is no number"),
        (lambda s: pilot.named("there").alias("a@b"), "an alias has no @"),
        (lambda s: pilot.named("there").unalias("worst"), "has no alias 'worst'"),
    ],
)
def test_mistakes_are_told(session: Session, call: Callable[[Session], Any], words: str) -> None:
    if not any(row["name"] == "there" for row in pilot.objects()):
        session.put(1, name="there")
        pilot.named("there").alias("best")
    with pytest.raises(pilot.PilotError, match=words):
        call(session)
    assert not any(row["name"] == "a" for row in pilot.objects())


# --- the command line, and no head ----------------------------------------------------------------


def test_objects_on_the_command_line(make_site: Any) -> None:
    site = make_site()
    assert command(site, "list").stderr.endswith("no named objects\n")
    with site.session() as session:
        for number in (1, 2, 3):
            session.put(np.full(LARGE, number), name="mesh", tags={"run": number}, keep="30d")
        session.flush()
        assert command(site, "alias", "mesh", "best", "3").stdout == "mesh@best is mesh@3 now\n"
        moved = command(site, "alias", "mesh", "best", "2")
        assert moved.stdout == "mesh@best is mesh@2 now (before: mesh@3)\n"
        rows = json.loads(command(site, "list", "--json").stdout)
        assert [row["object"] for row in rows] == ["mesh@3", "mesh@2", "mesh@1"]
        assert [row["aliases"] for row in rows] == [[], ["best"], []]
        listed = command(site, "list", "mesh").stdout
        assert "there are more" not in command(site, "list").stderr
        cut = command(site, "list", "--limit", "1")
        assert "there are more" in cut.stderr and len(cut.stdout.splitlines()) == 2
        assert "mesh@2" in listed and "best" in listed and "run=2" in listed
        shown = command(site, "show", "mesh@best").stdout
        assert "mesh@2" in shown and "numpy.ndarray" in shown and "800 kB" in shown
        data = json.loads(command(site, "show", "mesh@best", "--json").stdout)
        assert Path(site.directory, data["file"]).exists() and "value" not in data
        assert data["expires"] == pytest.approx(data["made"] + 30 * 86400)
        for name in ("mesh", "mesh@3"):
            assert command(site, "get", name, noun="result").stdout.startswith("array([3, 3, 3")
        assert data["dataset"] in command(site, "path", "mesh@best", noun="result").stdout
        assert "has no version 9" in command(site, "get", "mesh@9", noun="result").stderr
        refused = command(site, "rm", "mesh@1", "mesh@2")
        assert refused.returncode == 1 and "is mesh@best" in refused.stderr
        for wrong in ("mesh", "mesh@best"):
            assert "is no version by number" in command(site, "rm", wrong).stderr
        assert command(site, "rm", "mesh@1", "mesh@3").stdout == "mesh@1, mesh@3 removed\n"
        assert command(site, "rm", "mesh@1").returncode == 1
        assert "was removed, on" in command(site, "show", "mesh@3").stderr
        assert "mesh@3" in command(site, "list", "--removed").stdout
        unset = command(site, "alias", "mesh", "best", "--remove")
        assert unset.stdout == "mesh@best is no alias any more of mesh@2\n"
        assert command(site, "alias", "mesh", "best").returncode == 2
        assert command(site, "alias", "mesh@1", "best", "2").returncode == 2


def test_the_database_tells_where_no_head_runs(make_site: Any) -> None:
    site = make_site()
    with site.session() as session:
        session.put(np.arange(LARGE), name="mesh")
    site.stop()
    mesh = pilot.named("mesh", site=site.directory)
    assert mesh.result()[-1] == LARGE - 1
    assert versions(site, "mesh") == [1]
    mesh.remove()  # this starts one
    assert versions(site, "mesh", removed=True) == [1]
    wait_until(lambda: not files(site), DEADLINE_S, "the space of the version")
