"""Patches: values that stand in place of those that made a record fail.

Owns how a JSON object of columns changes a row that a step refused, or a record that could not be decoded.

- A value is taken exactly as the column's type allows, or the patch is refused; nothing is guessed.
- A record whose value cannot be read is made anew from the patch alone, which then must have every column that has no
  default. Key and value are encoded by the contract, as a publisher does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.polars_types import to_frame
from headrace.contracts.registry import Registry
from headrace.contracts.wire import KEY_GUID_HEADER, VALUE_GUID_HEADER
from headrace.engine.replay_rows import KeptRow
from headrace.flow.steps import AnyStep
from headrace.ingress.columns import ColumnBuilder, Columns
from headrace.ingress.encoder import TopicEncoder
from headrace.ingress.values import Form
from headrace.log.port import HEADERS_TYPE
from headrace.workspace.dead_letters import DeadLetter
from headrace.workspace.errors import WorkspaceError

Patch = Mapping[str, Any]


class PatchRefused(WorkspaceError):
    """A patch does not fit what it is for."""

    code = "workspace.patch_refused"


@dataclass(frozen=True, slots=True)
class Content:
    """What a record holds."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @classmethod
    def of(cls, letter: DeadLetter) -> Content:
        """As it was."""
        return cls(letter.key, letter.value, letter.headers)


def patched_row(row: KeptRow, step: AnyStep, patch: Patch) -> KeptRow:
    """A row with the patch's values. `step` is the one that gave it. Raises `PatchRefused`."""
    types = {column.name: column.type for column in step.columns}
    if unknown := sorted(patch.keys() - types.keys()):
        raise PatchRefused(
            f"no column {unknown[0]!r} comes to the step", cure=f"it gets {', '.join(types) or 'no columns'}"
        )
    if not patch:
        return row
    schema = _record({name: types[name] for name in patch})
    frame = to_frame(_table(ColumnBuilder(schema, Form.JSON), patch), schema)
    return replace(row, frame=row.frame.with_columns(frame.get_columns()))


def patched_record(letter: DeadLetter, contract: Contract, registry: Registry, patch: Patch) -> Content:
    """A record with the patch's values. Raises `PatchRefused`, `RegistryUnavailable`."""
    if contract.kind is TopicKind.CHANGE:
        raise PatchRefused(
            f"{contract.topic} holds changes of a database", cure="correct the row in the database instead"
        )
    columns = [each.name for each in contract.schema.fields]
    if unknown := sorted(patch.keys() - set(columns)):
        raise PatchRefused(f"{contract.topic} has no column {unknown[0]!r}", cure=f"it has {', '.join(columns)}")
    table = _patched_table(letter, contract, registry, patch)
    time_ms = letter.source_time_ms if letter.source_time_ms is not None else letter.time_ms
    made = TopicEncoder(contract, registry).encode_columns(
        Columns(table, np.zeros(1, np.int64), {}), np.array([time_ms], np.int64)
    )
    if made.violations:
        raise PatchRefused(f"with the patch: {made.violations[0].message}", cure="patch this column too")
    key = None if made.outgoing.key is None else made.outgoing.key[0].as_py()
    # Key and value are framed anew: headers that told their schemas would be wrong.
    headers = tuple(each for each in letter.headers if each[0] not in (KEY_GUID_HEADER, VALUE_GUID_HEADER))
    return Content(key, made.outgoing.value[0].as_py(), headers)


def _patched_table(letter: DeadLetter, contract: Contract, registry: Registry, patch: Patch) -> pa.Table:
    values = pa.array([letter.value], pa.large_binary())
    headers = pa.array([[{"key": k, "value": v} for k, v in letter.headers]], HEADERS_TYPE)
    decoded = open_codec(contract.schema, registry, f"{contract.topic}-value").decode(values, headers)
    if decoded.table.num_rows != 1:
        return _table(ColumnBuilder(contract.schema, Form.JSON), patch)
    types = {each.name: each.type for each in contract.schema.fields}
    if not patch:
        return decoded.table
    changed = _table(ColumnBuilder(_record({name: types[name] for name in patch}), Form.JSON), patch)
    arrays = [(changed if name in patch else decoded.table).column(name) for name in types]
    return pa.Table.from_arrays(arrays, schema=to_arrow(contract.schema))


def _table(builder: ColumnBuilder, patch: Patch) -> pa.Table:
    made = builder.from_rows([patch])
    if made.misfits:
        raise PatchRefused(
            f"the patch's column {made.misfits[0]}", cure="see `headrace dlq show` for the row as it was"
        )
    return made.table


def _record(types: Mapping[str, Any]) -> AvroSchema:
    fields = [{"name": name, "type": avro_type} for name, avro_type in types.items()]
    return AvroSchema.parse({"type": "record", "name": "Patch", "fields": fields})


def changed_columns(frame: pl.DataFrame, patched: pl.DataFrame) -> list[str]:
    """Columns whose value the patch changed."""
    return [name for name in frame.columns if not frame[name].equals(patched[name], null_equal=True)]
