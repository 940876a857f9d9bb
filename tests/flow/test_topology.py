"""The cut into subtopologies: what is repartitioned, what is read where, in which order."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.flow.errors import PartitionMismatch
from headrace.flow.internal_topics import internal_topics, plan_partitions
from headrace.flow.plan import Plan
from headrace.flow.steps import RepartitionStep, SourceStep
from tests.flow.samples import CONTRACTS, contract, kinds, only, plan_of


def check_plan(plan: Plan) -> None:
    """What every plan keeps: order, one subtopology per step, reads and writes that match."""
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.inputs) <= seen, f"{step.name} reads what comes later"
        assert step.name not in seen
        seen.add(step.name)
    assert sorted(name for each in plan.subtopologies for name in each.steps) == sorted(seen)
    assert [each.index for each in plan.subtopologies] == list(range(len(plan.subtopologies)))
    written: set[str] = set()
    for subtopology in plan.subtopologies:
        steps = [plan.step(name) for name in subtopology.steps]
        own = {step.name for step in steps}
        read = {step.topic for step in steps if isinstance(step, SourceStep)}
        for step in steps:
            for name in step.inputs:
                if name not in own:
                    above = plan.step(name)
                    assert isinstance(above, RepartitionStep)
                    read.add(above.topic)
                    assert above.topic in written, "written by an earlier subtopology"
        assert set(subtopology.reads) == read
        written |= set(subtopology.writes)
    assert {each.topic for each in plan.outputs} <= written


def joins_and_windows() -> Any:
    orders = hr.stream("orders").filter("paid")
    customers = hr.table("customers").filter(col("status").is_not_null())
    enriched = orders.join(customers, on="customer_id").join(hr.table("products"), on="product_id", how="left")
    enriched.group_by("maker").window(hr.tumbling("1h")).agg(n=hr.count()).to("by_maker", emit="final")
    enriched.group_by("maker", "name").agg(x=hr.sum("amount")).to("by_maker_name")
    hr.stream("visits").join(customers, on="customer_id").to("visits.named")


def test_subtopologies_are_cut_at_repartitions() -> None:
    """Each change of key starts a subtopology; the table is read where it is joined, once per subtopology."""
    plan = plan_of(joins_and_windows)
    check_plan(plan)
    reads = [set(each.reads) for each in plan.subtopologies]
    prefix = "joins_and_windows"
    assert reads == [
        {"orders"},
        {"customers", f"{prefix}.repartition_customer_id.repartition"},
        {"products", f"{prefix}.repartition_product_id.repartition"},
        {f"{prefix}.repartition_maker.repartition"},
        {f"{prefix}.repartition_maker_name.repartition"},
        {"visits"},
        {"customers", f"{prefix}.repartition_customer_id_2.repartition"},
    ]
    tables = [step.name for step in plan.steps if step.kind == "source" and step.is_table]
    assert tables == ["table_customers", "table_products", "table_customers_2"]


def test_a_join_moves_rows_to_where_the_table_is() -> None:
    """An Avro key has the table's bytes only if written like the table's: a repartition, even by the same key."""
    plan = plan_of(lambda: hr.stream("visits").join(hr.table("customers"), on="customer_id").to("out"))
    step = only(plan, "repartition")
    assert (step.key, step.like) == (("customer_id",), "customers")
    join = only(plan, "table_join")
    assert join.inputs == ("repartition_customer_id", "table_customers")
    assert join.on == (("customer_id", "customer_id"),)


def test_text_keys_of_equal_partitions_meet_already() -> None:
    """Topics keyed by the same plain text with as many declared partitions need no repartition; others do."""
    joined = lambda: hr.stream("readings").join(hr.table("sensors"), on="sensor").to("out")  # noqa: E731
    plan = plan_of(joined)
    check_plan(plan)
    assert "repartition" not in kinds(plan)
    assert plan.subtopologies[0].reads == ("readings", "sensors")
    sensors = CONTRACTS["sensors"]
    wider = contract(
        "sensors",
        {"sensor": "string", "room": "string"},
        kind=sensors.kind,
        key=sensors.key,
        key_encoding=sensors.key_encoding,
        partitions=8,
    )
    assert "repartition" in kinds(plan_of(joined, wider))
    renamed = lambda: (  # noqa: E731
        hr.stream("readings")
        .with_columns(sensor=col("sensor").str.to_uppercase())
        .join(hr.table("sensors"), on="sensor")
        .to("out")
    )
    assert "repartition" in kinds(plan_of(renamed))


def test_a_second_join_on_the_same_table_stays() -> None:
    """Rows that were moved like a table are there still, for another join and for a group by its key."""

    def shop() -> Any:
        customers = hr.table("customers")
        once = hr.stream("visits").join(customers, on="customer_id")
        twice = once.drop("name").join(customers.select("customer_id", "name"), on="customer_id")
        return twice.group_by("customer_id", "page").agg(n=hr.count()).to("out")

    plan = plan_of(shop)
    check_plan(plan)
    assert kinds(plan).count("repartition") == 1


def test_two_joins_share_a_repartition() -> None:
    """The same rows moved by the same key for two readers are moved once."""

    def shop() -> Any:
        visits, customers = hr.stream("visits"), hr.table("customers")
        visits.join(customers, on="customer_id").to("inner")
        visits.join(customers, on="customer_id", how="left").to("left")

    plan = plan_of(shop)
    check_plan(plan)
    assert kinds(plan).count("repartition") == 1
    assert kinds(plan).count("source") == 2
    assert len(plan.subtopologies) == 2


def test_readers_of_one_repartition_part_where_they_must() -> None:
    """Two readers of one repartition are two subtopologies when one also reads what the other writes."""

    def shop() -> Any:
        moved = hr.stream("visits").select("customer_id", "page").rekey("page")
        again = moved.filter(col("customer_id") > 1).rekey("customer_id").filter(col("page") != "x")
        return moved.filter(col("customer_id") > 2).merge(again).to("out")

    plan = plan_of(shop)
    check_plan(plan)
    assert [len(each.reads) for each in plan.subtopologies] == [1, 1, 2]


def test_composite_keys_are_in_the_tables_order() -> None:
    """The repartition key follows the table's key, whatever the order of `on`."""
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .select("product_id", market="order_id")
            .join(hr.table("stock"), left_on=["product_id", "market"], right_on=["product_id", "shop"])
            .to("out")
        )
    )
    assert only(plan, "repartition").key == ("market", "product_id")
    assert only(plan, "table_join").on == (("market", "shop"), ("product_id", "product_id"))
    assert dict(only(plan, "table_join").renames) == {"pieces": "pieces"}


