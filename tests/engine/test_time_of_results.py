"""The event time of a window's result: the same inside a pipeline as for whoever reads it from a topic."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import headrace as hr
from headrace.flow.pipeline import Pipeline
from headrace.testing.contracts import contract
from headrace.testing.driver import Driver

CLICKS = contract("clicks", {"page": "string", "at": "timestamp-millis"}, key="page", time="at")
BEGIN_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC."""
LATER = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
"""After all windows but those of the clicks that close them."""


def counted(window: hr.Window) -> Any:
    """Clicks by page and window, once each."""
    return hr.stream("clicks").group_by("page").window(window).agg(clicks=hr.count()).suppress(hr.until_closed())


def busiest(results: Any) -> Any:
    """Over results of windows: how many there were in 2 seconds, and the largest."""
    rows = results.select("page", "clicks", at="window_start").with_columns(all=hr.lit(0))
    return rows.group_by("all").window(hr.tumbling("2s")).agg(rows=hr.count(), most=hr.max("clicks"))


def at_once(window: hr.Window) -> list[Pipeline]:
    @hr.pipeline
    def whole() -> Any:
        return busiest(counted(window).changes()).to("busiest", emit="final")

    return [whole]


def by_a_topic(window: hr.Window) -> list[Pipeline]:
    @hr.pipeline
    def first() -> Any:
        return counted(window).changes().to("counts")

    @hr.pipeline
    def second() -> Any:
        return busiest(hr.stream("counts")).to("busiest", emit="final")

    return [first, second]


def results(pipelines: list[Pipeline], batch: int) -> list[dict[str, Any]]:
    clicks = [("clicks", {"page": "ab"[n % 2], "at": BEGIN_MS + 700 * n}, None) for n in range(60)]
    clicks += [("clicks", {"page": page, "at": BEGIN_MS + 600_000}, None) for page in "ab"]
    clicks += [("clicks", {"page": page, "at": BEGIN_MS + 900_000}, None) for page in "ab"]
    sizes = [batch] * (len(clicks) // batch) + ([len(clicks) % batch] if len(clicks) % batch else [])
    with Driver(*pipelines, contracts=[CLICKS]) as driver:
        driver.publish_many(clicks, batches=sizes)
        assert not driver.dropped
        # A reader of the topic knows of time what the results say, and closes the last windows later.
        found = [row for row in driver.rows("busiest") if row["window_start"] < LATER]
    return sorted(found, key=lambda row: row["window_start"])


@pytest.mark.parametrize("window", [hr.tumbling("2s"), hr.tumbling("10s", grace="3s"), hr.hopping("10s", "2s")])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_results_are_windowed_by_their_start(window: hr.Window, batch: int) -> None:
    """A hopping window of 10 seconds that starts every 2 has its result in the 2 seconds where it starts: no result is
    late, and the largest of each start is the same with a topic between."""
    found = results(at_once(window), batch)
    assert found == results(by_a_topic(window), 64)
    starts = [row["window_start"].timestamp() * 1000 for row in found]
    assert len(set(starts)) == len(starts)
    assert all(row["rows"] == 2 for row in found[1:-1]), "both pages in one window"
