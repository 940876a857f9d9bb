"""The transactional outbox: a service writes events inside its own database transaction.

Owns `Outbox`: the check of an event by its topic's contract, and the row that it becomes in the service's database.

- An event is checked as a `Publisher` checks it, when it is written: a bad one fails in the service's own transaction.
- A row is all that is written. No log, registry or network but the service's database is needed or touched.
- What commits is published once, in the order of the commits, by an ingress of kind `postgres-cdc` with `outbox`; what
  is rolled back never happened.
- Takes psycopg 3 connections and cursors, and sessions and connections of SQLAlchemy 2 over any driver of PostgreSQL;
  neither is imported before one of them is given.
- May be used from any thread.
"""

from __future__ import annotations

import importlib
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.ingress.encoder import Clock, Entry, TopicEncoder, now_ms
from headrace.ingress.outbox_table import (
    DEFAULT_TABLE,
    WRITTEN,
    JsonRows,
    headers_text,
    quoted_name,
    table_statement,
)
from headrace.ingress.violations import IngressError, NotPublishable, UnknownContract

CONTRACTS_ENTRY = "headrace.workspace.environment:read_contracts"
"""`read_contracts(path: Path | None) -> Mapping[str, Contract]`; this room never imports the workspace room."""
_CASTS = {"event_id": "uuid", "payload": "json", "headers": "json"}
_IDLE = 0
"""libpq's status of a connection outside a transaction."""

Parameters = Mapping[str, Any]


class OutboxConnection(IngressError):
    """What an event is to be written with is no connection to PostgreSQL in a transaction."""

    code: ClassVar[str] = "ingress.outbox_connection"


@dataclass(frozen=True, slots=True)
class _Checker:
    """Of one topic."""

    encoder: TopicEncoder
    rows: JsonRows
    schema: str


class Outbox:
    """Writes events by contract: `contracts`, or those of the workspace at `workspace`, or of the current folder."""

    def __init__(
        self,
        *,
        workspace: Path | str | None = None,
        contracts: Mapping[str, Contract] | None = None,
        table: str = DEFAULT_TABLE,
        clock: Clock = now_ms,
    ) -> None:
        self.table = table
        self._contracts = _workspace_contracts(workspace) if contracts is None else contracts
        self._clock, self._lock = clock, threading.Lock()
        self._registry = MemoryRegistry()
        self._checkers: dict[str, _Checker] = {}

    def write(
        self,
        connection: Any,
        topic: str,
        row: Mapping[str, Any],
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timestamp_ms: int | None = None,
    ) -> uuid.UUID:
        """Write one event with `connection`, inside its transaction; returns the id of the event.

        Raises `ContractViolation` (or `KeyMissing`, `EventTimeInvalid`) naming the field, `UnknownContract`,
        `OutboxConnection`, or what the database says.
        """
        return self.write_many(connection, topic, [row], headers=headers, timestamp_ms=timestamp_ms)[0]

    def write_many(
        self,
        connection: Any,
        topic: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timestamp_ms: int | None = None,
    ) -> list[uuid.UUID]:
        """Write events of one topic in this order; all have these headers. With one bad row nothing is written."""
        return self._written(connection, self._parameters(topic, list(rows), headers, timestamp_ms))

    def delete(
        self,
        connection: Any,
        topic: str,
        key: Mapping[str, Any],
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timestamp_ms: int | None = None,
    ) -> uuid.UUID:
        """Delete the row of `key` from a topic of kind `table`."""
        return self._written(connection, self._parameters(topic, [key], headers, timestamp_ms, is_deletion=True))[0]

    async def write_async(
        self,
        connection: Any,
        topic: str,
        row: Mapping[str, Any],
        *,
        headers: Mapping[str, str | bytes] | None = None,
        timestamp_ms: int | None = None,
    ) -> uuid.UUID:
        """As `write`, with an asynchronous connection, cursor or session."""
        parameters = self._parameters(topic, [row], headers, timestamp_ms)
        _check_transaction(connection)
        for call in _calls(connection, self.table, parameters):
            await call
        return uuid.UUID(parameters[0]["event_id"])

    def create_table(self, connection: Any) -> None:
        """Make the table where it is missing; `headrace apply` does the same."""
        _execute(connection, table_statement(quoted_name(self.table)))

    def _parameters(
        self,
        topic: str,
        rows: Sequence[Mapping[str, Any]],
        headers: Mapping[str, str | bytes] | None,
        timestamp_ms: int | None,
        *,
        is_deletion: bool = False,
    ) -> list[Parameters]:
        """Checked, one for each row."""
        stamp = self._clock() if timestamp_ms is None else timestamp_ms
        told = headers_text(headers) if headers else None
        with self._lock:
            checker = self._checker(topic)
            entries = [Entry(topic, row, stamp, is_deletion=is_deletion) for row in rows]
            violations = checker.encoder.encode_entries(entries).violations
        if violations:
            raise violations[min(violations)]
        text = checker.rows.key_text if is_deletion else checker.rows.text
        common = {
            "topic": topic,
            "headers": told,
            "timestamp_ms": stamp,
            "is_deletion": is_deletion,
            "schema": checker.schema,
        }
        return [{"event_id": str(uuid.uuid4()), "payload": text(row), **common} for row in rows]

    def _checker(self, topic: str) -> _Checker:
        found = self._checkers.get(topic)
        if found is None:
            contract = self._contracts.get(topic)
            if contract is None:
                raise UnknownContract(topic, self._contracts)
            if contract.kind is TopicKind.CHANGE:
                raise NotPublishable(
                    f"topic {topic!r} holds changes of a database and is written by its ingress",
                    cure="change the row in the database, or write to a topic of kind event or table",
                )
            encoder = TopicEncoder(contract, self._registry)
            found = _Checker(encoder, JsonRows(contract.schema), contract.schema.fingerprint.hex())
            self._checkers[topic] = found
        return found

    def _written(self, connection: Any, parameters: Sequence[Parameters]) -> list[uuid.UUID]:
        _check_transaction(connection)
        for _ in _calls(connection, self.table, parameters):
            pass
        return [uuid.UUID(each["event_id"]) for each in parameters]


