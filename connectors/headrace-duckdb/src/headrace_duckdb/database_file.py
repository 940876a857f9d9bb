"""The database file, open only while it is used unless it is kept.

Owns how the file is made, opened in turn with others, and what DuckDB's errors mean.

- DuckDB lets one process write and then nobody else read. So the file is open only while it is used: to open costs some
  milliseconds for each flush, and between flushes others may look in. `keep_open` trades that for speed.
- A file that another process holds is waited for, up to `FILE_WAIT_S`, then the egress tries again later: so several
  processes may write one file in turn, each for the time of one flush.
- A new file appears whole.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import structlog

from headrace.egress.sdk import TargetInvalid, TargetUnavailable

FILE_WAIT_S = 5.0
"""Longer than a flush of another process takes, short enough to stay in the consumer group."""
FILE_POLL_S = 0.02

_WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
"""What a file system without hard links says; DuckDB makes the file itself there."""

_LOG = structlog.get_logger("headrace.egress.duckdb")
_LOCKS: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
"""One for each file that this process has written; there are as many as its egresses name."""


class DatabaseFile:
    """The file, open only while it is used unless it is kept."""

    def __init__(self, path: Path, *, keep_open: bool) -> None:
        self._path, self._keep_open = path, keep_open
        self._lock = _LOCKS[path.resolve()]
        self._connection: duckdb.DuckDBPyConnection | None = None

    @contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction, committed at the end where `keep` says so, rolled back after a raise."""
        with self._turn(), self._translated():
            connection = self._opened()
            try:
                connection.begin()
                try:
                    yield connection
                except BaseException:
                    connection.rollback()
                    raise
                if keep:
                    connection.commit()
                else:
                    connection.rollback()
            finally:
                if not self._keep_open:
                    self.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Other egresses of this process wait: DuckDB shares one database among the connections of a process, and one
        that is opened while another is closed finds it half gone."""
        if self._keep_open:
            yield
            return
        if not self._lock.acquire(timeout=FILE_WAIT_S):
            raise TargetUnavailable(f"{self._path}: another egress of this process uses it")
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            if not self._path.exists():
                self._make()
            self._connection = self._waited_for()
        return self._connection

    def _make(self) -> None:
        """The empty file, under its name only once it is whole: what a full disk leaves of one cannot be opened."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}-{uuid.uuid4().hex}")
        try:
            duckdb.connect(str(part)).close()
            os.link(part, self._path)
        except FileExistsError:
            _LOG.debug("another process made the file", path=str(self._path))
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
        finally:
            part.unlink(missing_ok=True)
            part.with_name(f"{part.name}.wal").unlink(missing_ok=True)

    def _waited_for(self) -> duckdb.DuckDBPyConnection:
        """Open the file, once no other process holds it."""
        deadline_s = time.monotonic() + FILE_WAIT_S
        while True:
            try:
                return duckdb.connect(str(self._path))
            except duckdb.IOException as error:
                if not _is_locked(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(FILE_POLL_S)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.ConnectionException as error:
            raise self._unavailable(error, "close the other connection of this process") from error
        except (duckdb.IOException, duckdb.TransactionException) as error:
            if "not a valid DuckDB database" in str(error):
                cure = "name another file, or move this one away"
                raise TargetInvalid(f"{self._path}: {error}", cure=cure) from error
            cure = "close the program that holds it; headrace tries again" if _is_locked(error) else ""
            raise self._unavailable(error, cure) from error
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise TargetInvalid(f"{self._path}: {error}", cure="make the table fit the contract") from error
        except OSError as error:
            raise TargetUnavailable(f"{self._path}: {error.strerror or error}") from error

    def _unavailable(self, error: Exception, cure: str) -> TargetUnavailable:
        return TargetUnavailable(f"{self._path}: {error}", cure=cure)


def _is_locked(error: duckdb.Error) -> bool:
    return "could not set lock" in str(error).lower()
