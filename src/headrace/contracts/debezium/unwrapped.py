"""Rows that Debezium took out of their envelopes (the transformation `ExtractNewRecordState`).

Owns how such a row is known, what it says about the change, and what a null value means.

- Added fields and headers (`__op`, `__table`, `__source_ts_ms`, `__lsn`) tell what the envelope told; they are no
  columns. `__deleted` is text or a truth value.
- Without `__op` nobody can tell whether a row was created, updated or read: the change is an update, and says that its
  operation is not known.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.contracts.debezium import problems
from headrace.contracts.debezium.change import Change, NotAChange, Operation, Row, SourceTable, SourceTransaction
from headrace.contracts.debezium.payloads import Payload
from headrace.contracts.debezium.positions import MONGODB, MYSQL, POSTGRESQL, position_of, source_family
from headrace.contracts.debezium.problems import Unreadable
from headrace.contracts.debezium.rows import Rows
from headrace.contracts.debezium.unavailable import UnavailableValues

PREFIX = "__"
"""Debezium's default of `add.fields.prefix` and `add.headers.prefix`."""
NEW_KEY_HEADER, OLD_KEY_HEADER = "__debezium.newkey", "__debezium.oldkey"
OWN_HEADERS = "__debezium."

_ENVELOPE_FIELDS = ("op", "deleted", "ts_ms", "ts_us", "ts_ns")
_SOURCE_FIELDS = (
    *("version", "connector", "name", "snapshot", "db", "sequence", "schema", "table", "collection", "txId", "lsn"),
    *("xmin", "origin", "origin_lsn", "server_id", "gtid", "file", "pos", "row", "thread", "query", "ord", "lsid"),
    *("txnNumber", "wallTime", "change_lsn", "commit_lsn", "event_serial_no", "scn", "commit_scn"),
)
_TRANSACTION_FIELDS = ("id", "total_order", "data_collection_order")


class Form(enum.Enum):
    """What the records of a topic look like."""

    ENVELOPE = "envelope"
    UNWRAPPED = "unwrapped"
    """Rows; a null value is a deletion."""
    REWRITTEN = "rewritten"
    """Rows with `__deleted`; a null value is the tombstone behind such a row."""


@dataclass(frozen=True, slots=True)
class UnwrappedRow:
    """A change, and what it says about its topic."""

    change: Change
    form: Form


def is_row(key: Payload, value: Payload, headers: Mapping[str, Any]) -> bool:
    """Whether something says that this object is a row that Debezium unwrapped."""
    row = value.value
    if value.type is not None and value.type.name.endswith(".Value"):
        return True
    if f"{PREFIX}op" in headers or any(name.startswith(OWN_HEADERS) for name in headers):
        return True
    if f"{PREFIX}deleted" in row or f"{PREFIX}op" in row:
        return True
    own = key.value
    return isinstance(own, dict) and bool(own) and all(name in row and row[name] == own[name] for name in own)


def read_row(
    topic: str, key: Payload, value: Payload, headers: Mapping[str, Any], unavailable: UnavailableValues
) -> UnwrappedRow:
    """The change that an unwrapped row stands for. Raises `Unreadable`."""
    added = _added(value.value)
    told = {**{name[len(PREFIX) :]: each for name, each in headers.items() if name.startswith(PREFIX)}, **added}
    columns = {
        name: each for name, each in value.value.items() if name[len(PREFIX) :] not in added or name[:2] != PREFIX
    }
    row, unchanged = Rows(unavailable).row(Payload(columns, value.type, value.names), "row")
    operation, is_known = _operation(told)
    is_deletion = operation is Operation.DELETE
    change = _change(topic, key, told, operation, None if is_deletion else row, row if is_deletion else None)
    change = moved(change, headers)
    form = Form.REWRITTEN if "deleted" in added else Form.UNWRAPPED
    return UnwrappedRow(replace(change, unchanged=() if is_deletion else unchanged, is_operation_known=is_known), form)


def null_value(topic: str, key: Payload, headers: Mapping[str, Any], form: Form | None) -> Change | NotAChange:
    """What a record without a value says."""
    told = {name[len(PREFIX) :]: each for name, each in headers.items() if name.startswith(PREFIX)}
    if form is Form.UNWRAPPED or (form is None and told.get("op") in ("d", "DELETE")):
        if key.value is None:
            raise Unreadable(problems.MISSING_KEY, "a record with neither key nor value")
        return moved(_change(topic, key, told, Operation.DELETE, None, None), headers)
    if key.value is None:
        raise Unreadable(problems.MISSING_KEY, "a record with neither key nor value")
    return NotAChange(problems.TOMBSTONE, "a tombstone: it lets compaction forget the key", False)


