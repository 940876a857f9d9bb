"""Rows to an HTTP endpoint, at least once, with keys that stay the same.

Owns the order of one egress's requests.

- A row counts as delivered when the endpoint took it; `write` returns after all answers, so `flush` has nothing to do.
- A crash, or a failure of any request, repeats rows that were taken: their ids are the same, and each comes after those
  before it in its partition again.
- Nothing is asked of the endpoint before there are rows: a request means something to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    Refused,
    TargetInvalid,
)
from headrace_http.bodies import Bodies
from headrace_http.explanation import explanation
from headrace_http.options import HttpOptions, Order
from headrace_http.sender import Sender


class HttpConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=False,
        parallel=True,
        ordered=False,  # Those of a key are; of a whole partition with `order: partition`.
        stages=False,
    )
    options_model: ClassVar[type[Options]] = HttpOptions

    def __init__(self) -> None:
        self._sender: Sender | None = None
        self._options: HttpOptions | None = None
        self._config: ConnectorConfig | None = None
        self._contract: Contract | None = None

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Read secrets and certificates; the endpoint is not asked."""
        self._options = _fitting(config, contract)
        self._config, self._contract = config, contract
        self._sender = Sender(self._options)
        return {}

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Send the rows; returns when each was taken or refused."""
        assert self._sender is not None
        assert self._options is not None
        assert self._config is not None
        assert self._contract is not None
        if not len(batch):
            return []
        prefix = self._options.id_prefix or self._config.egress
        return self._sender.send(Bodies(batch, self._contract, self._config.mode, self._options, prefix))

    def flush(self) -> None:
        """What was written is delivered."""

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether address, secrets and certificates are what they should be, and the endpoint takes a connection."""
        sender = Sender(_fitting(config, contract))
        try:
            return sender.problems()
        finally:
            sender.close()

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The first request and how many there are; what is `${NAME}` in the file stays so."""
        options = _fitting(config, contract)
        return explanation(Bodies(batch, contract, config.mode, options, options.id_prefix or config.egress), options)

    def close(self) -> None:
        """Drop the connections."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()


def _fitting(config: ConnectorConfig, contract: Contract) -> HttpOptions:
    """The options with the order that they come to. Raises `TargetInvalid` for some that do not go with the mode or the
    topic."""
    options = config.options
    assert isinstance(options, HttpOptions)
    if config.mode is Mode.REPLICATE and not options.envelope:
        message = f"egress {config.egress!r}: in mode replicate a request must say whether a row is deleted"
        raise TargetInvalid(message, cure="set `envelope: true`, or use mode upsert")
    if options.order is Order.KEY and not contract.key:
        message = f"egress {config.egress!r}: topic {config.topic!r} has no key to order by"
        raise TargetInvalid(message, cure="take out `order: key`")
    if options.order is Order.NONE and config.mode is not Mode.APPEND:
        message = f"egress {config.egress!r}: in mode {config.mode.value} the last row of a key must come last"
        raise TargetInvalid(message, cure="set `order: key`, or use mode append")
    order = options.order or (Order.KEY if contract.key else Order.PARTITION)
    return options.model_copy(update={"order": order})
