"""Records of Debezium's topics to changes.

Owns `ChangeReader`: what each record is, and the reading of envelopes. Unwrapped rows are read in `unwrapped`.

- Every record becomes a `Change`, or a `NotAChange` with a code and a reason; no input raises.
- What a record is follows from its schema's name and its shape; topics have any name, so the name only helps where
  nothing else tells.
- A null value is a deletion in a topic of unwrapped rows, and elsewhere the tombstone behind one. The reader
  remembers which topics are which (`forms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.debezium import problems, unwrapped
from headrace.contracts.debezium.binary_texts import text_bytes
from headrace.contracts.debezium.change import Change, Message, NotAChange, Operation, SourceTable, SourceTransaction
from headrace.contracts.debezium.documents import DocumentRows
from headrace.contracts.debezium.extended_json import read_document
from headrace.contracts.debezium.kinds import Kind, kind_of
from headrace.contracts.debezium.payloads import NOTHING, Payload, header_value
from headrace.contracts.debezium.positions import MONGODB, POSTGRESQL, SourcePosition, position_of, source_family
from headrace.contracts.debezium.problems import Unreadable
from headrace.contracts.debezium.rows import Rows
from headrace.contracts.debezium.unavailable import UnavailableValues
from headrace.contracts.debezium.unwrapped import Form


@dataclass(frozen=True, slots=True)
class DebeziumRecord:
    """A record of a topic, out of its encoding. `value` None: the record has none."""

    topic: str
    key: Payload = NOTHING
    value: Payload = NOTHING
    headers: Mapping[str, Any] = field(default_factory=dict)
    """Texts or bytes as they are in the log, or values that were read already."""


class ChangeReader:
    """Reads records in the order of their topics. Not thread-safe: it remembers the form of each topic."""

    def __init__(self, unavailable: UnavailableValues | None = None) -> None:
        self._unavailable = unavailable or UnavailableValues()
        self.forms: dict[str, Form] = {}

    def read(self, record: DebeziumRecord) -> Change | NotAChange:
        """What the record says."""
        try:
            return self._read(record)
        except Unreadable as error:
            return NotAChange(error.code, error.reason, error.code not in problems.NOT_CHANGES)

    def _read(self, record: DebeziumRecord) -> Change | NotAChange:
        if record.value.value is None:
            return unwrapped.null_value(record.topic, record.key, _headers(record), self.forms.get(record.topic))
        kind = kind_of(record.topic, record.key, record.value)
        if kind is Kind.ENVELOPE:
            self.forms.setdefault(record.topic, Form.ENVELOPE)
            return self._envelope(record)
        if kind is not Kind.ROW:
            return _other(kind, record.value)
        headers = _headers(record)
        if not unwrapped.is_row(record.key, record.value, headers):
            return NotAChange(problems.NOT_DEBEZIUM, "neither an envelope nor a row that Debezium unwrapped", False)
        row = unwrapped.read_row(record.topic, record.key, record.value, headers, self._unavailable)
        if self.forms.get(record.topic) is not Form.REWRITTEN:
            self.forms[record.topic] = row.form
        return _signal(row.change) or row.change

    def _envelope(self, record: DebeziumRecord) -> Change | NotAChange:
        value = record.value
        operation = _operation(value.field("op").value)
        source = value.field("source").value
        if not isinstance(source, dict):
            where = "no source" if "source" not in value.value else "a source that is no object"
            raise Unreadable(problems.INVALID_ENVELOPE, f"an envelope with {where}")
        family = source_family(source)
        transaction = _transaction(value.field("transaction").value, source, family)
        position = position_of(source, transaction.total_order if transaction else None)
        if operation is Operation.MESSAGE:
            return _message(record, source, family, transaction, position)
        table = _table(source, family)
        documents = DocumentRows() if family == MONGODB else None
        key = _key(record.key, is_document=documents is not None)
        sides = documents or Rows(self._unavailable)
        before, _ = sides.row(value.field("before"), "before")
        after, unchanged = sides.row(value.field("after"), "after")
        patch = documents.patch(value) if documents and operation is Operation.UPDATE else None
        change = Change(
            operation=operation,
            table=table,
            key=key,
            before=before,
            after=after,
            position=position,
            unchanged=unchanged,
            transaction=transaction,
            time_ms=_time_ms(source, value),
            snapshot=_snapshot(source.get("snapshot")),
            patch=patch,
        )
        _check_sides(change)
        return _signal(change) or unwrapped.moved(change, _headers(record))


def _operation(letter: Any) -> Operation:
    if not isinstance(letter, str):
        raise Unreadable(problems.INVALID_ENVELOPE, "an envelope with no operation")
    try:
        return Operation(letter)
    except ValueError:
        raise Unreadable(problems.UNKNOWN_OPERATION, f"operation {letter[:20]!r} is none of Debezium's") from None


def _check_sides(change: Change) -> None:
    operation = change.operation
    if operation in (Operation.CREATE, Operation.UPDATE, Operation.READ):
        if change.after is None and change.patch is None:
            raise Unreadable(problems.MISSING_ROW, f"operation {operation.value!r} has no row after it")
    elif change.after is not None:
        raise Unreadable(problems.INVALID_ENVELOPE, f"operation {operation.value!r} has a row after it")
    if operation is Operation.DELETE and change.key is None and change.before is None:
        raise Unreadable(problems.MISSING_KEY, "a deletion with neither a key nor a row before it")


def _key(key: Payload, *, is_document: bool) -> Any:
    try:
        found = key.meant("key")
        if is_document and isinstance(found, dict):
            texts = {name: each for name, each in found.items() if isinstance(each, str)}
            return {**found, **{name: read_document(each, f"key.{name}") for name, each in texts.items()}}
    except Unreadable as error:
        raise Unreadable(problems.INVALID_KEY, error.reason) from None
    return found


def _table(source: Mapping[str, Any], family: str) -> SourceTable:
    name = source.get("collection") if family == MONGODB else source.get("table")
    if not isinstance(name, str) or not name:
        raise Unreadable(problems.INVALID_SOURCE, "source names no table")
    return _place(source, family, name)


def _place(source: Mapping[str, Any], family: str, table: str) -> SourceTable:
    def text(part: str) -> str:
        value = source.get(part)
        return value if isinstance(value, str) else ""

    return SourceTable(text("connector") or family, text("name"), text("db"), text("schema"), table)


def _transaction(block: Any, source: Mapping[str, Any], family: str) -> SourceTransaction | None:
    """PostgreSQL's id has a position behind it that is another in each record: only what is in front is the id."""
    if isinstance(block, dict):
        name, orders = block.get("id"), [block.get(part) for part in ("total_order", "data_collection_order")]
        if not isinstance(name, str) or not all(each is None or type(each) is int for each in orders):
            raise Unreadable(problems.INVALID_ENVELOPE, "a transaction without its id or orders")
        return SourceTransaction(name.partition(":")[0] if family == POSTGRESQL else name, orders[0], orders[1])
    if block is not None:
        raise Unreadable(problems.INVALID_ENVELOPE, "a transaction that is no object")
    number = source.get("txId")
    if family == POSTGRESQL and isinstance(number, int) and _snapshot(source.get("snapshot")) == "false":
        return SourceTransaction(str(number))
    return None


