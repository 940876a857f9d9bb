"""What tests of the Redis connector look at."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.shape import Kind, record_shape
from headrace.testing.sink_json import table_of_json

VERSION_FIELD = "seen"
"""Where rows have one it is no column of theirs."""
_BARE = (Kind.BOOLEAN, Kind.INT, Kind.LONG, Kind.RECORD, Kind.ARRAY, Kind.MAP, Kind.UNION, Kind.DURATION)


@dataclass(frozen=True)
class RedisTarget:
    """A server, and how rows are read back from it."""

    url: str
    client: redis.Redis

    def name(self, folder: Path) -> str:
        """A prefix, or a stream, that is this folder's own."""
        return f"test-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}:"

    def keys(self, folder: Path) -> set[str]:
        """Keys under the folder's prefix, without it."""
        prefix = self.name(folder)
        return {key.decode().removeprefix(prefix) for key in self.client.scan_iter(match=f"{prefix}*", count=10_000)}

    def table(self, folder: Path, contract: Contract) -> pa.Table:
        """All rows under the folder's prefix, or in its stream."""
        rows: list[Any] = []
        for key in self.client.scan_iter(match=f"{self.name(folder)}*", count=10_000):
            rows += self._rows(key)
        return table_of_json([_values(row, contract) for row in rows], _nullable(contract))

    def _rows(self, key: bytes) -> list[Any]:
        kind = self.client.type(key)
        if kind == b"string":
            return [_without(json.loads(self.client.get(key) or b""), VERSION_FIELD)]
        if kind == b"hash":
            return [_without(self.client.hgetall(key), VERSION_FIELD.encode())]
        entries = [fields for _, fields in self.client.xrange(key)]
        return [json.loads(fields[b"row"]) if fields.keys() == {b"row"} else fields for fields in entries]


def _nullable(contract: Contract) -> Contract:
    """A value that the source did not tell, of a row that was not there, is null whatever the contract says."""
    definition = contract.schema.definition
    fields = [{**field, "type": _or_null(field["type"])} for field in definition["fields"]]
    return replace(contract, schema=AvroSchema.parse({**definition, "fields": fields}))


def _or_null(kind: Any) -> Any:
    branches = kind if isinstance(kind, list) else [kind]
    return kind if "null" in branches else ["null", *branches]


def _without(row: Mapping[Any, Any], name: Any) -> dict[Any, Any]:
    return {each: value for each, value in row.items() if each != name}


def _values(row: Mapping[Any, Any], contract: Contract) -> dict[str, Any]:
    """JSON as it is; texts of a hash as the JSON of their columns."""
    kinds = {child.name: child.shape.kind for child in record_shape(contract.schema).children}
    if not isinstance(next(iter(row)), bytes):
        return dict(row)
    return {name.decode(): _value(kinds[name.decode()], text) for name, text in row.items()}


def _value(kind: Kind, text: bytes) -> Any:
    if kind in (Kind.BYTES, Kind.FIXED):
        return base64.b64encode(text).decode()
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        return float(text)
    return json.loads(text) if kind in _BARE else text.decode()


@pytest.fixture
def redis_target(redis_url: str) -> Iterator[RedisTarget]:
    with redis.Redis.from_url(redis_url) as client:
        yield RedisTarget(redis_url, client)
