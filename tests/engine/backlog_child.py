"""A worker with a backlog much larger than its bounds, in a process of its own so that its memory can be measured.

`python -m tests.engine.backlog_child FOLDER RECORDS` writes RECORDS small records to one input of a merge, holds the other
input up by an open transaction until the worker has stopped reading, lets go, and waits until everything is done. It prints
what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine import assembly
from headrace.engine.sink_writer import SinkWriter
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Outgoing
from tests.engine.harness import Harness, Running, wait_until

PIECE = 100_000
TIMEOUT_S = 400.0


def readings(topic: str) -> Contract:
    return Contract(
        topic=topic,
        schema=AvroSchema.parse(
            {
                "type": "record",
                "name": "Reading",
                "fields": [
                    {"name": "room", "type": "string"},
                    {"name": "number", "type": "long"},
                    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                ],
            }
        ),
        key=("room",),
        time="at",
    )


@hr.pipeline(owner="test")
def merged() -> Any:
    """One row in ten thousand of two streams, in the order of their time."""
    return hr.stream("many").merge(hr.stream("few")).filter(col("number") % 10_000 == 0).to("some")


def encoded(harness: Harness, topic: str, first: int, count: int) -> Outgoing:
    """Records with numbers and times that go up."""
    numbers = pl.int_range(first, first + count, eager=True)
    frame = pl.DataFrame(
        {
            "room": "room-" + (numbers % 100).cast(pl.String),
            "number": numbers,
            "at": (1_700_000_000_000 + numbers).cast(pl.Datetime("ms", "UTC")),
            "__time_ms": 1_700_000_000_000 + numbers,
        }
    )
    outgoing, errors = SinkWriter(harness.contracts[topic], harness.registry).encode(frame)
    assert not errors
    return outgoing


def megabytes(name: str) -> float:
    """Resident memory of this process: now (`VmRSS`) or at most so far (`VmHWM`)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) / 1000


def stands_still(running: Running, records: int) -> bool:
    """Whether the worker has stopped reading `many`, long before its end."""
    status = running.worker.status()
    return status.partitions_paused > 0 and status.records_in < records


def main(folder: Path, records: int) -> None:
    # On a busy machine the rows could go on before there are too many of them.
    assembly.DEFAULT_MAX_WAIT_MS = 3_600_000
    contracts = [readings("many"), readings("few")]
    plan = compile_pipeline(merged, {each.topic: each for each in contracts})
    harness = Harness(EmbeddedLog(folder / "log.db"), MemoryRegistry(), contracts, plan, partitions=2)
    for first in range(0, records, PIECE):
        harness.produce(encoded(harness, "many", first, PIECE))
    holder = harness.log.producer(transactional_id="holder")
    holder.begin()
    holder.produce(encoded(harness, "few", 0, 100))
    holder.flush()
    before, seen = megabytes("VmRSS"), {}
    with harness.running() as running:
        wait_until(lambda: bool(running.errors) or stands_still(running, records), "back-pressure", TIMEOUT_S)
        time.sleep(1.0)  # Whatever goes on reading does so now.
        status = running.worker.status()
        seen = {"rows_waiting": status.rows_waiting, "read_while_held_up": status.records_in}
        seen["held_up_mb"] = megabytes("VmHWM")
        holder.commit()
        harness.wait(running, harness.caught_up, TIMEOUT_S)
    out = sorted(row["number"] for row in harness.rows("some"))
    expected = sorted([*range(0, records, 10_000), 0])
    print(json.dumps({**seen, "before_mb": before, "peak_mb": megabytes("VmHWM"), "is_right": out == expected}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
