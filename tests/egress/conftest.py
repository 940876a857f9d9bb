"""A stage for each test of the egress room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.egress.config import EgressConfig
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import Mode
from headrace.errors import HeadraceError
from headrace.testing.sink_harness import TOPIC, Stage, order_contract, wait_until

MakeConfig = Callable[..., EgressConfig]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A log with the topic `orders`, three partitions, kind table."""
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@pytest.fixture
def make_config() -> MakeConfig:
    """An egress of that topic; short pauses, small batches."""

    def make(mode: Mode = Mode.APPEND, **more: Any) -> EgressConfig:
        values: dict[str, Any] = {
            "name": "out",
            "topic": TOPIC,
            "connector": "memory",
            "mode": mode,
            "batch": {"rows_max": 50, "age_max_ms": 20},
            "retry": {"first_ms": 1, "max_ms": 5},
            **more,
        }
        return EgressConfig.model_validate(values)

    return make


def ended_with(stage: Stage, runner: EgressRunner, kind: type[HeadraceError]) -> HeadraceError:
    """Run an egress that ends by itself; returns why."""
    with pytest.raises(kind) as raised, stage.running(runner) as thread:
        wait_until(lambda: not thread.is_alive(), "the egress ended")
    return raised.value
