"""Metrics of pipelines: every number from the worker's own report, with bounded labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.metrics import OTHER, SERIES_PER_PIPELINE_MAX, EngineMetrics, split
from headrace.engine.settings import RestoreProgress, TopicLag, WorkerStatus
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from tests.engine.harness import Harness, raw, wait_until

NOW_S = 1_800_000_000.0

STATUS = WorkerStatus(
    pipeline="totals",
    instance="host-0",
    state="running",
    started_ms=0,
    updated_ms=0,
    tasks=("0_0", "0_1", "1_0"),
    records_in=1_000,
    rows_out=40,
    commits=7,
    aborts=2,
    dropped={"window:late": 3, "join:null_key": 1},
    dead_letters={"orders:decode:decode.framing": 5},
    stream_time_ms=int((NOW_S - 12.5) * 1000),
    step_rows={("source", "in"): 1_000, ("source", "out"): 995, ("window", "in"): 995, ("window", "out"): 40},
    step_state_keys={"window": 80, "join": 8},
    step_state_bytes={"window": 4_000, "join": 96},
    records_restored=600,
    state_bytes_loaded=7_000,
    restore=RestoreProgress(600, 2_000),
    snapshots={"stored": 5, "failed": 1},
    rebalances={"assigned": 3, "revoked": 2, "lost": 1},
    fenced=1,
    clients_anew={"producer": 4},
    rows_waiting=55,
    partitions_paused=2,
    lag={"orders": TopicLag(120, 1.5), "customers": TopicLag(4, None)},
)


class Scrape:
    """What Prometheus would read."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(metrics)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"pipeline": "totals", **labels})

    def series(self, name: str) -> int:
        return sum(sample.name == name for family in self.registry.collect() for sample in family.samples)


@pytest.fixture
def metrics() -> EngineMetrics:
    return EngineMetrics(clock=lambda: NOW_S)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("headrace_records_in_total", 1_000),
        ("headrace_rows_out_total", 40),
        ("headrace_records_restored_total", 600),
        ("headrace_state_loaded_bytes_total", 7_000),
        ("headrace_commits_total", 7),
        ("headrace_aborts_total", 2),
        ("headrace_tasks", 3),
        ("headrace_fenced_total", 1),
        ("headrace_rows_waiting", 55),
        ("headrace_partitions_paused", 2),
        ("headrace_restoring", 0),
        ("headrace_restore_records", 2_000),
        ("headrace_restore_records_done", 600),
        ("headrace_stream_time_seconds", NOW_S - 12.5),
        ("headrace_stream_time_delay_seconds", 12.5),
    ],
)
def test_each_number_is_the_reports(metrics: EngineMetrics, name: str, value: float) -> None:
    """The latest report of a pipeline is what is shown, under its stable name."""
    metrics.note(replace(STATUS, records_in=1, rows_out=1, commits=1))
    metrics.note(STATUS)
    assert Scrape(metrics).value(name) == value


def test_counts_have_step_and_reason(metrics: EngineMetrics) -> None:
    """Rows dropped by step and reason, dead letters by step, stage and code."""
    metrics.note(STATUS)
    scrape = Scrape(metrics)
    assert scrape.value("headrace_rows_dropped_total", step="window", reason="late") == 3
    assert scrape.value("headrace_rows_dropped_total", step="join", reason="null_key") == 1
    letters = {"step": "orders", "stage": "decode", "code": "decode.framing"}
    assert scrape.value("headrace_dead_letters_total", **letters) == 5


def test_numbers_with_a_name_of_their_own(metrics: EngineMetrics) -> None:
    """State by step, rebalances by what happened, clients made again by kind."""
    metrics.note(STATUS)
    scrape = Scrape(metrics)
    assert scrape.value("headrace_state_keys", step="window") == 80
    assert scrape.value("headrace_state_bytes", step="join") == 96
    assert scrape.value("headrace_rebalances_total", change="revoked") == 2
    assert scrape.value("headrace_snapshots_total", outcome="failed") == 1
    assert scrape.value("headrace_clients_anew_total", client="producer") == 4


def test_rows_of_a_step_by_what_became_of_them(metrics: EngineMetrics) -> None:
    """In and out from the worker; dropped and dead letters are the sums of their own counters."""
    metrics.note(replace(STATUS, dropped={"window:late": 3, "window:null_key": 4}))
    scrape = Scrape(metrics)
    rows = {
        outcome: scrape.value("headrace_step_rows_total", step="window", outcome=outcome)
        for outcome in ("in", "out", "dropped", "dead_letter")
    }
    assert rows == {"in": 995, "out": 40, "dropped": 7, "dead_letter": None}
    assert scrape.value("headrace_step_rows_total", step="orders", outcome="dead_letter") == 5


def test_restoring_is_told(metrics: EngineMetrics) -> None:
    """1 while it lasts; without a restore there is no progress to tell."""
    metrics.note(replace(STATUS, state="restoring"))
    assert Scrape(metrics).value("headrace_restoring") == 1
    metrics.note(replace(STATUS, restore=None))
    scrape = Scrape(metrics)
    assert scrape.value("headrace_restoring") == 0
    assert scrape.value("headrace_restore_records") is None


def test_lag_by_topic(metrics: EngineMetrics) -> None:
    """Records always, seconds where they are known: a made-up 0 would hide a pipeline that reads nothing."""
    metrics.note(STATUS)
    scrape = Scrape(metrics)
    assert scrape.value("headrace_lag_records", topic="orders") == 120
    assert scrape.value("headrace_lag_seconds", topic="orders") == 1.5
    assert scrape.value("headrace_lag_records", topic="customers") == 4
    assert scrape.value("headrace_lag_seconds", topic="customers") is None


