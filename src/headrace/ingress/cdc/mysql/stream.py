"""The stream of changes, from events to columns of whole batches.

Owns where the stream stands: the transaction under way, the shapes of tables, how much of it has been handed out.

- Batches end between transactions where they can; a transaction larger than a batch is cut, and the position says
  which of its rows was the last. So no transaction has to be kept, whatever its size.
- While a table's snapshot is open, changes of rows that it has not come to are left out.
- Every event is looked at: what could change a captured table in a way that is not followed stops the ingress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc.changes import Changes
from headrace.ingress.cdc.config import MysqlCdcConfig
from headrace.ingress.cdc.errors import CaptureMissing, PositionLost, ProtocolBroken, SourceInvalid, TableTruncated
from headrace.ingress.cdc.mapping import check_mapping, followed_contract
from headrace.ingress.cdc.mysql.binlog import ROTATE, BinlogStream, Event
from headrace.ingress.cdc.mysql.cell_columns import unmapped
from headrace.ingress.cdc.mysql.charsets import Charsets
from headrace.ingress.cdc.mysql.connection import AGAIN
from headrace.ingress.cdc.mysql.position import Gtids, Key, MysqlPosition, Open, Place
from headrace.ingress.cdc.mysql.row_images import Read, Row, rows_of
from headrace.ingress.cdc.mysql.rows import Origin, RowBuffer, Types, truncation
from headrace.ingress.cdc.mysql.statements import Concern, Deed, bare, concerns
from headrace.ingress.cdc.mysql.table_map import Declared, table_name, table_shape
from headrace.ingress.cdc.mysql.types import Family, MysqlType, inferred_avro_type

_LOG = structlog.get_logger("headrace.ingress")

BATCH_BYTES_MAX = 32 * 1024 * 1024
"""Of events: a batch of large rows ends earlier."""
MIDST_WAIT_S = 1.0
"""How long the rest of a transaction is waited for; its events come one after the other."""
SHAPES_KEPT_MAX = 1_000
"""Of tables that are not captured too, by their events."""

_QUERY, _XID, _TABLE_MAP, _INCIDENT, _XA_PREPARE = 2, 16, 19, 26, 38
_LOAD_QUERY, _GTID, _ANONYMOUS_GTID, _MARIADB_GTID = 18, 33, 34, 162
_WRITES, _UPDATES, _DELETES = frozenset({23, 30}), frozenset({24, 31}), frozenset({25, 32})
_ROWS_WITH_MORE = frozenset({30, 31, 32})
"""Of version 2: more data may stand before the rows."""
_UNREAD = {
    39: "parts of JSON documents (binlog_row_value_options)",
    40: "a compressed transaction (binlog_transaction_compression)",
    42: "a tagged transaction id",
    **dict.fromkeys(range(165, 172), "a compressed event (log_bin_compress)"),
}
_STANDALONE = 1
_IGNORABLE = 0x80
_KNOWN = frozenset({3, 4, 5, 13, 14, 15, 17, 27, 28, 29, 35, 36, 37, 160, 161, 163, 164})
"""Events that say nothing of rows."""

ArePublished = Callable[[str, Key, Sequence[tuple[bytes, ...]]], Sequence[bool]]
"""Whether each key is one that the table's snapshot has come to: table, its key of now, keys."""


@dataclass(slots=True)
class _Transaction:
    """The transaction under way."""

    gtid: str | None
    begin: Place
    is_group: bool
    """Ended by a commit of its own; else by its one statement."""
    thread: int | None = None
    captured: int = 0
    by_table: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.gtid or f"file={self.begin.file},pos={self.begin.offset}"


@dataclass(frozen=True, slots=True)
class _Followed:
    """A captured table in its shape of now."""

    table: str
    types: Types
    readers: tuple[Read, ...]
    contract: Contract


