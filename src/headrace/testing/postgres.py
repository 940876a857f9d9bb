"""One PostgreSQL server on this machine, for tests, demos and benchmarks.

`python -m headrace.testing.postgres start|stop|status [--directory DIR]`, and the same as a library.

- It comes from the system's packages (Debian, Ubuntu: `apt-get install postgresql`); nothing is fetched here.
- It listens on one free port of 127.0.0.1; everything it writes is below its directory.
- It can be read by logical replication (`wal_level=logical`), and trusts everybody who reaches its port.
- PostgreSQL refuses to run as root: there it runs as the user `postgres`, or `nobody`.
- A server with an owner (`running_postgres`, a test session) dies with it, even when the owner is killed.
- Without a directory of the user's, `stop` removes the data.

It is made to be quick and small: it does not wait for the disk. It is no example for production.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shutil
import signal
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

USER = "postgres"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
INITDB_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 10.0
LOG_TAIL_CHARACTERS = 1500
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


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server. `temporary` data goes when it stops."""

    directory: str
    url: str
    """Of the database `postgres`, as its superuser."""
    pid: int
    temporary: bool


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


def missing_programs() -> str:
    """Why a server cannot be started here; empty when it can."""
    try:
        programs()
    except PostgresError as error:
        return str(error)
    return ""


def default_directory() -> Path:
    """Where `start` without a directory puts the server: one a user."""
    return Path(tempfile.gettempdir()) / f"headrace-postgres-{os.getuid()}"


def start_postgres(
    directory: Path | None = None,
    *,
    temporary: bool | None = None,
    owner_pid: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> Postgres:
    """Start the server of `directory` and wait until it answers; the one that runs there already is returned.

    The server is killed as soon as `owner_pid` is gone. `settings` are more of the server's own.
    """
    home = (directory or default_directory()).resolve()
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    with file_lock(home / "lock"):
        running = find_postgres(home)
        if running is not None:
            return running
        keep = directory is not None if temporary is None else not temporary
        return _start(home, settings or {}, temporary=not keep, owner_pid=owner_pid)


def find_postgres(directory: Path | None = None) -> Postgres | None:
    """The server that runs in `directory`, if any."""
    home = (directory or default_directory()).resolve()
    try:
        found = Postgres(**json.loads((home / "postgres.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return found if is_alive(found.pid, home) else None


def stop_postgres(directory: Path | None = None, *, hard: bool = False) -> bool:
    """Stop the server of `directory`; False when none was running. `hard` is kill -9 of all its processes."""
    home = (directory or default_directory()).resolve()
    state = home / "postgres.json"
    if not state.exists():
        return False
    server = Postgres(**json.loads(state.read_text(encoding="utf-8")))
    was_running = is_alive(server.pid, home)
    if was_running:
        _end(server.pid, home, hard=hard)
    state.unlink(missing_ok=True)
    if server.temporary:
        shutil.rmtree(home, ignore_errors=True)
    return was_running


@contextmanager
def running_postgres(directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """A server of this process alone: in a new temporary directory unless one is given."""
    home = directory or Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
    server = start_postgres(home, temporary=directory is None, owner_pid=os.getpid(), settings=settings)
    try:
        yield server
    finally:
        stop_postgres(home)


def _start(home: Path, settings: Mapping[str, str], *, temporary: bool, owner_pid: int | None) -> Postgres:
    folder, data, user = programs(), home / "data", _user()
    home.chmod(0o755)
    if not (data / "PG_VERSION").exists():
        _make_data(folder, data, user)
    (port,) = free_ports(1)
    given = {**SETTINGS, "port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "", **settings}
    command = [str(folder / "postgres"), "-D", str(data)]
    for name, value in given.items():
        command += ["-c", f"{name}={value}"]
    (data / "postmaster.pid").unlink(missing_ok=True)  # Of a server that was killed: its id may be another's now.
    with (home / "postgres.log").open("wb") as log:
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
        failure = _wait(folder, port, process)
        if failure is not None:
            tail = (home / "postgres.log").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]
            raise PostgresError(f"PostgreSQL {failure}: {tail.strip()}", cure=f"see {home / 'postgres.log'}")
    except BaseException:  # A failure or an interrupt must not leave the server behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGQUIT)
        process.wait()
        raise
    server = Postgres(str(home), f"postgresql://{USER}@127.0.0.1:{port}/postgres", process.pid, temporary)
    if owner_pid is not None:
        guard(process.pid, owner_pid, signal.SIGQUIT, whole_group=False)
    state = home / "postgres.json.new"
    state.write_text(json.dumps(asdict(server)), encoding="utf-8")
    state.rename(home / "postgres.json")
    return server


def _user() -> str | None:
    """The user to run as; None for our own."""
    if os.getuid() != 0:
        return None
    for name in (USER, "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PostgresError("PostgreSQL does not run as root, and there is no user postgres", cure="make one")


def _make_data(folder: Path, data: Path, user: str | None) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
    options = ["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    done = subprocess.run(
        [str(folder / "initdb"), "-D", str(data), *options],
        capture_output=True,
        text=True,
        timeout=INITDB_TIMEOUT_S,
        check=False,
        cwd="/",
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
        extra_groups=None if user is None else [],
    )
    if done.returncode != 0:
        raise PostgresError(f"initdb failed: {(done.stdout + done.stderr).strip()[-LOG_TAIL_CHARACTERS:]}")


def _wait(folder: Path, port: int, process: subprocess.Popen[bytes]) -> str | None:
    """None once the server answers, or what happened instead."""
    deadline = time.monotonic() + START_TIMEOUT_S
    ask = [str(folder / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"ended with code {process.returncode}"
        if subprocess.run(ask, check=False, timeout=COMMAND_TIMEOUT_S).returncode == 0:
            return None
        time.sleep(POLL_S)
    return f"did not answer within {START_TIMEOUT_S:.0f} s"


def _end(pid: int, home: Path, *, hard: bool) -> None:
    """A fast shutdown ends the sessions; an immediate one asks no one."""
    if hard:
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
    for kind in () if hard else (signal.SIGINT, signal.SIGQUIT):
        with suppress(ProcessLookupError):
            os.kill(pid, kind)
        if has_ended(pid, home, STOP_TIMEOUT_S):
            return
    if not has_ended(pid, home, STOP_TIMEOUT_S):
        raise PostgresError(f"PostgreSQL with process id {pid} does not end")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.postgres", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--directory", type=Path, help="home of the server, kept when it stops (default: temporary)")
    given = parser.parse_args(arguments)
    try:
        return _act(given.action, given.directory)
    except PostgresError as error:
        print(error, file=sys.stderr)
        return 1


def _act(action: str, directory: Path | None) -> int:
    if action == "start":
        print(start_postgres(directory).url)
        return 0
    if action == "stop":
        print("stopped" if stop_postgres(directory) else "not running")
        return 0
    server = find_postgres(directory)
    print(f"PostgreSQL at {server.url}, process {server.pid}" if server else "not running")
    return 0 if server else 3


if __name__ == "__main__":
    sys.exit(main())
