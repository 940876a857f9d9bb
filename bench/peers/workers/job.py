"""What a Python peer needs to do a job: its orders from the environment, schemas, the wire format.

Imported by the peers in virtualenvs of their own, so it imports nothing but `fastavro` and the standard library.

- Logical types are read as plain numbers: no peer pays for datetime objects, as Java's generic reader does not.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

PREFIX_BYTES = 5

BOOTSTRAP = os.environ["BENCH_BOOTSTRAP"]
JOB = os.environ["BENCH_JOB"]
INPUTS = os.environ["BENCH_INPUTS"].split(",")
OUTPUT = os.environ["BENCH_OUTPUT"]
GROUP = os.environ["BENCH_GROUP"]
STATE = os.environ["BENCH_STATE"]
DELIVERY = os.environ["BENCH_DELIVERY"]
COMMIT_INTERVAL_S = int(os.environ["BENCH_COMMIT_INTERVAL_MS"]) / 1000
RECORDS = int(os.environ["BENCH_RECORDS"])
PARTITIONS = int(os.environ["BENCH_PARTITIONS"])
ENDS = os.environ["BENCH_ENDS"] == "1"
"""Whether the worker ends with its input; only asked of peers without a consumer group."""

WINDOW_MS = 60_000
GRACE_MS = 10_000


def schema(name: str) -> dict[str, Any]:
    """A schema of `bench/peers/schemas`, without logical types."""
    parsed = json.loads((Path(os.environ["BENCH_SCHEMAS"]) / f"{name}.avsc").read_text(encoding="utf-8"))
    for field in parsed["fields"]:
        if isinstance(field["type"], dict) and "logicalType" in field["type"]:
            field["type"] = field["type"]["type"]
    return parsed


def decoder(name: str) -> Callable[[bytes], dict[str, Any]]:
    """Rows from values."""
    parsed = parse_schema(schema(name))

    def decode(value: bytes) -> dict[str, Any]:
        return schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), parsed, None)

    return decode


def encoder(name: str) -> Callable[[dict[str, Any]], bytes]:
    """Values from rows."""
    parsed = parse_schema(schema(name))
    prefix = b"\0" + int(os.environ["BENCH_OUTPUT_SCHEMA_ID"]).to_bytes(4, "big")

    def encode(row: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        out.write(prefix)
        schemaless_writer(out, parsed, row)
        return out.getvalue()

    return encode


class Progress:
    """Tells when the first record, and the one in the middle, went by: of peers whose progress no group shows."""

    __slots__ = ("_half", "_seen")

    def __init__(self) -> None:
        self._seen, self._half = 0, RECORDS // 2

    def count(self) -> None:
        """One more record."""
        self._seen += 1
        if self._seen == 1 or self._seen == self._half:
            # Not print: some peers send sys.stdout to their log.
            os.write(1, f"progress {self._seen} {time.time():.6f}\n".encode())
