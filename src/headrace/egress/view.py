"""The target's view of a topic: which columns, under which names, of which rows.

Owns projection, renaming and filtering, and the contract that the connector sees.

- Pure: a batch in, a batch out.
- The key columns always come along in the modes that need them.
- A filter looks at one row; a condition that looks at others is refused, since it would depend on the batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.contracts.arrow import to_arrow, to_frame
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.egress.config import EgressConfig
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import Mode, arrow_schema

_NEEDS_OTHER_ROWS = frozenset({"Agg", "Window", "Over", "Len", "Rolling"})
"""Nodes of Polars' expression JSON that no row-wise condition has."""


class View:
    """The view of one egress. Raises `EgressInvalid` when it is made."""

    def __init__(self, config: EgressConfig, contract: Contract) -> None:
        self._config = config
        self._source = source_contract(config, contract)
        self._columns = self._checked_columns()
        self.contract = self._target_contract()
        self._arrow = arrow_schema(self.contract)
        self._filter = self._checked_filter()

    @property
    def key_sources(self) -> tuple[str, ...]:
        """Key columns by their names in the topic, in the target's key order."""
        return tuple(self._columns[name] for name in self.contract.key)

    @property
    def filter_sources(self) -> frozenset[str]:
        """The topic's columns that the filter looks at."""
        return frozenset(self._filter.meta.root_names()) if self._filter is not None else frozenset()

    @property
    def sources(self) -> frozenset[str]:
        """The topic's columns that the target gets or the filter looks at."""
        return self.filter_sources | frozenset(self._columns.values())

    def renamed(self, masks: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, npt.NDArray[np.bool_]]:
        """By the target's columns what is given by the topic's."""
        return {target: masks[source] for target, source in self._columns.items() if source in masks}

    def nothing(self, count: int) -> pa.Table:
        """So many rows without a value."""
        return pa.Table.from_arrays([pa.nulls(count, each.type) for each in self._arrow], schema=self._arrow)

    def rows(self, table: pa.Table) -> pa.Table:
        """The target's columns of rows of the topic."""
        arrays = [
            table.column(source).cast(self._arrow.field(target).type)
            if table.column(source).type != self._arrow.field(target).type
            else table.column(source)
            for target, source in self._columns.items()
        ]
        return pa.Table.from_arrays(arrays, schema=self._arrow)

    def keys_only(self, keys: pa.Table) -> pa.Table:
        """Rows with these key columns (named as in the topic) and null elsewhere."""
        sources = {self._columns[name]: name for name in self.contract.key}
        arrays = [
            keys.column(source).cast(each.type)
            if (source := self._columns[each.name]) in sources and source in keys.column_names
            else pa.nulls(keys.num_rows, each.type)
            for each in self._arrow
        ]
        return pa.Table.from_arrays(arrays, schema=self._arrow)

    def passes(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of the topic the filter lets through."""
        if self._filter is None:
            return np.ones(table.num_rows, dtype=bool)
        kept: npt.NDArray[np.bool_] = (
            to_frame(table, self._source.schema).select(self._filter.fill_null(value=False)).to_series().to_numpy()
        )
        return kept

    def _checked_columns(self) -> Mapping[str, str]:
        """Target column to source column."""
        known = [each.name for each in self._source.schema.fields]
        columns = dict(self._config.columns) if self._config.columns is not None else {name: name for name in known}
        unknown = next((source for source in columns.values() if source not in known), None)
        if unknown is not None:
            raise self._invalid(
                "columns", f"topic {self._config.topic!r} has no column {unknown!r}", f"known: {', '.join(known)}"
            )
        missing = [name for name in self._source.key if name not in columns.values()]
        if self._config.mode is not Mode.APPEND and missing:
            raise self._invalid(
                "columns", f"key column {missing[0]!r} is not among `columns`", "add it: rows are known by it"
            )
        return columns

    def _target_contract(self) -> Contract:
        if self._config.mode is not Mode.APPEND and not self._source.key:
            message = f"topic {self._config.topic!r} has no key, and mode {self._config.mode.value} needs one"
            raise self._invalid("mode", message, "use mode append, or give the contract a key")
        targets = {source: target for target, source in self._columns.items()}
        contract = self._source
        return replace(
            contract,
            schema=_renamed(contract.schema, self._columns),
            key=tuple(targets[name] for name in contract.key if name in targets),
            time=targets.get(contract.time) if contract.time else None,
            tags={targets[name]: tags for name, tags in contract.tags.items() if name in targets},
            units={targets[name]: unit for name, unit in contract.units.items() if name in targets},
        )

    def _checked_filter(self) -> pl.Expr | None:
        if self._config.filter is None:
            return None
        try:
            expression = pl.sql_expr(self._config.filter)
            empty = to_frame(to_arrow(self._source.schema).empty_table(), self._source.schema)
            dtype = empty.select(expression).to_series().dtype
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise self._invalid(
                "filter", f"filter: {error}", "write a SQL condition over the contract's columns"
            ) from error
        if dtype != pl.Boolean:
            raise self._invalid(
                "filter", f"filter gives {dtype}, not true or false", "write a condition such as `amount > 0`"
            )
        if _nodes(json.loads(expression.meta.serialize(format="json"))) & _NEEDS_OTHER_ROWS:
            raise self._invalid("filter", "filter looks at other rows", "compute such a value in a pipeline")
        return expression

    def _invalid(self, key: str, message: str, cure: str) -> EgressInvalid:
        return EgressInvalid(f"egress {self._config.name!r}: {message}", where=self._config.place(key), cure=cure)


def source_contract(config: EgressConfig, contract: Contract) -> Contract:
    """The contract of the rows that the view starts from: in mode append a change is a row as it is on the wire."""
    if contract.kind is TopicKind.CHANGE and config.mode is Mode.APPEND:
        return replace(contract, schema=contract.value_schema, key=(), time=None, tags={}, units={})
    return contract


def _renamed(schema: AvroSchema, columns: Mapping[str, str]) -> AvroSchema:
    definition: Any = schema.project(columns.values(), name=schema.name).definition
    fields = [{**field, "name": target} for field, target in zip(definition["fields"], columns.keys(), strict=True)]
    return AvroSchema.parse({**definition, "fields": fields})


def _nodes(expression: Any) -> set[str]:
    """Names of all nodes of an expression's JSON."""
    if isinstance(expression, dict):
        return set(expression) | {name for each in expression.values() for name in _nodes(each)}
    if isinstance(expression, list):
        return {name for each in expression for name in _nodes(each)}
    return {expression} if isinstance(expression, str) else set()
