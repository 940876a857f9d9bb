"""`python -m bench capture`: database to change topic, headrace beside Debezium's engine.

Owns the measurements and what is printed; `capture_databases` has what differs by database.

- *snapshot*: a table that is there. *stream*: changes that the server writes itself, as quickly as it can, while the
  capture runs, in transactions of 100 rows. From the first record to the last; `cpu_seconds` are those of the capture.
- *lag*: from the commit in the database to where the record can be read, of single rows at a fixed rate.
- headrace writes Avro to Kafka in transactions. Debezium's engine hands JSON to a consumer that only counts: it writes
  nowhere, and is timed before whatever would write.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.capture_databases import DATABASES, Database, new_name
from bench.capture_table import TABLE, TOPIC, contract
from bench.peers import debezium
from bench.peers.installing import PeerMissing
from bench.peers.processes import cpu_seconds_of
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.kafka import KafkaLog
from headrace.log.port import TopicPartition, TopicSpec
from headrace.log.schema_topic import SchemaTopic
from headrace.testing.broker import running_broker
from headrace.testing.kafka_service import ADDRESS_VARIABLE

SYSTEMS = ("headrace", "debezium")
ROWS_OF_A_TRANSACTION = 100
RATE = 200
"""Rows a second, of the lag."""
FIRST_S = 3.0
"""Of the lag: left out, while everything becomes warm."""
TIMEOUT_S = 600.0
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Rate:
    """How quickly records came."""

    system: str
    measurement: str
    records: int
    seconds: float
    records_per_second: float
    cpu_seconds: float
    records_per_cpu_second: float


@dataclass(frozen=True, slots=True)
class Lag:
    """From commit to topic."""

    system: str
    measurement: str
    records: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Setting:
    """A server and a broker for one run of one system."""

    database: Database
    kind: str
    url: str
    bootstrap: str
    folder: Path
    name: str

    def execute(self, *statements: str) -> None:
        with self.database.session(self.url) as session:
            for each in statements:
                session.execute(each)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", choices=sorted(DATABASES), default="postgres")
    parser.add_argument("--rows", type=int, default=500_000, help="of the snapshot, and again of the stream")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the lag")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="names, separated by commas")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """All measurements, the systems in turn."""
    systems = arguments.systems.split(",")
    unknown = [each for each in systems if each not in SYSTEMS]
    if unknown:
        sys.exit(f"unknown system {unknown[0]!r}: one of {', '.join(SYSTEMS)}")
    found: list[Rate | Lag] = []
    with _servers(arguments.database) as (url, bootstrap):
        for _ in range(arguments.rounds):
            for system in systems:
                try:
                    place = arguments.database, url, bootstrap
                    for line in _measured(system, place, arguments.rows, arguments.seconds):
                        found.append(line)
                        print(json.dumps(asdict(line)) if arguments.json else _text(line), flush=True)
                except PeerMissing as missing:
                    print(f"{system} is left out: {missing}", file=sys.stderr)
    if not arguments.json:
        print("\n".join(_ratios(found)))
    return 0


@contextmanager
def _servers(kind: str) -> Iterator[tuple[str, str]]:
    """Of this run alone, or those that the environment names."""
    database = DATABASES[kind]
    url, bootstrap = os.environ.get(database.url_variable), os.environ.get(ADDRESS_VARIABLE)
    with ExitStack() as stack:
        yield (
            url or stack.enter_context(database.server.running()).url,
            bootstrap or stack.enter_context(running_broker()).bootstrap,
        )


def _measured(system: str, place: tuple[str, str, str], rows: int, seconds: float) -> Iterator[Rate | Lag]:
    with _setting(*place) as setting:
        table = setting.database.table
        setting.execute(table.create, table.fill(1, rows))
        output = setting.folder / "counts"
        with _capture(system, setting, output, counts_only=True) as process:
            yield _rate(system, "snapshot", process, output, 0, rows)
            before = cpu_seconds_of(process.pid)
            _await(lambda: setting.database.is_streaming(setting.url), process)
            setting.execute(table.transactions(rows + 1, 2 * rows, ROWS_OF_A_TRANSACTION))
            yield _rate(system, "stream", process, output, rows, rows, before)
    with _setting(*place) as setting:
        setting.execute(table.create, table.fill(1, 1))
        output = setting.folder / "records"
        with _capture(system, setting, output, counts_only=False) as process:
            _await(lambda: bool(_lines(output)) and setting.database.is_streaming(setting.url), process)
            yield _lag(system, _paced(setting, seconds, process, output, is_ours=system == "headrace"))


@contextmanager
def _setting(kind: str, server: str, bootstrap: str) -> Iterator[Setting]:
    database, name = DATABASES[kind], new_name()
    with database.made(server, name) as url, tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        yield Setting(database, kind, url, bootstrap, Path(folder), name)


@contextmanager
def _capture(system: str, setting: Setting, output: Path, *, counts_only: bool) -> Iterator[subprocess.Popen[bytes]]:
    if system == "debezium":
        given = setting.database.properties(setting.url, setting.name)
        with debezium.engine(given, output, counts_only=counts_only) as process:
            yield process
        return
    config = {"name": "capture", "database": setting.url, "tables": {TABLE: {"topic": TOPIC}}}
    _set_up(setting, config)
    given = {
        "bootstrap": setting.bootstrap,
        "workspace": setting.name,
        "database": setting.kind,
        "output": str(output),
        "config": config,
    }
    command = [sys.executable, "-m", "bench.capture_worker", json.dumps(given)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _set_up(setting: Setting, config: dict[str, Any]) -> None:
    """A new topic, and what the capture needs in the database."""
    with closing(KafkaLog(setting.bootstrap)) as log:
        admin = log.admin()
        if TOPIC in admin.topics():
            admin.delete_topics([TOPIC])
        admin.create_topics([TopicSpec(TOPIC, 1)])
        admin.close()
        registry = StoredRegistry(SchemaTopic(log))
        capture = setting.database.capture(config, log, registry, {TOPIC: contract()}, setting.name)
        capture.setup()
        capture.close()
        registry.close()


def _rate(
    system: str,
    measurement: str,
    process: subprocess.Popen[bytes],
    output: Path,
    skipped: int,
    records: int,
    cpu_before: float = 0.0,
) -> Rate:
    """Of the records behind the first `skipped`; the batch that comes first only starts the clock."""
    _await(lambda: sum(each["records"] for each in _lines(output)) >= skipped + records, process)
    cpu_seconds = cpu_seconds_of(process.pid) - cpu_before
    seen, batches = 0, []
    for each in _lines(output):
        seen += each["records"]
        if seen > skipped:
            batches.append(each)
    counted = sum(each["records"] for each in batches[1:])
    seconds = (batches[-1]["at_ns"] - batches[0]["at_ns"]) / 1e9
    return Rate(
        system,
        measurement,
        records,
        round(seconds, 3),
        round(counted / seconds, 1) if seconds else 0.0,
        round(cpu_seconds, 2),
        round(records / cpu_seconds, 1) if cpu_seconds else 0.0,
    )


def _paced(
    setting: Setting, seconds: float, process: subprocess.Popen[bytes], output: Path, *, is_ours: bool
) -> list[float]:
    """Milliseconds of each row, from its commit until it can be read."""
    total = int((seconds + FIRST_S) * RATE)
    lags: list[float] = []
    table = setting.database.table
    with setting.database.session(setting.url) as session, _reader(setting, is_ours) as read:
        begin_s = time.monotonic()
        for number in range(total):
            session.execute(table.fill(number + 2, number + 2))
            lags += read()
            left_s = begin_s + (number + 1) / RATE - time.monotonic()
            if left_s > 0:
                time.sleep(left_s)
        deadline = time.monotonic() + TIMEOUT_S
        while is_ours and len(lags) < total:
            lags += read()
            assert time.monotonic() < deadline
    if not is_ours:
        _await(lambda: len(_lines(output)) >= total + 1, process)
        for each in _lines(output):
            value = json.loads(each["value"])
            payload = value.get("payload", value)
            if payload["op"] == "c":
                lags.append(each["at_ns"] / 1e6 - setting.database.at_us(payload["source"], payload["after"]) / 1e3)
    return lags[int(FIRST_S * RATE) :]


@contextmanager
def _reader(setting: Setting, is_ours: bool) -> Iterator[Callable[[], list[float]]]:
    """A reader of the topic: what it has not read yet, as lags."""
    if not is_ours:
        yield list
        return
    with closing(KafkaLog(setting.bootstrap)) as log:
        registry, consumer = StoredRegistry(SchemaTopic(log)), log.consumer()
        codec = open_codec(contract().value_schema, registry, f"{TOPIC}-value")
        consumer.assign({TopicPartition(TOPIC, 0): -2})

        def read() -> list[float]:
            found: list[float] = []
            for batch in consumer.poll(10_000, 0.001):
                now_ms = time.time_ns() / 1e6
                rows = codec.decode(batch.value).table.select(["op", "source", "after"]).to_pylist()
                at_us = [setting.database.at_us(row["source"], row["after"]) for row in rows if row["op"] == "c"]
                found += [now_ms - each / 1e3 for each in at_us]
            return found

        yield read
        consumer.close()
        registry.close()


def _lag(system: str, lags: list[float]) -> Lag:
    cut = statistics.quantiles(lags, n=100)
    return Lag(system, "lag", len(lags), round(cut[49], 1), round(cut[98], 1))


def _ratios(found: list[Rate | Lag]) -> Iterator[str]:
    """headrace by Debezium, of the medians."""
    for measurement in ("snapshot", "stream"):
        medians = {}
        for system in SYSTEMS:
            rates = [each for each in found if isinstance(each, Rate) and each.measurement == measurement]
            own = [each for each in rates if each.system == system]
            if own:
                medians[system] = (
                    statistics.median(each.records_per_second for each in own),
                    statistics.median(each.records_per_cpu_second for each in own),
                )
        if len(medians) == len(SYSTEMS):
            (rate, by_cpu), (their_rate, their_by_cpu) = medians["headrace"], medians["debezium"]
            told = f"{rate / their_rate:.2f} times Debezium's rate, {by_cpu / their_by_cpu:.2f} times by CPU-second"
            yield f"{measurement}: {told}"


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _await(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, "the capture ended"
        assert time.monotonic() < deadline, "the capture does not come to the end"
        time.sleep(0.1)


def _text(line: Rate | Lag) -> str:
    figures = {name: value for name, value in asdict(line).items() if name not in ("system", "measurement")}
    return f"{line.measurement:9} {line.system:9} " + "  ".join(f"{name} {value:,}" for name, value in figures.items())
