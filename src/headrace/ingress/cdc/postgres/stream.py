"""The stream of changes, from messages to columns of whole batches.

Owns where the stream stands: the transaction under way, the shapes of tables, how much of it has been handed out.

- Batches end between transactions where they can; a transaction larger than a batch is cut, and the position says how
  many of its changes were read.
- A change that a snapshot shows already is left out; who else needs the row asks the server which range it is in.
- Every message is looked at: one that does not belong where it comes is `ProtocolBroken`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from headrace.contracts.contract import Contract
from headrace.errors import Where
from headrace.ingress.cdc.changes import Changes
from headrace.ingress.cdc.config import PostgresCdcConfig
from headrace.ingress.cdc.errors import PositionLost, SourceInvalid, TableTruncated
from headrace.ingress.cdc.postgres import messages
from headrace.ingress.cdc.postgres.connection import Replication
from headrace.ingress.cdc.postgres.messages import ProtocolBroken
from headrace.ingress.cdc.postgres.position import Open, PostgresPosition, Range, TableSnapshot
from headrace.ingress.cdc.postgres.publication import AGAIN
from headrace.ingress.cdc.postgres.rows import Origin, RowBuffer, Types, truncation
from headrace.ingress.cdc.postgres.streamed import TransactionFeed
from headrace.ingress.cdc.postgres.tables import check_mapping, followed_contract, split_name
from headrace.ingress.cdc.postgres.types import TypeCatalogue

_LOG = structlog.get_logger("headrace.ingress")

BATCH_BYTES_MAX = 32 * 1024 * 1024
"""Of messages: a batch of large rows ends earlier."""
MIDST_WAIT_S = 1.0
"""How long the rest of a transaction is waited for; its messages come one after the other."""

Locate = Callable[[str, TableSnapshot, Sequence[tuple[bytes, ...]]], Sequence[int]]
"""The range of each key: table, its ranges, keys."""
RowMessage = messages.Insert | messages.Update | messages.Delete


@dataclass(slots=True)
class _Transaction:
    """The transaction under way."""

    begin: messages.Begin
    skip: int
    """Changes at its beginning that were published before."""
    events: int = 0
    captured: int = 0
    by_table: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Followed:
    """A captured table in its shape of now."""

    table: str
    types: Types
    contract: Contract


class StreamReader:
    """Reads one started stream."""

    def __init__(
        self,
        replication: Replication,
        feed: TransactionFeed,
        position: PostgresPosition,
        contracts: Mapping[str, Contract],
        types: TypeCatalogue,
        config: PostgresCdcConfig,
        locate: Locate,
        *,
        where: Where | None = None,
    ) -> None:
        self._replication, self._feed, self._contracts, self._types = replication, feed, contracts, types
        self._config, self._locate, self._where = config, locate, where
        self._names = {split_name(table): table for table in contracts}
        self._outbox = config.outbox.table if config.outbox else None
        self._relations: dict[int, _Followed | None] = {}
        self._transaction: _Transaction | None = None
        self._reopened: set[str] = set()
        self.position = position
        self.committed_at_us: int | None = None
        """Of the last transaction that was begun with."""
        self._is_empty = False
        self._snapshots = position.tables
        """As they were when the batch began: a position forgets ranges that lie behind it."""
        self._done: list[RowBuffer | Changes] = []
        self._open: dict[str, RowBuffer] = {}
        self._suspects: dict[int, list[tuple[int, int]]] = {}
        self._rows = self._bytes = 0

    @property
    def is_between(self) -> bool:
        """Whether no transaction is under way."""
        return self._transaction is None

    @property
    def is_drained(self) -> bool:
        """Whether the last `collect` took what was there, and whole transactions."""
        return self.is_between and self._is_empty and not self._feed.is_busy

    def collect(self, rows_max: int) -> list[Changes]:
        """What is there, up to a batch; `position` is then behind it. Raises `SpoolFull`."""
        self._snapshots = self.position.tables
        waited_until: float | None = None
        while self._rows < rows_max and self._bytes < BATCH_BYTES_MAX:
            received = self._feed.receive()
            self._is_empty = received is None
            if received is not None:
                waited_until = None
                self._take(*received)
            elif self.is_between:
                break
            else:
                waited_until = waited_until or time.monotonic() + MIDST_WAIT_S
                left = waited_until - time.monotonic()
                if left <= 0:
                    break
                self._replication.wait(left)
        return self._finished()

    def _finished(self) -> list[Changes]:
        opened = self._transaction
        if opened is not None and opened.events > opened.skip:
            self.position = self.position.at(self.position.lsn, Open(opened.begin.final_lsn, opened.events))
        found: list[Changes] = []
        for each in [*self._done, *self._open.values()]:
            if isinstance(each, RowBuffer):
                self._leave_out(each)
                if len(each):
                    found.append(each.changes())
            else:
                found.append(each)
        self._done, self._open, self._suspects = [], {}, {}
        self._rows = self._bytes = 0
        for table in self._reopened:
            snapshot = self.position.tables[table]
            self.position = self.position.with_table(table, replace(snapshot, ranges=(Range(),)))
        self._reopened = set()
        return found

    def _take(self, start: int, data: bytes) -> None:
        self._bytes += len(data)
        match messages.decode(data):
            case messages.Insert() | messages.Update() | messages.Delete() as row:
                self._row(row, start)
            case messages.Begin() as begin:
                self._begin(begin)
            case messages.Commit() as commit:
                self._within("commit")
                self._transaction = None
                self.position = self.position.at(commit.end_lsn)
            case messages.Relation() as relation:
                self._relation(relation)
            case messages.Truncate() as truncate:
                self._truncate(truncate, start)
            case messages.Type() | messages.Origin() | messages.LogicalMessage():
                pass  # Types are read from the catalogue; messages only move the position.
            case other:
                raise ProtocolBroken(f"the server sent {type(other).__name__}, which was not asked for")

    def _begin(self, begin: messages.Begin) -> None:
        if self._transaction is not None:
            raise ProtocolBroken("the server began a transaction inside another one")
        opened, skip = self.position.open, 0
        if opened is not None:
            if opened.final_lsn != begin.final_lsn:
                raise PositionLost(
                    f"the log has a part of the transaction that commits at {messages.lsn_text(opened.final_lsn)}, and"
                    f" the server goes on with the one at {messages.lsn_text(begin.final_lsn)}",
                    where=self._where,
                    cure=AGAIN,
                )
            skip = opened.events
        self._transaction = _Transaction(begin, skip, by_table={})
        self.committed_at_us = begin.committed_at_us

    def _within(self, what: str) -> _Transaction:
        if self._transaction is None:
            raise ProtocolBroken(f"the server sent a {what} outside a transaction")
        return self._transaction

    def _relation(self, relation: messages.Relation) -> None:
        table = self._names.get((relation.schema, relation.name))
        if table is None:
            self._relations[relation.oid] = None
            return
        self._types.load([each.type_oid for each in relation.columns])
        types = tuple((each.name, self._types.resolve(each.type_oid, each.type_modifier)) for each in relation.columns)
        contract, known = self._contracts[table], dict(types)
        if self._config.new_columns == "follow" and table != self._outbox:
            contract = followed_contract(contract, types)
        check_mapping(table, known, contract)
        if any(name not in known for name in contract.key):
            raise SourceInvalid(
                f"the key of table {table!r} is not that of the contract of {contract.topic!r} any more",
                where=self._where,
                cure="make the contract's key the table's primary key",
            )
        before = self._relations.get(relation.oid)
        if before is not None and before.types != types:
            fields = {each.name for each in contract.schema.fields}
            new = sorted(known.keys() - dict(before.types).keys() - fields)
            gone = sorted(dict(before.types).keys() - known.keys())
            _LOG.warning("table changed", ingress=self._config.name, table=table, new=new, gone=gone)
        self._relations[relation.oid] = _Followed(table, types, contract)

    def _followed(self, relation: int) -> _Followed | None:
        try:
            return self._relations[relation]
        except KeyError:
            raise ProtocolBroken(f"the server sent a row of table {relation}, of which it has told nothing") from None

    def _row(self, row: RowMessage, start: int) -> None:
        transaction = self._within("row")
        transaction.events += 1
        followed = self._followed(row.relation)
        if followed is None or (followed.table == self._outbox and not isinstance(row, messages.Insert)):
            return
        buffer = self._buffer(followed)
        width = len(followed.types)
        if any(len(side) != width for side in _sides(row)):
            raise ProtocolBroken(f"the server sent a row of table {followed.table!r} with another number of columns")
        origin = again = self._origin(transaction, followed.table, start)
        if isinstance(row, messages.Update) and buffer.is_moved(row.new, row.old):
            again = self._origin(transaction, followed.table, start)
        if transaction.events <= transaction.skip:
            return
        first = len(buffer)
        match row:
            case messages.Insert(_, new):
                buffer.insert(new, origin)
            case messages.Update(_, new, old, is_key_only):
                buffer.update(new, old, is_key_only, origin, again)
            case messages.Delete(_, old, is_key_only):
                buffer.delete(old, is_key_only, origin)
        self._rows += len(buffer) - first
        if self._snapshots[followed.table].seen_until > transaction.begin.final_lsn:
            suspects = self._suspects.setdefault(id(buffer), [])
            suspects += [(index, transaction.begin.xid) for index in range(first, len(buffer))]

    def _origin(self, transaction: _Transaction, table: str, start: int) -> Origin:
        assert transaction.by_table is not None
        transaction.captured += 1
        order = transaction.by_table[table] = transaction.by_table.get(table, 0) + 1
        begin = transaction.begin
        return Origin(
            start, begin.xid, begin.final_lsn, begin.committed_at_us, self.position.lsn, transaction.captured, order
        )

    def _buffer(self, followed: _Followed) -> RowBuffer:
        buffer = self._open.get(followed.table)
        if buffer is None or buffer.types is not followed.types:
            if buffer is not None:
                self._done.append(self._open.pop(followed.table))
            buffer = self._open[followed.table] = RowBuffer(followed.table, followed.types, followed.contract)
        return buffer

    def _truncate(self, truncate: messages.Truncate, start: int) -> None:
        transaction = self._within("truncation")
        transaction.events += 1
        for relation in truncate.relations:
            followed = self._followed(relation)
            if followed is None or followed.table == self._outbox:
                continue
            origin = self._origin(transaction, followed.table, start)
            if transaction.events <= transaction.skip or self._config.truncates == "skip":
                continue
            if self._config.truncates == "stop":
                raise TableTruncated(
                    f"table {followed.table!r} was truncated, and `truncates` says stop",
                    where=self._where,
                    cure="write `truncates: write` or `truncates: skip` to go on",
                )
            if followed.table in self._open:
                self._done.append(self._open.pop(followed.table))
            self._done.append(truncation(followed.table, origin))
            self._rows += 1
            snapshot = self._snapshots[followed.table]
            if snapshot.seen_until > transaction.begin.final_lsn:
                # Rows that a later moment showed go with the others: read them again behind this.
                self._reopened.add(followed.table)

    def _leave_out(self, buffer: RowBuffer) -> None:
        """Drop what the snapshot of its range shows already."""
        snapshot = self._snapshots[buffer.table]
        moments = [each.moment for each in snapshot.ranges]
        suspects = [
            (index, xid)
            for index, xid in self._suspects.get(id(buffer), ())
            if any(moment is not None and moment.shows(xid) for moment in moments)
        ]
        if not suspects:
            return
        places = self._locate(buffer.table, snapshot, buffer.keys([index for index, _ in suspects]))
        dropped = set()
        for (index, xid), place in zip(suspects, places, strict=True):
            moment = moments[place]
            if moment is not None and moment.shows(xid):
                dropped.add(index)
        buffer.drop(frozenset(dropped))


def _sides(row: RowMessage) -> list[messages.Row]:
    match row:
        case messages.Insert(_, new):
            return [new]
        case messages.Delete(_, old, _):
            return [old]
        case messages.Update(_, new, old, _):
            return [new] if old is None else [new, old]
