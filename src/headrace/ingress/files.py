"""Publishing a file of rows.

Owns `publish_file`, what `headrace publish TOPIC --file` runs.

- Unless bad rows are to be skipped, the file is checked to its end first: with one bad row nothing is published.
- Rows are published in the order of the file, chunk by chunk; each chunk is durable before the next is read.
- Every bad row is counted; the first `BAD_ROWS_KEPT_MAX` are kept with file, line and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from headrace.errors import Where
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.ingress.encoder import Prepared, TopicEncoder
from headrace.ingress.file_chunks import Chunk, file_chunks, format_of
from headrace.ingress.violations import ContractViolation, IngressError

BAD_ROWS_KEPT_MAX = 100
"""Enough to see what is wrong with a file, without holding a whole bad file in memory."""

FileFormat = Literal["jsonl", "csv", "parquet"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was not published."""

    where: Where
    field: str
    """Empty where the row as a whole is wrong."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: " + (f"field {self.field!r} {self.reason}" if self.field else self.reason)


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far a file is."""

    phase: Literal["check", "publish"]
    bytes_done: int
    bytes_total: int
    rows: int
    """Rows seen in this phase."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of a file."""

    topic: str
    path: Path
    published: int
    bad: int
    bad_rows: tuple[BadRow, ...]
    """The first of them."""


class BadRows(IngressError):
    """A file with rows that do not fit. `report` has the rows.

    Nothing of the file was published, unless it changed while it was read or the log refused a row as too large.
    """

    code: ClassVar[str] = "ingress.bad_rows"

    def __init__(self, report: FileReport) -> None:
        self.report = report
        first = report.bad_rows[0]
        field = f"field {first.field!r} " if first.field else ""
        more = f" (and {report.bad - 1} more bad rows)" if report.bad > 1 else ""
        cure = "mend the rows, or publish the good ones with --skip-bad"
        published = f"{report.published} rows were published" if report.published else "nothing was published"
        super().__init__(f"{field}{first.reason}{more}; {published}", where=first.where, cure=cure)


Progress = Callable[[FileProgress], None]


def publish_file(
    publisher: BatchPublisher,
    topic: str,
    path: Path | str,
    *,
    file_format: FileFormat | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> FileReport:
    """Publish the rows of a file; `file_format` None goes by its ending.

    Raises `BadRows` before anything is published, `FileUnreadable`, `UnknownContract`, or what the log says: chunks
    before that are published.
    """
    run = _Run(publisher, topic, Path(path), file_format, progress)
    if not skip_bad:
        run.check()
    run.publish(skip_bad=skip_bad)
    return run.report()


class _Run:
    def __init__(
        self, publisher: BatchPublisher, topic: str, path: Path, file_format: str | None, progress: Progress | None
    ) -> None:
        self._publisher, self._path, self._progress = publisher, path, progress
        self._encoder: TopicEncoder = publisher.encoder(topic)
        self._format = file_format or format_of(path)
        self._published = 0
        self._kept: list[BadRow] = []
        self.bad = 0

    def report(self) -> FileReport:
        topic = self._encoder.contract.topic
        return FileReport(topic, self._path, self._published, self.bad, tuple(self._kept))

    def check(self) -> None:
        """Read the file to its end; raises `BadRows` when there is one."""
        for _ in self._prepared("check"):
            pass
        if self.bad:
            raise BadRows(self.report())

    def publish(self, *, skip_bad: bool) -> None:
        """Read the file and publish it; raises `BadRows` before the chunk with one, unless they are skipped."""
        for chunk, prepared in self._prepared("publish"):
            if self.bad and not skip_bad:
                break
            self._produce(chunk, prepared)
        if self.bad and not skip_bad:
            raise BadRows(self.report())

    def _prepared(self, phase: Literal["check", "publish"]) -> Iterator[tuple[Chunk, Prepared]]:
        rows = 0
        for chunk in file_chunks(self._path, self._encoder.contract.schema, self._format):
            prepared = self._publisher.prepare(lambda chunk=chunk: self._encode(chunk))  # type: ignore[misc]
            self._add_bad(chunk, prepared)
            yield chunk, prepared
            rows += len(chunk.lines) + len(chunk.unreadable)
            self._tell(phase, chunk, rows)

    def _encode(self, chunk: Chunk) -> Prepared:
        stamps = np.full(len(chunk.lines), self._publisher.clock(), dtype=np.int64)
        return self._encoder.encode_columns(chunk.columns, stamps)

    def _produce(self, chunk: Chunk, prepared: Prepared) -> None:
        refused = self._publisher.produce(prepared)
        self._publisher.flush()
        for row, error in refused.items():
            self._add(chunk.lines[row], "", error.message)
        self._published += len(prepared.rows) - len(refused)

    def _add_bad(self, chunk: Chunk, prepared: Prepared) -> None:
        found = [(chunk.lines[row], *_place(violation)) for row, violation in prepared.violations.items()]
        found.extend((line, "", reason) for line, reason in chunk.unreadable)
        for line, field, reason in sorted(found):
            self._add(line, field, reason)

    def _add(self, line: int, field: str, reason: str) -> None:
        self.bad += 1
        if len(self._kept) < BAD_ROWS_KEPT_MAX:
            self._kept.append(BadRow(Where(str(self._path), line), field, reason))

    def _tell(self, phase: Literal["check", "publish"], chunk: Chunk, rows: int) -> None:
        if self._progress is not None:
            self._progress(FileProgress(phase, chunk.bytes_done, self._path.stat().st_size, rows))


def _place(violation: ContractViolation) -> tuple[str, str]:
    return violation.field, violation.reason
