"""One Redis server on this machine, for tests, demos and benchmarks.

`python -m headrace.testing.redis start|stop|status [--directory DIR]`, and the same as a library.

- It comes from the system's packages (Debian, Ubuntu: `apt-get install redis-server`); nothing is fetched here.
- Everything is in memory: a server that is stopped has forgotten all, unless `settings` say otherwise.

It is made to be quick and small. It is no example for production.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_server import DatabaseServer
from headrace.testing.server_process import find_program

SETTINGS: Mapping[str, str] = {
    "save": "",
    "appendonly": "no",
    # Its title would hide the directory, by which a server is known.
    "set-proc-title": "no",
}


class RedisError(HeadraceError):
    """The test server cannot be started or stopped."""

    code = "testing.redis"
    fault = Fault.STOP


class _Redis(DatabaseServer):
    name, title, user, made = "redis", "Redis", "redis", "made"
    stop_signals, kill_signal = (signal.SIGTERM, signal.SIGKILL), signal.SIGKILL
    error = RedisError

    def check_programs(self) -> None:
        program("redis-server")

    def making(self, data: Path, user: str | None) -> tuple[Sequence[str], str | None]:
        # It makes what it needs as it starts.
        return ["touch", str(data / self.made)], user

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> Sequence[str]:
        given = {**SETTINGS, "dir": str(data), "port": str(port), "bind": "127.0.0.1", **settings}
        return [str(program("redis-server")), *(part for name, value in given.items() for part in (f"--{name}", value))]

    def answers(self, port: int) -> bool:
        """It answers, or asks for a password."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}"


def program(name: str) -> Path:
    """Where this program is. Raises `RedisError`."""
    found = find_program(name)
    if found is None:
        raise RedisError(
            "Redis is not installed",
            cure="install it (Debian: apt-get install redis-server), or set HEADRACE_TEST_REDIS to the URL of a server",
        )
    return found


REDIS = _Redis()
missing_programs, main = REDIS.missing_programs, REDIS.main
start_redis, stop_redis, running_redis = REDIS.start, REDIS.stop, REDIS.running


if __name__ == "__main__":
    sys.exit(main())
