"""A broker that goes away under a running worker and comes back."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from headrace.contracts.registry_memory import MemoryRegistry
from headrace.flow.compile import compile_pipeline
from headrace.log.kafka import KafkaLog
from headrace.testing.broker import start_broker, stop_broker
from headrace.testing.kafka_jars import missing_programs
from headrace.testing.kafka_service import is_required
from tests.engine.harness import Harness
from tests.engine.test_worker import BEGIN, ORDERS, canonical, hourly, hourly_answer, orders

OUTAGE_S = 8.0


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_outage_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The worker waits, says so, goes on by itself, and drains when it is told to; the answer is that of the batch."""
    reason = missing_programs()
    if reason and not is_required():
        pytest.skip(reason)
    home = tmp_path / "kafka"
    address = start_broker(home).bootstrap
    try:
        with closing(KafkaLog(address)) as log:
            compiled = compile_pipeline(hourly, {ORDERS.topic: ORDERS})
            run = Harness(log, MemoryRegistry(), [ORDERS], compiled, partitions=2)
            rows = [{**row, "placed_at": BEGIN + timedelta(minutes=n)} for n, row in enumerate(orders(600))]
            expected = hourly_answer(rows)
            with run.running() as worker:
                run.publish("orders", rows[:300])
                run.wait(worker, lambda: worker.worker.status().records_in >= 300)
                assert stop_broker(home)
                time.sleep(OUTAGE_S)
                assert start_broker(home).bootstrap == address
                run.publish("orders", rows[300:])
                run.wait(worker, lambda: run.caught_up() and len(run.records("hourly")) >= len(expected), timeout_s=90)
                assert worker.worker.status().dropped == {}
            assert canonical(run.rows("hourly")) == expected
    finally:
        stop_broker(home)
