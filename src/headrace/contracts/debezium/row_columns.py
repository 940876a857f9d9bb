"""Rows of Debezium's records as the columns of a contract.

Owns `RowColumns`: rows of one record schema, whatever types their records name, as one Arrow struct.

- A row that does not fit is told by its place and why; the others go on.
- What makes a raw value a column's is made once for each type that comes along, and used by the row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.debezium.fitting import Fit, Misfit, fitting
from headrace.contracts.debezium.json_values import typed
from headrace.contracts.debezium.payloads import Payload
from headrace.contracts.debezium.problems import Unreadable
from headrace.contracts.debezium.types import PRIMITIVES, ConnectType
from headrace.contracts.shape import Child, record_shape

TYPES_KEPT_MAX = 100
"""Types of rows remembered; a topic has one for each version of its table."""


_CHECKED_BY_FIT = PRIMITIVES - {"bytes"}
"""Types whose JSON is their raw value: a column checks it as it takes it."""


def _typed(value: Any, of: ConnectType, path: str) -> Any:
    try:
        return typed(value, of, path)
    except Unreadable as error:
        raise Misfit(error.reason) from None


class RowColumns:
    """Makes structs of rows. May be used from one thread at a time."""

    def __init__(self, schema: AvroSchema) -> None:
        self.type = pa.struct(list(to_arrow(schema)))
        self._children = record_shape(schema).children
        self._defaults = {
            field.name: field.default
            for field in schema.fields
            if field.has_default and isinstance(field.default, str | int | float | bool)
        }
        self._fits: OrderedDict[int, tuple[Any, list[tuple[str, Fit]]]] = OrderedDict()

    def structs(self, rows: Sequence[Payload | None]) -> tuple[pa.StructArray, dict[int, str]]:
        """One struct a row, null where there is none or it does not fit; and why those do not fit."""
        columns: list[list[Any]] = [[] for _ in self._children]
        valid = np.ones(len(rows), dtype=np.bool_)
        misfits: dict[int, str] = {}
        for at, row in enumerate(rows):
            values = None
            if row is not None:
                try:
                    values = self._values(row)
                except Misfit as error:
                    misfits[at] = str(error)
            if values is None:
                valid[at] = False
                values = [None] * len(columns)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        arrays = [pa.array(column, each.type) for column, each in zip(columns, self.type, strict=True)]
        return pa.StructArray.from_arrays(arrays, fields=list(self.type), mask=pa.array(~valid)), misfits

    def _column(self, column: Child, row: Payload) -> Fit:
        of = row.type.field(column.name) if row.type is not None else None
        fit = fitting(of, column.shape, row.names, column.name)
        if of is None or not row.is_unchecked or of.kind in _CHECKED_BY_FIT:
            return fit
        return lambda value: fit(None if value is None else _typed(value, of, column.name))

    def _values(self, row: Payload) -> list[Any]:
        block = row.value
        return [fit(block[name] if name in block else self._defaults.get(name)) for name, fit in self._fitting(row)]

    def _fitting(self, row: Payload) -> list[tuple[str, Fit]]:
        """Types are the same object for records of one schema: the decoder keeps them."""
        identity = id(row.type)
        known = self._fits.get(identity)
        if known is None or known[0] is not row.type:
            fits = [(each.name, self._column(each, row)) for each in self._children]
            known = self._fits[identity] = (row.type, fits)
            if len(self._fits) > TYPES_KEPT_MAX:
                self._fits.popitem(last=False)
        return known[1]
