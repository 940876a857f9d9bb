"""Aggregation as the rules say it, one record at a time, over plain Python values.

The engine's operators are compared with this. It keeps every row of every open window and computes results from
scratch, so there is nothing clever in it that could be wrong in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from headrace.flow.steps import AggregateColumn
from headrace.flow.values import Window, WindowKind

LONG_MAX = 2**63 - 1
_END_IS_IN = (WindowKind.SESSION, WindowKind.SLIDING)
DECIMAL_SCALE = 2
"""Digits behind the point of all decimals in these tests."""
RAISES = "raise"
"""The value at which the custom aggregate of these tests raises."""


@dataclass(frozen=True)
class Row:
    """A record as an operator sees it."""

    partition: int
    time_ms: int
    stream_time_ms: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """An output row."""

    partition: int
    key: tuple[Any, ...]
    start_ms: int | None
    end_ms: int | None
    time_ms: int
    stream_time_ms: int
    values: tuple[Any, ...]


@dataclass
class Held:
    """An open window (or session, or group) and its rows in order of arrival."""

    partition: int
    key: tuple[Any, ...]
    start_ms: int | None
    end_ms: int | None
    rows: list[Row] = field(default_factory=list)
    asked_by: list[Row] = field(default_factory=list)
    """Sliding: rows that made the window and are not in it."""


@dataclass(frozen=True)
class Taken:
    """Sliding: a row that some window took."""

    key: tuple[Any, ...]
    row: Row
    reached_ms: int


class Reference:
    """One aggregate step."""

    def __init__(self, group: Sequence[str], window: Window | None, aggregates: Sequence[AggregateColumn]) -> None:
        self.group, self.window, self.aggregates = list(group), window, list(aggregates)
        self.held: list[Held] = []
        self.closed_until: dict[int, int] = {}
        self.dropped: dict[str, int] = {}
        self.refused: list[Row] = []
        self._taken: list[Taken] = []
        self._published: dict[tuple[Any, ...], Held] = {}

    @property
    def table(self) -> list[Result]:
        """What the updates amount to, closed windows included."""
        return [self.result(held) for held in self._published.values()]

    def add(self, row: Row) -> None:
        """Take one record."""
        key = tuple(row.values[name] for name in self.group)
        if self.group and all(part is None for part in key):
            self._drop("null_key")
        elif self.window is None:
            self._put([self._exactly(row, key, None, None)], row)
        elif row.time_ms < 0:
            self._drop("time_before_epoch")
        elif self.window.kind is WindowKind.SESSION:
            self._put_in_session(row, key, self.window)
        elif self.window.kind is WindowKind.SLIDING:
            self._put_in_sliding(row, key, self.window)
        else:
            self._put_in_windows(row, key, self.window)

    def close(self, partition: int, closing_ms: int) -> list[Result]:
        """Close what is due; its final results."""
        due = [held for held in self.held if held.partition == partition and self._is_due(held, closing_ms)]
        if due:
            self.closed_until[partition] = max(closing_ms, self.closed_until.get(partition, closing_ms))
        self.held = [held for held in self.held if held not in due]
        finals = [self.result(held) for held in due]
        # A final row carries its own event time as stream time.
        return [replace(final, stream_time_ms=final.time_ms) for final in finals]

    def close_idle(self, partition: int) -> list[Result]:
        """Close everything, as if stream time had passed it."""
        if self.window is None:
            return []
        ends = [self._open_until(held) for held in self.held if held.partition == partition]
        if not ends:
            return []
        return self.close(partition, max(ends) + (1 if self.window.kind in _END_IS_IN else 0))

    def result(self, held: Held) -> Result:
        """The output row of a window as it is."""
        values = tuple(compute(each, held.rows) for each in self.aggregates)
        time_ms = max(row.time_ms for row in held.rows)
        stream_time_ms = max(row.stream_time_ms for row in [*held.rows, *held.asked_by])
        return Result(held.partition, held.key, held.start_ms, held.end_ms, time_ms, stream_time_ms, values)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _exactly(self, row: Row, key: tuple[Any, ...], start: int | None, end: int | None) -> Held:
        for held in self.held:
            if (held.partition, held.start_ms, held.end_ms) == (row.partition, start, end) and same(held.key, key):
                return held
        return Held(row.partition, key, start, end)

    def _put(self, targets: list[Held], row: Row) -> None:
        if any(self._refuses([*held.rows, row]) for held in targets):
            self.refused.append(row)
            return
        for held in targets:
            held.rows.append(row)
            if held not in self.held:
                self.held.append(held)
            self._publish(held)

    def _publish(self, held: Held) -> None:
        self._published[(held.partition, canonical(held.key), held.start_ms, held.end_ms)] = held

    def _withdraw(self, held: Held) -> None:
        self._published.pop((held.partition, canonical(held.key), held.start_ms, held.end_ms), None)

    def _put_in_windows(self, row: Row, key: tuple[Any, ...], window: Window) -> None:
        reached = max(row.stream_time_ms, self.closed_until.get(row.partition, row.stream_time_ms))
        targets = []
        start = row.time_ms // window.advance_ms * window.advance_ms
        while start >= 0 and start + window.size_ms > row.time_ms:
            if start + window.size_ms + window.grace_ms <= reached:
                self._drop("late")
            else:
                targets.append(self._exactly(row, key, start, start + window.size_ms))
            start -= window.advance_ms
        self._put(targets, row)

    def _put_in_session(self, row: Row, key: tuple[Any, ...], window: Window) -> None:
        reached = max(row.stream_time_ms, self.closed_until.get(row.partition, row.stream_time_ms))
        life = window.gap_ms + window.grace_ms
        met = [
            held
            for held in self.held
            if held.partition == row.partition
            and same(held.key, key)
            and held.start_ms - window.gap_ms <= row.time_ms <= held.end_ms + window.gap_ms
            and held.end_ms + life >= reached
        ]
        met.sort(key=lambda held: (held.start_ms, held.end_ms))
        if not met and row.time_ms + life < reached:
            self._drop("late")
            return
        rows = [*(each for held in met for each in held.rows), row]
        if self._refuses(rows):
            self.refused.append(row)
            return
        for held in met:
            self._withdraw(held)
        self.held = [held for held in self.held if held not in met]
        times = [row.time_ms, *(held.start_ms for held in met), *(held.end_ms for held in met)]
        session = Held(row.partition, key if not met else met[0].key, min(times), max(times), rows)
        self.held.append(session)
        self._publish(session)

    def _open_until(self, held: Held) -> int:
        assert self.window is not None
        if self.window.kind is WindowKind.SESSION:
            return held.end_ms + self.window.gap_ms + self.window.grace_ms
        return held.end_ms + self.window.grace_ms

    def _is_due(self, held: Held, closing_ms: int) -> bool:
        if self.window is None:
            return False
        if self.window.kind in _END_IS_IN:
            return self._open_until(held) < closing_ms
        return self._open_until(held) <= closing_ms

    def _put_in_sliding(self, row: Row, key: tuple[Any, ...], window: Window) -> None:
        """All windows that the rows so far ask for, from scratch; those that this row changes or makes are put."""
        reached = max(row.stream_time_ms, self.closed_until.get(row.partition, row.stream_time_ms))
        if row.time_ms + window.size_ms + window.grace_ms < reached:
            self._drop("late")
            return
        taken = [each for each in self._taken if each.row.partition == row.partition and same(each.key, key)]
        self._drop_for_closed(row, reached, taken, window)
        taken.append(Taken(key, row, reached))
        changed = []
        for start in sorted({start for each in taken for start in self._asked(each, window)}):
            end = start + window.size_ms
            rows = [
                each.row
                for each in taken
                if start <= each.row.time_ms <= end and end + window.grace_ms >= each.reached_ms
            ]
            if rows and (rows[-1] is row or start == row.time_ms + 1):
                changed.append((self._exactly(row, taken[0].key, start, end), rows))
        if not any(rows[-1] is row for _, rows in changed):
            return
        if any(self._refuses(rows) for _, rows in changed):
            self.refused.append(row)
            return
        self._taken.append(taken[-1])
        for held, rows in changed:
            if held not in self.held:
                self.held.append(held)
                held.asked_by.append(row)
            held.rows = rows
            self._publish(held)

    def _drop_for_closed(self, row: Row, reached: int, taken: list[Taken], window: Window) -> None:
        """Count the windows around the row that are closed: its own, and those that earlier rows ask for."""
        own = max(row.time_ms, window.size_ms) - window.size_ms
        for start in {own, *(start for each in taken for start in self._asked(each, window))}:
            if start <= row.time_ms <= start + window.size_ms and start + window.size_ms + window.grace_ms < reached:
                self._drop("late")

    def _asked(self, taken: Taken, window: Window) -> list[int]:
        """Starts of the windows that exist because of a row."""
        end = max(taken.row.time_ms, window.size_ms)
        ends_open = end + window.grace_ms >= taken.reached_ms
        return [taken.row.time_ms + 1, *([end - window.size_ms] if ends_open else [])]

    def _refuses(self, rows: Sequence[Row]) -> bool:
        """Whether the last of these rows takes an aggregate out of its range, or makes a user's function raise."""
        for each in self.aggregates:
            values = [row.values[each.column] for row in rows] if each.column is not None else []
            if each.function == "custom" and values[-1] == RAISES:
                return True
            if each.function == "sum" and _overflows([value for value in values if value is not None]):
                return True
        return False


