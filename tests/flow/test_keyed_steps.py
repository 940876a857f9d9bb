"""`process`, `dedupe`, `top_n`, `drop_nulls`: their plan steps, columns, keys, lineage, fingerprints, refusals."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace.errors import HeadraceError
from headrace.flow import errors as E
from headrace.flow.explain import explain
from headrace.flow.values import Derivation, Emit, SourceField
from tests.flow.samples import TIMESTAMP, kinds, only, output, plan_of, types


class Copies(hr.Processor):
    """Gives each row's customer."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        return {"customer_id": row["customer_id"] * self.factor}


class Versioned(Copies):
    """Says itself what its state means."""

    state_version = "1"


class Nothing(hr.Processor):
    """Has no `on_row`."""


def processed(processor: Any = None, **options: Any) -> Any:
    """A plan with a processor."""
    given = {"by": "customer_id", "schema": {"customer_id": "long"}, **options}
    return plan_of(lambda: hr.stream("orders").process(processor or Copies(), **given).to("out"))


def test_process_moves_rows_by_its_key() -> None:
    """One repartition, then the step, whose columns come from all columns; nothing is known of its key."""
    plan = processed()
    step = only(plan, "process")
    assert kinds(plan) == ["source", "repartition", "process", "sink"]
    assert (step.name, step.by, step.key) == ("process_Copies_customer_id", ("customer_id",), ())
    assert step.function.name.endswith("Copies")
    assert step.changelog == f"{plan.name}.process_Copies_customer_id.changelog"
    assert types(step) == {"customer_id": "long"}
    assert SourceField(topic="orders", field="amount") in step.columns[0].lineage
    assert output(plan).key == ()
    assert "call Copies for each row by customer_id" in explain(plan)


def test_process_without_by_takes_the_rows_own_key() -> None:
    """Then nothing moves."""
    plan = processed(by=None)
    assert kinds(plan) == ["source", "process", "sink"]
    assert only(plan, "process").by == ("order_id",)


def test_a_processors_fingerprint_is_its_code_or_its_version() -> None:
    """Another key, other code, other settings are another state; a version says so itself."""
    plain = only(processed(), "process").fingerprint
    assert only(processed(Copies(2)), "process").fingerprint != plain
    assert only(processed(by="product_id"), "process").fingerprint != plain
    one, two = (only(processed(Versioned(factor)), "process").fingerprint for factor in (1, 2))
    assert one == two != plain


def test_dedupe_keeps_columns_and_moves_rows_by_its_columns() -> None:
    """Columns and record key stay; the columns and event time decide which rows exist."""
    plan = plan_of(lambda: hr.stream("orders").dedupe("customer_id", "status", within="1h", grace="5m").to("out"))
    step = only(plan, "dedupe")
    assert kinds(plan) == ["source", "repartition", "dedupe", "sink"]
    assert (step.name, step.by, step.within_ms, step.grace_ms) == (
        "dedupe_customer_id_status",
        ("customer_id", "status"),
        3_600_000,
        300_000,
    )
    assert types(step) == types(only(plan, "source"))
    assert output(plan).key == ("order_id",)
    assert output(plan).influences == (), "all that decides is in the rows"
    narrow = plan_of(lambda: hr.stream("orders").dedupe("customer_id", within="1h").select("amount").to("out"))
    assert {field.field for field in output(narrow).influences} == {"customer_id", "placed_at"}
    assert "leave out repeats of customer_id, status within 1h" in explain(plan)


def test_dedupe_by_the_key_moves_nothing_and_its_grace_is_no_part_of_its_state() -> None:
    """Another `within` is another state; grace and late are not."""
    plans = [
        plan_of(lambda options=options: hr.stream("orders").dedupe("order_id", **options).to("out"))  # type: ignore[misc]
        for options in ({"within": "1h"}, {"within": "1h", "grace": "1m", "late": "dead_letter"}, {"within": "2h"})
    ]
    assert kinds(plans[0]) == ["source", "dedupe", "sink"]
    one, two, three = (only(plan, "dedupe").fingerprint for plan in plans)
    assert one == two != three


