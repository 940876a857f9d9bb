"""Rows that an aggregate refuses: they alone become dead letters, and leave no trace anywhere."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from headrace.flow.aggregator import Aggregator
from headrace.flow.values import Emit, Window
from tests.engine.operators.aggregate_driver import (
    Driver,
    aggregate,
    hopping,
    make_step,
    result_rows,
    session,
    tumbling,
)
from tests.engine.reference import Row

COLUMNS: dict[str, pl.DataType] = {"key": pl.String(), "value": pl.Int64(), "price": pl.Decimal(38, 2)}
MOST = 2**63 - 1


class Product(Aggregator):
    """A product that raises at zero, and whose result cannot be told above a thousand."""

    type = "long"

    def init(self) -> list[int]:
        return [1]

    def add(self, state: list[int], value: int | None) -> list[int]:
        if value == 0:
            state[0] = -1
            raise ZeroDivisionError("a factor is zero")
        state[0] *= value or 1
        return state

    def merge(self, left: list[int], right: list[int]) -> list[int]:
        return [left[0] * right[0]]

    def result(self, state: list[int]) -> int:
        if state[0] > 1_000:
            raise OverflowError("too much")
        return state[0]


def driver(window: Window | None, emit: Emit = Emit.UPDATES) -> Driver:
    """Count, sum, decimal sum and product by key."""
    aggregates = [
        aggregate("rows", "count", None, COLUMNS),
        aggregate("total", "sum", "value", COLUMNS),
        aggregate("price", "sum", "price", COLUMNS),
        aggregate("product", "custom", "value", COLUMNS, type=["null", "long"]),
    ]
    step = make_step(("key",), window, aggregates, COLUMNS, emit)
    return Driver(step, COLUMNS, {"totals.product": Product("value")})


def row(time_ms: int, value: int | None, price: str | None = None, key: str = "k") -> Row:
    values = {"key": key, "value": value, "price": None if price is None else Decimal(price)}
    return Row(0, time_ms, time_ms, values)


def refused(op: Driver) -> list[tuple[Any, str]]:
    """Value and code of the dead letters."""
    return [(values["value"], error.code) for values, error in op.context.dead]


def totals(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Count, sum and product of the output rows."""
    return [row[-7:-5] + row[-4:-3] for row in result_rows(frame)]


def test_a_sum_out_of_range_refuses_the_row_that_takes_it_there() -> None:
    """Rows before and after it count; the sum may come back into range and go on."""
    op = driver(None)
    op.batch([row(0, MOST - 1), row(1, 2), row(2, 1), row(3, 1), row(4, -5)])
    assert refused(op) == [(MOST - 1, "process.function_raised")]
    op = Driver(make_step(("key",), None, [aggregate("total", "sum", "value", COLUMNS)], COLUMNS), COLUMNS)
    op.batch([row(0, MOST - 1), row(1, 2), row(2, 1), row(3, 1), row(4, -5), row(5, 5), row(6, 1)])
    assert refused(op) == [(2, "process.overflow"), (1, "process.overflow"), (1, "process.overflow")]
    assert op.commit()["total"].to_list() == [MOST]


def test_decimal_sums_have_thirty_eight_digits() -> None:
    """The row that needs a thirty-ninth is refused."""
    op = driver(None)
    most = "999999999999999999999999999999999999.99"
    op.batch([row(0, 1, most), row(1, 2, "0.01"), row(2, 3, "-0.01"), row(3, 4, "0.01")])
    assert refused(op) == [(2, "process.overflow")]
    flushed = op.commit()
    assert flushed["price"].to_list() == [Decimal(most)]
    assert flushed["rows"].to_list() == [3]


def test_a_function_that_raises_refuses_its_row_and_keeps_its_state() -> None:
    """Though it changed what it was given before it raised; the message names the aggregate and the error."""
    op = driver(None)
    op.batch([row(0, 5), row(1, 0), row(2, 3)])
    assert refused(op) == [(0, "process.function_raised")]
    assert op.context.dead[0][1].message == "product: ZeroDivisionError: a factor is zero"
    assert totals(op.commit()) == [(2, 8, 15)]


