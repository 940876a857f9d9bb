"""Tables that are grouped, tables made of streams and streams of tables: steps, keys, types, lineage, fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.flow import errors as E
from headrace.flow.explain import explain
from headrace.flow.plan import Plan
from headrace.flow.steps import AggregateStep, RetractStep
from headrace.flow.values import ROW_TIME, SourceField
from tests.flow.samples import compiled, kinds, load_text, only, output, plan_of, types


class Longest(hr.Aggregator):
    """The longest text."""

    type = "string?"

    def init(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        return [*state, value]

    def merge(self, left: Any, right: Any) -> Any:
        return left + right

    def result(self, state: Any) -> Any:
        return max(state, key=len, default=None)


class LongestLeft(Longest):
    """It can take texts back."""

    def subtract(self, state: Any, value: Any) -> Any:
        state.remove(value)
        return state


def aggregated(function: Callable[[], Any]) -> AggregateStep:
    """The only aggregate of a pipeline."""
    step = only(plan_of(function), "aggregate")
    assert isinstance(step, AggregateStep)
    return step


def test_a_grouped_table_keeps_no_more_than_it_needs() -> None:
    """Its rows are narrowed, taken back by the table's key, narrowed again, moved and aggregated."""

    def shop() -> Any:
        return hr.table("customers").group_by("status").agg(n=hr.count()).to("out")

    plan = plan_of(shop)
    assert kinds(plan) == ["source", "project", "retract", "project", "repartition", "aggregate", "sink"]
    retract, aggregate, moved = only(plan, "retract"), only(plan, "aggregate"), only(plan, "repartition")
    assert list(types(retract)) == ["customer_id", "status"]
    assert (retract.key, retract.is_table, retract.has_retractions) == (("customer_id",), False, True)
    assert list(types(moved)) == ["status"]
    assert moved.has_retractions
    assert (aggregate.key, aggregate.is_table, aggregate.has_retractions) == (("status",), True, False)
    assert only(plan, "retract").changelog == "shop.retract_status.changelog"


def test_rows_that_meet_already_stay() -> None:
    """Grouped by the table's key and more, nothing is moved."""

    def shop() -> Any:
        return hr.table("stock").group_by("shop", "product_id").agg(pieces=hr.sum("pieces")).to("out")

    assert kinds(plan_of(shop)) == ["source", "retract", "aggregate", "sink"]


def test_expressions_are_computed_before_rows_are_kept() -> None:
    """What is taken back is what was computed when the row came."""

    def shop() -> Any:
        sizes = col("name").str.len_bytes()
        return (
            hr.table("customers").group_by(col("name").str.slice(0, 1).alias("letter")).agg(x=hr.sum(sizes)).to("out")
        )

    assert list(types(only(plan_of(shop), "retract"))) == ["customer_id", "letter", "__agg_0"]


def test_times_of_rows_travel_only_where_they_are_asked_for() -> None:
    """`first` and `last` go by them."""

    def last() -> Any:
        return hr.table("customers").group_by("status").agg(name=hr.last("name")).to("out")

    plan = plan_of(last)
    assert list(types(only(plan, "retract"))) == ["customer_id", "name", "status", ROW_TIME]
    assert list(types(only(plan, "repartition"))) == ["name", "status", ROW_TIME]
    assert types(only(plan, "aggregate")) == {"status": ["null", "string"], "name": "string"}


def test_nulls_follow_from_what_a_group_may_hold() -> None:
    """A sum may not fit; an empty group that is kept has no values."""

    def shop(keep_empty: bool) -> Callable[[], Any]:
        def shop() -> Any:
            stock = hr.table("stock").group_by("shop")
            wanted = {"n": hr.count(), "sum": hr.sum("pieces"), "most": hr.max("pieces"), "all": hr.collect("pieces")}
            return stock.agg(keep_empty=keep_empty, **wanted).to("out")

        return shop

    longs = {"type": "array", "items": "long"}
    assert types(aggregated(shop(keep_empty=False))) == {
        "shop": "string",
        "n": "long",
        "sum": ["null", "long"],
        "most": "long",
        "all": longs,
    }
    step = aggregated(shop(keep_empty=True))
    assert types(step)["most"] == ["null", "long"]
    assert step.keep_empty


def test_groups_of_groups() -> None:
    """An aggregate is a table, so it can be grouped again."""

    def shop() -> Any:
        by_customer = hr.stream("orders").group_by("customer_id").agg(orders=hr.count())
        return by_customer.group_by("orders").agg(customers=hr.count()).to("out")

    plan = plan_of(shop)
    assert [step.kind for step in plan.steps].count("aggregate") == 2
    assert only(plan, "retract").key == ("customer_id",)
    assert output(plan).key == ("orders",)


def test_a_users_aggregate_must_be_able_to_take_rows_back() -> None:
    """Over a stream it need not."""

    def table(aggregator: hr.Aggregator) -> Callable[[], Any]:
        def shop() -> Any:
            return hr.table("customers").group_by("status").agg(longest=aggregator).to("out")

        return shop

    with pytest.raises(E.Unsubtractable, match="Longest has no method subtract") as refused:
        plan_of(table(Longest("name")))
    assert "subtract(self, state, value)" in refused.value.cure
    assert refused.value.where is not None
    made = compiled(table(LongestLeft("name")))
    assert made.functions["aggregate_status.longest"].subtract(["a"], "a") == []


