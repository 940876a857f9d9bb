"""Row-wise expressions: what is let through, what it becomes in the plan, and that it means what Polars means."""

from __future__ import annotations

import datetime
import io
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import headrace as hr
from headrace import col, lit, when
from headrace.contracts.arrow import avro_to_dtype
from headrace.flow.columns import columns_of, schema_of
from headrace.flow.errors import PipelineInvalid, RowDependent
from headrace.flow.expressions import Resolved, resolve
from headrace.flow.row_probe import check_by_example, probe_frame
from headrace.flow.values import Place
from tests.flow.samples import ORDERS, STATUS, TIMESTAMP

PLACE = Place(file="user.py", line=7)
COLUMNS = columns_of(ORDERS)
SCHEMA = schema_of(COLUMNS)


def resolved(*expressions: Any, **named: Any) -> list[Resolved]:
    return resolve(expressions, named, COLUMNS, PLACE)


def one(expression: Any) -> Resolved:
    (found,) = resolved(expression)
    return found


def run(found: Resolved, frame: pl.DataFrame) -> pl.Series:
    """What the engine makes of the plan's text."""
    expression = pl.Expr.deserialize(io.StringIO(found.named.expression), format="json").alias(found.name)
    return frame.with_row_index("__row").select(expression, "__row")[found.name]


ALLOWED = [
    col("amount") * 2 + 1,
    col("order_id").str.to_uppercase(),
    col("order_id").str.slice(0, 2) + "-" + col("status").cast(pl.String),
    when(col("amount") > 10).then(lit("big")).when(col("paid")).then(lit("paid")).otherwise(lit("small")).alias("size"),
    col("placed_at").dt.truncate("1h"),
    col("placed_at").dt.convert_time_zone("Europe/Berlin").dt.hour().alias("hour"),
    col("items").list.len(),
    col("items").list.eval(pl.element().str.to_uppercase()),
    col("items").list.eval(pl.element().rank()),
    col("items").list.first(),
    col("quantity").is_in([1, 2]),
    col("order_id").is_in(col("items")),
    col("quantity").replace_strict({1: "one"}, default="many"),
    col("product_id").str.to_datetime("%Y-%m-%d", strict=False),
    col("order_id").hash(),
    pl.struct("order_id", total=col("amount") * col("quantity")),
    pl.struct("order_id", "amount").struct.field("amount"),
    pl.coalesce("product_id", lit("none")),
    pl.concat_str("order_id", "product_id", separator="/"),
    pl.max_horizontal("amount", "quantity"),
    pl.sum_horizontal(cs.numeric()),
    col("amount").fill_null(0).clip(0, 100),
    lit(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)).alias("since"),
    lit("NaN").cast(pl.Float64),
    col("quantity").cast(pl.Int8),
    col("status").cast(pl.Categorical),
    pl.format("{} of {}", "order_id", "quantity"),
    col("paid") & ~col("amount").is_null(),
    (col("placed_at") - col("placed_at").dt.truncate("1d")).dt.total_minutes(),
]


@pytest.mark.parametrize("expression", ALLOWED, ids=str)
def test_row_wise_expressions_are_let_through(expression: pl.Expr) -> None:
    """Useful expressions compile, and the plan's text gives what Polars gives, in the Polars type of the Avro type."""
    found = one(expression)
    frame = probe_frame(SCHEMA)
    dtype = avro_to_dtype(found.column.type)
    shown = run(found, frame)
    assert shown.dtype == dtype
    wanted = frame.select(expression.alias("wanted"))["wanted"]
    wanted = wanted.new_from_index(0, frame.height) if len(wanted) == 1 else wanted
    assert shown.cast(wanted.dtype).equals(wanted, null_equal=True)


