"""Rows of a table read again while its changes stream, chunk by chunk, without a signal table and without a pause.

Owns the chunk under way: its moment, its rows, and the keys that changed meanwhile. The way is that of DBLog.

1. A chunk is read in a transaction of its own, which tells what it sees and where the log was then (its mark).
2. The stream goes on. Of each change of the table its key and transaction are noted.
3. Once the stream is past the mark, the chunk's rows are told, but for those that a change the chunk did not see has
   overtaken: the stream has told these as they are.
4. The key behind the chunk is in the position, in the transaction of its rows: a restart goes on with the next chunk.

- What is told of a row never goes back in time: every change that the chunk saw was told before it.
- The mark is passed soon on an idle database too: whoever owns the stream writes a word into the server's log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc.changes import DELETE, TRUNCATE, Changes
from headrace.ingress.cdc.postgres.connection import Connection, connect, encoding_for, translated
from headrace.ingress.cdc.postgres.position import Key, Moment, PostgresPosition, Resnapshot
from headrace.ingress.cdc.postgres.rows import PostgresChanges, snapshot_changes
from headrace.ingress.cdc.postgres.snapshot import chunk_query, csv_columns, key_text, older_is_open
from headrace.ingress.cdc.postgres.tables import SourceTable, check_contract, read_table, type_catalogue

_LOG = structlog.get_logger("headrace.ingress")

KEYS_MAX = 1_000_000
"""Noted while a chunk is read; beyond it the stream waits for the chunk."""
OLDER_WARNING_S = 60.0
OLDER_POLL_S = 0.1

RowKey = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AgainChunk:
    """Rows of a table as one moment saw them."""

    moment: Moment
    table: SourceTable
    columns: Mapping[str, pa.Array]
    count: int
    last: Key | None
    is_last: bool


@dataclass(slots=True)
class _UnderWay:
    table: str
    progress: Resnapshot
    """Before the chunk."""
    future: Future[AgainChunk]
    changed: dict[RowKey, int]
    """Last transaction of each key that changed since the reading began."""
    emptied_by: int | None = None
    """Last transaction that truncated the table."""


class Resnapshots:
    """Reads chunks beside one stream. Used from one thread: (ask | streamed | finished | wait)* close."""

    def __init__(
        self,
        database: str,
        contract_of: Callable[[SourceTable, str], Contract],
        rows_max: int,
        *,
        where: Where | None = None,
    ) -> None:
        self._database, self._contract_of, self._rows_max, self._where = database, contract_of, rows_max, where
        self._pool: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None
        self._over = threading.Event()
        self._under_way: _UnderWay | None = None

    @property
    def mark(self) -> int | None:
        """The place in the server's log that the stream must pass; None while no chunk waits for it."""
        under_way = self._under_way
        return under_way.future.result().moment.lsn if under_way is not None and under_way.future.done() else None

    @property
    def is_busy(self) -> bool:
        return self._under_way is not None

    def ask(self, position: PostgresPosition) -> None:
        """Begin with the next chunk, if one is to be read and none is."""
        if self._under_way is not None:
            return
        for table, progress in position.resnapshots.items():
            if not progress.is_done:
                self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="resnapshot")
                self._under_way = _UnderWay(table, progress, self._pool.submit(self._read, table, progress), {})
                return

    def streamed(self, changes: Sequence[Changes]) -> None:
        """Note what was read from the stream."""
        under_way = self._under_way
        if under_way is None:
            return
        for each in changes:
            if each.table == under_way.table and isinstance(each, PostgresChanges):
                _note(under_way, each)
        if len(under_way.changed) > KEYS_MAX:
            wait([under_way.future])

    def finished(self, position: PostgresPosition, now_ms: int) -> tuple[Changes | None, PostgresPosition] | None:
        """The rows of the chunk under way and the position with them; None while the stream is not past its mark."""
        under_way, mark = self._under_way, self.mark
        if under_way is None or mark is None or position.lsn < mark:
            return None
        chunk, self._under_way = under_way.future.result(), None
        progress = under_way.progress
        if position.resnapshots.get(under_way.table) != progress:
            return None  # Another order came meanwhile.
        after = replace(
            progress, after=chunk.last or progress.after, is_done=chunk.is_last, rows=progress.rows + chunk.count
        )
        return self._changes(under_way, chunk, now_ms), position.with_resnapshot(under_way.table, after)

    def wait(self, seconds: float) -> None:
        """Until the chunk is read."""
        if self._under_way is not None:
            wait([self._under_way.future], timeout=seconds)

    def close(self) -> None:
        """Idempotent. The chunk under way is read again by who comes next."""
        self._over.set()
        if self._connection is not None:
            self._connection.cancel_safe(timeout=1.0)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._connection is not None:
            self._connection.close()
        self._pool = self._connection = self._under_way = None
        self._over.clear()

    def _changes(self, under_way: _UnderWay, chunk: AgainChunk, now_ms: int) -> Changes | None:
        kept = _kept(under_way, chunk, self._contract_of(chunk.table, under_way.table).key)
        if not len(kept):
            return None
        taken = pa.array(kept)
        return snapshot_changes(
            under_way.table,
            tuple((name, chunk.table.column(name).type) for name in chunk.columns),
            {name: column.take(taken) for name, column in chunk.columns.items()},
            len(kept),
            lsn=chunk.moment.lsn,
            now_ms=now_ms,
            contract=self._contract_of(chunk.table, under_way.table),
            is_incremental=True,
        )

    # On the thread of the pool.

    def _read(self, name: str, progress: Resnapshot) -> AgainChunk:
        connection = self._connection = self._connection or self._connected()
        if progress.after is None:
            self._wait_for_older(connection, name)
        place = read_table(connection, type_catalogue(connection), name, where=self._where).quoted
        with translated(self._where), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # No column comes or goes between the look at the catalogue and the rows.
            connection.execute(f"LOCK TABLE {place} IN ACCESS SHARE MODE".encode())
            moment = _moment(connection)
            table = read_table(connection, type_catalogue(connection), name, where=self._where)
            contract = self._contract_of(table, name)
            check_contract(table, contract)
            fields = {each.name for each in contract.schema.fields}
            columns = [each.name for each in table.columns if each.name in fields]
            query = chunk_query(table, columns, progress.after, None, self._rows_max)
            with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
                data = b"".join(bytes(part) for part in copy)
        found = csv_columns(data, columns)
        count = len(next(iter(found.values())))
        key = [found[column] for column in table.key]
        last = tuple(key_text(column[count - 1].as_py()) for column in key) if count else None
        return AgainChunk(moment, table, found, count, last, is_last=count < self._rows_max)

    def _connected(self) -> Connection:
        connection = connect(self._database, where=self._where)
        with translated(self._where):
            connection.execute(f"SET client_encoding TO '{encoding_for(connection)}'".encode())
        return connection

    def _wait_for_older(self, connection: Connection, table: str) -> None:
        """Until all transactions of now have ended: one that began before its table was published is not streamed."""
        is_open = older_is_open(connection)
        waited_s = 0.0
        while is_open() and not self._over.wait(OLDER_POLL_S):
            waited_s += OLDER_POLL_S
            if waited_s >= OLDER_WARNING_S:
                waited_s = 0.0
                _LOG.warning("snapshot waits for an open transaction", table=table, cure="see pg_stat_activity")


