"""Programs for PyCOMPSs, on a local site."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from support.compss import environment_on, run
from support.sites import SiteUnderTest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "from-pycompss.md"

OBJECTS = """
import numpy as np
from pycompss.api.api import *
from pycompss.api.constraint import constraint
from pycompss.api.on_failure import on_failure
from pycompss.api.parameter import *
from pycompss.api.reduction import reduction
from pycompss.api.task import task
from pycompss.functions.reduce import merge_reduce
from pycompss.runtime.management.classes import Future
from pycompss.runtime.management.object_tracker import OT


@task(returns=1)
def add(a, b=1):
    return a + b


@task(returns=2)
def two(a, b):
    return a, b


@task(x=INOUT)
def append(x, value):
    x.append(value)


@task(a=INOUT)
def increase(a):
    a += 1


@task(out=OUT)
def fill(out):
    out.append("filled")


@task(blocks={Type: COLLECTION_OUT, Depth: 2})
def make_blocks(blocks):
    for i in range(len(blocks)):
        for j in range(len(blocks[i])):
            blocks[i][j] = np.full((2,), i * 10 + j)


@task(blocks={Type: COLLECTION_IN, Depth: 2}, returns=1)
def total(blocks):
    return sum(int(b.sum()) for row in blocks for b in row)


@task(items={Type: COLLECTION_INOUT, Depth: 1})
def stretch(items):
    for item in items:
        item.append(len(item))


@task(d=DICTIONARY_IN, returns=1)
def values_of(d):
    return sorted(d.values()) if isinstance(d, dict) else d.__name__


@task(returns=1)
def several(*args, **kwargs):
    return list(args), kwargs


class Counter:
    def __init__(self, start=0):
        self.count = start

    @task()
    def up(self, by=1):
        self.count += by

    @task(returns=int, target_direction=IN)
    def get(self):
        return self.count


@task(returns=Counter)
def counter(n):
    return Counter(n)


@reduction(chunk_size="3")
@task(returns=1, data=COLLECTION_IN)
def sum_up(data):
    return sum(data)


@constraint(computing_units="units")
@task(returns=1)
def with_units(units):
    return units


@task(returns=1)
def calls_another(n):
    return add(n, b=n)


class Owner:
    # Deletes what it has, whenever and on whatever thread it goes.

    def __init__(self):
        self.part = add(1)

    def __del__(self):
        compss_delete_object(self.part)


@task(returns=3)
def too_few():
    return 1, 2


if __name__ == "__main__":
    f = add(1)
    assert isinstance(f, Future)
    print("add", compss_wait_on(add(f, b=f)), compss_wait_on(f), compss_wait_on(f))
    pair = two(1, add(5))
    print("two", compss_wait_on(pair), len(pair))
    x = []
    for n in range(3):
        append(x, n)
    print("append", x, compss_wait_on(x))
    array = np.zeros(3)
    for _ in range(5):
        increase(array)
    print("array", array.sum(), compss_wait_on(array).sum())
    out = []
    fill(out)
    print("fill", compss_wait_on(out))
    blocks = [[object() for _ in range(2)] for _ in range(2)]
    make_blocks(blocks)
    print("blocks", compss_wait_on(total(blocks)), compss_wait_on(blocks)[1][1].tolist())
    items = [[], [1]]
    stretch(items)
    stretch(items)
    print("stretch", compss_wait_on(items))
    print("classes", compss_wait_on(two(np.float32, list)), compss_wait_on(values_of(dict)))
    big = np.ones(20_000)
    print("put", compss_wait_on([total([[big, big]]), total([[big]])]))
    print("dict", compss_wait_on(values_of({"a": add(1), "b": 1})))
    print("several", compss_wait_on(several(add(0), 2, key=add(2))))
    made = counter(3)
    assert isinstance(made, Counter)
    made.up()
    made.up(by=2)
    print("counter", compss_wait_on(made.get()), compss_wait_on(made).count)
    own = Counter()
    own.up()
    print("own", own.count, compss_wait_on(own).count)
    print("reduction", compss_wait_on(sum_up([add(n) for n in range(8)])))
    print("units", compss_wait_on([with_units(n) for n in (1, 2)]))
    print("nested", compss_wait_on(calls_another(4)))
    print("few", compss_wait_on(too_few()))
    print("merge", compss_wait_on(merge_reduce(add, [1, 2, 3, 4])))
    print("plain", compss_wait_on([f, add(9)]))
    value, rest = compss_wait_on_any([add(1), add(1)])
    print("any", value, len(rest))
    owners = [Owner() for _ in range(20)]
    kept = add(owners[0].part)
    del owners
    print("kept", compss_wait_on(kept))
    print("tracked", OT.is_tracked(add(1)), OT.is_tracked(array), OT.get_object_id(array) == "")
    compss_barrier()
    print("deleted", compss_delete_object(array), compss_delete_object(1, 2))
