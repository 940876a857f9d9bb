"""Whether a worker may still take its partitions for its own.

Owns when the worker last had proof of it. Work needs no such proof: what a worker commits that lost its partitions is
refused by the log. Whoever reads its memory asks here first.

- A commit and a new partition are proof. An answer of the log to any question is enough while the last proof or answer
  is younger than `SILENCE_MAX_S`: no session ends so soon.
- After a longer silence (the log was away, the process was stopped) the worker may have lost everything without having
  heard of it. An answer is then followed by `DOUBT_S` in which the news can come.
"""

from __future__ import annotations

SILENCE_MAX_S = 10.0
"""A quarter of a group's usual session; three times the interval of questions to the log."""
DOUBT_S = 6.0
"""A heartbeat's interval and a little more: after that a member has heard that it is none."""


class Contact:
    """Of one worker, on its thread. Times are the worker's clock."""

    def __init__(self, now_s: float) -> None:
        self._heard_s = now_s
        self._is_lost = False
        self._doubt_until_s = now_s

    def proved(self, at_s: float) -> None:
        """The group counted this worker among its members then."""
        self._heard_s, self._is_lost, self._doubt_until_s = at_s, False, at_s

    def is_doubtful(self, answered_s: float | None, now_s: float) -> bool:
        """`answered_s` is when the last question that the log has answered was asked."""
        if answered_s is not None and answered_s > self._heard_s:
            self._heard_s = answered_s
        if now_s - self._heard_s > SILENCE_MAX_S:
            self._is_lost = True
            return True
        if self._is_lost:
            self._is_lost, self._doubt_until_s = False, now_s + DOUBT_S
        return now_s < self._doubt_until_s