def _moment(connection: Connection) -> Moment:
    row = connection.execute(
        "SELECT pg_current_snapshot()::text, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    ).fetchone()
    assert row is not None
    return Moment(row[0], row[1])


def _note(under_way: _UnderWay, changes: PostgresChanges) -> None:
    if changes.operation[0] == TRUNCATE:
        under_way.emptied_by = changes.origins[-1].xid
        return
    assert changes.contract is not None
    before, after = (_keys(side, changes.contract.key) for side in (changes.before, changes.after))
    for index, operation in enumerate(changes.operation):
        key = before[index] if operation == DELETE else after[index]
        under_way.changed[key] = changes.origins[index].xid


def _kept(under_way: _UnderWay, chunk: AgainChunk, key: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows that no change which the chunk did not see has overtaken."""
    moment = chunk.moment
    if under_way.emptied_by is not None and not moment.shows(under_way.emptied_by):
        return np.empty(0, np.int64)
    overtaken = {each for each, xid in under_way.changed.items() if not moment.shows(xid)}
    if not overtaken:
        return np.arange(chunk.count, dtype=np.int64)
    keys = _keys(chunk.columns, key)
    return np.array([index for index in range(chunk.count) if keys[index] not in overtaken], dtype=np.int64)


def _keys(columns: Mapping[str, Any], key: Sequence[str]) -> list[RowKey]:
    return list(zip(*(columns[name].to_pylist() for name in key), strict=True))
