"""What came out of a case against what it expects.

Owns the rules of README.md by which rows are compared, for one record per batch and for any other cut. Each function
returns the first difference, or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tests.semantics.topologies import Case, is_final, is_table, kind_of


class Row(NamedTuple):
    """A row of the output. `value` None is a tombstone, or a null."""

    key: str | None
    window_start: int | None
    window_end: int | None
    value: str | None
    ts: int

    @property
    def place(self) -> tuple[str | None, int | None, int | None]:
        """What later rows replace."""
        return self[:3]

    def __str__(self) -> str:
        window = "" if self.window_start is None else f"[{self.window_start},{self.window_end}]"
        return f"{self.key}{window}={self.value}@{self.ts}"


Found = tuple[Row, int]
"""A row and the input, or batch, that it came after."""


def expected_rows(case: Case) -> list[Found]:
    """What the case expects."""
    return [(_expected(row), row["after"]) for row in case["expected"]]


def _expected(row: dict[str, Any]) -> Row:
    return Row(row["key"], row.get("window_start"), row.get("window_end"), row["value"], row["ts"])


def difference_by_input(case: Case, found: Sequence[Found]) -> str | None:
    """One record per batch: every row after its input."""
    expected = expected_rows(case)
    match = case.get("match", "exact")
    for index in range(len(case["inputs"])):
        want = [row for row, after in expected if after == index]
        got = [row for row, after in found if after == index]
        if match == "last_per_key_per_input":
            want, got = _last(want), _last(got)
        if match != "exact":
            want, got = sorted(want, key=repr), sorted(got, key=repr)
        if want != got:
            return f"after input {index}: expected {_shown(want)}, got {_shown(got)}"
    rest = [row for row, after in found if after >= len(case["inputs"])]
    return f"after all inputs: {_shown(rest)}" if rest else None


def difference_by_batch(
    case: Case, found: Sequence[Found], sizes: Sequence[int], one_by_one: Iterable[Row]
) -> str | None:
    """Any cut. `one_by_one` are the rows that came with one record per batch."""
    expected = expected_rows(case)
    if _meets_later(case):
        expected, found = _timeless(expected), _timeless(found)
        one_by_one = [row._replace(ts=0) for row in one_by_one]
    if is_final(case):
        return _difference(expected, found) or _disorder(found)
    if kind_of(case) == "aggregate" or is_table(case):
        allowed = {*one_by_one, *(row for row, _ in expected)}
        return (
            _strangers(found, allowed) or _state_difference(expected, found) or _missing(case, expected, found, sizes)
        )
    return _difference(expected, found)


def _meets_later(case: Case) -> bool:
    """Whether rows of a table meet what was read together with them only after it: results of a join before, and rows
    that travel to their foreign key. Such a row may find that its partner came and went; then the result is the same,
    and its time is not, for what is gone has no time. The state at the end and the rows shown are compared by value."""
    return is_table(case) and ("then" in case or "_fk_" in case.get("join_type", ""))


def _timeless(rows: Sequence[Found]) -> list[Found]:
    return [(row._replace(ts=0), after) for row, after in rows]


def _last(rows: Sequence[Row]) -> list[Row]:
    return list({row.place: row for row in rows}.values())


def _difference(expected: Sequence[Found], found: Sequence[Found]) -> str | None:
    want, got = Counter(row for row, _ in expected), Counter(row for row, _ in found)
    missing, extra = list((want - got).elements()), list((got - want).elements())
    return f"missing {_shown(missing)}, not expected {_shown(extra)}" if missing or extra else None


def _disorder(found: Sequence[Found]) -> str | None:
    """Final results of a batch come by window start and key."""
    for batch in {batch for _, batch in found}:
        rows = [row for row, at in found if at == batch]
        if rows != sorted(rows, key=lambda row: (row.window_start or 0, row.key or "")):
            return f"batch {batch}: not in the order of windows and keys: {_shown(rows)}"
    return None


def _strangers(found: Sequence[Found], allowed: set[Row]) -> str | None:
    extra = [row for row, _ in found if row not in allowed]
    return f"no cut could show {_shown(extra)}" if extra else None


def _state_difference(expected: Sequence[Found], found: Sequence[Found]) -> str | None:
    want, got = _state(expected), _state(found)
    if want == got:
        return None
    return f"in the end expected {_shown(sorted(want, key=repr))}, got {_shown(sorted(got, key=repr))}"


def _state(rows: Iterable[Found]) -> set[Row]:
    latest = {row.place: row for row, _ in rows}
    return {row for row in latest.values() if row.value is not None}


def _missing(case: Case, expected: Sequence[Found], found: Sequence[Found], sizes: Sequence[int]) -> str | None:
    """Updates of a stream's aggregate: the last row of each key and window in a batch cannot be skipped, and what comes
    is a part of what is expected."""
    if is_table(case) or case.get("match", "exact") == "last_per_key_per_input":
        return None
    more = Counter(row for row, _ in found) - Counter(row for row, _ in expected)
    if more:
        return f"too often {_shown(list(more.elements()))}"
    batch_of = [batch for batch, size in enumerate(sizes) for _ in range(size)]
    standing: set[tuple[Any, ...]] = set()
    for batch in range(len(sizes)):
        here = [row for row, at in found if at == batch]
        for row in _last([row for row, after in expected if batch_of[after] == batch]):
            needed = row.value is not None or row.place in standing
            if needed and row not in here:
                return f"batch {batch}: {row} is missing among {_shown(here)}"
        for row in here:
            (standing.discard if row.value is None else standing.add)(row.place)
    return None


def _shown(rows: Sequence[Row]) -> str:
    return f"[{', '.join(map(str, rows))}]"
