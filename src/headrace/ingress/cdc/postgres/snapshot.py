"""Reading tables as they were at one moment: in ranges of their key, side by side, each in chunks.

Owns the connections that share one exported snapshot, and the chunks under way.

- A chunk is one COPY of the next rows of a range in key order; its columns are made by Arrow's reader of CSV.
- What was handed out and committed is in the position alone: who begins again there reads no row twice.
- Ranges are made once, from a sample of the keys; their bounds cut the table wherever its rows go later.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.csv as pa_csv

from headrace.errors import Where
from headrace.ingress.cdc.postgres.connection import UTF8, Connection, connect, encoding_for, translated
from headrace.ingress.cdc.postgres.outbox import seen_at
from headrace.ingress.cdc.postgres.position import Key, Moment, PostgresPosition, Range
from headrace.ingress.cdc.postgres.tables import KEY_ERRORS, Column, SourceTable, literal, quoted

SPLIT_PAGES_MIN = 2_000
"""A table below 16 MB is one range."""
RANGES_PER_WORKER = 2
SAMPLE_PAGES = 64
WAIT_TIMEOUT_S = 3_600.0
"""For one chunk; a table that is locked must not hold the thread for ever."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a range."""

    table: str
    index: int
    """Of the range."""
    columns: Mapping[str, pa.Array]
    count: int
    last: Key | None


class SnapshotReader:
    """Reads one moment of the database. Used from one thread; (next_chunk)* close."""

    def __init__(
        self,
        database: str,
        snapshot: str,
        tables: Mapping[str, SourceTable],
        columns: Mapping[str, Sequence[str]],
        workers: int,
        *,
        outbox: str | None = None,
        where: Where | None = None,
    ) -> None:
        self._tables, self._columns, self._workers, self._where = tables, columns, workers, where
        self._outbox = outbox
        self._connections: list[Connection] = []
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="snapshot")
        self._under_way: dict[tuple[str, int], Future[Chunk]] = {}
        try:
            for _ in range(workers):
                connection = connect(database, where=where)
                self._connections.append(connection)
                self._share(connection, snapshot)
                self._free.put(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for connection in self._connections:
            connection.cancel_safe(timeout=1.0)
        self._pool.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            connection.close()
        self._connections = []

    def next_chunk(self, position: PostgresPosition, rows_max: int) -> tuple[Chunk, PostgresPosition] | None:
        """A chunk of whichever range has one, and the position behind it; None when all ranges are done."""
        for name, snapshot in position.tables.items():
            for index, each in enumerate(snapshot.ranges):
                if len(self._under_way) >= self._workers:
                    break
                if not each.is_done and (name, index) not in self._under_way:
                    self._ask(name, index, snapshot.lower(index), each, rows_max)
        if not self._under_way:
            return None
        done, _ = wait(self._under_way.values(), timeout=WAIT_TIMEOUT_S, return_when=FIRST_COMPLETED)
        if not done:
            raise TimeoutError(f"no chunk of the snapshot came within {WAIT_TIMEOUT_S:.0f} s")
        place = next(place for place, future in self._under_way.items() if future in done)
        chunk = self._under_way.pop(place).result()
        snapshot = position.tables[chunk.table]
        before = snapshot.ranges[chunk.index]
        after = replace(before, after=chunk.last or before.after, is_done=chunk.count < rows_max)
        return chunk, position.with_table(chunk.table, snapshot.with_range(chunk.index, after))

    def _share(self, connection: Connection, snapshot: str) -> None:
        with translated(self._where):
            connection.execute(f"SET client_encoding TO '{encoding_for(connection)}'".encode())
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}".encode())

    def _ask(self, name: str, index: int, lower: Key | None, each: Range, rows_max: int) -> None:
        seen = seen_at(each.moment) if name == self._outbox and each.moment is not None else ""
        query = chunk_query(self._tables[name], self._columns[name], lower, each.upto, rows_max, seen)
        self._under_way[name, index] = self._pool.submit(self._copy, name, index, query)

    def _copy(self, name: str, index: int, query: str) -> Chunk:
        connection = self._free.get()
        try:
            with (
                translated(self._where),
                connection.cursor() as cursor,
                cursor.copy(query.encode()) as copy,
            ):
                data = b"".join(bytes(part) for part in copy)
        finally:
            self._free.put(connection)
        columns = csv_columns(data, self._columns[name])
        count = len(next(iter(columns.values())))
        key = [columns[column] for column in self._tables[name].key]
        last = tuple(key_text(column[count - 1].as_py()) for column in key) if count else None
        return Chunk(name, index, columns, count, last)