NULLABILITY = [
    (col("quantity") + 1, False),
    (col("amount") + 1, True),
    (col("quantity") // 2, True),
    (col("amount").is_null(), False),
    (col("amount").fill_null(0), False),
    (col("amount").fill_null(col("amount")), True),
    (pl.coalesce("product_id", "order_id"), False),
    (when("paid").then(1).otherwise(2), False),
    (when("paid").then(1), True),
    (col("order_id").str.len_chars(), False),
    (col("order_id").cast(pl.Int64), False),
    (col("order_id").cast(pl.Int64, strict=False), True),
    (col("order_id").str.to_uppercase(), False),
    (col("product_id").str.to_uppercase(), True),
    (lit(3), False),
    (col("status").fill_null("OPEN"), False),
    (when(col("status") == "OPEN").then(None).otherwise(col("status")).fill_null("NOT A SYMBOL"), True),
    (col("quantity") > col("amount"), True),
    (col("quantity").eq_missing(col("amount")), False),
    (pl.struct("amount"), False),
]


@pytest.mark.parametrize(("expression", "may_be_null"), NULLABILITY, ids=[str(each[0]) for each in NULLABILITY])
def test_a_computed_column_is_nullable_unless_it_cannot_be_null(expression: pl.Expr, may_be_null: bool) -> None:
    """Only what is proven never null loses the null branch."""
    avro = one(expression.alias("x")).column.type
    assert (isinstance(avro, list) and "null" in avro) == may_be_null


def test_a_passed_on_column_keeps_everything() -> None:
    """Renaming keeps Avro type, unit, tags and lineage."""
    source = {column.name: column for column in COLUMNS}
    found = resolved("status", col("amount").alias("price"), col("customer_id").name.suffix("_x"))
    assert [each.name for each in found] == ["status", "price", "customer_id_x"]
    assert found[0].column == source["status"]
    assert found[1].column == source["amount"].model_copy(update={"name": "price"})
    assert found[2].column == source["customer_id"].model_copy(update={"name": "customer_id_x"})
    assert [each.copies for each in found] == ["status", "amount", "customer_id"]


def test_computed_types_are_avro_types() -> None:
    """Polars types that Avro lacks become the next wider one; enums keep their name."""
    found = resolved(
        tiny=col("quantity").cast(pl.Int8),
        length=col("order_id").str.len_chars(),
        status=col("status").fill_null("OPEN"),
        hour=col("placed_at").dt.truncate("1h"),
    )
    assert [each.column.type for each in found] == ["int", "long", STATUS, TIMESTAMP]


def test_selectors_name_their_columns() -> None:
    """Selectors, regular expressions and several names at once become one expression per column."""
    assert [each.name for each in resolved(cs.numeric())] == ["customer_id", "amount", "quantity"]
    assert [each.name for each in resolved(col("^p.*$"))] == ["product_id", "paid", "placed_at"]
    assert [each.name for each in resolved(cs.all() - cs.temporal())][-1] == "paid"
    assert [each.name for each in resolved(pl.nth(0), pl.all().name.prefix("x_"))][:3] == [
        "order_id",
        "x_order_id",
        "x_customer_id",
    ]
    filled = resolved(cs.numeric().fill_null(0).name.suffix("_filled"))
    assert [each.name for each in filled] == ["customer_id_filled", "amount_filled", "quantity_filled"]
    assert [field.field for field in filled[1].column.lineage] == ["amount"]
    struct = pl.struct("order_id", "paid")
    assert [each.name for each in resolved(struct.struct.field("order_id", "paid"))] == ["order_id", "paid"]
    assert [each.name for each in resolved(struct.struct.unnest())] == ["order_id", "paid"]


def test_wide_functions_take_a_selector_at_once() -> None:
    """`sum_horizontal(cs.numeric())` is one column of all numeric ones, and its lineage says so."""
    found = one(pl.sum_horizontal(cs.numeric()))
    assert {field.field for field in found.column.lineage} == {"customer_id", "amount", "quantity"}


def test_named_arguments_read_as_polars_reads_them() -> None:
    """A text names a column, any other value stands for itself."""
    found = resolved(copy="amount", number=3, flag=True)
    assert [each.copies for each in found] == ["amount", None, None]
    assert [each.column.type for each in found] == [["null", "double"], "int", "boolean"]


def test_the_text_of_an_expression_is_for_people() -> None:
    """Untyped literals are shown without Polars' marks."""
    assert one(col("quantity") + 1).named.text == '[(col("quantity")) + (1)]'


def test_the_example_catches_what_the_tree_lets_through() -> None:
    """The second net refuses by a shown difference alone."""
    for expression in (col("quantity").cum_sum(), col("quantity") - col("quantity").min(), col("amount").shift()):
        with pytest.raises(RowDependent, match="other batches"):
            check_by_example([("x", expression)], SCHEMA, PLACE)
    check_by_example([("x", col("quantity") + 1)], SCHEMA, PLACE)


def test_values_that_break_a_cast_refuse_nothing() -> None:
    """Made-up rows that a strict cast cannot take prove nothing against it."""
    assert one(col("order_id").cast(pl.Int64)).column.type == "long"


# Random expressions over the sample columns: numbers, texts and booleans grown from columns and literals.
_NUMBERS = st.deferred(
    lambda: st.one_of(
        st.sampled_from([col("amount"), col("quantity"), col("customer_id")]),
        st.integers(-5, 5).map(lit),
        st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: pair[0] + pair[1]),
        st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: pair[0] * pair[1]),
        st.tuples(_NUMBERS, st.integers(1, 3)).map(lambda pair: pair[0].fill_null(pair[1])),
        st.tuples(_TRUTHS, _NUMBERS, _NUMBERS).map(lambda parts: when(parts[0]).then(parts[1]).otherwise(parts[2])),
        _TEXTS.map(lambda text: text.str.len_chars()),
        st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: pl.max_horizontal(*pair)),
    )
)
_TEXTS: st.SearchStrategy[pl.Expr] = st.deferred(
    lambda: st.one_of(
        st.sampled_from([col("order_id"), col("product_id"), lit("x")]),
        _TEXTS.map(lambda text: text.str.to_uppercase()),
        st.tuples(_TEXTS, _TEXTS).map(lambda pair: pair[0] + pair[1]),
        _NUMBERS.map(lambda number: number.cast(pl.String)),
    )
)
_TRUTHS: st.SearchStrategy[pl.Expr] = st.deferred(
    lambda: st.one_of(
        st.just(col("paid")),
        st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: pair[0] > pair[1]),
        _TEXTS.map(lambda text: text.is_null()),
        st.tuples(_TRUTHS, _TRUTHS).map(lambda pair: pair[0] | ~pair[1]),
    )
)
_LOOKS_ELSEWHERE = st.sampled_from(
    [
        lambda e: e - e.mean(),
        lambda e: e.shift(),
        lambda e: e.cum_max(),
        lambda e: e.sum().over("paid"),
        lambda e: e + e.diff(),
        lambda e: e.fill_null(strategy="forward"),
        lambda e: e.reverse(),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(_NUMBERS, _TEXTS, _TRUTHS))
def test_what_is_let_through_is_row_wise(expression: pl.Expr) -> None:
    """Any row-wise expression compiles; its text, run on a frame and on its rows one by one, gives the same values of
    the type that the plan says, null only where the plan says so."""
    found = one(expression.alias("x"))
    never_null = [column.name for column in COLUMNS if not isinstance(column.type, list)]
    frame = probe_frame(SCHEMA, never_null=never_null)
    whole = run(found, frame)
    parts = pl.concat([run(found, frame[row]) for row in range(frame.height)])
    assert_frame_equal(whole.to_frame(), parts.to_frame())
    assert whole.dtype == avro_to_dtype(found.column.type)
    assert isinstance(found.column.type, list) or whole.null_count() == 0


@settings(max_examples=60, deadline=None)
@given(_NUMBERS, _LOOKS_ELSEWHERE, st.sampled_from([lambda e: e, lambda e: e + 1, lambda e: pl.struct(y=e, z=1)]))
def test_looking_elsewhere_is_found_anywhere(expression: pl.Expr, look: Any, wrap: Any) -> None:
    """Whatever stands inside or outside, an expression that looks at other rows is refused."""
    with pytest.raises(PipelineInvalid):
        one(wrap(look(expression.cast(pl.Float64))).alias("x"))


def test_the_facade_gives_polars_expressions() -> None:
    """`hr.col`, `hr.lit` and `hr.when` are Polars' own."""
    assert hr.col is pl.col
    assert hr.lit is pl.lit
    assert hr.when is pl.when
