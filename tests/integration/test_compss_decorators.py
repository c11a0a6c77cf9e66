"""Programs for PyCOMPSs whose tasks are programs, ranks of MPI, or have something around them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.compss import environment_on, run
from support.http_server import Heard, Says, serving
from support.sites import SiteUnderTest

BINARIES = r"""
import os

from pycompss.api.api import compss_barrier, compss_open, compss_wait_on
from pycompss.api.binary import Binary, binary
from pycompss.api.constraint import constraint
from pycompss.api.on_failure import on_failure
from pycompss.api.parameter import *
from pycompss.api.task import task


@task(returns=1)
def text():
    return "two words"


@binary(binary="printf", args="'%s\\n' {{more}} {{a}}-{{b}} $HERE \\$HOME 'a  b' pat*")
@task(out=FILE_OUT_STDOUT)
def show(a, b, more, out):
    pass


@Binary(binary="grep")
@task(lines={Type: FILE_IN, StdIOStream: STDIN}, found={Type: FILE_OUT, StdIOStream: STDOUT},
      returns=1)
def grep(flag, word, lines, found):
    pass


@constraint(computing_units="cores")
@binary(binary="sh", args="-c 'echo \\$COMPSS_NUM_THREADS; exit {{status}}'",
        fail_by_exit_value="False")
@task(returns=int, log=FILE_INOUT_STDOUT)
def leave(status, log, cores=1):
    pass


@binary(binary="sh",
        args="-c 'pwd; echo error >&2; tr a-z A-Z < {{file}} > tmp; cat tmp > {{file}}'",
        working_dir="made/{{name}}")
@task(file=FILE_INOUT, out=FILE_OUT_STDOUT, err=FILE_OUT_STDERR)
def change(file, name, out, err):
    pass


@binary(binary="echo")
@task(file={Type: FILE_IN, Prefix: "--in="}, size={Prefix: "--size="}, skipped={Prefix: "#"},
      out=FILE_OUT_STDOUT)
def prefixed(file, size, skipped, *rest, out=None, flag=0.5):
    pass


@on_failure(management="IGNORE", returns=9)
@binary(binary="no-such-program")
@task(returns=1)
def missing():
    pass


@binary(binary="no-such-program", fail_by_exit_value=False)
@task(returns=1)
def not_there():
    pass


class Tool:
    @binary(binary="echo")
    @task(out=FILE_OUT_STDOUT)
    def say(self, word, out):
        pass


if __name__ == "__main__":
    os.environ["HERE"] = "here"
    open("pat1", "w").close(), open("pat2", "w").close()
    show(text(), True, ["x", 2.5], "shown")
    print(compss_open("shown").read().splitlines())
    with open("lines", "w") as file:
        file.write("Hi\nno\nHi there\n")
    print(compss_wait_on(grep("-c", "Hi", "lines", "found")), compss_open("found").read().strip())
    open("log", "w").write("before\n")
    print(compss_wait_on(leave(3, "log")), compss_wait_on(leave(0, "log", cores=2)))
    print(compss_open("log").read().split())
    change("lines", "there", "out", "err")
    print(compss_open("lines").read().split(), compss_open("err").read().strip())
    print(os.path.relpath(compss_open("out").read().strip()))
    prefixed("lines", 3, "no", ["y", "z z"], out="prefixed")
    print(compss_open("prefixed").read().strip().replace(os.getcwd() + "/", ""))
    print(compss_wait_on(missing()), compss_wait_on(not_there()))
    Tool().say("method", "said")
    print(compss_open("said").read().strip())
"""
BINARIES_PRINTED = r"""['x', '2.5', 'two words-true', 'here', '$HOME', 'a  b', 'pat1', 'pat2']
0 2
3 0
['before', '1', '2']
['HI', 'NO', 'HI', 'THERE'] error
made/there
--in=lines --size=3 y z z 0.5
9 127
method
"""

RANKS = r"""
import os
import sys

from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.constraint import constraint
from pycompss.api.mpi import mpi
from pycompss.api.mpmd_mpi import mpmd_mpi
from pycompss.api.on_failure import on_failure
from pycompss.api.parameter import *
from pycompss.api.task import task


@mpi(runner="mpirun", binary=sys.executable, processes="count", args="size.py {{word}}")
@task(returns=1, out=FILE_OUT_STDOUT)
def sizes(word, count, out):
    pass


