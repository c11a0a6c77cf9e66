"""Workflow files: what they expand to, what is wrong in them, and how the graph is shown."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pilot.client.command import ShellCommand
from pilot.client.task import COMMAND, MPI, MPI_COMMAND, OPTIONS, PYTHON, Options
from pilot.errors import WorkflowError
from pilot.workflow import (
    Node,
    Result,
    Workflow,
    graph_data,
    graph_text,
    load_workflow,
    workflow_schema,
)
from pilot.workflow.ranges import numbers
from pilot.workflow.schema import CommonOptions, ProgramEntry, Range, TaskEntry, WorkflowFile

EXAMPLES = Path(__file__).parents[2] / "examples"

MODULE = """
import pilot

def simulate(flux, n=64, *, seed=0):
    return flux

@pilot.task(cores=2, retries=5, returns=["low", "high"])
def split(values):
    return min(values), max(values)

@pilot.mpi(ranks=4, memory=lambda x: 10 * x)
def norm(x):
    return x

plot = pilot.shell("plot {h5} {png}", inputs=["h5"], outputs=["png"])

async def later():
    pass

answer = 42
"""

Load = Callable[..., Workflow]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads a workflow from text, beside a module ``model``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    Path("model.py").write_text(MODULE, encoding="utf-8")

    def load_text(text: str, **parameters: Any) -> Workflow:
        Path("w.yaml").write_text(dedent(text), encoding="utf-8")
        return load_workflow("w.yaml", parameters)

    yield load_text
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("model", "broken", "lib_module", "heat", "rsvd"):
            del sys.modules[name]


def nodes(workflow: Workflow, task: str) -> list[Node]:
    return [node for node in workflow.graph() if node.task == task]


def problems(load: Load, text: str, **parameters: Any) -> list[str]:
    with pytest.raises(WorkflowError) as raised:
        load(text, **parameters)
    return str(raised.value).splitlines()


# --- what files expand to ------------------------------------------------------------------------


def test_foreach_makes_one_task_for_each_combination(load: Load) -> None:
    workflow = load(
        """
        parameters: {runs: 2}
        tasks:
          a:
            python: model:simulate
            foreach:
              flux: {from: 0.5, to: 1.5, count: "${runs}"}
              case: [{n: 1}, {n: 2}]
            args: ["${flux}"]
            with: {n: "${case.n}", seed: "${index}"}
        """
    )
    made = [(n.index, n.values["flux"], n.args, n.kwargs) for n in nodes(workflow, "a")]
    assert made == [
        (0, 0.5, (0.5,), {"n": 1, "seed": 0}),
        (1, 0.5, (0.5,), {"n": 2, "seed": 1}),
        (2, 1.5, (1.5,), {"n": 1, "seed": 2}),
        (3, 1.5, (1.5,), {"n": 2, "seed": 3}),
    ]


def test_variables_side_by_side(load: Load) -> None:
    workflow = load(
        """
        tasks:
          a: {run: "x ${x} ${y}", foreach: {x: [1, 2], y: [p, q]}, combine: zip}
        """
    )
    assert [dict(n.values) for n in nodes(workflow, "a")] == [
        {"x": 1, "y": "p"},
        {"x": 2, "y": "q"},
    ]


def test_a_foreach_over_nothing_makes_no_task(load: Load) -> None:
    workflow = load(
        """
        parameters: {runs: 0}
        tasks:
          a: {python: "model:split", foreach: {x: {count: "${runs}"}}, args: ["${x}"]}
          b: {python: "builtins:sum", args: ["${tasks.a.low}"]}
        """
    )
    assert [node.label for node in workflow.graph()] == ["b"]
    assert nodes(workflow, "b")[0].args == ([],)


def test_references_to_results(load: Load) -> None:
    workflow = load(
        """
        parameters: {third: 2}
        tasks:
          a: {python: "model:simulate", foreach: {x: [5, 6, 7]}, args: ["${x}"]}
          s: {python: "model:split", args: ["${tasks.a}"]}
          many: {python: "model:split", foreach: {i: [0, 1]}, args: [["${tasks.a[i]}"]]}
          use:
            python: builtins:dict
            with:
              all: ${tasks.a}
              last: ${tasks.a[-1]}
              third: ${tasks.a[third]}
              both: ${tasks.s}
              low: ${tasks.s.low}
              high: ${tasks.s[1]}
              key: ${tasks.s['high']}
              lows: ${tasks.many.low}
              one: ${tasks.many[1].high}
              deep: [{x: ["${tasks.a[0]}"]}]
          item: {python: "model:simulate", foreach: {r: "${tasks.a}"}, args: ["${r}"]}
          part: {python: "model:simulate", foreach: {p: "${tasks.s}"}, args: ["${p}"]}
          again: {python: "model:simulate", foreach: {r: "${tasks.many}"}, args: ["${r.low}"]}
        results: {x: "${tasks.use}", y: ["${tasks.a[0]}", "${third}"]}
        """
    )
    use = nodes(workflow, "use")[0].kwargs
    three = [Result("a", 0), Result("a", 1), Result("a", 2)]
    assert use == {
        "all": three,
        "last": three[2],
        "third": three[2],
        "both": Result("s"),
        "low": Result("s", None, 0),
        "high": Result("s", None, 1),
        "key": Result("s", None, 1),
        "lows": [Result("many", 0, 0), Result("many", 1, 0)],
        "one": Result("many", 1, 1),
        "deep": [{"x": [three[0]]}],
    }
    assert [n.args for n in nodes(workflow, "item")] == [(r,) for r in three]
    assert [n.args for n in nodes(workflow, "part")] == [
        (Result("s", None, 0),),
        (Result("s", None, 1),),
    ]
    assert [n.args[0] for n in nodes(workflow, "again")] == use["lows"]
    assert nodes(workflow, "many")[1].dependencies == ("a[1]",)
    assert nodes(workflow, "s")[0].dependencies == ("a[0]", "a[1]", "a[2]")
    assert workflow.graph().results == {"x": Result("use"), "y": [three[0], 2]}


def test_items_are_selected_by_their_variables(load: Load) -> None:
    workflow = load(
        """
        tasks:
          a: {python: "model:simulate", foreach: {x: [1, 2], s: [p, q]}, args: ["${x}"]}
          mean: {python: "builtins:list", foreach: {x: [1, 2]}, args: ["${tasks.a[x=x]}"]}
          one: {python: "builtins:list", args: ["${tasks.a[x=2, s='q'][0]}"]}
        """
    )
    assert [n.args for n in nodes(workflow, "mean")] == [
        ([Result("a", 0), Result("a", 1)],),
        ([Result("a", 2), Result("a", 3)],),
    ]
    assert nodes(workflow, "one")[0].args == (Result("a", 3),)


def test_tasks_stand_behind_those_that_they_wait_for(load: Load) -> None:
    workflow = load(
        """
        tasks:
          last: {run: "x ${tasks.middle}"}
          middle: {run: x, needs: [first, "many[1]"]}
          first: {run: x}
          many: {run: x, foreach: {i: [1, 2]}, needs: first}
        """
    )
    groups = workflow.graph().groups
    assert [group.name for group in groups] == ["first", "many", "middle", "last"]
    assert [(group.after, group.line) for group in groups] == [
        ((), 5),
        (("first",), 6),
        (("first", "many"), 4),
        (("middle",), 3),
    ]
    assert nodes(workflow, "middle")[0].dependencies == ("first", "many[1]")
    assert nodes(workflow, "many")[1].needs == (Result("first"),)


def test_tasks_come_after_others_of_which_they_need_nothing(load: Load) -> None:
    workflow = load(
        """
        tasks:
          clean: {run: x, after: [first, "many[1]"]}
          first: {run: x}
          many: {run: x, foreach: {i: [1, 2]}, after: first}
        """
    )
    assert [group.name for group in workflow.graph().groups] == ["first", "many", "clean"]
    (clean,) = nodes(workflow, "clean")
    assert clean.follows == (Result("first"), Result("many", 1)) and not clean.needs
    assert clean.dependencies == ("first", "many[1]")
    assert [node.follows for node in nodes(workflow, "many")] == [(Result("first"),)] * 2


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("[b]", r"in a circle: a \(line 3\) needs b \(line 4\) needs a"),
        ("a", "in a circle: a .line 3. needs a"),
        ("nowhere", "nowhere"),
        ('"${tasks.b}"', r"write the task's name alone, such as after: \[prepare\]"),
    ],
)
def test_orders_that_cannot_be(load: Load, after: str, words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        load(f"\ntasks:\n  a: {{run: x, after: {after}}}\n  b: {{run: x, after: a}}\n").graph()


def test_the_same_list_for_several_tasks(load: Load) -> None:
    workflow = load(
        """
        parameters: {runs: 3, lists: [9]}
        lists:
          fluxes: {from: 1, count: "${runs}"}
          doubled: ["${fluxes}", "${fluxes[0]}"]
        tasks:
          a: {python: "model:simulate", foreach: {fluxes: "${fluxes}"}, args: ["${fluxes}"]}
          b: {python: "builtins:list", args: ["${fluxes}"]}
          c: {python: "builtins:list", args: ["${doubled}"]}
        """
    )
    assert [n.args for n in nodes(workflow, "a")] == [(1,), (2,), (3,)]  # a variable hides a list
    assert nodes(workflow, "b")[0].args == ([1, 2, 3],)
    assert nodes(workflow, "c")[0].args == ([[1, 2, 3], 1],)


# --- options -------------------------------------------------------------------------------------


def test_options_of_decorator_file_and_task(load: Load) -> None:
    workflow = load(
        """
        parameters: {more: 3}
        defaults: {retries: 1, time_limit: 10m, pool: cpu}
        tasks:
          a: {python: "model:split", args: [[1]]}
          b:
            python: model:split
            args: [[1]]
            foreach: {size: [1, 2]}
            name: split-${size}
            retries: ${more}
            memory: ${size}G
            pool: null
            retry_on: [OSError, 75]
            no_retry_on: FileNotFoundError
            retry_timeouts: true
            on_failure: ignore
            default: {high: 0, low: 1}
        """
    )
    a = nodes(workflow, "a")[0].options
    assert a == Options(
        name="a", cores=2, retries=1, time_limit="10m", pool="cpu", returns=["low", "high"]
    )
    first, second = (node.options for node in nodes(workflow, "b"))
    assert (first.name, first.memory, second.name, second.memory) == (
        "split-1",
        "1G",
        "split-2",
        "2G",
    )
    assert (first.retries, first.pool, first.retry_names(), first.defaults) == (
        3,
        None,
        ("OSError", "exit 75"),
        (1, 0),
    )
    assert (first.no_retry_names(), first.retry_timeouts) == (("FileNotFoundError",), True)


def test_resources_by_name(load: Load) -> None:
    workflow = load(
        """
        parameters: {share: 0.5}
        defaults: {resources: {matlab: 1}}
        tasks:
          a: {python: "model:split", args: [[1]]}
          b: {run: "x", foreach: {i: [1, 2]}, resources: {fpga: "${i}", gpu_share: "${share}"}}
          c: {run: "x", resources: {matlab: 0, fpga: 1}}
        """
    )
    assert nodes(workflow, "a")[0].options.resources == {"matlab": 1}
    (only,) = nodes(workflow, "c")
    assert only.options.resolve((), {}).resources.amounts == {"cores": 1, "fpga": 1}
    needs = [node.options.resolve((), {}).resources for node in nodes(workflow, "b")]
    assert [need.amounts for need in needs] == [
        {"cores": 1, "fpga": count, "gpu_share": 0.5, "matlab": 1} for count in (1, 2)
    ]
    assert "1 core, 2 fpga, 0.5 gpu_share, 1 matlab" in str([str(need) for need in needs])


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ("{matlab: -1}", "tasks.a.resources: matlab: -1 is not an amount"),
        ("{MATLAB: 1}", "'MATLAB' is not a valid name of a resource"),
        ("{gpus: 1}", "'gpus' is an option of its own: give gpus="),
        ("[matlab]", "tasks.a.resources: expected"),
    ],
)
def test_resources_that_mean_nothing(load: Load, resources: str, words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        load(f"""
        tasks:
          a: {{run: "x", resources: {resources}}}
        """)


def test_kinds(load: Load) -> None:
    workflow = load(
        """
        tasks:
          python: {python: "model:simulate", args: [1]}
          mpi: {mpi: "model:simulate", args: [1], ranks: 2}
          norm: {mpi: "model:norm", args: [1], ranks_per_node: 2}
          run: {run: "x"}
          program: {run: "x", ranks: 2, ranks_per_node: 1}
          plot: {python: "model:plot", with: {h5: a.h5, png: a.png}}
        """
    )
    kinds = {node.task: node.kind for node in workflow.graph()}
    assert kinds == {
        "python": PYTHON,
        "mpi": MPI,
        "norm": MPI,
        "run": COMMAND,
        "program": MPI_COMMAND,
        "plot": COMMAND,
    }
    norm = nodes(workflow, "norm")[0].options
    assert (norm.ranks, norm.ranks_per_node, norm.is_dynamic()) == (4, 2, True)
    assert nodes(workflow, "plot")[0].function is sys.modules["model"].plot.function


def test_items_that_run_the_same_share_function_and_options(load: Load) -> None:
    workflow = load(
        """
        tasks:
          a: {run: "x ${i}", foreach: {i: {count: 100}}, stdout: "${i}.txt", cores: 2}
        """
    )
    made = nodes(workflow, "a")
    assert len({id(node.function) for node in made}) == len({id(n.options) for n in made}) == 1


def test_every_option_of_the_api_is_a_key() -> None:
    # Turns are of values that a program has in its hands.
    assert {*OPTIONS} - {"commutative"} <= set(TaskEntry.__struct_fields__)


# --- commands ------------------------------------------------------------------------------------


def command_line(node: Node) -> str:
    assert isinstance(node.function, ShellCommand)
    return node.function.line(node.args, dict(node.kwargs))


def test_commands_get_their_parameters_quoted(load: Load) -> None:
    workflow = load(
        """
        parameters: {evil: "a'; rm -rf $HOME #", yes: true}
        tasks:
          a:
            run: echo {x} ${evil} "$HOME" $${HOME:-x} {{}} $$ ${yes} {words} {x:raw} {f:.2f}
            with: {x: "a b", words: [p, "q r"], f: 1.0}
            stdout: ${evil}.txt
        """
    )
    node = nodes(workflow, "a")[0]
    assert command_line(node) == (
        """echo 'a b' 'a'"'"'; rm -rf $HOME #' "$HOME" ${HOME:-x} {} $$ true p 'q r' a b 1.00"""
    )
    assert isinstance(node.function, ShellCommand)
    assert node.function.path(node.function.stdout, (), node.kwargs) == "a'; rm -rf $HOME #.txt"


def test_a_command_is_shown_as_one_would_type_it(load: Load) -> None:
    workflow = load(
        """
        parameters: {evil: "$(touch x) 'y'"}
        tasks:
          scan: {run: "cat names"}
          report: {run: 'echo "said: ${tasks.scan.stdout} ${evil}" ${tasks.scan.stdout} ${evil}'}
        """
    )
    (line,) = [line for line in graph_text(workflow.graph()).splitlines() if "said" in line]
    assert line.strip() == (
        """$ echo "said: ${tasks.scan.stdout} \\$(touch x) 'y'" ${tasks.scan.stdout} """
        """'$(touch x) '"'"'y'"'"''"""
    )


def test_files_in_and_out(load: Load) -> None:
    workflow = load(
        """
        tasks:
          make:
            run: make {out}
            foreach: {i: [1, 2]}
            outputs: {out: "data_${i}.h5"}
            cwd: "${workflow.directory}"
            env: {N: "${i}", ON: true}
            success: [0, 3]
          use:
            run: use {data} < ${tasks.make[0].out}
            inputs: {data: "${tasks.make[1].out}"}
        results: {files: "${tasks.make.out}"}
        """.replace("ON: true", "ON: 1")
    )
    first, second = nodes(workflow, "make")
    assert isinstance(first.function, ShellCommand)
    assert isinstance(second.function, ShellCommand)
    assert (first.kwargs["out"], second.kwargs["out"]) == ("data_1.h5", "data_2.h5")
    assert first.function.outputs == ("out",)
    assert first.function.cwd == str(Path.cwd())
    assert (first.function.env, second.function.env["N"]) == ({"N": "1", "ON": "1"}, "2")
    assert first.function.success == (0, 3)
    use = nodes(workflow, "use")[0]
    assert use.dependencies == ("make[1]", "make[0]")
    assert workflow.graph().results["files"] == [Result("make", 0, "out"), Result("make", 1, "out")]


# --- parameters ----------------------------------------------------------------------------------

PARAMETERS = """
parameters: {runs: 12, flux: 1.5, on: false, name: x, fluxes: [1, 2], any: null, map: {a: 1}}
tasks: {a: {run: x}}
"""


@pytest.mark.parametrize(
    ("given", "seconds"), [("true", 60), ("false", 0), ("30", 30), ("5m", 300), ("0:01:00", 60)]
)
def test_a_workflow_may_end_with_its_client(load: Load, given: str, seconds: float) -> None:
    tasks = "tasks: {a: {python: 'math:sqrt', args: [1]}}"
    assert load(f"ends_with_client: {given}\n{tasks}").ends_with_client == seconds


def test_parameters_have_the_type_of_their_default(load: Load) -> None:
    given = {
        "runs": "3",
        "flux": "2",
        "on": "true",
        "name": "007",
        "fluxes": "[0.5, 3]",
        "any": "7",
        "map": "{b: [1]}",
    }
    assert load(PARAMETERS, **given).parameters == {
        "runs": 3,
        "flux": 2.0,
        "on": True,
        "name": "007",
        "fluxes": [0.5, 3],
        "any": 7,
        "map": {"b": [1]},
    }
    assert load(PARAMETERS, runs=5, fluxes=[]).parameters["runs"] == 5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("runs", "x", "w.yaml:2: parameters.runs: 'x' was given; expected a whole number, as its "
         "default 12"),
        ("runs", "1.5", "w.yaml:2: parameters.runs: '1.5' was given; expected a whole number, as "
         "its default 12"),
        ("runs", "", "w.yaml:2: parameters.runs: '' was given; expected a whole number, as its "
         "default 12"),
        ("runs", True, "w.yaml:2: parameters.runs: True was given; expected a whole number, as its "
         "default 12"),
        ("on", "yes", "w.yaml:2: parameters.on: 'yes' was given; expected true or false, as its "
         "default False"),
        ("fluxes", "1,2", "w.yaml:2: parameters.fluxes: '1,2' was given; expected a list, such as "
         "[1, 2], as its default [1, 2]"),
        ("fluxes", "[1", "w.yaml:2: parameters.fluxes: '[1' was given; expected a list, such as "
         "[1, 2], as its default [1, 2]"),
        ("rnus", "1", "w.yaml: there is no parameter 'rnus'; did you mean 'runs'? Known: any, "
         "flux, fluxes, map, name, on, runs"),
    ],
)  # fmt: skip
def test_wrong_parameters(load: Load, name: str, value: Any, message: str) -> None:
    assert problems(load, PARAMETERS, **{name: value}) == [message]


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0, 3, None, None), [0, 1, 2, 3]),
        ((1, 10, 3, None), [1, 4, 7, 10]),
        ((1, 9, 3, None), [1, 4, 7]),
        ((3, 1, -1, None), [3, 2, 1]),
        ((1, 0, None, None), []),
        ((0, None, None, 3), [0, 1, 2]),
        ((5, None, 0.5, 3), [5.0, 5.5, 6.0]),
        ((0, 10, None, 3), [0, 5, 10]),
        ((0, 1, None, 1), [0]),
        ((0, 1, None, 0), []),
        ((0, 1, None, 3), [0.0, 0.5, 1.0]),
        ((0.0, 0.3, 0.1, None), [0.0, 0.1, 0.2, 0.30000000000000004]),
    ],
)
def test_ranges(limits: tuple[Any, ...], expected: list[float]) -> None:
    made = numbers(*limits)
    assert made == expected
    assert [type(number) for number in made] == [type(number) for number in expected]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 50))
@example(0.0, 5e-324, 4)
def test_ranges_with_a_count_are_numpys(start: float, to: float, count: int) -> None:
    assert numbers(start, to, None, count) == np.linspace(start, to, count).tolist()


odd = st.sampled_from([0, -1, 1.0, 0.1, -0.0, 1e300, -1e300, 1e-300, 10**400, math.inf, math.nan])
limits = st.none() | odd | st.integers(-100, 100) | st.floats(-100, 100)


@given(odd | limits.filter(bool), limits, limits, st.none() | st.integers(-5, 50) | st.just(10**9))
def test_any_range_is_made_or_refused(start: Any, to: Any, step: Any, count: Any) -> None:
    assume(step is None or abs(step) > 1e-3 or abs(step) < 1e-9)  # millions are fine, but slow
    try:
        made = numbers(start, to, step, count)
    except (ValueError, OverflowError):
        return
    assert len(made) <= 1_000_000
    if made and to is not None:
        # What is less than a billionth of a step beyond the end counts as its rounding error.
        beyond = max(1e-6, 1e-9 * abs(step or 1))
        low, high = min(start, to) - beyond, max(start, to) + beyond
        assert all(low <= number <= high for number in made)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            """
            tasks:
              a: {run: x, foreach: {i: {count: 6}}}
              b: {run: x, foreach: {i: {count: 6}}}
            """,
            "4: tasks.b.foreach: gives 6 items; at most 10 are possible, of all tasks together",
        ),
        (
            """
            tasks:
              a: {run: x, foreach: {i: {count: 4}}}
              b: {python: 'math:fsum', foreach: {i: {count: 6}}, args: ['${tasks.a}']}
            """,
            "4: tasks.b.args[0]: the workflow has more than 30 values in its variables",
        ),
        (
            """
            lists: {a: {count: 9}, b: {count: 9}, c: {count: 9}, d: {count: 9}}
            tasks: {a: {run: x}}
            """,
            "2: lists.d: the workflow has more than 30 values in its variables and arguments",
        ),
        (
            """
            parameters: {p: [[1, 2], [3, 4]]}
            tasks: {a: {run: x, foreach: {i: {count: 5}}, with: {p: "${p}"}}}
            """,
            "3: tasks.a: the workflow has more than 30 values in its variables and arguments",
        ),
        (
            """
            tasks: {a: {run: x, foreach: {i: {count: 5}}, with: {p: [[1, 2], [3, 4]]}}}
            """,
            "2: tasks.a: the workflow has more than 30 values in its variables and arguments",
        ),
    ],
)
def test_a_few_lines_stand_for_so_many_and_no_more(
    load: Load, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setattr("pilot.workflow.ranges.MOST_ITEMS", 10)
    monkeypatch.setattr("pilot.workflow.ranges.MOST_VALUES", 30)
    with pytest.raises(WorkflowError, match=re.escape(told)):
        load(text)


def test_a_workflow_is_shown_without_what_a_terminal_obeys(load: Load) -> None:
    workflow = load(
        """
        name: "a\\x1b]0;owned\\x07\\nFAKE LINE"
        parameters: {p: "\\x1b[2J"}
        tasks:
          a: {run: "echo ${p} ${i}", foreach: {i: ["\\x1b[31m"]}}
        results: {"r\\x1b": "${p}"}
        """
    )
    shown = graph_text(workflow.graph())
    assert all(line.isprintable() for line in shown.splitlines()), shown
    assert not any(line.startswith("FAKE") for line in shown.splitlines())


# --- what is wrong -------------------------------------------------------------------------------


def told_errors() -> list[Any]:
    """Files with the findings about them, from ``test_workflow_errors.txt``."""
    text = (Path(__file__).parent / "test_workflow_errors.txt").read_text(encoding="utf-8")
    cases = []
    for block in re.split(r"\n\n+", text):
        file, *messages = re.split(r"\n=> ", block.strip())
        if messages:
            cases.append(pytest.param(file, messages, id=messages[0].removeprefix("w.yaml:")[:40]))
    return cases


@pytest.mark.parametrize(("text", "messages"), told_errors())
def test_what_is_wrong_is_told_with_its_line(load: Load, text: str, messages: list[str]) -> None:
    found = problems(load, text)
    assert len(found) == len(messages), found
    for line, message in zip(found, messages, strict=True):
        if message.endswith("..."):
            assert line.startswith(message[:-3])
        else:
            assert line == message


def test_all_problems_are_told_at_once(load: Load) -> None:
    found = problems(
        load,
        """
        parameters: {runs: 3}
        tasks:
          a: {run: "x ${rnus}", needs: [c]}
          b: {python: "math:squirt"}
        results: {x: "${tasks.d}"}
        """,
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["w.yaml:4", "tasks.a.run"],
        ["w.yaml:4", "tasks.a.needs[0]"],
        ["w.yaml:5", "tasks.b.python"],
        ["w.yaml:6", "results.x"],
    ]


def test_a_module_that_fails_is_told(load: Load) -> None:
    Path("broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    text = "tasks: {a: {python: 'broken:f'}}"
    expected = "w.yaml:1: tasks.a.python: module 'broken' cannot be imported: "
    assert problems(load, text) == [f"{expected}No module named 'nothing_of_this_name'"]
    Path("broken.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    sys.modules.pop("broken", None)
    assert problems(load, text) == [f"{expected}SystemExit: 3"]


def test_modules_are_found_beside_the_file_and_in_its_path(load: Load) -> None:
    Path("lib").mkdir()
    Path("lib/lib_module.py").write_text("def f(): pass\n", encoding="utf-8")
    workflow = load("path: [lib]\ntasks: {a: {python: 'lib_module:f'}}")
    assert workflow.sys_path == (Path.cwd(), Path.cwd() / "lib")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "no.yaml"
    with pytest.raises(WorkflowError, match="cannot be read: No such file"):
        load_workflow(missing)


def mostly(right: list[Any], wrong: list[Any]) -> st.SearchStrategy[Any]:
    """Right ones far more often than wrong ones, so that many files are right as a whole."""
    return st.sampled_from(right * (1 + 12 * len(wrong) // len(right)) + wrong)


leaves = mostly(
    ["x", "${runs}", "${tasks.a}", "$${x}", 1, 2.5, None],
    ["${", "${i}", "${tasks.d}", "${tasks.b[0]}", "${tasks.a[0]}", "x-${tasks.a}"],
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
foreach = st.dictionaries(
    mostly(["i", "x"], ["index"]),
    mostly([[1, 2], ["${l}"], "${l}", {"count": 2}, ["${tasks.a}"]], ["${runs}", "${tasks.a}", []]),
    min_size=1,
    max_size=2,
)
common = {"cores": mostly([1, "${runs}"], [0, "${i}"])}
single = st.fixed_dictionaries(
    {"run": mostly(["x"], ["x {x}", "${i}", "x ${tasks.b}"])},
    optional={**common, "outputs": st.just({"o": "${workflow.name}"})},
)
many = st.fixed_dictionaries(
    {
        "run": mostly(["x {y}", "x {y} ${index} ${tasks.a}"], ["${i} {y}", "x {x}"]),
        "foreach": foreach,
        "with": st.fixed_dictionaries({"y": values}),
    },
    optional={
        **common,
        "needs": mostly(["a"], ["b", "b[0]", "b[i=1]", "["]),
        "after": mostly(["a"], ["b", "b[0]", "["]),
        "outputs": st.just({"o": "${index}"}),
        "combine": st.sampled_from(["zip", "product"]),
    },
)


@given(
    st.fixed_dictionaries({"a": single, "b": many}, optional={"c": many}),
    st.dictionaries(st.just("r"), values),
)
def test_any_file_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tasks: dict[str, Any], results: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    content = {
        "parameters": {"runs": 2},
        "lists": {"l": [1, "${runs}"]},
        "tasks": tasks,
        "results": results,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        graph = load_workflow(path).graph()
    except WorkflowError as error:
        assert all(line.startswith(f"{path}:1: ") for line in str(error).splitlines())
        return
    seen: set[str] = set()
    for node in graph:
        assert seen.issuperset(node.dependencies)
        seen.add(node.label)
    json.dumps(graph_data(graph))
    assert graph_text(graph).startswith("any: ")


# --- how the graph is shown ----------------------------------------------------------------------


def test_the_graph_as_text(load: Load) -> None:
    workflow = load(
        """
        name: demo
        defaults: {retries: 1}
        tasks:
          sim: {mpi: "model:simulate", ranks: 2, foreach: {x: {count: 12}}, args: ["${x}"]}
          norm: {mpi: "model:norm", args: [3]}
          plot:
            run: plot {two} ${tasks.sim[3]} > {png}
            with: {two: "${tasks.sim[x=2]}"}
            outputs: {png: a b.png}
        results: {picture: "${tasks.plot.png}", all: "${tasks.sim}"}
        """
    )
    assert graph_text(workflow.graph()) == dedent(
        """\
        demo: 14 tasks

        sim (12 tasks)   mpi model:simulate
            2 ranks, each 1 core; retries 1
            [0]  x = 0
            [1]  x = 1
            [2]  x = 2
            [3]  x = 3
            …
            [11]  x = 11

        norm   mpi model:norm
            resources by the arguments; retries 1

        plot
            1 core; retries 1
            after sim
            $ plot ${tasks.sim[2]} ${tasks.sim[3]} > 'a b.png'

        results
            picture  ${tasks.plot.png}
            all      [${tasks.sim[0]}, … ${tasks.sim[11]}]"""
    )  # fmt: skip


def test_the_graph_as_data(load: Load) -> None:
    workflow = load(
        """
        tasks:
          make: {run: "make {o}", outputs: {o: "${i}.h5"}, foreach: {i: [1]}, cores: 2}
          use: {python: "model:simulate", args: ["${tasks.make[0].o}"], needs: make}
        results: {x: "${tasks.use}"}
        """
    )
    data = json.loads(json.dumps(graph_data(workflow.graph())))
    assert data == {
        "name": "w",
        "count": 2,
        "tasks": [
            {
                "name": "make",
                "line": 3,
                "runs": "make {o}",
                "variables": ["i"],
                "after": [],
                "count": 1,
                "items": [
                    {
                        "label": "make[0]",
                        "index": 0,
                        "kind": "command",
                        "values": {"i": 1},
                        "options": {"cores": 2},
                        "resources": "2 cores",
                        "args": [],
                        "with": {"o": "1.h5"},
                        "dependencies": [],
                        "command": "make 1.h5",
                    }
                ],
            },
            {
                "name": "use",
                "line": 4,
                "runs": "model:simulate",
                "variables": None,
                "after": ["make"],
                "count": 1,
                "items": [
                    {
                        "label": "use",
                        "index": None,
                        "kind": "python",
                        "values": {},
                        "options": {},
                        "resources": "1 core",
                        "args": ["${tasks.make[0].o}"],
                        "with": {},
                        "dependencies": ["make[0]"],
                    }
                ],
            },
        ],
        "results": {"x": "${tasks.use}"},
    }


def test_several_programs_are_one_mpi_job(load: Load) -> None:
    graph = load(
        """
        tasks:
          coupled:
            run:
              - {run: "./ocean {case} ${n}", ranks: 4}
              - {run: ./ice, ranks: 2}
            with: {case: arctic}
            stdout: out
            output_per_rank: true
        parameters: {n: 3}
        """
    ).graph()
    (node,) = graph.groups[0].nodes
    assert isinstance(node.function, ShellCommand) and node.function.output_per_rank
    assert (node.kind, node.options.ranks) == (MPI_COMMAND, 6)
    line = node.function.line(node.args, node.kwargs)
    assert "./ocean arctic 3" in line and "./ice" in line


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("run: []", "has no program"),
        ("run: [{run: ' ', ranks: 1}]", "the command is empty"),
        ("run: [{run: ./a, ranks: 0}]", "at least 1 rank"),
        ("run: [{run: ./a, ranks: 2}]\n            ranks: 2", "the sum of the ranks"),
        ("run: [{run: ./a}]", "ranks"),
        ("run: ./a\n            ranks: 2\n            output_per_rank: true", "needs 'stdout'"),
        ("python: model:f\n            output_per_rank: true", "goes with 'run' only"),
    ],
)
def test_wrong_programs_are_refused(load: Load, keys: str, told: str) -> None:
    with pytest.raises(WorkflowError, match=told):
        load(
            f"""
        tasks:
          coupled:
            {keys}
        """
        )


# --- schema, reference and examples --------------------------------------------------------------


def test_the_schema_knows_and_describes_every_key() -> None:
    schema = workflow_schema()
    for struct in (WorkflowFile, TaskEntry, CommonOptions, Range, ProgramEntry):
        properties = schema["$defs"][struct.__name__]["properties"]
        assert set(properties) == set(struct.__struct_encode_fields__)
        for key, what in properties.items():
            assert what.get("description"), key
        assert schema["$defs"][struct.__name__]["additionalProperties"] is False
    json.dumps(schema)


def test_the_reference_says_what_the_schema_says() -> None:
    text = (EXAMPLES.parent / "docs/reference/workflow-file.md").read_text(encoding="utf-8")
    schema = workflow_schema()
    for struct in (WorkflowFile, TaskEntry, Range):
        for key, what in schema["$defs"][struct.__name__]["properties"].items():
            assert f"| `{key}` | {what['description']} |" in text


def test_the_workflow_of_the_reference_is_right(load: Load) -> None:
    Path("heat.py").write_text("def simulate(flux, n): pass\n", encoding="utf-8")
    Path("rsvd.py").write_text("def combine(blocks): pass\n", encoding="utf-8")
    text = (EXAMPLES.parent / "docs/reference/workflow-file.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert len(load(example, runs="24").graph()) == 26


def test_the_examples_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    hello = load_workflow(EXAMPLES / "hello.yaml", {"count": "5"}).graph()
    assert [len(group.nodes) for group in hello.groups] == [5, 5, 1, 1]
    heat_rom = load_workflow(EXAMPLES / "heat_rom/workflow.yaml", {"ranks_per_node": "1"}).graph()
    ensemble = next(group for group in heat_rom.groups if group.name == "ensemble")
    assert [node.args for node in ensemble.nodes] == [(50 * i,) for i in range(1, 13)]
    assert ensemble.nodes[0].options.ranks_per_node == 1