def _overflows(values: Sequence[Any]) -> bool:
    if values and isinstance(values[0], int):
        return abs(sum(values)) > LONG_MAX
    if values and isinstance(values[0], Decimal):
        return abs(sum(map(Fraction, values))) * 10**DECIMAL_SCALE > 10**38 - 1
    return False


def canonical(value: Any) -> Any:
    """A value that equals itself: NaN and minus zero have one spelling."""
    if isinstance(value, tuple | list):
        return tuple(canonical(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, canonical(each)) for name, each in value.items())
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of keys: nulls are equal, NaNs are equal."""
    return bool(canonical(left) == canonical(right))


def compute(aggregate: AggregateColumn, rows: Iterable[Row]) -> Any:
    """One aggregate over rows in order of arrival."""
    rows = list(rows)
    if aggregate.function == "count" and aggregate.column is None:
        return len(rows)
    if aggregate.function == "custom":
        return "".join(f"{row.values[aggregate.column]};" for row in rows)
    pairs = [(row.time_ms, row.values[aggregate.column]) for row in rows if row.values[aggregate.column] is not None]
    return FUNCTIONS[aggregate.function](pairs, aggregate.options)


Pairs = list[tuple[int, Any]]


def _values(pairs: Pairs) -> list[Any]:
    return [value for _, value in pairs]


def _order(value: Any) -> Any:
    """Sort key that puts NaN after all numbers."""
    return (math.isnan(value), value) if isinstance(value, float) else value


def _sum(pairs: Pairs, options: Mapping[str, Any]) -> Any:
    values = _values(pairs)
    if not values:
        return None
    return float_sum(values) if isinstance(values[0], float) else exact_sum(values)


def exact_sum(values: Sequence[Any]) -> Any:
    """Integers and decimals."""
    if isinstance(values[0], int):
        return sum(values)
    total = sum((Fraction(value) * 10**DECIMAL_SCALE for value in values), Fraction(0))
    sign, digits = (1 if total < 0 else 0), tuple(int(digit) for digit in str(abs(int(total))))
    return Decimal((sign, digits, -DECIMAL_SCALE))


def float_sum(values: Sequence[float]) -> float:
    """The exact sum, terms cut off below a window that hangs from the largest; NaN and infinities as usual."""
    special = sum((value for value in values if not math.isfinite(value)), 0.0)
    if special != 0.0:
        return special
    return _to_float(windowed(values))


def windowed(values: Sequence[float]) -> Fraction:
    """The exact sum of finite values, each cut off (towards zero) below the window."""
    tops = [(math.frexp(value)[1] - 1 + 1074) // 32 for value in values if value]
    unit = Fraction(2) ** (32 * (max(tops, default=0) - 3) - 1074)
    return sum((math.trunc(Fraction(value) / unit) * unit for value in values), Fraction(0))


def _to_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _mean(pairs: Pairs, options: Mapping[str, Any]) -> Any:
    values = _values(pairs)
    if not values:
        return None
    if isinstance(values[0], float):
        return float_sum(values) / len(values)
    return float(Fraction(exact_sum(values)) / len(values))


def _variance(pairs: Pairs) -> Fraction | float | None:
    values = [float(value) for value in _values(pairs)]
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return sum(((each - mean) ** 2 for each in exact), Fraction(0)) / (len(exact) - 1)


def _var(pairs: Pairs, options: Mapping[str, Any]) -> Any:
    variance = _variance(pairs)
    return _to_float(variance) if isinstance(variance, Fraction) else variance


def _std(pairs: Pairs, options: Mapping[str, Any]) -> Any:
    variance = _variance(pairs)
    if not isinstance(variance, Fraction):
        return variance
    # The variance itself may be too small for a double where its root is not.
    wide = Context(prec=60)
    return float(wide.sqrt(wide.divide(Decimal(variance.numerator), Decimal(variance.denominator))))


def _quantile(pairs: Pairs, options: Mapping[str, Any]) -> Any:
    values = sorted((float(value) + 0.0 for value in _values(pairs)), key=_order)
    if not values:
        return None
    if options.get("accuracy") is not None:
        return values[math.floor((len(values) - 1) * options["q"])]
    position = (len(values) - 1) * options["q"]
    low, high = values[math.floor(position)], values[math.ceil(position)]
    part = position - math.floor(position)
    return low if part == 0 or low in (high, -math.inf) else low + (high - low) * part


def _edge(choose: Callable[..., Any]) -> Callable[[Pairs, Mapping[str, Any]], Any]:
    def edge(pairs: Pairs, options: Mapping[str, Any]) -> Any:
        if not pairs:
            return None
        return choose((time_ms, index, value) for index, (time_ms, value) in enumerate(pairs))

    return edge


FUNCTIONS: dict[str, Callable[[Pairs, Mapping[str, Any]], Any]] = {
    "count": lambda pairs, options: len(pairs),
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "std": _std,
    "min": lambda pairs, options: min(_values(pairs), key=_order, default=None),
    "max": lambda pairs, options: max(_values(pairs), key=_order, default=None),
    "first": _edge(lambda each: min(each, key=lambda item: item[:2])[2]),
    "last": _edge(lambda each: max(each, key=lambda item: item[:2])[2]),
    "count_distinct": lambda pairs, options: len({canonical(value) for value in _values(pairs)}),
    "quantile": _quantile,
    "top_k": lambda pairs, options: sorted(_values(pairs), key=_order, reverse=True)[: options["k"]],
    "collect": lambda pairs, options: _values(pairs)[: options["limit"]],
}