@constraint(computing_units=2)
@mpi(runner="mpirun", scale_by_cu=True, fail_by_exit_value=False, binary="sh",
     args="-c 'exit {{status}}'")
@task(returns=1)
def leave(status):
    pass


@on_failure(management="IGNORE", returns="failed")
@mpi(runner="mpirun", binary="false", processes=2)
@task(returns=1)
def fails():
    pass


@mpmd_mpi(runner="mpirun", working_dir="there", programs=[
    dict(binary="echo", args="one {{word}}"), dict(binary="echo", args="two {{word}}")])
@task(out=FILE_OUT_STDOUT)
def both(word, out):
    pass


@mpi(runner="mpirun", processes=2, processes_per_node=1,
     data_layout={block_count: 4, block_length: 1, stride: 1},
     more_layout={block_count: 2, block_length: 1, stride: 2})
@task(data=COLLECTION_IN, more=COLLECTION_IN, returns=2, out=FILE_INOUT, total=INOUT)
def parts(data, more, out, total):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.rank == 1:
        with open(out, "a") as file:
            file.write("by rank 1")
    total.append(world.allreduce(sum(data)))
    return world.rank, data, more


@mpi(runner="mpirun", processes=2)
@task(returns=list)
def ranks(start):
    from mpi4py import MPI

    return start + MPI.COMM_WORLD.rank


@on_failure(management="IGNORE", returns=[7, 8])
@mpi(runner="mpirun", processes=2)
@task(returns=2, out=FILE_INOUT)
def fails_on(rank, out):
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == rank:
        raise ValueError(f"on {rank}")


if __name__ == "__main__":
    with open("size.py", "w") as file:
        file.write("import sys\nfrom mpi4py import MPI\n"
                   "w = MPI.COMM_WORLD\nsys.stdout.write(f'{sys.argv[1]} {w.size}\\n')\n")
    print(compss_wait_on(sizes("a b", 2, "sizes")), sorted(compss_open("sizes")))
    print(compss_wait_on(leave(3)), compss_wait_on(fails()))
    both("x  y", "both")
    print(sorted(compss_open("both")), os.path.isdir("there"))
    with open("file", "w") as file:
        file.write("first ")
    total = [0]
    print(compss_wait_on(parts([1, 2, 3, 4], "abcd", "file", total)))
    print(compss_open("file").read(), compss_wait_on(total))
    print(compss_wait_on(ranks(10)))
    print(compss_wait_on(fails_on(0, "file")), compss_wait_on(fails_on(1, "file")))
    print(compss_open("file").read())
"""
RANKS_PRINTED = r"""0 ['a b 2\n', 'a b 2\n']
3 failed
['one x  y\n', 'two x  y\n'] True
[(0, [1, 3], 'a'), (1, [2, 4], 'c')]
first by rank 1 [0, 10]
[10, 11]
[7, 8] [7, 8]
first by rank 1
"""

AROUND = r"""
import os

from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.binary import binary
from pycompss.api.constraint import constraint
from pycompss.api.epilog import epilog
from pycompss.api.multinode import multinode
from pycompss.api.on_failure import on_failure
from pycompss.api.parameter import *
from pycompss.api.prolog import prolog
from pycompss.api.task import task


@prolog(binary="sh", args="-c 'echo before {{word}} > {{out}}'")
@epilog(binary="sh", args="-c 'echo after {{word}} >> {{out}}'")
@task(out=FILE_OUT, returns=1)
def inside(out, word="it"):
    with open(out, "a") as file:
        file.write("inside\n")
    return 7


@prolog(binary="false", fail_by_exit_value=False)
@epilog(binary="false")
@binary(binary="true")
@task(returns=1)
def goes_on():
    pass


@on_failure(management="IGNORE", returns="not run")
@prolog(binary="false")
@task(returns=1)
def ends():
    return "run"


@on_failure(management="IGNORE", returns="failed")
@epilog(binary="false", fail_by_exit_value=True)
@task(returns=1)
def fails_at_the_end():
    return "run"


@constraint(computingUnits="2")
@multinode(computing_nodes="$NODES")
@task(returns=1)
def nodes():
    names = ["COMPSS_NUM_NODES", "COMPSS_NUM_THREADS", "OMP_NUM_THREADS", "SLURM_NNODES"]
    return [os.environ[name] for name in names], len(os.environ["COMPSS_HOSTNAMES"].split(","))


