"""One connection to the log file: opening, reading, writing, waiting for the writer's turn.

- A write block is one SQLite transaction that holds the only write lock of the file from its first moment (BEGIN
  IMMEDIATE): what it checks stays true until it is committed. It ends in a commit, or nothing of it happened.
- SQLite's own errors never leave this file; they become errors of the port that name the file.
- Waiting for another writer is bounded by `WRITE_WAIT_S`.
- No SQLite connection is carried through a fork: a forked child that closes or uses one would drop or miss locks of
  its parent. Before a fork all connections of the process close, afterwards both sides open anew on first use.
- Many threads may share a storage; one of them at a time uses the connection.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from headrace.log.embedded import schema
from headrace.log.embedded.errors import InvalidUse, LogFileCorrupt, LogFileFailed, from_sqlite, is_busy

Synchronous = Literal["full", "normal"]
Row = tuple[Any, ...]

WRITE_WAIT_S = 30.0
"""How long a writer waits for its turn before the log counts as unavailable."""
READ_WAIT_S = 10.0
"""How long a read waits where SQLite locks readers out: recovery after a crash, the last close."""
PAUSE_MIN_S, PAUSE_MAX_S = 0.0002, 0.01
"""Pauses between attempts at the write lock, with jitter. SQLite's own grow to 100 ms, which starves a busy writer."""
WAL_PAGES = 32 * 1024 * 1024 // schema.PAGE_BYTES
"""The writer that fills the write-ahead log beyond this copies it into the file."""
WAL_BYTES_KEPT = 64 * 1024 * 1024


class Storage:
    """A lazily opened connection. Close it, or leave it to the garbage collector."""

    def __init__(self, path: Path, *, synchronous: Synchronous) -> None:
        self.path = path
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._closed = False
        with _storages_lock:
            _storages.add(self)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """All rows of one query."""
        with self._lock, self._translated():
            return self._open().execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Several reads of one state of the file. Keep it short: while it lasts the write-ahead log only grows."""
        with self._lock, self._translated():
            connection = self._open()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                _roll_back(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction with the write lock held; commits at the end of the block, rolls back if it raises."""
        with self._lock, self._translated():
            connection = self._open()
            _retried(connection, "BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    def version(self) -> tuple[int, int]:
        """Another value whenever another connection may have committed since. Costs microseconds."""
        with self._lock, self._translated():
            connection = self._open()
            return self._opened, int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self.disconnect()
        with _storages_lock:
            _storages.discard(self)

    def disconnect(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            if self._connection is not None and not self._connection.in_transaction:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise from_sqlite(error, self.path) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._closed:
                raise InvalidUse(f"{self.path}: used after close")
            self._connection = _connect(self.path, self._synchronous)
            self._opened += 1
        return self._connection


def _connect(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogFileFailed(f"{path}: {error.strerror}", cure="choose a directory that may be written to") from error
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=READ_WAIT_S)
    try:
        _prepare(connection, path)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is ours, or make it."""
    if _is_ready(connection, path):
        return
    connection.execute(f"PRAGMA page_size = {schema.PAGE_BYTES}")
    _retried(connection, "PRAGMA journal_mode = WAL")
    _retried(connection, "BEGIN IMMEDIATE")
    try:
        if not _is_ready(connection, path):
            schema.create(connection)
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _is_ready(connection: sqlite3.Connection, path: Path) -> bool:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == schema.APPLICATION_ID and version == schema.SCHEMA_VERSION:
        return True
    if application == schema.APPLICATION_ID:
        raise LogFileFailed(
            f"{path}: made by another version of headrace (layout {version}, this one reads {schema.SCHEMA_VERSION})",
            cure="use the version that made it, or start with an empty file",
        )
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LogFileCorrupt(f"{path}: a SQLite file of something else", cure="choose another path")
    return False


def _retried(connection: sqlite3.Connection, sql: str) -> None:
    """Run a statement that needs the write lock, waiting for its turn."""
    deadline, pause_s = time.monotonic() + WRITE_WAIT_S, PAUSE_MIN_S
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute(sql)
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(pause_s * (0.5 + random.random()))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(READ_WAIT_S * 1000)}")


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite has rolled back by itself after some errors (disk full, for one).
    if connection.in_transaction:
        connection.execute("ROLLBACK")


_storages: weakref.WeakSet[Storage] = weakref.WeakSet()
_storages_lock = threading.RLock()
_held: list[Storage] = []


def _before_fork() -> None:
    _storages_lock.acquire()
    _held.extend(_storages)
    for storage in _held:
        storage._lock.acquire()
        storage.disconnect()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()
    _storages_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
