"""The queries of bench/nexmark, in a process of their own for each of headrace's ways to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.peers.jobs import Job
from bench.peers.rows import Row
from bench.peers.systems import System
from bench.peers.topics import Topics

LOGS = {"NEXMARK": "embedded", "NEXMARK-KAFKA": "kafka"}
TIMEOUT_S = 3_600.0
COMMIT_INTERVAL_MS = 100
"""That of the queries' pipelines."""


@dataclass(frozen=True, slots=True)
class Nexmark:
    """What all runs share."""

    topics: Topics
    events: int

    def prepare(self, job: Job, keys: int, system: System) -> None:
        """Nothing: it publishes its own events."""

    def runs(self, job: Job, keys: int, system: System, number: int) -> Iterator[Row]:
        """A row for each query."""
        command = [sys.executable, "-m", "bench", "nexmark", "--json", "--events", str(self.events)]
        done = subprocess.run(
            [*command, "--logs", LOGS[job.name]],
            env={**os.environ, **system.environment, "HEADRACE_TEST_KAFKA": self.topics.bootstrap},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        for line in done.stdout.splitlines():
            found = json.loads(line)
            yield Row(
                job=job.name,
                keys=0,
                system=system.name,
                round=number,
                records=found["records"],
                seconds=found["seconds"],
                cpu_seconds=found["cpu_seconds"],
                records_per_cpu_second=found["records_per_cpu_second"],
                output_rows=found["output_rows"],
                correct=found["correct"],
                records_per_second=found["records_per_second"],
                delivery=job.delivery,
                commit_interval_ms=COMMIT_INTERVAL_MS,
                variant=found["query"],
                load=round(os.getloadavg()[0], 2),
                error="" if found["correct"] else done.stderr[-600:],
            )
        if not done.stdout:
            yield Row(job.name, 0, system.name, number, 0, error=done.stderr[-600:])