def test_top_n_is_a_table_by_group_and_rank() -> None:
    """Group, rank, then the other columns; the rank comes from what decides it."""
    plan = plan_of(
        lambda: hr.stream("orders").group_by("customer_id").top_n(3, by=["amount", "placed_at"], rank="place").to("out")
    )
    step = only(plan, "top_n")
    assert (step.name, step.n, step.group, step.is_table) == ("top_3_customer_id", 3, ("customer_id",), True)
    assert step.order == (("amount", True), ("placed_at", True))
    assert step.key == output(plan).key == ("customer_id", "place")
    assert step.emit is Emit.UPDATES
    assert list(types(step))[:3] == ["customer_id", "place", "order_id"]
    assert types(step)["place"] == "long"
    place = step.columns[1]
    assert place.derivation is Derivation.AGGREGATED
    assert {field.field for field in place.lineage} == {"customer_id", "amount", "placed_at"}
    assert output(plan).kind == "table"
    assert "first 3 of customer_id by amount descending, placed_at descending" in explain(plan)


def test_top_n_in_windows_has_their_bounds_and_may_be_final() -> None:
    """`window_start` is part of the key; final rows are events."""
    plan = plan_of(
        lambda: (
            hr.stream("orders")
            .group_by("status")
            .window(hr.tumbling("1h", grace="1m"), late="dead_letter")
            .top_n(1, by="amount", descending=False)
            .to("out", emit="final")
        )
    )
    step = only(plan, "top_n")
    assert step.key == ("status", "window_start", "rank")
    assert types(step)["window_start"] == types(step)["window_end"] == TIMESTAMP
    assert (step.emit, step.late) == (Emit.FINAL, "dead_letter")
    assert step.order == (("amount", False),)
    assert (output(plan).kind, output(plan).time) == ("event", "window_start")


def test_late_rows_of_a_ranking_are_a_stream() -> None:
    """`late="stream"` works as for aggregates."""

    def pipeline() -> Any:
        best = hr.stream("orders").group_by("status").window(hr.tumbling("1h"), late="stream").top_n(1, by="amount")
        return [best.to("best", emit="final"), best.late().to("missed")]

    plan = plan_of(pipeline)
    assert {"window_start", "order_id"} <= set(types(only(plan, "late")))


def test_a_rankings_fingerprint_is_what_its_rows_mean() -> None:
    """Columns, order, n and window; not grace."""

    def fingerprint(n: int = 2, by: str = "amount", grace: str = "0ms", *drop: str) -> str:
        def pipeline() -> Any:
            rows = hr.stream("orders").drop(*drop) if drop else hr.stream("orders")
            return rows.group_by("status").window(hr.tumbling("1h", grace=grace)).top_n(n, by=by).to("out")

        found: str = only(plan_of(pipeline), "top_n").fingerprint
        return found

    plain = fingerprint()
    assert fingerprint(grace="5m") == plain
    assert len({plain, fingerprint(3), fingerprint(by="quantity"), fingerprint(2, "amount", "0ms", "items")}) == 4


def test_drop_nulls_makes_columns_that_are_never_null() -> None:
    """Of the columns named, or of all; what was required decides which rows exist."""
    plan = plan_of(lambda: hr.stream("orders").drop_nulls("amount", "product_id").to("out"))
    step = only(plan, "drop_nulls")
    assert (step.name, step.required) == ("drop_nulls_amount_product_id", ("product_id", "amount"))
    assert (types(step)["amount"], types(step)["product_id"]) == ("double", "string")
    assert types(step)["items"][0] == "null"
    everything = only(plan_of(lambda: hr.stream("orders").drop_nulls().to("out")), "drop_nulls")
    assert not any(isinstance(each, list) for each in types(everything).values())
    narrow = plan_of(lambda: hr.stream("orders").drop_nulls("amount").select("paid").to("out"))
    assert SourceField(topic="orders", field="amount") in output(narrow).influences


async def later(row: dict[str, Any]) -> dict[str, Any]:
    """A coroutine function."""
    return row


def test_map_async_knows_what_runs_alone() -> None:
    """One column or several."""
    for given, wanted in (("customer_id", ("customer_id",)), (["customer_id", "status"], ("customer_id", "status"))):
        plan = plan_of(
            lambda given=given: (  # type: ignore[misc]
                hr.stream("orders").map_async(later, schema={"order_id": "string"}, one_at_a_time_by=given).to("out")
            )
        )
        assert only(plan, "map_async").one_at_a_time_by == wanted
        assert f"16 at once, one at a time by {', '.join(wanted)}" in explain(plan)


