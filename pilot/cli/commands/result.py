"""``pilot result``: the values that tasks returned, and those of named objects."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilot.cli.arguments import tasks_argument, value_argument
from pilot.cli.common import asking, commanding, current_site, json_option, site_option
from pilot.cli.output import counted, last_words, note, print_fields, print_json
from pilot.cli.parameters import Number
from pilot.errors import PilotError, ResultError, StorageError, TaskError
from pilot.model.states import UNSUCCESSFUL

if TYPE_CHECKING:
    from pilot.client.query_client import QueryClient
    from pilot.model.values import Value
    from pilot.site import Site

_SUFFIXES = (".npy", ".json", ".pkl", ".pickle")


@click.group()
def result() -> None:
    """Get, find or delete the values that tasks returned."""


@result.command()
@value_argument
@click.option("--index", type=Number(0), help="Only this one of several results.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the value to this file: .npy, .json, .pkl or .pickle.",
)
@json_option
@site_option
def get(name: str, index: int | None, output: Path | None, as_json: bool) -> None:
    """Print the result of a task, or a named object (mesh, mesh@3), or write it to a file.

    If the value is in an HDF5 file, the file and the dataset are printed on stderr.
    """
    from pilot.data.patience import set_patience
    from pilot.data.storing import load

    if output is not None and output.suffix not in _SUFFIXES:
        raise click.UsageError(
            f"--output {output}: give a name that ends in {', '.join(_SUFFIXES)}"
        )
    site = current_site()
    set_patience(site.config.data.patience_s)
    with asking(site) as ask:
        task, state, stored = _stored(ask, name, index)
        # Classes of the user's own come from where the session's program found them.
        session = task.partition(".")[0]
        with suppress(PilotError):  # it may be deleted: a version of a named object outlives it
            sys.path += ask("session", session=int(session))["sys_path"]
    values = [load(value, site.directory) for value in stored]
    whole = values[0] if len(values) == 1 else tuple(values)
    if output is not None:
        save(whole, output)
        click.echo(output)
    elif as_json:
        shown = [
            {**_place(site, v), "value": plain(x)} for v, x in zip(stored, values, strict=True)
        ]
        print_json({"task": task, "state": state, "values": shown})
    else:
        for value in stored:
            if value.path:
                note(f"{site.directory / value.path}: {value.name}")
        click.echo(repr(whole))


@result.command()
@value_argument
@click.option("--index", type=Number(0), help="Only this one of several results.")
@json_option
@site_option
def path(name: str, index: int | None, as_json: bool) -> None:
    """Print the HDF5 file and the dataset of the result of a task, or of a named object.

    With the arrays in it, their types, shapes and compression. Nothing of them is read.
    """
    from pilot.data.patience import set_patience

    site = current_site()
    set_patience(site.config.data.patience_s)
    with asking(site) as ask:
        task, _, stored = _stored(ask, name, index)
    places = [_place(site, value) for value in stored]
    for place in places:
        place["arrays"] = _arrays(place) if place["file"] else []
    if as_json:
        print_json({"task": task, "values": places})
        return
    if not any(place["file"] for place in places):
        raise ResultError(
            f"the result of {name} is in no file: it is small, and in the database; "
            f"`pilot result get {name} -o FILE` writes it to one"
        )
    for number, place in enumerate(places, index or 0):
        arrays = "\n".join(map(_array_words, place["arrays"]))
        fields = {"file": place["file"] or "none: it is small", "dataset": place["dataset"]}
        print_fields({"result": number if len(places) > 1 else "", **fields, "arrays": arrays})


def _arrays(place: dict[str, Any]) -> list[dict[str, Any]]:
    from pilot.compression import compression_text
    from pilot.data.segments import opened

    return [
        {
            "name": one.name,
            "dtype": str(one.dtype),
            "shape": list(one.shape),
            "compression": compression_text(one.level),
        }
        for one in opened(Path(place["file"])).arrays(place["dataset"])
    ]


def _array_words(array: dict[str, Any]) -> str:
    words = [array["name"], array["dtype"], str(tuple(array["shape"]))]
    if array["compression"] != "none":
        words.append(array["compression"])
    return "  ".join(word for word in words if word)


@result.command()
@tasks_argument
@site_option
def delete(task_ids: tuple[str, ...]) -> None:
    """Delete the results of tasks that have ended; their records stay.

    Nothing is deleted where one of the tasks has not ended, or where a task that has not ended
    still needs one of the results.
    """
    from pilot.model.ids import parse_task_label
    from pilot.wire.messages import client as m

    tasks = [parse_task_label(task) for task in task_ids]
    with commanding(current_site()) as command:
        count = command(lambda n: m.DeleteResults(n, tasks))
    click.echo(f"results of {counted(count, 'task')} deleted")


def _stored(ask: QueryClient, name: str, index: int | None) -> tuple[str, str, list[Value]]:
    """Return the task, its state and the values of a task or a named object; of several results
    the one of this index."""
    from pilot.model.values import Value

    if not name[0].isdecimal() or name.strip("0123456789."):
        if index is not None:
            raise click.UsageError(f"--index {index}: {name} is one result; leave it out")
        data = ask("named", name=name)
        return data["task"], "COMPLETED", [Value(**data["value"])]
    data = ask("result", task=name)
    _check_state(name, data, ask)
    stored = [Value(**value) for value in data["values"]]
    if index is not None:
        if index >= len(stored):
            raise ResultError(f"task {name} has {counted(len(stored), 'result')}, numbered from 0")
        stored = stored[index : index + 1]
    if released := [place for place, value in enumerate(stored) if value.is_released]:
        which = f"result {released[0]}" if len(stored) > 1 else "the result"
        raise ResultError(
            f"{which} of task {name} was released: it is deleted, as nobody was to ask for it "
            "again; run the task again"
        )
    return name, data["state"], stored


def _check_state(task_id: str, data: dict[str, Any], ask: QueryClient) -> None:
    if data["state"] == "COMPLETED":
        return
    if data["state"] == "DELETED":
        raise ResultError(f"the result of task {task_id} was deleted; run the task again")
    if data["error"] is not None:
        error = last_words(ask("task", task=task_id)["error"])
        raise TaskError(f"task {task_id} is {data['state']}: {error}")
    if data["state"] in UNSUCCESSFUL:
        raise TaskError(f"task {task_id} is {data['state']}: it has no result")
    raise ResultError(f"task {task_id} is {data['state']}: it has no result yet")


def _place(site: Site, value: Any) -> dict[str, Any]:
    file = str(site.directory / value.path) if value.path else None
    return {"size": value.size, "file": file, "dataset": value.name or None}


def plain(value: Any) -> Any:
    """Return a value as plain data for JSON: data classes by fields, other objects by ``repr``."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # as JSON has no word for it
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if callable(getattr(value, "tolist", None)):  # arrays and numbers of NumPy
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if names := getattr(type(value), "__struct_fields__", ()):  # as of a command's result
        return {name: plain(getattr(value, name)) for name in names}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return repr(value)


def save(value: Any, path: Path) -> None:
    """Write a value in the format of the file's suffix, in one step: never half a file.

    Raises
    ------
    ResultError
        The format cannot hold the value.
    StorageError
        The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            _write(value, path.suffix, file)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(value: Any, suffix: str, file: Any) -> None:
    if suffix == ".npy":
        import numpy as np

        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.hasobject:
            raise ResultError(
                f"the result, a {type(value).__name__}, is no array; give a file .pkl, or choose "
                "one of several results by --index"
            )
        np.save(file, array, allow_pickle=False)
    elif suffix == ".json":
        import json

        file.write(json.dumps(plain(value), ensure_ascii=False).encode())
    else:
        from pilot.data.pickles import encode

        file.write(encode(value))
