"""A database server on this machine, for tests, demos and benchmarks: what all kinds of servers share.

Owns a server's directory, the file that says what runs there, its start, its end, and the command line. What differs
is a subclass: programs, settings, how data is made, and how one hears that the server answers.

- A server listens on one free port of 127.0.0.1; everything it writes is below its directory.
- None of them runs as root: there it is the user of the server's package, or `nobody`.
- A server with an owner dies with it, even when the owner is killed, and also while it starts.
- Without a directory of the user's, `stop` removes the data.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from headrace.errors import HeadraceError
from headrace.testing.server_process import POLL_S, file_lock, free_ports, guard, has_ended, is_alive

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
MAKE_TIMEOUT_S = 120.0
LOG_TAIL_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers. `temporary` data goes when it stops."""

    directory: str
    url: str
    """As its superuser."""
    pid: int
    temporary: bool


class DatabaseServer(ABC):
    """One kind of server."""

    name: ClassVar[str]
    """Of its files, its folder and its module."""
    title: ClassVar[str]
    user: ClassVar[str]
    """That its package makes; it runs as this one where we are root."""
    made: ClassVar[str]
    """In the data of a server that was made."""
    stop_signals: ClassVar[Sequence[signal.Signals]]
    """In this order, until it has ended."""
    kill_signal: ClassVar[signal.Signals]
    """Ends it at once, with all its processes."""
    error: ClassVar[type[HeadraceError]]
    """That a server of this kind cannot be started or stopped."""

    @abstractmethod
    def check_programs(self) -> None:
        """Raises `error` where the server is not installed."""

    @abstractmethod
    def making(self, data: Path, user: str | None) -> tuple[Sequence[str], str | None]:
        """The command that makes its data, and the user that runs it."""

    @abstractmethod
    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> Sequence[str]:
        """What starts it."""

    @abstractmethod
    def answers(self, port: int) -> bool:
        """Whether it takes connections."""

    @abstractmethod
    def url(self, port: int) -> str:
        """Where it is, for its superuser."""

    def missing_programs(self) -> str:
        """Why a server cannot be started here; empty when it can."""
        try:
            self.check_programs()
        except self.error as error:
            return str(error)
        return ""

    def default_directory(self) -> Path:
        """Where `start` without a directory puts the server: one a user."""
        return Path(tempfile.gettempdir()) / f"headrace-{self.name}-{os.getuid()}"

    def start(
        self,
        directory: Path | None = None,
        *,
        temporary: bool | None = None,
        owner_pid: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> RunningServer:
        """Start the server of `directory` and wait until it answers; the one that runs there already is returned.

        The server is killed as soon as `owner_pid` is gone. `settings` are more of the server's own.
        """
        home = self._home(directory)
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        with file_lock(home / "lock"):
            running = self.find(home)
            if running is not None:
                return running
            keep = directory is not None if temporary is None else not temporary
            return self._start(home, settings or {}, temporary=not keep, owner_pid=owner_pid)

    def find(self, directory: Path | None = None) -> RunningServer | None:
        """The server that runs in `directory`, if any."""
        home = self._home(directory)
        found = self._known(home)
        return found if found is not None and is_alive(found.pid, home) else None

    def stop(self, directory: Path | None = None, *, hard: bool = False) -> bool:
        """Stop the server of `directory`; False when none was running. `hard` is kill -9 of all its processes."""
        home = self._home(directory)
        server = self._known(home)
        if server is None:
            return False
        was_running = is_alive(server.pid, home)
        if was_running:
            self._end(server.pid, home, hard=hard)
        self._state(home).unlink(missing_ok=True)
        if server.temporary:
            shutil.rmtree(home, ignore_errors=True)
        return was_running

    @contextmanager
    def running(
        self, directory: Path | None = None, *, settings: Mapping[str, str] | None = None
    ) -> Iterator[RunningServer]:
        """A server of this process alone: in a new temporary directory unless one is given."""
        home = directory or Path(tempfile.mkdtemp(prefix=f"headrace-{self.name}-"))
        server = self.start(home, temporary=directory is None, owner_pid=os.getpid(), settings=settings)
        try:
            yield server
        finally:
            self.stop(home)

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The command line."""
        parser = argparse.ArgumentParser(
            prog=f"python -m headrace.testing.{self.name}",
            description=f"One {self.title} server on this machine, for tests, demos and benchmarks.",
        )
        parser.add_argument("action", choices=["start", "stop", "status"])
        parser.add_argument(
            "--directory", type=Path, help="home of the server, kept when it stops (default: temporary)"
        )
        given = parser.parse_args(arguments)
        try:
            return self._act(given.action, given.directory)
        except self.error as error:
            print(error, file=sys.stderr)
            return 1

    def _act(self, action: str, directory: Path | None) -> int:
        if action == "start":
            print(self.start(directory).url)
            return 0
        if action == "stop":
            print("stopped" if self.stop(directory) else "not running")
            return 0
        server = self.find(directory)
        print(f"{self.title} at {server.url}, process {server.pid}" if server else "not running")
        return 0 if server else 3

    def _home(self, directory: Path | None) -> Path:
        return (directory or self.default_directory()).resolve()

    def _state(self, home: Path) -> Path:
        return home / f"{self.name}.json"

    def _known(self, home: Path) -> RunningServer | None:
        """What was started in a directory last, and not stopped."""
        try:
            return RunningServer(**json.loads(self._state(home).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def _start(
        self, home: Path, settings: Mapping[str, str], *, temporary: bool, owner_pid: int | None
    ) -> RunningServer:
        self.check_programs()
        data, user, log_file = home / "data", self._user(), home / f"{self.name}.log"
        home.chmod(0o755)
        if not (data / self.made).exists():
            self._make_data(data, user)
        port = int(settings["port"]) if "port" in settings else free_ports(1)[0]
        command = self.command(data, port, settings)
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
                start_new_session=True,
                **_as_user(user),
            )
        if owner_pid is not None:
            guard(process.pid, owner_pid, self.kill_signal, whole_group=False)
        try:
            failure = self._wait(port, process)
            if failure is not None:
                tail = log_file.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]
                raise self.error(f"{self.title} {failure}: {tail.strip()}", cure=f"see {log_file}")
        except BaseException:  # A failure or an interrupt must not leave the server behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, self.kill_signal)
            process.wait()
            raise
        server = RunningServer(str(home), self.url(port), process.pid, temporary)
        state = self._state(home).with_suffix(".new")
        state.write_text(json.dumps(asdict(server)), encoding="utf-8")
        state.rename(self._state(home))
        return server

    def _user(self) -> str | None:
        """The user to run as; None for our own."""
        if os.getuid() != 0:
            return None
        for name in (self.user, "nobody"):
            with suppress(KeyError):
                return pwd.getpwnam(name).pw_name
        raise self.error(f"{self.title} does not run as root, and there is no user {self.user}", cure="make one")

    def _make_data(self, data: Path, user: str | None) -> None:
        data.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(data, account.pw_uid, account.pw_gid)
        command, runs_as = self.making(data, user)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MAKE_TIMEOUT_S, check=False, cwd="/", **_as_user(runs_as)
        )
        if done.returncode != 0:
            told = (done.stdout + done.stderr).strip()[-LOG_TAIL_CHARACTERS:]
            raise self.error(f"{Path(command[0]).name} failed: {told}")

    def _wait(self, port: int, process: subprocess.Popen[bytes]) -> str | None:
        """None once the server answers, or what happened instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return f"ended with code {process.returncode}"
            if self.answers(port):
                return None
            time.sleep(POLL_S)
        return f"did not answer within {START_TIMEOUT_S:.0f} s"

    def _end(self, pid: int, home: Path, *, hard: bool) -> None:
        """Its own way ends the sessions; kill -9 asks no one."""
        if hard:
            _kill_all(pid)
        for kind in (signal.SIGKILL,) if hard else self.stop_signals:
            with suppress(ProcessLookupError):
                os.kill(pid, kind)
            if has_ended(pid, home, STOP_TIMEOUT_S):
                return
        raise self.error(f"{self.title} with process id {pid} does not end")


def _as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _kill_all(pid: int) -> None:
    """A process and its children."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for each in (pid, *map(int, children)):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
