"""One table of the file: its columns, and the rows of a flush.

Owns the statements; what is committed when is the connector's.

- The table fits the contract when it is opened. One whose columns are others since then is written only after another
  look: DuckDB would cast values without a word.
- Null keys are equal to each other, as they are in the topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from headrace.egress.drift import DriftStep, plan_drift
from headrace.egress.sdk import Contract, DriftPolicy, EgressBatch, Mode, TargetUnavailable, arrow_schema
from headrace_duckdb.types import ColumnType, column_types, quoted, storable, storable_schema, widens

_DELETE = "__delete"
_UNTOLD = "__untold_"
"""Columns of the staged rows; contracts may not use names that begin so."""


class Table:
    """The table of one egress, with the columns of its contract."""

    def __init__(self, schema: str, name: str, contract: Contract) -> None:
        self.text = f"{quoted(schema)}.{quoted(name)}"
        self._place = [schema, name]
        self._contract, self._columns = contract, storable_schema(arrow_schema(contract))
        self._fitted: Sequence[tuple[str, str]] = []
        """All its columns when it was made to fit, with their types."""

    def fit(self, connection: duckdb.DuckDBPyConnection, policy: DriftPolicy, target: str) -> bool:
        """Create the table, or alter it to fit the contract; whether it was created."""
        is_new = not self._is_there(connection)
        connection.register("staged", self._columns.empty_table())
        if is_new:
            connection.execute(f"CREATE TABLE {self.text} AS SELECT * FROM staged")
        wanted = column_types(connection, "SELECT * FROM staged")
        existing = column_types(connection, f"SELECT * FROM {self.text}")
        steps = plan_drift(
            self._contract,
            {name: each.arrow for name, each in wanted.items()},
            {name: each.arrow for name, each in existing.items()},
            policy,
            target=target,
            widens=widens,
        )
        for step in steps:
            connection.execute(f"ALTER TABLE {self.text} {_alteration(step, wanted)}")
        self._fitted = self._described(connection)
        return is_new

    def check_columns(self, connection: duckdb.DuckDBPyConnection) -> None:
        """That the table is there, with the columns that fit. Raises `TargetUnavailable`: it is opened again."""
        cure = "headrace looks at the table again"
        try:
            columns = self._described(connection)
        except duckdb.CatalogException as error:
            raise TargetUnavailable(f"table {self.text}: somebody dropped it", cure=cure) from error
        if columns != self._fitted:
            raise TargetUnavailable(f"table {self.text}: somebody changed its columns", cure=cure)

    def is_constrained(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether a row can be refused that has the right columns."""
        found = connection.execute(
            "SELECT (SELECT count(*) FROM duckdb_constraints() WHERE schema_name = $1 AND table_name = $2)"
            " + (SELECT count(*) FROM duckdb_indexes() WHERE schema_name = $1 AND table_name = $2 AND is_unique)",
            self._place,
        ).fetchall()
        return bool(found[0][0])

    def apply(self, connection: duckdb.DuckDBPyConnection, batches: Sequence[EgressBatch], mode: Mode) -> None:
        """Write the rows."""
        batches = [batch for batch in batches if len(batch)]
        if not batches:
            return
        batch = EgressBatch.concat(batches)
        if mode is Mode.APPEND:
            connection.register("staged", storable(batch.rows))
            connection.execute(f"INSERT INTO {self.text} BY NAME SELECT * FROM staged")
            return
        truncated, batch = batch.since_truncate()
        if truncated is not None:
            connection.execute(f"DELETE FROM {self.text}")
        # A merge must meet each key once.
        batch = batch.latest()
        staged = storable(batch.rows).append_column(_DELETE, pa.array(batch.deletes()))
        for name, mask in batch.unavailable.items():
            staged = staged.append_column(_UNTOLD + name, pa.array(mask))
        connection.register("staged", staged)
        connection.execute(self._merge(batch))

    def explain(self, batch: EgressBatch, mode: Mode) -> list[str]:
        """The statements that write these rows."""
        if mode is Mode.APPEND:
            return [f"INSERT INTO {self.text} BY NAME SELECT * FROM staged -- {len(batch)} rows"]
        truncated, left = batch.since_truncate()
        emptied = [] if truncated is None else [f"DELETE FROM {self.text}"]
        latest = left.latest()
        return [*emptied, f"{self._merge(latest)} -- {len(latest)} rows"] if len(latest) else emptied

    def _is_there(self, connection: duckdb.DuckDBPyConnection) -> bool:
        found = connection.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_catalog = current_database()"
            " AND table_schema = $1 AND table_name = $2",
            self._place,
        ).fetchall()
        return bool(found)

    def _described(self, connection: duckdb.DuckDBPyConnection) -> Sequence[tuple[str, str]]:
        # At each flush: the catalog's own tables would take ten times as long.
        return [(row[0], row[1]) for row in connection.execute(f"DESCRIBE SELECT * FROM {self.text}").fetchall()]

    def _merge(self, batch: EgressBatch) -> str:
        columns = [quoted(each.name) for each in self._columns]
        on = " AND ".join(f"t.{quoted(name)} IS NOT DISTINCT FROM s.{quoted(name)}" for name in batch.key)
        update = ", ".join(
            f"{quoted(each.name)} = {_new_value(each.name, batch)}"
            for each in self._columns
            if each.name not in batch.key
        )
        matched = f" WHEN MATCHED THEN UPDATE SET {update}" if update else ""
        return (
            f"MERGE INTO {self.text} t USING staged s ON {on}"
            f" WHEN MATCHED AND s.{_DELETE} THEN DELETE{matched}"
            f" WHEN NOT MATCHED AND NOT s.{_DELETE} THEN INSERT ({', '.join(columns)})"
            f" VALUES ({', '.join(f's.{column}' for column in columns)})"
        )


def _new_value(column: str, batch: EgressBatch) -> str:
    """What a row that is there gets: nothing new where the source did not tell."""
    if column not in batch.unavailable:
        return f"s.{quoted(column)}"
    return f"CASE WHEN s.{quoted(_UNTOLD + column)} THEN t.{quoted(column)} ELSE s.{quoted(column)} END"


def _alteration(step: DriftStep[pa.DataType], wanted: Mapping[str, ColumnType]) -> str:
    column = quoted(step.column)
    if step.kind == "rename":
        return f"RENAME COLUMN {quoted(step.former)} TO {column}"
    if step.kind == "widen":
        return f"ALTER COLUMN {column} TYPE {wanted[step.column].text}"
    if step.kind == "add":
        return f"ADD COLUMN {column} {wanted[step.column].text}"
    return f"DROP COLUMN {column}"
