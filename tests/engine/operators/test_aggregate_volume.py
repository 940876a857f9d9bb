"""Enough rows that everything inside grows, moves, is tidied up and spills over message limits."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.flow.values import Emit, Window
from tests.engine.operators.aggregate_driver import END, Driver, aggregate, comparable, make_step, session, tumbling

pytestmark = pytest.mark.usefixtures("each_way")

COLUMNS: dict[str, pl.DataType] = {"key": pl.String(), "text": pl.String(), "number": pl.Float64()}
AGGREGATES = [
    aggregate("rows", "count", None, COLUMNS),
    aggregate("total", "sum", "number", COLUMNS),
    aggregate("least", "min", "text", COLUMNS),
    aggregate("last", "last", "text", COLUMNS),
    aggregate("texts", "count_distinct", "text", COLUMNS),
    aggregate("few", "collect", "text", COLUMNS, limit=3),
    aggregate("most", "top_k", "number", COLUMNS, k=2),
    aggregate("median", "quantile", "number", COLUMNS, q=0.5),
]
BATCH_ROWS = 1_500
BATCHES = 20
Group = list[tuple[int, str, float]]


def batches() -> Iterator[pl.DataFrame]:
    """Rows whose times go on: keys and texts come and go, so that what is held is a part of what was."""
    generator, sequence = np.random.default_rng(3), np.arange(BATCH_ROWS)
    for number in range(BATCHES):
        time_ms = number * 1_000 + np.sort(generator.integers(0, 1_000, BATCH_ROWS))
        keys = generator.integers(0, 300, BATCH_ROWS) + 100 * number
        texts = generator.integers(0, 2_000, BATCH_ROWS) + 1_000 * number
        data = {
            "key": [f"key-{key}" for key in keys.tolist()],
            "text": [f"a text that is not inlined {text}" for text in texts.tolist()],
            "number": generator.integers(-999, 999, BATCH_ROWS) / 8,
            PARTITION: pl.Series(keys % 2, dtype=pl.Int32),
            TIME: time_ms,
            STREAM_TIME: time_ms,
            SEQUENCE: sequence,
            SOURCE: pl.Series([None] * BATCH_ROWS, dtype=SYSTEM_COLUMNS[SOURCE]),
        }
        yield pl.DataFrame(data, {**COLUMNS, **SYSTEM_COLUMNS})


def by_window(window: Window | None) -> dict[tuple[str, int | None], Group]:
    """The rows of each key and window, by plain dictionaries."""
    groups: dict[tuple[str, int | None], Group] = collections.defaultdict(list)
    ends: dict[str, tuple[int, int]] = {}
    for frame in batches():
        for key, time_ms, text, number in frame.select("key", TIME, "text", "number").iter_rows():
            start = None
            if window is not None and window.size_ms:
                start = time_ms // window.size_ms * window.size_ms
            elif window is not None:
                start, end = ends.get(key, (time_ms, time_ms))
                start = start if time_ms <= end + window.gap_ms else time_ms
                ends[key] = start, time_ms
            groups[key, start].append((time_ms, text, number))
    return groups


def expected(rows: Group) -> tuple[Any, ...]:
    """The aggregates over rows in order of time."""
    texts, numbers = [text for _, text, _ in rows], sorted(number for _, _, number in rows)
    middle = (len(numbers) - 1) / 2
    median = (numbers[int(middle)] + numbers[int(middle + 0.5)]) / 2
    return (len(rows), sum(numbers), min(texts), texts[-1], len(set(texts)), texts[:3], numbers[:-3:-1], median)


@pytest.mark.parametrize("window", [tumbling(2_500), session(900), None], ids=["tumbling", "session", "none"])
def test_thirty_thousand_rows_with_aborts_restores_and_snapshots(window: Window | None) -> None:
    """Final rows (without windows: the table) equal dictionaries' answers though state went through everything."""
    driver = Driver(make_step(("key",), window, AGGREGATES, COLUMNS, Emit.FINAL), COLUMNS)
    out: list[pl.DataFrame] = []
    for number, frame in enumerate(batches()):
        if number % 4 == 3:
            out.append(driver.commit())
            _process(driver, frame)
            driver.operator.rollback()
        out.append(_process(driver, frame))
        if number % 3 == 0:
            out.append(driver.commit())
        if number % 6 == 3:
            driver.restore()
        elif number % 6 == 0:
            driver.restore_from_snapshots((0, 1), rows_max=200)
    driver.context.closing = dict.fromkeys((0, 1), END)
    out.extend([driver.operator.advance(driver.context), driver.commit()])
    assert _answers(pl.concat(out)) == {key: comparable(expected(rows)) for key, rows in by_window(window).items()}


def _process(driver: Driver, frame: pl.DataFrame) -> pl.DataFrame:
    last: int = frame[TIME].max()  # type: ignore[assignment]
    driver.operator.process([frame], driver.context)
    driver.context.closing = {0: last, 1: last}
    return driver.operator.advance(driver.context)


def _answers(frame: pl.DataFrame) -> dict[Any, Any]:
    """The last row of each key and window."""
    assert not frame[DELETED].any()
    has_window = "window_start" in frame.columns
    plain = frame.with_columns(pl.col(pl.Datetime).dt.timestamp("ms"))
    names = [each.name for each in AGGREGATES]
    found = {}
    for row in plain.iter_rows(named=True):
        key = row["key"], row["window_start"] if has_window else None
        assert not has_window or key not in found, "each window once"
        found[key] = comparable(tuple(row[name] for name in names))
    return found


def test_memory_goes_with_closed_windows() -> None:
    """After many windows the state is no larger than after a few: dictionaries, lists and indexes are tidied up."""
    driver = Driver(make_step(("key",), tumbling(1_000), AGGREGATES, COLUMNS, Emit.FINAL), COLUMNS)
    sizes = []
    for frame in batches():
        _process(driver, frame)
        driver.operator.commit()
        sizes.append(driver.operator.state_bytes())
    assert sizes[-1] < 2 * max(sizes[:8])
    assert sum(driver.operator.keys_count().values()) < 700
