"""`python -m bench gateway`: records over HTTP into a topic.

Owns the measurements and what is printed.

- One gateway process; a generator in this process keeps a bounded number of requests under way and sends the next when
  one is answered. Both share the machine: what the generator takes the gateway does not have.
- *single*: one record a request. *keyed*: the same with an Idempotency-Key each. *batch*: NDJSON. *events*: batches of
  CloudEvents, each published once.
- Latency is that of requests; `peak_mb` the gateway's largest memory since it began. Afterwards the topic holds each
  record once, or the run is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from bench.gateway_worker import open_log
from bench.peers.processes import cpu_seconds_of
from headrace.log.port import TopicPartition, TopicSpec
from headrace.testing.broker import running_broker

LOADS = ("single", "keyed", "batch", "events")
PARTITIONS = 4
BATCH = 500
"""Records of a request of many."""
WARM_S = 1.0
ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """One load."""

    load: str
    log: str
    under_way: int
    requests: int
    records: int
    seconds: float
    records_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Server:
    """The gateway under load."""

    process: subprocess.Popen[bytes]
    port: int
    topic: str
    token: str

    def peak_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        [line] = [each for each in text.splitlines() if each.startswith("VmHWM")]
        return int(line.split()[1]) / 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--under-way", type=int, default=64, help="requests of single records at once")
    parser.add_argument("--batches-under-way", type=int, default=4, help="requests of many records at once")
    parser.add_argument("--loads", default=",".join(LOADS), help="names, separated by commas")
    parser.add_argument("--kafka", action="store_true", help="on a broker of this run alone")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """All loads in turn, each on a gateway of its own; 1 when a topic does not hold what was answered."""
    loads = arguments.loads.split(",")
    unknown = [each for each in loads if each not in LOADS]
    if unknown:
        sys.exit(f"unknown load {unknown[0]!r}: one of {', '.join(LOADS)}")
    is_right = True
    with ExitStack() as stack:
        bootstrap = stack.enter_context(running_broker()).bootstrap if arguments.kafka else ""
        for load in loads:
            under_way = arguments.under_way if load in ("single", "keyed") else arguments.batches_under_way
            with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
                line, is_complete = _measured(load, bootstrap, Path(folder) / "log.db", under_way, arguments.seconds)
            is_right &= is_complete
            print(json.dumps(asdict(line)) if arguments.json else _text(line), flush=True)
    return 0 if is_right else 1


def _measured(load: str, bootstrap: str, file: Path, under_way: int, seconds: float) -> tuple[Line, bool]:
    with _server(bootstrap, file) as server:
        latencies, cpu_seconds, elapsed, total = asyncio.run(_loaded(server, load, under_way, seconds))
        peak_mb = server.peak_mb()
    if len(latencies) < 2:
        sys.exit(f"{load}: fewer than two requests in {seconds:g} s; measure longer")
    records = len(latencies) * _records_of(load)
    cut = statistics.quantiles(latencies, n=100)
    line = Line(
        load,
        "kafka" if bootstrap else "embedded",
        under_way,
        len(latencies),
        records,
        round(elapsed, 2),
        round(records / elapsed, 1),
        round(cut[49] * 1_000, 2),
        round(cut[98] * 1_000, 2),
        round(cpu_seconds, 2),
        round(peak_mb, 1),
    )
    found = _visible(bootstrap, file, server.topic)
    if found != total:
        print(f"{load}: {total} records were answered, {found} are in the topic", file=sys.stderr)
    return line, found == total


def _records_of(load: str) -> int:
    return BATCH if load in ("batch", "events") else 1


@contextmanager
def _server(bootstrap: str, file: Path) -> Iterator[Server]:
    topic, token = f"bench{secrets.token_hex(4)}.orders", secrets.token_hex(16)
    log = open_log(bootstrap, str(file))
    admin = log.admin()
    admin.create_topics([TopicSpec(topic, PARTITIONS)])
    admin.close()
    log.close()
    digest = hashlib.sha256(token.encode()).hexdigest()
    given = {"bootstrap": bootstrap, "file": str(file), "topic": topic, "token_sha256": digest}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.gateway_worker", json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(process, int(process.stdout.readline()), topic, token)
    finally:
        process.stdin.close()
        process.wait()


async def _loaded(server: Server, load: str, under_way: int, seconds: float) -> tuple[list[float], float, float, int]:
    """Latencies behind the warm-up, the gateway's processor time, the time of both, and all records answered."""
    url = f"http://127.0.0.1:{server.port}"
    latencies: list[float] = []
    total, number = 0, 0
    connector = aiohttp.TCPConnector(limit=under_way)
    headers = {"Authorization": f"Bearer {server.token}", **_headers(load)}
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
        await _ready(session)
        # The first request registers the schema.
        async with session.post(f"/topics/{server.topic}", data=_body(load, 0)) as answer:
            if answer.status != 200:
                sys.exit(f"{answer.status}: {await answer.read()!r}")
        total += _records_of(load)
        began = time.perf_counter()
        measured_from, until = began + WARM_S, began + WARM_S + seconds
        cpu_before = 0.0

        async def send() -> None:
            nonlocal total, number
            while (start := time.perf_counter()) < until:
                number += 1
                keyed = {"Idempotency-Key": f"k-{number}"} if load == "keyed" else None
                async with session.post(f"/topics/{server.topic}", data=_body(load, number), headers=keyed) as answer:
                    text = await answer.read()
                    if answer.status != 200:
                        sys.exit(f"{answer.status}: {text[:500]!r}")
                end = time.perf_counter()
                total += _records_of(load)
                if start >= measured_from:
                    latencies.append(end - start)

        senders = [asyncio.create_task(send()) for _ in range(under_way)]
        await asyncio.sleep(WARM_S)
        cpu_before = cpu_seconds_of(server.process.pid)
        await asyncio.gather(*senders)
        elapsed = time.perf_counter() - measured_from
        return latencies, cpu_seconds_of(server.process.pid) - cpu_before, elapsed, total


