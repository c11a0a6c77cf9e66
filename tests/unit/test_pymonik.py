"""Programs for PymoniK: options, handles, files, tasks, without a site."""

from __future__ import annotations

import concurrent.futures
import pickle
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pilot.client.arguments import decode_arguments, encode_arguments
from pilot.client.future import Future
from pilot.compat.pymonik import options
from pilot.compat.pymonik.context import PymonikContext, own_directory
from pilot.compat.pymonik.current import current_instance
from pilot.compat.pymonik.endpoints import site_of
from pilot.compat.pymonik.handles import MultiResultHandle, ResultHandle
from pilot.compat.pymonik.materials import content_hash, contents_of, materialize, put_in_place
from pilot.compat.pymonik.options import TaskOptions, of_pilot, said_by, take_keywords
from pilot.compat.pymonik.session import Pymonik, run_pymonik_worker
from pilot.compat.pymonik.tasks import Task, task
from pilot.errors import SiteError
from pilot.site import place_site


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def test_options_mean_what_pilot_has() -> None:
    said = said_by(TaskOptions(timedelta(minutes=1), 3, 2, "fast"))
    assert of_pilot(said, ["fast"]) == {
        "time_limit": timedelta(minutes=1),
        "priority": 3,
        "max_crashes": 2,
        "pool": "fast",
    }
    assert of_pilot({"max_duration": 5}, []) == {"time_limit": 5.0}
    assert said_by(None) == {}


def test_a_partition_that_is_no_pool_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_warned", set())
    with pytest.warns(UserWarning, match="no pool 'elsewhere'") as told:
        for _ in range(2):
            assert of_pilot({"partition_id": "elsewhere"}, ["default"]) == {}
    assert len(told) == 1
    assert of_pilot({"partition_id": "pymonik"}, ["default"]) == {}


def test_keywords_of_calls_are_taken_out() -> None:
    keywords = {"pmk_priority": 4, "pmk_partition_id": "a", "x": 1}
    assert take_keywords(keywords) == {"priority": 4, "partition_id": "a"}
    assert keywords == {"x": 1}


