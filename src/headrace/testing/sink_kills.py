"""The long form of the crash test: ten kills during 100,000 changes. Run with `HEADRACE_LONG_FAULTS=1`.

Owns the workload (rows, updates and deletions of the same keys), the kills, and what the target must hold in the end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Connector, Mode
from headrace.testing import sink_child
from headrace.testing.sink_harness import WORKSPACE, Stage, order, order_contract, wait_until

IS_LONG = os.environ.get("HEADRACE_LONG_FAULTS") == "1"
KILLS = 10
CHANGES = 100_000
KEYS = 20_000
SEGMENTS = 5
"""Of what is published between two kills: each a run of rows, then one of deletions."""
DELETIONS = 0.15
"""Share of the changes that are deletions."""
DEADLINE_S = 600.0


class HasConnector(Protocol):
    """What is needed of a suite to start its egress in a process."""

    @property
    def connector(self) -> type[Connector]: ...


class Suite(HasConnector, Protocol):
    """What is needed of `SinkConformance`."""

    def modes(self) -> list[Mode]: ...
    def config(self, folder: Path, mode: Mode, **more: Any) -> EgressConfig: ...
    def check_rows(self, folder: Path, mode: Mode, rows: Sequence[Mapping[str, Any]]) -> None: ...


class Outcome(NamedTuple):
    """What was done, for the docs."""

    connector: str
    mode: str
    changes: int
    kills: int
    rows: int
    """In the target at the end."""
    seconds: float


def survive_kills(suite: Suite, folder: Path, *, changes: int = CHANGES, kills: int = KILLS) -> Outcome:
    """Publish and kill in turn, deliver the rest, and hold the target against the source."""
    mode = Mode.REPLICATE if Mode.REPLICATE in suite.modes() else suite.modes()[0]
    config = suite.config(folder, mode, batch={"rows_max": 500, "age_max_ms": 20})
    source = _Source(random.Random(changes), mode)
    with closing(Stage(folder, order_contract())) as stage:
        started_s = time.monotonic()
        for number in range(kills):
            with process(suite, stage, config) as child:
                before = committed(stage, config)
                source.publish(stage, changes // kills)
                due = before + source.random.randint(1, changes // kills)
                wait_until(lambda due=due: committed(stage, config) >= due, f"delivery {number}", DEADLINE_S)  # type: ignore[misc]
                assert child.poll() is None, "the process ended by itself"
        with process(suite, stage, config):
            end = sum(stage.ends().values())
            wait_until(lambda: committed(stage, config) >= end, "the rest", DEADLINE_S)
        seconds = time.monotonic() - started_s
    suite.check_rows(folder, mode, source.rows())
    return Outcome(suite.connector.__name__, mode.value, changes, kills, len(source.rows()), seconds)


class _Source:
    """What is published, and what the target is to hold for it."""

    def __init__(self, chance: random.Random, mode: Mode) -> None:
        self.random, self._mode = chance, mode
        self._latest: dict[int, dict[str, Any]] = {}
        self._all: list[dict[str, Any]] = []

    def publish(self, stage: Stage, changes: int) -> None:
        for _ in range(SEGMENTS):
            deletions = int(changes / SEGMENTS * DELETIONS) if self._mode is Mode.REPLICATE else 0
            numbers = [self.random.randrange(KEYS) for _ in range(changes // SEGMENTS - deletions)]
            # In mode append each row is one of its own, so that it is known by its id.
            first = len(self._all)
            ids = range(first, first + len(numbers)) if self._mode is Mode.APPEND else numbers
            rows = [order(number, amount=float(first + place)) for place, number in enumerate(ids)]
            stage.publish(rows)
            self._all += rows
            self._latest.update((row["id"], row) for row in rows)
            gone = self.random.sample(sorted(self._latest), min(deletions, len(self._latest)))
            stage.delete([{"id": number} for number in gone])
            for number in gone:
                del self._latest[number]

    def rows(self) -> Sequence[dict[str, Any]]:
        return self._all if self._mode is Mode.APPEND else list(self._latest.values())


@contextmanager
def process(suite: HasConnector, stage: Stage, config: EgressConfig) -> Iterator[subprocess.Popen[bytes]]:
    """The egress in a process that ends by SIGKILL."""
    name = f"{suite.connector.__module__}:{suite.connector.__qualname__}"
    text = sink_child.arguments(stage.log_path, name, config, stage.contract)
    child = subprocess.Popen([sys.executable, "-m", "headrace.testing.sink_child", text])
    try:
        yield child
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


def committed(stage: Stage, config: EgressConfig) -> int:
    """Offsets that the group has committed, all partitions together."""
    with closing(stage.log.admin()) as admin:
        return sum(each.offset for each in admin.group_offsets(config.group(WORKSPACE)).values())
