"""Each step of the fluent API: the plan step it becomes, its columns, keys and lineage."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace import col
from headrace.flow.values import Derivation, SourceField
from tests.flow.samples import STATUS, compiled, kinds, only, output, plan_of, types


def test_a_source_says_what_is_read() -> None:
    """The source step has the contract's columns, key, kind and time."""
    source = only(plan_of(lambda: hr.stream("orders").filter("paid").to("out")), "source")
    assert (source.name, source.topic, source.topic_kind) == ("source_orders", "orders", "event")
    assert (source.time, source.time_ahead_max_ms, source.history_ms) == ("placed_at", 86_400_000, None)
    assert source.key == ("order_id",)
    assert not source.is_table
    amount = next(column for column in source.columns if column.name == "amount")
    assert amount.lineage == (SourceField(topic="orders", field="amount"),)
    assert (amount.unit, amount.derivation) == ("EUR", Derivation.COPIED)


def test_a_source_asked_twice_is_one() -> None:
    """Two `hr.stream` of one topic read it once."""

    def twice() -> Any:
        hr.stream("orders").filter("paid").to("one")
        hr.stream("orders").filter(~col("paid")).to("two")

    plan = plan_of(twice)
    assert kinds(plan).count("source") == 1
    assert len(plan.subtopologies) == 1


def test_filter_joins_its_predicates() -> None:
    """Several predicates and named values are one predicate, and its columns influence the output."""
    plan = plan_of(
        lambda: hr.stream("orders").filter(col("amount") > 3, "paid", status="OPEN").drop("amount").to("out")
    )
    step = only(plan, "filter")
    assert step.name == "filter_amount_paid_status"
    assert step.predicate.text.count("&") == 2
    assert SourceField(topic="orders", field="amount") in output(plan).influences
    assert SourceField(topic="orders", field="paid") not in output(plan).influences


def test_select_and_with_columns_compute_in_order() -> None:
    """`select` gives exactly its columns; `with_columns` replaces in place and adds behind."""
    plan = plan_of(lambda: hr.stream("orders").select("paid", total=col("amount") * col("quantity")).to("out"))
    assert list(types(only(plan, "project"))) == ["paid", "total"]
    plan = plan_of(
        lambda: hr.stream("orders").with_columns(col("amount").fill_null(0), big=col("amount") > 9).to("out")
    )
    step = only(plan, "project")
    assert list(types(step))[-1] == "big"
    assert list(types(step)).index("amount") == 4
    assert types(step)["amount"] == "double"
    assert [each.name for each in step.expressions] == list(types(step))


def test_drop_and_rename() -> None:
    """`drop` leaves the others, `rename` carries keys and time along."""
    plan = plan_of(
        lambda: hr.stream("orders").drop("items", col("amount")).rename({"order_id": "id", "placed_at": "at"}).to("out")
    )
    assert list(types(plan.step("rename_order_id_placed_at"))) == [
        "id", "customer_id", "product_id", "status", "quantity", "paid", "at",
    ]  # fmt: skip
    assert output(plan).key == ("id",)
    assert output(plan).time == "at"
    assert plan.step("rename_order_id_placed_at").key == ("id",)


def test_a_lost_key_is_lost() -> None:
    """Computing a key column anew, or dropping it, leaves rows without a known key; time falls back to the record's."""
    plan = plan_of(lambda: hr.stream("orders").with_columns(order_id=col("order_id") + "x").to("out"))
    assert plan.steps[-1].key == ()
    plan = plan_of(lambda: hr.stream("orders").select("paid").to("out"))
    assert (output(plan).key, output(plan).time, output(plan).record_time) == ((), None, True)


def test_explode_gives_elements_that_may_be_null() -> None:
    """The list becomes its element, nullable, because an empty list gives one row with null."""
    plan = plan_of(lambda: hr.stream("orders").explode("items").to("out"))
    assert only(plan, "explode").column == "items"
    assert types(only(plan, "explode"))["items"] == ["null", "string"]


def double(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(x=col("quantity") * 2)


def to_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"x": row["quantity"]}


async def to_row_later(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"x": row["quantity"]}


