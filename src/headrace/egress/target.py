"""A connector as the runner sees it: opened, closed, and with its errors named.

Owns the order of calls that `Connector` promises and the naming of errors that no connector should raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from headrace.contracts.contract import Contract
from headrace.egress.errors import ConnectorFailed
from headrace.egress.sdk import Connector, ConnectorConfig, EgressBatch, Refused
from headrace.errors import HeadraceError

Result = TypeVar("Result")


class Target:
    """One connector, between its `open` and its `close`."""

    def __init__(self, name: str, connector: Connector, config: ConnectorConfig, contract: Contract) -> None:
        self.name, self.contract, self.config = name, contract, config
        self.connector, self.capabilities = connector, connector.capabilities
        self.is_open = False

    def open(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Positions that the target holds."""
        assert not self.is_open
        # Set first: a connector that raised halfway is closed all the same.
        self.is_open = True
        return self._call("open", lambda: self.connector.open(self.config, self.contract, partitions))

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        assert self.is_open
        return self._call("write", lambda: self.connector.write(batch, positions))

    def flush(self) -> None:
        assert self.is_open
        self._call("flush", self.connector.flush)

    def close(self) -> None:
        """Idempotent."""
        if self.is_open:
            self.is_open = False
            self._call("close", self.connector.close)

    def _call(self, call: str, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except HeadraceError:
            raise
        except Exception as error:
            raise ConnectorFailed(self.name, call, error) from error
