"""`python -m bench egress`: rows per second from a topic into each connector's target.

Owns the measurements and what is printed.

- *headrace*: the egress runner over the embedded log, from its start to the commit of the last record: reading,
  decoding, writing, positions. *naive*: a client loop over rows in memory: a statement, command or request a
  row, as the target has it. *quix*: Quix Streams' own PostgreSQL sink over rows in memory, in batches of the same size.
- So headrace does more than the others in its time. All write the same rows; each target is counted afterwards.
- The systems of a target take turns in each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench.egress_rows import BATCH, rows
from bench.egress_target import Target, connector_of
from bench.egress_targets import TARGETS
from bench.peers.installing import PeerMissing
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Mode, load_connector
from headrace.testing.sink_harness import TOPIC, Stage

CHUNK_ROWS = 10_000
_FIELDS = {"id": "long", "customer": "string", "amount": "double", "note": "string"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connectors", default=",".join(TARGETS), help=f"some of {', '.join(TARGETS)}")
    parser.add_argument("--modes", default="append,upsert")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=50_000, help="in mode upsert each comes again after so many rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", default="", help="systems to leave out, such as quix")
    parser.add_argument("--tasks", type=int, default=1, help="of headrace's egress")
    parser.add_argument("--partitions", type=int, default=1, help="of the topic that headrace reads")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when a target holds another number of rows than it should."""
    names = arguments.connectors.split(",")
    unknown = sorted(set(names) - TARGETS.keys())
    if unknown:
        print(f"unknown connector {unknown[0]!r}: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    rates: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    is_right = True
    for _ in range(arguments.rounds):
        for name in names:
            modes = load_connector(connector_of(name)).capabilities.modes
            for mode in (Mode(each) for each in arguments.modes.split(",")):
                if mode in modes:
                    is_right &= _measure(name, mode, arguments, rates)
    for (name, shown, system), found in rates.items():
        rate = statistics.median(found)
        base = statistics.median(rates[name, shown, "headrace"])
        if arguments.json:
            line = {"connector": name, "mode": shown, "system": system, "rows_per_second": round(rate)}
            print(json.dumps({**line, "headrace_is": round(base / rate, 2)}))
        else:
            print(f"{name:12} {shown:7} {system:9} {rate:12,.0f} rows/s   headrace is {base / rate:6.2f}x")
    return 0 if is_right else 1


def _measure(
    name: str, mode: Mode, arguments: argparse.Namespace, rates: dict[tuple[str, str, str], list[float]]
) -> bool:
    keys = arguments.keys if mode is Mode.UPSERT else arguments.rows
    given = rows(arguments.rows, keys)
    without = set(arguments.without.split(","))
    with tempfile.TemporaryDirectory() as folder, TARGETS[name](Path(folder), mode) as target:
        written = given[: target.rows_max]
        shape = arguments.tasks, arguments.partitions
        seconds = _headrace(name, mode, target, written, Path(folder), *shape)
        rates[name, mode.value, "headrace"].append(len(written) / seconds)
        for system, rival in target.rivals.items():
            if system in without:
                continue
            some = given if rival.rows_max is None else given[: rival.rows_max]
            try:
                rates[name, mode.value, system].append(len(some) / rival.write(some, keys))
            except PeerMissing as error:
                print(f"{system} is left out: {error}", file=sys.stderr)
                without.add(system)
        held, wanted = target.count(), min(len(written), keys)
    if held != wanted:
        print(f"{name} {mode.value}: the target holds {held:,} rows, not {wanted:,}", file=sys.stderr)
    return held == wanted


def _headrace(
    name: str,
    mode: Mode,
    target: Target,
    given: Sequence[dict[str, object]],
    folder: Path,
    tasks: int,
    partitions: int,
) -> float:
    fields = [{"name": column, "type": kind} for column, kind in _FIELDS.items()]
    schema = AvroSchema.parse({"type": "record", "name": "Order", "fields": fields})
    contract = Contract(TOPIC, schema, kind=TopicKind.TABLE, key=("id",))
    config = EgressConfig.model_validate(
        {
            "name": "bench",
            "topic": TOPIC,
            "connector": connector_of(name),
            "mode": mode,
            "options": target.options,
            # The rows of several partitions end in the middle of a batch: that one is not to wait for its age.
            "batch": {"rows_max": BATCH} if partitions == 1 else {"rows_max": BATCH, "age_max_ms": 50},
            "tasks": tasks,
        }
    )
    with closing(Stage(folder, contract, partitions=partitions)) as stage:
        for start in range(0, len(given), CHUNK_ROWS):
            stage.publish(given[start : start + CHUNK_ROWS])
        runner = stage.tasks(lambda: load_connector(connector_of(name)), config)
        started_s = time.perf_counter()
        with stage.running(runner):
            while not stage.is_delivered(runner):
                time.sleep(0.005)
            return time.perf_counter() - started_s
