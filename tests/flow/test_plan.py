"""Plans as data: the JSON round trip, the same plan from the same pipeline, names that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import headrace as hr
from headrace import col
from headrace.flow.derived import derived_contract
from headrace.flow.errors import StepRefused
from headrace.flow.explain import explain
from headrace.flow.plan import Plan
from tests.flow.samples import compiled, only, plan_of
from tests.flow.test_topology import check_plan, joins_and_windows

Step = Callable[[Any], Any]

_ROW_WISE: list[Step] = [
    lambda s: s.filter("paid"),
    lambda s: s.filter(col("quantity") > 1, col("amount").is_not_null()),
    lambda s: s.with_columns(amount=col("amount").fill_null(0.0)),
    lambda s: s.with_columns(quantity=(col("quantity") + 1).cast(pl.Int32)),
    lambda s: s.with_columns(order_id=col("order_id").str.to_uppercase()),
    lambda s: s.select("order_id", "customer_id", "product_id", "status", "amount", "quantity", "paid"),
    lambda s: s.rename({"customer_id": "c"}).rename({"c": "customer_id"}),
    lambda s: s.branch("paid", True)[1],
    lambda s: s.merge(s.filter("paid")),
    lambda s: s.map(lambda row: row, schema=_SAME),
    lambda s: s.rekey("status"),
    lambda s: s.rekey("customer_id").filter("paid"),
    lambda s: s.join(hr.table("customers").select("customer_id", "name"), on="customer_id").drop("name"),
    lambda s: s.join(hr.table("products").select("product_id", "maker"), on="product_id", how="left").drop("maker"),
]
_SAME = {
    "order_id": "string", "customer_id": "long", "product_id": "string?", "status": "string", "amount": "double?",
    "quantity": "int", "paid": "boolean",
}  # fmt: skip
_ENDS: list[Step] = [
    lambda s: s.to("out"),
    lambda s: s.to("out", key="customer_id"),
    lambda s: s.group_by("status").agg(n=hr.count(), x=hr.sum(col("quantity") * 2)).to("out"),
    lambda s: (
        s.group_by("customer_id", "paid").window(hr.hopping("1h", "10m")).agg(n=hr.count()).to("out", emit="final")
    ),
    lambda s: s.group_by("product_id").window(hr.session("1h")).agg(x=hr.top_k("quantity", 2)).to("out"),
]


def built(steps: list[Step], end: Step) -> Callable[[], Any]:
    def shop() -> Any:
        rows: Any = hr.stream("orders").drop("items", "placed_at")
        for step in steps:
            rows = step(rows)
        return end(rows)

    return shop


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_ROW_WISE), max_size=5), st.sampled_from(_ENDS))
def test_any_pipeline_is_a_sound_plan(steps: list[Step], end: Step) -> None:
    """Random pipelines: the plan is sound, survives JSON, is the same when compiled again, explains itself, and has a
    contract for its output. (A merge across a rekey is the one thing refused.)"""
    function = built(steps, end)
    try:
        plan = plan_of(function)
    except StepRefused:  # A merge across a rekey.
        reject()
    check_plan(plan)
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert plan_of(function).to_json() == text
    assert explain(plan).startswith("pipeline shop")
    contract = derived_contract(plan, plan.outputs[0])
    assert [field.name for field in contract.schema.fields] == [column.name for column in plan.steps[-1].columns]


def test_a_large_plan_survives_json() -> None:
    """Joins, windows and several outputs come back equal."""
    plan = plan_of(joins_and_windows)
    assert Plan.from_json(plan.to_json()) == plan


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


def test_names_come_from_what_steps_do() -> None:
    """State and internal topics are found by names that tell what they hold."""
    found = names(plan_of(joins_and_windows))
    for name in (
        "join_customers",
        "join_products",
        "aggregate_maker",
        "aggregate_maker_name",
        "repartition_customer_id",
    ):
        assert name in found


def test_edits_elsewhere_leave_names_alone() -> None:
    """Adding, changing and removing row-wise steps and other outputs renames no state and no internal topic."""

    def before() -> Any:
        orders = hr.stream("orders").filter("paid")
        orders.join(hr.table("customers"), on="customer_id").group_by("name").agg(n=hr.count()).to("by_name")

    def after() -> Any:
        orders = hr.stream("orders").drop("items").filter(col("amount") > 1).with_columns(x=col("quantity") * 2)
        orders.group_by("status").agg(n=hr.count()).to("by_status")
        joined = orders.filter("paid").join(hr.table("customers"), on="customer_id")
        joined.filter(col("amount") > 3).group_by("name").agg(m=hr.count(), x=hr.sum("x")).to("by_name")
        hr.stream("visits").filter(col("seconds") > 1).to("long_visits")

    def kept(plan: Plan) -> set[str]:
        return {step.name for step in plan.steps if step.kind in ("aggregate", "repartition", "table_join")}

    assert kept(plan_of(before)) <= kept(plan_of(after))


def test_equal_steps_are_numbered() -> None:
    """Two steps that do the same are told apart by number, in the order of the calls."""

    def shop() -> Any:
        for hours in (1, 2, 3):
            grouped = hr.stream("orders").group_by("status").window(hr.tumbling(f"{hours}h"))
            grouped.agg(n=hr.count()).to(f"by_{hours}")

    plan = plan_of(shop)
    found = {step.name: step.window.size_ms // 3_600_000 for step in plan.steps if step.kind == "aggregate"}
    assert found == {"aggregate_status": 1, "aggregate_status_2": 2, "aggregate_status_3": 3}


def test_a_users_name_wins() -> None:
    """`.named()` gives the step, its changelog and its repartition topic their names, before any name is made up."""

    def shop() -> Any:
        hr.stream("orders").group_by("status").agg(n=hr.count()).to("one")
        hr.stream("orders").rekey("paid").named("by_paid").filter("paid").group_by("paid").agg(n=hr.count()).named(
            "aggregate_status"
        ).to("two").named("the_sink")

    plan = plan_of(shop)
    assert plan.step("aggregate_status").group == ("paid",)
    assert plan.step("aggregate_status").changelog == "shop.aggregate_status.changelog"
    assert plan.step("aggregate_status_2").group == ("status",)
    assert plan.step("by_paid").topic == "shop.by_paid.repartition"
    assert plan.step("the_sink").topic == "two"


def test_long_names_are_cut() -> None:
    """A step over many columns gets a short name that still differs from its neighbours'."""
    columns = [f"a_rather_long_column_name_{number}" for number in range(8)]

    def wide(last: int) -> Any:
        rows = hr.stream("orders").with_columns(**{name: pl.lit("x") for name in columns})
        return rows.group_by(*columns[:last]).agg(n=hr.count()).to("out")

    first, second = (only(plan_of(lambda last=last: wide(last)), "aggregate").name for last in (7, 8))
    assert len(first) <= 80
    assert first != second


