"""A PostgreSQL database as a source of changes: the snapshot first, then the stream.

Owns the order of things: what is checked, made and read when, and what is told to the server.

1. Without a position: check, make the slot, note where each table's snapshot begins.
2. While a snapshot is open: chunks of its ranges. After a restart the rest is read at a new moment of the database.
3. Then the stream, from the position. What is acknowledged is a position that the log has.
4. Tables that joined later, and those that are ordered to, are read beside the stream (`resnapshot`).

- A read that fails, or a position that is not the one handed out last, begins anew from what the log says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc.changes import Changes, Read, SourceLog
from headrace.ingress.cdc.config import PostgresCdcConfig
from headrace.ingress.cdc.errors import PositionLost, SlotInUse, SlotTaken, SourceUnavailable
from headrace.ingress.cdc.postgres import publication
from headrace.ingress.cdc.postgres.connection import (
    Connection,
    Replication,
    connect,
    encoding_for,
    translated,
)
from headrace.ingress.cdc.postgres.outbox import OutboxPruner, backlog, check_table
from headrace.ingress.cdc.postgres.position import Moment, PostgresPosition, Range, Resnapshot, TableSnapshot
from headrace.ingress.cdc.postgres.resnapshot import Resnapshots
from headrace.ingress.cdc.postgres.rows import snapshot_changes
from headrace.ingress.cdc.postgres.snapshot import (
    Chunk,
    SnapshotReader,
    locate,
    older_is_open,
    open_moment,
    split_ranges,
)
from headrace.ingress.cdc.postgres.stream import StreamReader
from headrace.ingress.cdc.postgres.streamed import SpoolFull, TransactionFeed
from headrace.ingress.cdc.postgres.tables import (
    SourceTable,
    check_contract,
    followed_contract,
    read_table,
    type_catalogue,
)
from headrace.ingress.cdc.postgres.types import TypeCatalogue

_LOG = structlog.get_logger("headrace.ingress")

STATUS_INTERVAL_S = 5.0
"""How often the server hears of us while nothing happens; it gives up after its `wal_sender_timeout` (60 s)."""
HEARTBEAT_PREFIX = "headrace"
OLDER_TIMEOUT_S = 60.0
"""For transactions that were open when a table joined."""
POLL_S = 0.1
AGAIN_WAIT_S = 0.01
"""For a chunk that is read beside the stream: what the stream has waits no longer."""
WATCH_INTERVAL_S = 5.0
"""Between two looks at how much log the server keeps for the slot."""
IN_USE_PATIENCE_S = 120.0
"""A reader that was killed holds the slot until the server's `wal_sender_timeout`, 60 s where nobody changed it."""


@dataclass(slots=True)
class _Server:
    """What an ordinary connection knows."""

    connection: Connection
    types: TypeCatalogue
    tables: Mapping[str, SourceTable]


