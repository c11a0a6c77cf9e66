"""Programs for PyCOMPSs, on a local site: what they do while they run.

Streams, turns, tasks that call tasks, checkpoints, data sets, and a start by hand.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.compss import environment_on, run, run_text
from support.sites import SiteUnderTest

from pilot.compat import search_directory

STREAMS = """
import os
import time
from pycompss.api.api import compss_barrier, compss_wait_on
from pycompss.api.parameter import *
from pycompss.api.task import task
from pycompss.streams.distro_stream import FileDistroStream, ObjectDistroStream


@task(ods=STREAM_OUT)
def produce(ods, begin, count):
    for number in range(begin, begin + count):
        ods.publish({"number": number})
        time.sleep(0.01)
    ods.close()


@task(ods=STREAM_OUT)
def produce_and_forget(ods, number):
    ods.publish({"number": number})


@task(ods=STREAM_IN, returns=1)
def consume(ods):
    got = []
    while not ods.is_closed():
        got += [each["number"] for each in ods.poll()]
    return got


@task(fds=STREAM_OUT)
def write(fds, base):
    for number in range(5):
        with open(os.path.join(base, f"{number}.txt"), "w") as file:
            file.write(str(number))
        time.sleep(0.01)
    fds.close()


@task(fds=STREAM_IN, returns=1)
def read(fds):
    got = []
    while not fds.is_closed():
        got += [int(open(path).read()) for path in fds.poll()]
        time.sleep(0.02)
    return got


@task(path=FILE_IN, returns=1)
def read_one(path):
    return int(open(path).read())


if __name__ == "__main__":
    # The consumers come first, and there are more of them than cores.
    ods = ObjectDistroStream()
    got = [consume(ods) for _ in range(4)]
    produce(ods, 0, 10)
    produce(ods, 10, 10)
    got = compss_wait_on(got)
    print("objects", sorted(number for each in got for number in each) == list(range(20)))
    ods = ObjectDistroStream("by alias")
    produce_and_forget(ods, 7)
    print("alias", compss_wait_on(consume(ObjectDistroStream(alias="by alias"))))
    os.mkdir("files")
    fds = FileDistroStream(base_dir="files")
    got = read(fds)
    write(fds, os.path.abspath("files"))
    print("files", sorted(compss_wait_on(got)))
    os.mkdir("more")
    fds = FileDistroStream(base_dir="more")
    write(fds, os.path.abspath("more"))
    results = []
    while not fds.is_closed():
        results += [read_one(path) for path in fds.poll()]
        time.sleep(0.01)
    print("tasks", sum(compss_wait_on(results)))
    try:
        consume([1])
    except Exception as error:
        print(type(error).__name__, "is a stream" in str(error))
"""
STREAMS_PRINTED = """objects True
alias [7]
files [0, 1, 2, 3, 4]
tasks 10
PyCOMPSsException True
"""


@pytest.fixture(scope="module")
def environment(shared_site: SiteUnderTest) -> dict[str, str]:
    return environment_on(shared_site)


def test_tasks_hand_objects_and_files_to_tasks_beside_them(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert run_text(environment, tmp_path, STREAMS)[0] == STREAMS_PRINTED


COMMUTATIVE = """
import os
import time
import numpy as np
from pycompss.api.api import *
from pycompss.api.on_failure import on_failure
from pycompss.api.parameter import *
from pycompss.api.task import task


@task(total=COMMUTATIVE, returns=1)
def add(total, item, waits_for=""):
    end = time.monotonic() + 60
    while waits_for and not os.path.exists(waits_for) and time.monotonic() < end:
        time.sleep(0.01)
    total.append(item)
    return len(total)


@task(returns=1)
def late(item, waits_for):
    end = time.monotonic() + 60
    while not os.path.exists(waits_for) and time.monotonic() < end:
        time.sleep(0.01)
    return item


