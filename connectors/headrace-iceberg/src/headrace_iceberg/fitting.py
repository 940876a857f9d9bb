"""The table as the contract asks for it.

Owns how a table is made, compared with the contract, and altered as far as the policy of drift goes.

- Everything that cannot be is told before anything is written.
- Where no key column can be null, they are the identifier fields of a table that is made in a keyed mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, TableAlreadyExistsError
from pyiceberg.schema import Schema
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.types import DoubleType, FloatType, PrimitiveType

from headrace.contracts.arrow import to_arrow
from headrace.egress.drift import DriftStep, plan_drift
from headrace.egress.sdk import ConnectorConfig, Contract, Mode, TargetInvalid, arrow_schema
from headrace_iceberg.options import IcebergOptions
from headrace_iceberg.types import Plain, iceberg_schema, plain_columns, widens

KEYED_FILE_BYTES = 64 * 1024 * 1024
"""Of rows in memory, in a data file of a keyed mode: it is written anew for one key of it."""

_LOG = structlog.get_logger("headrace.egress.iceberg")


@dataclass(frozen=True, slots=True)
class Fitting:
    """One contract's way into one table."""

    config: ConnectorConfig
    contract: Contract
    place: str
    identifier: str
    wanted: Schema

    @staticmethod
    def of(config: ConnectorConfig, contract: Contract, place: str, identifier: str) -> Fitting:
        """Raises `TargetInvalid` for a column that Iceberg cannot hold, or a key that it cannot compare."""
        wanted = iceberg_schema(arrow_schema(contract))
        if config.mode is not Mode.APPEND:
            types = {name: wanted.find_field(name).field_type for name in contract.key}
            nested = next((name for name, each in types.items() if not isinstance(each, PrimitiveType)), None)
            if nested is not None:
                raise TargetInvalid(f"{place}: key column {nested!r} is {types[nested]}", cure="use mode append")
            inexact = any(isinstance(each, FloatType | DoubleType) for each in types.values())
            if not inexact and not _nullable_key(contract):
                wanted = _identified(wanted, contract.key)
        return Fitting(config, contract, place, identifier, wanted)

    def made(self, catalog: Catalog) -> Table:
        """The table, which may be new, altered to fit."""
        table = self._found_or_made(catalog)
        steps = self.steps(table)
        if not steps:
            return table
        self.altered(table, steps).commit_transaction()
        return catalog.load_table(self.identifier)

    def steps(self, table: Table) -> Sequence[DriftStep[Plain]]:
        """What must change in the table. Raises `TargetInvalid` where it cannot, or may not."""
        if table.spec().fields:
            raise TargetInvalid(f"{self.place}: it is partitioned", cure="write to a table without partitions")
        steps = plan_drift(
            self.contract,
            plain_columns(self.wanted),
            plain_columns(table.schema()),
            self.config.drift,
            target=self.place,
            widens=widens,
        )
        self._check_key(self.altered(table, steps).table_metadata.schema())
        return steps

    def altered(self, table: Table, steps: Sequence[DriftStep[Plain]]) -> Transaction:
        """These steps as pyiceberg makes them, not yet committed."""
        transaction = table.transaction()
        for step in steps:
            try:
                with transaction.update_schema() as update:
                    _alter(update, step, self.wanted)
            except ValueError as error:
                # Such as a column to drop that is an identifier field.
                cure = "change the table yourself, or write to another one"
                raise TargetInvalid(f"{self.place}: column {step.column!r}: {error}", cure=cure) from error
        return transaction

    def _found_or_made(self, catalog: Catalog) -> Table:
        if catalog.table_exists(self.identifier):
            return catalog.load_table(self.identifier)
        namespace = Catalog.namespace_from(self.identifier)
        try:
            catalog.create_namespace_if_not_exists(namespace)
        except NamespaceAlreadyExistsError:
            _LOG.debug("another process made the namespace", namespace=namespace)
        options = self.config.options
        assert isinstance(options, IcebergOptions)
        properties = {
            TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
            TableProperties.METADATA_PREVIOUS_VERSIONS_MAX: str(options.metadata_versions_max),
            TableProperties.MANIFEST_MERGE_ENABLED: "true",
        }
        if self.config.mode is not Mode.APPEND:
            properties[TableProperties.WRITE_TARGET_FILE_SIZE_BYTES] = str(KEYED_FILE_BYTES)
        try:
            return catalog.create_table(self.identifier, schema=self.wanted, properties=properties)
        except TableAlreadyExistsError:
            return catalog.load_table(self.identifier)

    def _check_key(self, schema: Schema) -> None:
        """Of the table once it is altered: required columns are filled where they are of the key, which is never
        null."""
        identified = schema.identifier_field_names()
        if self.config.mode is not Mode.APPEND and identified and identified != set(self.contract.key):
            told = f"its identifier fields are {sorted(identified)}, the key is {sorted(self.contract.key)}"
            raise TargetInvalid(f"{self.place}: {told}", cure="write to another table, or change its identifier fields")
        filled = frozenset() if _nullable_key(self.contract) else frozenset(self.contract.key)
        required = [each.name for each in schema.fields if each.required and each.name not in filled]
        if required:
            raise TargetInvalid(
                f"{self.place}: column {required[0]!r} is required; contracts may leave any column null",
                cure="make it optional, or write to another table",
            )


def _nullable_key(contract: Contract) -> bool:
    schema = to_arrow(contract.schema)
    return any(schema.field(name).nullable for name in contract.key)


def _identified(schema: Schema, key: Sequence[str]) -> Schema:
    """The same columns, those of the key required."""
    fields = [each.model_copy(update={"required": True}) if each.name in key else each for each in schema.fields]
    return Schema(*fields, identifier_field_ids=[each.field_id for each in fields if each.name in key])


def _alter(update: object, step: DriftStep[Plain], wanted: Schema) -> None:
    """One step of the drift, with pyiceberg's `UpdateSchema`."""
    if step.kind == "rename":
        update.rename_column(step.former, step.column)  # type: ignore[attr-defined]
    elif step.kind == "drop":
        update.delete_column(step.column)  # type: ignore[attr-defined]
    else:
        update.union_by_name(Schema(wanted.find_field(step.column)))  # type: ignore[attr-defined]