"""
OBJECTS_PRINTED = """add 4 2 2
two [1, 6] 2
append [] [0, 1, 2]
array 0.0 15.0
fill ['filled']
blocks 44 [11, 11]
stretch [[0, 1], [1, 1, 2]]
classes [<class 'numpy.float32'>, <class 'list'>] dict
put [40000, 20000]
dict [1, 2]
several ([1, 2], {'key': 3})
counter 6 6
own 0 1
reduction 36
units [1, 2]
nested 8
few [1, 2]
merge 10
plain [2, 10]
any 2 1
kept 3
tracked True False True
deleted True [True, True]
"""

FILES = """
import os
from pycompss.api.api import *
from pycompss.api.parameter import *
from pycompss.api.task import task
from pycompss.api.on_failure import on_failure


@task(f=FILE_OUT)
def write(f, text):
    with open(f, "w") as file:
        file.write(text)


@task(f=FILE_INOUT)
def add(f, text):
    with open(f, "a") as file:
        file.write(text)


@task(f=FILE_IN, returns=1)
def read(f):
    with open(f) as file:
        return file.read()


@task(d=DIRECTORY_OUT)
def make(d):
    os.mkdir(d)
    open(os.path.join(d, "inside"), "w").close()


@task(d=DIRECTORY_IN, returns=1)
def names(d):
    return sorted(os.listdir(d))


@task(files=COLLECTION_FILE_OUT)
def write_all(files):
    for n, name in enumerate(files):
        with open(name, "w") as file:
            file.write(str(n))


@on_failure(management="IGNORE", returns="ignored")
@task(f=FILE_INOUT, returns=1)
def fail(f):
    with open(f, "a") as file:
        file.write("more")
    raise ValueError("told")


write("a.txt", "one ")
first = read("a.txt")
add("a.txt", "two ")
second = read("a.txt")
print("exists", compss_file_exists("a.txt"), compss_file_exists("no.txt"))
with compss_open("a.txt") as file:
    print("open", repr(file.read()))
print("read", compss_wait_on([first, second]))
make("d")
print("names", compss_wait_on(names("d")))
write_all(["x.txt", "y.txt"])
print("wait", compss_wait_on_file("x.txt", "y.txt"), open("y.txt").read())
write("gone.txt", "")
print("delete", compss_delete_file("gone.txt"), os.path.exists("gone.txt"))
print("none", compss_wait_on(read.function.__name__))
print("failed", compss_wait_on(fail("a.txt")), compss_open("a.txt").read())
print("left", sorted(os.listdir(".")))
"""
FILES_PRINTED = """exists True False
open 'one two '
read ['one ', 'one two ']
names ['inside']
wait ['x.txt', 'y.txt'] 1
delete True False
none read
failed ignored one two more
left ['a.txt', 'd', 'program.py', 'x.txt', 'y.txt']
"""

FAILURES = """
from pycompss.api.api import *
from pycompss.api.exceptions import COMPSsException
from pycompss.api.parameter import *
from pycompss.api.on_failure import on_failure
from pycompss.api.task import task
import time


