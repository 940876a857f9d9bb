"""`python -m bench recovery`: the measurements, in turn, and their report.

Owns the order of measurements and what is printed. Each line says how loaded the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.recovery import latency, restoring
from bench.recovery.setting import SESSION_TIMEOUT_MS, Setting, open_setting

KEYS = 5_000_000
RESTORE_WAYS = ("changelog", "changelog, copied to disk", "disk", "snapshot")
COMMIT_INTERVALS_MS = (20, 50, 100)
AT_LEAST_ONCE_MS = 100
"""Between commits of offsets; rows do not wait for them."""
FAILOVER_WAYS = ("disk", "snapshot", "changelog")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure or a few that belong together."""

    measurement: str
    of: str
    figures: Mapping[str, Any]
    load: float
    """Processes that ran or waited for a processor in the minute before."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=int, default=KEYS, help="keys of the state that is restored")
    parser.add_argument("--passes", type=int, default=1, help="how often each key is written before")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each latency measurement")
    parser.add_argument("--records", type=int, default=12_000_000, help="of the scaling measurement")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the soak")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, separated by commas")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """All measurements asked for."""
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        sys.exit(f"unknown measurement {unknown[0]!r}: one of {', '.join(MEASUREMENTS)}")
    with open_setting() as setting:
        for name in MEASUREMENTS:
            if name in names:
                for line in MEASUREMENTS[name](setting, arguments):
                    print(json.dumps(asdict(line)) if arguments.json else _text(line), flush=True)
    return 0


def _line(measurement: str, of: str, **figures: Any) -> Line:
    return Line(measurement, of, figures, round(os.getloadavg()[0], 2))


def _text(line: Line) -> str:
    figures = "  ".join(f"{name} {_number(value)}" for name, value in line.figures.items())
    return f"{line.measurement:10} {line.of:36} {figures}  (load {line.load})"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _restore(setting: Setting, arguments: argparse.Namespace) -> Iterator[Line]:
    started = time.perf_counter()
    seconds = restoring.build(setting, arguments.keys, arguments.passes)
    copied = restoring.store_snapshots(setting, restoring.BUILT)
    yield _line(
        "build",
        f"{arguments.keys:,} keys",
        seconds=round(seconds, 1),
        with_publishing_seconds=round(time.perf_counter() - started, 1),
        disk_mb=round(copied / 1e6, 1),
    )
    for _ in range(arguments.rounds):
        for way in RESTORE_WAYS:
            yield _line("restore", way, **_without(asdict(restoring.measure_restore(setting, way)), "way"))


def _failover(setting: Setting, arguments: argparse.Namespace) -> Iterator[Line]:
    if "restore" not in arguments.only.split(","):
        restoring.build(setting, arguments.keys, arguments.passes)
        restoring.store_snapshots(setting, restoring.BUILT)
    for way in FAILOVER_WAYS:
        found = _without(asdict(restoring.measure_failover(setting, way)), "way")
        yield _line("failover", way, **found, session_timeout_ms=SESSION_TIMEOUT_MS)


def _latency(setting: Setting, arguments: argparse.Namespace) -> Iterator[Line]:
    for interval_ms, job in [*((each, "passed") for each in COMMIT_INTERVALS_MS), (AT_LEAST_ONCE_MS, "forwarded")]:
        found = asdict(latency.measure_latency(setting, interval_ms, arguments.seconds, job))
        told = f"{found['delivery'].replace('_', ' ')}, commit every {interval_ms} ms"
        yield _line("latency", told, **_without(_without(found, "commit_interval_ms"), "delivery"))


def _scaling(setting: Setting, arguments: argparse.Namespace) -> Iterator[Line]:
    for processes in (1, 2):
        found = asdict(latency.measure_scaling(setting, processes, arguments.records))
        yield _line("scaling", f"{processes} processes", **_without(found, "processes"))


def _soak(setting: Setting, arguments: argparse.Namespace) -> Iterator[Line]:
    found = asdict(latency.measure_soak(setting, arguments.minutes))
    yield _line("soak", f"{arguments.minutes:g} minutes", **_without(found, "minutes"))


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


MEASUREMENTS: Mapping[str, Callable[[Setting, argparse.Namespace], Iterator[Line]]] = {
    "restore": _restore,
    "failover": _failover,
    "latency": _latency,
    "scaling": _scaling,
    "soak": _soak,
}
