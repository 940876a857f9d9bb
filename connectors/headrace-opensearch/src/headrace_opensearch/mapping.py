"""Contracts as mappings of an index.

Owns the field type of each Avro type, and what of a mapping may differ.

- A document's source keeps every value as it was sent, whatever a field's type makes of it for searching.
- An index takes more fields and changes none: other drift is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.egress.drift import plan_drift
from headrace.egress.errors import DriftRefused
from headrace.egress.sdk import Contract, DriftPolicy

_TEXT = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
_WORD = {"type": "keyword", "ignore_above": 8_191}
"""Of the 32,766 bytes that a term may have, in the widest characters."""
_KEPT: Mapping[str, Any] = {"type": "object", "enabled": False}
"""In the source alone."""
# A number beyond ISO's years is refused: it would be read as milliseconds.
_DATE = {"type": "date", "format": "strict_date_optional_time"}
_SIMPLE: Mapping[Kind, Mapping[str, Any]] = {
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.INT: {"type": "integer"},
    Kind.LONG: {"type": "long"},
    # Not a number and the infinities are in the source, and not found.
    Kind.FLOAT: {"type": "float", "ignore_malformed": True},
    Kind.DOUBLE: {"type": "double", "ignore_malformed": True},
    Kind.BYTES: {"type": "binary"},
    Kind.FIXED: {"type": "binary"},
    Kind.STRING: _TEXT,
    Kind.ENUM: _WORD,
    Kind.UUID: _WORD,
    Kind.DECIMAL: _WORD,
    Kind.DECIMAL_TEXT: _WORD,
    Kind.BIG_DECIMAL: _WORD,
    Kind.TIME: _WORD,
    Kind.DATE: _DATE,
    Kind.TIMESTAMP: _DATE,
    Kind.LOCAL_TIMESTAMP: _DATE,
}
_WIDER = frozenset(
    {("integer", "long"), ("integer", "double"), ("float", "double"), ("text", "keyword"), ("keyword", "text")}
)
"""What a user's own mapping may have instead: the second takes every value of the first."""


def properties(contract: Contract) -> dict[str, Mapping[str, Any]]:
    """The field of each column."""
    return {child.name: _field(child.shape) for child in record_shape(contract.schema).children}


def missing(
    contract: Contract, existing: Mapping[str, Mapping[str, Any]], policy: DriftPolicy, *, target: str
) -> dict[str, Mapping[str, Any]]:
    """Fields to add. Raises `DriftRefused`."""
    wanted = properties(contract)
    steps = plan_drift(
        contract,
        {name: _type(field) for name, field in wanted.items()},
        {name: _type(field) for name, field in existing.items()},
        policy,
        target=target,
        widens=lambda old, new: old == new or (old, new) in _WIDER,
    )
    for step in steps:
        if step.kind != "add":
            raise DriftRefused(
                f"{target}: an index cannot {step.kind} field {step.column!r}",
                cure="name another `index`, and let it fill from the beginning under another egress",
            )
    return {step.column: wanted[step.column] for step in steps}


def _field(shape: Shape) -> Mapping[str, Any]:
    if shape.kind is Kind.RECORD:
        return {"properties": {child.name: _field(child.shape) for child in shape.children}}
    if shape.kind is Kind.ARRAY:
        return _field(shape.children[0].shape)
    if shape.kind is Kind.DURATION:
        return {"properties": {name: {"type": "long"} for name in ("months", "days", "milliseconds")}}
    return _SIMPLE.get(shape.kind, _KEPT)


def _type(field: Mapping[str, Any]) -> str:
    return str(field.get("type", "object"))
