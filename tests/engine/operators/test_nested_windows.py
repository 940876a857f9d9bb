"""Windows over the final results of windows: the same for any cut, restart and abort, and equal to plain Python.

Final results carry their own event time as stream time, and the aggregate's promise holds the windows below open for
as long as one is still to come. So nothing is late below, and when results come does not show.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.flow.steps import AggregateColumn
from headrace.flow.values import Window, WindowKind
from tests.engine.operators.plan_driver import In, PlanDriver, play
from tests.engine.reference import Reference, Row

TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}
FIELDS: list[dict[str, Any]] = [
    {"name": "sensor", "type": "string"},
    {"name": "value", "type": "long"},
    {"name": "at", "type": TIMESTAMP},
]
READINGS = Contract(
    topic="readings",
    schema=AvroSchema.parse({"type": "record", "name": "Reading", "fields": FIELDS}),
    key=("sensor",),
    time="at",
)
INNER = {
    "tumbling": hr.tumbling("10ms", grace="4ms"),
    "hopping": hr.hopping("10ms", "4ms", grace="3ms"),
    "sliding": hr.sliding("7ms", grace="2ms"),
    "session": hr.session("4ms", grace="3ms"),
}
OUTER_MS, OUTER_GRACE_MS = 20, 0
FAR_MS = 100_000
"""A last row closes everything before it."""


def pipeline(inner: Window) -> Any:
    """Windows of windows: how many there were, and how many rows they had together."""

    def shop() -> Any:
        counts = hr.stream("readings").group_by("sensor").window(inner).agg(n=hr.count(), total=hr.sum("value"))
        finals = counts.suppress(hr.until_closed()).changes()
        outer = finals.group_by("sensor").window(hr.tumbling(f"{OUTER_MS}ms"))
        return outer.agg(windows=hr.count(), rows=hr.sum("n"), most=hr.max("total")).to("nested", emit="final")

    return shop


def reading(sensor: str, time_ms: int, value: int) -> In:
    """A row; sensors a and b are in partition 0, c in partition 1."""
    return In("readings", int(sensor == "c"), time_ms, {"sensor": sensor, "value": value, "at": time_ms})


def expected(inner: Window, rows: Sequence[In]) -> list[tuple[Any, ...]]:
    """The inner windows by the record-at-a-time reference, each counted by its event time, whenever it came."""
    aggregates = [
        AggregateColumn(name="n", function="count", column=None, type="long"),
        AggregateColumn(name="total", function="sum", column="value", type="long"),
    ]
    reference, reached = Reference(["sensor"], inner, aggregates), dict[int, int]()
    finals = []
    for row in rows:
        reached[row.partition] = max(row.time_ms, reached.get(row.partition, 0))
        reference.add(Row(row.partition, row.time_ms, reached[row.partition], row.values))
        finals += reference.close(row.partition, reached[row.partition])
    outer: dict[tuple[Any, ...], list[tuple[int, int]]] = collections.defaultdict(list)
    for each in finals:
        time_ms = each.end_ms if inner.kind is WindowKind.SESSION else each.start_ms
        assert time_ms is not None
        n, total = each.values
        outer[each.key[0], time_ms // OUTER_MS * OUTER_MS].append((n, total))
    return sorted(
        (sensor, start, start + OUTER_MS, len(found), sum(n for n, _ in found), max(total for _, total in found))
        for (sensor, start), found in outer.items()
    )


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[In], dict[int, str]]:
    """Rows out of order, then one that closes everything in each partition; and what happens between them."""
    now, rows = 0, []
    for _ in range(draw(st.integers(1, 30))):
        now += draw(st.sampled_from([0, 1, 1, 2, 5, 14]))
        behind = draw(st.sampled_from([0, 0, 0, 2, 5, 9, 18]))
        rows.append(reading(draw(st.sampled_from("abc")), max(0, now - behind), draw(st.integers(-9, 9))))
    rows += [reading(sensor, FAR_MS, 0) for sensor in "ac"]
    kinds = st.sampled_from(["cut", "cut", "commit", "abort", "restore"])
    return rows, draw(st.dictionaries(st.integers(1, len(rows) - 1), kinds, max_size=10))


@pytest.mark.parametrize("name", list(INNER))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(life=lives())
def test_windows_of_windows_do_not_depend_on_cuts(name: str, life: tuple[list[In], dict[int, str]]) -> None:
    """Each outer window once, with all inner windows whose event time is in it."""
    rows, events = life
    driver = PlanDriver(pipeline(INNER[name]), READINGS)
    found = [row[:6] for row in play(driver, rows, events).get("nested", [])]
    assert sorted(found) == expected(INNER[name], rows)