if __name__ == "__main__":
    os.environ["NODES"] = "1"
    print(compss_wait_on(inside("out")), compss_open("out").read().splitlines())
    print(compss_wait_on([goes_on(), ends(), fails_at_the_end()]))
    print(compss_wait_on(nodes()))
"""
AROUND_PRINTED = r"""7 ['before it', 'inside', 'after it']
[0, 'not run', 'failed']
(['1', '2', '2', '1'], 1)
"""

NESTED = r"""
import sys

from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.compss import compss
from pycompss.api.constraint import constraint
from pycompss.api.parameter import FILE_OUT_STDOUT
from pycompss.api.task import task


@compss(runcompss="$NO_MATTER", flags="-d", app_name="inner.py", worker_in_master="false",
        computing_nodes="2", fail_by_exit_value=False)
@constraint(computing_units=2)
@task(returns=int, out=FILE_OUT_STDOUT)
def inner(number, out):
    pass


if __name__ == "__main__":
    results = [inner(number, f"out{number}") for number in range(2)]
    print(compss_wait_on(results), [compss_open(f"out{n}").read().strip() for n in range(2)])
"""
INNER = r"""
import sys

from pycompss.api.api import compss_wait_on
from pycompss.api.task import task


@task(returns=1)
def double(x):
    return 2 * x


print(compss_wait_on(double(int(sys.argv[1]))))
sys.exit(int(sys.argv[1]))
"""


CONFIGURED = r"""
import os

from pycompss.api.api import compss_open, compss_wait_on
from pycompss.api.data_transformation import *
from pycompss.api.http import HTTP, http
from pycompss.api.parameter import *
from pycompss.api.software import software
from pycompss.api.task import task


@software(config_file="hello.json")
def hello(word, out):
    pass


@software(config_file=os.getcwd() + "/adds.json")
def add(items):
    items.append("added")


@http(service_name="numbers", request="GET", resource="at/{{place}}")
@task(returns=1)
def at(place):
    pass


@HTTP(service_name="numbers", request="POST", resource="echo", payload='{"sent": {{what}}}',
      produces="{'sent': {'value': '{{return_0}}'}}", updates="{{seen}}.last = {{return_0}}")
@task(returns=1, seen=INOUT)
def send(what, seen):
    pass


def with_more(values, more):
    return values + [more]


@task(returns=1)
def doubled(values):
    return values * 2


def twice(values):
    return doubled(doubled(values))


def to_file(values, path):
    with open(path, "w") as file:
        file.write(" ".join(map(str, values)))


def words(path):
    with open(path) as file:
        return file.read().split()


@dt("values", twice, is_workflow=True)
@dt("values", with_more, more="{{last}}")
@task(returns=1)
def shown(values, last=0):
    return values


@dt(target="path", function=to_file, type=OBJECT_TO_FILE, destination="values")
@task(path=FILE_IN, returns=1)
def length(path):
    return os.path.getsize(path)


@data_transformation(target="items", function=words, type=FILE_TO_COLLECTION, size=3)
@task(items=COLLECTION_IN, returns=1)
def joined(items):
    return "-".join(items)


@dt()
@task(returns=1)
def plain(value):
    return value


if __name__ == "__main__":
    print(compss_wait_on(hello("two words", "out")), compss_open("out").read().strip())
    items = []
    for _ in range(3):
        add(items)
    print(compss_wait_on(items))
    seen = {"first": 1}
    print(compss_wait_on(send({"value": at("a b")}, seen)), compss_wait_on(seen))
    print(compss_wait_on([shown([1]), shown([2], 5)]))
    print(compss_wait_on(length(doubled([1, 2]))), compss_wait_on(joined("three")))
    print(compss_wait_on(plain([1], dt=dto("value", with_more, more=9))))
"""
CONFIGURED_PRINTED = r"""0 two words
['added', 'added', 'added']
/t/at/a%20b {'first': 1, 'last': '/t/at/a%20b'}
[[1, 1, 1, 1, 0], [2, 2, 2, 2, 5]]
7 a-b-c
[1, 9]
"""


IMPLEMENTED = r"""
import beside
from pycompss.api.api import compss_wait_on
from pycompss.api.binary import binary
from pycompss.api.constraint import constraint
from pycompss.api.implement import Implement, implement
from pycompss.api.parameter import *
from pycompss.api.task import task


@implement(source_class="program", method="grow")
@constraint(computing_units="cores")
@task(values=INOUT)
def grow_quickly(values, cores=1):
    values.append("quickly")


