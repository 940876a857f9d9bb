"""Copies of local state in a directory or an object store, for a worker whose disk is new.

Owns where a copy lies, how it gets there and back, and how many are kept. What is in a copy, and whether it is whole,
is said by the local state's own checksums (see `local_state`).

- A copy is the beginning of a local state file, up to a commit: `<environment>/<pipeline>/<step>/<partition>/
  <topic id>/<number>-<bytes>.state`. It is of one changelog topic; a topic made anew never meets an older one's copies.
- A copy is written whole or not at all, and never changed. The newest `KEPT` stay.
- Memory: at most `PART_BYTES * (PARTS_AT_ONCE + 1)` while sending, one part while fetching.
- Everything here may fail and nothing may depend on it: the changelog has the state too.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headrace.errors import Fault, HeadraceError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

KEPT = 2
"""The newest, and the one before it for whoever is just fetching it."""
PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 2
RETRY_TIMEOUT_S = 30.0
"""A call to the object store, all its tries together. Restore then goes on without a copy."""
RETRIES_MAX = 4
NO_ENVIRONMENT = "-"
CLIENT_OPTIONS = frozenset(
    {"allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url", "proxy_ca_certificate"}
)
"""Of the settings in `client`: those of the HTTP client; all others are of the store itself."""

_NAME = re.compile(r"(\d{20})-(\d+)\.state")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")


class SnapshotsUnavailable(HeadraceError):
    """The object store did not do what it was asked. Never stops a worker: it goes on without a copy."""

    code = "engine.snapshots_unavailable"
    fault = Fault.RETRY


class SnapshotDamaged(HeadraceError):
    """A copy is not what was stored."""

    code = "engine.snapshot_damaged"


class SnapshotsInvalid(HeadraceError):
    """The place for snapshots cannot be used as it is configured."""

    code = "engine.snapshots_invalid"


@dataclass(frozen=True, slots=True)
class StatePlace:
    """Whose state it is: one partition of one step, as one changelog topic holds it."""

    environment: str
    pipeline: str
    step: str
    partition: int
    topic_id: str

    @property
    def parent(self) -> str:
        """The folder of all changelog topics that this partition ever had."""
        return f"{self.environment or NO_ENVIRONMENT}/{self.pipeline}/{self.step}/{self.partition}"

    @property
    def folder(self) -> str:
        return f"{self.parent}/{self.topic_id}"

    def __str__(self) -> str:
        return f"{self.pipeline}.{self.step}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A copy that is there."""

    number: int
    """Of the last commit in it."""
    name: str
    length_bytes: int


class SnapshotStore(Protocol):
    """Where copies lie. Methods block, and raise `SnapshotsUnavailable`."""

    def put(self, place: StatePlace, path: Path, length_bytes: int, number: int) -> None:
        """Keep the first `length_bytes` of a file as the state at commit `number`; older copies but one go."""

    def newest(self, place: StatePlace) -> SnapshotInfo | None:
        """The copy of the latest commit."""

    def fetch(self, info: SnapshotInfo, to: Path) -> None:
        """Write a copy to this path, whole or not at all. Raises `SnapshotDamaged` when it is cut short."""


class ObjectSnapshots:
    """Copies in anything that `obstore` opens. Thread-safe."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store, self._url = store, url

    def put(self, place: StatePlace, path: Path, length_bytes: int, number: int) -> None:
        with _told(f"snapshot {number} of {place} cannot be stored in {self._url}"):
            file = os.open(path, os.O_RDONLY)
            try:
                self.put_open(place, file, length_bytes, number)
            finally:
                os.close(file)

    def put_open(self, place: StatePlace, file: int, length_bytes: int, number: int) -> None:
        """The same with an open file, whose name may by now be another's."""
        import obstore

        with _told(f"snapshot {number} of {place} cannot be stored in {self._url}"):
            name = f"{place.folder}/{number:020d}-{length_bytes}.state"
            obstore.put(
                self._store, name, _parts(file, length_bytes), chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            )
            self._prune(place)

    def newest(self, place: StatePlace) -> SnapshotInfo | None:
        with _told(f"the snapshots of {place} cannot be listed in {self._url}"):
            return max(self._found(place.folder), key=lambda info: info.number, default=None)

    def fetch(self, info: SnapshotInfo, to: Path) -> None:
        import obstore

        partial = to.with_name(f"{to.name}.fetched")
        came = 0
        with _told(f"snapshot {info.name} cannot be fetched from {self._url}"):
            try:
                with partial.open("wb") as file:
                    for part in obstore.get(self._store, info.name).stream(min_chunk_size=PART_BYTES):
                        came += file.write(part)
                if came != info.length_bytes:
                    raise SnapshotDamaged(
                        f"snapshot {info.name} in {self._url} has {came} bytes, not {info.length_bytes}",
                        cure="nothing to do: state is restored without it",
                    )
                partial.replace(to)
            finally:
                partial.unlink(missing_ok=True)

    def _found(self, folder: str) -> Iterator[SnapshotInfo]:
        import obstore

        for chunk in obstore.list(self._store, f"{folder}/"):
            for each in chunk:
                name = _NAME.fullmatch(each["path"].rpartition("/")[2])
                if name is not None:
                    yield SnapshotInfo(int(name[1]), each["path"], int(name[2]))

    def _prune(self, place: StatePlace) -> None:
        """Leave the newest of this topic, and nothing of topics that are gone."""
        import obstore

        mine: list[SnapshotInfo] = []
        others: list[SnapshotInfo] = []
        for info in self._found(place.parent):
            (mine if info.name.startswith(f"{place.folder}/") else others).append(info)
        mine.sort(key=lambda info: info.number)
        gone = [info.name for info in [*others, *mine[:-KEPT]]]
        if gone:
            # Another worker may have been faster.
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, gone)


def open_snapshots(url: str, client: Mapping[str, str], root: Path) -> ObjectSnapshots:
    """The snapshots at a URL (`s3://bucket/prefix`, ...) or in a folder, relative to `root`.

    Opens no connection. Raises `SnapshotsInvalid`.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import LocalStore, from_url
    except ImportError as error:
        raise SnapshotsInvalid(
            f"snapshots in {url!r} need the package obstore, which is not installed",
            cure="pip install 'headrace[object-store]'",
        ) from error
    try:
        if not _URL.match(url) or url.startswith("file://"):
            return ObjectSnapshots(LocalStore(root / url.removeprefix("file://"), mkdir=True), url)
        options: Any = {name: value for name, value in client.items() if name in CLIENT_OPTIONS}
        config: Any = {name: value for name, value in client.items() if name not in CLIENT_OPTIONS}
        retry: Any = {"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)}
        return ObjectSnapshots(from_url(url, config=config, client_options=options, retry_config=retry), url)
    except (BaseError, OSError, ValueError) as error:
        raise SnapshotsInvalid(
            f"snapshots cannot be kept in {url!r}: {_first_line(error)}",
            cure="write a folder, or a URL such as s3://bucket/prefix, and the store's settings under `client`",
        ) from error


def _parts(file: int, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at < length_bytes:
        part = os.pread(file, min(PART_BYTES, length_bytes - at), at)
        if not part:
            raise OSError(f"the local file ends at byte {at} of {length_bytes}")
        at += len(part)
        yield part


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the store, and of the disk, as one."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        raise SnapshotsUnavailable(
            f"{what}: {_first_line(error)}", cure="nothing is lost: the changelog has everything"
        ) from error


def _first_line(error: BaseException) -> str:
    """Without the client's view of its own insides."""
    return str(error).partition("\n")[0]