@task(f=FILE_OUT)
def touch(f, *after):
    open(f, "w").close()


@task(total=INOUT)
def sort(total):
    total.sort()


@task(total=IN, returns=1)
def count(total):
    return len(total)


@on_failure(management="CANCEL_SUCCESSORS")
@task(total=COMMUTATIVE)
def fail(total):
    raise ValueError("leaves it as it was")


@on_failure(management="IGNORE", returns=-1)
@task(total=COMMUTATIVE, returns=1, time_out=1)
def hang(total):
    time.sleep(300)


@task(a=COMMUTATIVE, b=COMMUTATIVE)
def both(a, b, number):
    a.append(number)
    b.append(-number)


@task(block=COMMUTATIVE)
def increase(block):
    block += 1


class Sum:
    def __init__(self):
        self.value = 0

    @task(target_direction=COMMUTATIVE)
    def add(self, number):
        self.value += number

    @task(returns=1, target_direction=IN)
    def get(self):
        return self.value


if __name__ == "__main__":
    # The first one's input comes after the second one: in the order of calls it would never end.
    total = []
    slow = add(total, late("slow", os.path.abspath("go")))
    fast = [add(total, item) for item in ("b", "a")]
    touch("go", *fast)
    print("free", compss_wait_on(slow), compss_wait_on(total)[2])
    total = ["z"]
    for item in "cab":
        add(total, item)
    fail(total)
    sort(total)
    counted = count(total)
    for item in "ed":
        add(total, item)
    print("versions", compss_wait_on(counted), compss_wait_on(count(total)))
    ended = hang(total)
    print("ignored", compss_wait_on(ended), "".join(sorted(compss_wait_on(total))))
    a, b = [], []
    for number in range(4):
        both(a, b, number)
    print("both", sorted(compss_wait_on(a)), sorted(compss_wait_on(b)))
    block = np.zeros(50_000)
    for _ in range(6):
        increase(block)
    print("large", compss_wait_on(block).mean())
    sums = Sum()
    for number in range(5):
        sums.add(number)
    print("method", compss_wait_on(sums.get()), compss_wait_on(sums).value)
    both(a, a, 9)
    print("same", compss_wait_on(a)[-2:])
"""
COMMUTATIVE_PRINTED = """free 3 slow
versions 4 6
ignored -1 abcdez
both [0, 1, 2, 3] [-3, -2, -1, 0]
large 6.0
method 10 10
same [9, -9]
"""


def test_commutative_tasks_run_in_whatever_order(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert run_text(environment, tmp_path, COMMUTATIVE)[0] == COMMUTATIVE_PRINTED


NESTED = """
import os
import numpy as np
from pycompss.api.api import compss_barrier, compss_open, compss_wait_on
from pycompss.api.constraint import constraint
from pycompss.api.parameter import *
from pycompss.api.task import task


@task(returns=1)
def fibonacci(n):
    if n < 2:
        return n
    one, other = fibonacci(n - 1), fibonacci(n - 2)
    return compss_wait_on(one) + compss_wait_on(other)


@task(returns=1)
def make(count):
    return np.ones(count)


@task(returns=1)
def handed_on(count):
    return make(count)  # its result, without waiting for it


@task(returns=2)
def several(count):
    return [make(count), 1], make(count + 1)


@task(x=INOUT)
def append(x, value):
    x.append(value)


@task(x=INOUT)
def append_twice(x):
    append(x, "a")
    append(x, "b")


@task(f=FILE_INOUT)
def write(f, text):
    with open(f, "a") as file:
        file.write(text)


@task(f=FILE_OUT)
def write_twice(f):
    write(f, "one ")
    write(f, "two")


@task(returns=1)
def fails(n):
    raise ValueError("a child has failed")


@task(returns=1)
def parent_of_failed():
    fails(1)
    return 1