def test_a_join_names_clashing_columns() -> None:
    """Table columns that clash get the suffix; the table's key is not repeated; a left join may give nulls."""
    plan = plan_of(
        lambda: (
            hr.stream("orders").join(hr.table("customers"), on="customer_id", how="left", suffix="_of_customer").to("o")
        )
    )
    join = only(plan, "table_join")
    assert dict(join.renames) == {
        "name": "name", "status": "status_of_customer", "joined_at": "joined_at",
    }  # fmt: skip
    added = {column.name: column for column in join.columns[-3:]}
    assert added["name"].type == ["null", "string"]
    assert added["name"].tags == ("pii",)
    inner = only(
        plan_of(lambda: hr.stream("orders").join(hr.table("customers"), on="customer_id").to("o")), "table_join"
    )
    assert {column.name: column.type for column in inner.columns}["name"] == "string"
    assert (join.how, inner.how, inner.as_of, inner.max_wait_ms) == ("left", "inner", False, 60_000)


def test_as_of_reads_the_tables_history() -> None:
    """`history=` reaches the table's source, wherever it was said."""

    def shop() -> Any:
        hr.table("products", history="7d")
        return hr.stream("orders").join(hr.table("products"), on="product_id", as_of=True).to("out")

    plan = plan_of(shop)
    assert only(plan, "table_join").as_of
    assert plan.step("table_products").history_ms == 7 * 86_400_000


