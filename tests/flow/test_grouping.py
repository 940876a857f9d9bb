"""`group_by`, windows and aggregates: the aggregate step, its columns, and the fingerprint of its state."""

from __future__ import annotations

import datetime
from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace import col
from headrace.flow.aggregates import Aggregate
from headrace.flow.aggregator import AggregatorMethods
from headrace.flow.plan import aggregator_key
from headrace.flow.steps import AggregateStep
from headrace.flow.values import Derivation, Emit, Window, WindowKind
from tests.flow.samples import STATUS, TIMESTAMP, compiled, kinds, only, output, plan_of, types


def aggregated(group: Any = "status", window: Window | None = None, **aggregates: Any) -> AggregateStep:
    """The aggregate step of `orders`."""

    def shop() -> Any:
        grouped = hr.stream("orders").group_by(*([group] if not isinstance(group, list) else group))
        return (grouped.window(window) if window else grouped).agg(**aggregates).to("out")

    step = only(plan_of(shop), "aggregate")
    assert isinstance(step, AggregateStep)
    return step


AGGREGATES: list[tuple[Aggregate, Any]] = [
    (hr.count(), "long"),
    (hr.count("amount"), "long"),
    (hr.sum("quantity"), "long"),
    (hr.sum("amount"), ["null", "double"]),
    (hr.mean("quantity"), "double"),
    (hr.mean("amount"), ["null", "double"]),
    (hr.min("status"), STATUS),
    (hr.max("placed_at"), TIMESTAMP),
    (hr.first("product_id"), ["null", "string"]),
    (hr.last("order_id"), "string"),
    (hr.var("quantity"), ["null", "double"]),
    (hr.std("amount"), ["null", "double"]),
    (hr.count_distinct("customer_id"), "long"),
    (hr.quantile("amount", 0.95), ["null", "double"]),
    (hr.top_k("amount", 3), {"type": "array", "items": "double"}),
    (hr.collect("product_id", limit=10), {"type": "array", "items": "string"}),
]


@pytest.mark.parametrize(("aggregate", "avro"), AGGREGATES, ids=[each[0].function for each in AGGREGATES])
def test_aggregates_have_types(aggregate: Aggregate, avro: Any) -> None:
    """Each aggregate gives its Avro type, null only where its column may be null or one row is too few."""
    step = aggregated(x=aggregate)
    assert types(step) == {"status": STATUS, "x": avro}
    (column,) = step.aggregates
    assert (column.name, column.function, column.column) == ("x", aggregate.function, aggregate.argument)
    assert step.columns[-1].derivation is Derivation.AGGREGATED


def test_options_reach_the_plan() -> None:
    """Quantile, top_k and collect carry their options."""
    step = aggregated(
        a=hr.quantile("amount", 0.5, accuracy=0.01), b=hr.top_k("amount", 3), c=hr.collect("amount"), d=hr.count()
    )
    assert [dict(each.options) for each in step.aggregates] == [
        {"q": 0.5, "accuracy": 0.01}, {"k": 3}, {"limit": 1000}, {},
    ]  # fmt: skip


def test_an_unwindowed_aggregate_is_a_table_by_group() -> None:
    """One row per group, updated: emit defaults to updates, the key is the group."""
    plan = plan_of(lambda: hr.stream("orders").group_by("status", "paid").agg(n=hr.count()).to("out"))
    step = only(plan, "aggregate")
    assert step.name == "aggregate_status_paid"
    assert step.changelog == "shop.aggregate_status_paid.changelog"
    assert (step.key, step.emit, step.window, step.is_table) == (("status", "paid"), Emit.UPDATES, None, True)
    assert (output(plan).kind, output(plan).key) == ("table", ("status", "paid"))


