"""Contracts and helpers that the tests of the flow share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, KeyEncoding, TopicKind
from headrace.flow.compile import compile_pipeline
from headrace.flow.load import load_pipelines
from headrace.flow.pipeline import pipeline
from headrace.flow.plan import CompiledPipeline, DerivedTopic, Plan
from headrace.flow.values import Step

TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}
STATUS = {"type": "enum", "name": "Status", "symbols": ["OPEN", "PAID", "LOST"]}


def contract(topic: str, fields: Mapping[str, Any], **rest: Any) -> Contract:
    """A contract from names and Avro types."""
    record = {"type": "record", "name": "Row", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    return Contract(topic=topic, schema=AvroSchema.parse(record), **rest)


ORDERS = contract(
    "orders",
    {
        "order_id": "string",
        "customer_id": "long",
        "product_id": ["null", "string"],
        "status": STATUS,
        "amount": ["null", "double"],
        "quantity": "int",
        "items": ["null", {"type": "array", "items": "string"}],
        "paid": "boolean",
        "placed_at": TIMESTAMP,
    },
    key=("order_id",),
    time="placed_at",
    tags={"customer_id": ("pii",)},
    units={"amount": "EUR"},
)
CUSTOMERS = contract(
    "customers",
    {"customer_id": "long", "name": "string", "status": ["null", "string"], "joined_at": TIMESTAMP},
    kind=TopicKind.TABLE,
    key=("customer_id",),
    tags={"name": ("pii",)},
)
PRODUCTS = contract(
    "products",
    {"product_id": "string", "maker": "string", "price": "double"},
    kind=TopicKind.CHANGE,
    key=("product_id",),
)
STOCK = contract(
    "stock",
    {"shop": "string", "product_id": "string", "pieces": "long"},
    kind=TopicKind.TABLE,
    key=("shop", "product_id"),
)
CLICKS = contract("clicks", {"customer_id": "long", "page": "string"}, key=("customer_id",))
VISITS = contract(
    "visits",
    {"customer_id": "long", "page": "string", "seconds": "float"},
    key=("customer_id",),
    record_time=True,
)
READINGS = contract(
    "readings",
    {"sensor": "string", "value": "double", "at": TIMESTAMP},
    key=("sensor",),
    key_encoding=KeyEncoding.STRING,
    time="at",
    partitions=4,
)
SENSORS = contract(
    "sensors",
    {"sensor": "string", "room": "string"},
    kind=TopicKind.TABLE,
    key=("sensor",),
    key_encoding=KeyEncoding.STRING,
    partitions=4,
)
CONTRACTS = {c.topic: c for c in (ORDERS, CUSTOMERS, PRODUCTS, STOCK, CLICKS, VISITS, READINGS, SENSORS)}


def compiled(function: Callable[[], Any], *more: Contract, **options: Any) -> CompiledPipeline:
    """A pipeline function, compiled over the sample contracts and `more`."""
    if function.__name__ == "<lambda>":
        options.setdefault("name", "shop")
    return compile_pipeline(pipeline(**options)(function), {**CONTRACTS, **{c.topic: c for c in more}})


def plan_of(function: Callable[[], Any], *more: Contract, **options: Any) -> Plan:
    return compiled(function, *more, **options).plan


def types(step: Step) -> dict[str, Any]:
    """Avro type by column."""
    return {column.name: column.type for column in step.columns}


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.steps]


def only(plan: Plan, kind: str) -> Any:
    """The only step of a kind."""
    (step,) = [step for step in plan.steps if step.kind == kind]
    return step


def output(plan: Plan, topic: str | None = None) -> DerivedTopic:
    (found,) = [each for each in plan.outputs if topic in (None, each.topic)]
    return found


def load_text(folder: Path, text: str) -> list[CompiledPipeline]:
    """A pipeline file of this text, compiled over the sample contracts."""
    path = folder / "pipelines.py"
    path.write_text(text)
    return load_pipelines(path, CONTRACTS)