def told_operation(row: Mapping[str, Any]) -> tuple[str, bool]:
    """The operation of an unwrapped row, and whether it is a deletion. Raises `Unreadable`."""
    operation, _ = _operation(_added(row))
    return operation.value, operation is Operation.DELETE


def moved(change: Change, headers: Mapping[str, Any]) -> Change:
    """The change with the key that its row goes to or comes from: a changed key is a deletion and a creation."""
    new, old = headers.get(NEW_KEY_HEADER), headers.get(OLD_KEY_HEADER)
    if change.operation is Operation.DELETE:
        return change if new is None else replace(change, moved_to=new)
    return change if old is None else replace(change, moved_from=old)


def _added(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row that the transformation added, without their prefix."""
    return {
        name[len(PREFIX) :]: value
        for name, value in row.items()
        if name.startswith(PREFIX) and _is_metadata(name[len(PREFIX) :])
    }


def _is_metadata(name: str) -> bool:
    if name in _ENVELOPE_FIELDS or name in _SOURCE_FIELDS or name.startswith("source_"):
        return True
    return name.startswith("transaction_") and name[len("transaction_") :] in _TRANSACTION_FIELDS


def _operation(told: Mapping[str, Any]) -> tuple[Operation, bool]:
    if str(told.get("deleted")).lower() == "true":
        return Operation.DELETE, True
    letter = told.get("op")
    if letter is None:
        return Operation.UPDATE, False
    try:
        return Operation(letter), True
    except ValueError:
        raise Unreadable(problems.UNKNOWN_OPERATION, f"operation {str(letter)[:20]!r} is none of Debezium's") from None


def _change(
    topic: str, key: Payload, told: Mapping[str, Any], operation: Operation, after: Row | None, before: Row | None
) -> Change:
    source = {name.removeprefix("source_"): each for name, each in told.items() if not name.startswith("transaction_")}
    family = source_family(source)
    if not family and _is_pair(source.get("sequence")):
        source["connector"] = family = POSTGRESQL
    source.setdefault("name", _topic_parts(topic)[0])
    transaction = _transaction(told, family)
    time_ms = told.get("source_ts_ms", told.get("ts_ms"))
    try:
        meant = key.meant("key")
    except Unreadable as error:
        raise Unreadable(problems.INVALID_KEY, error.reason) from None
    snapshot = source.get("snapshot")
    return Change(
        operation=operation,
        table=_table(topic, source, family),
        key=meant,
        before=before,
        after=after,
        position=position_of(source, transaction.total_order if transaction else None),
        transaction=transaction,
        time_ms=time_ms if isinstance(time_ms, int) else None,
        snapshot=str(operation is Operation.READ if snapshot is None else snapshot).lower(),
    )


def _is_pair(sequence: Any) -> bool:
    return isinstance(sequence, str) and sequence.startswith("[")


def _transaction(told: Mapping[str, Any], family: str) -> SourceTransaction | None:
    name = told.get("transaction_id")
    if not isinstance(name, str):
        number = told.get("txId", told.get("source_txId"))
        return SourceTransaction(str(number)) if isinstance(number, int) else None
    orders = [told.get(f"transaction_{part}") for part in _TRANSACTION_FIELDS[1:]]
    total, of_table = (each if isinstance(each, int) else None for each in orders)
    return SourceTransaction(name.partition(":")[0] if family == POSTGRESQL else name, total, of_table)


def _table(topic: str, source: Mapping[str, Any], family: str) -> SourceTable:
    """What the added fields say, else the topic: Debezium names it server, schema or database, table."""

    def text(part: str) -> str:
        value = source.get(part)
        return value if isinstance(value, str) else ""

    server, middle, last = _topic_parts(topic)
    own = text("collection" if family == MONGODB else "table") or last
    database = text("db") or (middle if family in (MYSQL, MONGODB) else "")
    schema = text("schema") or ("" if middle == database or family in (MYSQL, MONGODB) else middle)
    return SourceTable(text("connector") or family, text("name") or server, database, schema, own)


def _topic_parts(topic: str) -> tuple[str, str, str]:
    """Server, schema or database, table; what the topic is too short for is empty."""
    parts = topic.split(".")
    if len(parts) > 2:
        return parts[0], ".".join(parts[1:-1]), parts[-1]
    return "", ".".join(parts[:-1]), parts[-1]