WINDOWS = [
    (
        hr.tumbling("1h", grace="10m", idle_close="30s"),
        Window(
            kind=WindowKind.TUMBLING, size_ms=3_600_000, advance_ms=3_600_000, grace_ms=600_000, idle_close_ms=30_000
        ),
        ("status", "window_start"),
    ),
    (
        hr.hopping("1h", datetime.timedelta(minutes=15)),
        Window(kind=WindowKind.HOPPING, size_ms=3_600_000, advance_ms=900_000),
        ("status", "window_start"),
    ),
    (
        hr.session("30m"),
        Window(kind=WindowKind.SESSION, gap_ms=1_800_000),
        ("status", "window_start", "window_end"),
    ),
]


@pytest.mark.parametrize(("window", "wanted", "key"), WINDOWS)
def test_windows(window: Window, wanted: Window, key: tuple[str, ...]) -> None:
    """Bounds stand between group and aggregates; the key has what tells the windows of a group apart."""
    step = aggregated(window=window, n=hr.count())
    assert step.window == wanted
    assert list(types(step)) == ["status", "window_start", "window_end", "n"]
    assert types(step)["window_start"] == TIMESTAMP
    assert [field.field for field in step.columns[1].lineage] == ["placed_at"]
    assert step.key == key


def test_final_windows_are_events() -> None:
    """`emit="final"` gives each window once: an event whose time is the window's start. Updates replace each other."""

    def shop(emit: Any) -> Any:
        hourly = hr.stream("orders").group_by("status").window(hr.tumbling("1h")).agg(n=hr.count())
        return hourly.filter(col("n") > 1).to("out", emit=emit)

    final = plan_of(lambda: shop("final"))
    assert only(final, "aggregate").emit is Emit.FINAL
    assert (output(final).kind, output(final).time, output(final).key) == (
        "event", "window_start", ("status", "window_start"),
    )  # fmt: skip
    for updates in (plan_of(lambda: shop("updates")), plan_of(lambda: shop(None))):
        assert only(updates, "aggregate").emit is Emit.UPDATES
        assert output(updates).kind == "table"


def test_a_contract_may_say_that_the_record_is_the_time() -> None:
    """`time: $timestamp` lets a topic without a time column be windowed."""
    plan = plan_of(lambda: hr.stream("visits").group_by("page").window(hr.tumbling("1m")).agg(n=hr.count()).to("out"))
    assert only(plan, "source").time is None
    assert only(plan, "aggregate").columns[1].lineage == ()


def test_event_time_outlives_its_column() -> None:
    """Event time travels beside the rows: dropping its column does not end it."""
    plan = plan_of(
        lambda: (
            hr.stream("orders").select("status").group_by("status").window(hr.tumbling("1h")).agg(n=hr.count()).to("o")
        )
    )
    assert [field.field for field in only(plan, "aggregate").columns[1].lineage] == ["placed_at"]


def test_arguments_that_are_expressions_become_hidden_columns() -> None:
    """An expression is projected first, before rows are moved; a plain `col` needs no projection."""
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .group_by("status")
            .agg(late=hr.sum((col("amount") > 15).cast(pl.Int64)), rows=hr.count(), most=hr.max(col("amount")))
            .to("out")
        )
    )
    assert kinds(plan) == ["source", "project", "repartition", "aggregate", "sink"]
    assert list(types(only(plan, "project"))) == ["status", "amount", "__agg_0"]
    assert [each.column for each in only(plan, "aggregate").aggregates] == ["__agg_0", None, "amount"]
    late = only(plan, "aggregate").columns[1]
    assert [field.field for field in late.lineage] == ["amount"]


def test_only_what_is_needed_is_moved() -> None:
    """The repartition carries the group and the aggregated columns, and no others."""
    plan = plan_of(lambda: hr.stream("orders").group_by("status").agg(x=hr.sum("amount")).to("out"))
    assert list(types(only(plan, "repartition"))) == ["status", "amount"]


def test_groups_may_be_expressions() -> None:
    """A group by an expression is a column first."""
    plan = plan_of(
        lambda: (
            hr.stream("orders").group_by(col("placed_at").dt.hour().alias("hour"), "paid").agg(n=hr.count()).to("out")
        )
    )
    assert only(plan, "aggregate").group == ("hour", "paid")
    assert types(only(plan, "aggregate")) == {"hour": "int", "paid": "boolean", "n": "long"}


