"""How fast an egress goes: the rate limit, the circuit breaker, and what metrics tell of it."""

from __future__ import annotations

import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from headrace.egress.config import BreakerLimits, RetryLimits
from headrace.egress.errors import BreakerOpen
from headrace.egress.metrics import EgressMetrics
from headrace.egress.pace import BURST_S, Breaker, RateLimit
from headrace.egress.sdk import Mode, TargetUnavailable
from headrace.testing.sink_harness import Stage, order, wait_until
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target, failing


@given(
    rate=st.integers(1, 500),
    asks=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1_000)), max_size=60),
)
def test_the_rate_holds_in_every_span(rate: int, asks: list[tuple[float, int]]) -> None:
    """Whoever asks how often: no more than rate times time and one burst; and who waits as told gets a record."""
    now_s = 0.0
    limit = RateLimit(rate, clock=lambda: now_s)
    taken = [(0.0, 0)]
    for after_s, wanted in asks:
        now_s += after_s
        allowed = limit.allowed(wanted)
        limit.took(allowed)
        taken.append((now_s, allowed))
        if not allowed:
            now_s += limit.wait_s() + 1e-9
            assert limit.allowed(1) == 1
    burst = max(1.0, rate * BURST_S)
    for first, (start_s, _) in enumerate(taken):
        sums = 0
        for at_s, count in taken[first:]:
            sums += count
            assert sums <= rate * (at_s - start_s) + burst + 1e-6


def test_without_a_rate_everything_is_allowed() -> None:
    """However much was taken."""
    limit = RateLimit(None)
    limit.took(10**9)
    assert (limit.allowed(10_000), limit.wait_s()) == (10_000, 0.0)


def test_a_limited_egress_serves_its_group(stage: Stage, make_config: MakeConfig) -> None:
    """A large poll is no excuse: the rate holds from the first second on, and nobody takes the partitions away, though
    it lasts longer than a session."""
    target = Target()
    stage.publish([order(number) for number in range(150)])
    started_s = time.monotonic()
    runner = stage.deliver(MemoryConnector(target), make_config(rows_per_second_max=100))
    elapsed_s = time.monotonic() - started_s
    assert target.ids == list(range(150))
    assert elapsed_s >= 150 / 100 - BURST_S
    assert len(target.opened) == 1
    assert runner.counters.retries == 0


def test_the_breaker_opens_probes_and_closes() -> None:
    """After so many failures in a row it leaves the target alone; one failed probe opens it again."""
    breaker = Breaker(RetryLimits(first_ms=1, max_ms=2), BreakerLimits(failures_max=2, open_ms=5_000))
    seen = []
    for step in (breaker.failed, breaker.failed, breaker.probe, breaker.failed):
        step()
        seen.append((breaker.state, breaker.pause_s()))
    assert [state for state, _ in seen] == ["closed", "open", "probing", "open"]
    assert [pause for state, pause in seen if state == "open"] == [5.0, 5.0]
    assert seen[0][1] < 1
    breaker.succeeded()
    assert (breaker.state, breaker.failures) == ("closed", 0)


def test_a_target_that_is_down_is_left_alone_for_a_while(stage: Stage, make_config: MakeConfig) -> None:
    """No call reaches it while the breaker is open; status says so; the probe delivers everything."""
    target = Target()
    stage.publish([order(number) for number in range(10)])
    config = make_config(Mode.APPEND, breaker={"failures_max": 3, "open_ms": 700})
    runner = stage.runner(MemoryConnector(target), config)
    states: list[str] = []
    down = failing("flush", lambda: TargetUnavailable("down"), times=3)

    def fault(call: str) -> None:
        if call == "flush":
            states.append(runner.status().breaker)
        down(call)

    target.fault = fault
    with stage.running(runner):
        wait_until(lambda: runner.status().breaker == "open", "the breaker opens")
        status = runner.status()
        assert isinstance(status.error, BreakerOpen)
        assert "3 attempts failed in a row, the next one in 0.7 s" in str(status.error)
        wait_until(lambda: stage.is_delivered(runner), "everything delivered")
        assert runner.status().breaker == "closed"
    flushes = target.times("flush")
    assert flushes[3] - flushes[2] >= 0.7
    assert states[:4] == ["closed", "closed", "closed", "probing"]
    assert target.ids == list(range(10))


def test_metrics_tell_what_an_egress_did(stage: Stage, make_config: MakeConfig, tmp_path: Path) -> None:
    """One family a metric, with a sample for each egress."""
    target = Target(refuses=lambda row: row["id"] == 3)
    stage.publish([order(number) for number in range(10)])
    stage.delete([{"id": 1}])
    config = make_config(Mode.REPLICATE, filter="amount < 9")
    first = stage.deliver(MemoryConnector(target), config)
    second = stage.runner(MemoryConnector(Target()), make_config(name="other"))
    registry = CollectorRegistry()
    registry.register(EgressMetrics(lambda: [first.status(), second.status()]))
    of = {"name": "out", "connector": "memory"}

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"headrace_egress_{name}", {**of, **labels})

    assert value("records_total") == 11
    rows = {name: value("rows_total", outcome=name) for name in ("written", "deleted", "filtered")}
    assert rows == {"written": 8, "deleted": 2, "filtered": 1}
    assert value("dead_letters_total", stage="deliver", code="memory.refused") == 1
    assert value("breaker", state="closed") == 1
    assert (value("bytes_total") or 0) > 0
    assert (value("flushes_total") or 0) >= 1
    assert registry.get_sample_value("headrace_egress_records_total", {**of, "name": "other"}) == 0
    families = [each.name for each in registry.collect()]
    assert len(families) == len(set(families))