def _calls(connection: Any, table: str, parameters: Sequence[Parameters]) -> Iterable[Any]:
    """What executing the statements gives, one at a time: something to await where the connection is asynchronous."""
    if not parameters:
        return
    if _is_sqlalchemy(connection):
        marks = [f"CAST(:{name} AS {_CASTS[name]})" if name in _CASTS else f":{name}" for name in WRITTEN]
        yield connection.execute(_text(_insert(table, marks)), [dict(each) for each in parameters])
        return
    marks = [f"%({name})s" + (f"::{_CASTS[name]}" if name in _CASTS else "") for name in WRITTEN]
    statement = _insert(table, marks)
    if len(parameters) == 1:
        yield _own_connection(connection).execute(statement, parameters[0])
        return
    yield _own_connection(connection).cursor().executemany(statement, parameters)


def _execute(connection: Any, statement: str) -> None:
    if _is_sqlalchemy(connection):
        connection.execute(_text(statement))
    else:
        _own_connection(connection).execute(statement)


def _insert(table: str, marks: Sequence[str]) -> str:
    return f"INSERT INTO {quoted_name(table)} ({', '.join(WRITTEN)}) VALUES ({', '.join(marks)})"


def _own_connection(connection: Any) -> Any:
    """Of a psycopg connection or cursor. The cursor keeps the result that its owner may still read."""
    if _module(connection) != "psycopg":
        raise _no_connection(connection)
    return getattr(connection, "connection", connection)


def _is_sqlalchemy(connection: Any) -> bool:
    return _module(connection) == "sqlalchemy" and hasattr(connection, "execute")


def _module(connection: Any) -> str:
    """The package that a connection, or what it is derived from, comes from."""
    packages = [each.__module__.partition(".")[0] for each in type(connection).__mro__]
    return next((each for each in packages if each in ("psycopg", "sqlalchemy")), packages[0])


def _text(statement: str) -> Any:
    return importlib.import_module("sqlalchemy").text(statement)


def _check_transaction(connection: Any) -> None:
    """An event that is written on its own is not part of what the service does."""
    driver = _driver_connection(connection)
    if getattr(driver, "autocommit", False) is True and driver.info.transaction_status == _IDLE:
        raise OutboxConnection(
            "the connection commits every statement by itself, and no transaction is open: the event would not be part"
            " of what the service writes",
            cure="write inside `with connection.transaction():`",
        )


def _driver_connection(connection: Any) -> Any:
    """The driver's own, of what is synchronous; an asynchronous session of SQLAlchemy always begins a transaction."""
    if not _is_sqlalchemy(connection):
        return _own_connection(connection)
    if type(connection).__module__.startswith("sqlalchemy.ext.asyncio"):
        return None
    of_session = getattr(connection, "connection", None)
    found = of_session() if callable(of_session) else connection
    return getattr(getattr(found, "connection", None), "driver_connection", None)


def _no_connection(connection: Any) -> OutboxConnection:
    return OutboxConnection(
        f"{type(connection).__module__}.{type(connection).__qualname__} is no connection that an outbox knows",
        cure="give a connection or cursor of psycopg 3, or a session or connection of SQLAlchemy 2",
    )


def _workspace_contracts(workspace: Path | str | None) -> Mapping[str, Contract]:
    module, _, function = CONTRACTS_ENTRY.partition(":")
    read = getattr(importlib.import_module(module), function)
    return cast(Mapping[str, Contract], read(None if workspace is None else Path(workspace)))
