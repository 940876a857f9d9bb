"""Parquet files of one topic in a local folder.

Owns `<path>/<topic>/<partition>/`; a file is `<first offset>-<last offset>.parquet`.

- The name says which offsets a file covers, so the names are the positions: a file that is there has been delivered.
- A file appears whole: written under a temporary name, synced, linked to its name, its folder synced.
- Offsets of a partition are covered once: the look at the names and the new name are one step, under a lock of the
  folder. The operating system gives it back when a process ends.
- Other files in the folder are left alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from headrace.egress.local_folder import folder_problems
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace_parquet.files import OFFSET_DIGITS, Covered, moved, write_parquet
from headrace_parquet.options import ParquetOptions

_NAME = re.compile(rf"(\d{{{OFFSET_DIGITS}}})-(\d{{{OFFSET_DIGITS}}})\.parquet")
_TEMPORARY = ".tmp"
PROBLEMS_MAX = 10
"""That a check tells: a topic may have thousands of partitions."""


class Folder:
    """A `Files`."""

    def __init__(self, options: ParquetOptions, topic: str) -> None:
        self._options, self._folder = options, Path(options.path) / topic

    def open(self, partitions: Sequence[int]) -> dict[int, int]:
        """Make the folders, remove what a crash left of a file, and read the positions off the names."""
        next_offsets = {}
        with _translated(self._folder):
            for partition in partitions:
                folder = self._partition_folder(partition)
                folder.mkdir(parents=True, exist_ok=True)
                for left_over in folder.glob(f"*{_TEMPORARY}"):
                    left_over.unlink(missing_ok=True)
                covered = covered_offsets(folder)
                if covered:
                    next_offsets[partition] = covered[-1].last + 1
        return next_offsets

    def problems(self) -> list[str]:
        """The topic's folder, and those of its partitions that are there."""
        with _translated(self._folder):
            found = folder_problems(self._folder)
            if not found and self._folder.exists():
                partitions = (each for each in sorted(self._folder.iterdir()) if each.name.isdecimal())
                found = [problem for each in partitions for problem in folder_problems(each)]
        return found[:PROBLEMS_MAX]

    def add(self, partition: int, covered: Covered, table: pa.Table) -> None:
        folder = self._partition_folder(partition)
        name = f"{covered.first:0{OFFSET_DIGITS}d}-{covered.last:0{OFFSET_DIGITS}d}.parquet"
        # Of this thread alone: another task that was given the partition meanwhile may be at the same offsets.
        temporary = folder / f"{name}.{os.getpid()}-{threading.get_ident()}{_TEMPORARY}"
        with _translated(self._folder):
            try:
                _write_synced(table, covered, temporary, self._options)
                with _locked(folder):
                    if any(each.last >= covered.first for each in covered_offsets(folder)):
                        raise moved(str(folder), covered.first)
                    os.link(temporary, folder / name)
            finally:
                temporary.unlink(missing_ok=True)

    def _partition_folder(self, partition: int) -> Path:
        return self._folder / str(partition)


def covered_offsets(folder: Path) -> list[Covered]:
    """The offsets of a partition's files, in order."""
    found = (_NAME.fullmatch(each.name) for each in folder.iterdir())
    return sorted(Covered(int(match.group(1)), int(match.group(2))) for match in found if match is not None)


def _write_synced(table: pa.Table, covered: Covered, path: Path, options: ParquetOptions) -> None:
    with path.open("wb") as file:
        write_parquet(table, covered, file, options)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder as this process's alone; what was done in it is on the disk at the end."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise TargetInvalid(f"{folder}: {error.strerror}", cure="give the egress a folder that it may write") from error
    except OSError as error:
        raise TargetUnavailable(f"{folder}: {error.strerror or error}") from error
