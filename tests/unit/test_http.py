"""HTTP requests: what is sent, what is sent again, and what of it is never told."""

from __future__ import annotations

import json
import pickle
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Heard, Says, Server, serving

import pilot
from pilot.client.http_exchange import Answer, Asked, NoAnswerError, redirected, shown
from pilot.client.http_request import HttpRequest, HttpResponse, wait_before_resend

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for, and no proxy of this machine's is asked."""
    monkeypatch.setattr("pilot.client.http_request.time.sleep", lambda _: None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def echo(asked: Heard) -> Says:
    content = {"method": asked.method, "path": asked.path, "body": asked.body.decode()}
    return Says(200, json.dumps(content).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(echo) as server:
        yield server


def lasting(*answers: Says) -> Any:
    """Answer with these in turn, and with the last one from then on."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


# --- what is sent --------------------------------------------------------------------------------


def test_a_request_and_its_answer(server: Server) -> None:
    ask = pilot.http("post", server.url + "/a?x=1", json={"n": [1, 2]}, params={"y": ["ü &", 2]})
    answer = ask()
    assert answer.status == 200 and answer.tries == 1 and answer.url == f"{server.url}/a?…"
    assert answer.json() == {
        "method": "POST",
        "path": "/a?x=1&y=%C3%BC+%26&y=2",
        "body": '{"n": [1, 2]}',
    }
    (heard,) = server.heard
    assert heard.headers["Content-Type"] == "application/json"
    assert heard.headers["User-Agent"].startswith("pilot/")
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_a_parameter_is_one_part_of_the_url(server: Server) -> None:
    get = pilot.http("GET", server.url + "/items/{id}/x")
    assert get(id="a/../b?c=d #é").json()["path"] == "/items/a%2F..%2Fb%3Fc%3Dd%20%23%C3%A9/x"
    assert get(id=3, url=server.url + "/{id}").json()["path"] == "/3"


@pytest.mark.parametrize(
    ("data", "sent", "kind"),
    [
        (b"\x00b", "\x00b", "application/octet-stream"),
        ("ä", "ä", "text/plain; charset=utf-8"),
        ({"a": [1, 2], "b": "x y"}, "a=1&a=2&b=x+y", "application/x-www-form-urlencoded"),
        (HttpResponse(200, {"content-type": "a/b"}, b"was", ""), "was", "a/b"),
    ],
)
def test_bodies(server: Server, data: Any, sent: str, kind: str) -> None:
    assert pilot.http("PUT", server.url, data=data)().json()["body"] == sent
    assert server.heard[0].headers["Content-Type"] == kind


def test_a_file_is_a_body(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("of a file")
    assert pilot.http("PUT", server.url, data=tmp_path / "f")().json()["body"] == "of a file"
    with pytest.raises(pilot.CommandError, match=r"none cannot be read: No such file"):
        pilot.http("PUT", server.url, data=tmp_path / "none")()


def test_json_has_what_tasks_give(server: Server, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    before = HttpResponse(200, {}, b'{"id": 7}', "")
    given = {"a": numpy.arange(3), "b": numpy.float64(0.5), "p": tmp_path, "r": before, "s": {1}}
    body = pilot.http("POST", server.url, json=given)().json()["body"]
    want = {"a": [0, 1, 2], "b": 0.5, "p": str(tmp_path), "r": {"id": 7}, "s": [1]}
    assert json.loads(body) == want
    with pytest.raises(pilot.CommandError, match="JSON has no way to write a object"):
        pilot.http("POST", server.url, json=object())()


def test_credentials_are_found_when_it_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc\n")
    (tmp_path / "token").write_text("def\n")
    for auth in (("user", "pass"), "env:MY_TOKEN", f"file:{tmp_path}/token"):
        pilot.http("GET", server.url, auth=auth)()
    pilot.http("GET", server.url.replace("//", "//user:pa%73s@"))()
    sent = [heard.headers["Authorization"] for heard in server.heard]
    assert sent == ["Basic dXNlcjpwYXNz", "Bearer abc", "Bearer def", "Basic dXNlcjpwYXNz"]
    for auth, told in (
        ("env:NOT_THERE", "no variable NOT_THERE"),
        (f"file:{tmp_path}/none", "cannot be read"),
        (SECRET, r"give \(user, password\)"),
    ):
        with pytest.raises(pilot.CommandError, match=told) as raised:
            pilot.http("GET", server.url, auth=auth)()
        assert SECRET not in str(raised.value)


def test_headers_of_a_call_go_first_and_break_no_line(server: Server) -> None:
    pilot.http("POST", server.url, json=1, headers={"content-type": "a/json", "X-A": 3})()
    assert server.heard[0].headers["content-type"] == "a/json"
    assert server.heard[0].headers["X-A"] == "3"
    for headers in ({"X-A": f"a\r\n{SECRET}: b"}, {"X A": SECRET}):
        with pytest.raises(pilot.CommandError, match="no header may have") as raised:
            pilot.http("GET", server.url, headers=headers)()
        assert SECRET not in str(raised.value)


# --- what is sent again --------------------------------------------------------------------------


def test_what_may_pass_is_sent_again_under_the_same_key(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(lasting(Says(503), Says(500), Says(breaks=True), Says(201, b"x"))) as server:
        answer = pilot.http("POST", f"{server.url}/{SECRET}".replace(SECRET, "p"), json={})()
    assert (answer.status, answer.text, answer.tries) == (201, "x", 4)
    assert len({heard.headers["Idempotency-Key"] for heard in server.heard}) == 1
    assert capfd.readouterr().err.count("it is sent again in") == 3


def test_each_call_has_a_key_of_its_own_and_gets_none(server: Server) -> None:
    post = pilot.http("POST", server.url)
    post(), post()
    pilot.http("GET", server.url)()
    pilot.http("POST", server.url, idempotency_key=False)()
    keys = [heard.headers.get("Idempotency-Key") for heard in server.heard]
    assert None not in keys[:2] and keys[0] != keys[1] and keys[2:] == [None, None]


def test_a_request_without_a_key_is_not_repeated_when_its_fate_is_unknown() -> None:
    for first in (Says(500), Says(breaks=True)):
        with serving(lasting(first, Says(200))) as server:
            with pytest.raises(pilot.HttpFailed):
                pilot.http("POST", server.url, idempotency_key=False)()
            assert len(server.heard) == 1
    with serving(lasting(Says(503), Says(200))) as server:
        assert pilot.http("POST", server.url, idempotency_key=False)().tries == 2


def test_a_failure_says_what_the_server_said() -> None:
    with serving(lasting(Says(404, b"no such item"))) as server:
        with pytest.raises(pilot.HttpFailed, match="status 404 Not Found") as raised:
            pilot.http("GET", f"{server.url.replace('//', f'//u:{SECRET}@')}/a?key={SECRET}")()
        assert raised.value.status == 404 and "no such item" in str(raised.value)
        assert SECRET not in str(raised.value) and len(server.heard) == 1
        assert pilot.http("GET", server.url, success=[404])().text == "no such item"
    with serving(lasting(Says(503))) as server:
        with pytest.raises(pilot.HttpFailed, match=r"asked 3 times"):
            pilot.http("GET", server.url, resends=2)()


def test_no_answer_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(pilot.HttpFailed, match="no answer in time") as raised:
            pilot.http("GET", f"http://127.0.0.1:{port}", timeout=0.05, resends=0)()
        assert raised.value.status == 0
    with pytest.raises(pilot.HttpFailed, match=r"refused \(asked 2 times\)"):
        pilot.http("POST", f"http://127.0.0.1:{port}", idempotency_key=False, resends=1)()


def test_a_server_that_sends_drop_by_drop_is_left_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not done.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                break
        connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(pilot.HttpFailed, match="in time"):
            pilot.http(
                "GET", f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2, resends=0
            )()
    finally:
        done.set()
        thread.join()
        listener.close()


def answer(status: int, **headers: str) -> Answer:
    return Answer(status, "", headers, b"", "")


def test_the_rule_of_waiting() -> None:
    def wait(
        told: Answer | None,
        failure: NoAnswerError | None,
        tries: int = 1,
        may_repeat: bool = True,
    ) -> float | None:
        return wait_before_resend(told, failure, tries, may_repeat, 1_700_000_000.0)

    assert wait(answer(429, **{"Retry-After": "7"}), None) == 7
    date = "Tue, 14 Nov 2023 22:13:30 GMT"
    assert wait(answer(503, **{"retry-after": date}), None) == 10
    assert wait(answer(503, **{"Retry-After": "100000"}), None) is None
    assert wait(answer(404), None) is None
    assert wait(answer(502), None, may_repeat=False) is None
    assert wait(None, NoAnswerError("", was_sent=True), may_repeat=False) is None
    assert wait(None, NoAnswerError("", was_sent=False), may_repeat=False) is not None
    assert wait(None, NoAnswerError("", was_sent=False, is_final=True)) is None
    waits = [wait(answer(500), None, tries=tries) or 0.0 for tries in range(1, 2000, 100)]
    assert 0.25 <= waits[0] <= 0.5 and all(15 <= later <= 30 for later in waits[1:])


# --- redirects, certificates, proxies ------------------------------------------------------------


def test_redirects_are_followed_and_strangers_get_no_credentials() -> None:
    asked = Asked("POST", "https://a.org/x", {"Authorization": SECRET, "X": "1"}, b"b", True)
    same = redirected(asked, 307, "/y")
    assert same == asked._replace(url="https://a.org/y")
    other = redirected(asked, 302, "https://b.org/z")
    assert (other.method, other.body, dict(other.headers)) == ("GET", None, {"X": "1"})
    for place in ("http://a.org/", "ftp://a.org/", "file:///etc/passwd"):
        with pytest.raises(NoAnswerError):
            redirected(asked, 302, place)


def test_a_redirect_is_the_answer_where_none_is_followed() -> None:
    def to_b(asked: Heard) -> Says:
        return Says(200, b"b") if asked.path == "/b" else Says(302, b"", {"Location": "/b"})

    with serving(to_b) as server:
        assert pilot.http("GET", server.url)().text == "b"
        assert (
            pilot.http("GET", server.url, redirects=0, success=[302])().header("location") == "/b"
        )
        assert len(server.heard) == 3
    with serving(lasting(Says(302, b"", {"Location": "/"}))) as server:
        with pytest.raises(pilot.HttpFailed, match="more than 3 redirects"):
            pilot.http("GET", server.url, redirects=3)()


@pytest.fixture
def https_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server with a certificate of its own making."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made += ["-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                plain, _ = listener.accept()
                plain.settimeout(5)
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"https://localhost:{listener.getsockname()[1]}", certificate
    done.set()
    thread.join()
    listener.close()


def test_servers_are_believed_by_their_certificates(https_server: tuple[str, Path]) -> None:
    url, certificate = https_server
    began = time.monotonic()
    with pytest.raises(pilot.HttpFailed, match=r"certificate of localhost is not trusted.*verify="):
        pilot.http("GET", url)()
    assert time.monotonic() - began < 60
    assert pilot.http("GET", url, verify=certificate)().text == "ok"
    assert pilot.http("GET", url, verify=False)().text == "ok"
    with pytest.raises(pilot.HttpFailed, match=r"none\.pem cannot be read"):
        pilot.http("GET", url, verify=certificate.parent / "none.pem")()


def test_a_proxy_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:pw@"))
    pilot.http("GET", "http://far.example.org/x?y=1")()
    (heard,) = server.heard
    assert heard.path == "http://far.example.org/x?y=1"
    assert heard.headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert pilot.http("GET", server.url + "/near")().json()["path"] == "/near"


# --- what is refused, and what is never told -----------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "GET IT"}, "method="),
        ({"timeout": "soon"}, "timeout: "),
        ({"timeout": 0}, "timeout=0"),
        ({"resends": -1}, "resends=-1"),
        ({"resends": True}, "resends=True"),
        ({"success": [20]}, r"success=\[20\]"),
        ({"verify": 3}, "verify=3"),
        ({"redirects": 1.5}, r"redirects=1\.5"),
        ({"idempotency_key": "x"}, "idempotency_key='x'"),
        ({"cors": 1}, "no option 'cors'"),
    ],
)
def test_options_that_mean_nothing_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(pilot.OptionError, match=told):
        pilot.http(**{"method": "GET", "url": "http://a.org", **given})


@pytest.mark.parametrize("url", ["a.org", "ftp://a.org", "http://", "http://a:b", b"http://a", ""])
def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(pilot.CommandError, match="is no URL"):
        pilot.http("GET", url)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), {"a": [1.0, -float("inf")]}])
def test_numbers_that_json_has_not_are_refused_when_it_is_submitted(number: Any) -> None:
    request = HttpRequest("POST")
    told = r"^the POST request: json: JSON has no numbers that are infinite, or none \(nan\)"
    with pytest.raises(pilot.CommandError, match=told):
        request.check_call((), {"url": "http://h/", "json": number})
    request.check_call((), {"url": "http://h/", "json": {"later": object()}})


def test_calls_are_checked_before_they_are_sent() -> None:
    request = HttpRequest("GET")
    for kwargs, told in (
        ({}, "it has no URL"),
        ({"url": "http://a.org/{id}"}, r"its URL needs \{id\}"),
        ({"url": "http://a.org", "id": 1}, r"no \{id\} in its URL"),
        ({"url": "http://a.org", "json": 1, "data": b""}, "not both"),
    ):
        with pytest.raises(pilot.CommandError, match=told):
            request.check_call((), kwargs)
    with pytest.raises(pilot.CommandError, match="by name"):
        request.check_call(("http://a.org",), {})


def test_nothing_secret_is_shown() -> None:
    url = f"https://u:{SECRET}@a.org:8/p?key={SECRET}#{SECRET}"
    assert shown(url) == "https://a.org:8/p?…"
    line = HttpRequest("POST").line({"url": url, "headers": {"A": SECRET}, "json": SECRET})
    assert line == "POST https://a.org:8/p?… with headers, json"
    assert pilot.http("GET", url).__name__ == "GET a.org"


def test_a_task_needs_no_core_unless_it_says_so() -> None:
    ask = pilot.http("GET", "http://a.org")
    assert ask.kind == "http" and ask.task_options.cores == 0
    other = ask.options(cores=1, name="mine")
    assert other.task_options.cores == 1 and other.__name__ == "mine"
    assert other.preset == ask.preset
    assert pickle.loads(pickle.dumps(ask)).preset == ask.preset
