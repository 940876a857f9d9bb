"""What the measured pairs say: the change, the noise, and whether it is a loss.

- Three processes run in turn: the base, the base once more, and the working tree.
- The change is the median over the rounds of the working tree's cost by the mean of the base's two.
- The noise of this machine at this moment is how far the two of the base are apart in a round, and how far the change
  of a round is from the median. The bound is what four in five of these stay below, and never less than `floor`. A
  change beyond it is a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from statistics import median

import numpy as np

FLOOR = 0.05
NOISE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one workload in one round: processor seconds, or instructions."""

    base: float
    again: float
    """Of the base too, in another process."""
    working: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one workload."""

    workload: str
    records: int
    base: float
    """Median cost of a record: microseconds, or instructions."""
    working: float
    change: float
    """0.1 is ten per cent more."""
    bound: float

    @property
    def is_loss(self) -> bool:
        return self.change > self.bound

    @property
    def is_gain(self) -> bool:
        return self.change < -self.bound


def judge(workload: str, records: int, rounds: Sequence[Costs], *, floor: float, scale: float = 1e6) -> Verdict:
    """The verdict on these rounds."""
    ratios = [each.working / ((each.base + each.again) / 2) for each in rounds]
    change = median(ratios) - 1
    noise = [abs(log(each.again / each.base)) for each in rounds]
    noise += [abs(log(ratio / (1 + change))) for ratio in ratios]
    return Verdict(
        workload=workload,
        records=records,
        base=median((each.base + each.again) / 2 for each in rounds) / records * scale,
        working=median(each.working for each in rounds) / records * scale,
        change=change,
        bound=max(floor, float(np.quantile(noise, NOISE_SHARE))),
    )