async def _ready(session: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        async with session.get("/ready") as answer:
            if answer.status == 200:
                return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def _headers(load: str) -> dict[str, str]:
    types = {"batch": "application/x-ndjson", "events": "application/cloudevents-batch+json"}
    return {"Content-Type": types.get(load, "application/json")}


def _body(load: str, number: int) -> bytes:
    if load in ("single", "keyed"):
        return _row(number)
    rows = [_row(number * BATCH + part) for part in range(BATCH)]
    if load == "batch":
        return b"\n".join(rows)
    events = [
        b'{"specversion":"1.0","id":"%d-%d","source":"/bench","type":"order","data":%b}' % (number, part, row)
        for part, row in enumerate(rows)
    ]
    return b"[" + b",".join(events) + b"]"


def _row(number: int) -> bytes:
    at = b'"at":"2026-11-22T10:%02d:%02d.250Z"'
    form = b'{"id":%d,"customer":"customer %d","amount":%d.5,"note":"left at the door",' + at + b"}"
    return form % (number, number % 1_000, number % 500, number // 60 % 60, number % 60)


def _visible(bootstrap: str, file: Path, topic: str) -> int:
    """Records that a reader of what is committed finds."""
    log = open_log(bootstrap, str(file))
    consumer = log.consumer()
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(dict.fromkeys(partitions, 0))
    ends = consumer.end_offsets(partitions)
    found = 0
    while any(consumer.position([each])[each] < ends[each] for each in partitions):
        found += sum(len(batch) for batch in consumer.poll(50_000, 0.5))
    consumer.close()
    log.close()
    return found


def _text(line: Line) -> str:
    return (
        f"{line.load:<7} {line.log}: {line.records_per_second:>10,.0f} records/s, p50 {line.p50_ms:.1f} ms,"
        f" p99 {line.p99_ms:.1f} ms, {line.under_way} under way, {line.cpu_seconds:.1f} CPU-s, {line.peak_mb:.0f} MB"
    )