class PostgresSource:
    """Reads one database. Used from one thread."""

    def __init__(
        self,
        config: PostgresCdcConfig,
        contracts: Mapping[str, Contract],
        name: str,
        *,
        orders: Mapping[str, str] | None = None,
        where: Where | None = None,
    ) -> None:
        """`orders`: by table, which order to read it again was given last. Others may add to it."""
        self._config, self._contracts, self._name, self._where = config, contracts, name, where
        self._orders = {} if orders is None else orders
        self._database = config.connection_string()
        self._again = Resnapshots(self._database, self._contract, config.batch_rows_max, where=where)
        self._server: _Server | None = None
        self._exporter: Connection | Replication | None = None
        self._snapshot: SnapshotReader | None = None
        self._replication: Replication | None = None
        self._feed: TransactionFeed | None = None
        self._stream: StreamReader | None = None
        self._spool_bytes_max = config.spool_mb_max * 1_000_000
        self._expected: PostgresPosition | None = None
        self._acknowledged, self._told_at_s, self._moved_at_s = 0, 0.0, 0.0
        self._log: SourceLog | None = None
        self._looked_at_s = 0.0
        self._marked: int | None = None
        """The mark of the chunk that a word was written for."""
        self._in_use_since_s: float | None = None
        self._outbox = config.outbox.table if config.outbox else None
        self._pruner = OutboxPruner(config.outbox, config.name) if config.outbox else None

    @property
    def log(self) -> SourceLog | None:
        return self._log

    def has_news(self) -> bool:
        return True  # A read of a stream that has nothing costs no more than to ask.

    def wait(self, stop: threading.Event, seconds: float) -> None:
        if self._again.is_busy and self._again.mark is None:
            self._again.wait(min(seconds, AGAIN_WAIT_S))
        elif self._replication is None:
            stop.wait(seconds)
        elif not stop.is_set():
            self._replication.wait(min(seconds, 1.0))

    def close(self) -> None:
        self._end_stream()
        self._again.close()
        with suppress(SourceUnavailable):
            self._end_snapshot()
        if self._server is not None:
            self._server.connection.close()
        self._server = self._expected = None

    def read(self, position: PostgresPosition | None, rows_max: int) -> Read[PostgresPosition]:
        try:
            if position is None or position.generation != self._config.generation:
                found = self._begin()
            else:
                found = self._read(position, rows_max)
        except SlotInUse as error:
            self.close()
            self._in_use_since_s = self._in_use_since_s or time.monotonic()
            if time.monotonic() - self._in_use_since_s < IN_USE_PATIENCE_S:
                raise
            raise SlotTaken(
                f"{error.message}, since over {IN_USE_PATIENCE_S:.0f} s",
                where=self._where,
                cure="stop the other reader, then start this ingress again; what that one took is then told as a lost"
                " position. Each ingress needs a slot of its own",
            ) from error
        except BaseException:
            self.close()
            raise
        self._expected, self._in_use_since_s = found.position, None
        if self._pruner is not None and any(each.table == self._outbox for each in found.changes):
            self._pruner.noticed()
        self._watch_slot()
        return found

    def published(self, position: PostgresPosition) -> None:
        if self._replication is None or self._stream is None:
            return
        now_s = time.monotonic()
        is_due = self._replication.is_asked or now_s - self._told_at_s > STATUS_INTERVAL_S
        if position.lsn > self._acknowledged or is_due:
            self._replication.acknowledge(position.lsn)
            self._replication.is_asked = 0
            self._acknowledged, self._told_at_s = position.lsn, now_s
        if self._pruner is not None and self._server is not None:
            self._pruner.published(self._server.connection, position)

    def _read(self, position: PostgresPosition, rows_max: int) -> Read[PostgresPosition]:
        if position != self._expected:
            self.close()
        server = self._opened()
        if self._stream is None and self._snapshot is None:
            position = self._checked(server, position)
        if position.first_open:
            return self._read_snapshot(server, position, rows_max)
        self._end_snapshot()
        return self._read_stream(server, position, rows_max)

    def _opened(self) -> _Server:
        if self._server is None:
            connection = connect(self._database, where=self._where)
            try:
                publication.check_server(connection, unlimited_wal=self._config.unlimited_wal, where=self._where)
                types = type_catalogue(connection)
                tables = {name: read_table(connection, types, name, where=self._where) for name in self._contracts}
                for name, table in tables.items():
                    check_contract(table, self._contracts[name])
                if self._config.outbox is not None:
                    check_table(connection, tables[self._config.outbox.table], self._config.outbox, where=self._where)
                publication.check_published(connection, self._name, tables, where=self._where)
            except BaseException:
                connection.close()
                raise
            self._server = _Server(connection, types, tables)
        return self._server

    def _begin(self) -> Read[PostgresPosition]:
        """Make the slot; nothing is read yet, so that a position is there before the first row."""
        self.close()
        server = self._opened()
        publication.drop_slot(server.connection, self._name)
        exporter = self._exporter = Replication(self._database, where=self._where)
        lsn, snapshot = exporter.create_slot(self._name)
        tables = {name: self._fresh(server, name, table) for name, table in server.tables.items()}
        if self._outbox is not None:
            ranges = backlog(server.connection, snapshot, lsn)
            tables[self._outbox] = TableSnapshot(server.tables[self._outbox].oid, ranges)
        system = publication.system_of(server.connection)
        self._snapshot = self._snapshot_reader(server, snapshot)
        return Read([], PostgresPosition(system, self._config.generation, lsn, tables), None, is_drained=False)

    def _fresh(self, server: _Server, name: str, table: SourceTable) -> TableSnapshot:
        if name == self._outbox:
            return TableSnapshot(table.oid, (Range(),))  # In one range: its rows have an order.
        ranges = split_ranges(server.connection, table, self._config.snapshot_workers, where=self._where)
        return TableSnapshot(table.oid, ranges)

    def _checked(self, server: _Server, position: PostgresPosition) -> PostgresPosition:
        """The position for the tables of today, if it can be gone on from."""
        system = publication.system_of(server.connection)
        if position.system != system:
            raise PositionLost(
                f"the log says that {position.system} was read, and this is {system}: it is another database",
                where=self._where,
                cure=f"restore the right database, or {publication.AGAIN}",
            )
        publication.check_slot(server.connection, self._name, position, where=self._where)
        known = position.tables
        joined = [name for name, each in server.tables.items() if name not in known or known[name].oid != each.oid]
        beside = {name: TableSnapshot(server.tables[name].oid) for name in joined if name != self._outbox}
        # Rows of an outbox have an order, which those of the stream must not disturb.
        before = {name: self._fresh(server, name, server.tables[name]) for name in joined if name == self._outbox}
        tables = {name: beside.get(name) or before.get(name) or known[name] for name in server.tables}
        again = {name: each for name, each in position.resnapshots.items() if name in server.tables}
        return replace(position, tables=tables, resnapshots={**again, **dict.fromkeys(beside, Resnapshot())})

    def _snapshot_reader(self, server: _Server, snapshot: str) -> SnapshotReader:
        columns = {name: self._columns(table, name) for name, table in server.tables.items()}
        workers = self._config.snapshot_workers
        return SnapshotReader(
            self._database, snapshot, server.tables, columns, workers, outbox=self._outbox, where=self._where
        )

    def _columns(self, table: SourceTable, name: str) -> list[str]:
        """Those that are published."""
        fields = {each.name for each in self._contract(table, name).schema.fields}
        return [each.name for each in table.columns if each.name in fields]

    def _contract(self, table: SourceTable, name: str) -> Contract:
        """With the columns that are followed."""
        if self._config.new_columns == "ignore" or name == self._outbox:
            return self._contracts[name]
        columns = [(each.name, each.type) for each in table.columns if not each.is_generated]
        return followed_contract(self._contracts[name], columns)

    def _read_snapshot(self, server: _Server, position: PostgresPosition, rows_max: int) -> Read[PostgresPosition]:
        if self._snapshot is None:
            position = self._open_snapshot(server, position)
        assert self._snapshot is not None
        found = self._snapshot.next_chunk(position, rows_max)
        assert found is not None, "a snapshot that is open has a range that is not done"
        chunk, moved = found
        changes = [self._chunk_changes(server, chunk, position)] if chunk.count else []
        if not moved.first_open:
            self._end_snapshot()  # Its transactions hold locks that a TRUNCATE waits for.
        return Read(changes, moved, None, is_drained=False)

    def _open_snapshot(self, server: _Server, position: PostgresPosition) -> PostgresPosition:
        """Go on with what is left of the snapshots, at the moment of now."""
        # The stream would go on with the position that it knows; it begins again behind the snapshot.
        self._end_stream()
        self._wait_for_older(server)
        exporter = connect(self._database, where=self._where)
        self._exporter = exporter
        snapshot, moment = open_moment(exporter, where=self._where)
        self._snapshot = self._snapshot_reader(server, snapshot)
        tables = {name: self._at_moment(name, each, moment) for name, each in position.tables.items()}
        return replace(position, tables=tables)

    def _at_moment(self, name: str, snapshot: TableSnapshot, moment: Moment) -> TableSnapshot:
        """What is left of a snapshot, to be read at `moment`; that of an outbox keeps the one that it began with."""
        has_begun = name == self._outbox and all(each.moment is not None for each in snapshot.ranges)
        return snapshot if snapshot.is_done or has_begun else snapshot.reopened(moment)

    def _wait_for_older(self, server: _Server) -> None:
        """Until all transactions of now have ended: one that began before its table was published is not streamed."""
        deadline = time.monotonic() + OLDER_TIMEOUT_S
        is_open = older_is_open(server.connection, where=self._where)
        while is_open():
            if time.monotonic() > deadline:
                raise SourceUnavailable(
                    f"a transaction has been open for over {OLDER_TIMEOUT_S:.0f} s, and the snapshot waits for it",
                    where=self._where,
                    cure="end it; see pg_stat_activity",
                )
            time.sleep(POLL_S)

    def _chunk_changes(self, server: _Server, chunk: Chunk, position: PostgresPosition) -> Changes:
        table = server.tables[chunk.table]
        types = tuple((name, table.column(name).type) for name in chunk.columns)
        moment = position.tables[chunk.table].ranges[chunk.index].moment
        return snapshot_changes(
            chunk.table,
            types,
            chunk.columns,
            chunk.count,
            lsn=position.lsn if moment is None else moment.lsn,
            now_ms=time.time_ns() // 1_000_000,
            contract=self._contract(table, chunk.table),
        )

    def _end_snapshot(self) -> None:
        for each in (self._snapshot, self._exporter):
            if each is not None:
                each.close()
        self._snapshot = self._exporter = None

    def _read_stream(self, server: _Server, position: PostgresPosition, rows_max: int) -> Read[PostgresPosition]:
        if self._stream is None:
            self._start_stream(server, position)
        assert self._stream is not None
        assert self._replication is not None
        try:
            changes = self._stream.collect(rows_max)
        except SpoolFull as full:
            _LOG.warning("large transactions wait on the server", ingress=self._config.name, reason=str(full))
            self._spool_bytes_max = 0
            self._end_stream()
            return self._read_stream(server, position, rows_max)
        self._again.streamed(changes)
        if self._stream.is_between:
            changes += self._read_again(server)
        moved = self._stream.position
        if changes or moved.resnapshots != position.resnapshots:
            self._moved_at_s = time.monotonic()
            return Read(changes, moved, None, is_drained=False)
        if time.monotonic() - self._moved_at_s < self._config.heartbeat_interval_ms / 1_000:
            # Transactions of other tables: their position waits for the next beat.
            return Read([], position, None, is_drained=self._stream.is_drained)
        self._moved_at_s = time.monotonic()
        if self._stream.is_between and self._replication.wal_end > moved.lsn:
            moved = self._stream.position = moved.at(self._replication.wal_end)
        self._beat(server, moved)
        return Read([], moved, None, is_drained=self._stream.is_drained)

    def _read_again(self, server: _Server) -> list[Changes]:
        """Rows of tables that are read beside the stream: those of the chunk that it has come past, then the next."""
        assert self._stream is not None
        position = self._stream.position
        for table, order in list(self._orders.items()):
            known = position.resnapshots.get(table)
            if table in server.tables and table != self._outbox and (known is None or known.order != order):
                position = position.with_resnapshot(table, Resnapshot(order))
        found: list[Changes] = []
        finished = self._again.finished(position, time.time_ns() // 1_000_000)
        if finished is not None:
            changes, position = finished
            found = [changes] if changes is not None else []
        mark_before = self._again.mark
        self._again.ask(position)
        if mark_before is not None and mark_before != self._marked:
            self._marked = mark_before
            self._beat(server, position)
        self._stream.position = position
        return found

    def _start_stream(self, server: _Server, position: PostgresPosition) -> None:
        encoding = encoding_for(server.connection)
        self._replication = Replication(self._database, encoding=encoding, where=self._where)
        self._replication.start(self._name, self._name, position.lsn, with_unfinished=self._spool_bytes_max > 0)
        self._feed = TransactionFeed(self._replication, self._spool_bytes_max)
        self._stream = StreamReader(
            self._replication,
            self._feed,
            position,
            self._contracts,
            server.types,
            self._config,
            self._locate,
            where=self._where,
        )
        self._acknowledged, self._told_at_s, self._moved_at_s = 0, time.monotonic(), time.monotonic()

    def _end_stream(self) -> None:
        if self._feed is not None:
            self._feed.close()
        if self._replication is not None:
            self._replication.close()
        self._replication = self._feed = self._stream = None

    def _beat(self, server: _Server, position: PostgresPosition) -> None:
        """Write a word into the server's log where it is ahead of us: what comes back moves the slot."""
        publication.check_published(server.connection, self._name, server.tables, where=self._where)
        with translated(self._where):
            server.connection.execute(
                "SELECT pg_logical_emit_message(true, %s, %s)"
                " WHERE pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') > %s",
                (HEARTBEAT_PREFIX, self._name, position.lsn),
            )

    def _watch_slot(self) -> None:
        """Look now and then how much log the server keeps; say so when it is about to give the slot up."""
        if self._server is None or time.monotonic() - self._looked_at_s < WATCH_INTERVAL_S:
            return
        self._looked_at_s = time.monotonic()
        slot = publication.find_slot(self._server.connection, self._name)
        self._log = log = None if slot is None else replace(slot.log, behind_seconds=self._behind_seconds())
        if log is not None and log.safe_bytes is not None and log.safe_bytes <= log.kept_bytes:
            _LOG.warning(
                "slot near its limit", ingress=self._config.name, kept_bytes=log.kept_bytes, safe_bytes=log.safe_bytes
            )

    def _behind_seconds(self) -> float | None:
        """Of what was read last; nothing waits where the stream is drained."""
        if self._stream is None or self._stream.committed_at_us is None:
            return None
        if self._stream.is_drained:
            return 0.0
        return max(0.0, time.time() - self._stream.committed_at_us / 1_000_000)

    def _locate(self, table: str, snapshot: TableSnapshot, keys: Sequence[tuple[bytes, ...]]) -> Sequence[int]:
        server = self._opened()
        uppers = [each.upto for each in snapshot.ranges]
        return locate(server.connection, server.tables[table], uppers, keys)
