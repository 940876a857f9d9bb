"""Contracts of derived topics.

Owns the inferred contract of what a sink writes, and its comparison with a declared one.

- Every derived topic has a contract; nothing untyped leaves a pipeline.
- Where the user declared a contract for the topic, it is the contract, and the rows must fit it exactly: a column may
  be nullable in the contract and never null in the rows, and nothing else may differ.
"""

from __future__ import annotations

from typing import Any

from headrace.contracts.avro import AvroField, AvroSchema, AvroType
from headrace.contracts.contract import Contract, KeyEncoding, TopicKind
from headrace.contracts.record_name import record_name
from headrace.flow.columns import by_name, is_nullable, not_null, sorted_fields
from headrace.flow.draft import Draft
from headrace.flow.errors import ContractMismatch, did_you_mean
from headrace.flow.plan import DerivedTopic, Plan
from headrace.flow.sink import kind_of
from headrace.flow.values import Column, Derivation, Place


def derived_topic(sink: Draft, declared: Contract | None, *, owner: str, description: str) -> DerivedTopic:
    """The topic that a sink draft writes."""
    inferred = _inferred(sink, owner, description)
    if declared is None:
        return inferred
    _check_declared(inferred, sink, declared)
    return _as_declared(inferred, declared)


def sink_columns(sink: Draft, topic: DerivedTopic) -> tuple[Column, ...]:
    """The sink's columns in the order and with the types of the topic's contract."""
    known = by_name(sink.columns)
    fields = AvroSchema.parse(topic.avro).fields
    return tuple(known[field.name].model_copy(update={"type": field.type}) for field in fields)


def derived_contract(plan: Plan, output: DerivedTopic) -> Contract:
    """The contract of one of the plan's outputs, as everything but the flow knows contracts."""
    assert output in plan.outputs, "an output belongs to its plan"
    return Contract(
        topic=output.topic,
        schema=AvroSchema.parse(output.avro),
        owner=output.owner,
        description=output.description,
        kind=TopicKind(output.kind),
        key=output.key,
        key_encoding=KeyEncoding(output.key_encoding),
        time=output.time,
        record_time=output.record_time,
        tags=dict(output.tags),
        units=dict(output.units),
    )


def _inferred(sink: Draft, owner: str, description: str) -> DerivedTopic:
    topic: str = sink.fields["topic"]
    text = sink.fields["description"] or description
    time = sink.facts.time
    schema = AvroSchema.record(record_name(topic), [_field(column) for column in sink.columns], doc=text)
    assert isinstance(schema.definition, dict), "a record is an object"
    return DerivedTopic(
        topic=topic,
        kind="table" if kind_of(sink) is TopicKind.TABLE else "event",
        avro=schema.definition,
        key=sink.facts.record_key,
        key_encoding=sink.fields["key_encoding"],
        time=None if time.missing else time.column,
        record_time=not time.missing and time.column is None,
        owner=owner,
        description=text,
        tags={column.name: column.tags for column in sink.columns if column.tags},
        units={column.name: column.unit for column in sink.columns if column.unit},
        influences=_influences(sink),
    )


def _field(column: Column) -> AvroField:
    # A default lets readers of older records fill the column, so that adding it breaks nobody.
    starts_with_null = isinstance(column.type, list) and column.type[0] == "null"
    return AvroField(name=column.name, type=column.type, doc=column.doc, has_default=starts_with_null)


def _influences(sink: Draft) -> tuple[Any, ...]:
    """Source columns that decide which rows exist, but for those whose values are in the rows anyway."""
    copied = {field for column in sink.columns if column.derivation is Derivation.COPIED for field in column.lineage}
    return sorted_fields(sink.facts.influences - copied)


def _check_declared(inferred: DerivedTopic, sink: Draft, declared: Contract) -> None:
    where = f"its contract ({declared.where})" if declared.where else "its contract"
    start = f"{inferred.topic!r} does not fit {where}"
    rows, fields = by_name(sink.columns), {field.name: field for field in declared.schema.fields}
    for name in fields:
        if name not in rows:
            cure = did_you_mean(name, rows) or "add it, or take it out of the contract"
            raise ContractMismatch(f"{start}: no column {name!r} is written", column=name, place=sink.place, cure=cure)
    for name in rows:
        if name not in fields:
            cure = "add it to the contract, or .drop it"
            raise ContractMismatch(f"{start}: column {name!r} is not in it", column=name, place=sink.place, cure=cure)
    for name, field in fields.items():
        _check_type(start, rows[name], field.type, sink.place)
    _check_rest(start, inferred, declared, sink.place)


def _check_type(start: str, column: Column, declared: AvroType, place: Place) -> None:
    if is_nullable(column.type) and not is_nullable(declared):
        raise ContractMismatch(
            f"{start}: column {column.name!r} may be null",
            column=column.name,
            place=place,
            cure=f'use .fill_null(...), or make it nullable in the contract: {column.name}: "...?"',
        )
    if _meaning(not_null(column.type)) != _meaning(not_null(declared)):
        raise ContractMismatch(
            f"{start}: column {column.name!r} is {_shown(column.type)}, not {_shown(declared)}",
            column=column.name,
            place=place,
            cure="cast it, or change the contract",
        )


def _check_rest(start: str, inferred: DerivedTopic, declared: Contract, place: Place) -> None:
    differences = [
        ("kind", inferred.kind, declared.kind.value),
        ("key", ", ".join(inferred.key) or "none", ", ".join(declared.key) or "none"),
        ("key_encoding", inferred.key_encoding, declared.key_encoding.value),
    ]
    for name, written, wanted in differences:
        if written != wanted:
            raise ContractMismatch(
                f"{start}: {name} is {written}, not {wanted}", place=place, cure=f"set {name} in .to()"
            )


def _meaning(avro: AvroType) -> str:
    """The type as far as values go: not the names of records and enums, nor docs."""
    return _nameless(AvroSchema.parse(avro if not isinstance(avro, str) else f'"{avro}"').resolved)


_MEANINGFUL = ("logicalType", "precision", "scale", "size", "symbols")


def _nameless(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(_nameless(each) for each in node)}]"
    if not isinstance(node, dict):
        return str(node)
    parts = [str(node["type"])]
    parts += [f"{name}={node[name]}" for name in _MEANINGFUL if name in node]
    parts += [_nameless(node[name]) for name in ("items", "values") if name in node]
    parts += [f"{each['name']}:{_nameless(each['type'])}" for each in node.get("fields", ())]
    return f"({' '.join(parts)})" if len(parts) > 1 else parts[0]


def _shown(avro: AvroType) -> str:
    inner = not_null(avro)
    if isinstance(inner, dict):
        inner = inner.get("logicalType") or inner["type"]
    return f"{inner}{'?' if is_nullable(avro) else ''}"


def _as_declared(inferred: DerivedTopic, declared: Contract) -> DerivedTopic:
    """The declared contract, with what only the pipeline knows."""
    return inferred.model_copy(
        update={
            "avro": declared.schema.definition,
            "time": declared.time,
            "record_time": declared.record_time,
            "owner": declared.owner or inferred.owner,
            "description": declared.description or inferred.description,
            "tags": {**inferred.tags, **declared.tags},
            "units": {**inferred.units, **declared.units},
        }
    )
