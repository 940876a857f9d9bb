"""A look at everything that headrace needs on this machine and in this workspace.

Owns the checks of `headrace doctor`.

- A check never raises and never changes anything; it tells what it found and what to do.
- `warning` means that something optional is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.egress.sdk import connector_names
from headrace.errors import HeadraceError
from headrace.log.port import Log
from headrace.workspace.config import WorkspaceFile, read_config
from headrace.workspace.environment import connect
from headrace.workspace.load import Workspace, load
from headrace.workspace.place import LOCAL_FOLDER

PYTHON_MIN = (3, 11)
JAVA_TIMEOUT_S = 10.0
DISK_FREE_MIN_BYTES = 1 << 30
"""A gigabyte: state, snapshots and the embedded log need room to grow."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found."""

    name: str
    outcome: str
    """ok, warning or error"""
    message: str
    cure: str = ""


def check_up(path: Path | None = None, environment: str | None = None) -> Iterator[Check]:
    """All checks, machine first. Outside a workspace only the machine is looked at."""
    yield _python()
    yield _java()
    yield _connectors()
    yield _kafka_client()
    try:
        file = read_config(path)
    except HeadraceError as error:
        yield Check("workspace", "warning", error.message, error.cure)
        return
    yield _disk(file.root)
    yield from _workspace(file, environment)


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        return Check("python", "error", f"Python {version}", "headrace needs Python 3.11 or newer")
    return Check("python", "ok", f"Python {version}, headrace {importlib.metadata.version('headrace')}")


def _java() -> Check:
    """Java starts the broker of tests and of `demo --kafka`; nothing else needs it."""
    java = shutil.which("java")
    cure = "only the project's own test broker needs Java 17 or newer"
    if java is None:
        return Check("java", "warning", "no java on the path", cure)
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("java", "warning", f"{java} does not answer: {error}", cure)
    first = (done.stderr or done.stdout).strip().partition("\n")[0]
    return Check("java", "ok" if done.returncode == 0 else "warning", first or f"exit code {done.returncode}")


def _connectors() -> Check:
    names = connector_names()
    if not names:
        return Check("connectors", "warning", "no connector is installed", "install one, such as headrace-duckdb")
    return Check("connectors", "ok", ", ".join(names))


def _kafka_client() -> Check:
    from headrace.log.kafka.choice import SWITCH, chosen_clients, why_not_native
    from headrace.log.kafka.library import librdkafka_text

    try:
        kind = chosen_clients().kind
    except HeadraceError as error:
        return Check("kafka", "error", error.message, error.cure)
    reason = why_not_native()
    if kind == "python" and reason:
        cure = "build headrace-native for less work per record (`make native`)"
        return Check("kafka", "warning", f"client in Python, librdkafka {librdkafka_text()}: {reason}", cure)
    chosen = f", as {SWITCH} says" if os.environ.get(SWITCH) else ""
    name = "in Python" if kind == "python" else "native"
    return Check("kafka", "ok", f"client {name}{chosen}, librdkafka {librdkafka_text()}")


def _disk(root: Path) -> Check:
    folder = root / LOCAL_FOLDER
    place = folder if folder.exists() else root
    if not os.access(place, os.W_OK):
        return Check("disk", "error", f"{place} cannot be written", "give this user the right to write there")
    free = shutil.disk_usage(place).free
    message = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free < DISK_FREE_MIN_BYTES:
        return Check("disk", "warning", message, "make room: the embedded log and state grow there")
    return Check("disk", "ok", message)


def _workspace(file: WorkspaceFile, environment: str | None) -> Iterator[Check]:
    try:
        loaded = load(file.path)
    except HeadraceError as error:
        yield Check("workspace", "error", f"[{error.code}] {error}")
        return
    found = f"{len(loaded.contracts)} contracts, {len(loaded.pipelines)} pipelines, {len(loaded.ingress)} ingress"
    yield Check("workspace", "ok", f"{loaded.name}: {found}, {len(loaded.egress)} egress")
    yield from _environment(loaded, environment)


def _environment(workspace: Workspace, chosen: str | None) -> Iterator[Check]:
    try:
        environment = connect(workspace.file, workspace.contracts, chosen)
    except HeadraceError as error:
        yield Check("environment", "error", f"[{error.code}] {error.message}", error.cure)
        return
    with environment:
        yield Check("environment", "ok", environment.name)
        log = _asked("log", lambda: _log_text(environment.log))
        yield log
        if log.outcome == "error" and environment.config.uses_builtin_registry:
            # It is a topic of that log: to ask would only wait once more.
            yield Check("registry", "error", "builtin, and its log does not answer")
            return
        yield _asked(
            "registry", lambda: f"{environment.config.registry}, {len(environment.registry.subjects())} subjects"
        )


def _log_text(log: Log) -> str:
    admin = log.admin()
    try:
        return f"{log.name}, {len(admin.topics())} topics"
    finally:
        admin.close()


def _asked(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", ask())
    except HeadraceError as error:
        return Check(name, "error", f"[{error.code}] {error.message}", error.cure)
