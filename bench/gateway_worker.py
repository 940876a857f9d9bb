"""A gateway as a process of its own: `python -m bench.gateway_worker CONFIG`.

CONFIG is JSON: `bootstrap` (empty: the embedded log at `file`), `file`, `topic`, `token_sha256`. It prints its port,
and ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from headrace.contracts.contract import Contract
from headrace.contracts.load import contract_of
from headrace.contracts.registry_store import StoredRegistry
from headrace.ingress.environment import GivenEnvironment
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.worker import Gateway
from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import Log
from headrace.log.schema_topic import SchemaTopic

CONTRACT = """
topic: {topic}
owner: bench
key: id
time: at
fields:
  id: long
  customer: string
  amount: double
  note: "string?"
  at: timestamp-millis
"""


def contract(topic: str) -> Contract:
    return contract_of(CONTRACT.format(topic=topic), "orders.yaml")


def open_log(bootstrap: str, file: str) -> Log:
    return KafkaLog(bootstrap) if bootstrap else EmbeddedLog(Path(file))


def main(given: str) -> None:
    plain = json.loads(given)
    topic = plain["topic"]
    log = open_log(plain["bootstrap"], plain["file"])
    clients = {"bench": {"sha256": plain["token_sha256"], "topics": [topic]}}
    config = GatewayConfig.model_validate({"name": "bench", "port": 0, "clients": clients, "records_per_second": 1e9})
    contracts = {topic: contract(topic)}
    environment = GivenEnvironment(log, StoredRegistry(SchemaTopic(log)), contracts)
    gateway = Gateway(config, environment, contracts, workspace=topic)
    stop = threading.Event()

    def tell_port() -> None:
        while gateway.port is None and not stop.wait(0.01):
            pass
        print(gateway.port, flush=True)

    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    threading.Thread(target=tell_port, daemon=True).start()
    gateway.run(stop)


if __name__ == "__main__":
    main(sys.argv[1])
