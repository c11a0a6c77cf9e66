"""Submitting a workflow: what reaches the session, and what the workers make of it.

`InProcess` stands for a session: arguments travel through the real encoding, with futures as
references, and tasks run in this process when they are submitted.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import pytest

from pilot.client.arguments import Origin, decode_arguments, encode_arguments
from pilot.client.command import CommandResult
from pilot.client.future import Future
from pilot.client.session import Session
from pilot.client.task import COMMAND, MPI, Task
from pilot.errors import CommandFailed
from pilot.workflow import Workflow, load_workflow
from pilot.workflow.targets import ByName

MODULE = """
import pilot

def double(x, *, plus=0):
    return 2 * x + plus

@pilot.task(returns=["low", "high"], memory=lambda values: len(values))
def split(values):
    return min(values), max(values)

@pilot.task(memory=lambda **kwargs: len(kwargs))
def names(**kwargs):
    return sorted(kwargs)

class Odd(Exception):
    pass

def fail():
    raise Odd("no")
"""


class InProcess:
    """What `pilot.workflow.run` uses of a session."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, int], Any] = {}
        self.tasks: list[tuple[Task[..., Any], tuple[tuple[int, int], ...]]] = []
        self.batches: list[int] = []
        #: What each task comes after.
        self.afters: list[list[Future[Any]]] = []
        self.origin = Origin("here", "/here")
        self._ids = itertools.count(1)

    def submit(self, task: Task[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        self.afters.append(list(task.task_options.after))
        return self._run(task, args, kwargs)

    def submit_many(self, task: Task[..., Any], rows: Any, after: Any) -> list[Future[Any]]:
        self.afters += [after] * len(rows)
        futures = [
            self._run(task, (), dict(row)) if isinstance(row, Mapping) else self._run(task, row, {})
            for row in rows
        ]
        self.batches.append(len(futures))
        return futures

    def _run(self, task: Task[..., Any], args: Any, kwargs: dict[str, Any]) -> Future[Any]:
        options = task.task_options
        options.resolve(args, kwargs)
        payload, inputs = encode_arguments(args, kwargs)
        self.tasks.append((task, inputs))
        future: Future[Any] = Future(
            cast("Session", self), next(self._ids), options.return_names, options.return_count
        )
        future.set_running_or_notify_cancel()
        there_args, there_kwargs = decode_arguments(
            payload, [self.values[ref] for ref in inputs], Path()
        )
        function = pickle.loads(pickle.dumps(task.function))  # as a worker gets it
        try:
            value = function(*there_args, **there_kwargs)
        except Exception as error:
            future.set_exception(error)
            return future
        parts = value if options.return_count > 1 else (value,)
        self.values |= {(future.task, index): part for index, part in enumerate(parts)}
        future.set_result(tuple(value) if options.return_count > 1 else value)
        return future


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs_of_test.py").write_text(MODULE, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("jobs_of_test", None)


def load(directory: Path, text: str, **parameters: Any) -> Workflow:
    path = directory / "w.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return load_workflow(path, parameters)


def run(workflow: Workflow) -> tuple[dict[str, Any], InProcess]:
    session = InProcess()
    return workflow.submit(cast("Session", session)).results(), session


def test_results_flow_from_task_to_task(directory: Path) -> None:
    workflow = load(
        directory,
        """
        tasks:
          total: {python: "builtins:sum", args: ["${tasks.twice}"]}
          twice: {python: "jobs_of_test:double", foreach: {x: {count: 4}}, args: ["${x}"]}
          span: {python: "jobs_of_test:split", args: ["${tasks.twice}"]}
          mixed:
            python: jobs_of_test:double
            args: ["${tasks.span.high}"]
            with: {plus: "${tasks.twice[1]}"}
          each: {python: "jobs_of_test:double", foreach: {r: "${tasks.span}"}, with: {x: "${r}"}}
          both: {python: "builtins:list", args: ["${tasks.span}"]}
        results:
          total: ${tasks.total}
          deep: [{low: "${tasks.span.low}", all: "${tasks.twice}"}, plain]
          mixed: ${tasks.mixed}
          each: ${tasks.each}
          both: ${tasks.both}
          span: ${tasks.span}
        """,
    )
    results, session = run(workflow)
    assert results == {
        "total": 12,
        "deep": [{"low": 0, "all": [0, 2, 4, 6]}, "plain"],
        "mixed": 14,
        "each": [0, 12],
        "both": [0, 6],
        "span": (0, 6),
    }
    assert 4 in session.batches  # items of a foreach go as one


def test_commands_get_files_and_output_of_others(directory: Path) -> None:
    workflow = load(
        directory,
        """
        tasks:
          make:
            run: printf '%s' ${word} > {file}
            foreach: {word: ["it's", "$HOME"]}
            outputs: {file: "part ${index}.txt"}
          join:
            run: cat {parts} > {all}
            with: {parts: "${tasks.make.file}"}
            outputs: {all: all.txt}
          show: {run: "cat ${tasks.join}; echo"}
          count: {python: "builtins:len", args: ["${tasks.show.stdout}"]}
          status: {python: "jobs_of_test:double", args: ["${tasks.show.returncode}"]}
        results: {text: "${tasks.show.stdout}", count: "${tasks.count}", status: "${tasks.status}",
                  file: "${tasks.join.all}", whole: "${tasks.join}"}
        """,
    )
    results, _ = run(workflow)
    assert results["text"] == "it's$HOME"
    assert results["count"] == len("it's$HOME")
    assert results["status"] == 0
    assert results["file"] == directory / "all.txt"
    assert isinstance(results["whole"], CommandResult)


def test_needs_are_inputs_that_functions_do_not_see(directory: Path) -> None:
    workflow = load(
        directory,
        """
        tasks:
          first: {run: "touch {f}", outputs: {f: x.txt}}
          pair: {python: "jobs_of_test:split", args: [[1, 2]]}
          after: {python: "jobs_of_test:names", needs: [first, pair], with: {a: 1}}
          command: {run: "echo done", needs: first}
        results: {after: "${tasks.after}", said: "${tasks.command.stdout}"}
        """,
    )
    results, session = run(workflow)
    assert results == {"after": ["a"], "said": "done"}
    inputs = {task.__name__: refs for task, refs in session.tasks}
    assert inputs["after"] == ((1, 0), (2, 0), (2, 1))
    assert inputs["command"] == ((1, 0),)
    after = next(task for task, _ in session.tasks if task.__name__ == "after")
    assert after.task_options.resolve((), {"a": 1}).resources.memory_mib == 1


def test_the_order_of_the_file_is_that_of_the_session(directory: Path) -> None:
    workflow = load(
        directory,
        """
        tasks:
          first: {run: "true"}
          many: {run: "true", foreach: {i: [1, 2]}, after: first}
          mixed: {python: "jobs_of_test:double", args: [1], with: {plus: 2}, after: ["many[1]"]}
        """,
    )
    _, session = run(workflow)
    shown = [[future.task for future in after] for after in session.afters]
    assert shown == [[], [1], [1], [3]] and session.batches == [1, 2]
    assert not any(inputs for _, inputs in session.tasks)


def test_tasks_arrive_with_kind_name_and_options(directory: Path) -> None:
    workflow = load(
        directory,
        """
        defaults: {retries: 2}
        tasks:
          a:
            mpi: jobs_of_test:double
            ranks: "${n}"
            foreach: {n: [1, 1, 2]}
            args: ["${n}"]
            name: run-${n}
          b: {run: "true", memory: 1G}
        """,
    )
    _, session = run(workflow)
    shown = [(t.__name__, t.kind, t.task_options.ranks) for t, _ in session.tasks]
    assert shown == [("run-1", MPI, 1), ("run-1", MPI, 1), ("run-2", MPI, 2), ("b", COMMAND, 1)]
    assert session.batches == [2, 1, 1]
    assert {t.task_options.retries for t, _ in session.tasks} == {2}
    assert session.tasks[3][0].task_options.memory == "1G"


def test_a_failure_reaches_who_asks_for_results(directory: Path) -> None:
    workflow = load(
        directory,
        """
        tasks: {bad: {run: "echo oh; exit 3"}, worse: {python: "jobs_of_test:fail"}}
        results: {x: "${tasks.bad}"}
        """,
    )
    submitted = workflow.submit(cast("Session", InProcess()))
    with pytest.raises(CommandFailed, match="exit status 3"):
        submitted.results()
    odd = sys.modules["jobs_of_test"].Odd
    assert isinstance(submitted.futures["worse"][0].exception(), odd)
    assert len(submitted.all_futures) == 2


def test_functions_travel_by_name(directory: Path) -> None:
    load(directory, "tasks: {a: {python: 'jobs_of_test:split', args: [[1]]}}")
    travelled = pickle.loads(pickle.dumps(ByName("jobs_of_test", "split")))
    assert travelled([3, 1]) == (1, 3)
    assert len(pickle.dumps(travelled)) < 100
    with pytest.raises(ModuleNotFoundError, match="not_on_this_worker"):
        ByName("not_on_this_worker", "f")()


@pytest.mark.parametrize(
    "value",
    ["sample-1 $(touch INJECTED)", "it's", "`touch INJECTED`", '"; touch INJECTED; "', "a  *"],
)
def test_what_a_command_wrote_is_data_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("untrusted.txt").write_text(f"{value}\n")
    Path("w.yaml").write_text(
        """
tasks:
  scan: {run: cat untrusted.txt}
  report: {run: 'printf %s "the scanner said ${tasks.scan.stdout}"'}
results: {said: "${tasks.report.stdout}"}
"""
    )
    session = InProcess()
    submitted = load_workflow("w.yaml").submit(cast(Session, session))
    assert submitted.results() == {"said": f"the scanner said {value}"}
    assert not Path("INJECTED").exists()
