"""The results as one SVG picture: a bar for each system, a panel for each job.

- Bars are records per CPU-second, warm where that is known, medians over the rounds, on a logarithmic scale: systems
  differ by a factor of hundreds.
- A hollow bar is a wrong answer. Latency and restore are in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from statistics import median

from bench.peers.report import case_of, cases
from bench.peers.rows import Row
from bench.peers.systems import SYSTEMS

WIDTH, LEFT, RIGHT = 860, 130, 90
BAR, GAP, HEAD, FOOT = 14, 4, 34, 34
COLOURS = {"headrace": "#1f6f8b", "headrace-python": "#4f9db4", "headrace-pure": "#93c4d1"}
OTHERS, FLOOR = "#8a8a8a", "#d0c9a6"


def svg(rows: Sequence[Row]) -> str:
    """The whole picture."""
    panels = [(case, _bars([row for row in rows if case_of(row) == case])) for case in cases(rows)]
    panels = [(case, bars) for case, bars in panels if bars]
    rates = [rate for _, bars in panels for _, rate, _ in bars]
    low = 10 ** int(log10(min(rates, default=1)))
    high = 10 ** (int(log10(max(rates, default=10))) + 1)
    parts, top = [], 8
    for (job, keys, variant, _), bars in panels:
        title = job + (f", {keys:,} keys" if keys else "") + (f", {variant}" if variant else "")
        bottom = top + HEAD + len(bars) * (BAR + GAP)
        parts.append(f'<text x="{LEFT}" y="{top + 20}" font-weight="bold">{escape(title)}</text>')
        parts += _lines(low, high, top + HEAD - 4, bottom)
        for number, bar in enumerate(bars):
            parts += _bar(*bar, top + HEAD + number * (BAR + GAP), low, high)
        top = bottom
    parts += [
        f'<text x="{_place(value, low, high):.1f}" y="{top + 16}" text-anchor="middle">{value:,}</text>'
        for value in _decades(low, high)
    ]
    parts.append(f'<text x="{LEFT}" y="{top + 31}">records per CPU-second of the worker, warm</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + FOOT + 6}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    return "\n".join([f"{head} {style}>", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _bars(rows: Sequence[Row]) -> list[tuple[str, float, bool]]:
    """System, rate and whether it was right."""
    bars = []
    for name in SYSTEMS:
        own = [row for row in rows if row.system == name and row.latency_p50_ms is None]
        rates = [row.records_per_cpu_second_warm or row.records_per_cpu_second for row in own]
        known = [rate for rate in rates if rate]
        if known:
            bars.append((name, float(median(known)), all(row.correct for row in own)))
    return bars


def _bar(name: str, rate: float, right: bool, y: int, low: int, high: int) -> list[str]:
    end = _place(rate, low, high)
    colour = COLOURS.get(name, FLOOR if SYSTEMS[name].copies else OTHERS)
    fill = f'fill="{colour}"' if right else f'fill="none" stroke="{colour}" stroke-dasharray="3 2"'
    return [
        f'<text x="{LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{max(1.0, end - LEFT):.1f}" height="{BAR}" {fill}/>',
        f'<text x="{end + 5:.1f}" y="{y + 11}">{rate:,.0f}{"" if right else " (wrong)"}</text>',
    ]


def _lines(low: int, high: int, top: int, bottom: int) -> list[str]:
    return [
        f'<line x1="{_place(value, low, high):.1f}" x2="{_place(value, low, high):.1f}" y1="{top}" y2="{bottom}" '
        'stroke="#e4e4e4"/>'
        for value in _decades(low, high)
    ]


def _decades(low: int, high: int) -> list[int]:
    return [10**power for power in range(round(log10(low)), round(log10(high)) + 1)]


def _place(value: float, low: int, high: int) -> float:
    share = (log10(value) - log10(low)) / (log10(high) - log10(low))
    return LEFT + share * (WIDTH - LEFT - RIGHT)
