"""Every aggregate over every type that it takes: values, nulls, merges of sessions, restores."""

from __future__ import annotations

import contextlib
import math
import random
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from headrace.contracts.polars_types import avro_to_dtype, dtype_to_avro
from headrace.flow.aggregate_types import FUNCTIONS, AggregateTypeInvalid, aggregate_type
from headrace.flow.steps import AggregateColumn
from headrace.flow.values import Emit
from tests.engine.operators.aggregate_driver import END, Driver, aggregate, comparable, make_step, session
from tests.engine.reference import Reference, Row
from tests.engine.state.test_dictionary import VALUES

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "quantile": [{"q": 0.3}, {"q": 0.75, "accuracy": 0.02}],
    "top_k": [{"k": 3}],
    "collect": [{"limit": 4}],
}
KINDS = {kind: (dtype, values) for kind, (dtype, values) in VALUES.items() if kind != "enum"}
KINDS["int"] = (pl.Int32(), [0, -1, 7, 2**31 - 1, -(2**31)])
KINDS["long"] = (pl.Int64(), [0, -1, 7, 10**6, -(10**6)])
KINDS["decimal"] = (pl.Decimal(20, 2), [Decimal("0.00"), Decimal("-0.01"), Decimal("99.99"), Decimal(10**15)])
ROWS = 60


def every_aggregate(dtype: pl.DataType) -> list[AggregateColumn]:
    """All built-in aggregates that take a column of this type."""
    avro, found = dtype_to_avro(dtype, nullable=True, path="value"), []
    for function in FUNCTIONS:
        for number, options in enumerate(OPTIONS.get(function, [{}])):
            with contextlib.suppress(AggregateTypeInvalid):
                if function != "custom" and aggregate_type(function, avro, options):
                    name = f"{function}_{number}"
                    found.append(aggregate(name, function, "value", {"value": dtype}, **options))
    return found


def random_rows(values: list[Any]) -> list[Row]:
    """Rows of two keys whose sessions grow into one another, some values null, times out of order."""
    generator, rows, reached = random.Random(len(values)), [], 0
    for _ in range(ROWS):
        time_ms = generator.randrange(300)
        reached = max(reached, time_ms)
        value = generator.choice([None, *values])
        rows.append(Row(0, time_ms, reached, {"key": generator.choice("ab"), "value": value}))
    return rows


def in_polars(values: list[Any], avro: Any) -> list[Any]:
    """Values as a Polars column of this type gives them back."""
    return [comparable(value) for value in pl.Series(values, dtype=avro_to_dtype(avro), strict=False).to_list()]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_aggregate_takes_every_type_that_it_says(kind: str) -> None:
    """Results in sessions equal the reference's, in the type that the plan says, after a restore in the middle too."""
    dtype, values = KINDS[kind]
    columns = {"key": pl.String(), "value": dtype}
    aggregates = every_aggregate(dtype)
    step = make_step(["key"], session(9, 1_000), aggregates, columns, Emit.FINAL)
    driver, reference, rows = Driver(step, columns), Reference(["key"], step.window, aggregates), random_rows(values)
    driver.batch(rows[: ROWS // 2])
    driver.commit()
    driver.restore()
    driver.batch(rows[ROWS // 2 :])
    closed = driver.batch([], {0: END})
    for row in rows:
        reference.add(row)
    wanted = sorted(reference.close(0, END), key=lambda result: (result.start_ms, result.key))
    assert 2 < len(wanted) < ROWS / 2, "sessions have several rows"
    for index, each in enumerate(aggregates):
        assert closed.schema[each.name] == avro_to_dtype(each.type)
        made = [comparable(value) for value in closed[each.name].to_list()]
        expected = in_polars([result.values[index] for result in wanted], each.type)
        if each.function in ("mean", "var", "std") or "accuracy" in each.options:
            _assert_close(made, expected, max(1e-12, 1.001 * each.options.get("accuracy", 0)))
        else:
            assert made == expected, each.name


def _assert_close(made: list[Any], expected: list[Any], share: float) -> None:
    for mine, theirs in zip(made, expected, strict=True):
        if mine == theirs:
            continue
        number, exact = float.fromhex(mine), float.fromhex(theirs)
        assert math.isclose(number, exact, rel_tol=share, abs_tol=5e-324), (mine, theirs)


def test_most_types_take_most_aggregates() -> None:
    """The test above is not passed by leaving out: what is refused is refused for a reason."""
    taken = {kind: {each.function for each in every_aggregate(dtype)} for kind, (dtype, _) in KINDS.items()}
    numbers = {"count", "sum", "mean", "min", "max", "first", "last", "var", "std", "count_distinct", "quantile"}
    for kind in ("int", "long", "float", "double", "decimal"):
        assert taken[kind] == numbers | {"top_k", "collect"}
    ordered = {"count", "min", "max", "first", "last", "count_distinct", "top_k", "collect"}
    for kind in ("boolean", "string", "bytes", "date", "time", "timestamp", "local"):
        assert taken[kind] == ordered
    for kind in ("list", "record"):
        assert taken[kind] == {"count", "first", "last", "count_distinct", "collect"}


def test_enums_go_by_the_order_of_their_symbols() -> None:
    """Not by the alphabet: LOW, MIDDLE, HIGH."""
    dtype = pl.Enum(["LOW", "MIDDLE", "HIGH"])
    columns = {"key": pl.String(), "value": dtype}
    names = [("least", "min", {}), ("most", "max", {}), ("two", "top_k", {"k": 2})]
    aggregates = [aggregate(name, function, "value", columns, **options) for name, function, options in names]
    driver = Driver(make_step(["key"], None, aggregates, columns, Emit.UPDATES), columns)
    for time_ms, symbol in enumerate(["MIDDLE", "HIGH", None, "LOW"]):
        driver.batch([Row(0, time_ms, time_ms, {"key": "k", "value": symbol})])
    flushed = driver.commit()
    assert flushed.select("least", "most", "two").row(0) == ("LOW", "HIGH", ["HIGH", "MIDDLE"])


def test_null_values_only() -> None:
    """A group whose values are all null: counts are 0, lists empty, everything else null."""
    columns = {"key": pl.String(), "value": pl.Float64()}
    aggregates = every_aggregate(pl.Float64())
    driver = Driver(make_step(["key"], None, aggregates, columns, Emit.UPDATES), columns)
    driver.batch([Row(0, 1, 1, {"key": "k", "value": None})])
    row = driver.commit().row(0, named=True)
    counts = {name: 0 for name in row if name.startswith("count")}
    lists = {name: [] for name in row if name.startswith(("top_k", "collect"))}
    assert {each.name: row[each.name] for each in aggregates} == {
        **dict.fromkeys(each.name for each in aggregates),
        **counts,
        **lists,
    }


def test_decimal_sums_keep_their_scale() -> None:
    """A sum of decimals is a decimal of 38 digits and the column's scale."""
    columns = {"key": pl.String(), "fare": pl.Decimal(12, 2)}
    step = make_step(["key"], None, [aggregate("s", "sum", "fare", columns)], columns, Emit.UPDATES)
    driver = Driver(step, columns)
    fares = [Decimal("0.10"), Decimal("-5.05")]
    driver.batch([Row(0, n, n, {"key": "AA", "fare": fare}) for n, fare in enumerate(fares)])
    flushed = driver.commit()
    assert flushed.schema["s"] == pl.Decimal(38, 2)
    assert flushed["s"].to_list() == [Decimal("-4.95")]
