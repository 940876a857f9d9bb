"""What an aggregate takes and what it gives.

Owns the typing rule of aggregates and the names of their options, for the flow (which states output columns) and the
engine (which makes them).

- One rule, one place: flow and engine both call `aggregate_type`.
- Nulls are ignored by every aggregate except `count()`, so all but counts and lists are nullable.
- Options: `quantile`: `q` (0 to 1), `accuracy` (relative, makes it a sketch); `top_k`: `k`; `collect`: `limit`;
  `custom`: `type` (Avro type of the result).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from headrace.errors import Fault, HeadraceError, Where

AvroType = Any

FUNCTIONS = (
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "first",
    "last",
    "var",
    "std",
    "count_distinct",
    "quantile",
    "top_k",
    "collect",
    "custom",
)
DECIMAL_PRECISION_MAX = 38
"""Digits that the engine computes with; wider decimals travel as text."""
TOP_K_MAX = 10_000
"""Bounds the state of one key."""
COLLECT_LIMIT_MAX = 100_000
"""Bounds the state of one key."""
COLLECT_LIMIT_DEFAULT = 1_000

_OPTIONS: Mapping[str, frozenset[str]] = {
    "quantile": frozenset({"q", "accuracy"}),
    "top_k": frozenset({"k"}),
    "collect": frozenset({"limit"}),
    "custom": frozenset({"type"}),
}
_INTEGERS = frozenset({"int", "long"})
_FLOATS = frozenset({"float", "double"})
_UNORDERED = frozenset({"record", "error", "map", "array", "union", "null", "duration", "wide decimal"})


class AggregateTypeInvalid(HeadraceError):
    """An aggregate cannot take this column or these options."""

    code = "flow.aggregate_type_invalid"
    fault = Fault.STOP


def aggregate_type(
    function: str,
    input_type: AvroType | None,
    options: Mapping[str, Any] | None = None,
    *,
    where: Where | None = None,
) -> AvroType:
    """Avro type of the aggregate's result. `input_type` is the column's type, None for `count()`.

    Raises `AggregateTypeInvalid` for an unknown function, a type it cannot take, or bad options.
    """
    options = options or {}
    _check_options(function, options, where)
    if function == "count":
        return "long"
    if function == "custom":
        return options["type"]
    if input_type is None:
        raise AggregateTypeInvalid(f"{function}() needs a column", where=where, cure=f'write {function}("column")')
    inner = without_null(input_type)
    _check_input(function, inner, where)
    match function:
        case "count_distinct":
            return "long"
        case "sum":
            return _nullable(_sum_type(inner))
        case "mean" | "var" | "std" | "quantile":
            return ["null", "double"]
        case "top_k" | "collect":
            return {"type": "array", "items": inner}
        case _:
            return _nullable(inner)


def without_null(avro_type: AvroType) -> AvroType:
    """The type without its null branch; a union of several others stays a union."""
    if not isinstance(avro_type, list):
        return avro_type
    branches = [branch for branch in avro_type if branch != "null"]
    return branches[0] if len(branches) == 1 else branches


def _nullable(avro_type: AvroType) -> AvroType:
    if isinstance(avro_type, list):
        return ["null", *avro_type]
    return ["null", avro_type]


def _check_input(function: str, inner: AvroType, where: Where | None) -> None:
    kind = _kind(inner)
    if function in ("sum", "mean", "var", "std", "quantile"):
        if kind not in _INTEGERS | _FLOATS | {"decimal"}:
            raise AggregateTypeInvalid(
                f"{function} takes numbers, not {kind}", where=where, cure="cast the column to a number first"
            )
    elif function in ("min", "max", "top_k"):
        if kind in _UNORDERED:
            raise AggregateTypeInvalid(
                f"{function} needs values with an order; {kind} has none", where=where, cure="pick one of its fields"
            )
    elif function == "count_distinct" and kind == "map":
        raise AggregateTypeInvalid(
            "count_distinct cannot compare maps", where=where, cure="pick one of its values or cast it to text"
        )


def _kind(inner: AvroType) -> str:
    """Avro type name, or the logical type where it changes what can be computed."""
    if isinstance(inner, list):
        return "union" if inner else "null"
    if isinstance(inner, str):
        return inner
    logical, base = inner.get("logicalType"), inner["type"]
    if not isinstance(base, str):
        return _kind(base)
    if logical == "decimal":
        return "decimal" if inner.get("precision", 0) <= DECIMAL_PRECISION_MAX else "wide decimal"
    if logical == "big-decimal":
        return "wide decimal"
    if logical in ("timestamp-millis", "timestamp-micros", "timestamp-nanos", "date", "time-millis", "time-micros"):
        return str(logical)
    if logical in ("local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos", "duration", "uuid"):
        return str(logical)
    return base


def _sum_type(inner: AvroType) -> AvroType:
    kind = _kind(inner)
    if kind in _INTEGERS:
        return "long"
    if kind in _FLOATS:
        return "double"
    scale = inner.get("scale", 0)
    return {"type": "bytes", "logicalType": "decimal", "precision": DECIMAL_PRECISION_MAX, "scale": scale}


def _check_options(function: str, options: Mapping[str, Any], where: Where | None) -> None:
    if function not in FUNCTIONS:
        raise AggregateTypeInvalid(f"no aggregate {function!r}", where=where, cure="use one of " + ", ".join(FUNCTIONS))
    unknown = sorted(set(options) - _OPTIONS.get(function, frozenset()))
    if unknown:
        raise AggregateTypeInvalid(f"{function} has no option {unknown[0]!r}", where=where, cure="take it out")
    match function:
        case "quantile":
            _check_quantile(options, where)
        case "top_k":
            _check_whole("top_k", "k", options.get("k"), TOP_K_MAX, where)
        case "collect":
            _check_whole("collect", "limit", options.get("limit", COLLECT_LIMIT_DEFAULT), COLLECT_LIMIT_MAX, where)
        case "custom":
            if "type" not in options:
                raise AggregateTypeInvalid(
                    "a custom aggregate must say its result's Avro type", where=where, cure="give `type`"
                )


def _check_quantile(options: Mapping[str, Any], where: Where | None) -> None:
    q, accuracy = options.get("q"), options.get("accuracy")
    if not _is_number(q) or not 0 <= q <= 1:
        raise AggregateTypeInvalid(f"quantile {q!r} is not between 0 and 1", where=where, cure="0.5 is the median")
    if accuracy is not None and (not _is_number(accuracy) or not 0.0001 <= accuracy <= 0.5):
        raise AggregateTypeInvalid(
            f"accuracy {accuracy!r} is not between 0.0001 and 0.5", where=where, cure="0.01 is one percent"
        )


def _check_whole(function: str, option: str, value: Any, most: int, where: Where | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise AggregateTypeInvalid(
            f"{function}: {option} is {value!r}, not a whole number from 1 to {most}", where=where, cure="change it"
        )


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
