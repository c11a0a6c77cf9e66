"""Decorators of PyCOMPSs that ask services, read files, or change arguments; without a site."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Heard, Says, Server, serving

from pilot.compat.compss import commands, constraints
from pilot.compat.compss.configured import software
from pilot.compat.compss.decoration import TaskFunction, task
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.flags import RESOURCES
from pilot.compat.compss.layers import CallShape
from pilot.compat.compss.parameters import NAMED
from pilot.compat.compss.transformations import (
    COLLECTION_TO_FILE,
    COLLECTION_TO_OBJECT,
    FILE_TO_COLLECTION,
    FILE_TO_OBJECT,
    OBJECT_TO_DIRECTORY,
    OBJECT_TO_FILE,
    data_transformation,
    dto,
)
from pilot.compat.compss.web_services import base_url, http, read_template
from pilot.errors import PilotError

# --- web services --------------------------------------------------------------------------------


def answer(asked: Heard) -> Says:
    if asked.path == "/missing":
        return Says(404)
    if asked.method == "POST":
        return Says(200, asked.body)
    content = {"n": 3, "inner": {"path": asked.path, "other": [1]}}
    return Says(200, json.dumps(content).encode() if asked.path != "/text" else b"no JSON")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(answer) as server:
        yield server


def called(made: TaskFunction, *args: Any, **kwargs: Any) -> Any:
    """What a task returns where it runs."""
    assert made.plan.layers is not None
    return made.plan.layers.over(None)(*args, **kwargs)


def asking(server: Server, **given: Any) -> TaskFunction:
    given = {"service_name": server.url, "request": "POST", "resource": "/", **given}
    return http(**given)(task(returns=1, file=NAMED["FILE_IN"])(_asked))


def _asked(a: Any = None, b: Any = 2, *, file: Any = None) -> str:
    return "not asked"


@pytest.mark.parametrize(
    ("payload", "a", "sent"),
    [
        ("{{a}}", "some text", "some text"),
        ("{{a}}", {"x": [1, None]}, {"x": [1, None]}),
        ('{ "first" : {{a}}, "b": {{ b }} }', 'te"xt', {"first": 'te"xt', "b": 2}),
        ('{"first": "{{a}}"}', 'te"xt', {"first": 'te"xt'}),
    ],
)
def test_payloads(server: Server, payload: str, a: Any, sent: Any) -> None:
    made = asking(server, payload=payload)
    assert called(made, a, 2) == sent
    assert server.heard[0].headers["Content-Type"] == "application/json"
    assert made.plan.kind == "python" and not made.plan.is_plain


def test_other_payloads_and_files(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    made = asking(server, payload="{{a}}: {{file}}", payload_type="text/plain")
    assert called(made, "x", file=str(tmp_path / "file")) == "x: content"
    with pytest.raises(PyCOMPSsException, match="cannot be sent as JSON"):
        called(asking(server, payload="{{a}}"), object())
    with pytest.raises(PyCOMPSsException, match=r"\{\{c\}\}: there is no such parameter"):
        called(asking(server, payload="{{c}}"), 1)


def test_results_are_taken_from_the_answer(server: Server) -> None:
    get = {"request": "GET", "resource": "/at/{{a}}"}
    assert called(asking(server, **get), "x /{y}")["inner"]["path"] == "/at/x%20%2F%7By%7D"
    assert called(asking(server, request="GET", resource="/text")) == "no JSON"
    produces = "{'n': '{{return_1}}', 'inner': {'path': '{{return_0}}', 'other': 'fixed'}}"
    assert called(asking(server, **get, produces=produces), 1) == ("/at/1", 3)
    one = '{"inner": {"other": "{{return_0}}"}}'
    assert called(asking(server, **get, produces=one), 1) == [1]
    with pytest.raises(PyCOMPSsException, match=r"nothing at inner\.no"):
        called(asking(server, **get, produces="{'inner': {'no': '{{return_0}}'}}"), 1)
    with pytest.raises(PilotError, match="404"):
        called(asking(server, request="GET", resource="/missing"))


def test_a_parameter_is_updated(server: Server) -> None:
    produces = "{'n': '{{found}}'}"
    made = asking(server, request="GET", produces=produces, updates="{{a}}.third = {{found}}")
    given = {"first": 1}
    called(made, given)
    assert given == {"first": 1, "third": 3}
    with pytest.raises(PyCOMPSsException, match=r"with a name that produces has"):
        asking(server, produces=produces, updates="{{a}}.third = {{other}}")
    with pytest.raises(PyCOMPSsException, match="is no JSON object"):
        read_template("{'a':")


def test_services_are_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    file = tmp_path / "resources.xml"
    file.write_text(
        '<?xml version="1.0"?><ResourcesList xmlns="urn:x"><Http BaseUrl="http://h:1/t/">'
        "<ServiceName> one </ServiceName></Http><ComputeNode/></ResourcesList>"
    )
    assert base_url("one", str(file)) == "http://h:1/t/"
    with pytest.raises(PyCOMPSsException, match=r"'two'\): .*--resources=FILE says; .* has one"):
        base_url("two", str(file))
    with pytest.raises(PyCOMPSsException, match="no file is given"):
        base_url("one", "")
    file.write_text("<Http")
    with pytest.raises(PyCOMPSsException, match="cannot be read"):
        base_url("one", str(file))
    monkeypatch.setenv(RESOURCES, "")
    (tmp_path / "program.py").write_text(
        f"import os, sys\nsys.exit(os.environ[{RESOURCES!r}] != {str(file)!r})\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        commands.run(["--resources=resources.xml", "program.py"])
    assert ended.value.code in (0, False)


def test_without_a_launcher_the_function_is_called(server: Server) -> None:
    assert asking(server)(1) == "not asked" and not server.heard


# --- files that say what a task is ---------------------------------------------------------------


def configured(tmp_path: Path, content: Any, function: Any = None) -> TaskFunction:
    (tmp_path / "task.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    made = software(config_file=str(tmp_path / "task.json"))
    return made(_plain if function is None else function)


def _plain(a: Any, b: Any = 1) -> Any:
    return [a, b]


def test_a_file_says_all_of_a_task(tmp_path: Path) -> None:
    made = configured(
        tmp_path,
        {
            "execution": {"type": "mpi", "runner": "mpirun", "binary": "date", "processes": 2},
            "parameters": {"returns": "int", "a": "INOUT"},
            "constraints": {"computing_units": 2},
            "prolog": {"binary": "echo", "args": "first"},
            "container": {"engine": "docker", "image": "debian"},
        },
    )
    plan = made.plan
    assert plan.kind == "mpi-command" and plan.returns.number == 1
    assert plan.parameters["a"].direction == "inout"
    assert plan.constraints == {"computing_units": 2}
    assert plan.layers is not None and len(plan.layers.layers) == 2
    assert made.said["container"]["image"] == "debian" and "config" not in made.said


def test_a_file_beside_a_task(tmp_path: Path) -> None:
    made = configured(
        tmp_path,
        {"execution": {"type": "binary", "binary": "echo"}, "parameters": {"returns": 0}},
        task(returns=2)(_plain),
    )
    assert made.plan.kind == "command" and made.plan.returns.number == 2
    assert made("x") == 0


def test_a_file_with_parameters_alone(tmp_path: Path) -> None:
    made = configured(tmp_path, {"execution": {"type": "task"}, "parameters": {"returns": 2}})
    assert made(3) == [3, 1] and made.plan.returns.number == 2 and made.plan.layers is None
    workflow = configured(tmp_path, {"execution": {"type": "workflow"}})
    assert workflow(3) == [3, 1] and workflow.said["is_workflow"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ([1], "no object of objects"),
        ({"execution": "mpi"}, "no object of objects"),
        ({"execution": {"type": "decaf"}}, "there is no type 'decaf'; there are task, workflow"),
        ({"execution": {"type": "binary"}}, "@binary: binary=… is missing"),
        ({"parameters": {"a": "SIDEWAYS"}}, "give a direction"),
    ],
)
def test_files_that_mean_nothing(tmp_path: Path, content: Any, told: str) -> None:
    made = configured(tmp_path, content)
    with pytest.raises(PyCOMPSsException, match=told):
        made(1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    made = software(config_file=str(tmp_path / "none.json"))(_plain)
    with pytest.raises(PyCOMPSsException, match=r"none\.json cannot be read"):
        made(1)
    with pytest.raises(PyCOMPSsException, match="config_file=… is missing"):
        software()


# --- transformations -----------------------------------------------------------------------------


def _appended(values: list[Any], item: Any = "more") -> list[Any]:
    return [*values, item]


def _written(values: Any, path: str) -> None:
    Path(path).write_text(" ".join(values))


def _read(path: str) -> list[str]:
    return Path(path).read_text().split()


def test_arguments_go_through_functions_the_uppermost_first() -> None:
    made = data_transformation("a", _appended)(
        data_transformation("a", _appended, item="{{b}}")(
            data_transformation("b", lambda b: b + 1)(task()(_plain))
        )
    )
    assert made([0]) == [[0, "more", 1], 2]
    assert made(a=[0], b=5) == [[0, "more", 5], 6]


def test_a_call_gives_a_transformation() -> None:
    made = data_transformation()(task()(_plain))
    assert made([0], dt=dto("a", _appended, item=3)) == [[0, 3], 1]
    assert made([0], 4, dt=[dto("a", _appended), dto("b", str)]) == [[0, "more"], "4"]
    assert made([0]) == [[0], 1]


def test_files_and_collections(tmp_path: Path) -> None:
    file = str(tmp_path / "file")
    (tmp_path / "given").write_text("x y z")

    def of(**given: Any) -> TaskFunction:
        return data_transformation(target="a", **given)(task()(_plain))

    to_file = {"function": _written, "destination": file}
    for kind in (OBJECT_TO_FILE, COLLECTION_TO_FILE):
        assert of(type=kind, **to_file)(["p", "q"]) == [file, 1]
        assert Path(file).read_text() == "p q"
    given = str(tmp_path / "given")
    assert of(function=_read, type=FILE_TO_OBJECT)(given) == [["x", "y", "z"], 1]
    assert of(function=_read, type=FILE_TO_COLLECTION, size="{{b}}")(given, 3) == [
        ["x", "y", "z"],
        3,
    ]
    assert of(function=" ".join, type=COLLECTION_TO_OBJECT)(["p", "q"]) == ["p q", 1]

    def made(value: Any, path: str) -> None:
        Path(path).mkdir()

    directory = str(tmp_path / "directory")
    assert of(function=made, type=OBJECT_TO_DIRECTORY, destination=directory)(1) == [directory, 1]
    assert Path(directory).is_dir()


def test_a_workflow_runs_in_the_program() -> None:
    made = data_transformation("a", _appended, is_workflow=True)(task()(_plain))
    assert made([0]) == [[0, "more"], 1]


@pytest.mark.parametrize(
    ("args", "given", "told"),
    [
        (("a",), {}, "give a parameter's name"),
        (("a", 3), {}, "3 is no function"),
        ((), {"target": "a", "function": str, "type": 9}, "type=9: give a constant"),
        ((), {"target": "a", "function": str, "type": FILE_TO_COLLECTION}, "size=…"),
    ],
)
def test_transformations_that_mean_nothing(
    args: tuple[Any, ...], given: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "_warned", set())
    with pytest.raises(PyCOMPSsException, match=told):
        data_transformation(*args, **given)
    with pytest.raises(PyCOMPSsException, match="has no argument 'c'"):
        data_transformation("c", str)(task()(_plain))(1)
    assert CallShape().named((), {}) is not None
