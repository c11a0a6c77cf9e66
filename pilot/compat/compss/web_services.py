"""``@http``: a request to a web service in the place of a function.

Where a service is, the file says that ``runcompss --resources=FILE`` names. The task needs no core:
it only waits.
"""

from __future__ import annotations

import ast
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from pilot.client.http_request import make_request
from pilot.compat.compss.binaries import set_body
from pilot.compat.compss.decoration import TaskFunction
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.flags import RESOURCES
from pilot.compat.compss.given import read_given
from pilot.compat.compss.layers import CallShape, Layer, WorkOut, as_word

_JSON = "application/json"
_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_RETURN = re.compile(r"return_(\d+)")
_UPDATE = re.compile(r"\s*\{\{\s*(\w+)\s*\}\}\s*\.\s*(\w+)\s*=\s*\{\{\s*(\w+)\s*\}\}\s*")


class WebService(Layer, frozen=True):
    """A request in the place of a function."""

    base: str
    resource: str
    method: str
    payload: str | None
    payload_type: str
    #: The places in the answer, as keys, of results and of what is to be updated, by their names.
    produces: Mapping[str, tuple[str, ...]]
    #: The parameter, its key, and the name of what is put there.
    updates: tuple[str, str, str] | None
    replaces: ClassVar[bool] = True

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for no core."""
        del work_out
        options["cores"] = 0

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what asks the service; without a launcher the function, as PyCOMPSs does."""
        return partial(_ask, self, call) if is_task else function


def _ask(service: WebService, call: CallShape, /, *args: Any, **kwargs: Any) -> Any:
    values = dict(call.named(args, kwargs))
    for name, direction in call.files.items():
        if name in values and direction != "out":
            values[name] = Path(values[name]).read_text()
    url = service.base + _filled(service.resource, values, _in_url)
    given: dict[str, Any] = {"url": url.replace("{", "%7B").replace("}", "%7D")}
    if service.payload is not None:
        is_json = service.payload_type == _JSON
        text = _filled(service.payload, values, _in_json if is_json else _as_is)
        given |= {"data": text, "headers": {"Content-Type": service.payload_type}}
    answer = make_request(service.method)(**given)
    try:
        content = json.loads(answer.content)
    except ValueError:
        content = answer.text
    found = {name: _at(content, keys, url) for name, keys in service.produces.items()}
    if service.updates is not None:
        name, key, source = service.updates
        values[name][key] = found[source]
    results = sorted((int(n[1]), name) for name in found if (n := _RETURN.fullmatch(name)))
    if not results:
        return content
    returned = tuple(found[name] for _, name in results)
    return returned[0] if len(returned) == 1 else returned


def _at(content: Any, keys: Iterable[str], url: str) -> Any:
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise PyCOMPSsException(
                f"{url}: the answer has nothing at {'.'.join(keys)}: {content!r:.200}"
            )
        content = content[key]
    return content


# --- texts


def _filled(text: str, values: Mapping[str, Any], shown: Callable[[Any, bool], str]) -> str:
    """Return a text with parameters in place of their names.

    Parameters
    ----------
    text
        The text.
    values
        The parameters.
    shown
        Returns a value as a text, and gets whether there are quotes around it.
    """

    def value(place: re.Match[str]) -> str:
        if place[1] not in values:
            raise PyCOMPSsException(f"@http: {place[0]}: there is no such parameter")
        is_quoted = text[: place.start()].endswith('"') and text[place.end() :].startswith('"')
        return shown(values[place[1]], is_quoted)

    return _PLACE.sub(value, text)


def _in_url(value: Any, _: bool) -> str:
    return quote(as_word(value), safe="")


def _as_is(value: Any, _: bool) -> str:
    return as_word(value)


def _in_json(value: Any, is_quoted: bool) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    if is_quoted:
        return json.dumps(as_word(value))[1:-1]
    try:
        return json.dumps(value)
    except TypeError:
        raise PyCOMPSsException(
            f"@http: {value!r:.60} cannot be sent as JSON; give numbers, texts, lists or dicts"
        ) from None