def _snapshot(given: Any) -> str:
    """The documentation shows truth values, the connectors write words."""
    if isinstance(given, bool):
        return "true" if given else "false"
    return given if isinstance(given, str) else "false"


def _time_ms(source: Mapping[str, Any], value: Payload) -> int | None:
    for found in (source.get("ts_ms"), value.field("ts_ms").value):
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return None


def _message(
    record: DebeziumRecord,
    source: Mapping[str, Any],
    family: str,
    transaction: SourceTransaction | None,
    position: SourcePosition,
) -> Change:
    block = record.value.field("message")
    prefix, content = block.field("prefix").value, block.field("content").value
    if isinstance(content, str):
        content = text_bytes(content)
    if not isinstance(prefix, str) or not isinstance(content, bytes):
        raise Unreadable(problems.INVALID_ENVELOPE, "a message without its prefix or content")
    return Change(
        operation=Operation.MESSAGE,
        table=_place(source, family, ""),
        key=_key(record.key, is_document=False),
        before=None,
        after=None,
        position=position,
        transaction=transaction,
        time_ms=_time_ms(source, record.value),
        message=Message(prefix, content),
    )


# --- what is no change

SIGNAL_COLUMNS = {"id", "type", "data"}
SIGNAL_TABLE = "debezium_signal"
SIGNAL_TYPES = frozenset(
    {
        "execute-snapshot",
        "stop-snapshot",
        "pause-snapshot",
        "resume-snapshot",
        "log",
        "schema-changes",
        "set-binlog-position",
        "set-offsets",
        "snapshot-window-open",
        "snapshot-window-close",
    }
)


def _signal(change: Change) -> NotAChange | None:
    """A row of the table through which the connector is told what to do."""
    row = change.after or change.before or {}
    has_signal = row.keys() == SIGNAL_COLUMNS and row["type"] in SIGNAL_TYPES
    if change.table.name != SIGNAL_TABLE and not has_signal:
        return None
    return NotAChange(problems.SIGNAL, f"a signal to the connector, in table {change.table.text}", False, dict(row))


_OTHERS = {
    Kind.HEARTBEAT: (problems.HEARTBEAT, "a sign of life of the connector"),
    Kind.TRANSACTION: (problems.TRANSACTION, "the beginning or end of a transaction"),
    Kind.SCHEMA_CHANGE: (problems.SCHEMA_CHANGE, "a change of the database's schema"),
    Kind.SIGNAL: (problems.SIGNAL, "a signal to the connector"),
    Kind.NOTIFICATION: (problems.NOTIFICATION, "a notification of the connector"),
    Kind.UNKNOWN: (problems.NOT_DEBEZIUM, "not an object, so neither an envelope nor a row"),
}
_DETAILS = ("status", "id", "event_count", "data_collections", "ts_ms", "databaseName", "schemaName", "ddl", "type")


def _other(kind: Kind, value: Payload) -> NotAChange:
    code, reason = _OTHERS[kind]
    block = value.value if isinstance(value.value, dict) else {}
    detail = {name: block[name] for name in _DETAILS if block.get(name) is not None}
    return NotAChange(code, reason, False, detail or None)


def _headers(record: DebeziumRecord) -> dict[str, Any]:
    return {name: header_value(value) for name, value in record.headers.items()}
