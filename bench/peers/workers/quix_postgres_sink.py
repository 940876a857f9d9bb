"""Quix Streams' own PostgreSQL sink, fed with rows that are in memory: `HOST PORT SCHEMA COUNT KEYS MODE`.

Prints the seconds of its writes. It runs in a virtualenv of its own and imports nothing of headrace.
"""

from __future__ import annotations

import json
import sys
import time

from bench.egress_rows import BATCH, rows
from quixstreams.sinks.base.batch import SinkBatch
from quixstreams.sinks.community.postgresql import PostgreSQLSink


def main(host: str, port: str, schema: str, count: str, keys: str, mode: str) -> None:
    keyed = {"primary_key_columns": "id", "upsert_on_primary_key": True} if mode == "upsert" else {}
    sink = PostgreSQLSink(
        host=host,
        port=int(port),
        dbname="postgres",
        user="postgres",
        password="",
        table_name="quix_target",
        schema_name=schema,
        include_metadata=False,
        **keyed,
    )
    given = rows(int(count), int(keys))
    sink.setup()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    for start in range(0, len(given), BATCH):
        batch = SinkBatch(topic="orders", partition=0)
        for offset, row in enumerate(given[start : start + BATCH], start):
            batch.append(value=row, key=str(row["id"]), timestamp=0, headers=[], offset=offset)
        sink.write(batch)
    print(json.dumps({"seconds": time.perf_counter() - started_s, "cpu_seconds": time.process_time() - cpu_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
