"""The table that the capture benchmark writes, in each database, and its contract."""

from __future__ import annotations

from typing import Protocol

from headrace.contracts.contract import Contract
from headrace.contracts.load import contract_of

TABLE = "items"
TOPIC = "items"
CONTRACT = """
topic: items
owner: bench
kind: change
key: id
fields: {id: long, name: "string?", price: "decimal(12,2)?", seen_at: "timestamp-micros?", note: "string?"}
"""


def contract() -> Contract:
    return contract_of(CONTRACT, "items.yaml")


class Table(Protocol):
    """The table in one kind of database."""

    create: str

    def fill(self, first: int, last: int) -> str:
        """Rows in one statement."""

    def transactions(self, first: int, last: int, rows: int) -> str:
        """Rows in transactions of `rows`, written by the server itself."""


class PostgresTable:
    """The table in PostgreSQL."""

    create = "CREATE TABLE items (id int8 PRIMARY KEY, name text, price numeric(12,2), seen_at timestamptz, note text)"
    rows = (
        "SELECT n, 'item ' || n, (n % 1000000) / 100.0, now(), repeat('n', 60) FROM generate_series({first}, {last}) n"
    )

    def fill(self, first: int, last: int) -> str:
        return f"INSERT INTO {TABLE} {self.rows.format(first=first, last=last)}"

    def transactions(self, first: int, last: int, rows: int) -> str:
        insert = f"INSERT INTO {TABLE} {self.rows.format(first='at', last=f'least(at + {rows - 1}, {last})')}"
        return f"DO $$ BEGIN FOR at IN {first}..{last} BY {rows} LOOP {insert}; COMMIT; END LOOP; END $$"


class MariadbTable:
    """The table in MariaDB."""

    create = (
        "CREATE TABLE items (id bigint PRIMARY KEY, name text, price decimal(12,2), seen_at timestamp(6) NULL,"
        " note text) CHARACTER SET utf8mb4"
    )
    columns = "{n}, concat('item ', {n}), ({n} % 1000000) / 100.0, now(6), repeat('n', 60)"

    def fill(self, first: int, last: int) -> str:
        return f"INSERT INTO {TABLE} SELECT {self.columns.format(n='seq')} FROM seq_{first}_to_{last}"

    def transactions(self, first: int, last: int, rows: int) -> str:
        columns = self.columns.format(n="(place + seq)")
        insert = f"INSERT INTO {TABLE} SELECT {columns} FROM seq_0_to_{rows - 1} WHERE place + seq <= {last}"
        # Each statement is a transaction of its own.
        loop = f"WHILE place <= {last} DO {insert}; SET place = place + {rows}; END WHILE"
        return f"BEGIN NOT ATOMIC DECLARE place bigint DEFAULT {first}; {loop}; END"