def made_by(text: str) -> str:
    """The digest of a function of this text, defined in a namespace without a file."""
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    plan = plan_of(lambda: hr.stream("orders").map(namespace["f"], schema={"x": int}).to("out"))
    return str(only(plan, "map").function.digest)


def test_a_changed_function_changes_the_plan() -> None:
    """The digest follows what a function does, and the values it was made with."""
    assert made_by("def f(row): return {'x': 1}") == made_by("def f(row): return {'x': 1}")
    assert made_by("def f(row): return {'x': 1}") != made_by("def f(row): return {'x': 2}")
    make = "def make(n):\n    def f(row): return {'x': n}\n    return f\n"
    assert made_by(f"{make}f = make(1)") == made_by(f"{make}f = make(1)")
    assert made_by(f"{make}f = make(1)") != made_by(f"{make}f = make(2)")
    part = "import functools\ndef g(n, row): return {'x': n}\n"
    assert made_by(f"{part}f = functools.partial(g, 1)") != made_by(f"{part}f = functools.partial(g, 2)")
    kind = "class G:\n    def __init__(self, n): self.n = n\n    def __call__(self, row): return {'x': self.n}\n"
    assert made_by(f"{kind}f = G(1)") == made_by(f"{kind}f = G(1)")
    assert made_by(f"{kind}f = G(1)") != made_by(f"{kind}f = G(2)")


@pytest.mark.parametrize("emit", ["final", "updates"])
def test_functions_are_found_by_step(emit: Any) -> None:
    """Every function reference in a plan has its function."""
    result = compiled(
        lambda: (
            hr.stream("orders")
            .map(lambda row: row, schema=_SAME)
            .group_by("status")
            .window(hr.tumbling("1h"))
            .agg(n=hr.count())
            .to("out", emit=emit)
        )
    )
    assert list(result.functions) == ["map_lambda"]
