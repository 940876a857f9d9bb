"""One PostgreSQL server on this machine, for tests, demos and benchmarks.

`python -m headrace.testing.postgres start|stop|status [--directory DIR]`, and the same as a library.

- It comes from the system's packages (Debian, Ubuntu: `apt-get install postgresql`); nothing is fetched here.
- It can be read by logical replication (`wal_level=logical`), and trusts everybody who reaches its port.

It is made to be quick and small: it does not wait for the disk. It is no example for production.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_server import DatabaseServer

USER = "postgres"
COMMAND_TIMEOUT_S = 10.0
PACKAGE_FOLDERS = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt")
"""Where packages put the server's programs, which are seldom on the PATH."""

SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_wal_senders": "32",
    "max_replication_slots": "32",
    # The guard that production should have too.
    "max_slot_wal_keep_size": "4GB",
    "max_connections": "100",
    "shared_buffers": "64MB",
    # Nobody needs this data after a crash of the machine.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_sender_timeout": "30s",
}


class PostgresError(HeadraceError):
    """The test server cannot be started or stopped."""

    code = "testing.postgres"
    fault = Fault.STOP


class _Postgres(DatabaseServer):
    name, title, user, made = "postgres", "PostgreSQL", USER, "PG_VERSION"
    # A fast shutdown ends the sessions; an immediate one asks no one.
    stop_signals, kill_signal = (signal.SIGINT, signal.SIGQUIT), signal.SIGQUIT
    error = PostgresError

    def check_programs(self) -> None:
        programs()

    def making(self, data: Path, user: str | None) -> tuple[Sequence[str], str | None]:
        options = ["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        return [str(programs() / "initdb"), "-D", str(data), *options], user

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> Sequence[str]:
        (data / "postmaster.pid").unlink(missing_ok=True)  # Of a server that was killed: its id may be another's now.
        own = {"port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        given = {**SETTINGS, **own, **settings}
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        return [str(programs() / "postgres"), "-D", str(data), *options]

    def answers(self, port: int) -> bool:
        ask = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(ask, check=False, timeout=COMMAND_TIMEOUT_S).returncode == 0

    def url(self, port: int) -> str:
        return f"postgresql://{USER}@127.0.0.1:{port}/postgres"


def programs() -> Path:
    """The folder of `initdb` and `postgres`. Raises `PostgresError`."""
    versions = [path.parent for folder in PACKAGE_FOLDERS for path in Path(folder).glob("**/bin/initdb")]
    if versions:
        return max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))])
    on_path = shutil.which("initdb")
    if on_path is None:
        raise PostgresError(
            "PostgreSQL is not installed",
            cure="install it (Debian: apt-get install postgresql), or set HEADRACE_TEST_POSTGRES to the URL of a"
            " server with wal_level=logical",
        )
    return Path(on_path).parent


POSTGRES = _Postgres()
missing_programs, main = POSTGRES.missing_programs, POSTGRES.main
start_postgres, find_postgres, stop_postgres = POSTGRES.start, POSTGRES.find, POSTGRES.stop
running_postgres = POSTGRES.running


if __name__ == "__main__":
    sys.exit(main())
