"""One HTTP request over one connection: proxies, redirects, time, and what went wrong.

Python's own client does it, so that a compute node needs nothing more than Python; `http_request`
decides what is asked and what is asked again.

Invariants
----------
- Credentials go to the host that they were given for, and no further: a redirect to another one, or
  to one that is not encrypted, does not get them.
- No text that is told has a password, a query, or a header's value.
- An exchange ends in time: connecting, sending and each wait for data have what is left of it.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from pilot.texts import shortened
from pilot.version import __version__

#: Answers that are larger are refused: they are in the memory of the task, and of all that use it.
MOST_BYTES = 2 << 30
_CHUNK_BYTES = 1 << 20
#: Redirects after which the method is GET, and those that keep it.
_TO_GET, _KEEPING = (301, 302, 303), (307, 308)
#: Headers that are for one host alone.
_PRIVATE = ("authorization", "cookie", "proxy-authorization", "idempotency-key")
#: Headers of a body, which goes with it.
_OF_BODY = ("content-type", "content-length")


class Asked(NamedTuple):
    """A request as it is sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    #: True: the certificates of the system; False: none is looked at; or a file or directory.
    verify: bool | str


class Answer(NamedTuple):
    """The answer of a server."""

    status: int
    reason: str
    headers: dict[str, str]
    content: bytes
    #: Where it came from in the end.
    url: str


class NoAnswerError(Exception):
    """No answer has come."""

    def __init__(self, told: str, *, was_sent: bool, is_final: bool = False) -> None:
        super().__init__(told)
        #: True if the server may have acted on the request.
        self.was_sent = was_sent
        #: True if it would be the same the next time.
        self.is_final = is_final


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return shortened(url.partition("?")[0], 200)
    more = "?…" if parts.query else ""
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(bare.geturl(), 500) + more


def exchange(asked: Asked, redirects: int, timeout_s: float) -> Answer:
    """Send a request, follow redirects, and return the answer.

    Raises
    ------
    NoAnswerError
        There is none.
    """
    deadline = time.monotonic() + timeout_s
    left = redirects
    while True:
        answer = _ask_once(asked, deadline)
        place = next((v for name, v in answer.headers.items() if name.lower() == "location"), "")
        if not redirects or answer.status not in (*_TO_GET, *_KEEPING) or not place:
            return answer
        if not left:
            raise NoAnswerError(
                f"more than {redirects} redirects, the last one to {shown(place)}",
                was_sent=True,
                is_final=True,
            )
        left -= 1
        asked = redirected(asked, answer.status, place)


def redirected(asked: Asked, status: int, place: str) -> Asked:
    """Return the request to which a redirect leads.

    Raises
    ------
    NoAnswerError
        It leads to where no request goes.
    """
    url = urljoin(asked.url, place)
    old, new = urlsplit(asked.url), urlsplit(url)
    if new.scheme not in ("http", "https") or not new.hostname:
        raise NoAnswerError(f"a redirect to {shown(url)}", was_sent=True, is_final=True)
    if old.scheme == "https" and new.scheme != "https":
        raise NoAnswerError(
            f"a redirect to {shown(url)}, which is not encrypted; it is not followed",
            was_sent=True,
            is_final=True,
        )
    headers, method, body = dict(asked.headers), asked.method, asked.body
    if (old.hostname, _port(old)) != (new.hostname, _port(new)):
        headers = {name: v for name, v in headers.items() if name.lower() not in _PRIVATE}
    if status in _TO_GET and method not in ("GET", "HEAD"):
        method, body = "GET", None
        headers = {name: v for name, v in headers.items() if name.lower() not in _OF_BODY}
    return asked._replace(method=method, url=url, headers=headers, body=body)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _ask_once(asked: Asked, deadline: float) -> Answer:
    """Send a request over a connection of its own, and read the answer."""
    parts = urlsplit(asked.url)
    connection, target, for_proxy = _connection(asked, parts, deadline)
    was_sent = False
    try:
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise NoAnswerError(
                f"the certificate of {parts.hostname} is not trusted ({error.verify_message}); "
                "name the file of its authority by verify=",
                was_sent=False,
                is_final=True,
            ) from None
        sock = connection.sock
        was_sent = True
        sock.settimeout(_left(deadline))
        connection.request(asked.method, target, asked.body, {**asked.headers, **for_proxy})
        sock.settimeout(_left(deadline))
        response = connection.getresponse()
        content = bytearray()
        # A response that is whole closes itself, and with it maybe the socket: when it does depends
        # on Python's version.
        while not response.isclosed():
            sock.settimeout(_left(deadline))
            chunk = response.read1(_CHUNK_BYTES)
            if not chunk:
                break
            content += chunk
            if len(content) > MOST_BYTES:
                raise NoAnswerError(
                    f"the answer has more than {MOST_BYTES >> 30} GiB", was_sent=True, is_final=True
                )
        if response.length:
            raise NoAnswerError("the connection ended in the middle of the answer", was_sent=True)
        headers: dict[str, str] = {}
        for name, value in response.getheaders():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(response.status, response.reason, headers, bytes(content), shown(asked.url))
    except TimeoutError:
        what = "no answer" if was_sent else "no connection"
        raise NoAnswerError(f"{what} in time (timeout=)", was_sent=was_sent) from None
    except (OSError, http.client.HTTPException) as error:
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAnswerError(told, was_sent=was_sent) from None
    finally:
        connection.close()


def _left(deadline: float) -> float:
    """Return the time that is left.

    Raises
    ------
    TimeoutError
        There is none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connection(
    asked: Asked, parts: SplitResult, deadline: float
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return the connection for a URL, which is not open yet, what is asked for on it, and the
    headers that are for a proxy."""
    host, port = parts.hostname or "", _port(parts)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme, proxies.get("all", ""))
    if proxy and urllib.request.proxy_bypass(host):
        proxy = ""
    timeout_s = _left(deadline)
    if not proxy:
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s), path, {}
        context = _context(asked.verify)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context), path, {}
    via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    where, behind = via.hostname or "", via.port or 3128
    headers = {}
    if via.username:
        words = f"{unquote(via.username)}:{unquote(via.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(words.encode()).decode()}"
    if parts.scheme == "https":
        context = _context(asked.verify)
        tunnel = http.client.HTTPSConnection(where, behind, timeout=timeout_s, context=context)
        tunnel.set_tunnel(host, port, headers)
        return tunnel, path, {}
    plain = http.client.HTTPConnection(where, behind, timeout=timeout_s)
    return plain, f"http://{parts.netloc.rpartition('@')[2]}{path}", headers


def _context(verify: bool | str) -> ssl.SSLContext:
    """Return what decides which server is believed.

    Raises
    ------
    NoAnswerError
        The certificates that were named cannot be read.
    """
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    try:
        if verify is True:
            return ssl.create_default_context()
        context = ssl.create_default_context()
        context.load_verify_locations(*_places(verify))
        return context
    except (OSError, ssl.SSLError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise NoAnswerError(
            f"the certificates in {verify} cannot be read: {told}", was_sent=False, is_final=True
        ) from None


def _places(path: str) -> tuple[str | None, str | None]:
    from pathlib import Path

    place = Path(path).expanduser()
    return (None, str(place)) if place.is_dir() else (str(place), None)


def user_agent() -> str:
    """Return the name by which servers know Pilot."""
    return f"pilot/{__version__}"
