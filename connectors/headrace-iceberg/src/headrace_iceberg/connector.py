"""Iceberg tables, exactly once.

Owns one table's rows and its property of positions; catalog, snapshots of others and maintenance are shared.

- Rows and positions are one commit of the catalog and one snapshot: after a crash both are there, or neither. A data
  file whose commit did not come is in no snapshot.
- Each flush reads the table anew. The positions stand where this process left them, or another one delivers the same
  partition and it stops with `PositionMoved`. After a conflict all that is read again, then rows are committed again.
- A table whose columns changed since it was opened, or that is another one of the same name, is looked at before
  anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import Table

from headrace.egress.explained import shown
from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    PositionMoved,
    Refused,
    TargetUnavailable,
)
from headrace_iceberg.catalogs import catalog_file_problems, look_at_catalog, open_catalog, place_problems
from headrace_iceberg.changes import Change, change_of
from headrace_iceberg.commits import commit, expire
from headrace_iceberg.failures import translated
from headrace_iceberg.fitting import Fitting
from headrace_iceberg.options import IcebergOptions
from headrace_iceberg.positions import held_positions, property_name, snapshot_value

COMMITS_MAX = 5
"""Tries of one flush against others that commit to the table; then the runner waits and opens it again."""


class IcebergConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=True,
        creates_table=True,
        alters_table=True,
        partial_update=True,
        truncate=True,
    )
    options_model: ClassVar[type[Options]] = IcebergOptions

    def __init__(self) -> None:
        self._options: IcebergOptions | None = None
        self._mode = Mode.APPEND
        self._catalog: Catalog | None = None
        self._identifier = self._place = self._property = ""
        self._opened_as: tuple[object, int] | None = None
        """The table and its columns that were opened."""
        self._columns: pa.Schema = pa.schema([])
        self._positions: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._staged: list[EgressBatch] = []

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Create the table or alter it to fit the contract, and read where it stands."""
        options, fitting = self._set_up(config, contract)
        with translated(self._place):
            self._catalog = open_catalog(options)
            table = fitting.made(self._catalog)
            self._opened_as = _as_it_is(table)
            columns = schema_to_pyarrow(table.schema(), include_field_ids=False)
            self._columns = pa.schema([columns.field(each.name) for each in fitting.wanted.fields])
            held = held_positions(table.metadata, self._property)
        self._positions = {partition: held[partition] for partition in partitions if partition in held}
        return dict(self._positions)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Keep the rows until the flush; the table's columns hold every value of the contract's."""
        self._staged.append(batch)
        self._pending.update(positions)
        return []

    def flush(self) -> None:
        """Rows and positions in one commit."""
        if not self._pending:
            return
        assert self._options is not None
        with translated(self._place):
            table = self._committed(change_of(self._staged, self._mode, self._columns))
        self._positions.update(self._pending)
        self._staged, self._pending = [], {}
        expire(table, self._options.snapshots_max, self._place)

    def close(self) -> None:
        """Drop what is staged and let the catalog go."""
        self._staged, self._pending = [], {}
        catalog, self._catalog = self._catalog, None
        if catalog is not None:
            catalog.close()

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether Iceberg has the columns' types, the catalog answers, and the table that is there fits or can be made
        to; on this machine also, whether its files can be written."""
        options, fitting = self._set_up(config, contract)
        with translated(self._place):
            found = catalog_file_problems(options)
            if found:
                return found
            self._catalog = look_at_catalog(options)
            try:
                place = options.catalog_properties().get("warehouse", "")
                if self._catalog is not None and self._catalog.table_exists(self._identifier):
                    table = self._catalog.load_table(self._identifier)
                    fitting.altered(table, fitting.steps(table))
                    place = table.location()
                return [] if options.is_rest else place_problems(place)
            finally:
                self.close()

    def positions(self, config: ConnectorConfig, contract: Contract) -> Mapping[int, int]:
        """Of the table's newest snapshot."""
        options, _ = self._set_up(config, contract)
        with translated(self._place):
            try:
                self._catalog = look_at_catalog(options)
                if self._catalog is None or not self._catalog.table_exists(self._identifier):
                    return {}
                return held_positions(self._catalog.load_table(self._identifier).metadata, self._property)
            finally:
                self.close()

    def rewind(
        self, config: ConnectorConfig, contract: Contract, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """A snapshot without files."""
        try:
            self.open(config, contract, sorted(after))
            self._positions, self._pending = dict(before), dict(after)
            self.flush()
        finally:
            self.close()

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The data files and the commit of one flush of these rows."""
        _, fitting = self._set_up(config, contract)
        columns = ", ".join(f"{each.name} {each.field_type}" for each in fitting.wanted.fields)
        partitions = np.unique(batch.partition).tolist()
        positions = {each: int(batch.offset[batch.partition == each].max()) + 1 for each in partitions}
        lines = []
        if self._mode is not Mode.APPEND:
            truncated, left = batch.since_truncate()
            batch = left.latest() if len(left) else left
            told = f"write data files of {self._identifier} anew, without rows that have one of {len(batch):,} keys"
            lines.append(shown(told if truncated is None else f"remove all data files of {self._identifier}"))
        added = int((~batch.deletes()).sum())
        return [
            *lines,
            shown(f"append a data file of {added:,} rows to {self._identifier}: {columns}"),
            shown(f"commit it with {self._property} = {snapshot_value(positions)}"),
        ]

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> tuple[IcebergOptions, Fitting]:
        """Everything that needs no catalog. Raises `TargetInvalid` for a column that Iceberg cannot hold."""
        options = config.options
        assert isinstance(options, IcebergOptions)
        self._options, self._mode, self._staged, self._pending = options, config.mode, [], {}
        self._identifier = options.identifier(config.topic)
        self._place = f"{config.egress}: table {self._identifier}"
        self._property = property_name(config.egress, config.topic)
        return options, Fitting.of(config, contract, self._place, self._identifier)

    def _current(self) -> Table:
        """The table as it is now, when it and its columns are still those that were opened."""
        assert self._catalog is not None
        table = self._catalog.load_table(self._identifier)
        if _as_it_is(table) != self._opened_as or table.spec().fields:
            raise TargetUnavailable(f"{self._place}: it was changed; it is opened again to compare its columns")
        return table

    def _committed(self, change: Change) -> Table:
        """Commit on top of whatever others commit meanwhile, as long as our positions stand."""
        for attempt in range(1, COMMITS_MAX + 1):
            table = self._current()
            held = held_positions(table.metadata, self._property)
            self._check(held)
            try:
                return commit(table, change, {**held, **self._pending}, self._property, self._place)
            except CommitFailedException:
                if attempt == COMMITS_MAX:
                    raise
        raise AssertionError("the last try returns or raises")

    def _check(self, held: Mapping[int, int]) -> None:
        for partition in self._pending:
            if held.get(partition) != self._positions.get(partition):
                raise PositionMoved(
                    f"{self._place}: partition {partition} is at {held.get(partition)}, this process left it at"
                    f" {self._positions.get(partition)}",
                    cure="run this egress in one place",
                )


def _as_it_is(table: Table) -> tuple[object, int]:
    """A table that is dropped and made anew has another identity, and may number its columns as before."""
    return table.metadata.table_uuid, table.metadata.current_schema_id
