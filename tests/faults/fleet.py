"""Real worker processes of a workspace on a real broker: started, killed, looked at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from headrace.engine.operator import DELETED
from headrace.engine.topic_reader import TopicReader
from headrace.log.port import TopicPartition
from headrace.workspace.environment import Environment


def worker_processes(supervisor: int) -> list[int]:
    """Process ids of a supervisor's children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == supervisor:
                    found.append(int(entry.name))
    return sorted(found)


@contextlib.contextmanager
def fleet(root: Path, workers: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    """`headrace run` in the environment `kafka`."""
    with (root / "workers.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "run", "--workers", str(workers), "--env", "kafka"],
            cwd=root,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def committed_rows(environment: Environment, topic: str, contract: Any, partitions: int = 4) -> pl.DataFrame:
    """Every read-committed row of a derived topic, by partition and offset; tombstones marked `DELETED`."""
    reader = TopicReader(contract, environment.registry)
    consumer = environment.log.consumer()
    here = [TopicPartition(topic, number) for number in range(partitions)]
    ends = consumer.end_offsets(here)
    consumer.assign(dict.fromkeys(here, -2))
    frames = []
    while any(consumer.position([each])[each] < end for each, end in ends.items() if end):
        frames.extend(reader.read(batch).frame for batch in consumer.poll(100_000, 0.5))
    consumer.close()
    return pl.concat(frames)


def latest(rows: pl.DataFrame, *key: str) -> pl.DataFrame:
    """The rows of a table: the last of each key, without deleted ones."""
    last = rows.unique(list(key), keep="last", maintain_order=True)
    return last.filter(~pl.col(DELETED)).select(pl.exclude("^__.*$"))
