"""Peers on this machine: jars, classes and virtualenvs, made once.

Owns the folder `.cache/bench` of the repository.

- Versions are those of `workers/*/pom.xml` and `workers/requirements/*.txt`; a change of these makes them anew.
- A peer is there whole or not at all: its mark is written last.
- What cannot be installed raises `PeerMissing`, with the reason.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from headrace.testing.kafka_jars import BrokerError, java_command
from headrace.testing.server_process import file_lock

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bench"
WORKERS = Path(__file__).parent / "workers"
STREAMS = WORKERS / "kafka_streams"
REQUIREMENTS = WORKERS / "requirements"
INSTALL_TIMEOUT_S = 1_200.0
MARK = "complete"
REASON_CHARACTERS_MAX = 600


class PeerMissing(Exception):
    """A system that cannot run on this machine, and why."""


def python_of(peer: str) -> Path:
    """The Python of a peer's virtualenv, which is made when it is not there."""
    pins = REQUIREMENTS / f"{peer}.txt"
    folder = CACHE / "peers" / peer
    with _held(peer):
        if not _is_complete(folder, [pins]):
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)], peer)
            _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(pins)], peer)
            _complete(folder, [pins])
    return folder / "bin" / "python"


def streams_command() -> list[str]:
    """Java with the class path of the Kafka Streams worker, compiled when it is not there."""
    try:
        java = java_command()
    except BrokerError as error:
        raise PeerMissing(str(error)) from error
    sources = sorted(STREAMS.glob("*.java"))
    libs, classes = CACHE / "kafka-streams" / "libs", CACHE / "kafka-streams" / "classes"
    with _held("kafka-streams"):
        _fetch(libs, STREAMS / "pom.xml", "kafka-streams")
        if not _is_complete(classes, sources):
            shutil.rmtree(classes, ignore_errors=True)
            compile_all = ["-cp", f"{libs}/*", "-d", str(classes), *map(str, sources)]
            _run([_program("javac"), "-Xlint:-options", *compile_all], "kafka-streams")
            _complete(classes, sources)
    return [java, "-cp", f"{classes}:{libs}/*"]


def jars_of(peer: str, pom: Path) -> Path:
    """The folder of the jars that a pom names, which are fetched when they are not there."""
    libs = CACHE / peer / "libs"
    with _held(peer):
        _fetch(libs, pom, peer)
    return libs


def _fetch(libs: Path, pom: Path, peer: str) -> None:
    if not _is_complete(libs, [pom]):
        shutil.rmtree(libs, ignore_errors=True)
        copy = [f"-DoutputDirectory={libs}", "dependency:copy-dependencies"]
        _run([_program("mvn"), "-q", "-B", "-f", str(pom), *copy], peer)
        _complete(libs, [pom])


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerMissing(f"no {name} on the PATH")
    return found


def _run(command: Sequence[str], peer: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerMissing(f"{peer} was not installed within {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip()[-REASON_CHARACTERS_MAX:]
        raise PeerMissing(f"{peer} cannot be installed: {reason}")


def _held(peer: str) -> AbstractContextManager[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    return file_lock(CACHE / f"{peer}.lock")


def _digest(sources: Sequence[Path]) -> str:
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def _is_complete(folder: Path, sources: Sequence[Path]) -> bool:
    mark = folder / MARK
    return mark.is_file() and mark.read_text(encoding="utf-8") == _digest(sources)


def _complete(folder: Path, sources: Sequence[Path]) -> None:
    (folder / MARK).write_text(_digest(sources), encoding="utf-8")
