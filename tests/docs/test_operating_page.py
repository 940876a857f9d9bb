"""docs/operating.md tells the metrics, paths and headers that the code has, and no others."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from headrace.egress.replay_input import REPLAYS_FROM
from headrace.engine.metrics import EngineMetrics
from headrace.engine.operators import aggregate_state
from headrace.engine.operators.aggregate_late import LATE
from headrace.engine.operators.dedupe import REPEAT
from headrace.engine.operators.drop_nulls import NULL_VALUE
from headrace.engine.replay_rows import ROW_BYTES_MAX
from headrace.log.dead_letters import PREFIX, ROW, Reason, error_headers
from headrace.log.replays import COUNT, OF
from headrace.workspace.config import HttpConfig
from headrace.workspace.health import Health
from headrace.workspace.replay import REPLAYS_MAX
from headrace.workspace.replay_outcomes import REPLAY_RETENTION_MS
from headrace.workspace.supervisor import BACKOFF_FIRST_S, BACKOFF_MAX_S, DRAIN_TIMEOUT_S

TEXT = (Path(__file__).parent.parent.parent / "docs" / "operating.md").read_text(encoding="utf-8")
PIPELINES_ONLY = {f"{PREFIX}original", ROW}
LIMIT = re.compile(r"^\| [^|]+ \| `([a-zA-Z_.]+)` \| ([\d,.]+)[^|]*\| [^|]+ \|$", re.MULTILINE)
METRIC = re.compile(r"^\| `(headrace_[a-z_]+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def exposed(family: Metric) -> str:
    """The name that a query uses."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def families() -> dict[str, str]:
    """Every family of headrace that a worker exposes, by name."""
    registry: CollectorRegistry = Health([], EngineMetrics()).registry
    return {exposed(each): each.type for each in registry.collect() if each.name.startswith("headrace_")}


def test_every_metric_is_listed_and_no_other() -> None:
    """With its type."""
    assert {name: kind for name, kind, _ in METRIC.findall(TEXT)} == families()


def test_labels_are_those_of_the_code() -> None:
    """Beside `pipeline`, or `kind` and `name`, which the text in front of each table tells."""
    from tests.engine.test_metrics import STATUS
    from tests.workspace.test_health import DELAYS, PLANES, TOTALS, status

    metrics = EngineMetrics()
    metrics.note(STATUS)
    metrics.observe_commit("totals", 1)
    metrics.observe_batch("totals", 1, 1)
    metrics.observe_end_to_end("totals", "orders", np.array([1.0]))
    health = Health([TOTALS, PLANES, DELAYS], metrics)
    for component in (TOTALS, PLANES, DELAYS):
        health.note(status(component))
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in METRIC.findall(TEXT)}
    found: dict[str, set[str]] = {}
    for family in health.registry.collect():
        if family.name.startswith("headrace_"):
            labels = {label for sample in family.samples for label in sample.labels}
            found[exposed(family)] = labels - {"pipeline", "kind", "name", "le"}
    assert listed == found


def test_reasons_of_dropped_rows_are_listed() -> None:
    """Each reason that the operators count."""
    reasons = (LATE, aggregate_state.NULL_KEY, aggregate_state.BEFORE_EPOCH, REPEAT, NULL_VALUE)
    for reason in reasons:
        assert f"`{reason}`" in TEXT


def test_headers_of_dead_letters_are_listed() -> None:
    """Each header that a dead letter gets, of an ingress, an egress or a pipeline."""
    place = {"topic": "orders", "partition": 0, "offset": 1, "time": 2}
    written = error_headers(Reason("decode", "decode.framing", "bad"), pipeline="totals", step="s", place=place)
    listed = set(re.findall(r"`(headrace\.error\.[a-z]+)`", TEXT))
    assert listed == {name for name, _ in written} | PIPELINES_ONLY
    assert {OF, COUNT} <= set(re.findall(r"`(headrace\.replay\.[a-z]+)`", TEXT))


def test_bounds_of_replays_are_those_of_the_code() -> None:
    """How long replays wait, how often a record is replayed, how wide a kept row is, where an egress has its."""
    assert (REPLAY_RETENTION_MS, ROW_BYTES_MAX, REPLAYS_MAX) == (3 * 24 * 3_600_000, 64 * 1024, 3)
    assert "They wait three days" in TEXT
    assert "After three replays" in TEXT
    assert "above 64 KiB" in TEXT
    assert f"from number {REPLAYS_FROM:,} on" in TEXT


def test_limits_are_those_of_the_code() -> None:
    """Each bound in the table is a constant of the module that it names, with this value."""
    section = TEXT.split("\n## Limits\n")[1].split("\n## ")[0]
    rows = LIMIT.findall(section)
    assert len(rows) == section.count("\n| ") - 2
    for place, value in rows:
        module, _, constant = place.rpartition(".")
        assert float(value.replace(",", "")) == getattr(import_module(f"headrace.{module}"), constant), place


def test_numbers_are_those_of_the_code() -> None:
    """Waits and defaults that the page tells."""
    assert f"does not drain within {DRAIN_TIMEOUT_S:g} s" in TEXT
    assert f"after {BACKOFF_FIRST_S:g} s, {2 * BACKOFF_FIRST_S:g} s" in TEXT
    assert f"up to {BACKOFF_MAX_S:g} s" in TEXT
    defaults = HttpConfig()
    assert (defaults.host, defaults.port) == ("127.0.0.1", 0)
    assert f"ready_lag_seconds = {defaults.ready_lag_seconds}" in TEXT
