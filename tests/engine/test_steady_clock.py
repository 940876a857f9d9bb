"""A worker's clock: right when it starts, and steady from then on."""

from __future__ import annotations

from headrace.engine.steady_clock import steady_clock


def test_jumps_of_the_machine_move_nothing() -> None:
    """Only seconds that pass count."""
    machine, monotonic = [1_000.0], [5.0]
    clock = steady_clock(lambda: machine[0], lambda: monotonic[0])
    assert clock() == 1_000.0
    machine[0] -= 3_600
    assert clock() == 1_000.0
    machine[0], monotonic[0] = 9e9, 7.5
    assert clock() == 1_002.5
