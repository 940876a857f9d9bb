"""The results as text: a line for each run, and a table of medians.

- Figures of a table are medians over the rounds; a ratio is the median of the ratios within each round, so that what
  slowed a whole round is in both.
- Ratios are to Kafka Streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from bench.peers.rows import Row
from bench.peers.systems import SYSTEMS

BASE = "kafka-streams"
HEAD = (
    ("system", "---"),
    ("records", "---:"),
    ("per second", "---:"),
    ("per CPU-second", "---:"),
    ("warm", "---:"),
    ("ratio", "---:"),
    ("warm ratio", "---:"),
    ("peak MB", "---:"),
    ("first output s", "---:"),
    ("rows out", "---:"),
    ("p50 ms", "---:"),
    ("p99 ms", "---:"),
    ("right", "---"),
)

Case = tuple[str, int, str, int | None]
"""Job, keys, variant, commit interval."""


def line(row: Row) -> str:
    """Of one run, while others follow."""
    parts = [f"{row.round} {row.job:7} {row.keys:>9,} {row.system:16}"]
    if row.variant:
        parts.append(row.variant)
    if row.latency_p50_ms is not None:
        parts.append(f"p50 {row.latency_p50_ms} ms p99 {row.latency_p99_ms} ms")
    parts.append(f"{_whole(row.records_per_cpu_second)}/CPU-s warm {_whole(row.records_per_cpu_second_warm)}")
    parts.append(f"{row.seconds} s {row.cpu_seconds} CPU-s")
    parts.append("right" if row.correct else f"WRONG: {row.error}")
    return "  ".join(parts)


def text(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """All of it, as Markdown."""
    parts = [_table(case, [row for row in rows if case_of(row) == case]) for case in cases(rows)]
    notes = [f"- {name}: {SYSTEMS[name].note}" for name in _in_order(rows) if SYSTEMS[name].note]
    notes += [f"- {name} is missing: {reason.splitlines()[0]}" for name, reason in missing.items()]
    return "\n\n".join([*parts, "\n".join(notes)]).strip()


def case_of(row: Row) -> Case:
    """What rows of one table share."""
    return (row.job, row.keys, row.variant, row.commit_interval_ms)


def cases(rows: Sequence[Row]) -> list[Case]:
    """Each once, in order."""
    return list(dict.fromkeys(case_of(row) for row in rows))


def _in_order(rows: Sequence[Row]) -> list[str]:
    """Systems, as the catalogue has them."""
    measured = {row.system for row in rows}
    return [name for name in SYSTEMS if name in measured]


def _table(case: Case, rows: Sequence[Row]) -> str:
    job, keys, variant, interval_ms = case
    title = f"### {job}" + (f", {keys:,} keys" if keys else "") + (f", {variant}" if variant else "")
    said = [rows[0].delivery.replace("_", " ")] if rows[0].delivery else []
    said += [f"a commit every {interval_ms} ms"] if interval_ms else []
    said += [f"load {min(row.load for row in rows)} to {max(row.load for row in rows)}"]
    lines = ["| " + " | ".join(name for name, _ in HEAD) + " |", "| " + " | ".join(dashes for _, dashes in HEAD) + " |"]
    lines += [_line_of(name, rows) for name in _in_order(rows)]
    return "\n".join([title, "", "; ".join(said) + ".", "", *lines])


def _line_of(name: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row.system == name]

    def of(get: Callable[[Row], float | None]) -> float | None:
        found = [value for value in map(get, own) if value is not None]
        return median(found) if found else None

    cells = [
        name,
        _whole(own[0].records),
        _whole(of(lambda row: row.records_per_second)),
        _whole(of(lambda row: row.records_per_cpu_second)),
        _whole(of(lambda row: row.records_per_cpu_second_warm)),
        _times(ratio(name, rows, lambda row: row.records_per_cpu_second)),
        _times(ratio(name, rows, lambda row: row.records_per_cpu_second_warm)),
        _whole(of(lambda row: row.peak_rss_mb)),
        _fine(of(lambda row: row.first_output_seconds)),
        _whole(of(lambda row: row.output_rows)),
        _fine(of(lambda row: row.latency_p50_ms)),
        _fine(of(lambda row: row.latency_p99_ms)),
        "yes" if all(row.correct for row in own) else "NO",
    ]
    return "| " + " | ".join(cells) + " |"


def ratio(name: str, rows: Sequence[Row], get: Callable[[Row], float | None]) -> float | None:
    """To Kafka Streams in the same round; None where one of them has no such figure."""
    base = {row.round: get(row) for row in rows if row.system == BASE}
    pairs = [(get(row), base.get(row.round)) for row in rows if row.system == name]
    found = [own / other for own, other in pairs if own and other]
    return median(found) if found else None


def _whole(value: float | None) -> str:
    return "" if value is None else f"{round(value):,}"


def _fine(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
