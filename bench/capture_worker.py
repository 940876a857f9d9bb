"""headrace's capture of PostgreSQL into Kafka, as a process of its own: `python -m bench.capture_worker CONFIG`.

CONFIG is JSON: `bootstrap`, `workspace`, `output` and `config` (an ingress file). After each transaction it writes a
line `{"records": ..., "at_ns": ...}`; it ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from bench.capture_table import TOPIC, contract
from headrace.contracts.registry_store import StoredRegistry
from headrace.ingress.cdc.config import PostgresCdcConfig
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.log.kafka import KafkaLog
from headrace.log.schema_topic import SchemaTopic


def main(given: str) -> None:
    plain = json.loads(given)
    log = KafkaLog(plain["bootstrap"])
    config = PostgresCdcConfig.model_validate(plain["config"])
    registry = StoredRegistry(SchemaTopic(log))
    capture = PostgresCdc(config, log, registry, {TOPIC: contract()}, workspace=plain["workspace"])
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    with Path(plain["output"]).open("w", encoding="utf-8") as output:
        while not stop.is_set():
            moved = capture.step()
            if moved:
                print(json.dumps({"records": moved, "at_ns": time.time_ns()}), file=output, flush=True)
            elif capture.is_drained:
                capture.wait(stop)
    capture.close()


if __name__ == "__main__":
    main(sys.argv[1])