class StreamReader:
    """Reads one started stream. `names` are the captured tables by schema and name."""

    def __init__(
        self,
        binlog: BinlogStream,
        position: MysqlPosition,
        contracts: Mapping[str, Contract],
        names: Mapping[tuple[str, str], str],
        declared: Mapping[str, Declared],
        charsets: Charsets,
        config: MysqlCdcConfig,
        are_published: ArePublished,
        *,
        is_mariadb: bool,
        has_gtids: bool,
        where: Where | None = None,
    ) -> None:
        self._binlog, self._contracts, self._names, self._declared = binlog, contracts, names, declared
        self._charsets, self._config, self._are_published = charsets, config, are_published
        self._is_mariadb, self._has_gtids, self._where = is_mariadb, has_gtids, where
        self._gtids = Gtids(position.gtids)
        self._shapes: dict[bytes, _Followed | None] = {}
        self._tables: dict[int, _Followed | None] = {}
        self._types: dict[str, Types] = {}
        self._transaction: _Transaction | None = None
        self._open_at: tuple[int, int] | None = None
        """The row up to which the transaction under way was handed out."""
        self.position = position
        self._done: list[RowBuffer | Changes] = []
        self._buffers: dict[str, RowBuffer] = {}
        self._rows = self._bytes = 0
        self.is_drained = False
        """Whether the last `collect` took what was there, and whole transactions."""

    @property
    def is_between(self) -> bool:
        """Whether no transaction is under way."""
        return self._transaction is None

    def has_reached(self, place: Place) -> bool:
        """Whether everything before a place was collected."""
        return self.is_between and self.position.place >= place

    def collect(self, rows_max: int, until: Place | None = None) -> list[Changes]:
        """What is there, up to a batch, and not beyond `until`; `position` is then behind it."""
        waited_until: float | None = None
        self.is_drained = False
        while self._rows < rows_max and self._bytes < BATCH_BYTES_MAX:
            if until is not None and self.has_reached(until):
                break
            event = self._binlog.receive()
            if event is not None:
                waited_until = None
                self._take(event)
            elif self.is_between:
                self.is_drained = True
                break
            else:
                waited_until = waited_until or time.monotonic() + MIDST_WAIT_S
                left = waited_until - time.monotonic()
                if left <= 0:
                    break
                self._binlog.wait(left)
        return self._finished()

    def _finished(self) -> list[Changes]:
        if self._transaction is not None and self._open_at is not None:
            self.position = replace(self.position, open=Open(*self._open_at))
        found: list[Changes] = []
        for each in [*self._done, *self._buffers.values()]:
            changes = each if isinstance(each, Changes) else each.changes(self._kept(each))
            if changes is not None and len(changes):
                found.append(changes)
        self._done, self._buffers, self._rows, self._bytes = [], {}, 0, 0
        return found

    def _kept(self, buffer: RowBuffer) -> Sequence[bool] | None:
        """Which changes are told: while the snapshot is open those of rows that it has come to."""
        snapshot = self.position.tables[buffer.table]
        if snapshot.is_done:
            return None
        if snapshot.after is None:
            return [False] * len(buffer)
        return self._are_published(buffer.table, snapshot.after, buffer.keys())

    def _take(self, event: Event) -> None:
        self._bytes += len(event.body)
        kind = event.kind
        if kind in _WRITES or kind in _UPDATES or kind in _DELETES:
            self._row_event(event)
        elif kind == _TABLE_MAP:
            self._table_map(event)
        elif kind in (_MARIADB_GTID, _GTID, _ANONYMOUS_GTID):
            self._begin(event)
        elif kind == _XID:
            self._end(event)
        elif kind in (_QUERY, _LOAD_QUERY):
            self._query(event)
        elif kind == _XA_PREPARE:
            self._prepared(event)
        elif kind in _UNREAD:
            raise SourceInvalid(
                f"the server wrote {_UNREAD[kind]} at {self._place(event)}, which is not read",
                where=self._where,
                cure=f"turn that off, end sessions that have it on, then {AGAIN}",
            )
        elif kind == _INCIDENT:
            raise PositionLost(
                f"the server says that changes before {self._place(event)} are not in its log",
                where=self._where,
                cure=AGAIN,
            )
        elif kind in _KNOWN or event.flags & _IGNORABLE:
            self._pass(event)
        else:
            raise ProtocolBroken(f"the server wrote an event of the unknown kind {kind} at {self._place(event)}")

    def _place(self, event: Event) -> Place:
        return Place.of(self._binlog.file, event.start)

    def _pass(self, event: Event) -> None:
        """An event that is no part of a transaction moves the position."""
        if self._transaction is None:
            self._move(event)
        if event.kind == ROTATE:
            self._tables.clear()  # Numbers of tables begin anew when the server does.

    def _move(self, event: Event) -> None:
        place = Place.of(self._binlog.file, event.end)
        if place > self.position.place:
            self.position = replace(self.position, place=place)

    def _begin(self, event: Event) -> None:
        gtid, is_group = None, False
        if event.kind == _MARIADB_GTID:
            number, domain = int.from_bytes(event.body[:8], "little"), int.from_bytes(event.body[8:12], "little")
            gtid, is_group = f"{domain}-{event.server_id}-{number}", not event.body[12] & _STANDALONE
        elif event.kind == _GTID:
            server = event.body[1:17].hex()
            uuid = "-".join((server[:8], server[8:12], server[12:16], server[16:20], server[20:]))
            gtid = f"{uuid}:{int.from_bytes(event.body[17:25], 'little')}"
        if self._transaction is not None:
            raise ProtocolBroken(f"the server began a transaction inside another one at {self._place(event)}")
        self._transaction = _Transaction(gtid, self._place(event), is_group)

    def _end(self, event: Event) -> None:
        transaction, self._transaction, self._open_at = self._transaction, None, None
        if transaction is None:
            raise ProtocolBroken(f"the server ended a transaction that it had not begun at {self._place(event)}")
        place = Place.of(self._binlog.file, event.end)
        if place <= self.position.place:
            return
        gtids = self.position.gtids
        if transaction.gtid is not None and self._has_gtids:
            self._gtids.add(transaction.gtid)
            gtids = str(self._gtids)
        self.position = replace(self.position, place=place, gtids=gtids, open=None)

    def _query(self, event: Event) -> None:
        schema, text, thread = _statement(event)
        if self._transaction is None:  # Before transactions had numbers.
            self._transaction = _Transaction(None, self._place(event), False)
        transaction = self._transaction
        transaction.thread = thread
        statement = bare(text)
        word = statement[:16].upper()
        is_begin = word == "BEGIN" or word.startswith(("XA START", "XA BEGIN", "START TRANSACTI"))
        if is_begin or statement[-17:].upper() == "START TRANSACTION":  # So ends MySQL's CREATE TABLE ... SELECT.
            transaction.is_group = True
            return
        if word == "COMMIT":
            self._end(event)
            return
        if word.startswith("ROLLBACK"):
            self._rolled_back(event, transaction, is_all=word == "ROLLBACK")
            return
        if word.startswith(("SAVEPOINT", "RELEASE", "XA END")):
            return
        for concern in concerns(statement, schema, self._names.keys()):
            self._concern(event, concern, transaction)
        if not transaction.is_group:
            self._end(event)

    def _rolled_back(self, event: Event, transaction: _Transaction, *, is_all: bool) -> None:
        """Only transactions that changed tables of engines without transactions too are in the log when rolled back."""
        if transaction.captured:
            raise SourceInvalid(
                f"a transaction at {transaction.begin} changed captured tables and tables without transactions, and was"
                " rolled back after a part of it was told",
                where=self._where,
                cure=f"keep such tables apart from the captured ones, then {AGAIN}",
            )
        if is_all:
            self._end(event)

    def _prepared(self, event: Event) -> None:
        transaction = self._transaction
        if transaction is not None and transaction.captured and not event.body[:1] == b"\x01":
            raise SourceInvalid(
                f"a transaction in two phases (XA) at {transaction.begin} changed captured tables: the log has its rows"
                " before it is known whether they are committed",
                where=self._where,
                cure=f"commit in one phase, then {AGAIN}",
            )
        self._end(event)

    def _concern(self, event: Event, concern: Concern, transaction: _Transaction) -> None:
        table = self._names[concern.table]
        if concern.deed is Deed.TRUNCATED:
            self._truncate(event, table, transaction)
        elif concern.deed is Deed.GONE:
            raise CaptureMissing(
                f"table {table!r} was dropped, renamed or replaced at {self._place(event)}",
                where=self._where,
                cure=f"take it out of the file; or, where a table of this name is to be captured, {AGAIN}",
            )
        else:
            raise SourceInvalid(
                f"rows of table {table!r} were changed by a statement at {self._place(event)} whose rows are not in the"
                " log",
                where=self._where,
                cure=f"let no session set binlog_format, and empty partitions by DELETE; then {AGAIN}",
            )

    def _truncate(self, event: Event, table: str, transaction: _Transaction) -> None:
        if self._config.truncates == "stop":
            raise TableTruncated(
                f"table {table!r} was truncated, and `truncates` says stop",
                where=self._where,
                cure="write `truncates: write` or `truncates: skip` to go on",
            )
        if self._config.truncates == "skip":
            return
        if table in self._buffers:
            self._done.append(self._buffers.pop(table))
        self._done.append(truncation(table, self._origin(event, self._place(event), table, 0, transaction)))
        self._rows += 1

    def _table_map(self, event: Event) -> None:
        number, schema, name, _ = table_name(event.body)
        table = self._names.get((schema, name))
        if table is None:
            self._tables[number] = None
            return
        known = event.body[6:]
        if known not in self._shapes:
            if len(self._shapes) >= SHAPES_KEPT_MAX:
                self._shapes.clear()
            self._shapes[known] = self._followed(table, event.body)
        self._tables[number] = self._shapes[known]

    def _followed(self, table: str, body: bytes) -> _Followed:
        shape = table_shape(body, self._charsets, self._declared[table], is_mariadb=self._is_mariadb)
        contract, types = self._contracts[table], dict(shape.types)
        if self._config.new_columns == "follow":
            contract = follow(contract, shape.types)
        check_mapping(table, types, contract, unmapped)
        if any(name not in types for name in contract.key):
            raise SourceInvalid(
                f"the key of table {table!r} is not that of the contract of {contract.topic!r} any more",
                where=self._where,
                cure="make the contract's key the table's primary key",
            )
        before = dict(self._types.get(table, shape.types))
        if before != types:
            fields = {each.name for each in contract.schema.fields}
            new, gone = sorted(types.keys() - before.keys() - fields), sorted(before.keys() - types.keys())
            _LOG.warning("table changed", ingress=self._config.name, table=table, new=new, gone=gone)
        self._types[table] = shape.types
        return _Followed(table, shape.types, shape.readers, contract)

    def _row_event(self, event: Event) -> None:
        try:
            followed = self._tables[int.from_bytes(event.body[:6], "little")]
        except KeyError:
            raise ProtocolBroken(
                f"the server wrote rows at {self._place(event)} of a table of which it has told nothing"
            ) from None
        if followed is None:
            return
        transaction = self._transaction
        if transaction is None:
            raise ProtocolBroken(f"the server wrote rows outside a transaction at {self._place(event)}")
        at = 8
        if event.kind in _ROWS_WITH_MORE:
            at += int.from_bytes(event.body[8:10], "little")
        try:
            rows = rows_of(event.body, at, followed.readers, is_update=event.kind in _UPDATES)
        except (IndexError, KeyError) as error:
            raise ProtocolBroken(f"the rows at {self._place(event)} cannot be read: {error}") from error
        place = self._place(event)
        for row, (first, second) in enumerate(rows):
            self._row(event, followed, place, row, first, second, transaction)
        opened = self.position.open
        told = (-1, -1) if opened is None else (opened.offset, opened.row)
        self._open_at = max((event.start, len(rows) - 1), told)

    def _row(
        self,
        event: Event,
        followed: _Followed,
        place: Place,
        row: int,
        first: Row,
        second: Row | None,
        transaction: _Transaction,
    ) -> None:
        buffer = self._buffer(followed)
        origin = self._origin(event, place, followed.table, row, transaction)
        again = None
        if second is not None and buffer.key_of(first) != buffer.key_of(second):
            again = self._origin(event, place, followed.table, row, transaction)
        opened = self.position.open
        if opened is not None and (event.start, row) <= (opened.offset, opened.row):
            return
        if event.kind in _WRITES:
            buffer.insert(first, origin)
        elif event.kind in _DELETES:
            buffer.delete(first, origin)
        else:
            assert second is not None
            buffer.update(first, second, origin, again)
        self._rows += 1 if again is None else 2

    def _origin(self, event: Event, place: Place, table: str, row: int, transaction: _Transaction) -> Origin:
        transaction.captured += 1
        order = transaction.by_table[table] = transaction.by_table.get(table, 0) + 1
        return Origin(
            place,
            row,
            event.at_s,
            event.server_id,
            transaction.gtid,
            transaction.name,
            transaction.thread,
            transaction.captured,
            order,
        )

    def _buffer(self, followed: _Followed) -> RowBuffer:
        buffer = self._buffers.get(followed.table)
        if buffer is None or buffer.types != followed.types:
            if buffer is not None:
                self._done.append(self._buffers.pop(followed.table))
            buffer = self._buffers[followed.table] = RowBuffer(followed.table, followed.types, followed.contract)
        return buffer


def follow(contract: Contract, columns: Sequence[tuple[str, MysqlType]]) -> Contract:
    """The contract with the columns that it does not have, as far as they have a mapping."""
    mapped = [(name, found) for name, found in columns if found.family is not Family.UNMAPPED]
    return followed_contract(contract, mapped, inferred_avro_type)


def _statement(event: Event) -> tuple[str, str, int]:
    """Database, text and thread of a statement."""
    body = event.body
    thread, schema_bytes = int.from_bytes(body[:4], "little"), body[8]
    at = 13 + int.from_bytes(body[11:13], "little") + (13 if event.kind == _LOAD_QUERY else 0)
    schema = body[at : at + schema_bytes].decode(errors="replace")
    return schema, body[at + schema_bytes + 1 :].decode(errors="replace"), thread
