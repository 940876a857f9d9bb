"""headrace's capture of a database into Kafka, as a process of its own: `python -m bench.capture_worker CONFIG`.

CONFIG is JSON: `bootstrap`, `workspace`, `database` (its kind), `output` and `config` (an ingress file). After each
transaction it writes a line `{"records": ..., "at_ns": ...}`; it ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from bench.capture_databases import DATABASES
from bench.capture_table import TOPIC, contract
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.kafka import KafkaLog
from headrace.log.schema_topic import SchemaTopic


def main(given: str) -> None:
    plain = json.loads(given)
    log = KafkaLog(plain["bootstrap"])
    registry = StoredRegistry(SchemaTopic(log))
    database, contracts = DATABASES[plain["database"]], {TOPIC: contract()}
    capture = database.capture(plain["config"], log, registry, contracts, plain["workspace"])
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
