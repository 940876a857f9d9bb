"""What is compared: a few jobs in process, the codec and the index.

- A workload is prepared once, untimed, and then run as often as asked; each run does the same work.
- Its cost is processor time of the whole process.
- The code here is the working tree's for both sides; headrace is each side's own. What one side lacks cannot be
  compared and is told, never counted as a loss.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import polars as pl

Run = Callable[[], float]
"""Does the work once; returns the processor seconds it took."""
Prepare = Callable[[ExitStack, int], Run]
"""Makes a run over so many records; what must be closed goes on the stack."""

BATCH_ROWS = 10_000
INDEX_KEYS = 100_000


def _timed(work: Callable[[], object]) -> Run:
    def run() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return run


def _pieces(count: int) -> list[slice]:
    return [slice(start, min(start + BATCH_ROWS, count)) for start in range(0, count, BATCH_ROWS)]


def _job(name: str) -> Prepare:
    def prepare(stack: ExitStack, records: int) -> Run:
        from bench import engine, orders, runs
        from headrace.contracts.registry_memory import MemoryRegistry
        from headrace.flow.compile import compile_pipeline

        pipeline, customers = engine.JOBS[name]
        contracts = {orders.TOPIC: orders.CONTRACT}
        log = stack.enter_context(runs.open_log("embedded"))
        registry, compiled = MemoryRegistry(), compile_pipeline(pipeline, contracts)
        runs.make_topics(log, [orders.TOPIC])
        runs.publish(log, registry, orders.CONTRACT, orders.make_orders(records, customers))

        def run() -> float:
            runs.make_topics_of(log, compiled)
            return runs.work(log, registry, compiled, contracts).cpu_seconds

        return run

    return prepare


def _decode(stack: ExitStack, records: int) -> Run:
    """Framed Avro orders to columns."""
    codec, table = _codec(records)
    pieces = [codec.encode(table.slice(each.start, each.stop - each.start)).values for each in _pieces(records)]
    return _timed(lambda: [codec.decode(piece) for piece in pieces])


def _encode(stack: ExitStack, records: int) -> Run:
    """Columns to framed Avro orders."""
    codec, table = _codec(records)
    pieces = [table.slice(each.start, each.stop - each.start) for each in _pieces(records)]
    return _timed(lambda: [codec.encode(piece) for piece in pieces])


def _codec(records: int) -> tuple[Any, Any]:
    from bench import orders
    from headrace.contracts.fastavro_codec import open_codec
    from headrace.contracts.registry_memory import MemoryRegistry

    codec = open_codec(orders.CONTRACT.schema, MemoryRegistry(), "bench.orders-value")
    table = orders.make_orders(records, 1_000).to_arrow().select(codec.arrow_schema.names).cast(codec.arrow_schema)
    return codec, table


def _index(stack: ExitStack, records: int) -> Run:
    """Text keys to numbers, most of them new at first and all known in the end."""
    from headrace.engine.state.group_keys import GroupKeys

    numbers = np.random.default_rng(5).integers(0, INDEX_KEYS, records)
    keys = pl.select(pl.format("customer-{}", pl.Series(numbers))).to_series().alias("customer_id")
    frames = [pl.DataFrame(keys[each.start : each.stop]) for each in _pieces(records)]

    def work() -> None:
        index = GroupKeys({"customer_id": pl.String()})
        for frame in frames:
            index.intern(frame)

    return _timed(work)


WORKLOADS: Mapping[str, Prepare] = {
    "filter_project": _job("filter_project"),
    "tumbling_sum_1k": _job("tumbling_sum_1k"),
    "tumbling_sum_100k": _job("tumbling_sum_100k"),
    "decode": _decode,
    "encode": _encode,
    "index": _index,
}
COUNTED = ("decode", "encode", "index")
"""Those whose instructions can be counted: nothing waits in them."""


class Prepared:
    """Workloads of one process, each made when it is first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._runs: dict[tuple[str, int], Run] = {}

    def run(self, name: str, records: int) -> float:
        """Once; the first time it is run once before, so that caches are warm."""
        if (name, records) not in self._runs:
            self._runs[name, records] = WORKLOADS[name](self._stack, records)
            self._runs[name, records]()
        return self._runs[name, records]()

    def close(self) -> None:
        self._stack.close()
