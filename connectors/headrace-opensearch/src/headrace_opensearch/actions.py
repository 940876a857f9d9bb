"""Rows as the lines of bulk requests, column by column.

Owns a document's id, its version, and the text of an action.

- In append an id is topic, partition and offset: a repeat finds it there and is done.
- Else it is the key, and the version is the row's in its source: whatever is older than the document changes nothing.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.shape import record_shape
from headrace.egress.json_columns import TEXT, json_column, json_rows, json_string, text_column
from headrace.egress.sdk import ConnectorConfig, Contract, EgressBatch, Mode


def document_ids(batch: EgressBatch, config: ConnectorConfig, contract: Contract) -> pa.LargeStringArray:
    """The id of each row: the text of a key of one column, a JSON array of several."""
    if config.mode is Mode.APPEND:
        names = [pa.array(values).cast(TEXT) for values in (batch.partition, batch.offset)]
        return pc.binary_join_element_wise(pa.scalar(config.topic, TEXT), *names, pa.scalar("-", TEXT))
    shapes = {child.name: child.shape for child in record_shape(contract.schema).children}
    parts = [json_column(batch.rows.column(name), shapes[name]) for name in batch.key]
    if len(parts) == 1:
        (name,) = batch.key
        texts = text_column(batch.rows.column(name), shapes[name])
        return texts.cast(TEXT) if pa.types.is_large_string(texts.type) else parts[0]
    inside = pc.binary_join_element_wise(*parts, pa.scalar(",", TEXT))
    return _joined("[", inside, "]")


def action_lines(
    batch: EgressBatch, ids: pa.LargeStringArray, config: ConnectorConfig, contract: Contract
) -> pa.LargeBinaryArray:
    """What each row is in a bulk request: a line for a deletion, else two."""
    quoted = json_string(ids)
    sources = json_rows(batch.rows, contract.schema)
    if config.mode is Mode.APPEND:
        return _joined('{"create":{"_id":', quoted, "}}\n", sources, "\n").cast(pa.large_binary())
    versions = pa.array(batch.version).cast(TEXT)
    head = _joined('{"_id":', quoted, ',"version":', versions, ',"version_type":"external_gte"}}\n')
    written = _joined('{"index":', head, sources, "\n")
    return pc.if_else(pa.array(batch.deletes()), _joined('{"delete":', head), written).cast(pa.large_binary())


def _joined(*pieces: pa.Array | str) -> pa.Array:
    texts = [pa.scalar(each, TEXT) if isinstance(each, str) else each for each in pieces]
    return pc.binary_join_element_wise(*texts, pa.scalar("", TEXT))
