"""What is asked of connectors that look at their target before they run, or show what they would write.

Owns the tests of `Checks` and `Explains`; `sink_conformance` has them among all others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.contracts.arrow import to_arrow
from headrace.egress.sdk import Checks, EgressBatch, Explains, Mode
from headrace.testing.sink_harness import Stage, order, order_contract
from headrace.testing.sink_suite import SinkSuite, needs

EXPLAINED_ROWS = 10_000
EXPLAINED_CHARACTERS_MAX = 20_000
"""Of all lines for so many rows, which have some hundred thousand."""


class TrialTests(SinkSuite):
    """Nothing is left behind."""

    @needs(suite=lambda suite: isinstance(suite.connector(), Checks))
    def test_a_check_of_a_fine_target_finds_nothing_and_leaves_no_trace(self, stage: Stage, tmp_path: Path) -> None:
        """Where the target is yet to be made, and where rows are in it: no problem, and everything as it was."""
        rows = [order(number) for number in range(20)]
        stage.publish(rows)
        for mode in self.modes():
            folder = tmp_path / mode.value
            config = self.config(folder, mode, name=f"out-{mode.value}")
            before = self.trace(folder)
            assert self._problems(stage, folder, mode) == []
            assert self.trace(folder) == before
            stage.deliver(self.connector(), config)
            before = self.trace(folder)
            assert self._problems(stage, folder, mode) == []
            assert self.trace(folder) == before
            self.check_rows(folder, mode, rows)

    @needs(suite=lambda suite: isinstance(suite.connector(), Explains))
    def test_an_explanation_writes_nothing(self, stage: Stage, tmp_path: Path) -> None:
        """Of many rows a few lines, and the target as it was."""
        for mode in self.modes():
            folder = tmp_path / mode.value
            connector, config, contract = self.opened_parts(
                stage.runner(self.connector(), self.config(folder, mode, name=f"out-{mode.value}"))
            )
            assert isinstance(connector, Explains)
            before = self.trace(folder)
            lines = connector.explain(config, contract, _batch(EXPLAINED_ROWS))
            assert lines
            assert sum(len(line) for line in lines) <= EXPLAINED_CHARACTERS_MAX
            assert not any("\n" in line for line in lines)
            assert self.trace(folder) == before

    def _problems(self, stage: Stage, folder: Path, mode: Mode) -> list[str]:
        """Of a connector that was not opened."""
        config = self.config(folder, mode, name=f"out-{mode.value}")
        connector, given, contract = self.opened_parts(stage.runner(self.connector(), config))
        assert isinstance(connector, Checks)
        return list(connector.check(given, contract))


def _batch(count: int) -> EgressBatch:
    """Rows of partition 0 with keys that differ."""
    rows = [order(number) for number in range(count)]
    offsets = np.arange(count, dtype=np.int64)
    return EgressBatch(
        rows=pa.Table.from_pylist(rows, schema=to_arrow(order_contract().schema)),
        key=("id",),
        operation=np.zeros(count, np.int8),
        partition=np.zeros(count, np.int32),
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )
