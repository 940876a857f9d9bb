"""Contracts of derived topics: inferred, keyed, and held against declared ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.contracts.arrow import to_polars
from headrace.contracts.contract import Contract, KeyEncoding, TopicKind
from headrace.errors import Where
from headrace.flow.columns import schema_of
from headrace.flow.derived import derived_contract
from headrace.flow.errors import ContractMismatch
from headrace.flow.steps import SinkStep
from tests.flow.samples import STATUS, TIMESTAMP, contract, output, plan_of


def contract_of(function: Any, *more: Contract, **options: Any) -> Contract:
    plan = plan_of(function, *more, **options)
    return derived_contract(plan, output(plan))


def test_the_contract_of_a_stream() -> None:
    """Types, docs, tags, units, key and time of what is passed on; nullable fields default to null."""
    found = contract_of(
        lambda: hr.stream("orders").filter("paid").drop("items").to("orders.paid", description="Paid orders"),
        owner="sales",
    )
    assert (found.topic, found.kind, found.owner, found.description) == (
        "orders.paid", TopicKind.EVENT, "sales", "Paid orders",
    )  # fmt: skip
    assert (found.key, found.key_encoding, found.time) == (("order_id",), KeyEncoding.AVRO, "placed_at")
    assert found.schema.fullname == "orders.Paid"
    assert found.schema.doc == "Paid orders"
    assert found.tags == {"customer_id": ("pii",)}
    assert found.units == {"amount": "EUR"}
    amount = found.schema.field("amount")
    assert (amount.type, amount.has_default, amount.default) == (["null", "double"], True, None)
    assert not found.schema.field("quantity").has_default


def test_a_table_is_a_table() -> None:
    """Steps on a table give a table with its key."""
    found = contract_of(lambda: hr.table("customers").filter(status="gold").to("gold"))
    assert (found.kind, found.key) == (TopicKind.TABLE, ("customer_id",))


def test_equal_names_of_different_types_are_told_apart() -> None:
    """Two enums of one name meet in one record: each keeps its symbols, the schema is valid."""
    other = contract(
        "payments",
        {"order_id": "string", "status": {"type": "enum", "name": "Status", "symbols": ["SENT", "DONE"]}},
        kind=TopicKind.TABLE,
        key=("order_id",),
    )
    found = contract_of(lambda: hr.stream("orders").join(hr.table("payments"), on="order_id").to("out"), other)
    assert found.schema.field("status").type["symbols"] == STATUS["symbols"]
    assert found.schema.field("status_right").type["symbols"] == ["SENT", "DONE"]


def test_the_same_enum_twice_is_defined_once() -> None:
    """A column copied under two names shares its named type."""
    found = contract_of(lambda: hr.stream("orders").with_columns(was=col("status")).to("out"))
    assert found.schema.field("was").type["symbols"] == STATUS["symbols"]


def test_keys_and_kinds_by_request() -> None:
    """`key`, `key_encoding` and `kind` say what else the topic shall be."""
    found = contract_of(
        lambda: hr.stream("orders").filter("paid").to("out", key=["customer_id", "order_id"], kind="table")
    )
    assert (found.key, found.kind) == (("customer_id", "order_id"), TopicKind.TABLE)
    found = contract_of(lambda: hr.stream("orders").filter("paid").to("out", key="order_id", key_encoding="string"))
    assert found.key_encoding is KeyEncoding.STRING


DECLARED = contract(
    "orders.paid",
    {"order_id": "string", "amount": ["null", "double"], "quantity": ["null", "int"], "placed_at": TIMESTAMP},
    key=("order_id",),
    time="placed_at",
    owner="finance",
    description="Declared",
    tags={"amount": ("money",)},
    where=Where("contracts/orders.paid.yaml", 1),
)


def paid(**columns: Any) -> Any:
    selected = {"order_id": col("order_id"), "placed_at": col("placed_at"), "quantity": col("quantity")}
    return hr.stream("orders").select(**{**selected, "amount": col("amount"), **columns}).to("orders.paid")


def test_a_declared_contract_is_the_contract() -> None:
    """The rows fit it: its order, types, owner and docs hold, and the sink writes by it."""
    plan = plan_of(lambda: paid(), DECLARED, owner="sales")
    found = derived_contract(plan, output(plan))
    assert found.schema == DECLARED.schema
    assert (found.owner, found.description) == ("finance", "Declared")
    assert found.tags == {"amount": ("money",)}
    sink = plan.steps[-1]
    assert isinstance(sink, SinkStep)
    assert schema_of(sink.columns) == to_polars(DECLARED.schema)
    assert [column.name for column in sink.columns] == [field.name for field in DECLARED.schema.fields]


MISMATCHES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"quantity": col("quantity").cast(int)}, {}, "quantity", "column 'quantity' is long, not int?"),
    ({"order_id": "product_id"}, {}, "order_id", "column 'order_id' may be null"),
    ({"extra": 1}, {}, "extra", "column 'extra' is not in it"),
    ({}, {"key": ()}, "", "key is order_id, not none"),
    ({}, {"kind": TopicKind.TABLE}, "", "kind is event, not table"),
]


@pytest.mark.parametrize(("columns", "changes", "column", "message"), MISMATCHES)
def test_what_does_not_fit_is_refused(
    columns: dict[str, Any], changes: dict[str, Any], column: str, message: str
) -> None:
    """The first difference is named, with the file of the contract."""
    with pytest.raises(ContractMismatch) as caught:
        plan_of(lambda: paid(**columns), replace(DECLARED, **changes))
    assert caught.value.column == column
    assert message in caught.value.message
    assert "contracts/orders.paid.yaml:1" in caught.value.message
    assert caught.value.where is not None
    assert caught.value.where.file.endswith("test_derived.py")


def test_a_missing_column_is_named() -> None:
    """A column of the contract that nothing writes is refused, with the one it was perhaps meant to be."""
    with pytest.raises(ContractMismatch, match="no column 'amount' is written; did you mean 'amounts'"):
        plan_of(
            lambda: hr.stream("orders").select("order_id", "placed_at", "quantity", amounts="amount").to("orders.paid"),
            DECLARED,
        )