def test_rows_that_meet_already_are_left_where_they_are() -> None:
    """No repartition when the key is part of the group and untouched since the source."""
    plan = plan_of(lambda: hr.stream("orders").group_by("order_id", "status").agg(n=hr.count()).to("out"))
    assert kinds(plan) == ["source", "aggregate", "sink"]
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .rename({"order_id": "id"})
            .group_by("id")
            .agg(n=hr.count(), x=hr.sum(col("quantity") * 2))
            .to("o")
        )
    )
    assert "repartition" not in kinds(plan)
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .with_columns(order_id=col("order_id") + "x")
            .group_by("order_id")
            .agg(n=hr.count())
            .to("o")
        )
    )
    assert "repartition" in kinds(plan)


class Span(hr.Aggregator):
    """Largest minus smallest."""

    type = "double?"

    def __init__(self, column: str | pl.Expr, at_least: float = 0) -> None:
        super().__init__(column)
        self.at_least = at_least

    def init(self) -> Any:
        return None

    def add(self, state: Any, value: Any) -> Any:
        return [min(state[0], value), max(state[1], value)] if state else [value, value]

    def merge(self, left: Any, right: Any) -> Any:
        return self.add(self.add(left, right[0]), right[1])

    def result(self, state: Any) -> Any:
        return max(state[1] - state[0], self.at_least)


def test_an_aggregator_of_the_users_own() -> None:
    """The plan has its type and digest; the object is found by step and aggregate."""
    span = Span("amount")
    assert isinstance(span, AggregatorMethods)
    result = compiled(
        lambda: (
            hr.stream("orders").group_by("status").agg(n=hr.count(), span=span, wide=Span(col("amount") * 2)).to("out")
        )
    )
    step = only(result.plan, "aggregate")
    custom = step.aggregates[1]
    assert (custom.function, custom.column, custom.type) == ("custom", "amount", ["null", "double"])
    assert custom.options == {"type": ["null", "double"]}
    assert custom.user_function.name == "Span"
    assert result.functions[aggregator_key("aggregate_status", "span")] is span
    assert step.aggregates[2].column == "__agg_0"


BASE: dict[str, Any] = {"group": "status", "window": hr.tumbling("1h"), "n": hr.count(), "x": hr.sum("amount")}
SAME = [
    {"window": hr.tumbling("1h", grace="5m")},
    {"window": hr.tumbling("1h", idle_close="5m")},
]
OTHER = [
    {"group": "paid"},
    {"group": ["status", "paid"]},
    {"window": None},
    {"window": hr.tumbling("2h")},
    {"window": hr.hopping("1h", "30m")},
    {"window": hr.session("1h")},
    {"x": hr.sum("quantity")},
    {"x": hr.mean("amount")},
    {"x": hr.sum(col("amount") * 2)},
    {"x": hr.sum(col("amount") * 3)},
    {"x": hr.quantile("amount", 0.5)},
    {"x": hr.quantile("amount", 0.6)},
    {"x": Span("amount")},
    {"x": Span("amount", at_least=3)},
    {"y": hr.count()},
]


def test_the_fingerprint_tells_what_the_state_means() -> None:
    """It stays when the state means the same, and differs for everything that changes its meaning."""
    base = aggregated(**BASE).fingerprint
    assert [aggregated(**{**BASE, **change}).fingerprint for change in SAME] == [base] * len(SAME)
    others = [aggregated(**{**BASE, **change}).fingerprint for change in OTHER]
    assert len({base, *others}) == len(OTHER) + 1


def test_tags_follow_values_and_units_follow_measures() -> None:
    """A maximum is still a customer; a mean is still in euros; a count is neither."""
    step = aggregated(
        who=hr.max("customer_id"),
        how_many=hr.count_distinct("customer_id"),
        mean=hr.mean("amount"),
        var=hr.var("amount"),
    )
    columns = {column.name: column for column in step.columns}
    assert columns["who"].tags == ("pii",)
    assert columns["how_many"].tags == ()
    assert columns["mean"].unit == "EUR"
    assert columns["var"].unit == ""