def test_functions_stay_beside_the_plan() -> None:
    """The plan has name, place and digest of a user's function; the function itself is found by the step's name."""
    result = compiled(lambda: hr.stream("orders").map_batches(double, schema={"x": pl.Int64}).to("out"))
    step = only(result.plan, "map")
    assert (step.name, step.mode, step.function.name) == ("map_batches_double", "batches", "double")
    assert step.function.place.file == __file__
    assert len(step.function.digest) == 64
    assert result.functions == {"map_batches_double": double}


def test_map_takes_types_in_any_notation() -> None:
    """Polars and Python types may be null; Avro types and contract short forms are taken as they are."""
    schema = {
        "a": pl.Int64, "b": int, "c": "long", "d": "double?", "e": STATUS, "f": ["null", "int"], "g": "decimal(9,2)",
    }  # fmt: skip
    plan = plan_of(lambda: hr.stream("orders").map(to_row, schema=schema).to("out"))
    step = only(plan, "map")
    assert step.mode == "rows"
    found = types(step)
    assert [found[name] for name in "abcdef"] == [
        ["null", "long"], ["null", "long"], "long", ["null", "double"], STATUS, ["null", "int"],
    ]  # fmt: skip
    assert found["g"]["logicalType"] == "decimal"


def test_a_function_depends_on_everything() -> None:
    """Nothing is known of what a function does: lineage is every column, keys are gone, event time travels on."""
    plan = plan_of(lambda: hr.stream("orders").map(to_row, schema={"order_id": str}).to("out"))
    (column,) = only(plan, "map").columns
    assert len(column.lineage) == 9
    assert column.derivation is Derivation.COMPUTED
    assert (output(plan).key, output(plan).record_time) == ((), True)


def test_map_async_has_its_bounds() -> None:
    """Concurrency, timeout and retries are in the plan."""
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .map_async(to_row_later, schema={"x": int}, concurrency=5, timeout=datetime.timedelta(seconds=2), retries=0)
            .to("out")
        )
    )
    step = only(plan, "map_async")
    assert (step.concurrency, step.timeout_ms, step.retries) == (5, 2000, 0)


def test_branch_gives_each_row_to_the_first_match() -> None:
    """Branches never overlap, and a null predicate is no match."""

    def branches() -> None:
        big, paid, rest = hr.stream("orders").branch(col("amount") > 10, "paid", True)
        big.to("big")
        paid.to("paid")
        rest.to("rest")

    plan = plan_of(branches)
    frame = pl.DataFrame(
        {"amount": [20.0, 20.0, 1.0, 1.0, None, None], "paid": [True, False, True, False, True, False]}
    )
    frame = frame.with_row_index("row")
    chosen = {
        step.name: frame.filter(pl.Expr.deserialize(step.predicate.expression.encode(), format="json"))["row"].to_list()
        for step in plan.steps
        if step.kind == "filter"
    }
    assert chosen == {"branch_amount": [0, 1], "branch_amount_paid": [2, 4], "branch_amount_paid_2": [3, 5]}


def test_merge_takes_columns_by_name() -> None:
    """Columns are matched by name; a column is nullable when it is in any input, and its lineage is that of all."""

    def merged() -> Any:
        orders = hr.stream("orders").select("customer_id", page=col("product_id"))
        visits = hr.stream("visits").select("page", "customer_id")
        return orders.merge(visits).to("out")

    plan = plan_of(merged)
    step = only(plan, "merge")
    assert types(step) == {"customer_id": "long", "page": ["null", "string"]}
    assert [field.topic for field in step.columns[0].lineage] == ["orders", "visits"]
    assert step.columns[0].tags == ("pii",)
    assert step.key == ()
    assert plan.subtopologies[0].reads == ("orders", "visits")


def test_rekey_moves_rows_and_keys_records() -> None:
    """`rekey` before another step is a repartition; straight before a sink only the key of the records."""
    plan = plan_of(lambda: hr.stream("orders").rekey("customer_id").filter("paid").to("out"))
    assert only(plan, "repartition").key == ("customer_id",)
    assert output(plan).key == ("customer_id",)
    plan = plan_of(lambda: hr.stream("orders").rekey("customer_id").to("out"))
    assert kinds(plan) == ["source", "sink"]
    assert output(plan).key == ("customer_id",)


