"""`python -m bench peers`: headrace and its peers on one broker, in turn, round by round.

Owns the options, the order of runs, the file of results and the exit status.

- Runs of one round follow each other job by job, the systems of a job one after the other, and the other way round in
  every second round: what disturbs the machine disturbs all.
- All data is published before anything is measured.
- A system that cannot be installed is told and left out; one that `--systems` names must be there.
- A run that fails is a wrong answer, and the others follow.
- The status is 1 when a measured answer was wrong or missing, or a named system is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from bench.peers import plot, report
from bench.peers.installing import PeerMissing
from bench.peers.jobs import JOBS, Job
from bench.peers.latency import Latency
from bench.peers.nexmark import Nexmark
from bench.peers.restore import Restore
from bench.peers.rows import Row
from bench.peers.systems import SYSTEMS, System
from bench.peers.throughput import Throughput
from bench.peers.topics import Topics
from headrace.testing.broker import running_broker

RECORDS = 4_000_000
PARTITIONS = 4
COMMIT_INTERVAL_MS = 100
LIMIT_S = 300.0
LATENCY_S = 20.0
EVENTS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", default=",".join(JOBS), help="names, separated by commas")
    parser.add_argument("--systems", help="names, separated by commas; all that are there, when it is left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the rows: one a line if it ends in .jsonl, else a list")
    parser.add_argument("--plot", metavar="FILE", help="draw the rates as SVG; beside the rows, when left out")
    parser.add_argument("--records", type=int, default=RECORDS, help="orders of a run; slow systems get a part of them")
    parser.add_argument(
        "--keys", help="of J2, J3, J4, SSJ and TABLE, separated by commas; all of the job's, when left out"
    )
    parser.add_argument("--partitions", type=int, default=PARTITIONS)
    parser.add_argument(
        "--commit-interval-ms", type=int, default=COMMIT_INTERVAL_MS, help="of every system that has one"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="of one run")
    parser.add_argument("--latency-seconds", type=float, default=LATENCY_S, help="measured, of one run")
    parser.add_argument("--restore-keys", type=int, default=JOBS["RESTORE"].keys[0], help="of RESTORE")
    parser.add_argument("--events", type=int, default=EVENTS, help="of NEXMARK")


def run(arguments: argparse.Namespace) -> int:
    """Everything asked for."""
    jobs = [JOBS[name] for name in _names(arguments.jobs, JOBS, "job")]
    systems, missing = _installed(arguments.systems)
    cases = [(job, keys) for job in jobs for keys in _keys(job, arguments.keys)]
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        configured = os.environ.get("HEADRACE_TEST_KAFKA")
        bootstrap = configured or stack.enter_context(running_broker()).bootstrap
        topics = stack.enter_context(contextlib.closing(Topics(bootstrap, arguments.partitions)))
        runners = _runners(arguments, topics, stack)
        for job, keys in cases:
            for system in _able(job, systems):
                runners[job.kind].prepare(job, keys, system)
        for number in range(arguments.rounds):
            for job, keys in cases:
                able = _able(job, systems)
                for system in able if number % 2 == 0 else able[::-1]:
                    for row in _all_of(runners[job.kind], job, keys, system, number):
                        rows.append(row)
                        print(report.line(row), file=sys.stderr, flush=True)
                        _write(arguments.json, rows)
    print(report.text(rows, missing))
    picture = arguments.plot or (arguments.json and Path(arguments.json).with_suffix(".svg"))
    if picture:
        Path(picture).write_text(plot.svg(rows), encoding="utf-8")
    return status(rows, missing, named=arguments.systems is not None)


def _all_of(runner: Runner, job: Job, keys: int, system: System, number: int) -> Iterator[Row]:
    """Its rows; one that says what happened where it does not come to its end, so that the others are measured."""
    try:
        yield from runner.runs(job, keys, system, number)
    except Exception as error:  # noqa: BLE001 - told in the row, which is not correct
        yield Row(job.name, keys, system.name, number, 0, error=f"{type(error).__name__}: {error}")


def status(rows: Sequence[Row], missing: Mapping[str, str], *, named: bool) -> int:
    """1 when an answer was wrong or nothing was measured, or a system that was named is missing."""
    return 1 if (named and missing) or not rows or not all(row.correct for row in rows) else 0


class Runner(Protocol):
    """One kind of measurement."""

    def prepare(self, job: Job, keys: int, system: System) -> None:
        """Publish what its runs read."""

    def runs(self, job: Job, keys: int, system: System, number: int) -> Iterator[Row]:
        """The rows of one round."""


def _runners(arguments: argparse.Namespace, topics: Topics, resources: contextlib.ExitStack) -> Mapping[str, Runner]:
    """By kind of job."""
    interval_ms = arguments.commit_interval_ms
    return {
        "throughput": Throughput(topics, arguments.records, interval_ms, arguments.limit),
        "latency": Latency(topics, arguments.latency_seconds, interval_ms),
        "restore": Restore(topics, arguments.restore_keys, interval_ms, resources),
        "nexmark": Nexmark(topics, arguments.events),
    }


def _names(text: str, known: Mapping[str, object], what: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"unknown {what} {unknown[0]!r}: one of {', '.join(known)}")
    return names


def _installed(wanted: str | None) -> tuple[list[System], dict[str, str]]:
    """The systems that can run here, and why others cannot."""
    systems, missing = [], {}
    for name in list(SYSTEMS) if wanted is None else _names(wanted, SYSTEMS, "system"):
        try:
            SYSTEMS[name].install()
            systems.append(SYSTEMS[name])
        except PeerMissing as reason:
            missing[name] = str(reason)
            print(f"{name} is missing: {reason}", file=sys.stderr)
    return systems, missing


def _keys(job: Job, wanted: str | None) -> Sequence[int]:
    """Of the job; those of them that are wanted, or what is wanted where it says nothing of them."""
    if wanted is None or job.name == "J1" or (job.kind != "throughput" and job.name != "TABLE"):
        return job.keys
    return [int(keys) for keys in wanted.split(",")]


def _able(job: Job, systems: Sequence[System]) -> list[System]:
    return [system for system in systems if job.name in system.jobs]


def _write(file: str | None, rows: Sequence[Row]) -> None:
    """All rows so far: a run that is broken off leaves a file that can be read."""
    if file is None:
        return
    lines = [json.dumps(asdict(row)) for row in rows]
    text = "\n".join(lines) if file.endswith(".jsonl") else "[\n" + ",\n".join(lines) + "\n]"
    partial = Path(f"{file}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.rename(file)
