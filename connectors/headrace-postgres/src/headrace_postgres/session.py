"""Sessions with PostgreSQL.

Owns what a session is told when it begins, and what each of the server's errors means: try again, somebody must mend
something, or this row is bad.

- No message carries a password: what cannot be read as a connection string is not repeated.
- A server that is gone, and a session that is stuck, are found out within a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headrace.egress.references import filled
from headrace.egress.sdk import TargetInvalid, TargetUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_S = 10
IDLE_TIMEOUT_S = 600
"""How long an open transaction may wait for its next rows. A process that hangs keeps its locks no longer."""
_SILENCE = {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 40_000}
_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT_S}s",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
}
_ROW_CLASSES = ("22", "23", "44")
"""Classes of SQLSTATE that say that a value is bad, or clashes with another."""
_INDEX_SIZE = "54000"
_ROW_STATES = ("P0001", _INDEX_SIZE)
"""A trigger's own refusal; a value too long for an index."""
_CHANGED_CLASSES = ("42",)
_FORBIDDEN, _NO_DATABASE = "42501", "3D"
_WRONG_WORDS = ("authentication", "does not exist", "permission denied", "no pg_hba.conf entry", "not permitted")
"""Of refused connections, for which libpq hands out no SQLSTATE."""


class TableChanged(TargetUnavailable):
    """The table is not what it was when it was opened; it is looked at again, and followed or refused by the policy."""

    code = "postgres.table_changed"


def connect(database: str, *, lock_timeout_s: int) -> Connection:
    """A session outside of any transaction. Raises `TargetInvalid`, `TargetUnavailable`."""
    settings = {**_SETTINGS, "lock_timeout": f"{lock_timeout_s}s"}
    try:
        given = conninfo_to_dict(filled(database, "database"))
        options = " ".join(
            [str(given.get("options") or ""), *(f"-c {name}={value}" for name, value in settings.items())]
        )
        settled = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "headrace", **_SILENCE, **given}
        told = make_conninfo("", **{**settled, "options": options.strip(), "client_encoding": "UTF8"})
    except psycopg.ProgrammingError:
        # What the driver says of it may repeat a password. The error itself must not come along either.
        message = "option 'database' is no connection string"
        raise TargetInvalid(message, cure="write postgresql://user@host:port/name") from None
    with translated():
        # A plan that the server keeps would outlive a change of the table.
        return psycopg.connect(told, autocommit=True, prepare_threshold=None)


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as headrace's."""
    try:
        yield
    except psycopg.Error as error:
        raise _translation(error) from error


def is_of_row(error: psycopg.Error) -> bool:
    """Whether the server refuses a value, and not the statement."""
    state = error.sqlstate or ""
    return state[:2] in _ROW_CLASSES or state in _ROW_STATES


def refusal_code(error: psycopg.Error) -> str:
    """Why a row is refused: a rule of the table, or a value that is none of its type."""
    state = error.sqlstate or ""
    return "postgres.value" if state[:2] == "22" or state == _INDEX_SIZE else "postgres.constraint"


def first_line(error: psycopg.Error) -> str:
    """The server's message, without the row that it repeats in its details."""
    text = error.diag.message_primary or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _translation(error: psycopg.Error) -> TargetInvalid | TargetUnavailable:
    message, state = f"PostgreSQL: {first_line(error)}", error.sqlstate or ""
    if state == _FORBIDDEN or state[:2] in ("28", _NO_DATABASE):
        return TargetInvalid(message, cure="mend what the server says")
    if state[:2] in _CHANGED_CLASSES:
        return TableChanged(message, cure="headrace looks at the table again")
    if state[:2] == "0A" or (isinstance(error, psycopg.ProgrammingError) and not state):
        return TargetInvalid(message, cure="mend what the server says")
    if isinstance(error, errors.IdleInTransactionSessionTimeout):
        cure = f"set batch.age_max_ms well below {IDLE_TIMEOUT_S * 1_000:,}"
        return TargetUnavailable(message, cure=cure)
    if not state and any(word in message for word in _WRONG_WORDS):
        return TargetInvalid(message, cure="mend user, password or rights, or what `database` names")
    return TargetUnavailable(message)
