"""Data sets in partitions: `pycompss.dds`, a task for each partition and step that needs one.

A data set is a list of partitions, and the functions that are still to be applied to each: chains
of `map`, `filter` and the like are one task per partition. `partition_by` sends the elements of all
partitions to new ones, by their keys; what goes by keys rests on that.

Invariant: nothing is computed before it is asked for, and nothing of a data set changes then.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from pilot.compat.compss.api import compss_wait_on
from pilot.compat.compss.decoration import task
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.partitions import (
    FilePart,
    Files,
    Pickled,
    Slice,
    elements,
    line_blocks,
    portable_hash,
    save_pickle,
    save_text,
    text_blocks,
)

#: A function from the elements of a partition to other elements.
Step: TypeAlias = "Callable[[Iterable[Any]], Iterable[Any]]"

_NOTHING: Final = "pilot: no initial value"
#: The number of keys of each partition by which a sort finds its bounds.
_SAMPLES: Final = 20


def _applied(steps: tuple[Step, ...], partition: Any) -> Iterable[Any]:
    data: Iterable[Any] = elements(partition)
    for step in steps:
        data = step(data)
    return data


@task(returns=1)
def compute(steps: Any, partition: Any) -> list[Any]:
    """Return the elements of a partition after all steps."""
    return list(_applied(steps, partition))


@task(returns=1)
def reduce_partition(function: Any, steps: Any, partition: Any) -> list[Any]:
    """Return the elements of a partition as one; an empty list where there are none."""
    return _reduced(function, _applied(steps, partition))


@task(returns=1)
def reduce_results(function: Any, results: Any) -> list[Any]:
    """Return several results as one; each is a list of one or none."""
    return _reduced(function, itertools.chain.from_iterable(results))


def _reduced(function: Callable[[Any, Any], Any], data: Iterable[Any]) -> list[Any]:
    rest = iter(data)
    for first in rest:
        return [functools.reduce(function, rest, first)]
    return []


@task(returns=1)
def count_partition(steps: Any, partition: Any) -> Counter[Any]:
    """Return how often each element occurs."""
    return Counter(_applied(steps, partition))


@task(returns=1)
def add_counts(counts: Any) -> Counter[Any]:
    """Return the sums of counts."""
    total: Counter[Any] = Counter()
    for each in counts:
        total.update(each)
    return total


@task(returns=1)
def part_of_counts(counts: Any, number: int, count: int) -> list[Any]:
    """Return every `count`-th pair of counts, from that of this number on."""
    return list(itertools.islice(counts.items(), number, None, count))


@task(returns=1)
def distribute(steps: Any, partition: Any, place: Any, count: int) -> list[Any]:
    """Return the pairs of a partition for each of the new ones; `place` tells which by the key."""
    parts: list[list[Any]] = [[] for _ in range(count)]
    for pair in _applied(steps, partition):
        parts[place(pair[0]) % count].append(pair)
    return parts if count > 1 else parts[0]


@task(returns=1)
def sample_keys(steps: Any, partition: Any, key: Any) -> list[Any]:
    """Return some of the keys of a partition, which stand for all."""
    keys = sorted(key(pair[0]) for pair in _applied(steps, partition))
    return keys[:: max(1, len(keys) // _SAMPLES)]


@task(returns=1)
def save(steps: Any, partition: Any, path: str, write: Any) -> None:
    """Write a partition to a file."""
    write(Path(path), list(_applied(steps, partition)))


def _chain(parts: Iterable[Iterable[Any]]) -> Iterator[Any]:
    return itertools.chain.from_iterable(parts)


class DDS:
    """A data set in partitions. It is empty until something is loaded."""

    def __init__(self) -> None:
        self.partitions: list[Any] = []
        self._steps: tuple[Step, ...] = ()

    def _with(self, *steps: Step) -> DDS:
        made = DDS()
        made.partitions, made._steps = self.partitions, (*self._steps, *steps)
        return made

    # --- from where it comes

    def load(self, iterator: Any, num_of_parts: int = 10, paac: bool = False) -> DDS:
        """Load elements, in so many partitions of nearly the same size.

        Parameters
        ----------
        iterator
            The elements; with ``num_of_parts=-1`` the partitions, which may be futures.
        num_of_parts
            The number of partitions.
        paac
            Of no meaning: a partition may be a list of futures in any case.
        """
        del paac
        if num_of_parts == -1:
            self.partitions = list(iterator)
            return self
        data = iterator if hasattr(iterator, "__getitem__") else list(iterator)
        bounds = _bounds(len(data), num_of_parts)
        self.partitions += [Slice(data[begin:end]) for begin, end in bounds]
        return self

    def load_file(self, file_path: str, chunk_size: int = 1024, worker_read: bool = False) -> DDS:
        """Load a text file, as blocks of so many characters; or of bytes, read by the tasks."""
        if worker_read:
            size = Path(file_path).stat().st_size
            path = str(Path(file_path).absolute())
            self.partitions += [FilePart(path, at, chunk_size) for at in range(0, size, chunk_size)]
        else:
            self.partitions += [Slice([block]) for block in text_blocks(file_path, chunk_size)]
        return self

    def load_text_file(
        self, file_name: str, chunk_size: int = 1024, in_bytes: bool = True, strip: bool = True
    ) -> DDS:
        """Load the lines of a file: so many bytes, or lines, in each partition."""
        found = line_blocks(file_name, chunk_size, in_bytes, strip)
        self.partitions += [Slice(block) for block in found]
        return self

    def load_files_from_dir(self, dir_path: str, num_of_parts: int = -1) -> DDS:
        """Load the files of a directory, as pairs of path and content, which the tasks read."""
        files = sorted(str(path.absolute()) for path in Path(dir_path).iterdir())
        count = len(files) if num_of_parts < 0 else num_of_parts
        bounds = _bounds(len(files), count)
        self.partitions += [Files(tuple(files[begin:end])) for begin, end in bounds]
        return self

    def load_pickle_files(self, dir_path: str) -> DDS:
        """Load partitions as `save_as_pickle` has written them; the tasks read them."""
        found = sorted(Path(dir_path).iterdir())
        self.partitions += [Pickled(str(path.absolute())) for path in found]
        return self

    def union(self, *args: DDS) -> DDS:
        """Return the elements of this and other data sets."""
        parts = [part for each in (self, *args) for part in each.collect(future_objects=True)]
        return DDS().load(parts, -1)

    # --- element by element

    def map(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> DDS:
        """Apply a function to each element."""
        return self._with(lambda data: [func(each, *args, **kwargs) for each in data])

    def map_partitions(self, func: Step) -> DDS:
        """Apply a function to each partition."""
        return self._with(func)

    def flat_map(self, func: Callable[..., Iterable[Any]], *args: Any, **kwargs: Any) -> DDS:
        """Apply a function to each element, and have all that it gives as elements."""
        return self._with(
            lambda data: [new for each in data for new in func(each, *args, **kwargs)]
        )

    def filter(self, func: Callable[[Any], Any]) -> DDS:
        """Keep the elements for which a function is true."""
        return self._with(lambda data: [each for each in data if func(each)])

    def key_by(self, func: Callable[[Any], Any]) -> DDS:
        """Make pairs of what a function gives of an element, and the element."""
        return self.map(lambda each: (func(each), each))

    def foreach(self, func: Callable[[Any], Any]) -> None:
        """Call a function with each element, and wait."""
        self.map(func).count()

    # --- what it is in the end

    def num_of_partitions(self) -> int:
        """Return the number of partitions."""
        return len(self.partitions)

    def collect(self, keep_partitions: bool = False, future_objects: bool = False) -> list[Any]:
        """Return the elements.

        Parameters
        ----------
        keep_partitions
            As a list for each partition.
        future_objects
            As a future for each partition, without waiting.
        """
        given = self.partitions
        found = [
            compute(self._steps, part) if self._steps or _is_unread(part) else part
            for part in given
        ]
        if future_objects:
            return found
        parts = [list(part) for part in compss_wait_on(found)]
        return parts if keep_partitions else list(_chain(parts))

    def take(self, num: int) -> list[Any]:
        """Return the first elements."""
        found: list[Any] = []
        for part in self.collect(future_objects=True):
            if len(found) >= num:
                break
            found += list(compss_wait_on(part))[: num - len(found)]
        return found

    def reduce(
        self, func: Callable[[Any, Any], Any], initial: Any = _NOTHING, arity: int = -1
    ) -> Any:
        """Return all elements as one.

        Parameters
        ----------
        func
            A function of two elements.
        initial
            One more element.
        arity
            How many partial results are made one at a time; -1: all.

        Raises
        ------
        PyCOMPSsException
            There is no element.
        """
        waiting = [reduce_partition(func, self._steps, part) for part in self.partitions]
        if not (isinstance(initial, str) and initial == _NOTHING):
            waiting.append([initial])
        size = arity if arity > 1 else max(2, len(waiting))
        while len(waiting) > 1:
            heads, waiting = waiting[:size], waiting[size:]
            waiting.append(reduce_results(func, heads))
        found = compss_wait_on(waiting[0]) if waiting else []
        if not found:
            raise PyCOMPSsException("DDS.reduce: there are no elements")
        return found[0]

    def sum(self) -> Any:
        """Return the sum of the elements."""
        return sum(self.map_partitions(lambda data: [sum(data)]).collect())

    def count(self) -> int:
        """Return the number of elements."""
        return int(self.map_partitions(lambda data: [sum(1 for _ in data)]).sum())

    def count_by_value(self, arity: int = 2, as_dict: bool = True, as_fo: bool = False) -> Any:
        """Count how often each element occurs.

        Parameters
        ----------
        arity
            How many partial counts are added at a time.
        as_dict
            Return a dict; otherwise a data set of pairs.
        as_fo
            Return the future of the dict.
        """
        waiting = [count_partition(self._steps, part) for part in self.partitions]
        while len(waiting) > 1:
            heads, waiting = waiting[: max(2, arity)], waiting[max(2, arity) :]
            waiting.append(add_counts(heads))
        counts = waiting[0] if waiting else Counter()
        if as_dict:
            return counts if as_fo else dict(compss_wait_on(counts))
        number = max(1, len(self.partitions))
        return DDS().load([part_of_counts(counts, place, number) for place in range(number)], -1)

    def distinct(self) -> DDS:
        """Keep one of equal elements."""
        return self.map(lambda each: (each, None)).reduce_by_key(lambda first, _: first).keys()

    def save_as_text_file(self, path: str) -> None:
        """Write each partition to a file of a directory, a line for each element."""
        self._save(path, save_text)

    def save_as_pickle(self, path: str) -> None:
        """Write each partition to a file of a directory, as `load_pickle_files` reads it."""
        self._save(path, save_pickle)

    def _save(self, path: str, write: Callable[[Path, list[Any]], None]) -> None:
        directory = Path(path).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        ended = [
            save(self._steps, part, str(directory / f"{number:05}"), write)
            for number, part in enumerate(self.partitions)
        ]
        compss_wait_on(ended)

    # --- pairs of keys and values

    def collect_as_dict(self) -> dict[Any, Any]:
        """Return the pairs as a dict."""
        return dict(self.collect())

    def keys(self) -> DDS:
        """Return the keys."""
        return self.map(lambda pair: pair[0])

    def values(self) -> DDS:
        """Return the values."""
        return self.map(lambda pair: pair[1])

    def map_values(self, func: Callable[[Any], Any]) -> DDS:
        """Apply a function to each value."""
        return self.map(lambda pair: (pair[0], func(pair[1])))

    def flatten_by_key(self, func: Callable[[Any], Iterable[Any]]) -> DDS:
        """Make a pair of the key with each of what a function gives of the value."""
        return self.flat_map(lambda pair: [(pair[0], each) for each in func(pair[1])])

    def partition_by(
        self, partitioner_func: Callable[[Any], int] = portable_hash, num_of_partitions: int = -1
    ) -> DDS:
        """Send pairs to new partitions, by a function of their keys.

        Parameters
        ----------
        partitioner_func
            Returns a number for a key, whose remainder is the number of the partition.
        num_of_partitions
            The number of new ones; -1: as many as now.
        """
        count = len(self.partitions) if num_of_partitions == -1 else num_of_partitions
        if not self.partitions:
            return DDS()
        sent = [
            distribute(self._steps, part, partitioner_func, count, returns=count)
            for part in self.partitions
        ]
        parts = [[each[place] if count > 1 else each for each in sent] for place in range(count)]
        return DDS().load(parts, -1).map_partitions(_chain)

    def combine_by_key(
        self,
        creator_func: Callable[[Any], Any],
        combiner_func: Callable[[Any, Any], Any],
        merger_function: Callable[[Any, Any], Any],
        total_parts: int = -1,
    ) -> DDS:
        """Combine the values of each key.

        Parameters
        ----------
        creator_func
            Makes a combination of the first value.
        combiner_func
            Adds another value of the same partition to a combination.
        merger_function
            Merges combinations of several partitions.
        total_parts
            The number of partitions then; -1: as many as now.
        """

        def combine(data: Iterable[Any]) -> list[Any]:
            found: dict[Any, Any] = {}
            for key, value in data:
                found[key] = (
                    combiner_func(found[key], value) if key in found else creator_func(value)
                )
            return list(found.items())

        def merge(data: Iterable[Any]) -> list[Any]:
            found: dict[Any, Any] = {}
            for key, value in data:
                found[key] = merger_function(found[key], value) if key in found else value
            return list(found.items())

        sent = self._with(combine).partition_by(num_of_partitions=total_parts)
        return sent.map_partitions(merge)

    def reduce_by_key(self, func: Callable[[Any, Any], Any]) -> DDS:
        """Reduce the values of each key to one."""
        return self.combine_by_key(lambda value: value, func, func)

    def group_by_key(self, num_of_parts: int = -1) -> DDS:
        """Make a list of the values of each key."""
        return self.combine_by_key(
            lambda value: [value],
            lambda values, value: [*values, value],
            lambda values, others: [*values, *others],
            num_of_parts,
        )

    def count_by_key(self, as_dict: bool = False) -> Any:
        """Count the pairs of each key; see `count_by_value`."""
        return self.keys().count_by_value(as_dict=as_dict)

    def join(self, other: DDS, num_of_partitions: int = -1) -> DDS:
        """Make a pair of the key with each pair of values that both data sets have of it."""
        count = len(self.partitions) if num_of_partitions == -1 else num_of_partitions
        mine = self.map_values(lambda value: (True, value))
        both = mine.union(other.map_values(lambda value: (False, value)))

        def meet(values: list[Any]) -> list[Any]:
            others = [value for is_mine, value in values if not is_mine]
            return [(v, w) for is_mine, v in values if is_mine for w in others]

        return both.group_by_key(count).flatten_by_key(meet)

    def sort_by_key(
        self,
        ascending: bool = True,
        num_of_parts: int | None = None,
        key_func: Callable[[Any], Any] = lambda key: key,
    ) -> DDS:
        """Sort the pairs by a function of their keys, over all partitions."""
        count = num_of_parts or max(1, len(self.partitions))
        made = DDS().load(self.collect(future_objects=True), -1)
        sampled = [sample_keys((), part, key_func) for part in made.partitions]
        samples = sorted(_chain(compss_wait_on(sampled)))
        step = len(samples) / count
        bounds = [samples[math.floor(step * place)] for place in range(1, count)] if samples else []

        def place(key: Any) -> int:
            found = bisect.bisect_left(bounds, key_func(key))
            return found if ascending else count - 1 - found

        def sort(data: Iterable[Any]) -> list[Any]:
            return sorted(data, key=lambda pair: key_func(pair[0]), reverse=not ascending)

        return made.partition_by(place, count).map_partitions(sort)


def _is_unread(partition: Any) -> bool:
    return hasattr(partition, "read_elements")


def _bounds(total: int, parts: int) -> list[tuple[int, int]]:
    """Return where parts begin and end that differ in size by one at most."""
    if not total:
        return []
    size, more = divmod(total, parts)
    ends = [place * size + min(place, more) for place in range(parts + 1)]
    return list(itertools.pairwise(ends))