def csv_columns(data: bytes, names: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of COPY's CSV as texts: an unquoted empty cell is null, a quoted one is empty."""
    if not data:
        return {name: pa.array([], pa.binary()) for name in names}
    table = pa_csv.read_csv(
        pa.py_buffer(data),
        read_options=pa_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=len(data) + 1),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            check_utf8=False,
        ),
    )
    return {name: table.column(name).combine_chunks() for name in names}


def chunk_query(
    table: SourceTable, columns: Sequence[str], lower: Key | None, upto: Key | None, rows_max: int, condition: str = ""
) -> str:
    """The COPY of the next rows of a range, of those that fulfil a condition."""
    names = ", ".join(quoted(name) for name in columns)
    key = table.key_columns
    bounds = [f"{_tuple(key)} {sign} {_bound(key, values)}" for sign, values in ((">", lower), ("<=", upto)) if values]
    bounds += [condition] if condition else []
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    order = ", ".join(quoted(each.name) for each in key)
    select = f"SELECT {names} FROM {table.quoted}{where} ORDER BY {order} LIMIT {rows_max}"
    return f"COPY ({select}) TO STDOUT (FORMAT csv)"


def _tuple(key: Sequence[Column]) -> str:
    return f"({', '.join(quoted(each.name) for each in key)})"


def _bound(key: Sequence[Column], values: Key) -> str:
    parts = (f"{literal(value)}::{each.declared}" for each, value in zip(key, values, strict=True))
    return f"({', '.join(parts)})"


def open_moment(connection: Connection, *, where: Where | None = None) -> tuple[str, Moment]:
    """Begin a transaction of a moment of now: the name to share it by, and what it sees."""
    with translated(where):
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute(
            "SELECT pg_export_snapshot(), pg_current_snapshot()::text,"
            " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        ).fetchone()
    assert row is not None
    return row[0], Moment(row[1], row[2])


def older_is_open(connection: Connection, *, where: Where | None = None) -> Callable[[], bool]:
    """What tells whether a transaction that is open now is open still."""
    query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"

    def asked(which: str) -> int:
        with translated(where):
            (found,) = connection.execute(query.replace("xmax", which).encode()).fetchone() or (0,)
        return int(found)

    newest = asked("xmax")
    return lambda: asked("xmin") < newest


def split_ranges(
    connection: Connection, table: SourceTable, workers: int, *, where: Where | None = None
) -> tuple[Range, ...]:
    """Ranges of a table of about the same size; one for a table that is small.

    One too where the server does not look at encodings: the driver would not read what is no text from the sample.
    """
    if table.pages < SPLIT_PAGES_MIN or workers == 1 or encoding_for(connection) != UTF8:
        return (Range(),)
    percent = min(100.0, 100.0 * SAMPLE_PAGES / table.pages)
    key = ", ".join(quoted(each.name) for each in table.key_columns)
    texts = ", ".join(f"{quoted(each.name)}::text" for each in table.key_columns)
    query = f"SELECT {texts} FROM {table.quoted} TABLESAMPLE SYSTEM ({percent}) ORDER BY {key}"
    with translated(where):
        keys = connection.execute(query.encode()).fetchall()
    wanted = workers * RANGES_PER_WORKER
    bounds = [tuple(map(str, keys[len(keys) * part // wanted])) for part in range(1, wanted)] if keys else []
    distinct = [bound for at, bound in enumerate(bounds) if at == 0 or bound != bounds[at - 1]]
    return (*(Range(bound) for bound in distinct), Range())


def key_text(value: bytes) -> str:
    """A value of a key."""
    return value.decode(errors=KEY_ERRORS)


def locate(
    connection: Connection, table: SourceTable, uppers: Sequence[Key | None], keys: Sequence[tuple[bytes, ...]]
) -> list[int]:
    """The range of each key, as the server orders them."""
    columns = table.key_columns
    parts = ", ".join(
        f"(t.k{at}::{each.declared}" + (f" COLLATE {each.collation})" if each.collation else ")")
        for at, each in enumerate(columns)
    )
    cases = " ".join(
        f"WHEN ({parts}) <= {_bound(columns, upper)} THEN {index}" for index, upper in enumerate(uppers) if upper
    )
    if not cases:
        return [0] * len(keys)
    names = ", ".join(f"k{at}" for at in range(len(columns)))
    # No parameters: they cannot hold what is no UTF-8.
    arrays = ", ".join(
        f"ARRAY[{', '.join(literal(key_text(key[at])) for key in keys)}]::text[]" for at in range(len(columns))
    )
    query = (
        f"SELECT CASE {cases} ELSE {len(uppers) - 1} END"
        f" FROM unnest({arrays}) WITH ORDINALITY AS t({names}, place) ORDER BY place"
    )
    with translated():
        return [row[0] for row in connection.execute(query.encode()).fetchall()]
