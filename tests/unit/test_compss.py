"""Programs for PyCOMPSs: parameters, signatures, collections, versions, files, without a site."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest

from pilot.client.function_watch import watch
from pilot.compat.compss import (
    api,
    application,
    constraints,
    launching,
    policies,
    sandbox,
)
from pilot.compat.compss.decoration import (
    TaskFunction,
    constraint,
    local,
    on_failure,
    reduction,
    task,
    unsupported,
)
from pilot.compat.compss.errors import COMPSsException, NotSupportedError, PyCOMPSsException
from pilot.compat.compss.files import Files
from pilot.compat.compss.functions import merge_n_reduce, merge_reduce
from pilot.compat.compss.parameters import NAMED, Parameter, parameter_of
from pilot.compat.compss.runner import full_body, returned, run, several
from pilot.compat.compss.sandbox import Sandbox
from pilot.compat.compss.serializing import (
    deserialize_from_bytes,
    deserialize_from_file,
    serialize_to_bytes,
    serialize_to_file,
)
from pilot.compat.compss.shapes import leaves, take_apart
from pilot.compat.compss.signatures import evaluate, read_returns, read_signature
from pilot.compat.compss.tracker import Tracker
from pilot.compat.compss.values import EmptyReturn, Fresh, without_empty
from pilot.compat.compss.work import FileUse, Work


class FakeVersion:
    """A future that ends as a test says."""

    def __init__(self, state: str = "PENDING") -> None:
        self.task_id = "3.1"
        self.state = state

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._exception: BaseException | None = ValueError() if state == "FAILED" else None
        ends = {"COMPLETED": "FINISHED", "FAILED": "FINISHED", "ABORTED": "CANCELLED"}
        self._state = ends.get(state, state)

    def done(self) -> bool:
        return self._state != "PENDING"


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "direction"),
    [
        ("IN", "object", "in"),
        ("INOUT", "object", "inout"),
        ("IN_DELETE", "object", "in, and delete"),
        ("FILE", "file", "in"),
        ("FILE_OUT", "file", "out"),
        ("FILE_CONCURRENT", "file", "concurrent"),
        ("DIRECTORY_INOUT", "directory", "inout"),
        ("COLLECTION_OUT", "collection", "out"),
        ("COLLECTION_FILE_IN", "collection of files", "in"),
        ("DICTIONARY_IN_DELETE", "dictionary", "in, and delete"),
        ("COMMUTATIVE", "object", "commutative"),
    ],
)
def test_constants_say_kind_and_direction(name: str, kind: str, direction: str) -> None:
    assert NAMED[name][:2] == (kind, direction)


def test_a_parameter_may_be_a_dict() -> None:
    given = {NAMED["Type"]: NAMED["FILE"], NAMED["Direction"]: NAMED["OUT"]}
    assert parameter_of("f", given, "g") == Parameter("file", "out")
    given = {NAMED["Type"]: NAMED["COLLECTION_IN"], NAMED["Depth"]: 2}
    assert parameter_of("f", given, "g") == Parameter("collection", "in", 2)
    assert parameter_of("f", {NAMED["Weight"]: "2"}, "g") == Parameter()
    assert NAMED["FILE_OUT_STDOUT"].stream == "stdout"


@pytest.mark.parametrize("given", [{"nonsense": 1}, {"type": 3}, 5, "INOUT"])
def test_what_means_nothing_is_refused_at_decoration(given: Any) -> None:
    with pytest.raises(PyCOMPSsException, match=r"@task of .*f: x"):

        @task(x=given)
        def f(x: Any) -> None: ...


def test_streams_go_one_way() -> None:
    assert parameter_of("s", NAMED["STREAM_OUT"], "g") == Parameter("stream", "out")
    with pytest.raises(PyCOMPSsException, match="STREAM_IN and STREAM_OUT"):
        task(s=NAMED["STREAM_INOUT"])(lambda s: s)


def test_decorators_that_are_not_there_say_so() -> None:
    with pytest.raises(NotSupportedError, match=r"@binary is not supported on Pilot"):
        unsupported("binary")(binary="date")


def test_policies_and_constraints_are_checked_at_decoration() -> None:
    with pytest.raises(PyCOMPSsException, match="RETRY, FAIL, IGNORE"):
        task(on_failure="SOMETIMES")(len)
    with pytest.raises(PyCOMPSsException, match="no such constraint"):
        constraint(computing_unit=3)
    with pytest.raises(PyCOMPSsException, match="above @task"):
        constraint(computing_units=1)(len)
    with pytest.raises(PyCOMPSsException, match="takes names"):
        task(1)  # type: ignore[call-overload]  # as programs may have it


# --- signatures ----------------------------------------------------------------------------------

COUNT = 3


def of_source_none(x: Any):  # type: ignore[no-untyped-def]  # a hint would be read
    x.append(1)


def of_source_two(x: Any):  # type: ignore[no-untyped-def]  # a hint would be read
    def inner() -> tuple[int, int, int]:
        return 1, 2, 3

    if x:
        return inner()
    return 1, 2


def hinted_pair(x: Any) -> (int, str):  # type: ignore[syntax]  # as programs write it
    return 1, "a"


def hinted_none(x: Any) -> None: ...


def hinted_tuple(x: Any) -> tuple[int, int, int]:
    return 1, 2, 3


@pytest.mark.parametrize(
    ("given", "count"),
    [(0, 0), (1, 1), (4, 4), (int, 1), ((int, str), 2), ([int] * 3, 3), ("2", 2), ("COUNT", 3)],
)
def test_the_number_of_results_as_it_is_said(given: Any, count: int) -> None:
    assert read_returns(of_source_none, given).number == count


def test_the_number_of_results_is_read_from_hints_and_source() -> None:
    assert read_returns(hinted_pair).number == 2
    assert read_returns(hinted_none).number == 0
    assert read_returns(hinted_tuple).number == 3
    assert read_returns(of_source_none).number == 0
    assert read_returns(of_source_two).number == 2
    assert read_returns(len).number == 1


def test_results_may_be_named_by_arguments() -> None:
    assert read_returns(of_source_none, "{{x}}").parameter == "x"
    assert read_returns(of_source_none, "value_of(x.size)").expression == "x.size"
    assert read_returns(of_source_none, "x * 2").expression == "x * 2"
    with pytest.raises(PyCOMPSsException):
        read_returns(of_source_none, -1)


def test_signatures() -> None:
    def f(self: Any, a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> None: ...

    found = read_signature(f)
    assert found.names == ("self", "a", "b") and found.is_method
    assert (found.rest, found.keywords, found.defaults) == ("rest", "more", {"b": 2, "c": 3})
    assert found.name_at(1) == "a" and found.name_at(7) == "rest"
    assert found.has("c") and not found.has("d")


def test_texts_of_decorators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNITS", "4")
    assert evaluate("3", len, {}) == 3
    assert evaluate("${UNITS}", len, {}) == "4"
    assert evaluate("n", len, {"n": 5}) == 5
    assert evaluate("COUNT", of_source_none, {}) == 3
    assert evaluate("n // 2 + 1", len, {"n": 5}) == 3
    with pytest.raises(PyCOMPSsException, match="no environment variable NO_SUCH"):
        evaluate("$NO_SUCH", len, {})
    with pytest.raises(PyCOMPSsException, match="means nothing"):
        evaluate("no_such", len, {})


def test_constraints_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNITS", "4")
    read = constraints.read_constraints
    given = read({"ComputingUnits": "$UNITS", "memorySize": "1.5", "host_queues": "no, fast"})
    assert constraints.is_fixed(given)
    assert constraints.options_of(given, len, {}, ["fast"]) == {
        "cores": 4,
        "memory": "1.5G",
        "pool": "fast",
    }
    dynamic = read({"computing_units": "n"})
    assert not constraints.is_fixed(dynamic)
    assert constraints.options_of(dynamic, len, {"n": 2}, []) == {"cores": 2}
    processors = [
        {"processorType": "CPU", "computingUnits": "2"},
        {"processorType": "GPU", "computingUnits": "1"},
    ]
    found = constraints.options_of(read({"processors": processors}), len, {}, [])
    assert found == {"cores": 2, "gpus": 1}


def test_constraints_without_a_meaning_warn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "_warned", set())
    with pytest.warns(UserWarning, match="no meaning") as told:
        for _ in range(2):
            assert constraints.read_constraints({"app_software": "x"}) == {}
    assert len(told) == 1


# --- collections ---------------------------------------------------------------------------------


def test_collections_are_taken_apart_to_their_leaves() -> None:
    value = [[1, 2], (3, [4]), {"a": 5}]
    made, shape = take_apart(value, None, lambda _: False, lambda leaf: leaf * 10)
    assert made == [[10, 20], (30, [40]), {"a": 50}]
    assert list(leaves(made, shape)) == [10, 20, 30, 40, 50]


def test_a_depth_ends_it() -> None:
    made, shape = take_apart([[1, 2], [3]], 1, lambda _: False, len)
    assert made == [2, 1] and shape == [0, 0]
    assert take_apart([[1], [2]], 2, lambda _: False, lambda leaf: -leaf)[0] == [[-1], [-2]]


def test_what_takes_the_place_of_a_leaf_is_a_leaf() -> None:
    _, shape = take_apart([1, 2], None, lambda _: False, lambda leaf: leaf)
    assert list(leaves([[7, 8], [9]], shape)) == [[7, 8], [9]]


def test_the_outermost_level_is_iterated_whatever_it_is() -> None:
    made, _ = take_apart(iter("ab"), None, lambda _: False, str.upper)
    assert made == ["A", "B"]


def test_a_tracked_container_is_one_thing() -> None:
    inner = [1, 2]
    made, shape = take_apart([inner, [3]], None, lambda v: v is inner, lambda leaf: "leaf")
    assert made == ["leaf", ["leaf"]] and shape == [0, [0]]


# --- versions ------------------------------------------------------------------------------------


class Thing:
    """An object of a program."""


def test_an_object_is_its_last_version_that_may_come() -> None:
    gone: list[Any] = []
    tracker, thing = Tracker(gone.append), Thing()
    entry = tracker.track(thing)
    assert entry.current() is thing
    first, second, third = FakeVersion(), FakeVersion(), FakeVersion()
    for version in (first, second, third):
        entry.write(version, gone.append)
    assert entry.current() is third and gone == []
    third.state, second.state = "FAILED", "CANCELLED"
    assert entry.current() is first
    first.state = "ABORTED"
    assert entry.current() is thing


def test_what_comes_after_turns_ends_them() -> None:
    class Turns:
        """Tasks that leave this version."""

        ended = 0
        latest = FakeVersion()

        def end(self) -> FakeVersion:
            self.ended += 1
            return self.latest

    tracker, thing, turns = Tracker(lambda _: None), Thing(), Turns()
    entry = tracker.track(thing)
    first = FakeVersion()
    entry.write(first, lambda _: None)
    entry.turns = turns
    assert entry.current() is turns.latest is entry.current() and turns.ended == 1
    turns.latest.state = "ABORTED"
    assert entry.current() is first


def test_a_version_is_let_go_when_the_next_has_come() -> None:
    gone: list[Any] = []
    tracker, thing = Tracker(gone.append), Thing()
    entry = tracker.track(thing)
    versions = [FakeVersion() for _ in range(4)]
    for version in versions[:3]:
        entry.write(version, gone.append)
    versions[0].state = "COMPLETED"
    versions[1].state = "FAILED"
    versions[2].state = "COMPLETED"
    entry.write(versions[3], gone.append)
    assert gone == [versions[0]] and list(entry.versions) == versions[2:]


def test_what_nobody_has_is_forgotten() -> None:
    gone: list[Any] = []
    tracker, thing = Tracker(gone.append), Thing()
    version = FakeVersion()
    tracker.track(thing).write(version, gone.append)
    del thing
    gc.collect()
    tracker.sweep()
    assert gone == [version] and len(tracker) == 0


def test_lists_are_kept_until_they_are_forgotten() -> None:
    gone: list[Any] = []
    tracker = Tracker(gone.append)
    value = [1]
    entry = tracker.track(value)
    assert tracker.find(value) is entry and tracker.find([1]) is None
    entry.write(FakeVersion(), gone.append)
    assert tracker.forget(value) and not tracker.forget(value)
    assert len(gone) == 1 and tracker.find(value) is None


# --- files ---------------------------------------------------------------------------------------


def test_writers_come_after_readers_and_readers_need_their_writer(tmp_path: Path) -> None:
    files, path = Files(), str(tmp_path / "f")
    token = FakeVersion()
    assert files.use(path, "out") == (None, [])
    files.used(path, "out", "1.1", token)
    assert files.use(path, "in") == (token, [])
    files.used(path, "in", "1.2", None)
    assert files.use(path, "concurrent") == (token, ["1.2"])
    files.used(path, "concurrent", "1.3", None)
    assert files.use(path, "in") == (token, ["1.3"])
    assert files.use(path, "inout") == (token, ["1.2", "1.3"])
    files.used(path, "inout", "1.4", FakeVersion())
    assert files.use(path, "in")[1] == []


def test_a_file_that_is_overwritten_waits_and_needs_nothing(tmp_path: Path) -> None:
    files, path = Files(), str(tmp_path / "f")
    files.use(path, "out")
    files.used(path, "out", "1.1", FakeVersion())
    assert files.use(path, "out") == (None, ["3.1"])


def test_a_writer_that_has_failed_is_needed_by_nobody(tmp_path: Path) -> None:
    files, path = Files(), str(tmp_path / "f")
    files.use(path, "out")
    files.used(path, "out", "1.1", FakeVersion("FAILED"))
    assert files.use(path, "in") == (None, [])


# --- what runs in a task -------------------------------------------------------------------------


def test_results_are_padded_and_cut() -> None:
    assert several((1, 2, 3), 2) == [1, 2]
    assert several((1,), 3) == [1, EmptyReturn(), EmptyReturn()]
    assert several([1, 2], 1) == [[1, 2]] and several(5, 0) == []
    assert returned(3, 1) == 3 and returned((1, 2), 2) == (1, 2) and returned(1, 0) is None
    assert without_empty([1, EmptyReturn(), EmptyReturn()]) == [1]


def test_written_arguments_are_results() -> None:
    def change(a: list[int], b: Any, c: int = 0) -> int:
        a.append(1)
        b[0][1] = "new"
        return len(a)

    work = Work(1, ((0, 0), (1, [[0, 0]])), names=("a", "b", "c"))
    assert run(change, work, ([], [["x", "y"]]), {}) == (1, [1], "x", "new")


def test_what_is_taken_by_turns_comes_first() -> None:
    def change(a: list[int], b: list[int]) -> int:
        a.append(1)
        b.append(2)
        return 7

    work = Work(1, ((0, 0),), names=("a", "b"), turned=(1,))
    assert run(change, work, ([], []), {}) == ([2], 7, [1])


def test_what_is_ignored_has_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(a: list[int]) -> int:
        a.append(1)
        raise ValueError("told")

    work = Work(1, ((0, 0),), policy="ignore", defaults={"returns": 7}, names=("a",))
    assert run(fail, work, ([],), {}) == (7, [1])
    work = Work(1, ((0, 0),), policy="ignore", defaults={"a": "other"}, names=("a",))
    assert run(fail, work, ([],), {}) == (None, "other")
    assert "told" in capsys.readouterr().err
    with pytest.raises(ValueError, match="told"):
        run(fail, Work(1), ([],), {})

    def end() -> None:
        raise COMPSsException("the group")

    with pytest.raises(COMPSsException):
        run(end, work, (), {})


def test_fresh_objects_are_made_where_they_arrive() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(Fresh(list))) == []


def sandboxed(path: Path, direction: str, policy: str, text: str, error: Any = None) -> Path:
    """Write to a file as a task does; return the path that the task had."""
    args: list[Any] = [None]
    use = FileUse((0,), str(path), direction, "f")
    with Sandbox([use], policy) as sandbox:
        sandbox.put_paths(args, {})
        with open(args[0], "a") as file:
            file.write(text)
        if error is not None:
            raise error
    return Path(args[0])


def test_a_file_is_written_beside_and_renamed(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old ")
    seen = sandboxed(path, "inout", "retry", "new")
    assert seen != path and seen.name == "f.txt" and path.read_text() == "old new"
    sandboxed(path, "out", "retry", "fresh")
    assert path.read_text() == "fresh"
    assert sandboxed(path, "concurrent", "retry", " more") == path
    assert path.read_text() == "fresh more"
    assert [each.name for each in tmp_path.iterdir()] == ["f.txt"]


@pytest.mark.parametrize(
    ("policy", "error", "left"),
    [
        ("retry", ValueError(), "old "),
        ("fail", ValueError(), "old "),
        ("cancel", ValueError(), "old new"),
        ("retry", COMPSsException(), "old new"),
    ],
)
def test_what_a_task_leaves_that_fails(
    tmp_path: Path, policy: str, error: Exception, left: str
) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old ")
    with pytest.raises(type(error)):
        sandboxed(path, "inout", policy, "new", error)
    assert path.read_text() == left
    assert [each.name for each in tmp_path.iterdir()] == ["f.txt"]


def test_an_ignored_failure_leaves_the_default_file(tmp_path: Path) -> None:
    path, default = tmp_path / "f", tmp_path / "default"
    default.write_text("default")
    args: list[Any] = [None]
    with Sandbox([FileUse((0,), str(path), "out", "f")], "ignore", {"f": default}) as sandbox:
        sandbox.put_paths(args, {})
        Path(args[0]).write_text("half")
        sandbox.note_failure()
    assert path.read_text() == "default"


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "d"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "x").write_text("old")
    args: list[Any] = [None]
    with Sandbox([FileUse((0,), str(path), "inout", "d")], "retry") as sandbox:
        sandbox.put_paths(args, {})
        assert (Path(args[0]) / "sub" / "x").read_text() == "old"
        (Path(args[0]) / "y").write_text("new")
    assert sorted(each.name for each in path.iterdir()) == ["sub", "y"]
    with Sandbox([FileUse((0,), str(path), "out", "d")], "retry") as sandbox:
        sandbox.put_paths(args, {})
        Path(args[0]).mkdir()  # the function makes it
    assert list(path.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["d"]


class FakeContext:
    """As much of a task's context as its files need."""

    task_id = "3.17"
    attempt = 2


