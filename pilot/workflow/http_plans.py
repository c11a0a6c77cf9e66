"""The HTTP requests of a workflow file, as plans: what `pilot.client.http_request` is called with.

Pure: an entry with ``http`` comes in, what all its calls have in common and what each of them is
given go out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from msgspec import UNSET

from pilot.client.http_request import PARTS, HttpRequest, make_request
from pilot.errors import PilotError
from pilot.site_configs.yamlfile import YamlPath
from pilot.workflow.problems import Wrong
from pilot.workflow.references import Compiled, compiled
from pilot.workflow.schema import TaskEntry

#: Keys that say how a request is sent, and those that are parts of it.
_MANNERS = ("timeout", "resends", "verify", "redirects", "idempotency_key")
_GIVEN_PARTS = PARTS[1:]
#: Keys that mean something for HTTP requests only.
HTTP_KEYS = (*_GIVEN_PARTS, *_MANNERS)
#: The parts of an answer that references name.
HTTP_ATTRIBUTES = ("status", "text", "json", "headers")


@dataclass(frozen=True)
class HttpPlan:
    """A request: what all its calls have in common, and what each is given."""

    request: HttpRequest
    kwargs: Mapping[str, Compiled]


def http_plan(entry: TaskEntry, path: YamlPath) -> HttpPlan:
    """Return the plan of the request of an entry with ``http``.

    Raises
    ------
    Wrong
        It is not a method and a URL, or a key has no meaning.
    """
    method, _, url = (entry.http or "").strip().partition(" ")
    if not url.strip():
        raise Wrong((*path, "http"), f"{entry.http!r}: write a method and a URL, as GET https://…")
    manners = {key: getattr(entry, key) for key in _MANNERS if getattr(entry, key) is not UNSET}
    for key, value in {"method": method, "success": entry.success or (), **manners}.items():
        try:
            make_request(**{"method": "GET", key: value})
        except PilotError as error:
            told = str(error).removeprefix(f"{key}=").removeprefix(f"{key}: ")
            raise Wrong((*path, "http" if key == "method" else key), told) from None
    kwargs = {name: compiled(value, (*path, "with", name)) for name, value in entry.with_.items()}
    for name in kwargs:
        if name in PARTS:
            raise Wrong((*path, "with", name), f"{name!r} is a key of its own, beside 'http'")
    kwargs["url"] = compiled(url.strip(), (*path, "http"))
    for key in _GIVEN_PARTS:
        if (value := getattr(entry, key)) is not UNSET:
            kwargs[key] = compiled(value, (*path, key))
    request = make_request(method, success=entry.success or (), **manners)
    return HttpPlan(request, kwargs)


def wrong_http_keys(entry: TaskEntry, path: YamlPath) -> Iterator[Wrong]:
    """Yield the keys that mean something for HTTP requests only, of an entry that is none."""
    for key in HTTP_KEYS:
        if getattr(entry, key) is not UNSET:
            yield Wrong((*path, key), f"{key!r} goes with 'http' only")