def test_rekey_for_the_next_step_is_done_once() -> None:
    """A join or group that moves rows anyway makes the `rekey` before it needless, unless it has a name."""
    customers = "customers"
    plan = plan_of(
        lambda: hr.stream("orders").rekey("customer_id").join(hr.table(customers), on="customer_id").to("out")
    )
    assert kinds(plan).count("repartition") == 1
    assert only(plan, "repartition").like == customers
    plan = plan_of(lambda: hr.stream("orders").rekey("customer_id").group_by("status").agg(n=hr.count()).to("out"))
    assert kinds(plan).count("repartition") == 1
    plan = plan_of(
        lambda: (
            hr.stream("orders").rekey("customer_id").named("by_customer").group_by("status").agg(n=hr.count()).to("out")
        )
    )
    assert kinds(plan).count("repartition") == 2


def test_tables_take_row_wise_steps() -> None:
    """A filtered, renamed table is a table still, with its key under the new name."""
    plan = plan_of(
        lambda: (
            hr.table("customers").filter(status="gold").rename({"customer_id": "id"}).select("id", "name").to("gold")
        )
    )
    assert all(step.is_table for step in plan.steps)
    assert [step.key for step in plan.steps] == [("customer_id",), ("customer_id",), ("id",), ("id",), ("id",)]
    assert (output(plan).kind, output(plan).key) == ("table", ("id",))


def test_steps_know_their_columns_while_they_are_written() -> None:
    """`.columns` helps loops over columns in a pipeline function."""
    seen: list[tuple[str, ...]] = []

    def pipeline() -> Any:
        orders = hr.stream("orders").select("order_id", "paid")
        seen.append(orders.columns)
        assert "Stream(order_id: string, paid: boolean)" in repr(orders)
        return orders.to("out")

    plan_of(pipeline)
    assert seen == [("order_id", "paid")]


def test_a_pipeline_may_return_its_sinks_or_not() -> None:
    """One sink, several, or none returned: every `.to` counts."""
    orders = lambda: hr.stream("orders").filter("paid")  # noqa: E731
    assert len(plan_of(lambda: orders().to("a")).outputs) == 1
    assert len(plan_of(lambda: (orders().to("a"), orders().to("b"))).outputs) == 2
    assert len(plan_of(lambda: [orders().to("a"), orders().to("b")]).outputs) == 2
    assert len(plan_of(lambda: print(orders().to("a")) or None).outputs) == 1


def test_a_decorator_says_what_the_plan_says() -> None:
    """Owner, name, delivery, interval and docstring reach the plan."""

    def shop() -> Any:
        """Paid orders."""
        return hr.stream("orders").filter("paid").to("out")

    plan = plan_of(shop, owner="sales", name="paid-orders", delivery="at_least_once", commit_interval="1s")
    assert (plan.name, plan.owner, plan.description) == ("paid-orders", "sales", "Paid orders.")
    assert (plan.delivery.value, plan.commit_interval_ms) == ("at_least_once", 1000)
    assert plan.dead_letter_topic == "paid-orders.dlq"
    assert (output(plan).owner, output(plan).description) == ("sales", "Paid orders.")
    assert plan_of(shop).name == "shop"


@pytest.mark.parametrize("options", [{"delivery": "twice"}, {"commit_interval": "1ms"}, {"name": "a b"}])
def test_a_decorator_refuses_what_cannot_be(options: dict[str, Any]) -> None:
    """Wrong arguments are typed errors at the decorator's line."""
    with pytest.raises(hr.PipelineInvalid) as caught:
        hr.pipeline(**options)(lambda: None)
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_steps_outside_a_pipeline_are_refused() -> None:
    """`hr.stream` at the top of a module is told where it belongs."""
    for call in (lambda: hr.stream("orders"), lambda: hr.table("customers")):
        with pytest.raises(hr.PipelineInvalid, match="outside a pipeline"):
            call()


def test_parameters_need_defaults() -> None:
    """Nobody fills a pipeline function's parameters."""
    with pytest.raises(hr.PipelineInvalid, match="nobody to fill"):
        hr.pipeline(lambda topic: None)  # type: ignore[arg-type, misc]