if __name__ == "__main__":
    print("fibonacci", compss_wait_on(fibonacci(6)))
    print("handed on", compss_wait_on(handed_on(20_000)).sum())
    pair = compss_wait_on(several(3))
    print("several", pair[0][0].sum(), pair[1].sum())
    x = []
    append_twice(x)
    append(x, "c")
    print("written", compss_wait_on(x))
    write_twice("f.txt")
    print("file", compss_open("f.txt").read())
    try:
        compss_wait_on(parent_of_failed())
    except Exception as error:
        print("failed", "a child has failed" in str(error))
"""
NESTED_PRINTED = """fibonacci 8
handed on 20000.0
several 3.0 4.0
written ['a', 'b', 'c']
file one two
failed True
"""


def test_tasks_call_tasks(environment: dict[str, str], tmp_path: Path) -> None:
    """Many that wait on few cores, and what they return and write that is of their children."""
    told, _ = run_text(environment, tmp_path, NESTED, "--nested", status=1)
    assert told == NESTED_PRINTED


CHECKPOINTS = """
import os
import sys
import numpy as np
from beside import length, make
from pycompss.api.api import compss_open, compss_snapshot, compss_wait_on
from pycompss.api.parameter import *
from pycompss.api.task import task


@task(x=INOUT)
def double(x):
    open("runs", "a").write("double ")
    x *= 2


@task(blocks=COLLECTION_IN, returns=1)
def total(blocks):
    open("runs", "a").write("total ")
    return float(sum(block.sum() for block in blocks))


@task(f=FILE_INOUT)
def add(f, text):
    open("runs", "a").write("add ")
    with open(f, "a") as file:
        file.write(text)


@task(returns=1)
def avoided(x):
    open("runs", "a").write("avoided ")
    return x


if __name__ == "__main__":
    blocks = [make(n) for n in range(2)]
    for block in blocks:
        double(block)
    own = np.ones(20_000)
    double(own)
    print("total", compss_wait_on(total([avoided(1), *blocks, own][1:])))
    with open("f.txt", "w") as file:
        file.write(sys.argv[1])
    add("f.txt", " one")
    add("f.txt", " two")
    print("file", compss_wait_on(length("f.txt")), compss_open("f.txt").read())
    compss_snapshot()
    if sys.argv[2] == "fail":
        raise ValueError("stopped")
    add("f.txt", " three")
"""
BESIDE = """
import numpy as np
from pycompss.api.parameter import FILE_IN
from pycompss.api.task import task

FACTOR = 1.0


@task(returns=1)
def make(n):
    open("runs", "a").write("make ")
    return np.full(20_000, n * FACTOR)


@task(f=FILE_IN, returns=1)
def length(f):
    open("runs", "a").write("length ")
    return len(open(f).read())
"""


def test_a_later_run_finds_what_an_earlier_one_has_made(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Objects, and files as they were, by code, arguments and contents."""
    flags = ("--checkpoint=policies.Any", "--checkpoint_params=avoid.checkpoint:[program.avoided]")
    runs, file = tmp_path / "runs", tmp_path / "f.txt"

    def rerun(*words: str, status: int = 0) -> tuple[str, list[str]]:
        runs.write_text("")
        file.unlink(missing_ok=True)
        told, _ = run_text(environment, tmp_path, CHECKPOINTS, *flags, "--", *words, status=status)
        return told, sorted(runs.read_text().split())

    (tmp_path / "beside.py").write_text(BESIDE)
    printed = "total 80000.0\nfile 13 begin one two\n"
    told, ran = rerun("begin", "fail", status=1)
    assert told == printed
    assert ran == [*["add"] * 2, "avoided", *["double"] * 3, "length", *["make"] * 2, "total"]
    told, ran = rerun("begin", "go on")
    assert (told, ran) == (printed, ["add", "avoided"])
    assert file.read_text() == "begin one two three"
    # The contents of the program's own file count, and so does the code of a module of the user's.
    (tmp_path / "beside.py").write_text(BESIDE.replace("FACTOR = 1.0", "FACTOR = 2.0"))
    told, ran = rerun("other", "go on")
    assert told == "total 120000.0\nfile 13 other one two\n"
    assert ran == [*["add"] * 3, "avoided", *["double"] * 2, "length", *["make"] * 2, "total"]