def fingerprints(plan: Plan) -> list[str]:
    """Of the stateful steps."""
    return [step.fingerprint for step in plan.steps if hasattr(step, "fingerprint")]


def test_fingerprints_tell_what_state_means() -> None:
    """Another column kept, another expression, another way with empty groups: other state. A ttl: the same."""

    def shop(**options: Any) -> Plan:
        def shop() -> Any:
            table = hr.table("customers", ttl=options.get("ttl", "1d"))
            by = table.group_by("status").agg(
                keep_empty=options.get("keep_empty", False), x=hr.max(options.get("of", col("name").str.len_chars()))
            )
            return by.to("out")

        return plan_of(shop)

    base = fingerprints(shop())
    assert fingerprints(shop()) == base
    assert fingerprints(shop(ttl="2d")) == base
    assert fingerprints(shop(keep_empty=True))[:2] == base[:2]
    assert fingerprints(shop(keep_empty=True))[2] != base[2]
    changed = fingerprints(shop(of=col("name").str.len_bytes()))
    assert (changed[0], changed[1] != base[1], changed[2] != base[2]) == (base[0], True, True)

    def stream() -> Any:
        return hr.stream("orders").group_by("status").agg(n=hr.count()).to("out")

    def table() -> Any:
        return hr.stream("orders").as_table("order_id").group_by("status").agg(n=hr.count()).to("out")

    assert only(plan_of(stream), "aggregate").fingerprint != only(plan_of(table), "aggregate").fingerprint


@pytest.mark.parametrize("history", [None, "1d"])
def test_tables_with_history_go_by_event_time(history: str | None) -> None:
    """Through row-wise steps too; what is aggregated has no versions."""

    def shop() -> Any:
        table = hr.table("customers", history=history).filter(col("name") != "")
        by = table.group_by("status").agg(n=hr.count())
        return by.to("out"), by.group_by("n").agg(m=hr.count()).to("again")

    steps = [step for step in plan_of(shop).steps if isinstance(step, RetractStep)]
    assert [step.versioned for step in steps] == [history is not None, False]


def test_changes_are_a_stream_by_the_tables_key() -> None:
    """With deletions, all but the key may be null, and event time is no column's."""

    def shop() -> Any:
        table = hr.stream("orders").as_table("order_id").select("order_id", "placed_at", "quantity")
        return table.changes().to("plain"), table.changes(deleted="gone").to("marked")

    plan = plan_of(shop)
    plain, marked = (step for step in plan.steps if step.kind == "changes")
    assert types(plain) == {"order_id": "string", "placed_at": plain.columns[1].type, "quantity": "int"}
    assert types(marked)["quantity"] == ["null", "int"]
    assert types(marked)["gone"] == "boolean"
    assert (plain.is_table, plain.key) == (False, ("order_id",))
    assert (output(plan, "plain").kind, output(plan, "plain").time) == ("event", "placed_at")
    assert (output(plan, "marked").kind, output(plan, "marked").time) == ("event", None)


def test_a_stream_becomes_a_table_where_its_key_is() -> None:
    """Rows are moved unless they are there; what deletes is an influence."""

    def there() -> Any:
        return hr.stream("orders").as_table("order_id", deleted=col("status") == "LOST").select("order_id").to("out")

    def elsewhere() -> Any:
        return hr.stream("orders").as_table("customer_id", ttl="7d").select("customer_id").to("out")

    plan = plan_of(there)
    assert kinds(plan) == ["source", "as_table", "project", "sink"]
    assert (output(plan).kind, output(plan).key) == ("table", ("order_id",))
    assert output(plan).influences == (SourceField(topic="orders", field="status"),)
    plan = plan_of(elsewhere)
    assert kinds(plan) == ["source", "repartition", "as_table", "expire", "project", "sink"]
    assert only(plan, "expire").ttl_ms == 7 * 86_400_000
    assert output(plan).key == ("customer_id",)
    assert output(plan).influences == (SourceField(topic="orders", field="placed_at"),)


def test_a_table_from_a_stream_can_do_what_tables_can() -> None:
    """Row-wise steps keep its key; a name and its state stay together."""

    def shop() -> Any:
        table = hr.stream("orders").as_table("order_id").filter(col("quantity") > 1).expire("1d").named("young")
        return table.group_by("customer_id").agg(n=hr.count()).named("open_orders").to("out")

    plan = plan_of(shop)
    assert only(plan, "expire").changelog == "shop.young.changelog"
    assert only(plan, "aggregate").changelog == "shop.open_orders.changelog"


def test_the_text_of_a_plan_tells_these_steps(tmp_path: Any) -> None:
    """For people."""
    text = """
import headrace as hr
from headrace import col

@hr.pipeline(name="shop")
def shop():
    t = hr.stream("orders").as_table("order_id", deleted=col("paid"), ttl="1h")
    return t.group_by("status").agg(n=hr.count()).to("out"), t.changes(deleted="gone").to("changes")
"""
    (made,) = load_text(tmp_path, text)
    told = explain(made.plan)
    for part in ("latest row of each key, deleted where", "drop keys without a change for 1h", "take back what a key"):
        assert part in told
