"""Programs for PymoniK, on a local site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sites import SiteUnderTest

from pilot.compat import search_directory

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "from-pymonik.md"

PROGRAM = '''
import os
import sys
from pathlib import Path

from armonik.common import TaskOptions
from pymonik import MultiResultHandle, Pymonik, Task, materialize, task


@task
def add(a, b=0):
    return a + b


@task
def total(values, more=()):
    return sum(values) + sum(more)


@task
def tree(depth):
    """Invokes others, and leaves its result to the last of them."""
    if depth == 0:
        return 1
    parts = [tree.invoke(depth - 1) for _ in range(2)]
    return total.invoke(MultiResultHandle(parts), delegate=True)


@task
def by_handle(value):
    return add.invoke(value, b=1)


@task(require_context=True)
def look(ctx, result_id):
    ctx.logger.info("looking", result=result_id)
    first = ctx.retrieve_object(result_id)
    there = ctx.object_exists_locally(result_id)
    again, none = ctx.retrieve_object(result_id), ctx.retrieve_object("1.999999")
    return first, there, again, none, ctx.is_local


@task
def read(mat):
    return Path(mat.worker_path).read_text()


@task
def fail():
    raise ValueError("by the task")


@task
def variable():
    return os.environ["OF_THE_SESSION"]


directory = Path(sys.argv[1])
(directory / "in.txt").write_text("contents")
with Pymonik(environment={"env_variables": {"OF_THE_SESSION": 7}}) as pymonik:
    rows = add.map_invoke([(n, n) for n in range(5)])
    print("sum", total.invoke(rows, more=[add.invoke(1, b=2)]).get())
    print("tree", tree.invoke(3).wait().get())
    print("handle", by_handle.invoke(4).get())
    print("lambda", Task(lambda x: x * x, func_name="square").invoke(5).get())
    put = pymonik.put({"a": 1})
    print("look", look.invoke(put.result_id).get())
    one, two = pymonik.put_many([10, 20], names=["one", "two"])
    print("put", add.invoke(one, two).get())
    mat = pymonik.upload_materialize(materialize(directory / "in.txt", directory / "out.txt"))
    print("read", read.map_invoke([(mat,)] * 3).get())
    options = TaskOptions(priority=2)
    print("options", add.invoke(1, 1, task_options=options, pmk_max_duration=60).get())
    print("variable", variable.invoke().get())
    try:
        fail.invoke().wait()
    except RuntimeError as error:
        print("failed", repr(error.__cause__))
    kept = add.invoke(7, 8)
print("after", kept.get())
'''


@pytest.fixture(scope="module")
def environment(shared_site: SiteUnderTest) -> Iterator[dict[str, str]]:
    yield {
        **os.environ,
        "PILOT_SITE": str(shared_site.directory),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def run(environment: dict[str, str], cwd: Path, *command: str) -> str:
    told = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def test_a_program_runs_as_it_is(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    told = run(environment, tmp_path, "pilot", "run", "--compat", "pymonik", "program.py", ".")
    found = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
    assert found["sum"] == str(sum(2 * n for n in range(5)) + 3)
    assert found["tree"] == "8"
    assert found["handle"] == "5"
    assert found["lambda"] == "25"
    assert found["look"] == "({'a': 1}, True, {'a': 1}, None, False)"
    assert found["put"] == "30"
    assert found["read"] == "['contents', 'contents', 'contents']"
    assert found["options"] == "2"
    assert found["variable"] == "7"
    assert found["failed"] == "ValueError('by the task')"
    assert found["after"] == "15"


def test_tasks_of_a_module_go_by_name(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "of_a_module.py").write_text(
        "from pymonik import task\n\nSEEN = []\n\n\n"
        "@task\ndef seen(x):\n    SEEN.append(x)\n    return __name__, other(x)\n\n\n"
        "@task\ndef other(x):\n    return x + 1\n"
    )
    (tmp_path / "program.py").write_text(
        "from of_a_module import seen\nfrom pymonik import Pymonik\n"
        "with Pymonik():\n    print(seen.invoke(1).get())\n"
    )
    environment = {**environment, "PYTHONPATH": search_directory()}
    told = run(environment, tmp_path, sys.executable, "program.py")
    assert "('of_a_module', 2)" in told


def test_the_guide_shows_programs_that_run(environment: dict[str, str], tmp_path: Path) -> None:
    """Both programs of the guide, and what it says that they print."""
    programs = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    (shown,) = re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(programs) == 2
    for name, program in zip(("estimate.py", "own.py"), programs, strict=True):
        (tmp_path / name).write_text(program)
    command, *lines = shown.splitlines()
    told = run(environment, tmp_path, *command.removeprefix("$ ").split()).splitlines()
    number = re.compile(r"session \d+")
    assert [number.sub("session N", line) for line in told] == [
        number.sub("session N", line) for line in lines
    ]
    assert run(environment, tmp_path, sys.executable, "own.py").strip() == lines[1]
