"""An HTTP server of this process, which answers as a test says and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Heard:
    """A request as the server got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Says:
    """An answer."""

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Break the connection off in place of an answer.
    breaks: bool = False


@dataclass
class Server:
    """The server, while it runs."""

    url: str
    #: All requests, in order.
    heard: list[Heard] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[Heard], Says]) -> Iterator[Server]:
    """Run a server that answers each request by a function of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Heard(self.command, self.path, dict(self.headers), body)
            server.heard.append(asked)
            says = answer(asked)
            if says.breaks:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(says.status)
            for name, value in says.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(says.content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(says.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

        def finish(self) -> None:
            with suppress(OSError, ValueError):  # it was broken off
                super().finish()

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = Server(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
