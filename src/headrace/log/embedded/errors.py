"""Errors only the embedded log knows, and the translation of SQLite's own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from headrace.errors import Fault
from headrace.log.port import LogError, LogUnavailable


class LogFileFailed(LogError):
    """The file of the log cannot be read or written."""

    code = "log.file_failed"


class LogFileCorrupt(LogError):
    """The file of the log is damaged, or is something else."""

    code = "log.file_corrupt"


class InvalidTopic(LogError):
    """A topic name, partition count or setting that Kafka would refuse."""

    code = "log.invalid_topic"


class InvalidRecord(LogError):
    """Records that cannot be written as they are."""

    code = "log.invalid_record"
    fault = Fault.ROW


class InvalidUse(LogError):
    """A call out of order, or with arguments that do not fit together."""

    code = "log.invalid_use"


_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 where the error came from elsewhere."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    return primary_code(error) in _BUSY


def from_sqlite(error: sqlite3.Error, path: Path) -> LogError:
    """The error of the port for one of SQLite's."""
    if is_busy(error):
        return LogUnavailable(
            f"{path}: other processes kept the log busy", cure="find the process that holds it, then try again"
        )
    if primary_code(error) in _CORRUPT:
        return LogFileCorrupt(f"{path}: {error}", cure="restore the file from a copy, or remove it to start empty")
    return LogFileFailed(f"{path}: {error}", cure="check that the directory is writable and the disk has space")