def test_a_record_keeps_its_key_through_a_join() -> None:
    """A repartition the user did not ask for changes where rows are, not what their records are called by."""
    plan = plan_of(lambda: hr.stream("orders").join(hr.table("customers"), on="customer_id").to("out"))
    assert plan.outputs[0].key == ("order_id",)
    assert only(plan, "table_join").key == ("customer_id",)


def test_merged_streams_in_one_place_stay_there() -> None:
    """Streams spread like the same topic by the same columns need no further move after a merge; others do."""

    def shop(other: str) -> Any:
        customers = hr.table("customers")
        visits = hr.stream("visits").join(customers, on="customer_id").select("customer_id", "name")
        orders = hr.stream("orders").select("customer_id", "order_id")
        orders = orders.join(customers, on="customer_id").select("customer_id", "name")
        others = {"orders": orders, "clicks": hr.stream("clicks").select("customer_id", name="page")}
        return visits.merge(others[other]).group_by("customer_id").agg(n=hr.count()).to("out")

    plan = plan_of(lambda: shop("orders"))
    check_plan(plan)
    assert kinds(plan).count("repartition") == 2
    plan = plan_of(lambda: shop("clicks"))
    check_plan(plan)
    assert kinds(plan).count("repartition") == 2
    assert plan.step("aggregate_customer_id").inputs == ("repartition_customer_id_2",)


def test_steps_that_no_sink_needs_are_left_out() -> None:
    """What is written and not used costs nothing."""

    def shop() -> Any:
        orders = hr.stream("orders")
        orders.group_by("status").agg(n=hr.count())
        hr.table("customers")
        return orders.filter("paid").to("out")

    assert kinds(plan_of(shop)) == ["source", "filter", "sink"]


def test_a_table_that_is_written_and_joined() -> None:
    """A table can be a derived topic and be looked up elsewhere; each subtopology reads it for itself."""

    def shop() -> Any:
        gold = hr.table("customers").filter(status="gold")
        gold.to("customers.gold")
        hr.stream("visits").join(gold, on="customer_id").to("visits.gold")

    plan = plan_of(shop)
    check_plan(plan)
    assert [step.name for step in plan.steps if step.kind == "filter"] == ["filter_status", "filter_status_2"]


PARTITIONS = {"orders": 6, "customers": 4, "products": 3, "visits": 2, "readings": 4, "sensors": 4}


def test_internal_topics_are_as_wide_as_they_must_be() -> None:
    """Repartitions like a table are as wide as it, others as their writer; changelogs have one partition per task."""
    plan = plan_of(joins_and_windows)
    found = {
        topic.name.removeprefix("joins_and_windows."): topic for topic in internal_topics(plan, PARTITIONS.__getitem__)
    }
    assert {name: topic.partitions for name, topic in found.items()} == {
        "dlq": 1,
        "repartition_customer_id.repartition": 4,
        "repartition_product_id.repartition": 3,
        "repartition_maker.repartition": 3,
        "repartition_maker_name.repartition": 3,
        "repartition_customer_id_2.repartition": 4,
        "aggregate_maker.changelog": 3,
        "aggregate_maker_name.changelog": 3,
    }
    config = found["aggregate_maker.changelog"].config
    assert config["cleanup.policy"] == "delete"
    assert config["retention.ms"] == "-1"
    assert int(config["max.message.bytes"]) == 8 * 1024 * 1024
    assert plan_partitions(plan, PARTITIONS.__getitem__).tasks == {0: 6, 1: 4, 2: 3, 3: 3, 4: 3, 5: 2, 6: 4}


def test_topics_that_meet_must_be_equally_wide() -> None:
    """Topics that were declared alike and are not alike in the log are refused."""
    plan = plan_of(lambda: hr.stream("readings").join(hr.table("sensors"), on="sensor").to("out"))
    plan_partitions(plan, PARTITIONS.__getitem__)
    with pytest.raises(PartitionMismatch, match="'readings' with 4 partitions to 'sensors' with 5"):
        plan_partitions(plan, {"readings": 4, "sensors": 5}.__getitem__)
