"""One MariaDB server on this machine, for tests, demos and benchmarks.

`python -m headrace.testing.mariadb start|stop|status [--directory DIR]`, and the same as a library.

- It comes from the system's packages (Debian, Ubuntu: `apt-get install mariadb-server`); nothing is fetched here.
- It writes the binary log that capture needs, and `root` enters without a password.

It is made to be quick and small: it does not wait for the disk. It is no example for production.
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
    # What capture needs of production too.
    "log-bin": "binlog",
    "server-id": "1",
    "binlog-format": "ROW",
    "binlog-row-image": "FULL",
    "binlog-row-metadata": "FULL",
    "skip-name-resolve": "ON",
    "max-connections": "100",
    "performance-schema": "OFF",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "64M",
    # Nobody needs this data after a crash of the machine.
    "innodb-flush-log-at-trx-commit": "0",
    "sync-binlog": "0",
    "innodb-doublewrite": "OFF",
}


class MariadbError(HeadraceError):
    """The test server cannot be started or stopped."""

    code = "testing.mariadb"
    fault = Fault.STOP


class _Mariadb(DatabaseServer):
    name, title, user, made = "mariadb", "MariaDB", "mysql", "mysql"
    stop_signals, kill_signal = (signal.SIGTERM, signal.SIGKILL), signal.SIGKILL
    error = MariadbError

    def check_programs(self) -> None:
        program("mariadbd")
        program("mariadb-install-db")

    def making(self, data: Path, user: str | None) -> tuple[Sequence[str], str | None]:
        options = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        # It becomes this user by itself.
        own = [] if user is None else [f"--user={user}"]
        return [str(program("mariadb-install-db")), *options, *own, "--innodb-flush-log-at-trx-commit=0"], None

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> Sequence[str]:
        own = {
            "datadir": str(data),
            "port": str(port),
            "bind-address": "127.0.0.1",
            "socket": str(data / "s"),
            "pid-file": str(data / "pid"),
        }
        given = {**SETTINGS, **own, **settings}
        return [str(program("mariadbd")), "--no-defaults", *(f"--{name}={value}" for name, value in given.items())]

    def answers(self, port: int) -> bool:
        return greets(port)

    def url(self, port: int) -> str:
        return f"mysql://root@127.0.0.1:{port}"


def greets(port: int) -> bool:
    """Whether a server of this kind takes connections: it greets whoever connects."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        return bool(connection.recv(1))
    return False


def program(name: str) -> Path:
    """Where this program is. Raises `MariadbError`."""
    found = find_program(name)
    if found is None:
        raise MariadbError(
            "MariaDB is not installed",
            cure="install it (Debian: apt-get install mariadb-server), or set HEADRACE_TEST_MARIADB to the URL of a"
            " server whose binary log has rows",
        )
    return found


MARIADB = _Mariadb()
missing_programs, main = MARIADB.missing_programs, MARIADB.main
start_mariadb, stop_mariadb, running_mariadb = MARIADB.start, MARIADB.stop, MARIADB.running


if __name__ == "__main__":
    sys.exit(main())
