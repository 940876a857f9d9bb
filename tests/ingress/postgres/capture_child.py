"""A capture in a process of its own, to be killed: `python -m tests.ingress.postgres.capture_child LOG CONFIG`."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from headrace.contracts.registry_store import StoredRegistry
from headrace.ingress.cdc.config import PostgresCdcConfig
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.log.embedded import EmbeddedLog
from headrace.log.schema_topic import SchemaTopic
from tests.ingress.postgres.bank import accounts_contract


def main(log_path: str, workspace: str, config: str) -> None:
    """Run until killed."""
    log = EmbeddedLog(Path(log_path))
    contract = accounts_contract()
    given = PostgresCdcConfig.model_validate(json.loads(config))
    registry = StoredRegistry(SchemaTopic(log))
    PostgresCdc(given, log, registry, {contract.topic: contract}, workspace=workspace).run(threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:])
