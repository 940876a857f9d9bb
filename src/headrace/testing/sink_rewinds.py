"""What is asked of connectors whose positions can be set.

Owns the tests of `Rewinds`; `sink_conformance` has them among all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import ConnectorConfig, Mode, PositionMoved, Rewinds
from headrace.testing.sink_harness import Stage, order
from headrace.testing.sink_suite import SinkSuite, needs

REWOUND_ROWS = 60


class RewindTests(SinkSuite):
    """Reading goes on where somebody said."""

    @needs(suite=lambda suite: isinstance(suite.connector(), Rewinds))
    def test_rewound_partitions_are_delivered_again(self, stage: Stage, tmp_path: Path) -> None:
        """Back to the beginning of two of three partitions: a keyed mode holds the same rows, append the rows of these
        twice, and the positions of the third stay."""
        rows = [order(number) for number in range(REWOUND_ROWS)]
        stage.publish(rows)
        for mode in self.modes():
            folder = tmp_path / mode.value
            config = self.config(folder, mode, name=f"out-{mode.value}")
            stage.deliver(self.connector(), config)
            before = self._positions(stage, config)
            assert before == stage.ends()
            self._rewind(stage, config, {each: before[each] for each in (0, 1)}, {0: 0, 1: 0})
            assert self._positions(stage, config) == {**before, 0: 0, 1: 0}
            assert self.rows(folder) == self.expected(rows)
            runner = stage.deliver(self.connector(), config)
            assert runner.counters.records == before[0] + before[1]
            assert self._positions(stage, config) == before
            if mode is Mode.APPEND:
                times = Counter(row["id"] for row in self.rows(folder))
                assert Counter(times.values()) == {2: before[0] + before[1], 1: before[2]}
            else:
                self.check_rows(folder, mode, rows)

    @needs(suite=lambda suite: isinstance(suite.connector(), Rewinds))
    def test_skipped_rows_never_come(self, stage: Stage, tmp_path: Path) -> None:
        """Ahead, of partitions that the target knows and of those that it does not, before the egress ever ran too."""
        stage.publish([order(number) for number in range(REWOUND_ROWS)])
        for mode in self.modes():
            folder = tmp_path / mode.value
            config = self.config(folder, mode, name=f"out-{mode.value}")
            before = self.trace(folder)
            assert self._positions(stage, config) == {}
            assert self.trace(folder) == before
            ends = stage.ends()
            self._rewind(stage, config, {}, {0: ends[0], 1: 5})
            self._rewind(stage, config, {1: 5}, {1: ends[1]})
            assert self._positions(stage, config) == {0: ends[0], 1: ends[1]}
            stage.deliver(self.connector(), config)
            assert len(self.rows(folder)) == ends[2]

    @needs(suite=lambda suite: isinstance(suite.connector(), Rewinds))
    def test_moved_positions_are_not_set(self, stage: Stage, tmp_path: Path) -> None:
        """Where one of the partitions is elsewhere than the caller says: `PositionMoved`, and none is set."""
        stage.publish([order(number) for number in range(REWOUND_ROWS)])
        mode = self.modes()[0]
        config = self.config(tmp_path, mode)
        stage.deliver(self.connector(), config)
        ends = self._positions(stage, config)
        for wrong in ({0: ends[0], 1: ends[1] - 1}, {0: ends[0]}):
            with pytest.raises(PositionMoved):
                self._rewind(stage, config, wrong, {0: 0, 1: 0})
            assert self._positions(stage, config) == ends

    def _positions(self, stage: Stage, config: EgressConfig) -> dict[int, int]:
        connector, told, contract = self._rewinder(stage, config)
        return dict(connector.positions(told, contract))

    def _rewind(self, stage: Stage, config: EgressConfig, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        connector, told, contract = self._rewinder(stage, config)
        connector.rewind(told, contract, before, after)

    def _rewinder(self, stage: Stage, config: EgressConfig) -> tuple[Rewinds, ConnectorConfig, Contract]:
        """One that was not opened."""
        connector, told, contract = self.opened_parts(stage.runner(self.connector(), config))
        assert isinstance(connector, Rewinds)
        return connector, told, contract
