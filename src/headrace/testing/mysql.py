"""One MySQL server on this machine, for tests and benchmarks.

`python -m headrace.testing.mysql start|stop|status [--directory DIR]`, and the same as a library.

- `HEADRACE_TEST_MYSQL_ROOT` is a folder into which the packages of a distribution were unpacked, the server's C library
  among them: so it runs beside a MariaDB, and on a system that is older than it. Nothing of it is installed.
- It writes the binary log that capture needs, with ids of transactions, and `root` enters without a password.

It is made to be quick and small: it does not wait for the disk. It is no example for production.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_server import DatabaseServer
from headrace.testing.mariadb import SETTINGS as COMMON_SETTINGS
from headrace.testing.mariadb import greets

ROOT_VARIABLE = "HEADRACE_TEST_MYSQL_ROOT"

SETTINGS: Mapping[str, str] = {
    **{name: value for name, value in COMMON_SETTINGS.items() if name not in ("innodb-log-file-size", "binlog-format")},
    "gtid-mode": "ON",
    "enforce-gtid-consistency": "ON",
    "mysqlx": "OFF",
    "secure-file-priv": "NULL",
}
_FIRST_STATEMENTS = (
    # Without names of hosts it is not the `root@localhost` that the server makes.
    "CREATE USER IF NOT EXISTS root@'127.0.0.1' IDENTIFIED BY '';"
    " GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
)


class MysqlError(HeadraceError):
    """The test server cannot be started or stopped."""

    code = "testing.mysql"
    fault = Fault.STOP


class _Mysql(DatabaseServer):
    name, title, user, made = "mysql", "MySQL", "mysql", "mysql.ibd"
    stop_signals, kill_signal = (signal.SIGTERM, signal.SIGKILL), signal.SIGKILL
    error = MysqlError

    def check_programs(self) -> None:
        program()

    def making(self, data: Path, user: str | None) -> tuple[Sequence[str], str | None]:
        first = data.parent / "first.sql"
        first.write_text(_FIRST_STATEMENTS, encoding="utf-8")
        first.chmod(0o644)
        options = [f"--datadir={data}", f"--init-file={first}", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
        return [*program(), "--initialize-insecure", *options], user

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> Sequence[str]:
        own = {
            "datadir": str(data),
            "port": str(port),
            "bind-address": "127.0.0.1",
            "socket": str(data / "s"),
            "pid-file": str(data / "pid"),
        }
        given = {**SETTINGS, **own, **settings}
        return [*program(), *(f"--{name}={value}" for name, value in given.items())]

    def answers(self, port: int) -> bool:
        return greets(port)

    def url(self, port: int) -> str:
        return f"mysql://root@127.0.0.1:{port}"


def program() -> Sequence[str]:
    """The command that runs the server, without settings. Raises `MysqlError`."""
    root = Path(os.environ.get(ROOT_VARIABLE) or "/nowhere")
    server, loaders = root / "usr/sbin/mysqld", sorted(root.glob("usr/lib*/ld-linux-*.so.*"))
    if not server.exists() or not loaders:
        cure = f"make such a folder with tests/mysql_root.sh and name it with {ROOT_VARIABLE}"
        raise MysqlError(f"there is no MySQL in {root}", cure=cure)
    libraries = sorted(str(each.parent) for each in root.glob("usr/lib/*/libc.so.6"))
    return [
        str(loaders[0]),
        "--library-path",
        ":".join(libraries),
        str(server),
        "--no-defaults",
        f"--lc-messages-dir={root}/usr/share/mysql",
        f"--character-sets-dir={root}/usr/share/mysql/charsets",
        f"--plugin-dir={root}/usr/lib/mysql/plugin",
    ]


MYSQL = _Mysql()
missing_programs, main = MYSQL.missing_programs, MYSQL.main


if __name__ == "__main__":
    sys.exit(main())
