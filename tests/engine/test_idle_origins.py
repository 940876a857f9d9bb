"""An upstream task that said it was idle, and has rows again while its worker cannot say so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.orders import Orders
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.upstream import Upstream
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import OffsetAndMetadata, TopicPartition
from tests.engine.harness import Harness, Running, TopicFrame, raw, wait_until
from tests.engine.test_worker import BEGIN, ORDERS

WATCHED_S = 2.5
"""Longer than an idle partition was ever waited for."""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with closing(EmbeddedLog(tmp_path / "log.db")) as opened:
        yield opened


@hr.pipeline(owner="test")
def hourly() -> Any:
    """Orders by customer and hour, each window once."""
    grouped = hr.stream("orders").group_by("customer").window(hr.tumbling("1h"))
    return grouped.agg(orders=hr.count()).to("hourly", emit="final")


def publish(run: Harness, partition: int, *times: timedelta) -> None:
    """Orders of ten customers at each time, all in one partition."""
    rows = [
        {"order_id": f"o{at}{n}", "customer": f"c{n}", "amount": n, "placed_at": BEGIN + at}
        for at in times
        for n in range(10)
    ]
    outgoing, errors = SinkWriter(ORDERS, run.registry).encode(TopicFrame(ORDERS).frame(rows))
    assert not errors
    values = [outgoing.value[n].as_py() for n in range(len(rows))]
    record = raw("orders", values, [outgoing.key[n].as_py() for n in range(len(rows))])  # type: ignore[index]
    run.produce(type(record)(record.topic, record.value, record.key, np.full(len(rows), partition, np.int32)))


def source_partition(worker: Running) -> set[int]:
    """Of `orders`; its tasks are those of the first subtopology."""
    return {int(task.split("_")[1]) for task in worker.worker.status().tasks if task.startswith("0_")}


def test_time_waits_for_rows_that_a_silent_worker_has_not_read(log: EmbeddedLog) -> None:
    """Its partition was idle, then got rows; whoever reads downstream does not go on without them."""
    run = Harness(log, MemoryRegistry(), [ORDERS], compile_pipeline(hourly, {"orders": ORDERS}), partitions=2)
    orders = Orders()
    with run.running("one") as first, run.running("two", orders=orders) as second:
        wait_until(lambda: len(source_partition(first)) == len(source_partition(second)) == 1, "one partition each")
        (mine,), (theirs,) = source_partition(first), source_partition(second)
        publish(run, mine, timedelta(minutes=1))
        publish(run, theirs, timedelta(minutes=1))
        run.wait(first, run.caught_up)

        def both_said_that_they_are_idle() -> bool:
            marks = list(first.worker._parts.tasks._marks.values())
            return bool(marks) and all(len(each.idle) == 2 for each in marks)

        run.wait(first, both_said_that_they_are_idle)
        orders.pause()
        run.wait(second, lambda: second.worker.status().state == "paused")
        publish(run, theirs, timedelta(minutes=30))
        publish(run, mine, timedelta(hours=5), timedelta(hours=9))
        until = time.monotonic() + WATCHED_S
        while time.monotonic() < until:
            assert run.rows("hourly") == []
            time.sleep(0.1)
        orders.resume()
        run.wait(first, lambda: len(run.rows("hourly")) >= 20)
        assert first.worker.status().dropped == second.worker.status().dropped == {}
    found = {(row["customer"], row["window_start"]): row["orders"] for row in run.rows("hourly")}
    assert {count for (_, start), count in found.items() if start == BEGIN} == {3}


def test_the_group_says_what_is_processed(log: EmbeddedLog) -> None:
    """Done: every partition is committed to its end, or has none; an answer is given once, to who asked."""
    run = Harness(log, MemoryRegistry(), [ORDERS], compile_pipeline(hourly, {"orders": ORDERS}), partitions=2)
    publish(run, 0, timedelta(minutes=1))
    upstream = Upstream(log, "readers")
    consumer = log.consumer(group="readers")

    def told(*partitions: int) -> bool:
        ticket = upstream.ask([TopicPartition("orders", number) for number in partitions])
        answers: list[bool] = []

        def came() -> bool:
            answer = upstream.answer(ticket)
            answers.extend([] if answer is None else [answer])
            return bool(answers)

        wait_until(came, "the answer")
        assert upstream.answer(ticket) is None
        return answers[0]

    with closing(consumer):
        assert not told(0, 1)
        assert told(1)
        consumer.commit({TopicPartition("orders", 0): OffsetAndMetadata(9)})
        assert not told(0)
        consumer.commit({TopicPartition("orders", 0): OffsetAndMetadata(10)})
        assert told(0, 1)
    upstream.close()
