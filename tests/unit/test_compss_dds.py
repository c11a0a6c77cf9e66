"""Data sets of programs for PyCOMPSs, and `pycompss.functions`, in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pilot.compat.compss import functions
from pilot.compat.compss.dds import DDS
from pilot.compat.compss.decoration import task
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.partitions import FilePart, portable_hash

WORDS = ["to", "be", "or", "not", "to", "be", "that", "is", "the", "question"]


def pairs(*keys: str) -> list[tuple[str, int]]:
    return [(key, number) for number, key in enumerate(keys)]


def test_elements_are_in_partitions_of_nearly_the_same_size() -> None:
    made = DDS().load(range(10), 4)
    assert made.collect(True) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert made.num_of_partitions() == 4 and made.count() == 10 and made.sum() == 45
    assert DDS().load(iter("abc"), 2).collect() == ["a", "b", "c"]
    assert DDS().load([]).collect() == [] and DDS().load([], 3).count() == 0


def test_steps_are_applied_in_their_order_and_change_nothing() -> None:
    made = DDS().load(range(6), 2)
    odd = made.map(lambda x, plus: x + plus, plus=1).filter(lambda x: x % 2)
    assert odd.collect() == [1, 3, 5] == odd.collect()
    assert made.flat_map(range).count() == 15
    assert made.map_partitions(lambda part: [max(part)]).collect() == [2, 5]
    assert made.key_by(str).collect_as_dict()["3"] == 3
    assert made.collect() == list(range(6))
    seen: list[int] = []
    made.foreach(seen.append)
    assert seen == list(range(6))
    assert made.union(odd, odd).count() == 12
    assert made.take(4) == [0, 1, 2, 3] and made.take(99) == list(range(6)) and made.take(0) == []


@pytest.mark.parametrize("arity", [-1, 1, 2, 3])
def test_reduce(arity: int) -> None:
    made = DDS().load(WORDS, 5)
    assert made.reduce(max, arity=arity) == "to"
    assert made.map(len).reduce(lambda a, b: a + b, 100, arity) == 100 + 30
    assert DDS().load([], -1).reduce(max, 7) == 7
    assert DDS().load([[], [3], []], -1).reduce(max, arity=arity) == 3
    with pytest.raises(PyCOMPSsException, match="no elements"):
        DDS().load([[], []], -1).reduce(max)


def test_counts() -> None:
    made = DDS().load(WORDS, 3)
    counts = made.count_by_value()
    assert counts["to"] == 2 and counts["question"] == 1 and len(counts) == 8
    assert dict(made.count_by_value(as_dict=False).collect()) == counts
    assert made.count_by_value(as_fo=True)["be"] == 2
    assert sorted(made.distinct().collect()) == sorted(set(WORDS))
    assert DDS().load(pairs("a", "b", "a"), 2).count_by_key(True) == {"a": 2, "b": 1}
    assert DDS().count_by_value() == {}


def test_keys_meet() -> None:
    made = DDS().load(pairs(*WORDS), 4)
    assert made.keys().collect() == WORDS and made.values().sum() == 45
    assert dict(made.reduce_by_key(lambda a, b: a + b).collect())["to"] == 0 + 4
    grouped = dict(made.group_by_key(2).collect())
    assert sorted(grouped["be"]) == [1, 5] and made.group_by_key(2).num_of_partitions() == 2
    assert made.map_values(lambda v: -v).values().sum() == -45
    flat = DDS().load([("a", [1, 2]), ("b", [])], 2).flatten_by_key(lambda values: values)
    assert flat.collect() == [("a", 1), ("a", 2)]
    other = DDS().load([("be", "x"), ("none", "y")], 2)
    assert sorted(made.join(other).collect()) == [("be", (1, "x")), ("be", (5, "x"))]
    assert made.partition_by(num_of_partitions=1).count() == 10
    by_number = DDS().load(range(6)).map(lambda x: (x, x)).partition_by(num_of_partitions=3)
    assert by_number.keys().collect(True) == [[0, 3], [1, 4], [2, 5]]
    assert DDS().partition_by().collect() == []


@pytest.mark.parametrize("ascending", [True, False])
def test_sort_by_key(ascending: bool) -> None:
    keys = [(n * 37) % 101 for n in range(101)]
    made = DDS().load([(key, None) for key in keys], 7)
    found = made.sort_by_key(ascending=ascending, num_of_parts=4)
    assert found.keys().collect() == sorted(keys, reverse=not ascending)
    assert found.num_of_partitions() == 4
    assert all(part for part in found.collect(True))
    by_size = made.sort_by_key(key_func=lambda key: -key).keys().collect()
    assert by_size == sorted(keys, reverse=True)
    assert DDS().load([], 3).sort_by_key().collect() == []


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("First Line! \nSecond Line! \nöäü\n")
    made = DDS().load_text_file(str(path), chunk_size=1)
    assert made.collect(True) == [["First Line! "], ["Second Line! "], ["öäü"]]
    made = DDS().load_text_file(str(path), chunk_size=2, in_bytes=False, strip=False)
    assert made.collect(True) == [["First Line! \n", "Second Line! \n"], ["öäü\n"]]
    text = path.read_text()
    assert DDS().load_file(str(path), 6).collect()[:2] == ["First ", "Line! "]
    for size in (1, 2, 5, 33, 1000):  # no character is cut
        assert "".join(DDS().load_file(str(path), size, worker_read=True).collect()) == text
    assert FilePart(str(path), 0, 5).read_elements() == ["First"]
    directory = tmp_path / "d"
    directory.mkdir()
    for name in "cab":
        (directory / name).write_text(name * 2)
    made = DDS().load_files_from_dir(str(directory))
    assert made.num_of_partitions() == 3
    assert made.collect() == [(str(directory / name), name * 2) for name in "abc"]
    assert DDS().load_files_from_dir(str(directory), 2).num_of_partitions() == 2
    saved = DDS().load(range(5), 2)
    saved.save_as_text_file(str(tmp_path / "texts"))
    assert (tmp_path / "texts" / "00001").read_text() == "3\n4\n"
    saved.map(lambda x: {x}).save_as_pickle(str(tmp_path / "pickles"))
    assert DDS().load_pickle_files(str(tmp_path / "pickles")).collect() == [{n} for n in range(5)]


def test_hashes_are_the_same_in_each_process() -> None:
    assert portable_hash(1) == portable_hash(1.0) == portable_hash(True)
    assert portable_hash((1, "a")) == portable_hash((1.0, "a")) != portable_hash((1, "b"))
    assert portable_hash(frozenset("ab")) == portable_hash(frozenset("ba"))
    keys = "['text', b'bytes', None, ('a', (1, None)), frozenset({'x', 'y', 'z'}), 1.5]"
    code = (
        "from pilot.compat.compss.partitions import portable_hash\n"
        f"print([portable_hash(key) for key in {keys}])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


# --- pycompss.functions --------------------------------------------------------------------------


def test_map_calls_with_each_or_with_pieces() -> None:
    assert functions.map_wait(str, [1, 2]) == ["1", "2"]
    assert functions.map_wait(sum, range(5), chunksize=2) == [1, 5, 4]


def test_random_data_is_in_fragments() -> None:
    made = functions.generator((10, 3), 2, seed=5, wait=True)
    assert [len(part) for part in made] == [5, 5] and len(made[0][0]) == 3
    assert made == functions.generator((10, 3), 2, seed=5)
    for distribution in ("normal", "uniform"):
        assert len(functions.generator((4, 1), 1, distribution=distribution)[0]) == 4
    with pytest.raises(ValueError, match="random, normal or uniform"):
        functions.generator((4, 1), 1, distribution="none")


def test_chunks() -> None:
    assert list(functions.chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(functions.chunks([1, 2, 3, 4, 5], 2, balanced=True)) == [[1, 2, 3], [4, 5]]
    assert list(functions.chunks([], 2)) == []


def test_timed_functions_tell_how_long_they_took() -> None:
    @task(returns=1)
    @functions.TimeIt()
    def f(x: int) -> int:
        return x + 1

    result, seconds = f(2)
    assert result == 3 and seconds >= 0.0


def test_profiles_go_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def f(x: int) -> int:
        return x + 1

    assert functions.Profile()(f)(1) == 2
    assert "Function: f" in capsys.readouterr().out
    monkeypatch.setenv("COMPSS_PROFILING_FILE", str(tmp_path / "p"))
    brief: Any = functions.Profile(full_report=False)(f)
    assert brief(1) == 2 and brief(2) == 3
    lines = (tmp_path / "p").read_text().splitlines()
    assert len(lines) == 2 and lines[0].split()[1] == "f" and lines[0].endswith("MiB")