DATA_SETS = """
from pycompss.api.api import compss_wait_on
from pycompss.api.task import task
from pycompss.dds import DDS
from pycompss.functions.data import generator
from pycompss.functions.elapsed_time import timeit
from pycompss.functions.map import map


@task(returns=1)
def fragment(n):
    return [(k, n) for k in range(n, 20, 3)]


@timeit()
@task(returns=1)
def double(x):
    return x * 2


if __name__ == "__main__":
    words = DDS().load("to be or not to be".split(), 3)
    print(sorted(words.map(lambda w: (w, 1)).reduce_by_key(lambda a, b: a + b).collect()))
    print(words.count_by_value()["be"], words.map(len).reduce(lambda a, b: a + b, arity=2))
    data = DDS().load([fragment(n) for n in range(3)], -1)
    print(data.sort_by_key(ascending=False).keys().take(3), data.num_of_partitions())
    other = DDS().load([(3, "x"), (4, "y")], 2)
    print(sorted(data.join(other).collect()))
    data.save_as_pickle("saved")
    print(DDS().load_pickle_files("saved").count())
    print(map(lambda x: double(x)[0], [1, 2, 3]))
    result, seconds = compss_wait_on(double(4))
    print(result, seconds >= 0, len(generator((6, 2), 2, wait=True)))
"""
DATA_SETS_PRINTED = """[('be', 2), ('not', 1), ('or', 1), ('to', 2)]
2 13
[19, 18, 17] 3
[(3, (0, 'x')), (4, (1, 'y'))]
20
[2, 4, 6]
8 True 2
"""

INTERACTIVE = """
import pycompss.interactive as ipycompss
from pycompss.api.api import compss_barrier, compss_wait_on
from pycompss.api.parameter import INOUT
from pycompss.api.task import task


@task(returns=1)
def add(x):
    return x + 1


@task(x=INOUT)
def append(x):
    x.append(1)


print("before", add(1))
ipycompss.start(app_name="notes", debug=True, nested_enabled=True, wcl=300)
ipycompss.start()
one, several, changed = add(1), [add(2), add(3)], []
append(changed)
compss_barrier()
ipycompss.tasks_status()
ipycompss.statistics()
ipycompss.resources_status()
ipycompss.stop(sync=True)
print("values", one, several, changed)
ipycompss.stop()
print("after", add(1))
ipycompss.start()
print("again", compss_wait_on(add(5)))
ipycompss.stop()
try:
    ipycompss.start(nonsense=1)
except TypeError as error:
    print(error)
"""


def test_data_sets_and_functions(environment: dict[str, str], tmp_path: Path) -> None:
    assert run_text(environment, tmp_path, DATA_SETS)[0] == DATA_SETS_PRINTED


def test_a_plain_python_starts_and_stops_by_hand(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "notes.py").write_text(INTERACTIVE)
    paths = {"PYTHONPATH": f"{search_directory()}:{os.environ.get('PYTHONPATH', '')}"}
    told, _ = run(environment | paths, tmp_path, sys.executable, "notes.py")
    lines = [line for line in told.splitlines() if not line.startswith(("add\t", "append\t"))]
    begin = [line for line in lines if line.startswith("Tasks run on ")]
    assert len(begin) == 2
    assert [line for line in lines if line not in begin] == [
        "before 2",
        "The application runs already.",
        "COMPLETED\t4",
        "nodes\t1",
        "values 2 [3, 4] [1]",
        "The application does not run.",
        "after 2",
        "again 6",
        "start() got an unexpected keyword argument 'nonsense'",
    ]
