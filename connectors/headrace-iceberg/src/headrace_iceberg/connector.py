"""Iceberg tables, exactly once.

Owns one table's rows and its property of positions; catalog, snapshots of others and maintenance are shared.

- Rows and positions are one commit of the catalog: after a crash both are there, or neither. A data file whose commit
  did not come is in no snapshot.
- Each flush reads the table anew. The positions stand where this process left them, or another one delivers the same
  partition and it stops with `PositionMoved`.
- pyiceberg's own retry of a commit is off: it would put the rows on top of those of another process without a look at
  the positions. After a conflict the positions are read again, then the rows are committed again.
- A schema that changed since the table was opened is looked at before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import structlog
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, TableAlreadyExistsError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table, TableProperties, Transaction

from headrace.egress.drift import DriftStep, plan_drift
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
    TargetInvalid,
    TargetUnavailable,
    arrow_schema,
)
from headrace_iceberg.catalogs import catalog_file_problems, look_at_catalog, open_catalog, place_problems
from headrace_iceberg.data_file import write_data_file
from headrace_iceberg.failures import translated
from headrace_iceberg.options import IcebergOptions
from headrace_iceberg.positions import held_positions, property_name, snapshot_value, table_value
from headrace_iceberg.types import Plain, iceberg_schema, plain_columns, storable_type, widens

COMMITS_MAX = 5
"""Tries of one flush against others that commit to the table; then the runner waits and opens it again."""
EXPIRY_SLACK = 1.25
"""Snapshots expire some at a time: each expiry is a commit of its own."""

_LOG = structlog.get_logger("headrace.egress.iceberg")


class IcebergConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND}), atomic_positions=True, creates_table=True, alters_table=True
    )
    options_model: ClassVar[type[Options]] = IcebergOptions

    def __init__(self) -> None:
        self._options: IcebergOptions | None = None
        self._catalog: Catalog | None = None
        self._identifier = self._place = self._property = ""
        self._schema_id = 0
        self._columns: pa.Schema = pa.schema([])
        self._positions: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._staged: list[EgressBatch] = []

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Create the table or alter it to fit the contract, and read where it stands."""
        options, wanted = self._set_up(config, contract)
        with translated(self._place):
            self._catalog = open_catalog(options)
            table = self._fit(self._made(wanted), wanted, contract, config)
            self._schema_id = table.metadata.current_schema_id
            columns = schema_to_pyarrow(table.schema(), include_field_ids=False)
            self._columns = pa.schema([columns.field(each.name) for each in wanted.fields])
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
        with translated(self._place):
            table = self._current()
            file = write_data_file(table, self._storable_rows())
            try:
                table = self._commit(table, file)
            except (CommitFailedException, PositionMoved, TargetUnavailable):
                # Told before anything was committed, or by the catalog: no snapshot holds the file.
                if file is not None:
                    table.io.delete(file.file_path)
                raise
        self._positions.update(self._pending)
        self._staged, self._pending = [], {}
        self._expire(table)

    def close(self) -> None:
        """Drop what is staged and let the catalog go."""
        self._staged, self._pending = [], {}
        catalog, self._catalog = self._catalog, None
        if catalog is not None:
            catalog.close()

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether Iceberg has the columns' types, the catalog answers, and the table that is there fits or can be made
        to; on this machine also, whether its files can be written."""
        options, wanted = self._set_up(config, contract)
        with translated(self._place):
            found = catalog_file_problems(options)
            if found:
                return found
            self._catalog = look_at_catalog(options)
            try:
                place = options.catalog_properties().get("warehouse", "")
                if self._catalog is not None and self._catalog.table_exists(self._identifier):
                    table = self._catalog.load_table(self._identifier)
                    self._altered(table, self._steps(table, wanted, contract, config), wanted)
                    place = table.location()
                return [] if options.is_rest else place_problems(place)
            finally:
                self.close()

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The data file and the commit of one flush of these rows."""
        _, wanted = self._set_up(config, contract)
        columns = ", ".join(f"{each.name} {each.field_type}" for each in wanted.fields)
        partitions = np.unique(batch.partition).tolist()
        positions = {each: int(batch.offset[batch.partition == each].max()) + 1 for each in partitions}
        return [
            shown(f"append a data file of {len(batch):,} rows to {self._identifier}: {columns}"),
            shown(f"commit it with {self._property} = {snapshot_value(positions)}"),
        ]

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> tuple[IcebergOptions, Schema]:
        """Everything that needs no catalog. Raises `TargetInvalid` for a column that Iceberg cannot hold."""
        options = config.options
        assert isinstance(options, IcebergOptions)
        self._options, self._staged, self._pending = options, [], {}
        self._identifier = options.identifier(config.topic)
        self._place = f"{config.egress}: table {self._identifier}"
        self._property = property_name(config.egress, config.topic)
        return options, iceberg_schema(arrow_schema(contract))

    def _made(self, wanted: Schema) -> Table:
        """The table, which may be new."""
        assert self._catalog is not None
        assert self._options is not None
        if self._catalog.table_exists(self._identifier):
            return self._catalog.load_table(self._identifier)
        namespace = Catalog.namespace_from(self._identifier)
        try:
            self._catalog.create_namespace_if_not_exists(namespace)
        except NamespaceAlreadyExistsError:
            _LOG.debug("another process made the namespace", namespace=namespace)
        properties = {
            TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
            TableProperties.METADATA_PREVIOUS_VERSIONS_MAX: str(self._options.metadata_versions_max),
            TableProperties.MANIFEST_MERGE_ENABLED: "true",
        }
        try:
            return self._catalog.create_table(self._identifier, schema=wanted, properties=properties)
        except TableAlreadyExistsError:
            return self._catalog.load_table(self._identifier)

    def _fit(self, table: Table, wanted: Schema, contract: Contract, config: ConnectorConfig) -> Table:
        """Alter the table as far as the policy goes."""
        steps = self._steps(table, wanted, contract, config)
        if not steps:
            return table
        self._altered(table, steps, wanted).commit_transaction()
        assert self._catalog is not None
        return self._catalog.load_table(self._identifier)

    def _steps(
        self, table: Table, wanted: Schema, contract: Contract, config: ConnectorConfig
    ) -> Sequence[DriftStep[Plain]]:
        """What must change in the table. Raises `TargetInvalid` where it cannot, or may not."""
        if table.spec().fields:
            raise TargetInvalid(f"{self._place}: it is partitioned", cure="write to a table without partitions")
        required = [each.name for each in table.schema().fields if each.required]
        if required:
            raise TargetInvalid(
                f"{self._place}: column {required[0]!r} is required; contracts may leave any column null",
                cure="make it optional, or write to another table",
            )
        return plan_drift(
            contract,
            plain_columns(wanted),
            plain_columns(table.schema()),
            config.drift,
            target=self._place,
            widens=widens,
        )

    def _altered(self, table: Table, steps: Sequence[DriftStep[Plain]], wanted: Schema) -> Transaction:
        """These steps as pyiceberg makes them, not yet committed."""
        transaction = table.transaction()
        for step in steps:
            with transaction.update_schema() as update:
                _alter(update, step, wanted)
        return transaction

    def _storable_rows(self) -> pa.Table:
        """What is staged, in the table's columns."""
        batches = [batch for batch in self._staged if len(batch)]
        if not batches:
            return self._columns.empty_table()
        rows = EgressBatch.concat(batches).rows
        storable = pa.schema([pa.field(each.name, storable_type(each.type)) for each in rows.schema])
        return rows.cast(storable).cast(self._columns)

    def _current(self) -> Table:
        """The table as it is now, when its columns are still those that were opened."""
        assert self._catalog is not None
        table = self._catalog.load_table(self._identifier)
        if table.metadata.current_schema_id != self._schema_id or table.spec().fields:
            raise TargetUnavailable(f"{self._place}: its columns were changed; it is opened again to compare them")
        return table

    def _commit(self, table: Table, file: DataFile | None) -> Table:
        """Commit on top of whatever others commit meanwhile, as long as our positions stand."""
        for attempt in range(1, COMMITS_MAX + 1):
            try:
                return self._commit_once(table, file)
            except CommitFailedException:
                if attempt == COMMITS_MAX:
                    raise
                table = self._current()
        raise AssertionError("the last try returns or raises")

    def _commit_once(self, table: Table, file: DataFile | None) -> Table:
        held = held_positions(table.metadata, self._property)
        self._check(held)
        positions = {**held, **self._pending}
        # In memory only: the property is not among what is committed.
        no_retry = {**table.metadata.properties, TableProperties.COMMIT_NUM_RETRIES: "0"}
        table.metadata = table.metadata.model_copy(update={"properties": no_retry})
        transaction = table.transaction()
        snapshot_properties = {self._property: snapshot_value(positions)}
        with transaction.update_snapshot(snapshot_properties=snapshot_properties).merge_append() as append:
            if file is not None:
                append.append_data_file(file)
        snapshot = transaction.table_metadata.current_snapshot()
        assert snapshot is not None
        transaction.set_properties({self._property: table_value(positions, snapshot.snapshot_id)})
        return transaction.commit_transaction()

    def _check(self, held: Mapping[int, int]) -> None:
        for partition in self._pending:
            if held.get(partition) != self._positions.get(partition):
                raise PositionMoved(
                    f"{self._place}: partition {partition} is at {held.get(partition)}, this process left it at"
                    f" {self._positions.get(partition)}",
                    cure="run this egress in one place",
                )

    def _expire(self, table: Table) -> None:
        """Forget the oldest snapshots; the newest, and those with a name, stay."""
        assert self._options is not None
        most = self._options.snapshots_max
        snapshots = sorted(table.metadata.snapshots, key=lambda each: each.sequence_number or 0)
        if len(snapshots) <= most * EXPIRY_SLACK:
            return
        named = {each.snapshot_id for each in table.metadata.refs.values()}
        old = [each.snapshot_id for each in snapshots[:-most] if each.snapshot_id not in named]
        try:
            with translated(self._place):
                table.maintenance.expire_snapshots().by_ids(old).commit()
        except TargetUnavailable as error:
            # The rows are there. The next flush expires them.
            _LOG.warning("snapshots did not expire", table=self._identifier, error=str(error))


def _alter(update: object, step: DriftStep[Plain], wanted: Schema) -> None:
    """One step of the drift, with pyiceberg's `UpdateSchema`."""
    if step.kind == "rename":
        update.rename_column(step.former, step.column)  # type: ignore[attr-defined]
    elif step.kind == "drop":
        update.delete_column(step.column)  # type: ignore[attr-defined]
    else:
        update.union_by_name(Schema(wanted.find_field(step.column)))  # type: ignore[attr-defined]
