"""Segments: exact round trips, files a person can read, nothing torn or damaged unnoticed."""

from __future__ import annotations

import collections
import dataclasses
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pilot.data import draft, parts, sealed_file, segments
from pilot.data.checksum import Checksum
from pilot.data.draft import Draft
from pilot.data.sealed_file import SealedFile
from pilot.data.segments import OpenFiles, SegmentWriter, read, remove_unsealed
from pilot.data.sweeping import sweep
from pilot.errors import EncodingError, ResultError, StorageError
from pilot.model.values import Value


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SegmentWriter]:
    writer = SegmentWriter(tmp_path, "executor-1")
    yield writer
    writer.discard()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("segments")


def round_trip(directory: Path, *objects: object) -> list[Any]:
    """Through a file, but without waiting for the disk."""
    path = directory / "sealed.h5"
    draft = Draft(directory / "draft")
    written = [draft.write(f"/o/{n}", parts.take_apart(obj)) for n, obj in enumerate(objects)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        draft.publish(path)
    file = SealedFile(path)
    return [parts.put_together(file.read(f"/o/{n}", w.checksum)) for n, w in enumerate(written)]


def seal_one(writer: SegmentWriter, obj: object, task_id: str = "t1") -> Value:
    result = writer.add("s1", "f", task_id, 0, obj)
    writer.seal()
    return result.value


def all_said(dtype: np.dtype[Any]) -> Any:
    """All that a type says, also what equal types may differ in."""
    fields = [all_said(dtype[name]) for name in dtype.names or ()]
    within = None if dtype.subdtype is None else all_said(dtype.base)
    # Old releases of NumPy unpickle dates with an empty one.
    metadata = dtype.metadata or None
    return dtype, dtype.type, metadata, dtype.isalignedstruct, fields, within


def assert_same(a: Any, b: Any) -> None:
    """Same type, same structure, same bytes."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert all_said(a.dtype) == all_said(b.dtype)
        assert a.shape == b.shape
        assert a.flags.writeable
        if b.flags.c_contiguous or b.flags.f_contiguous:
            assert a.flags.f_contiguous == b.flags.f_contiguous
        if a.dtype.hasobject:
            assert_same(a.tolist(), b.tolist())
        else:
            assert a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.generic):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


# --- round trips ---------------------------------------------------------------------------------

simple_dtypes = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="?")
    | npst.unsigned_integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?")
    | npst.complex_number_dtypes(endianness="?")
    | npst.byte_string_dtypes()
)
dtypes = (
    simple_dtypes
    | npst.unicode_string_dtypes()
    | npst.datetime64_dtypes(endianness="=")  # Pickle itself loses that of others.
    | npst.array_dtypes(simple_dtypes, min_size=1, max_size=3, allow_subarrays=True)
)
shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def _laid_out(array: Any, layout: str) -> Any:
    if layout == "transposed":
        return array.T
    made = np.asfortranarray(array) if layout == "fortran" and array.ndim else array
    if layout == "read-only":
        made.setflags(write=False)
    return made


arrays = st.builds(
    _laid_out,
    dtypes.flatmap(lambda dtype: npst.arrays(dtype, shapes)),
    st.sampled_from(["c", "fortran", "transposed", "read-only"]),
)

leaves = arrays | st.none() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
keys = st.sampled_from(
    ["u", "a/b", "/", "", ".", "..", ".pickle", ".arrays", "pilot", "1", "ä\udc80\0", "k" * 300]
) | st.one_of(st.integers(), st.text(max_size=4), st.tuples(st.integers()), st.none())
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(array=arrays)
def test_arrays_come_back_exactly(scratch: Path, array: Any) -> None:
    assert_same(round_trip(scratch, array)[0], array)


@settings(max_examples=30)
@given(obj=nested)
def test_nested_objects_come_back_exactly(scratch: Path, obj: Any) -> None:
    assert_same(round_trip(scratch, obj)[0], obj)


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Field:
    name: str
    data: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and pickle.dumps(self) == pickle.dumps(other)


GRID = np.arange(12.0).reshape(3, 4)

CASES = {
    "zero dimensions": np.array(1.5),
    "empty": np.empty((0, 3), "f4"),
    "numpy scalar": np.float32(1.5),
    "fortran order": np.asfortranarray(GRID),
    "strided": np.arange(20)[::3],
    "reversed": np.arange(5)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (2, 3)).copy(),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "big endian": np.arange(3, dtype=">i4"),
    "longdouble": np.arange(3, dtype=np.longdouble),
    "bytes": np.array([b"ab", b"c\0d"]),
    "unicode": np.array(["ab", "ä"]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "objects": np.array([1, "a", None], dtype=object),
    "void": np.array([b"abc"], "V3"),
    "aligned struct": np.array([(1, 2.5)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "metadata": np.ones((3, 4), np.dtype("f8", metadata={"unit": "m"})),
    "metadata, fortran order": np.ones((3, 4), np.dtype("f8", metadata={"u": 1}), order="F"),
    "metadata of a field": np.zeros(2, [("a", np.dtype("i4", metadata={"u": 1}), (2,))]),
    "metadata of h5py": np.arange(3, dtype=h5py.enum_dtype({"A": 0, "B": 1}, basetype="i4")),
    "numbers after those": np.arange(3, dtype="i4"),
    "text of h5py": np.array([b"ab"], h5py.string_dtype("utf-8", 2)),
    "aligned struct in another": np.zeros(
        2, [("a", np.dtype([("x", "i1"), ("y", "f8")], align=True)), ("b", "S3")]
    ),
    "records": np.zeros(2, np.dtype((np.record, [("a", "i4"), ("b", "S3")]))),
    "key of a lone array": {".array": GRID},
    "nested struct": np.zeros(2, [("a", "i4"), ("b", [("x", "?"), ("y", "c8")], (2,))]),
    "overlapping struct": np.zeros(
        2, np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})
    ),
    "struct like a complex": np.zeros(2, [("r", "f4"), ("i", "f4")]),
    "struct without fields": np.zeros(2, []),
    "masked": np.ma.masked_array([1, 2, 3], [False, True, False]),
    "tuple": (GRID, [GRID], {}),
    "named tuple": Pair(GRID, 1),
    "data class": Field("u", GRID),
    "ordered dict": collections.OrderedDict(b=GRID, a=1),
    "keys that look alike": {1: GRID, "1": GRID + 1, 1.0j: GRID + 2, (1,): GRID + 3},
    "awkward keys": {"/": GRID, "a/b": GRID, "": GRID, "..": GRID, ".pickle": GRID, "\0": GRID},
    "awkward notes": {"pilot": 1, "kind": "x", "n": 2**70, "t": "a\0b", "b": True, "u": GRID},
    "bytes leaf": [b"x" * 100_000, GRID],
    "33 dimensions": np.zeros((1,) * 32 + (2,)) if np.lib.NumpyVersion(np.__version__) >= "2.0.0"
    else np.zeros(1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_special_cases_come_back_exactly(scratch: Path, name: str) -> None:
    obj = CASES[name]
    for whole in (obj, [obj], {"k": (obj, obj)}):
        back = round_trip(scratch, whole)[0]
        if name == "masked":
            assert repr(back) == repr(whole)
        else:
            assert_same(back, whole)


def test_metadata_of_one_type_does_not_get_to_others(scratch: Path) -> None:
    named = np.arange(3, dtype=h5py.enum_dtype({"A": 0, "B": 1}, basetype="u2"))
    assert_same(round_trip(scratch, named, np.arange(3, dtype="u2"))[1], np.arange(3, dtype="u2"))
    with h5py.File(scratch / "sealed.h5") as file:
        assert h5py.check_enum_dtype(file["o/1"].dtype) is None


def test_identity_and_cycles_are_kept(scratch: Path) -> None:
    array = np.arange(5)
    cycle: list[Any] = [array, array]
    cycle.append(cycle)
    taken = parts.take_apart(cycle)
    assert len(taken.arrays) == 1
    back = round_trip(scratch, cycle)[0]
    assert back[0] is back[1]
    assert back[2] is back
    assert_same(back[0], array)


def test_functions_of_the_script_are_stored_with_their_arrays(scratch: Path) -> None:
    array = np.arange(5.0)
    back = round_trip(scratch, {"f": lambda x: x @ array, "a": array})[0]
    assert back["f"](np.ones(5)) == 10.0
    assert_same(back["a"], array)


def test_arrays_are_not_copied_on_the_way_into_the_file() -> None:
    array = np.arange(1000.0)
    for obj in (array, {"k": array}):
        assert parts.take_apart(obj).arrays[0] is array


def test_a_value_of_very_many_small_arrays_keeps_them_in_its_pickle(scratch: Path) -> None:
    obj = [np.full(3, n) for n in range(2000)] + [np.arange(5000)]
    taken = parts.take_apart(obj)
    assert len(taken.arrays) <= 300
    assert taken.names[-1] == "2000"
    assert_same(round_trip(scratch, obj)[0], obj)


def test_what_cannot_be_pickled_leaves_the_segment_as_it_was(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    good = writer.add("s1", "f", "t1", 0, GRID)
    with pytest.raises(EncodingError, match=r"\['lock'\] of type _thread.lock"):
        writer.add("s1", "f", "t2", 0, {"lock": threading.Lock(), "u": GRID})
    assert writer.seal() == [good.value]
    assert_same(read(tmp_path, good.value), GRID)


# --- the file, as a person sees it ---------------------------------------------------------------


def test_h5py_shows_arrays_by_session_task_name_and_index(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    structured = np.array([(1, 2.5)], [("id", "i4"), ("x", "f8")])
    writer.add("s1", "heat:solve", "t1", 0, GRID)
    writer.add("s1", "heat:solve", "t1", 1, {"u": [GRID, GRID + 1], "error": 1e-3, "solver": "cg"})
    writer.add("s1", "table", "t2", 0, structured)
    writer.add("s1", "text", "t3", 0, "plain")
    (path,) = {value.path for value in writer.seal()}
    with h5py.File(tmp_path / path) as file:
        dataset = file["s1/heat:solve/t1/0"]
        assert np.array_equal(dataset[()], GRID)
        assert dataset.chunks is None
        assert dataset.attrs["pilot"]["kind"] == b"array"
        assert dataset.attrs["pilot"]["checksum"] == Checksum([parts.raw(GRID)]).value
        group = file["s1/heat:solve/t1/1"]
        assert np.array_equal(group["u/1"][()], GRID + 1)
        assert group.attrs["error"] == 1e-3
        assert group.attrs["solver"] == "cg"
        assert group.attrs["pilot"]["kind"] == b"tree"
        assert file["s1/table/t2/0"]["x"][0] == 2.5
        assert pickle.loads(file["s1/text/t3/0"][()].tobytes()) == "plain"


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump is not installed")
def test_h5dump_reads_segments(writer: SegmentWriter, tmp_path: Path) -> None:
    value = seal_one(writer, {"u": GRID})
    command = ["h5dump", "-d", f"{value.name}/u", str(tmp_path / value.path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "H5T_IEEE_F64LE" in out
    assert "8, 9, 10, 11" in out


@pytest.mark.parametrize("options", [{}, {"locking": False}, {"locking": True}])
def test_a_user_may_have_a_segment_open_while_it_is_read(
    writer: SegmentWriter, tmp_path: Path, options: dict[str, Any]
) -> None:
    first, second = (seal_one(writer, GRID + n, f"t{n}") for n in (1, 2))
    assert_same(read(tmp_path, first), GRID + 1)
    with h5py.File(tmp_path / first.path, "r", **options) as file:  # Ours is still open.
        assert file[first.name].shape == GRID.shape
    with h5py.File(tmp_path / second.path, "r", **options):  # Theirs was first.
        assert_same(read(tmp_path, second), GRID + 2)


# --- sealing -------------------------------------------------------------------------------------


def test_nothing_can_be_announced_before_it_is_sealed(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    results = [writer.add("s1", "f", f"t{n}", 0, GRID + n) for n in range(3)]
    assert writer.pending == results
    for result in results:
        with pytest.raises(RuntimeError, match="not sealed"):
            _ = result.value
    assert list(tmp_path.glob("results/s1/*.h5")) == []
    values = writer.seal()
    assert values == [result.value for result in results]
    assert writer.pending == []
    assert len({value.path for value in values}) == 1
    for n, value in enumerate(values):
        assert value.size == GRID.nbytes
        assert_same(read(tmp_path, value), GRID + n)
    assert writer.seal() == []


def test_a_segment_is_on_the_disk_before_it_has_its_name(
    writer: SegmentWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.add("s1", "f", "t1", 0, GRID)
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def spy_rename(path: Path, target: Path) -> Path:
        calls.append(f"rename {path.name} {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    writer.seal()
    assert calls == [
        "fsync .executor-1-0.h5.tmp",
        "rename .executor-1-0.h5.tmp executor-1-0.h5",
        "fsync s1",
    ]


def test_each_session_has_its_own_files(writer: SegmentWriter) -> None:
    one, two = writer.add("s1", "f", "t1", 0, GRID), writer.add("s2", "f", "t2", 0, GRID)
    writer.seal()
    assert one.value.path.startswith("results/s1/")
    assert two.value.path.startswith("results/s2/")


def test_an_attempt_that_is_repeated_in_one_segment_has_its_own_result(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    first, second = (writer.add("s1", "f", "t1", 0, GRID + n) for n in (0, 1))
    writer.seal()
    assert first.value.name != second.value.name
    assert_same(read(tmp_path, first.value), GRID)
    assert_same(read(tmp_path, second.value), GRID + 1)


def test_a_sealed_segment_is_never_replaced(tmp_path: Path) -> None:
    values = [seal_one(SegmentWriter(tmp_path, "again"), GRID + n) for n in range(3)]
    assert len({value.path for value in values}) == 3
    for n, value in enumerate(values):
        assert_same(read(tmp_path, value), GRID + n)


@pytest.mark.parametrize("name", ["../../escape", "..", "a/b", "", "ä b", "x\0y"])
def test_awkward_names_stay_inside_the_site(tmp_path: Path, name: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with SegmentWriter(site, name) as writer:
        result = writer.add(name, name, name, 0, GRID)
    assert_same(read(site, result.value), GRID)
    assert list(tmp_path.iterdir()) == [site]
    assert len(list((site / "results").glob("*/*.h5"))) == 1


def test_an_exception_discards_what_is_unsealed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), SegmentWriter(tmp_path, "e") as writer:
        writer.add("s1", "f", "t1", 0, GRID)
        raise ZeroDivisionError
    assert list((tmp_path / "results/s1").iterdir()) == []


def test_what_a_dead_owner_left_is_removed(tmp_path: Path) -> None:
    dead, alive = SegmentWriter(tmp_path, "dead"), SegmentWriter(tmp_path, "dead-not")
    sealed = seal_one(dead, GRID)
    dead.add("s1", "f", "t2", 0, GRID)
    other = alive.add("s1", "f", "t3", 0, GRID)
    (gone,) = remove_unsealed(tmp_path, "dead")
    assert gone.name == ".dead-1.h5.tmp"
    assert not gone.exists()
    alive.seal()
    assert_same(read(tmp_path, sealed), GRID)
    assert_same(read(tmp_path, other.value), GRID)
    dead.discard()


def test_a_forked_child_does_not_touch_the_parents_segment(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    code = (
        "import os, sys\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from pilot.data.segments import SegmentWriter, read\n"
        "from pilot.errors import StorageError\n"
        "writer = SegmentWriter(Path(sys.argv[1]), 'parent')\n"
        "results = [writer.add('s1', 'f', 't1', 0, np.full(10_000, 1))]\n"
        "go, gone = os.pipe()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.read(go, 1)\n"
        "    try:\n"
        "        writer.add('s1', 'f', 't2', 0, np.full(10_000, 2))\n"
        "    except StorageError:\n"
        "        sys.exit(0)\n"  # Not os._exit: HDF5 closes its files.
        "    sys.exit('the child could write')\n"
        "results += [writer.add('s1', 'f', f't{n}', 0, np.full(10_000, n)) for n in (3, 4)]\n"
        "os.write(gone, b'.')\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "writer.seal()\n"
        "assert [read(Path(sys.argv[1]), r.value)[-1] for r in results] == [1, 3, 4]\n"
    )
    run_python(code, str(tmp_path))


# --- trouble with the disk -----------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[Any]:
    """Limits the size of files, which to a writer looks like a full disk.

    A test takes the limit back itself: pytest may write into a file how it has ended.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def test_a_result_that_does_not_fit_leaves_the_others_alone(
    writer: SegmentWriter, tmp_path: Path, disk: Any
) -> None:
    first = writer.add("s1", "f", "t1", 0, GRID)
    disk(100_000)
    with pytest.raises(StorageError, match=r"executor-1-0.*File too large.*free space"):
        writer.add("s1", "f", "t2", 0, np.zeros(1_000_000))
    with pytest.raises(StorageError, match=r"executor-1-0"):
        writer.add("s1", "f", "t3", 0, {"a": GRID, "b": np.zeros(1_000_000)})
    disk(None)
    second = writer.add("s1", "f", "t2", 0, GRID + 1)
    third = writer.add("s1", "f", "t3", 0, {"a": GRID + 2})
    assert writer.seal() == [first.value, second.value, third.value]
    assert_same(read(tmp_path, first.value), GRID)
    assert_same(read(tmp_path, second.value), GRID + 1)
    assert_same(read(tmp_path, third.value), {"a": GRID + 2})


def test_sealing_can_be_repeated_when_the_disk_has_room_again(
    writer: SegmentWriter, tmp_path: Path, disk: Any
) -> None:
    objects = [GRID, {"u": GRID, "n": 3, "pilot": [1]}, "x" * 3000, np.zeros(0)] * 10
    results = [writer.add("s1", "f", f"t{n}", 0, obj) for n, obj in enumerate(objects)]
    for size in (1, 10_000, 1):
        disk(size)
        with pytest.raises(StorageError, match=r"\.h5[.a-z]*: File too large\. Check free space"):
            writer.seal()
        assert writer.pending == results
        assert list(tmp_path.glob("results/s1/*.h5")) == []
    disk(None)
    results.append(writer.add("s1", "f", "t99", 0, "late"))
    path, *_, later = [value.path for value in writer.seal()]
    for result, obj in zip(results, [*objects, "late"], strict=True):
        assert_same(read(tmp_path, result.value), obj)
    with h5py.File(tmp_path / path) as file:
        assert file["s1/f/t1/0"].attrs["n"] == 3
    # What came after an attempt to seal a segment is in the next one.
    assert {tmp_path / path, tmp_path / later} == set((tmp_path / "results/s1").iterdir())
    assert path != later


def test_discarding_works_on_a_full_disk(writer: SegmentWriter, tmp_path: Path, disk: Any) -> None:
    for n in range(50):
        writer.add("s1", "f", f"t{n}", 0, GRID)
    disk(1)
    writer.discard()
    assert list((tmp_path / "results/s1").iterdir()) == []
    disk(None)
    assert_same(read(tmp_path, seal_one(writer, GRID)), GRID)


def test_who_asks_for_a_discarded_result_is_told_the_reason(writer: SegmentWriter) -> None:
    result = writer.add("s1", "f", "t1", 0, GRID)
    writer.discard(StorageError("the disk is full"))
    with pytest.raises(StorageError, match="the disk is full"):
        _ = result.value


def test_what_could_not_be_sealed_is_sealed_by_another_writer(
    writer: SegmentWriter, tmp_path: Path, disk: Any
) -> None:
    objects = [GRID, {"u": GRID, "n": 3}, "x" * 3000]
    results = [writer.add("s1", "f", f"t{n}", 0, obj) for n, obj in enumerate(objects)]
    disk(1)
    with pytest.raises(StorageError):
        writer.seal()
    other = SegmentWriter(tmp_path / "other", "executor-2")
    (tmp_path / "other").mkdir()
    with pytest.raises(StorageError, match=r"executor-2-0.*File too large"):
        writer.hand_over(other)
    assert writer.pending == results
    disk(None)
    later = writer.add("s1", "f", "t9", 0, GRID)
    writer.hand_over(other)
    assert (writer.pending, other.pending) == ([later], results)
    assert other.seal() == [result.value for result in results]
    assert writer.seal() == [later.value]
    for result, obj in zip(results, objects, strict=True):
        assert_same(read(tmp_path / "other", result.value), obj)
    assert list((tmp_path / "results/s1").iterdir()) == [tmp_path / later.value.path]


def test_a_segment_in_which_nothing_could_be_written_leaves_no_file(
    writer: SegmentWriter, tmp_path: Path, disk: Any
) -> None:
    disk(100_000)
    with pytest.raises(StorageError):
        writer.add("s1", "f", "t1", 0, np.zeros(1_000_000))
    disk(1)
    sealed = writer.seal()
    disk(None)
    assert sealed == [] and list((tmp_path / "results/s1").iterdir()) == []


def test_a_failed_fsync_keeps_the_name_away(
    writer: SegmentWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = writer.add("s1", "f", "t1", 0, GRID)

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            writer.seal()
    assert list((tmp_path / "results/s1").iterdir()) == []
    assert writer.pending == []
    with pytest.raises(StorageError, match="Input/output error"):
        _ = result.value
    assert_same(read(tmp_path, seal_one(writer, GRID)), GRID)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(StorageError, match=r"results/s1.*Not a directory|File exists"):
        SegmentWriter(tmp_path, "e").add("s1", "f", "t1", 0, GRID)


# --- damage --------------------------------------------------------------------------------------

DAMAGED = {"u": np.arange(5000.0), "text": "x" * 100, "more": [np.arange(10)]}


@pytest.mark.parametrize(
    "obj", [DAMAGED, DAMAGED["u"], "y" * 3000], ids=["tree", "array", "pickle"]
)
def test_no_flipped_bit_goes_unnoticed(writer: SegmentWriter, tmp_path: Path, obj: Any) -> None:
    value = seal_one(writer, obj)
    path = tmp_path / value.path
    whole = path.read_bytes()
    seed = random.Random(1)
    noticed = 0
    for _ in range(80):
        damaged = bytearray(whole)
        damaged[seed.randrange(len(whole))] ^= 1 << seed.randrange(8)
        path.write_bytes(damaged)
        try:
            back = read(tmp_path, value)
        except ResultError:
            noticed += 1
        else:
            assert_same(back, obj)  # The bit was in space that is not used.
    path.write_bytes(whole)
    assert_same(read(tmp_path, value), obj)
    assert noticed > 40


def test_a_flipped_bit_in_the_data_is_named(writer: SegmentWriter, tmp_path: Path) -> None:
    value = seal_one(writer, DAMAGED["u"])
    path = tmp_path / value.path
    with h5py.File(path) as file:
        offset = file[value.name].id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(offset + 20_000)
        raw.write(b"\xff")
    with pytest.raises(ResultError) as caught:
        read(tmp_path, value)
    message = str(caught.value)
    assert "/s1/f/t1/0" in message
    assert str(path) in message
    assert "checksum" in message
    assert "run the task again" in message


def test_no_torn_file_goes_unnoticed(writer: SegmentWriter, tmp_path: Path) -> None:
    value = seal_one(writer, DAMAGED)
    path = tmp_path / value.path
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 47, 48, 100, *range(500, len(whole), 1500), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ResultError, match=r"damaged"):
            read(tmp_path, value)


def test_blocks_that_never_reached_the_disk_are_noticed(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    value = seal_one(writer, np.random.default_rng(0).random(100_000))
    path = tmp_path / value.path
    whole = path.read_bytes()
    for start in range(8192, len(whole) - 4096, 100_000):
        path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        with pytest.raises(ResultError, match="checksum"):
            read(tmp_path, value)


def test_blocks_that_changed_places_are_noticed(writer: SegmentWriter, tmp_path: Path) -> None:
    """Also where the sums over all rows and columns stay what they were."""
    value = seal_one(writer, np.eye(512))
    path = tmp_path / value.path
    with h5py.File(path) as file:
        offset = file[value.name].id.get_offset()
    whole = bytearray(path.read_bytes())
    first, second = (slice(offset + 4096 * n, offset + 4096 * (n + 1)) for n in (0, 1))
    whole[first], whole[second] = whole[second], whole[first]
    path.write_bytes(whole)
    with pytest.raises(ResultError, match="checksum"):
        read(tmp_path, value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    value = Value(8, b"", "results/s1/gone-0.h5", "/s1/f/t1/0", 1)
    with pytest.raises(ResultError, match=r"gone-0\.h5: there is no such file.*was deleted"):
        read(tmp_path, value)


def test_a_missing_object_is_named(writer: SegmentWriter, tmp_path: Path) -> None:
    value = seal_one(writer, GRID)
    other = msgspec.structs.replace(value, name="/s1/f/t99/0")
    with pytest.raises(ResultError, match="/s1/f/t99/0"):
        read(tmp_path, other)


def test_a_file_that_was_deleted_is_missed_though_it_was_open(
    writer: SegmentWriter, tmp_path: Path
) -> None:
    value = seal_one(writer, GRID)
    read(tmp_path, value)
    (tmp_path / value.path).unlink()
    with pytest.raises(ResultError, match="no such file"):
        read(tmp_path, value)


# --- reading many --------------------------------------------------------------------------------


def test_open_files_are_few(tmp_path: Path) -> None:
    values = [seal_one(SegmentWriter(tmp_path, f"e{n}"), GRID + n) for n in range(6)]
    files = OpenFiles(most=2)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for n, value in enumerate(values):
            file = files.get(tmp_path / value.path)
            assert_same(parts.put_together(file.read(value.name)), GRID + n)
    del file
    assert len(files) == 2
    assert len(os.listdir("/proc/self/fd")) == before + 2


def test_a_file_is_opened_once_for_many_results(
    writer: SegmentWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [writer.add("s1", "f", f"t{n}", 0, GRID + n) for n in range(20)]
    writer.seal()
    opened: list[Path] = []

    class Counted(SealedFile):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(segments, "SealedFile", Counted)
    for n, result in enumerate(results):
        assert_same(read(tmp_path, result.value), GRID + n)
    assert len(opened) == 1


def test_threads_read_and_write_at_the_same_time(tmp_path: Path) -> None:
    values: list[tuple[int, Value]] = []
    for owner in range(3):
        with SegmentWriter(tmp_path, f"e{owner}") as writer:
            results = [writer.add("s1", "f", f"t{n}", 0, np.full(3000, n)) for n in range(10)]
        values += [(n, result.value) for n, result in enumerate(results)]
    files = OpenFiles(most=2)  # Threads evict each other's files.
    shared = SegmentWriter(tmp_path, "shared")
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        order = random.Random(seed)
        try:
            for n, value in order.sample(values, len(values)):
                file = files.get(tmp_path / value.path)
                array = parts.put_together(file.read(value.name, value.checksum))
                assert (array == n).all()
                shared.add("s1", "f", f"t{seed}-{n}-{value.path}", 0, array)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert len(shared.seal()) == 4 * len(values)


# --- SIGKILL -------------------------------------------------------------------------------------

ROOT = str(Path(segments.__file__).parents[2])


def run_python(code: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": ROOT},
    )


WRITE_FOREVER = """
import os, sys
from pathlib import Path
import msgspec
import numpy as np
from pilot.data.segments import SegmentWriter
writer = SegmentWriter(Path(sys.argv[1]), f"e{os.getpid()}")
n = 0
while True:
    for _ in range(5):
        writer.add("s1", "f", f"t{n}", 0, {"a": np.full(20_000, n), "n": n})
        n += 1
    for value in writer.seal():
        print(msgspec.json.encode(value).decode(), flush=True)
"""


def test_sigkill_tears_nothing_that_was_announced(tmp_path: Path) -> None:
    for announced in (3, 37):
        command = [sys.executable, "-c", WRITE_FOREVER, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": ROOT}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            try:
                lines = [process.stdout.readline() for _ in range(announced)]
            finally:
                process.kill()
            lines += [line for line in process.stdout if line.endswith(b"\n")]
        for n, line in enumerate(lines):
            value = msgspec.json.decode(line, type=Value)
            assert_same(read(tmp_path, value), {"a": np.full(20_000, n), "n": n})
        for path in tmp_path.glob(f"results/s1/e{process.pid}-*.h5"):
            file = SealedFile(path)  # Also what was sealed and not announced is whole.
            with h5py.File(path) as listed:
                names = list(listed["s1/f"])
            assert len(names) == 5
            for name in names:
                back = parts.put_together(file.read(f"/s1/f/{name}/0"))
                assert (back["a"] == back["n"]).all()
            file.close()


# --- arrays in other orders than C's


@pytest.mark.parametrize("level", [0, 1])
def test_no_array_is_copied_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    monkeypatch.setattr(parts, "PIECE_BYTES", 4096)
    monkeypatch.setattr(draft, "PIECE_BYTES", 4096)
    monkeypatch.setattr(sealed_file, "PIECE_BYTES", 4096)
    grid = np.arange(120_000, dtype="i4").reshape(30, 40, 100)
    objects = [np.asfortranarray(grid), {"f": np.asfortranarray(grid), "s": grid[::2, :, ::3]}]
    writer = SegmentWriter(tmp_path, "e1")
    found = [writer.add("s1", "f", f"t{n}", 0, obj, level) for n, obj in enumerate(objects)]
    writer.seal()
    tracemalloc.start()
    back = [read(tmp_path, one.value) for one in found]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for one, obj in zip(back, objects, strict=True):
        assert_same(one, obj)
    # Twice the grid and the part; a chunk that is inflated, and shuffled, besides.
    assert most < 2.4 * grid.nbytes + (3 * grid.nbytes if level else 100_000)
    assert sweep(tmp_path / found[0].value.path, {found[0].value.name}.__contains__, always=True)
    assert_same(read(tmp_path, found[1].value), objects[1])


def test_what_is_added_after_segments_were_closed_goes_into_others(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w")
    first = writer.add("1", "t", "1.1", 0, np.zeros(10))
    writer.detach()
    second = writer.add("1", "t", "1.2", 0, np.ones(10))
    writer.seal()
    assert first.value.path != second.value.path
    assert read(tmp_path, second.value).sum() == 10.0