def test_a_later_attempt_removes_what_an_earlier_one_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "running_context", FakeContext)
    (tmp_path / ".compss-3.17-1").mkdir()
    (tmp_path / ".compss-3.17-1" / "f.txt").write_text("half")
    (tmp_path / ".compss-3.1-1").mkdir()
    sandboxed(tmp_path / "f.txt", "inout", "retry", "whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".compss-3.1-1", "f.txt"]


def test_names_of_files_may_be_nested(tmp_path: Path) -> None:
    there, gone = str(tmp_path / "a"), str(tmp_path / "b")
    Path(there).touch()
    assert api.compss_file_exists(there) is True
    assert api.compss_file_exists([there, (gone, there)]) == [True, (False, True)]
    assert api.compss_wait_on_file([there, (gone,)]) == [there, (gone,)]
    assert api.compss_delete_file(there, [gone]) == [True, [False]]


def test_files_in_collections(tmp_path: Path) -> None:
    args: list[Any] = [["a", "b"]]
    uses = [FileUse((0, n), str(tmp_path / name), "out", "f") for n, name in enumerate("ab")]
    with Sandbox(uses, "retry") as sandbox:
        sandbox.put_paths(args, {})
        for seen in args[0]:
            Path(seen).write_text(seen)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


# --- without an application ----------------------------------------------------------------------


def test_without_an_application_a_task_is_the_function() -> None:
    assert application.find() is None

    @constraint(computing_units="4")
    @on_failure(management="IGNORE", returns=0)
    @task(returns=int, x=NAMED["INOUT"])
    def f(x: list[int], n: int = 1) -> int:
        x.append(n)
        return len(x)

    value: list[int] = []
    assert f(value) == 1 and f(value, n=2, returns=1) == 2 and value == [1, 2]
    assert isinstance(f, TaskFunction) and f.__name__ == "f"
    assert f.plan.policy == "ignore" and f.plan.defaults == {"returns": 0}


def test_a_function_that_calls_another_task_is_pickled_once() -> None:
    @task(returns=1)
    def inner(x: int) -> int:
        return x

    @task(returns=1)
    def outer(x: int) -> Any:
        return inner(x)

    body = full_body("", "", outer.function)
    watched = watch(body)
    assert watched is not None and watched.is_same()
    inner.function.__defaults__ = (1,)
    assert not watched.is_same()


class WithMethods:
    """A class with tasks."""

    @task(returns=1)
    def add(self, n: int) -> int:
        return n + 1

    @staticmethod
    @task()
    def twice(n: int) -> int:
        return 2 * n

    @classmethod
    @task(returns=str)
    def named(cls) -> str:
        return cls.__name__


def test_methods() -> None:
    thing = WithMethods()
    assert thing.add(1) == 2 and thing.twice(2) == 4 and WithMethods.named() == "WithMethods"
    plan = WithMethods.add.plan
    assert plan.parameters["self"].direction == "inout"
    assert (plan.module, plan.name) == (WithMethods.__module__, "WithMethods.add")


def test_the_direction_of_the_object() -> None:
    @task(target_direction=NAMED["IN"])
    def f(self: Any) -> None: ...

    @task(self=NAMED["CONCURRENT"], target_direction=NAMED["IN"])
    def g(self: Any) -> None: ...

    assert "self" not in f.plan.parameters
    assert g.plan.parameters["self"].direction == "concurrent"


def test_other_decorators() -> None:
    @reduction(chunk_size="2")
    @task(returns=1, data=NAMED["COLLECTION_IN"])
    def total(data: list[int]) -> int:
        return sum(data)

    @local
    def here(x: int) -> int:
        return x

    assert total([1, 2, 3]) == 6 and here(4) == 4
    assert total.said["chunk_size"] == "2" and here.said["is_local"]


def test_functions_on_tasks() -> None:
    assert merge_reduce(lambda a, b: a + b, range(5)) == 10
    assert merge_n_reduce(lambda *parts: sum(parts), 3, range(8)) == 28
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_reduce(max, [])


def test_policies_as_options() -> None:
    retry = policies.options_of("retry", {}, 1, 1)
    assert retry["retries"] == 2 and retry["on_failure"] == "cancel_successors"
    assert "COMPSsException" in retry["no_retry_on"] and retry["retry_timeouts"]
    assert "retries" not in policies.options_of("fail", {}, 1, 1)
    assert policies.options_of("ignore", {"returns": 5}, 1, 3)["default"] == (5, None, None)
    assert policies.options_of("ignore", {"returns": 5}, 1, 3, 1)["default"] == (None, 5, None)
    assert policies.options_of("ignore", {"returns": 5}, 1, 1)["default"] == 5
    assert "default" not in policies.options_of("ignore", {}, 1, 1)


# --- what programs keep by themselves


def test_objects_go_to_files_and_back(tmp_path: Path) -> None:
    def local(x: int) -> int:
        return x + 1

    serialize_to_file({"f": local}, str(tmp_path / "kept"), None)
    assert deserialize_from_file(str(tmp_path / "kept"), None)["f"](1) == 2
    assert deserialize_from_bytes(serialize_to_bytes([1], None), True, None) == [1]


def test_an_application_is_stopped_with_or_without_its_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(application, "stop", lambda is_failed: stopped.append(is_failed))
    api.compss_stop()
    api.compss_stop(1)
    api.compss_stop(0, False)
    assert stopped == [False, True, False]


def test_a_function_of_a_file_is_called_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments, what it returns and raises; it has an application while it runs."""
    (tmp_path / "launched_by_hand.py").write_text(
        "import sys\nfrom pilot.compat.compss import application\n\n\n"
        "def call(a, b=0):\n    return a, b, sys.argv, application.find().settings.is_nested\n\n\n"
        "def fail():\n    raise ValueError('told')\n"
    )
    monkeypatch.setattr("sys.path", list(sys.path))
    path, argv = str(tmp_path / "launched_by_hand.py"), sys.argv
    found = launching.launch(path, "call", 1, b=2, debug=True, nested_enabled=True)
    assert found == (1, 2, [1], True) and sys.argv is argv and application.find() is None
    with pytest.raises(ValueError, match="told"):
        launching.launch(path, "fail")
    assert application.find() is None
    del sys.modules["launched_by_hand"]