class FakeInstance:
    """Notes what is run."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def run(self, task: Any, rows: Any, kwargs: Any, said: Any, delegate: bool) -> list[Any]:
        self.runs.append((rows, kwargs, said, delegate))
        return [object() for _ in rows]


def test_options_of_a_call_go_before_those_of_the_decorator() -> None:
    instance = FakeInstance()
    given = TaskOptions(priority=1, max_retries=1)
    made = task(task_options=given, priority=2, max_duration=9)(len)
    made.invoke("a", pymonik=instance)
    made.invoke("a", pymonik=instance, task_options=TaskOptions(priority=3), pmk_max_retries=7)
    made.invoke("a", pymonik=instance, pmk_options=TaskOptions(priority=5), pmk_priority=6, more=1)
    first, second, third = [said for _, _, said, _ in instance.runs]
    assert (first["priority"], first["max_retries"], first["max_duration"]) == (2, 1, 9)
    assert (second["priority"], second["max_retries"]) == (3, 7)
    assert third["priority"] == 6
    assert instance.runs[2][1] == {"more": 1}


def test_a_task_called_is_the_function_and_map_takes_tuples() -> None:
    made = Task(lambda a, b: a + b, func_name="add")
    assert made(1, 2) == 3 and made.func_name == "add"
    instance = FakeInstance()
    assert len(made.map_invoke([(1, 2), (3, 4)], pymonik=instance)) == 2
    assert instance.runs[0][0] == [(1, 2), (3, 4)]


def test_functions_of_the_same_name_are_two() -> None:
    one, other = Task(lambda: 1, func_name="f"), Task(lambda: 2, func_name="f")
    assert one.pilot_task({}, "").function() == 1
    assert other.pilot_task({}, "").function() == 2
    assert one.pilot_task({}, "") is one.pilot_task({}, "")
    assert one.pilot_task({"priority": 1}, "") is not one.pilot_task({}, "")


def test_without_an_instance_there_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no current instance"):
        current_instance()
    with pytest.raises(RuntimeError, match="no current instance"):
        Task(len).invoke("a")
    with pytest.raises(RuntimeError, match="was not created"):
        Pymonik().put(1)


def test_a_task_cannot_put_or_upload() -> None:
    worker = Pymonik(is_worker=True)
    for call in (worker.create, lambda: worker.put(1), lambda: worker.put_many([1])):
        with pytest.raises(RuntimeError, match="a task cannot"):
            call()
    with pytest.raises(RuntimeError, match="start their own workers"):
        run_pymonik_worker()


def test_delegation_is_for_one_task_in_a_task() -> None:
    with pytest.raises(RuntimeError, match="exactly one"):
        Pymonik().run(Task(len), [("a",)], {}, {}, delegate=True)


class FakeSession:
    """As much of a session as a future needs."""

    origin = None
    id = 3

    def _check_process(self) -> None: ...


def future(number: int = 1) -> Any:
    return Future(FakeSession(), number)  # type: ignore[arg-type]  # a fake


def test_handles_are_their_values_in_tasks() -> None:
    one, other = ResultHandle[int](future(1), "3"), ResultHandle[int](future(2), "3")
    several = MultiResultHandle([one, other])
    payload, inputs = encode_arguments((one, several, {"deep": [other]}), {})
    assert inputs == ((1, 0), (2, 0))
    args, _ = decode_arguments(payload, [10, 20], Path())
    assert args == (10, [10, 20], {"deep": [20]})


def test_handles_wait_and_tell_errors() -> None:
    ended, failed, cancelled = future(1), future(2), future(3)
    ended.set_result(5)
    failed.set_exception(ValueError("bad"))
    cancelled._end_cancelled()
    handle = ResultHandle[int](ended, "3")
    assert handle.wait() is handle and handle.get() == 5
    for broken in (failed, cancelled):
        with pytest.raises(RuntimeError, match="aborted") as told:
            ResultHandle[int](broken, "3").get()
        assert isinstance(told.value.__cause__, (ValueError, concurrent.futures.CancelledError))


def test_several_handles_are_a_sequence() -> None:
    handles = [ResultHandle[int](future(n), "3") for n in range(4)]
    several = MultiResultHandle(handles[:2])
    several.append(handles[2])
    several.extend(handles[3:])
    assert len(several) == 4 and list(several) == handles
    assert several[1] is handles[1]
    part = several[1:3]
    assert isinstance(part, MultiResultHandle) and part.result_handles == handles[1:3]


def test_names_must_match_in_number() -> None:
    with pytest.raises(ValueError, match="2 values and 1 names"):
        Pymonik().put_many([1, 2], names=["a"])


def test_what_is_not_installed_is_told() -> None:
    instance = Pymonik(environment={"pip": ["msgspec>=0.1", "no-such-thing==1", ("other", "2")]})
    with pytest.warns(UserWarning, match="not installed: no-such-thing, other"):
        instance._check_distributions()


def test_a_file_is_written_once(tmp_path: Path) -> None:
    source, target = tmp_path / "a.txt", tmp_path / "there" / "b.txt"
    source.write_text("one")
    mat = materialize(source, target)
    mat.contents = contents_of(source)
    put_in_place(mat)
    assert target.read_text() == "one"
    before = target.stat().st_ino
    put_in_place(mat)
    assert target.stat().st_ino == before
    target.write_text("changed")
    put_in_place(mat)
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["b.txt"]


def test_a_directory_is_known_by_names_and_contents(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x").write_text("x")
    mat = materialize(source, target)
    mat.contents = contents_of(source)
    put_in_place(mat)
    assert content_hash(target) == mat.content_hash
    before = target.stat().st_ino
    put_in_place(mat)
    assert target.stat().st_ino == before
    (target / "sub" / "x").write_text("y")
    put_in_place(mat)
    assert (target / "sub" / "x").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "tmp"]


def test_what_is_not_there_cannot_be_materialized(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to materialize"):
        materialize(tmp_path / "no", "x")


def test_a_context_outside_of_tasks() -> None:
    context = PymonikContext.from_local()
    assert context.is_local and context.environment == {}
    context.logger.info("told", number=3)
    assert context.retrieve_object("3.1") is None  # a line in the log


def test_what_was_retrieved_is_read_from_its_file() -> None:
    context = PymonikContext()
    assert not context.object_exists_locally("3.1")
    context.get_object_path("3.1").write_bytes(pickle.dumps([1, 2]))
    assert context.object_exists_locally("3.1")
    assert context.retrieve_object("3.1") == [1, 2]
    assert context.retrieve_object("3.1", auto_unpickle=False) == pickle.dumps([1, 2])


def test_the_directory_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own_directory("a")
    import os

    monkeypatch.setattr(os, "getuid", lambda: 12345)
    found = own_directory  # makes a directory of its own, which is not that user's
    with pytest.raises(PermissionError, match="not a directory of this user"):
        found("a")


def test_an_endpoint_is_the_site_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    text = "batch: local\npools: {main: {}}\n"
    place_site(tmp_path / "first", text)
    place_site(tmp_path / "second", text + 'endpoints: ["http://Armonik:5001/", other]\n')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "site.yaml").write_text("nonsense")
    for endpoint in ("http://armonik:5001", "armonik:5001", "grpc://armonik:5001/", "other"):
        found = site_of(endpoint)
        assert found is not None and found.name == "second"
    assert site_of(None) is site_of("") is site_of("http://elsewhere:5001") is None
    place_site(tmp_path / "third", text + "endpoints: [other]\n")
    with pytest.raises(SiteError, match=r"by several sites \(second, third\)"):
        site_of("other")