def test_unknown_stream_time_is_left_out(metrics: EngineMetrics) -> None:
    """Before the first record there is neither a stream time nor a delay."""
    metrics.note(replace(STATUS, stream_time_ms=None))
    scrape = Scrape(metrics)
    assert scrape.value("headrace_stream_time_seconds") is None
    assert scrape.value("headrace_stream_time_delay_seconds") is None


def test_pipelines_do_not_mix(metrics: EngineMetrics) -> None:
    """Two pipelines of one process have series of their own."""
    metrics.note(STATUS)
    metrics.note(replace(STATUS, pipeline="best", records_in=9))
    scrape = Scrape(metrics)
    assert scrape.value("headrace_records_in_total") == 1_000
    assert scrape.value("headrace_records_in_total", pipeline="best") == 9


def test_commits_and_batches_are_histograms(metrics: EngineMetrics) -> None:
    """Each observation falls into its bucket and counts once."""
    metrics.observe_commit("totals", 0.03)
    metrics.observe_commit("totals", 60.0)
    metrics.observe_batch("totals", 250, 0.2)
    metrics.observe_end_to_end("totals", "orders", np.array([0.04, 0.04, 7.0]))
    scrape = Scrape(metrics)
    assert scrape.value("headrace_commit_seconds_bucket", le="0.025") == 0
    assert scrape.value("headrace_commit_seconds_bucket", le="0.05") == 1
    assert scrape.value("headrace_commit_seconds_bucket", le="+Inf") == 2
    assert scrape.value("headrace_commit_seconds_sum") == pytest.approx(60.03)
    assert scrape.value("headrace_batch_rows_bucket", le="100.0") == 0
    assert scrape.value("headrace_batch_rows_bucket", le="300.0") == 1
    assert scrape.value("headrace_batch_seconds_bucket", le="0.1") == 0
    assert scrape.value("headrace_batch_seconds_bucket", le="0.25") == 1
    assert scrape.value("headrace_end_to_end_seconds_bucket", topic="orders", le="0.05") == 2
    assert scrape.value("headrace_end_to_end_seconds_count", topic="orders") == 3


def test_a_colon_in_a_steps_name_stays_there() -> None:
    """Only the last parts are reason, or stage and code."""
    assert split({"a:b:late": 2}, 2) == {("a:b", "late"): 2}
    assert split({"a:b:decode:decode.framing": 2}, 3) == {("a:b", "decode", "decode.framing"): 2}


def test_series_are_bounded(metrics: EngineMetrics) -> None:
    """However many names there are, series are not, and no count is lost."""
    count = SERIES_PER_PIPELINE_MAX + 250
    metrics.note(replace(STATUS, dropped={f"step{n}:late": 1 for n in range(count)}))
    scrape = Scrape(metrics)
    assert scrape.series("headrace_rows_dropped_total") == SERIES_PER_PIPELINE_MAX + 1
    assert scrape.value("headrace_rows_dropped_total", step=OTHER, reason=OTHER) == 250


def test_nothing_noted_is_nothing_shown(metrics: EngineMetrics) -> None:
    """A process that has just begun has families without samples, and the exposition is valid."""
    text = generate_latest(Scrape(metrics).registry).decode()
    assert "# TYPE headrace_records_in_total counter" in text
    assert 'pipeline="' not in text


READINGS = Contract(
    topic="readings",
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Reading",
            "fields": [{"name": "room", "type": "string"}, {"name": "celsius", "type": "long"}],
        }
    ),
    key=("room",),
    time="$timestamp",
)


@hr.pipeline(owner="test")
def warm() -> Any:
    """Readings above twenty."""
    return hr.stream("readings").filter(col("celsius") > 20).to("readings.warm")


def test_a_worker_tells_what_it_did(tmp_path: Path) -> None:
    """A real worker's metrics count its records, rows, commits, batches and dead letters."""
    contracts = {"readings": READINGS}
    harness = Harness(
        EmbeddedLog(tmp_path / "log.db"), MemoryRegistry(), [READINGS], compile_pipeline(warm, contracts), partitions=1
    )
    harness.publish("readings", [{"room": f"r{n}", "celsius": n} for n in range(40)])
    harness.produce(raw("readings", [b"no frame"]))
    with harness.running() as running:
        harness.wait(running, harness.caught_up)
        scrape = Scrape(harness.metrics)
        wait_until(lambda: (scrape.value("headrace_records_in_total", pipeline="warm") or 0) >= 41, "a report")
        wait_until(lambda: scrape.value("headrace_lag_records", pipeline="warm", topic="readings") == 0, "a lag of 0")
    assert scrape.value("headrace_rows_out_total", pipeline="warm") == 19
    letters = {"step": "source readings", "stage": "decode", "code": "decode.framing"}
    assert scrape.value("headrace_dead_letters_total", pipeline="warm", **letters) == 1
    assert (scrape.value("headrace_commit_seconds_count", pipeline="warm") or 0) >= 1
    assert scrape.value("headrace_batch_rows_sum", pipeline="warm") == 40
    rows = {
        (step, outcome): scrape.value("headrace_step_rows_total", pipeline="warm", step=step, outcome=outcome)
        for step in ("source readings", "filter_celsius", "sink_readings_warm")
        for outcome in ("in", "out")
    }
    assert list(rows.values()) == [41, 40, 40, 19, 19, 19]
    assert scrape.value("headrace_end_to_end_seconds_count", pipeline="warm", topic="readings") == 41
    assert (scrape.value("headrace_batch_seconds_count", pipeline="warm") or 0) >= 1
    assert scrape.value("headrace_rebalances_total", pipeline="warm", change="assigned") == 1
