"""A gateway in a process of its own, to be killed: `python -m tests.ingress.gateway.gateway_child '{...}'`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from dataclasses import replace
from typing import Any

from headrace.contracts.registry_store import StoredRegistry
from headrace.ingress.environment import GivenEnvironment
from headrace.ingress.gateway.worker import Gateway
from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import Log
from headrace.log.schema_topic import SchemaTopic
from tests.ingress.gateway.scene import config
from tests.ingress.shop import ORDERS


def contracts(topic: str) -> dict[str, Any]:
    return {topic: replace(ORDERS, topic=topic)}


def main() -> None:
    """Serve until SIGTERM."""
    given = json.loads(sys.argv[1])
    log: Log = KafkaLog(given["kafka"]) if given["kafka"] else EmbeddedLog(given["file"])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    known = contracts(given["topic"])
    environment = GivenEnvironment(log, StoredRegistry(SchemaTopic(log)), known)
    settings = config(**given["config"])
    Gateway(settings, environment, known, workspace=given["workspace"], instance=given["instance"]).run(stop)


if __name__ == "__main__":
    main()