OPTIONS = {"schema": {"x": "long"}}
REFUSED = [
    (E.TypeClash, lambda s, c: s.process(Copies, by="status", **OPTIONS), "not the class Copies", "Copies()"),
    (E.TypeClash, lambda s, c: s.process(later, by="status", **OPTIONS), "needs an hr.Processor", "hr.Processor"),
    (E.TypeClash, lambda s, c: s.process(Nothing(), by="status", **OPTIONS), "no method on_row", "add it"),
    (E.UnknownColumn, lambda s, c: s.process(Copies(), by="nobody", **OPTIONS), "'nobody'", ""),
    (E.TypeClash, lambda s, c: s.process(Copies(), by="amount", **OPTIONS), "'amount'", "cast"),
    (E.OptionInvalid, lambda s, c: s.process(Copies(), by="status", schema={}), "columns of its result", "schema"),
    (
        E.OptionInvalid,
        lambda s, c: s.map(dict, schema={"a": "long"}).process(Copies(), **OPTIONS),
        "needs a key",
        "by=",
    ),
    (E.NameInvalid, lambda s, c: s.process(Copies(), by="status", schema={"__x": "long"}), "'__x'", ""),
    (E.OptionInvalid, lambda s, c: s.dedupe(within="1h"), "needs a column", "dedupe("),
    (E.OptionInvalid, lambda s, c: s.dedupe("order_id", within="often"), "within", ""),
    (E.OptionInvalid, lambda s, c: s.dedupe("order_id", within="1h", late="stream"), "'stream'", "dead_letter"),
    (E.UnknownColumn, lambda s, c: s.dedupe("order", within="1h"), "'order'", ""),
    (E.TypeClash, lambda s, c: s.dedupe("amount", within="1h"), "'amount'", "cast"),
    (E.MissingEventTime, lambda s, c: c.dedupe("page", within="1h"), "'clicks'", "time:"),
    (E.OptionInvalid, lambda s, c: s.group_by("status").top_n(0, by="amount"), "n is 0", ""),
    (E.OptionInvalid, lambda s, c: s.group_by("status").top_n(1001, by="amount"), "1001", ""),
    (E.OptionInvalid, lambda s, c: s.group_by("status").top_n(1, by=[]), "columns to order by", "by="),
    (
        E.OptionInvalid,
        lambda s, c: s.group_by("status").top_n(1, by=["amount", "paid"], descending=[True]),
        "1 times descending",
        "one for each",
    ),
    (E.UnknownColumn, lambda s, c: s.group_by("status").top_n(1, by="amuont"), "'amuont'", "amount"),
    (E.TypeClash, lambda s, c: s.group_by("status").top_n(1, by="items"), "no order", ""),
    (E.DuplicateName, lambda s, c: s.group_by("status").top_n(1, by="amount", rank="paid"), "'paid'", ""),
    (
        E.StepRefused,
        lambda s, c: s.group_by("status").window(hr.session("5m")).top_n(1, by="amount"),
        "no session windows",
        "hr.tumbling",
    ),
    (
        E.OptionInvalid,
        lambda s, c: s.group_by("status").top_n(1, by="amount").to("o", emit="final"),
        "needs a window",
        "",
    ),
    (
        E.StepRefused,
        lambda s, c: hr.table("customers").group_by("status").top_n(1, by="name"),
        "rows of streams only",
        "hr.top_k",
    ),
    (E.StepRefused, lambda s, c: hr.table("customers").dedupe("name", within="1h"), "no step 'dedupe'", "changes()"),
    (E.UnknownColumn, lambda s, c: s.drop_nulls("amuont"), "'amuont'", "amount"),
    (
        E.OptionInvalid,
        lambda s, c: s.map_async(later, schema={"x": "long"}, timeout="2m", retries=2),
        "3 tries of 120000 ms",
        "shorter timeout",
    ),
    (
        E.UnknownColumn,
        lambda s, c: s.map_async(later, schema={"x": "long"}, one_at_a_time_by="nobody"),
        "'nobody'",
        "",
    ),
]


@pytest.mark.parametrize(("kind", "step", "message", "cure"), REFUSED)
def test_mistakes_are_refused(kind: type[HeadraceError], step: Any, message: str, cure: str) -> None:
    """Each mistake is its typed error, with this file, the culprit in the message and a cure."""

    def pipeline() -> Any:
        made = step(hr.stream("orders"), hr.stream("clicks"))
        return made.to("out") if hasattr(made, "to") else made

    with pytest.raises(HeadraceError) as caught:
        plan_of(pipeline)
    assert type(caught.value) is kind, caught.value
    assert message in caught.value.message
    assert cure in caught.value.cure
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_a_declared_type_may_be_polars_or_avro() -> None:
    """As for `map`."""
    step = only(processed(schema={"a": pl.Int64, "b": "double?", "c": TIMESTAMP}), "process")
    assert types(step) == {"a": ["null", "long"], "b": ["null", "double"], "c": TIMESTAMP}
