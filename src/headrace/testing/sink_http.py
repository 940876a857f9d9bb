"""A receiver of webhooks: a real HTTP server that remembers what came and answers as it is told.

Owns the receiver and the egress that posts to it, for tests of the HTTP connector.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Mode
from headrace.testing.sink_harness import TOPIC


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

    def ids(self) -> list[int]:
        """Of all rows that were taken, in their order."""
        return [row["id"] for request in self.taken for row in request.rows]

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


def webhook_config(url: str, mode: Mode = Mode.APPEND, *, batch: Any = None, **options: Any) -> EgressConfig:
    """An egress to this address with small batches and short pauses."""
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "http",
        "mode": mode,
        "options": {"url": url, **options},
        "batch": batch or {"rows_max": 50, "age_max_ms": 20},
        "retry": {"first_ms": 10, "max_ms": 50},
    }
    return EgressConfig.model_validate(values)


def answering(reply: Reply, when: Callable[[Any], bool]) -> Callable[[Received], Reply]:
    """This answer to requests with such a row, 204 to others."""
    return lambda request: reply if any(when(row) for row in request.rows) else OK


def once(replies: Sequence[Reply]) -> Callable[[Received], Reply]:
    """These answers in turn, then 204."""
    left = list(replies)
    return lambda _: left.pop(0) if left else OK


def with_certificate(receiver: Receiver, folder: Path) -> Path:
    """Have the receiver speak TLS, for the name localhost; returns the certificate."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", *kind, "-keyout", str(key), "-out", str(certificate), *names]
    subprocess.run(command, check=True, capture_output=True)
    receiver.stop()
    receiver.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    receiver.tls.load_cert_chain(certificate, key)
    receiver.start()
    return certificate
