"""What a topic of a contract must look like on the log.

Owns the way from a contract to partitions and topic settings.

- `table` topics are compacted: the latest record of a key stays for ever.
- `event` topics keep their records for `retention`, or for ever.
- `change` topics keep every change for ever, or every change of the last `retention` and the latest per key after
  that, so that a table read from them is always whole.
- Settings of the environment (`[environments.<name>.topic]`) come first; what a contract means wins over them.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.contracts.contract import Contract, TopicKind
from headrace.log.port import TopicSpec
from headrace.workspace.config import EnvironmentConfig

FOR_EVER = "-1"
DEAD_LETTER_CONFIG: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "retention.ms": FOR_EVER,
    "max.message.bytes": str(8 * 1024 * 1024),
}
"""A dead letter waits for a person and never goes by itself; with its reason it is larger than its record was."""


def contract_topic(contract: Contract, environment: EnvironmentConfig) -> TopicSpec:
    """The topic of a published or derived contract."""
    return topic_spec(
        contract.topic, contract.partitions or environment.partitions, contract_config(contract), environment
    )


def topic_spec(name: str, partitions: int, config: Mapping[str, str], environment: EnvironmentConfig) -> TopicSpec:
    """A topic with the environment's settings below its own."""
    return TopicSpec(name, partitions, environment.replication_factor, {**environment.topic, **config})


def contract_config(contract: Contract) -> dict[str, str]:
    """Topic settings that the contract decides."""
    keep_ms = None if contract.retention_ms is None else str(contract.retention_ms)
    if contract.kind is TopicKind.TABLE:
        return {"cleanup.policy": "compact"}
    if contract.kind is TopicKind.CHANGE and keep_ms is not None:
        return {"cleanup.policy": "compact", "min.compaction.lag.ms": keep_ms}
    return {"cleanup.policy": "delete", "retention.ms": keep_ms or FOR_EVER}
