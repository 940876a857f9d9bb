"""A receiver of webhooks: a real HTTP server that remembers what came and answers as it is told."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def rows(self) -> list[Any]:
        """What it carries, whatever the format."""
        if self.headers["content-type"] == "application/x-ndjson":
            return [json.loads(line) for line in self.body.splitlines()]
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]


Reply = tuple[int, Mapping[str, str], bytes]
OK: Reply = (204, {}, b"")


@dataclass
class Receiver:
    """Answers 204 unless `reply` says something else."""

    received: list[Received] = field(default_factory=list)
    """Whatever was asked, in the order of coming in."""
    taken: list[Received] = field(default_factory=list)
    """What was answered with 2xx."""
    reply: Callable[[Received], Reply] = lambda _: OK
    port: int = 0
    tls: ssl.SSLContext | None = None
    under_way: int = 0
    under_way_most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    server: ThreadingHTTPServer | None = None
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://localhost:{self.port}"

    def start(self) -> None:
        """At the port that it had, if it had one."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                length = int(headers["content-length"])
                body = self.rfile.read(length)
                if len(body) < length:  # Its sender was killed in the middle: this is no request.
                    self.close_connection = True
                    return
                status, more, text = receiver.take(Received(self.path, headers, body))
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def process_request(self, request: Any, client_address: Any) -> None:
                receiver.connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, *_: Any) -> None:
                """A client that goes away in the middle is what some tests are about."""

        self.server = Server(("127.0.0.1", self.port), Handler)
        if self.tls is not None:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Takes no connection any more, and breaks those that it has."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def take(self, request: Received) -> Reply:
        with self.lock:
            self.received.append(request)
            self.under_way += 1
            self.under_way_most = max(self.under_way, self.under_way_most)
        try:
            reply = self.reply(request)
        finally:
            with self.lock:
                self.under_way -= 1
        if reply[0] < 300:
            with self.lock:
                self.taken.append(request)
        return reply


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    found.start()
    yield found
    found.stop()