@task(x=INOUT, on_failure="CANCEL_SUCCESSORS")
def cancel(x, bad):
    x.append(bad)
    if bad:
        raise ValueError("to cancel the others")


@task(x=INOUT)
def follow(x):
    x.append("follows")


@task(returns=1)
def end_group(n):
    if n == 1:
        raise COMPSsException("enough")
    return n


@task(returns=1, on_failure="CANCEL_SUCCESSORS")
def nothing():
    raise ValueError


@on_failure(management="IGNORE", returns=9)
@task(returns=1, time_out=1)
def late():
    time.sleep(300)


@task(returns=1)
def same(x):
    return x


x = []
cancel(x, False)
cancel(x, True)
follow(x)
print("fallback", compss_wait_on(x))
print("none", compss_wait_on(nothing()))
default = late()
print("late", *map(compss_wait_on, (default, same([default]), same(default))))
print("nodes", compss_get_number_of_resources())
try:
    with TaskGroup("outer"):
        with TaskGroup("inner"):
            futures = [end_group(n) for n in range(3)]
except COMPSsException as error:
    print("group", error)
with TaskGroup("other", implicit_barrier=False):
    more = [end_group(n) for n in (2, 3)]
compss_barrier_group("other")
print("other", compss_wait_on(more))
with TaskGroup("cancelled", False):
    end_group(5)
compss_cancel_group("cancelled")
compss_barrier_group("cancelled")
compss_barrier()
print("goes on")
"""
FAILURES_PRINTED = """fallback [False]
none None
late 9 [9] 9
nodes 1
group enough
other [2, 3]
goes on
"""

FORKED = """
import os
import sys
from pycompss.api.api import compss_wait_on
from pycompss.api.task import task


@task(returns=1)
def add(a):
    return a + 1


before = add(1)
if os.fork() == 0:
    try:
        compss_wait_on(before)
    except Exception as error:
        print(type(error).__name__, "forked copy" in str(error))
    sys.exit(0)  # ends at once, and ends nothing of the program's
os.wait()
print(compss_wait_on(add(before)))
"""
FORKED_PRINTED = """PyCOMPSsException True
3
"""

FATAL = """
from pycompss.api.api import compss_barrier, compss_wait_on
from pycompss.api.task import task
import time


@task(returns=1, on_failure="FAIL")
def fail():
    raise ValueError("for good")


@task(returns=1)
def slow():
    time.sleep(300)


waits = slow()
fail()
compss_wait_on(waits)
print("never")
"""


#: A program that drops its blocks, and then calls nothing of PyCOMPSs until their files are gone.
DROPPED = """
import os, pathlib, time
import numpy as np
from pycompss.api.api import compss_barrier, compss_delete_object
from pycompss.api.task import task
from pycompss.api.parameter import INOUT

@task(returns=1)
def make(number):
    return np.full(1 << 17, float(number))

@task(block=INOUT)
def change(block):
    block += 1

def files():
    return {p for p in (pathlib.Path(os.environ["PILOT_SITE"]) / "results").rglob("*.h5")}

if __name__ == "__main__":
    before = files()
    blocks = [make(number) for number in range(5)]
    arrays = [np.ones(1 << 17) for _ in range(5)]
    for block in blocks + arrays:
        change(block)
    compss_barrier()
    print(bool(files() - before))
    compss_delete_object(*arrays)
    del blocks, block, arrays
    end = time.monotonic() + 60
    while files() - before and time.monotonic() < end:
        time.sleep(0.1)
    print(len(files() - before))
