"""HTTP tasks: what `http` makes a task of, what is asked again and when, and the answer.

The URL, the headers and the body are arguments of the task, so that futures may stand anywhere in
them; what is the same for all calls (the method, the limits) is its function. It needs no core: it
waits for the server most of the time.

Invariants
----------
- What may have been acted upon is asked again only where that does no harm: the method promises so,
  or the request has an ``Idempotency-Key``, which is the same in each try and each attempt.
- No credential is in a name, an error or a log.
"""

from __future__ import annotations

import base64
import email.utils
import json as json_text
import os
import random
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct

from pilot.client.command import CommandResult
from pilot.client.task import HTTP, OptionError, Task
from pilot.errors import CommandError, HttpFailed
from pilot.pickled import pickled_name, public
from pilot.scheduler.resources import parse_duration_s
from pilot.texts import shortened

if TYPE_CHECKING:
    from pilot.client.http_exchange import Answer, NoAnswerError

#: The argument by which the server knows a request again, made when it is submitted.
KEY = "_pilot_key"
#: The parts of a request, which a call may give.
PARTS = ("url", "params", "headers", "json", "data", "auth")
#: Methods that may be repeated, since the second time changes nothing.
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
#: Answers that may be others the next time; of the first two the server has done nothing.
_UNTOUCHED = (429, 503)
_PASSING = (408, 425, *_UNTOUCHED, 500, 502, 504)
#: The first and the longest wait before a request is sent again, in seconds, and the longest for
#: which a server may ask.
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LONGEST_ASKED_S = 0.5, 30.0, 600.0
#: So much of the answer is told in an error.
_TOLD = 300
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,63}")


