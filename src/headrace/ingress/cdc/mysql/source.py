"""A MySQL or MariaDB database as a source of changes: the snapshot in chunks between the changes, then the stream.

Owns the order of things: what is checked, opened and read when.

1. Without a position: check, and begin where the log ends now, with every snapshot before its first row.
2. While a snapshot is open: a moment of the database, the changes up to its place in the log, chunks of that moment,
   and so on with the next moment. After a restart the next moment is another one, and the changes before it come first.
3. Then the stream, from the position.

- So a chunk is the table after all changes that were told, and a row that no chunk has told yet has told no change.
- A read that fails, or a position that is not the one handed out last, begins anew from what the log says.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pymysql.connections import Connection

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc.changes import Changes, Read, SourceLog
from headrace.ingress.cdc.config import MysqlCdcConfig
from headrace.ingress.cdc.mysql import server as servers
from headrace.ingress.cdc.mysql.binlog import BinlogStream
from headrace.ingress.cdc.mysql.charsets import Charsets
from headrace.ingress.cdc.mysql.connection import connect, database_of, rows
from headrace.ingress.cdc.mysql.position import Key, MysqlPosition, TableSnapshot
from headrace.ingress.cdc.mysql.rows import snapshot_changes
from headrace.ingress.cdc.mysql.server import Server
from headrace.ingress.cdc.mysql.snapshot import SnapshotMoment, are_published
from headrace.ingress.cdc.mysql.stream import StreamReader, follow
from headrace.ingress.cdc.mysql.tables import SourceTable, check_contract, read_table, split_name

WATCH_INTERVAL_S = 5.0
"""Between two looks at how much log the server has behind the position."""
MOMENT_WAIT_S = 0.1
"""For changes before a moment that the server has not sent yet."""
_SERVER_ID_FIRST = 2**30
"""Ids made from names are above those that people give."""


@dataclass(slots=True)
class _Opened:
    """What an ordinary connection knows."""

    connection: Connection
    server: Server
    tables: Mapping[str, SourceTable]
    charsets: Charsets


def server_id_of(config: MysqlCdcConfig, workspace: str) -> int:
    """Under which an ingress reads: two processes of one ingress have the same, and the server ends the older one."""
    if config.server_id is not None:
        return config.server_id
    digest = hashlib.sha256(f"{workspace}.{config.name}".encode()).digest()
    return _SERVER_ID_FIRST + int.from_bytes(digest[:4], "big") % _SERVER_ID_FIRST


class MysqlSource:
    """Reads one database. Used from one thread."""

    def __init__(
        self, config: MysqlCdcConfig, contracts: Mapping[str, Contract], workspace: str, *, where: Where | None = None
    ) -> None:
        self._config, self._contracts, self._where = config, contracts, where
        self._database = config.connection_string()
        self._server_id = server_id_of(config, workspace)
        self._opened_: _Opened | None = None
        self._moment: SnapshotMoment | None = None
        self._binlog: BinlogStream | None = None
        self._stream: StreamReader | None = None
        self._expected: MysqlPosition | None = None
        self._moved_at_s = 0.0
        self._log: SourceLog | None = None
        self._looked_at_s = 0.0

    @property
    def log(self) -> SourceLog | None:
        return self._log

    def has_news(self) -> bool:
        return True  # A read of a stream that has nothing costs no more than to ask.

    def wait(self, stop: threading.Event, seconds: float) -> None:
        if self._binlog is None:
            stop.wait(seconds)
        elif not stop.is_set():
            self._binlog.wait(min(seconds, 1.0))

    def published(self, position: MysqlPosition) -> None:
        """Nothing: the server forgets its log by time."""

    def close(self) -> None:
        self._end_stream()
        self._end_moment()
        if self._opened_ is not None:
            self._opened_.connection.close()
        self._opened_ = self._expected = None

    def read(self, position: MysqlPosition | None, rows_max: int) -> Read[MysqlPosition]:
        try:
            if position is None or position.generation != self._config.generation:
                found = self._begin()
            else:
                found = self._read(position, rows_max)
            self._expected = found.position
            self._watch_log(found.position)
        except BaseException:
            self.close()
            raise
        return found

    def _opened(self) -> _Opened:
        if self._opened_ is None:
            connection = connect(self._database, where=self._where)
            try:
                server = servers.check_server(connection, where=self._where)
                servers.check_rights(connection, server, where=self._where)
                database = database_of(self._database)
                tables = {name: read_table(connection, name, database, where=self._where) for name in self._contracts}
                for name, table in tables.items():
                    check_contract(table, self._contracts[name])
            except BaseException:
                connection.close()
                raise
            charsets = Charsets(lambda query: rows(connection, query))
            self._opened_ = _Opened(connection, server, tables, charsets)
        return self._opened_

    def _begin(self) -> Read[MysqlPosition]:
        """Where the log ends now; nothing is read yet, so that a position is there before the first row."""
        self.close()
        opened = self._opened()
        place, gtids = servers.beginning(opened.connection, opened.server)
        tables = {name: TableSnapshot() for name in opened.tables}
        begun = MysqlPosition(opened.server.identity, self._config.generation, place, gtids, tables)
        return Read([], begun, None, is_drained=False)

    def _read(self, position: MysqlPosition, rows_max: int) -> Read[MysqlPosition]:
        if position != self._expected:
            self.close()
        opened = self._opened()
        if self._stream is None:
            servers.check_position(opened.connection, opened.server, position, where=self._where)
            known = position.tables
            position = replace(position, tables={name: known.get(name, TableSnapshot()) for name in opened.tables})
            self._start_stream(opened, position)
        if position.open_snapshots:
            return self._read_snapshot(opened, position, rows_max)
        return self._read_stream(position, rows_max)

    def _read_snapshot(self, opened: _Opened, position: MysqlPosition, rows_max: int) -> Read[MysqlPosition]:
        assert self._stream is not None
        assert self._binlog is not None
        if self._moment is None:
            self._moment = SnapshotMoment(self._database, opened.server, where=self._where)
        moment = self._moment
        if not self._stream.has_reached(moment.place):
            changes = self._stream.collect(rows_max, moment.place)
            if not changes and not self._stream.has_reached(moment.place):
                self._binlog.wait(MOMENT_WAIT_S)
            return Read(changes, self._stream.position, None, is_drained=False)
        name = position.open_snapshots[0]
        table, snapshot = opened.tables[name], position.tables[name]
        contract = self._contract(table, name)
        fields = {each.name for each in contract.schema.fields}
        names = [each.name for each in table.columns if each.name in fields]
        chunk = moment.chunk(table, names, snapshot.after, rows_max)
        after = TableSnapshot(chunk.last or snapshot.after, is_done=chunk.count < rows_max)
        moved = self._stream.position = position.with_table(name, after)
        if moment.is_old or not moved.open_snapshots:
            self._end_moment()
        found: Sequence[Changes] = ()
        if chunk.count:
            types = tuple((each, table.types[each]) for each in names)
            now_ms = time.time_ns() // 1_000_000
            found = [
                snapshot_changes(
                    name, types, chunk.columns, chunk.count, place=moment.place, now_ms=now_ms, contract=contract
                )
            ]
        return Read(found, moved, None, is_drained=False)

    def _contract(self, table: SourceTable, name: str) -> Contract:
        """With the columns that are followed."""
        if self._config.new_columns == "ignore":
            return self._contracts[name]
        return follow(self._contracts[name], [(each.name, each.type) for each in table.columns])

    def _read_stream(self, position: MysqlPosition, rows_max: int) -> Read[MysqlPosition]:
        assert self._stream is not None
        changes = self._stream.collect(rows_max)
        moved, is_drained = self._stream.position, self._stream.is_drained
        now_s = time.monotonic()
        if changes or now_s - self._moved_at_s >= self._config.heartbeat_interval_ms / 1_000:
            self._moved_at_s = now_s
            return Read(changes, moved, None, is_drained=is_drained and not changes)
        # Transactions of other tables: their position waits for the next beat.
        return Read([], position, None, is_drained=is_drained)

    def _start_stream(self, opened: _Opened, position: MysqlPosition) -> None:
        server, database = opened.server, database_of(self._database)
        self._binlog = BinlogStream(
            self._database,
            self._server_id,
            position.place,
            position.gtids,
            is_mariadb=server.is_mariadb,
            has_checksums=server.has_checksums,
            where=self._where,
        )
        self._stream = StreamReader(
            self._binlog,
            position,
            self._contracts,
            {split_name(name, database): name for name in opened.tables},
            {name: table.types for name, table in opened.tables.items()},
            opened.charsets,
            self._config,
            self._are_published,
            is_mariadb=server.is_mariadb,
            has_gtids=server.has_gtids,
            where=self._where,
        )
        self._moved_at_s = time.monotonic()

    def _end_stream(self) -> None:
        if self._binlog is not None:
            self._binlog.close()
        self._binlog = self._stream = None

    def _end_moment(self) -> None:
        if self._moment is not None:
            self._moment.close()
        self._moment = None

    def _are_published(self, table: str, after: Key, keys: Sequence[tuple[bytes, ...]]) -> Sequence[bool]:
        opened = self._opened()
        return are_published(opened.connection, opened.tables[table], after, keys)

    def _watch_log(self, position: MysqlPosition) -> None:
        """Look now and then how much of its log the server has behind the position."""
        if self._opened_ is None or time.monotonic() - self._looked_at_s < WATCH_INTERVAL_S:
            return
        self._looked_at_s = time.monotonic()
        self._log = servers.log_behind(servers.binary_logs(self._opened_.connection), position.place)