@constraint(computing_units=100)
@task(values=INOUT)
def grow(values, cores=1):
    values.append("slowly")


@implement(source_class="__main__", method="status")
@binary(binary="sh", args="-c 'exit {{code}}'", fail_by_exit_value=False)
@task(returns=1)
def status_of_program(code):
    pass


@constraint(computing_units=100)
@task(returns=1)
def status(code):
    return -1


@Implement(sourceClass="beside", method="here")
@constraint(computing_units=100)
@task(returns=1)
def too_large(x):
    return "too large"


if __name__ == "__main__":
    values = ["first"]
    grow(values)
    grow(values, cores=2)
    print(compss_wait_on(values))
    print(compss_wait_on(status(3)), compss_wait_on(status_of_program(4)))
    print(compss_wait_on(beside.here("x")))
"""
BESIDE = r"""
from pycompss.api.task import task


@task(returns=1)
def here(x):
    return "here " + x
"""
IMPLEMENTED_PRINTED = r"""['first', 'quickly', 'quickly']
3 4
here x
"""


def _alone(printed: str) -> str:
    """What is printed without a launcher: there is one core, and no failure counts."""
    return printed.replace("9 127", "127 127").replace("'1', '2'", "'1', '1'")


@pytest.fixture(scope="module")
def environment(shared_site: SiteUnderTest) -> dict[str, str]:
    return environment_on(shared_site)


@pytest.mark.parametrize(
    ("program", "printed"),
    [(BINARIES, BINARIES_PRINTED), (RANKS, RANKS_PRINTED), (AROUND, AROUND_PRINTED)],
    ids=["binaries", "ranks", "around"],
)
def test_a_program_runs_as_it_is(
    environment: dict[str, str], tmp_path: Path, program: str, printed: str
) -> None:
    (tmp_path / "program.py").write_text(program)
    told, _ = run(environment, tmp_path, "runcompss", "program.py")
    assert told == printed


@pytest.mark.parametrize(
    ("program", "printed"),
    [(BINARIES, _alone(BINARIES_PRINTED)), (AROUND, None)],
    ids=["binaries", "around"],
)
def test_without_a_launcher_programs_run_as_well(
    environment: dict[str, str], tmp_path: Path, program: str, printed: str | None
) -> None:
    """A program whose failure counts nothing, and one whose failure is raised."""
    (tmp_path / "program.py").write_text(program)
    told, _ = run(environment, tmp_path, "pilot", "compat", "path")
    paths = [told.strip(), *filter(None, [environment.get("PYTHONPATH")])]
    alone = {**environment, "PYTHONPATH": ":".join(paths)}
    status = 0 if printed else 1
    told, error = run(alone, tmp_path, sys.executable, "program.py", status=status)
    if printed:
        assert told == printed
    else:
        assert told.splitlines()[0] == AROUND_PRINTED.splitlines()[0] and "false" in error


def test_a_program_of_pycompss_is_a_task(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(NESTED)
    (tmp_path / "inner.py").write_text(INNER)
    told, _ = run(environment, tmp_path, "runcompss", "program.py")
    assert told == "[0, 1] ['0', '2']\n"


def test_tasks_by_files_services_and_transformations(
    environment: dict[str, str], tmp_path: Path
) -> None:
    files = {
        "hello.json": {
            "execution": {"type": "binary", "binary": "echo", "args": "{{word}}"},
            "parameters": {"returns": "int", "out": "FILE_OUT_STDOUT"},
        },
        "adds.json": {"execution": {"type": "task"}, "parameters": {"items": "INOUT"}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "three").write_text("a b c")
    (tmp_path / "program.py").write_text(CONFIGURED)

    def answer(asked: Heard) -> Says:
        return Says(200, asked.body or json.dumps(asked.path).encode())

    with serving(answer) as server:
        (tmp_path / "resources.xml").write_text(
            f'<ResourcesList><Http BaseUrl="{server.url}/t/"><ServiceName>numbers</ServiceName>'
            "</Http></ResourcesList>"
        )
        words = ("runcompss", "--resources=resources.xml", "program.py")
        told, _ = run(environment, tmp_path, *words)
    assert told == CONFIGURED_PRINTED


def test_the_implementation_runs_that_there_is_room_for(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(IMPLEMENTED)
    (tmp_path / "beside.py").write_text(BESIDE)
    told, _ = run(environment, tmp_path, "runcompss", "program.py")
    assert told == IMPLEMENTED_PRINTED
