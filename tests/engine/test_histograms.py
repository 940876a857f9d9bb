"""Histograms of columns are those that prometheus-client makes value by value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Histogram

from headrace.engine.histograms import SAMPLE_MAX, ColumnHistograms

BOUNDS = (0.1, 1.0, 5.0)


def shown(histograms: ColumnHistograms) -> dict[str, float]:
    """Samples by name and bound."""
    return {sample.name + sample.labels.get("le", ""): sample.value for sample in histograms.family().samples}


def made() -> ColumnHistograms:
    return ColumnHistograms("age", "Ages.", ["topic"], BOUNDS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 7.0]), max_size=20), max_size=4))
def test_columns_are_counted_like_single_values(columns: Sequence[Sequence[float]]) -> None:
    """Bounds belong to their own bucket, and count, sum and buckets agree with the library's own histogram."""
    ours, theirs = made(), Histogram("age", "Ages.", ["topic"], buckets=BOUNDS, registry=None)
    for column in columns:
        ours.add(("orders",), np.array(column, np.float64))
        for value in column:
            theirs.labels("orders").observe(value)
    (family,) = theirs.collect()
    expected = {
        sample.name + sample.labels.get("le", ""): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    found = shown(ours)
    assert found.keys() == expected.keys()
    assert all(abs(found[name] - value) < 1e-9 for name, value in expected.items())


def test_a_long_column_is_sampled_and_none_is_lost() -> None:
    """The count is exact, and the shares are near."""
    histograms, count = made(), 12 * SAMPLE_MAX + 345
    values = np.random.default_rng(1).uniform(0.0, 10.0, count)
    histograms.add(("orders",), values)
    found = shown(histograms)
    assert found["age_count"] == found["age_bucket+Inf"] == count
    assert abs(found["age_bucket5.0"] / count - 0.5) < 0.05
    assert found["age_sum"] == values.sum()


def test_labels_are_apart() -> None:
    """Each list of label values has its own counts; nothing added is nothing shown."""
    histograms = made()
    assert shown(histograms) == {}
    histograms.add_one(("orders",), 0.5)
    histograms.add_one(("customers",), 9.0)
    counts = {
        (sample.labels["topic"], sample.labels["le"]): sample.value
        for sample in histograms.family().samples
        if sample.name == "age_bucket"
    }
    assert (counts["orders", "1.0"], counts["customers", "5.0"], counts["customers", "+Inf"]) == (1, 0, 1)