@public
class HttpResponse(Struct, frozen=True):
    """The answer to an HTTP request. In JSON of another request it stands for its own JSON, in a
    URL or a header for its text."""

    status: int
    #: By the names that the server has given; `header` takes any case.
    headers: dict[str, str]
    content: bytes
    #: Where it came from, after redirects, without its query.
    url: str
    #: How often the request was sent.
    tries: int = 1

    def header(self, name: str, default: str = "") -> str:
        """Return a header, in whatever case its name is written."""
        return next((v for n, v in self.headers.items() if n.lower() == name.lower()), default)

    @property
    def text(self) -> str:
        """The content as text, by the character set that the server names, or UTF-8."""
        found = re.search(r"charset=\"?([\w-]+)", self.header("Content-Type"))
        try:
            return self.content.decode(found[1] if found else "utf-8", errors="replace")
        except LookupError:
            return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Return the content as JSON.

        Raises
        ------
        HttpFailed
            It is none.
        """
        try:
            return json_text.loads(self.content)
        except ValueError as error:
            raise HttpFailed(
                f"{self.url}: the answer is no JSON ({error}): {_beginning(self.content)}",
                self.status,
            ) from None

    def __str__(self) -> str:
        return self.text.strip()


@pickled_name
class HttpRequest(Struct, frozen=True):
    """The parts that all calls of an HTTP task have in common. Calling it sends a request."""

    method: str
    #: Statuses that mean success; empty: 200 to 299.
    success: tuple[int, ...] = ()
    #: The time for one try, in seconds.
    timeout_s: float = 60.0
    #: How often it is sent again.
    resends: int = 4
    verify: bool | str = True
    #: How many redirects are followed.
    redirects: int = 10
    #: Where the method does not promise that a repetition does no harm: send a key by which the
    #: server knows it again.
    has_key: bool = True

    @property
    def __name__(self) -> str:
        return self.method

    def check_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check that a call gives what the request needs, as far as that is known before it runs.

        Raises
        ------
        CommandError
            A part is missing, unknown or invalid.
        """
        if args:
            raise self._wrong(f"give the parts of a request by name: {', '.join(PARTS)}")
        url = kwargs.get("url")
        if url is None:
            raise self._wrong("it has no URL")
        self.check_url(url)
        if kwargs.get("json") is not None and kwargs.get("data") is not None:
            raise self._wrong("give json= or data=, not both")
        if (given := kwargs.get("json")) is not None:
            self._json(
                given, lambda _: None
            )  # what is no JSON yet, such as a future, may become it
        if isinstance(url, str):
            fields = _fields(url)
            given = {name for name in kwargs if name not in PARTS and name[:7] != "_pilot_"}
            if missing := fields - given:
                name = min(missing)
                raise self._wrong(f"its URL needs {{{name}}}; call submit({name}=…)")
            if unknown := given - fields:
                name = min(unknown)
                raise self._wrong(
                    f"there is no {{{name}}} in its URL; the parts are {', '.join(PARTS)}"
                )

    def check_url(self, url: object) -> None:
        """Check a URL, if it is a text already.

        Raises
        ------
        CommandError
            It is none.
        """
        if isinstance(url, (bytes, Path)) or (isinstance(url, str) and not _is_url(url)):
            raise self._no_url(str(url))

    def keyed(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call with a key for it, where it needs one."""
        if not self.has_key or self.method in _REPEATABLE:
            return kwargs
        return {**kwargs, KEY: str(uuid.uuid4())}

    def host(self, kwargs: Mapping[str, Any]) -> str:
        """Return the host to which a call goes; empty where that is not known yet."""
        url = kwargs.get("url")
        if not isinstance(url, str):
            return ""
        host = urlsplit(_FIELD.sub("0", url)).hostname or ""
        return "" if "{" in urlsplit(url).netloc else host

    def line(self, kwargs: Mapping[str, Any]) -> str:
        """Return the request in words that hold nothing secret."""
        from pilot.client.http_exchange import shown

        url = kwargs.get("url")
        parts = [name for name in PARTS[1:] if kwargs.get(name) is not None]
        told = shown(url) if isinstance(url, str) else repr(url)
        return f"{self.method} {told}" + (f" with {', '.join(parts)}" if parts else "")

    def __call__(self, *args: Any, **kwargs: Any) -> HttpResponse:
        """Send the request, again and again where that may help; return the answer.

        Raises
        ------
        HttpFailed
            The answer is no success, or there is none.
        CommandError
            A part of the request is invalid.
        """
        from pilot.client.http_exchange import Asked, NoAnswerError, exchange, shown

        self.check_call(args, kwargs)
        url, headers, body = self._made(kwargs)
        asked = Asked(self.method, url, headers, body, self.verify)
        may_repeat = self.method in _REPEATABLE or any(
            name.lower() == "idempotency-key" for name in headers
        )
        line = f"{self.method} {shown(url)}"
        tries = 0
        while True:
            tries += 1
            answer: Answer | None = None
            failure: NoAnswerError | None = None
            try:
                answer = exchange(asked, self.redirects, self.timeout_s)
            except NoAnswerError as error:
                failure = error
            if answer is not None and self._is_success(answer.status):
                return HttpResponse(
                    answer.status, answer.headers, answer.content, answer.url, tries
                )
            told = f"{line}: {_told(answer, failure)}"
            wait_s = wait_before_resend(answer, failure, tries, may_repeat, time.time())
            if wait_s is None or tries > self.resends:
                times = f" (asked {tries} times)" if tries > 1 else ""
                raise HttpFailed(told + times, answer.status if answer else 0)
            first = told.partition("\n")[0]
            sys.stderr.write(f"{first}; it is sent again in {wait_s:.1f} s\n")
            sys.stderr.flush()
            time.sleep(wait_s)

    def _is_success(self, status: int) -> bool:
        return status in self.success if self.success else 200 <= status < 300

    def _made(self, kwargs: Mapping[str, Any]) -> tuple[str, dict[str, str], bytes | None]:
        """Return the URL, the headers and the body of a call.

        Raises
        ------
        CommandError
            One of them cannot be made.
        """
        from pilot.client.http_exchange import user_agent

        url = str(kwargs["url"])
        if not _is_url(url):
            raise self._no_url(url)
        if isinstance(kwargs["url"], str):
            url = _FIELD.sub(lambda found: quote(_plain(kwargs[found[1]]), safe=""), url)
        if params := kwargs.get("params"):
            url += ("&" if urlsplit(url).query else "?") + urlencode(_pairs(params), doseq=True)
        url = quote(url.partition("#")[0], safe="%/:=&?~#+!$,;'@()*[]")
        headers = {"User-Agent": user_agent(), "Accept": "*/*"}
        body: bytes | None = None
        if (given := kwargs.get("json")) is not None:
            body = self._json(given, _for_json)
            headers["Content-Type"] = "application/json"
        elif (given := kwargs.get("data")) is not None:
            body, kind = self._data(given)
            headers["Content-Type"] = kind
        elif self.method in ("POST", "PUT", "PATCH"):
            body = b""
        headers |= self._credentials(kwargs.get("auth"), url)
        if self.has_key and self.method not in _REPEATABLE:
            headers["Idempotency-Key"] = kwargs.get(KEY) or str(uuid.uuid4())
        for name, value in dict(kwargs.get("headers") or {}).items():
            text = _plain(value)
            # Not the value: it may be a credential.
            if not _TOKEN.fullmatch(str(name)) or any(ord(c) < 32 for c in text):
                raise self._wrong(f"the header {name!r:.60} has characters that no header may have")
            headers = {n: v for n, v in headers.items() if n.lower() != str(name).lower()}
            headers[str(name)] = text.encode().decode("latin-1")
        parts = urlsplit(url)
        if parts.username is not None:
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return url, headers, body

    def _json(self, given: Any, otherwise: Callable[[Any], Any]) -> bytes:
        try:
            return json_text.dumps(given, default=otherwise, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            told = str(error)
            if told.startswith("Out of range float"):
                told = "JSON has no numbers that are infinite, or none (nan); send None or a text"
            raise self._wrong(f"json: {told}") from None

    def _data(self, given: Any) -> tuple[bytes, str]:
        if isinstance(given, HttpResponse):
            return given.content, given.header("Content-Type", "application/octet-stream")
        if isinstance(given, (bytes, bytearray, memoryview)):
            return bytes(given), "application/octet-stream"
        if isinstance(given, str):
            return given.encode(), "text/plain; charset=utf-8"
        if isinstance(given, Mapping):
            return urlencode(_pairs(given), doseq=True).encode(), (
                "application/x-www-form-urlencoded"
            )
        if isinstance(given, os.PathLike):
            try:
                return Path(given).read_bytes(), "application/octet-stream"
            except OSError as error:
                raise self._wrong(
                    f"data: {os.fspath(given)} cannot be read: {error.strerror}"
                ) from None
        raise self._wrong(
            f"data is a {type(given).__name__}; give bytes, a text, a Path, or a dict for a form"
        )

    def _credentials(self, auth: Any, url: str) -> dict[str, str]:
        """Return the header that says who asks."""
        if auth is None:
            parts = urlsplit(url)
            if parts.username is None:
                return {}
            from urllib.parse import unquote

            auth = (unquote(parts.username), unquote(parts.password or ""))
        if isinstance(auth, str):
            kind, _, where = auth.partition(":")
            if kind == "env":
                if where not in os.environ:
                    raise self._wrong(
                        f"auth: there is no variable {where} where the task runs; give it by "
                        "environment.variables of site.yaml, or Session(variables=…)"
                    )
                token = os.environ[where]
            elif kind == "file":
                try:
                    token = Path(where).expanduser().read_text()
                except (OSError, UnicodeDecodeError) as error:
                    told = getattr(error, "strerror", "") or "it is no text"
                    raise self._wrong(f"auth: {where} cannot be read: {told}") from None
            else:
                raise self._wrong(_AUTH)
            if not token.strip().isprintable():
                raise self._wrong(f"auth: {where} holds more than one line")
            return {"Authorization": f"Bearer {token.strip()}"}
        if isinstance(auth, (tuple, list)) and len(auth) == 2:
            words = ":".join(map(_plain, auth)).encode()
            return {"Authorization": f"Basic {base64.b64encode(words).decode()}"}
        raise self._wrong(_AUTH)

    def _no_url(self, url: str) -> CommandError:
        from pilot.client.http_exchange import shown

        return self._wrong(f"{shown(url)!r} is no URL; write http://… or https://…")

    def _wrong(self, told: str) -> CommandError:
        return CommandError(f"the {self.method} request: {told}")


_AUTH = (
    "auth: give (user, password), or the place of a token: 'env:NAME' of a variable, 'file:PATH'"
)


def wait_before_resend(
    answer: Answer | None,
    failure: NoAnswerError | None,
    tries: int,
    may_repeat: bool,
    now: float,
) -> float | None:
    """Return how long to wait before a request is sent again, in seconds; None: it is not.

    Parameters
    ----------
    answer, failure
        What came of the last try: an answer that is no success, or none.
    tries
        How often it was sent.
    may_repeat
        True if the server may see it twice.
    now
        Seconds since the epoch.
    """
    asked: float | None = None
    if answer is not None:
        if answer.status not in (_PASSING if may_repeat else _UNTOUCHED):
            return None
        asked = _retry_after(answer.headers, now)
    elif failure is not None and (failure.is_final or (failure.was_sent and not may_repeat)):
        return None
    if asked is not None:
        return asked if asked <= _LONGEST_ASKED_S else None
    wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(tries - 1, 10))
    # Many tasks that were refused together do not come back together.
    return wait_s * random.uniform(0.5, 1.0)


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return for how long a server asks to be left alone; None: it does not say."""
    text = next((v for name, v in headers.items() if name.lower() == "retry-after"), "").strip()
    if text.isdecimal():
        return float(text) if len(text) < 10 else _LONGEST_ASKED_S + 1
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None


def _told(answer: Answer | None, failure: NoAnswerError | None) -> str:
    if answer is None:
        return str(failure)
    told = f"status {answer.status} {answer.reason}".rstrip()
    beginning = _beginning(answer.content)
    return f"{told}\n{beginning}" if beginning else told


def _beginning(content: bytes) -> str:
    return shortened(content[: 4 * _TOLD].decode(errors="replace").strip(), _TOLD)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port if "{" not in parts.netloc else None
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and "\n" not in text


def _fields(url: str) -> set[str]:
    return {found[1] for found in _FIELD.finditer(url)}


def _plain(value: Any) -> str:
    """Return a value as it stands in a URL or a header."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _pairs(given: Any) -> list[tuple[str, Any]]:
    items = given.items() if isinstance(given, Mapping) else given
    return [
        (str(name), [_plain(each) for each in value])
        if isinstance(value, (list, tuple))
        else (str(name), _plain(value))
        for name, value in items
        if value is not None
    ]


def _for_json(value: Any) -> Any:
    """Return a value in a form that JSON has.

    Raises
    ------
    TypeError
        There is none.
    """
    if isinstance(value, HttpResponse):
        return value.json()
    if isinstance(value, (CommandResult, os.PathLike)):
        return str(value)
    for name in ("tolist", "isoformat"):  # of NumPy, and of times
        if callable(made := getattr(value, name, None)):
            return made()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"JSON has no way to write a {type(value).__name__}")


# --- the task ------------------------------------------------------------------------------------


@public
def http(
    method: str,
    url: Any,
    *,
    params: Any = None,
    headers: Any = None,
    json: Any = None,
    data: Any = None,
    auth: Any = None,
    timeout: float | str = 60.0,
    resends: int = 4,
    success: Iterable[int] = (),
    verify: bool | str | os.PathLike[str] = True,
    redirects: int = 10,
    idempotency_key: bool = True,
    **options: Any,
) -> Task[..., HttpResponse]:
    """Make an HTTP request a task: ``http("POST", url, json={"mesh": future}).submit()``.

    It needs no core, and its result is an `HttpResponse`. The parts of the request may be futures,
    or hold them at any depth; ``submit`` may give others in their places. ``{name}`` in the URL
    stands for a value that ``submit(name=…)`` gives.

    Parameters
    ----------
    method
        ``GET``, ``POST``, …
    url
        The URL; ``{name}`` is a parameter, which is written as one part of it, whatever it is.
    params, headers
        What is added to the URL's query, and headers, by name.
    json, data
        The body: anything that JSON has, or bytes, a text, a file (a `Path`), or a dict for a form.
    auth
        A user and a password, or where a token is found when the task runs: ``"env:NAME"``,
        ``"file:PATH"``.
    timeout
        The time for one try, as ``"30s"``, or seconds.
    resends
        How often it is sent again after what may pass: no connection, 429, 503, other errors of the
        server.
    success
        Statuses that mean success; 200 to 299 by default.
    verify
        The certificates by which a server is believed: those of the system (True), of a file or
        directory, or any (False).
    redirects
        How many redirects are followed.
    idempotency_key
        Send a key with POST and PATCH, by which a server knows a repetition; False: then they are
        sent again only where the server has done nothing.
    **options
        See `Options`; ``cores`` is 0 by default.

    Raises
    ------
    OptionError
        There is no such option, or a value has no meaning.
    CommandError
        The URL is none.
    """
    given = {"url": url, "params": params, "headers": headers, "json": json, "data": data}
    return http_task(
        make_request(
            method,
            timeout=timeout,
            resends=resends,
            success=success,
            verify=verify,
            redirects=redirects,
            idempotency_key=idempotency_key,
        ),
        {name: value for name, value in {**given, "auth": auth}.items() if value is not None},
        options,
    )


def http_task(
    request: HttpRequest, preset: Mapping[str, Any], options: Mapping[str, Any]
) -> Task[..., HttpResponse]:
    """Return the task of a request, with the parts that each call has."""
    url = preset.get("url")
    request.check_url(url)
    host = request.host(preset)
    named = {"name": f"{request.method} {host}"} if host else {}
    given = {"cores": 0, **named, **options}
    return Task(cast("Callable[..., HttpResponse]", request), HTTP, given, preset)


def make_request(
    method: Any,
    *,
    timeout: Any = 60.0,
    resends: Any = 4,
    success: Any = (),
    verify: Any = True,
    redirects: Any = 10,
    idempotency_key: Any = True,
) -> HttpRequest:
    """Return what all calls of an HTTP task have in common; the parameters are those of `http`.

    Raises
    ------
    OptionError
        A value has no meaning.
    """
    if not isinstance(method, str) or not re.fullmatch(r"[A-Za-z]{1,20}", method):
        raise OptionError(f"method={method!r:.60}: give one such as GET or POST")
    try:
        timeout_s = parse_duration_s(timeout)
    except ValueError as error:
        raise OptionError(f"timeout: {error}") from None
    if not 0 < timeout_s <= 86400:
        raise OptionError(f"timeout={timeout!r}: give a time above 0, and at most a day")
    for name, number, most in (("resends", resends, 100), ("redirects", redirects, 100)):
        if type(number) is not int or not 0 <= number <= most:
            raise OptionError(f"{name}={number!r:.60}: give a whole number from 0 to {most}")
    statuses = tuple(success) if isinstance(success, Iterable) else (success,)
    if not all(type(status) is int and 100 <= status <= 599 for status in statuses):
        raise OptionError(f"success={success!r:.60}: give HTTP statuses, such as [200, 404]")
    if not isinstance(verify, (bool, str, os.PathLike)):
        raise OptionError(f"verify={verify!r:.60}: give True, False, or a file or directory")
    if not isinstance(idempotency_key, bool):
        raise OptionError(f"idempotency_key={idempotency_key!r:.60}: give True or False")
    return HttpRequest(
        method.upper(),
        statuses,
        timeout_s,
        resends,
        verify if isinstance(verify, bool) else os.fspath(verify),
        redirects,
        idempotency_key,
    )
