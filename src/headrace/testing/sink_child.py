"""An egress in a process of its own, to be killed: `python -m headrace.testing.sink_child ARGUMENTS`.

Owns nothing; `sink_conformance` starts it. ARGUMENTS is JSON: log, connector (`module:name`), config, and the
contract's topic, kind, key and schema.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_store import StoredRegistry
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Connector
from headrace.egress.tasks import EgressTasks
from headrace.log.embedded import EmbeddedLog
from headrace.log.schema_topic import SchemaTopic
from headrace.testing.sink_harness import SESSION_TIMEOUT_MS, WORKSPACE


def arguments(log: Path, connector: str, config: EgressConfig, contract: Contract) -> str:
    """What the child is started with."""
    return json.dumps(
        {
            "log": str(log),
            "connector": connector,
            "config": config.model_dump(mode="json"),
            "topic": contract.topic,
            "kind": contract.kind.value,
            "key": list(contract.key),
            "schema": contract.schema.text,
        }
    )


def main(text: str) -> None:
    """Run until killed."""
    given: dict[str, Any] = json.loads(text)
    module, _, name = given["connector"].partition(":")
    connector: Callable[[], Connector] = getattr(importlib.import_module(module), name)
    contract = Contract(
        given["topic"], AvroSchema.parse(given["schema"]), kind=TopicKind(given["kind"]), key=tuple(given["key"])
    )
    log = EmbeddedLog(Path(given["log"]), session_timeout_ms=SESSION_TIMEOUT_MS)
    registry = StoredRegistry(SchemaTopic(log))
    config = EgressConfig.model_validate(given["config"])
    EgressTasks(config, connector, contract, log, registry, WORKSPACE).run(threading.Event())


if __name__ == "__main__":
    main(sys.argv[1])
