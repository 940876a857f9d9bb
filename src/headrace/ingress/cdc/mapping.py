"""Columns of a table and fields of its contract, whatever the database.

Owns the check that each field has a column that can fill it, the contract with columns that it does not have, and the
contract made from a table. What fits what is the database's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.shape import Shape, record_shape
from headrace.ingress.cdc.errors import SourceInvalid

T = TypeVar("T")
_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def check_mapping(
    table: str, types: Mapping[str, T], contract: Contract, unmapped: Callable[[T, Shape], str | None]
) -> None:
    """Raises `SourceInvalid` where a field has no column that can fill it, and no default."""
    fields = {each.name: each for each in contract.schema.fields}
    for child in record_shape(contract.schema).children:
        if child.name not in types:
            if fields[child.name].has_default or child.shape.is_nullable:
                continue
            raise SourceInvalid(
                f"table {table!r} has no column {child.name!r}, which the contract of {contract.topic!r} asks for",
                where=contract.where,
                cure="add the column to the table, or give the field a default, or take it out of the contract",
            )
        wrong = unmapped(types[child.name], child.shape)
        if wrong is not None:
            raise SourceInvalid(
                f"column {child.name!r} of table {table!r} {wrong}",
                where=contract.where,
                cure="make it string in the contract, which holds every text and number, or see docs/ingress.md for"
                " its types; take the field out of the contract where none is listed",
            )


def followed_contract(
    contract: Contract, columns: Sequence[tuple[str, T]], inferred: Callable[[T, str], Any]
) -> Contract:
    """The contract with the columns that it does not have, nullable and behind the others."""
    known = {each.name for each in contract.schema.fields}
    more = [(name, found) for name, found in columns if name not in known and _AVRO_NAME.fullmatch(name)]
    if not more:
        return contract
    definition = contract.schema.definition
    assert isinstance(definition, dict)
    added = [
        {"name": name, "type": ["null", inferred(found, f"{contract.schema.name}_{name}")], "default": None}
        for name, found in more
    ]
    return replace(contract, schema=AvroSchema.parse({**definition, "fields": [*definition["fields"], *added]}))


def contract_of_table(
    table: str, fields: Sequence[tuple[str, Any, bool]], key: Sequence[str], *, topic: str | None
) -> Contract:
    """The contract of a table's topic: name, type and nullability of each column. Raises `SourceInvalid`."""
    wrong = next((name for name, _, _ in fields if not _AVRO_NAME.fullmatch(name)), None)
    if wrong is not None:
        raise SourceInvalid(
            f"column {wrong!r} of table {table!r} has a name that Avro does not allow",
            cure="write the contract by hand, without this column, or rename the column",
        )
    name = re.sub(r"\W", "_", table.rpartition(".")[2], flags=re.ASCII)
    listed = [
        {"name": each, "type": ["null", avro_type], "default": None} if nullable else {"name": each, "type": avro_type}
        for each, avro_type, nullable in fields
    ]
    record = {"type": "record", "name": f"_{name}" if name[:1].isdigit() else name, "fields": listed}
    return Contract(
        topic=topic or table,
        schema=AvroSchema.parse(record),
        kind=TopicKind.CHANGE,
        key=tuple(key),
        description=f"Changes of the table {table}.",
    )