"""


@pytest.fixture(scope="module")
def environment(shared_site: SiteUnderTest) -> dict[str, str]:
    return environment_on(shared_site)


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (OBJECTS, OBJECTS_PRINTED),
        (FILES, FILES_PRINTED),
        (FAILURES, FAILURES_PRINTED),
        (FORKED, FORKED_PRINTED),
        (DROPPED, "True\n0\n"),
    ],
    ids=["objects", "files", "failures", "forked", "dropped"],
)
def test_a_program_runs_as_it_is(
    environment: dict[str, str], tmp_path: Path, program: str, printed: str
) -> None:
    (tmp_path / "program.py").write_text(program)
    told, _ = run(environment, tmp_path, "runcompss", "program.py")
    assert told == printed


def test_a_task_that_fails_for_good_ends_the_program(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(FATAL)
    command = ("pilot", "run", "--compat", "pycompss", "program.py")
    told, error = run(environment, tmp_path, *command, status=1)
    assert told == "" and "failed for good: for good" in error and "ValueError" in error


def test_tasks_of_a_module_go_by_name(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "of_a_module.py").write_text(
        "from pycompss.api.task import task\n\n\n"
        "@task(returns=1)\ndef seen(x):\n    return __name__, other(x)\n\n\n"
        "@task(returns=1)\ndef other(x):\n    return x + 1\n"
    )
    (tmp_path / "program.py").write_text(
        "import sys\nfrom of_a_module import seen\nfrom pycompss.api.api import compss_wait_on\n"
        "print(compss_wait_on(seen(int(sys.argv[1]))))\nsys.exit(3)\n"
    )
    told, _ = run(environment, tmp_path, "runcompss", "program.py", "1", status=3)
    assert told == "('of_a_module', 2)\n"


def test_the_guide_shows_programs_that_run(environment: dict[str, str], tmp_path: Path) -> None:
    """Both whole programs of the guide, and what it says that they print."""
    programs = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)[:2]
    shown, *_ = re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.S)
    for name, program in zip(("blocks.py", "own.py"), programs, strict=True):
        (tmp_path / name).write_text(program)
    command, *lines = shown.splitlines()
    told, _ = run(environment, tmp_path, *command.removeprefix("$ ").split())
    assert told.splitlines() == lines
    assert run(environment, tmp_path, sys.executable, "own.py")[0].splitlines() == lines


def test_an_enqueued_program_runs_by_itself(environment: dict[str, str], tmp_path: Path) -> None:
    """On a local site as a process, with a site of its own; its output is in that."""
    (tmp_path / "program.py").write_text(
        "import os, sys\nfrom pycompss.api.task import task\n"
        "from pycompss.api.api import compss_wait_on\nimport beside\n\n"
        "print(compss_wait_on(beside.add(int(sys.argv[1]))), os.getcwd())\n"
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "beside.py").write_text(
        "from pycompss.api.task import task\n\n\n@task(returns=1)\ndef add(x):\n    return x + 1\n"
    )

    def pycompss(*words: str, status: int = 0) -> tuple[str, str]:
        command = (sys.executable, "-m", "pilot.compat.site.pycompss", *words)
        return run(environment, tmp_path, *command, status=status)

    words = ("--exec_time=5", "--job_name=adds", f"--pythonpath={tmp_path}/src", "-d")
    told, error = pycompss("enqueue", *words, "program.py", "4")
    job = told.removeprefix("Submitted batch job ").strip()
    assert "without a meaning on Pilot: -d" in error
    path = Path(error.splitlines()[-1].removeprefix("its output: "))
    try:
        end = time.monotonic() + 120
        while "RUNNING" in (line := pycompss("job", "status", job)[0]):
            assert time.monotonic() < end, path.read_text()
        assert line.split("\t")[:2] == [job, "adds"] and "COMPLETED" in line
        assert f"5 {tmp_path}\n" in path.read_text()
        assert job not in pycompss("job", "list")[0]
        assert "there is no job 17.4" in pycompss("job", "cancel", "17.4", status=2)[1]
    finally:
        pycompss("job", "cancel", job)
        shutil.rmtree(path.parents[2])
