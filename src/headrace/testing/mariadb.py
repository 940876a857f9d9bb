"""One MariaDB server on this machine, for tests, demos and benchmarks.

`python -m headrace.testing.mariadb start|stop|status [--directory DIR]`, and the same as a library.

- It comes from the system's packages (Debian, Ubuntu: `apt-get install mariadb-server`); nothing is fetched here.
- It listens on one free port of 127.0.0.1; everything it writes is below its directory.
- It writes the binary log that capture needs, and `root` enters without a password.
- MariaDB refuses to run as root: there it runs as the user `mysql`, or `nobody`.
- A server with an owner (`running_mariadb`, a test session) dies with it, even when the owner is killed.
- Without a directory of the user's, `stop` removes the data.

It is made to be quick and small: it does not wait for the disk. It is no example for production.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.kafka_jars import file_lock
from headrace.testing.server_process import POLL_S, free_ports, guard, has_ended, is_alive

USER = "mysql"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
INSTALL_TIMEOUT_S = 120.0
LOG_TAIL_CHARACTERS = 1500
PROGRAM_FOLDERS = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
"""Where packages put the server's programs; the first is seldom on the PATH of a user."""

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


@dataclass(frozen=True, slots=True)
class Mariadb:
    """A running server. `temporary` data goes when it stops."""

    directory: str
    url: str
    """As its superuser, without a database."""
    pid: int
    temporary: bool


def program(*names: str) -> Path:
    """The first of these programs that is there. Raises `MariadbError`."""
    for name in names:
        for folder in PROGRAM_FOLDERS:
            if os.access(Path(folder) / name, os.X_OK):
                return Path(folder) / name
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise MariadbError(
        "MariaDB is not installed",
        cure="install it (Debian: apt-get install mariadb-server), or set HEADRACE_TEST_MARIADB to the URL of a server"
        " whose binary log has rows",
    )


def missing_programs() -> str:
    """Why a server cannot be started here; empty when it can."""
    try:
        program("mariadbd")
        program("mariadb-install-db")
    except MariadbError as error:
        return str(error)
    return ""


def default_directory() -> Path:
    """Where `start` without a directory puts the server: one a user."""
    return Path(tempfile.gettempdir()) / f"headrace-mariadb-{os.getuid()}"


def start_mariadb(
    directory: Path | None = None,
    *,
    temporary: bool | None = None,
    owner_pid: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> Mariadb:
    """Start the server of `directory` and wait until it answers; the one that runs there already is returned.

    The server is killed as soon as `owner_pid` is gone. `settings` are more of the server's own.
    """
    home = (directory or default_directory()).resolve()
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    with file_lock(home / "lock"):
        running = find_mariadb(home)
        if running is not None:
            return running
        keep = directory is not None if temporary is None else not temporary
        return _start(home, settings or {}, temporary=not keep, owner_pid=owner_pid)


def find_mariadb(directory: Path | None = None) -> Mariadb | None:
    """The server that runs in `directory`, if any."""
    home = (directory or default_directory()).resolve()
    try:
        found = Mariadb(**json.loads((home / "mariadb.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return found if is_alive(found.pid, home) else None


def stop_mariadb(directory: Path | None = None, *, hard: bool = False) -> bool:
    """Stop the server of `directory`; False when none was running. `hard` is kill -9."""
    home = (directory or default_directory()).resolve()
    state = home / "mariadb.json"
    if not state.exists():
        return False
    server = Mariadb(**json.loads(state.read_text(encoding="utf-8")))
    was_running = is_alive(server.pid, home)
    if was_running:
        _end(server.pid, home, hard=hard)
    state.unlink(missing_ok=True)
    if server.temporary:
        shutil.rmtree(home, ignore_errors=True)
    return was_running


@contextmanager
def running_mariadb(directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> Iterator[Mariadb]:
    """A server of this process alone: in a new temporary directory unless one is given."""
    home = directory or Path(tempfile.mkdtemp(prefix="headrace-mariadb-"))
    server = start_mariadb(home, temporary=directory is None, owner_pid=os.getpid(), settings=settings)
    try:
        yield server
    finally:
        stop_mariadb(home)


def _start(home: Path, settings: Mapping[str, str], *, temporary: bool, owner_pid: int | None) -> Mariadb:
    server, data, user = program("mariadbd"), home / "data", _user()
    home.chmod(0o755)
    if not (data / "mysql").exists():
        _make_data(data, user)
    port = int(settings["port"]) if "port" in settings else free_ports(1)[0]
    given = {
        **SETTINGS,
        "datadir": str(data),
        "port": str(port),
        "bind-address": "127.0.0.1",
        "socket": str(data / "s"),
        "pid-file": str(data / "pid"),
        **settings,
    }
    command = [str(server), "--no-defaults", *(f"--{name}={value}" for name, value in given.items())]
    with (home / "mariadb.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            start_new_session=True,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
        )
    try:
        failure = _wait(port, process)
        if failure is not None:
            tail = (home / "mariadb.log").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]
            raise MariadbError(f"MariaDB {failure}: {tail.strip()}", cure=f"see {home / 'mariadb.log'}")
    except BaseException:  # A failure or an interrupt must not leave the server behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    found = Mariadb(str(home), f"mysql://root@127.0.0.1:{port}", process.pid, temporary)
    if owner_pid is not None:
        guard(process.pid, owner_pid, signal.SIGKILL, whole_group=False)
    state = home / "mariadb.json.new"
    state.write_text(json.dumps(asdict(found)), encoding="utf-8")
    state.rename(home / "mariadb.json")
    return found


def _user() -> str | None:
    """The user to run as; None for our own."""
    if os.getuid() != 0:
        return None
    for name in (USER, "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise MariadbError("MariaDB does not run as root, and there is no user mysql", cure="make one")


def _make_data(data: Path, user: str | None) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    options = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
        options.append(f"--user={user}")
    done = subprocess.run(
        [str(program("mariadb-install-db")), *options, "--innodb-flush-log-at-trx-commit=0"],
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
        cwd="/",
    )
    if done.returncode != 0:
        raise MariadbError(f"mariadb-install-db failed: {(done.stdout + done.stderr).strip()[-LOG_TAIL_CHARACTERS:]}")


def _wait(port: int, process: subprocess.Popen[bytes]) -> str | None:
    """None once the server greets, or what happened instead."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"ended with code {process.returncode}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            if connection.recv(1):
                return None
        time.sleep(POLL_S)
    return f"did not answer within {START_TIMEOUT_S:.0f} s"


def _end(pid: int, home: Path, *, hard: bool) -> None:
    """A shutdown ends the sessions; kill -9 asks no one."""
    for kind in (signal.SIGKILL,) if hard else (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, kind)
        if has_ended(pid, home, STOP_TIMEOUT_S):
            return
    raise MariadbError(f"MariaDB with process id {pid} does not end")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.mariadb", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--directory", type=Path, help="home of the server, kept when it stops (default: temporary)")
    given = parser.parse_args(arguments)
    try:
        return _act(given.action, given.directory)
    except MariadbError as error:
        print(error, file=sys.stderr)
        return 1


def _act(action: str, directory: Path | None) -> int:
    if action == "start":
        print(start_mariadb(directory).url)
        return 0
    if action == "stop":
        print("stopped" if stop_mariadb(directory) else "not running")
        return 0
    server = find_mariadb(directory)
    print(f"MariaDB at {server.url}, process {server.pid}" if server else "not running")
    return 0 if server else 3


if __name__ == "__main__":
    sys.exit(main())