def test_a_state_without_a_result_refuses_the_row() -> None:
    """It would stop the commit later; here it costs one row."""
    op = driver(None)
    op.batch([row(0, 900), row(1, 2), row(2, 1)])
    assert refused(op) == [(2, "process.function_raised")]
    assert totals(op.commit()) == [(2, 901, 900)]


class Wordy(Product):
    """Says long, gives text when it grows."""

    def result(self, state: list[int]) -> Any:
        return "many" if state[0] > 5 else state[0]


class Unwritable(Product):
    """Its state is nothing that JSON can hold."""

    def add(self, state: list[int], value: int | None) -> Any:
        return {1, 2} if value == 7 else state


@pytest.mark.parametrize(
    ("aggregator", "value", "reason"),
    [(Wordy("value"), 6, "'many'|str"), (Unwritable("value"), 7, "not JSON serializable")],
)
def test_a_result_of_another_type_or_a_state_that_cannot_be_kept_refuses_the_row(
    aggregator: Aggregator, value: int, reason: str
) -> None:
    """The commit goes through; the row has the reason."""
    step = make_step(("key",), None, [aggregate("p", "custom", "value", COLUMNS, type=["null", "long"])], COLUMNS)
    op = Driver(step, COLUMNS, {"totals.p": aggregator})
    op.batch([row(0, 1), row(1, value)])
    assert refused(op) == [(value, "process.function_raised")]
    assert re.search(reason, op.context.dead[0][1].message)
    assert op.commit()["p"].to_list() == [1]


@pytest.mark.parametrize("window", [tumbling(10), hopping(10, 5), session(5)])
def test_a_refused_row_makes_no_window(window: Window) -> None:
    """No key, no row of output, nothing in the changelog."""
    op = driver(window, Emit.FINAL)
    op.batch([row(7, 0)])
    op.commit()
    assert op.operator.keys_count() == {}
    assert op.log == []
    assert op.batch([], {0: 1_000}).height == 0


def test_a_row_is_refused_by_all_its_windows_or_by_none() -> None:
    """Hopping: one of two windows would overflow, the other must not count it either."""
    op = driver(hopping(10, 5), Emit.FINAL)
    op.batch([row(1, 900), row(7, 2)])
    assert refused(op) == [(2, "process.function_raised")]
    assert totals(op.batch([], {0: 1_000})) == [(1, 900, 900)]


def test_a_row_that_would_join_sessions_out_of_range_joins_nothing() -> None:
    """Two sessions stay two, as if it had not come."""
    op = driver(session(5), Emit.FINAL)
    op.batch([row(0, 40), row(10, 40), row(5, 1), row(5, 2)])
    assert refused(op) == [(1, "process.function_raised"), (2, "process.function_raised")]
    assert totals(op.batch([], {0: 1_000})) == [(1, 40, 40), (1, 40, 40)]


def test_only_groups_in_danger_are_tried_row_by_row() -> None:
    """A key near the limit does not slow its neighbours: their rows stay columns."""
    step = make_step(("key",), None, [aggregate("total", "sum", "value", COLUMNS)], COLUMNS)
    op = Driver(step, COLUMNS)
    op.batch([row(0, MOST, key="near")])
    rows = [row(n, 1, key="far") for n in range(50)]
    op.batch([*rows, row(51, 1, key="near")])
    assert refused(op) == [(1, "process.overflow")]
    assert sorted(op.commit()["total"].to_list()) == [50, MOST]


def test_states_of_custom_aggregates_are_tidied_up() -> None:
    """Old states do not pile up: memory is in proportion to the keys."""
    step = make_step(("key",), None, [aggregate("p", "custom", "value", COLUMNS, type=["null", "long"])], COLUMNS)
    op = Driver(step, COLUMNS, {"totals.p": Product("value")})
    most = 0
    for time_ms in range(0, 4_000, 100):
        op.batch([row(time_ms + n, 1, key=f"k{n % 3}") for n in range(100)])
        op.commit()
        most = max(most, op.operator.state_bytes())
    assert most < 100_000
    assert len(op.operator._accumulators[0]._texts) < 3_000  # type: ignore[attr-defined]
