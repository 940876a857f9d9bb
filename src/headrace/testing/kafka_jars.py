"""The jars of the test broker, fetched once.

Owns the cache `$XDG_CACHE_HOME/headrace/kafka/<version>/libs` (by default under `~/.cache`).

- The versions are those of `kafka-pom.xml` beside this file, resolved by Maven.
- The folder is complete or absent: it is filled under another name and then renamed.
- Two processes that need it at once fetch it once (a file lock).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from headrace.errors import Fault, HeadraceError

POM_NAME = "kafka-pom.xml"

JAVA_VERSION_MIN = 17
"""Kafka 4's broker is compiled for Java 17."""

RESOLVE_TIMEOUT_S = 600.0
"""About 45 MB from Maven Central, on a slow line."""

JAVA_VERSION_TIMEOUT_S = 30.0


class BrokerError(HeadraceError):
    """The test broker cannot be installed, started or stopped."""

    code = "testing.broker"
    fault = Fault.STOP


def kafka_version() -> str:
    """The version of Kafka that the pom names."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", _pom_text())
    assert found, f"{POM_NAME} names no kafka.version"
    return found.group(1)


def cache_directory() -> Path:
    """Where everything of this Kafka version is kept."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "headrace" / "kafka" / kafka_version()


def jar_directory() -> Path:
    """The folder of jars; fetches them when it is not there yet."""
    libs = cache_directory() / "libs"
    if libs.is_dir():
        return libs
    libs.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(libs.parent / "lock"):
        if not libs.is_dir():
            _fetch(libs)
    return libs


def java_command() -> str:
    """Path of a Java that runs the broker."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = java or shutil.which("java")
    if java is None:
        raise BrokerError("no java on the PATH", cure=f"install Java {JAVA_VERSION_MIN} or newer")
    version = _java_version(java)
    if version < JAVA_VERSION_MIN:
        raise BrokerError(
            f"{java} is Java {version}; Kafka {kafka_version()} needs {JAVA_VERSION_MIN} or newer",
            cure="put a newer Java first on the PATH, or set JAVA_HOME",
        )
    return java


def missing_programs() -> str:
    """Why a broker cannot be started here; empty when it can."""
    try:
        java_command()
        if not (cache_directory() / "libs").is_dir():
            _maven_command()
    except BrokerError as error:
        return str(error)
    return ""


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the holder dies."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pom_text() -> str:
    return resources.files("headrace.testing").joinpath(POM_NAME).read_text(encoding="utf-8")


def _java_version(java: str) -> int:
    output = subprocess.run(
        [java, "-version"], capture_output=True, text=True, timeout=JAVA_VERSION_TIMEOUT_S, check=False
    )
    found = re.search(r'version "(\d+)', output.stderr + output.stdout)
    if found is None:
        raise BrokerError(f"{java} -version does not tell its version", cure="check the installation of Java")
    return int(found.group(1))


def _maven_command() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(
            f"no mvn on the PATH; it fetches the jars of Kafka {kafka_version()} once, from Maven Central",
            cure="install Maven, or set HEADRACE_TEST_KAFKA to the address of a running broker",
        )
    return maven


def _fetch(libs: Path) -> None:
    maven = _maven_command()
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=libs.parent) as scratch:
        pom = Path(scratch) / "pom.xml"
        pom.write_text(_pom_text(), encoding="utf-8")
        partial = Path(scratch) / "libs"
        command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise BrokerError(f"mvn did not fetch the jars of Kafka within {RESOLVE_TIMEOUT_S:.0f} s") from error
        if done.returncode != 0 or not partial.is_dir():
            reason = (done.stdout + done.stderr).strip()[-1000:]
            raise BrokerError(f"mvn could not fetch the jars of Kafka: {reason}", cure="check the way to Maven Central")
        partial.rename(libs)
