"""Durations as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.duration import DURATION_MAX_MS, DurationInvalid, format_duration, parse_duration_ms
from headrace.errors import Where


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
        ("1.5h", 5_400_000),
        ("0.001s", 1),
        ("0s", 0),
        (" 1s ", 1_000),
    ],
)
def test_durations(text: str, duration_ms: int) -> None:
    """One or more numbers with units, whole milliseconds."""
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1x", "1 s s", "0.0001s", "1e3s", "10S", "١s", "9" * 70 + "s", f"{2**53}s", 10, None]
)
def test_what_is_no_duration(text: Any) -> None:
    """Each is refused with its place and an example; a number without a unit above all."""
    with pytest.raises(DurationInvalid) as caught:
        parse_duration_ms(text, where=Where("f.yaml", 3))
    assert str(caught.value).startswith("f.yaml:3: ")


@given(st.integers(0, DURATION_MAX_MS))
def test_a_written_duration_is_read_back(duration_ms: int) -> None:
    """Exactly."""
    assert parse_duration_ms(format_duration(duration_ms)) == duration_ms
