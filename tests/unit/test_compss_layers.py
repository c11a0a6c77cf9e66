"""What decorators of PyCOMPSs put around functions: programs, ranks, nodes; without a site."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pilot.compat.compss import constraints
from pilot.compat.compss.alternatives import ALTERNATIVES
from pilot.compat.compss.binaries import binary, julia, ompss
from pilot.compat.compss.compiled import compiled_layer
from pilot.compat.compss.containers import container, container_option
from pilot.compat.compss.decoration import TaskFunction, constraint, task
from pilot.compat.compss.errors import NotSupportedError, PyCOMPSsException
from pilot.compat.compss.implementing import implement
from pilot.compat.compss.layers import CallShape
from pilot.compat.compss.mpi_tasks import mpi, mpmd_mpi
from pilot.compat.compss.nested_programs import compss
from pilot.compat.compss.parameters import NAMED
from pilot.compat.compss.programs import Binary, directory_of, expanded, is_true, words_of
from pilot.compat.compss.rank_functions import Layout
from pilot.compat.compss.ranks import Ranks, fit_nodes
from pilot.compat.compss.several_nodes import multinode, variables
from pilot.compat.compss.surroundings import epilog, prolog


def layer_of(made: TaskFunction) -> Any:
    """The outermost layer of a task."""
    assert made.plan.layers is not None
    return made.plan.layers.layers[-1]


def options_of(made: TaskFunction, **options: Any) -> dict[str, Any]:
    """What the layers of a task make of options."""
    assert made.plan.layers is not None
    for layer in made.plan.layers.layers:
        layer.adapt(options, lambda _, value: float(value))
    return options


# --- words ---------------------------------------------------------------------------------------


def test_words_are_the_parameters_in_their_order() -> None:
    call = CallShape(("self", "a", "b"), "rest", {"b": "stdin"}, {"c": "--c=", "d": "#"})
    pairs = list(call.named(("me", 1, "in", "x", "y"), {"d": 4, "c": [2, (3,)], "e": None}))
    assert pairs[:5] == [("self", "me"), ("a", 1), ("b", "in"), ("rest", "x"), ("rest", "y")]
    words = [word for pair in pairs for word in call.words(*pair)]
    assert words == ["1", "x", "y", "--c=", "2", "3"]


def test_a_keyword_has_the_place_of_its_parameter() -> None:
    call = CallShape(("a", "b", "c"), "")
    assert [name for name, _ in call.named((1,), {"c": 3, "b": 2})] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, ["true"]),
        (0.5, ["0.5"]),
        ("a b", ["a b"]),
        ("", [""]),
        (b"raw", ["raw"]),
        (None, []),
        ([], []),
    ],
)
def test_values_as_words(value: Any, words: list[str]) -> None:
    assert CallShape().words("x", value) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("-d {{a}}", ["-d", "two words"]),
        ("{{ a }}_{{n}}", ["two words_3"]),
        ("'x  y' {{list}} z", ["x  y", "1", "2", "z"]),
        ("--list={{list}}", ["--list=1 2"]),
        ("it's", ["it's"]),
        ("*.txt no*", ["a.txt", "b.txt", "no*"]),
        ("sub/*", ["sub/c"]),
    ],
)
def test_texts_with_parameters_and_wildcards(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "b.txt", "sub/c"):
        (tmp_path / name).touch()
    pairs = [("a", "two words"), ("n", 3), ("list", [1, 2])]
    assert words_of(text, CallShape(), pairs, str(tmp_path)) == words


def test_a_value_is_no_wildcard(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert words_of("{{x}}", CallShape(), [("x", "*")], str(tmp_path)) == ["*"]


def test_parameters_that_are_not_there_are_named() -> None:
    with pytest.raises(PyCOMPSsException, match=r"\{\{b\}\}: there is no such parameter; .* a"):
        words_of("{{b}}", CallShape(), [("a", 1)])
    with pytest.raises(PyCOMPSsException, match="no such parameter"):
        directory_of("/tmp/{{b}}", [])
    assert directory_of("/tmp/{{a}}/x", [("a", 1)]) == "/tmp/1/x"


def test_variables_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/here")
    monkeypatch.setattr(constraints, "_warned", set())
    assert expanded(r"$HERE/a:${HERE}b \$HERE", "x") == "/here/a:/hereb $HERE"
    with pytest.raises(PyCOMPSsException, match=r"x='\$NO_SUCH': .*variable NO_SUCH"):
        expanded("$NO_SUCH", "x")
    with pytest.warns(UserWarning, match="NO_SUCH; it is left out"):
        assert expanded("a${NO_SUCH}b", "x", is_needed=False) == "ab"
    monkeypatch.setenv("FAILS", "false")
    assert not is_true("$FAILS", "x") and is_true(1, "x") and is_true("True", "x")
    with pytest.raises(PyCOMPSsException, match="give True or False"):
        is_true("maybe", "x")


# --- decorators ----------------------------------------------------------------------------------


def test_a_program_is_known_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    made = binary(binary="$TOOL/run", workingDir="{{b}}", args="{{a}}")(task(returns=1)(_two))
    with pytest.raises(PyCOMPSsException, match="TOOL"):
        _ = made.plan
    monkeypatch.setenv("TOOL", "/opt")
    program = layer_of(made).program
    assert (program.words, program.args, program.working_dir) == (("/opt/run",), "{{a}}", "{{b}}")
    assert made.plan.kind == "command" and made.plan.layers is not None
    assert made.plan.layers.replaces and not made.plan.module and not made.plan.is_plain


def _two(a: Any, b: Any = 2) -> None: ...


def test_what_decorators_need_and_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "_warned", set())
    with pytest.raises(PyCOMPSsException, match="@binary: binary=… is missing"):
        binary(working_dir="/tmp")
    with pytest.raises(PyCOMPSsException, match="@mpi takes names"):
        mpi("mpirun")
    with pytest.warns(UserWarning, match=r"@binary\(WorkingDir=…\): there is no such argument"):
        binary(binary="date", WorkingDir="/tmp")
    with pytest.warns(UserWarning, match=r"@mpi\(flags=…\) has no meaning"):
        mpi(runner="mpirun", binary="a", flags="-v")
    with pytest.raises(PyCOMPSsException, match="write @binary above @task"):
        binary(binary="date")(_two)
    with pytest.raises(PyCOMPSsException, match="is a program already"):
        binary(binary="date")(mpi(runner="mpirun")(task()(_two)))
    with pytest.raises(PyCOMPSsException, match="StdIOStream is STDIN"):
        task(a={NAMED["Type"]: NAMED["FILE_IN"], NAMED["StdIOStream"]: "in"})(_two)


def test_programs_of_other_languages() -> None:
    made = julia(script="solve.jl", args="-O3 -t 2")(task()(_two))
    program = layer_of(made).program
    assert program.words == ("julia", "-O3", "-t", "2", "solve.jl") and program.args is None
    assert layer_of(ompss(binary="solve")(task()(_two))).program.words == ("solve",)


def test_ranks_as_options() -> None:
    made = mpi(runner="mpirun", binary="a", processes="4", processes_per_node=2)(task()(_two))
    assert made.plan.kind == "mpi-command" and made.plan.is_fixed
    assert options_of(made, cores=3) == {"cores": 3, "ranks": 4, "ranks_per_node": 2}
    scaled = mpi(runner="mpirun", processes="$N", scale_by_cu="true")(task(returns=list)(_two))
    assert scaled.plan.kind == "mpi" and scaled.plan.layers is not None
    assert not scaled.plan.layers.replaces
    assert layer_of(scaled).values == ("$N", None)
    options: dict[str, Any] = {"cores": 3}
    Ranks(2, 2, True).adapt(options, lambda _, value: float(value))
    assert options == {"cores": 1, "ranks": 6, "ranks_per_node": 6}
    with pytest.raises(PyCOMPSsException, match=r"@mpi\(processes=0\)"):
        Ranks(0).adapt({}, lambda _, value: float(value))
    named = mpi(runner="mpirun", processes="a")(task()(_two))
    assert not named.plan.is_fixed


def test_ranks_that_no_pool_has_nodes_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "_warned", set())
    fits = {"ranks": 4, "ranks_per_node": 2}
    fit_nodes(fits, [1, 2])
    assert fits == {"ranks": 4, "ranks_per_node": 2}
    with pytest.warns(UserWarning, match="no pool has so many nodes"):
        fit_nodes(fits, [1])
    assert fits == {"ranks": 4}


def test_several_programs_are_one_world() -> None:
    programs = [{"binary": "a", "processes": 2, "args": "{{a}}"}, {"binary": "b"}]
    made = mpmd_mpi(runner="mpirun", programs=programs, processes_per_node=3)(task()(_two))
    layer = layer_of(made)
    assert [(p.words, p.args, n) for p, n in layer.programs] == [
        (("a",), "{{a}}", 2),
        (("b",), "", 1),
    ]
    assert options_of(made) == {"ranks": 3, "ranks_per_node": 3}
    for wrong in ([], "ab", [{"processes": 2}]):
        with pytest.raises(PyCOMPSsException, match="@mpmd_mpi"):
            mpmd_mpi(runner="mpirun", programs=wrong)
    with pytest.raises(PyCOMPSsException, match="no number of processes"):
        _ = mpmd_mpi(runner="m", programs=[{"binary": "a", "processes": "x"}])(task()(_two)).plan


@pytest.mark.parametrize(
    ("layout", "size", "parts"),
    [
        ({"block_count": 4, "block_length": 1, "stride": 1}, 4, ["a", "b", "c", "d"]),
        ({"block_count": 2, "block_length": 2, "stride": 2}, 2, [["a", "b"], ["c", "d"]]),
        ({"block_count": 2, "block_length": 2, "stride": 1}, 2, [["a", "b"], ["b", "c"]]),
        ({"block_count": 4}, 2, [["a", "c"], ["b", "d"]]),
        ({"block_count": 1}, 3, ["a", [], []]),
        ({}, 2, ["a", "b"]),
    ],
)
def test_layouts(layout: dict[str, int], size: int, parts: list[Any]) -> None:
    read = Layout.read("x_layout", {NAMED[key]: value for key, value in layout.items()})
    assert [read.of_rank("abcd", rank, size) for rank in range(size)] == parts


@pytest.mark.parametrize("wrong", [3, {"blocks": 1}, {"stride": 1}, {"block_count": 0}])
def test_layouts_that_mean_nothing(wrong: Any) -> None:
    with pytest.raises(PyCOMPSsException, match=r"@mpi\(x_layout="):
        mpi(runner="mpirun", x_layout=wrong)


def test_a_collection_that_is_too_short_for_its_layout() -> None:
    with pytest.raises(PyCOMPSsException, match="needs 4 items, and the collection has 2"):
        Layout.read("x", {"block_count": 2, "stride": 3}).of_rank("ab", 1, 2)


def test_nodes() -> None:
    made = multinode(computingNodes="2")(task()(_two))
    assert made.plan.kind == "python"
    assert options_of(made, cores=4) == {"cores": 4, "nodes": 2}
    with pytest.raises(PyCOMPSsException, match="at least 1"):
        options_of(multinode(computing_nodes=0)(task()(_two)))
    told = variables(("a", "b"), 3)
    assert told["COMPSS_HOSTNAMES"] == "a,b" and told["SLURM_TASKS_PER_NODE"] == "3(x2)"
    assert os.environ.get("COMPSS_HOSTNAMES") is None
    seen = multinode()(task()(lambda: os.environ["COMPSS_NUM_NODES"]))
    assert seen() == "1" and os.environ.get("COMPSS_HOSTNAMES") is None


def test_decorators_in_any_order_above_the_task() -> None:
    def stack(*decorators: Any) -> TaskFunction:
        made: Any = task()(_two)
        for decorate in decorators:
            made = decorate(made)
        return made  # type: ignore[no-any-return]  # a task

    parts = [prolog(binary="a"), binary(binary="b"), epilog(binary="c")]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        layers = stack(*(parts[number] for number in order)).plan.layers
        assert layers is not None and [type(layer).__name__ for layer in layers.layers] == [
            "Binary",
            "Around",
            "Around",
        ]
        _, after, before = layers.layers
        assert (before.prolog.words, before.prolog.fails) == (("a",), True)  # type: ignore[attr-defined]  # of `Around`
        assert (after.epilog.words, after.epilog.fails) == (("c",), False)  # type: ignore[attr-defined]  # of `Around`


def test_implementations_may_come_before_and_after_a_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ALTERNATIVES, "_by_name", {})

    def of(name: str, **needs: Any) -> TaskFunction:
        made = constraint(**needs)(task(returns=1)(_two))
        return implement(source_class=__name__, method=name)(made)

    before = of("_two", computing_units=2)
    first = task(returns=1)(_two)
    assert not len(first.others) and first.plan.is_fixed and not first.plan.is_plain
    assert first.others == (before,)
    first.made["kept"] = 1
    of("another", computing_units=2)
    assert not first.plan.is_plain and first.made
    after = of("_two", computing_units="a")
    assert not first.plan.is_fixed and first.others == (before, after) and not first.made
    assert first(1) is None
    with pytest.raises(PyCOMPSsException, match="method=… is missing"):
        implement(source_class="a")


def test_a_nested_program_has_no_core_of_its_own() -> None:
    made = compss(app_name="inner.py", flags="-d --lang=python")(task(returns=int)(_two))
    assert options_of(made, cores=2, memory="1G") == {"cores": 0}
    called = layer_of(made).over(None, CallShape(), True)
    words = called.args[0].words
    assert words == (
        sys.executable,
        "-m",
        "pilot.compat.compss.commands",
        "-d",
        "--lang=python",
        "inner.py",
    )


def test_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIONS", "-e A='b c'")
    made = container(engine="DOCKER", image="debian:12", options="$OPTIONS --net")(task()(_two))
    assert container_option(made.said["container"]) == {
        "engine": "docker",
        "image": "debian:12",
        "options": ["-e", "A=b c", "--net"],
    }
    with pytest.raises(NotSupportedError, match=r"@container\(engine='UDOCKER'\).*singularity"):
        container(engine="UDOCKER", image="a")
    with pytest.raises(PyCOMPSsException, match="image=… is missing"):
        container(engine="docker")


def test_functions_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made_by: list[Any] = []
    numba = ModuleType("numba")
    numba.__version__ = "1.0"  # type: ignore[attr-defined]  # as the real one has it

    def jit(**flags: Any) -> Any:
        made_by.append(flags)
        return lambda function: lambda *args: ("compiled", function(*args))

    numba.jit = jit  # type: ignore[attr-defined]  # as the real one has it
    monkeypatch.setitem(sys.modules, "numba", numba)
    layer = compiled_layer({"numba": {"nopython": True}, "numba_flags": {"cache": True}})
    assert layer is not None

    def add(a: int) -> int:
        return a + 1

    for _ in range(2):
        assert layer.over(add, CallShape(), True)(1) == ("compiled", 2)
    assert made_by == [{"nopython": True, "cache": True}]
    assert layer.over(add, CallShape(), False)(1) == 2
    assert compiled_layer({"numba": False}) is None
    with pytest.raises(PyCOMPSsException, match="give True, or one of jit"):
        compiled_layer({"numba": "fast"})
    stencil = compiled_layer({"numba": "stencil"})
    with pytest.raises(PyCOMPSsException, match=r"Numba 1\.0 has no stencil"):
        stencil and stencil.over(add, CallShape(), True)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(PyCOMPSsException, match="not installed where tasks run"):
        stencil and stencil.over(add, CallShape(), True)


# --- without a launcher --------------------------------------------------------------------------


def test_a_program_without_a_launcher_gives_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    made = binary(binary="sh", args="-c 'echo {{a}} {{b}}; exit 3'")(task()(_two))
    assert made("x") == 3 and capfd.readouterr().out == "x 2\n"
    absent = binary(binary="no-such-program-here")(task()(_two))
    assert absent(1) == 127 and "not found" in capfd.readouterr().err


def test_streams_without_a_launcher(tmp_path: Path) -> None:
    def copy(source: str, target: str, log: str) -> None: ...

    kinds = {"source": "FILE_IN_STDIN", "target": "FILE_OUT_STDOUT", "log": "FILE_INOUT_STDERR"}
    made = binary(binary="sh", args="-c 'cat; echo told >&2'")(
        task(**{name: NAMED[kind] for name, kind in kinds.items()})(copy)
    )
    (tmp_path / "{in}").write_text("text")
    (tmp_path / "log").write_text("before ")
    assert made(tmp_path / "{in}", tmp_path / "out", str(tmp_path / "log")) == 0
    assert (tmp_path / "out").read_text() == "text"
    assert (tmp_path / "log").read_text() == "before told\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out", "{in}"]


def test_several_programs_without_a_launcher(capfd: pytest.CaptureFixture[str]) -> None:
    programs = [{"binary": "a", "processes": 2, "args": "{{a}}"}, {"binary": "b"}]
    made = mpmd_mpi(runner="echo run", programs=programs)(task()(_two))
    assert made("x") == 0 and capfd.readouterr().out == "run -n 2 a x : -n 1 b\n"
    one = mpi(runner="echo run", processes=3, binary="a")(task()(_two))
    assert one("x") == 0 and capfd.readouterr().out == "run -n 3 a x 2\n"


def test_a_function_without_a_launcher_is_called_once() -> None:
    @mpi(runner="mpirun", processes=2)
    @task(returns=list)
    def plain(a: int) -> int:
        return a

    assert plain(3) == 3
    assert isinstance(layer_of(binary(binary="a")(task()(_two))), Binary)
