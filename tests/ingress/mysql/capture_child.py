"""A capture in a process of its own, to be killed: `python -m tests.ingress.mysql.capture_child LOG TOPIC ...`."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from headrace.contracts.registry_store import StoredRegistry
from headrace.ingress.cdc.config import MysqlCdcConfig
from headrace.ingress.cdc.mysql.cdc import MysqlCdc
from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import Log
from headrace.log.schema_topic import SchemaTopic
from tests.ingress.postgres.bank import accounts_contract


def main(log_place: str, topic: str, workspace: str, config: str) -> None:
    """Run until killed. `log_place` is `kafka:<bootstrap servers>`, or the file of an embedded log."""
    kind, _, servers = log_place.partition(":")
    log: Log = KafkaLog(servers) if kind == "kafka" else EmbeddedLog(Path(log_place))
    contract = accounts_contract(topic)
    given = MysqlCdcConfig.model_validate(json.loads(config))
    registry = StoredRegistry(SchemaTopic(log))
    MysqlCdc(given, log, registry, {contract.topic: contract}, workspace=workspace).run(threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:])
