"""Recorded records as a log would hold them, and the contracts that read them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.load import contract_of
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.log.columns import outgoing

FIXTURES = Path(__file__).parent / "fixtures"

TYPES = """
  id:    int
  b:     boolean?
  i2:    int?
  i4:    int?
  i8:    long?
  f4:    float?
  f8:    double?
  n:     decimal(12,3)?
  nn:    decimal(38,10)?
  m:     decimal(12,2)?
  t:     string?
  by:    bytes?
  bit12: string?
  d:     date?
  tm:    time-micros?
  tm3:   time-micros?
  ttz:   string?
  ts:    local-timestamp-micros?
  ts3:   timestamp-micros?
  tstz:  timestamp-micros?
  u:     uuid?
  j:     string?
  md:    {type: "enum?", symbols: [sad, ok, happy]}
  pt:    {type: "record?", fields: {x: double, y: double, wkb: "bytes?", srid: "int?"}}
  ia:    {type: "array?", items: "int?"}
  ta:    {type: "array?", items: "string?"}
  na:    {type: "array?", items: "decimal(8,2)?"}
  da:    {type: "array?", items: "date?"}
  uu:    {type: "array?", items: "uuid?"}
"""


def contract(topic: str, written: str, fields: str, key: str = "id") -> Contract:
    text = f"topic: {topic}\nowner: shop\nkind: change\nformat: {written}\nkey: {key}\nfields:{fields}"
    return contract_of(text, "contract.yaml")


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def records(name: str, topic: str) -> tuple[list[bytes | None], list[bytes | None]]:
    """Keys and values of a topic, in bytes."""
    found = [line for line in lines(name) if line.get("topic") == topic]
    read = base64.b64decode if "avro" in name else str.encode
    keys, values = ([None if line[part] is None else read(line[part]) for line in found] for part in ("key", "value"))
    return keys, values


def registry(name: str) -> MemoryRegistry:
    """A registry with the schemas of a recording, under their ids."""
    made = MemoryRegistry()
    schemas = next((line["schemas"] for line in lines(name) if "schemas" in line), {})
    for number in range(1, max(map(int, schemas), default=0) + 1):
        registered = made.register(f"subject-{number}", AvroSchema.parse(schemas[str(number)]))
        assert registered.id == number
    return made


def binary(values: list[bytes | None]) -> pa.LargeBinaryArray:
    return pa.array(values, pa.large_binary())


__all__ = ["FIXTURES", "TYPES", "binary", "contract", "lines", "outgoing", "records", "registry"]