def places_of(template: Any, keys: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Return where the names in double braces are in a template of an answer."""
    found: dict[str, tuple[str, ...]] = {}
    if isinstance(template, Mapping):
        for key, value in template.items():
            found |= places_of(value, (*keys, str(key)))
    elif isinstance(template, str) and (place := _PLACE.fullmatch(template)):
        found[place[1]] = keys
    return found


def read_template(text: str) -> dict[str, tuple[str, ...]]:
    """Return where results are in an answer, as ``produces`` says: JSON, also in single quotes.

    Raises
    ------
    PyCOMPSsException
        It is none.
    """
    try:
        read = json.loads(text)
    except ValueError:
        try:
            read = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            read = None
    if not isinstance(read, Mapping):
        raise PyCOMPSsException(f"@http(produces={text!r:.200}) is no JSON object")
    return places_of(read)


# --- services


def base_url(service: str, file: str) -> str:
    """Return where a service is, as a file of COMPSs' resources says.

    Parameters
    ----------
    service
        Its name, or a URL.
    file
        The file; empty: there is none.

    Raises
    ------
    PyCOMPSsException
        It is not known.
    """
    if service.startswith(("http://", "https://")):
        return service
    known = {}
    try:
        for element in ET.parse(file).iter() if file else ():
            if _tag(element) == "Http":
                for below in element:
                    if _tag(below) == "ServiceName":
                        known[(below.text or "").strip()] = element.get("BaseUrl", "")
    except (OSError, ET.ParseError) as error:
        raise PyCOMPSsException(f"the resources {file} cannot be read: {error}") from None
    if service not in known:
        told = f"{file} has {', '.join(known) or 'none'}" if file else "no file is given"
        raise PyCOMPSsException(
            f"@http(service_name={service!r}): where it is, runcompss --resources=FILE says; {told}"
        )
    return known[service]


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


# --- the decorator


def http(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task ask a web service.

    The result is the answer, as JSON has it, or what `produces` takes of it.

    Parameters
    ----------
    **given
        `service_name`; `resource`, the rest of the URL, and `payload`, with parameters as
        ``{{name}}``; `request`, such as ``GET``; `payload_type`, default ``application/json``;
        `produces`, a JSON object that has ``{{return_0}}`` where the result is in the answer;
        `updates`, as ``{{event}}.key = {{name}}``, with a name of `produces`.

    Raises
    ------
    PyCOMPSsException
        One of these is missing, or means nothing.
    """
    needed = ["service_name", "resource", "request"]
    known = ["payload", "payload_type", "produces", "updates"]
    read = read_given("http", args, given, needed, known)
    produces = read_template(read["produces"]) if _is_given(read, "produces") else {}
    if _is_given(read, "updates"):
        update = _UPDATE.fullmatch(read["updates"])
        if update is None or update[3] not in produces:
            raise PyCOMPSsException(
                f"@http(updates={read['updates']!r}): write {{{{parameter}}}}.key = {{{{name}}}}, "
                "with a name that produces has"
            )
    return lambda decorated: set_body(decorated, "http", http_layer, read)


def _is_given(given: Mapping[str, Any], name: str) -> bool:
    return given.get(name) not in (None, "#")


def http_layer(made: TaskFunction, given: Mapping[str, Any]) -> Layer:
    """Return what runs in place of a function below ``@http``."""
    del made
    update = _UPDATE.fullmatch(given["updates"]) if _is_given(given, "updates") else None
    return WebService(
        base_url(str(given["service_name"]), os.environ.get(RESOURCES, "")),
        str(given["resource"]),
        str(given["request"]),
        str(given["payload"]) if _is_given(given, "payload") else None,
        str(given.get("payload_type") or _JSON),
        read_template(given["produces"]) if _is_given(given, "produces") else {},
        None if update is None else (update[1], update[2], update[3]),
    )
