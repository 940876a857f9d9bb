"""The table that the capture benchmark writes, and its contract."""

from __future__ import annotations

from headrace.contracts.contract import Contract
from headrace.contracts.load import contract_of

TABLE = "items"
TOPIC = "items"
CREATE = "CREATE TABLE items (id int8 PRIMARY KEY, name text, price numeric(12,2), seen_at timestamptz, note text)"
ROWS = "SELECT n, 'item ' || n, (n % 1000000) / 100.0, now(), repeat('n', 60) FROM generate_series({first}, {last}) n"
CONTRACT = """
topic: items
owner: bench
kind: change
key: id
fields: {id: long, name: "string?", price: "decimal(12,2)?", seen_at: "timestamp-micros?", note: "string?"}
"""


def contract() -> Contract:
    return contract_of(CONTRACT, "items.yaml")


def fill(first: int, last: int) -> str:
    """Rows in one statement."""
    return f"INSERT INTO {TABLE} {ROWS.format(first=first, last=last)}"


def transactions(first: int, last: int, rows: int) -> str:
    """Rows in transactions of `rows`, written by the server itself."""
    insert = f"INSERT INTO {TABLE} {ROWS.format(first='at', last=f'least(at + {rows - 1}, {last})')}"
    return f"DO $$ BEGIN FOR at IN {first}..{last} BY {rows} LOOP {insert}; COMMIT; END LOOP; END $$"
