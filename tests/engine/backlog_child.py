"""A worker with a backlog much larger than its bounds, in a process of its own so that its memory can be measured.

`python -m tests.engine.backlog_child FOLDER RECORDS` writes RECORDS small records to each of two topics and merges them
by event time. All of one topic lie before all of the other, so those of the other wait, as many as may, while it is
read on. What was seen is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine import worker
from headrace.engine.sink_writer import SinkWriter
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Outgoing
from tests.engine.harness import Harness

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
    return hr.stream("later").merge(hr.stream("earlier")).filter(col("number") % 10_000 == 0).to("some")


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


class Pressure:
    """The most rows that waited and the most partitions that stood, looked at after each batch: a status, told once a
    second, may miss a pause that a fast machine is through with sooner."""

    def __init__(self) -> None:
        self.rows_waiting = 0
        self.partitions_paused = 0
        self._step = worker.PipelineWorker._back_pressure

    def look(self, running: worker.PipelineWorker, task: Any) -> None:
        """In the place of the worker's own step."""
        self.rows_waiting = max(self.rows_waiting, task.queue.rows_waiting())
        self._step(running, task)
        self.partitions_paused = max(self.partitions_paused, len(running._parts.paused))


def main(folder: Path, records: int) -> None:
    contracts = [readings("earlier"), readings("later")]
    plan = compile_pipeline(merged, {each.topic: each for each in contracts})
    harness = Harness(EmbeddedLog(folder / "log.db"), MemoryRegistry(), contracts, plan, partitions=2)
    for topic, begin in (("earlier", 0), ("later", records)):
        for first in range(begin, begin + records, PIECE):
            harness.produce(encoded(harness, topic, first, PIECE))
    before_mb = megabytes("VmHWM")
    pressure = Pressure()
    worker.PipelineWorker._back_pressure = lambda running, task: pressure.look(running, task)  # type: ignore[method-assign]
    with harness.running() as running:
        harness.wait(running, harness.caught_up, TIMEOUT_S)
    out = sorted(row["number"] for row in harness.rows("some"))
    told = {
        "before_mb": before_mb,
        "peak_mb": megabytes("VmHWM"),
        "rows_waiting": pressure.rows_waiting,
        "partitions_paused": pressure.partitions_paused,
        "is_right": out == list(range(0, 2 * records, 10_000)),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
