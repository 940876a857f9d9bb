"""What the tests of connectors stand on: the connector under test, its target, and the choice of tests.

Owns `SinkSuite`, which each part of `sink_conformance` extends, and connectors that fail on purpose.

- Declared capabilities choose the tests: those that need more are not collected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import pytest

from headrace.contracts.arrow import to_arrow
from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Capabilities, Connector, ConnectorConfig, EgressBatch, Mode, Options, Refused
from headrace.testing.sink_harness import TOPIC, Stage, order_contract
from headrace.testing.sink_types import comparable

_NEEDS = "_needs"

Test = TypeVar("Test", bound=Callable[..., None])


class Crash(BaseException):
    """Stands for the end of the process: nobody catches it."""


def needs(
    condition: Callable[[Capabilities], bool] = lambda can: True,
    *,
    suite: Callable[[type[SinkSuite]], bool] = lambda suite: True,
) -> Callable[[Test], Test]:
    """Collect the test only for connectors that can do this, and suites that say so."""

    def mark(test: Test) -> Test:
        setattr(test, _NEEDS, (condition, suite))
        return test

    return mark


class Faulty:
    """A connector that does what another does, and something bad besides."""

    options_model: ClassVar[type[Options]]

    def __init__(self, inner: Connector, fault: Callable[[str], None]) -> None:
        self._inner, self._fault = inner, fault
        self.capabilities = inner.capabilities
        self.options_model = inner.options_model  # type: ignore[misc]

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        positions = self._inner.open(config, contract, partitions)
        self._fault("opened")
        return positions

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        refused = self._inner.write(batch, positions)
        self._fault("written")
        return refused

    def flush(self) -> None:
        self._fault("flushing")
        self._inner.flush()
        self._fault("flushed")

    def close(self) -> None:
        self._inner.close()


class SinkSuite(ABC):
    """One connector and its target."""

    connector: ClassVar[type[Connector]]
    """The connector's class, as its entry point names it."""
    kills: ClassVar[int] = 2
    """Processes killed in each mode of the crash test. They flush all the time, so nearly every kill hits a flush."""

    holds_not_a_number: ClassVar[bool] = True
    """Whether a double of the target can be not-a-number or infinite; such rows are dead letters where it cannot."""
    shares_target: ClassVar[bool] = True
    """Whether two of its connectors in one process may deliver into the target at once."""

    @abstractmethod
    def options(self, folder: Path) -> dict[str, Any]:
        """Options for a target that is this test's own; called again, the same target."""

    @abstractmethod
    def read(self, folder: Path) -> pa.Table:
        """All rows that the target holds, with the contract's column names."""

    def poison(self) -> dict[str, Any] | None:
        """A row of the contract that the target refuses; None where it takes them all."""
        return None

    def trace(self, folder: Path) -> Any:
        """All that is there of the target, for comparison: here the files and folders below `folder`, with contents."""
        found = sorted(folder.rglob("*"))
        return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in found}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "connector" not in cls.__dict__:
            return
        capabilities = cls.connector().capabilities
        for name in dir(cls):
            conditions = getattr(getattr(cls, name, None), _NEEDS, None)
            if conditions is not None and not (conditions[0](capabilities) and conditions[1](cls)):
                setattr(cls, name, None)

    @pytest.fixture
    def stage(self, tmp_path: Path) -> Iterator[Stage]:
        stage = Stage(tmp_path, order_contract())
        yield stage
        stage.close()

    def config(self, folder: Path, mode: Mode, **more: Any) -> EgressConfig:
        values: dict[str, Any] = {
            "name": "out",
            "topic": TOPIC,
            "connector": "under-test",
            "mode": mode,
            "options": self.options(folder),
            "batch": {"rows_max": 50, "age_max_ms": 20},
            "retry": {"first_ms": 1, "max_ms": 20},
            **more,
        }
        return EgressConfig.model_validate(values)

    def modes(self) -> list[Mode]:
        return sorted(self.connector().capabilities.modes, key=lambda mode: mode.value)

    def rows(self, folder: Path) -> list[dict[str, Any]]:
        """The target's rows by id, for comparison."""
        return comparable(self.read(folder))

    def expected(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=to_arrow(order_contract().schema))
        return comparable(table)

    def check_rows(self, folder: Path, mode: Mode, rows: Sequence[Mapping[str, Any]]) -> None:
        """The target holds these rows, whose keys differ: each once where the connector promises that."""
        found = self.rows(folder)
        if mode is Mode.APPEND and not self.connector().capabilities.atomic_positions:
            found = [row for index, row in enumerate(found) if index == 0 or row != found[index - 1]]
        assert found == self.expected(rows)

    def opened_parts(self, runner: Any) -> tuple[Connector, ConnectorConfig, Contract]:
        """A connector, and what the runner would open it with."""
        target = runner.target
        return target.connector, target.config, target.contract
