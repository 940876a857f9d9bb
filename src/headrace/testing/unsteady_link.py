"""A TCP connection that breaks where a test wants it to.

Owns a port of 127.0.0.1 and whatever is connected through it; the server behind it is somebody else's.

- Faults hold until `mend`; a connection that broke is closed at both ends.
- A link that is down refuses connections; it comes back on the same port.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

PIECE_BYTES = 16 * 1024


class UnsteadyLink:
    """Use it as a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._request_bytes_max: int | None = None
        self._loses_replies = False
        self.broken = 0
        """Connections that a fault has closed."""
        self.port = 0

    def __enter__(self) -> UnsteadyLink:
        self.come_back()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut_requests(self, after_bytes: int) -> None:
        """Pass so many bytes of each new connection to the server, then break it."""
        self._request_bytes_max = after_bytes
        self._close_connections()

    def lose_replies(self) -> None:
        """Pass requests, and break at the first byte of a reply."""
        self._loses_replies = True

    def mend(self) -> None:
        """No more faults."""
        self._request_bytes_max, self._loses_replies = None, False

    def go_down(self) -> None:
        """Close everything and refuse connections. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Wakes the thread that waits in accept.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._close_connections()

    def come_back(self) -> None:
        """Take connections, on the port that it had before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open |= {client, server}
                for pump in (self._pass_requests, self._pass_replies):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        passed, most = 0, self._request_bytes_max
        with suppress(OSError):
            while piece := client.recv(PIECE_BYTES):
                if most is not None and passed + len(piece) > most:
                    server.sendall(piece[: most - passed])
                    self.broken += 1
                    break
                passed += len(piece)
                server.sendall(piece)
        self._close(client, server)

    def _pass_replies(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while piece := server.recv(PIECE_BYTES):
                if self._loses_replies:
                    self.broken += 1
                    break
                client.sendall(piece)
        self._close(client, server)

    def _close_connections(self) -> None:
        with self._lock:
            found = tuple(self._open)
        self._close(*found)

    def _close(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(sockets)
        for each in sockets:
            # A close alone does not wake the other thread.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
