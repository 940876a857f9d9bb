"""headrace's capture and Debezium's engine on one database: what both give, as normalised changes.

Owns what the comparisons of all databases share; `beside_postgres` and `beside_mariadb` run the captures.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench.peers.installing import PeerMissing

from headrace.contracts.contract import Contract
from headrace.testing.kafka_service import is_required
from headrace.testing.sink_harness import Stage
from tests.cdc.normalise import normalised

WORKLOAD = Path(__file__).parent / "workload"
SERVER = "shop"
"""The name of both captures, the first part of the topics."""
LAST = "the last"
"""In the last change of a workload, and in no other."""
DEADLINE_S = 120.0

Change = dict[str, Any]
Changes = dict[str, list[Change]]
"""Of each table, in their order."""


def statements(name: str) -> Iterator[str]:
    """The statements of a file of the workload; a line that begins a transaction holds all of it."""
    for each in (WORKLOAD / name).read_text(encoding="utf-8").split(";\n"):
        if each.strip() and "debezium_signal" not in each:
            yield each


def both(captured: Callable[[], tuple[Changes, Changes]]) -> tuple[Changes, Changes]:
    """What headrace and Debezium give. A Debezium that cannot be had is a skip, and in CI a failure."""
    try:
        return captured()
    except PeerMissing as missing:
        if is_required():
            raise
        pytest.skip(str(missing))


def ours(stage: Stage, contracts: Sequence[Contract]) -> list[str]:
    """Records of the change topics as lines for `normalise`."""
    registered = [each for subject in stage.registry.subjects() for each in stage.registry.versions(subject)]
    lines = [json.dumps({"schemas": {str(each.id): each.schema.definition for each in registered}})]
    for contract in contracts:
        for record in stage.records(contract.topic):
            key, value = (
                None if part is None else base64.b64encode(part).decode() for part in (record.key, record.value)
            )
            headers = [[name, None if text is None else text.decode()] for name, text in record.headers]
            lines.append(json.dumps({"topic": contract.topic, "key": key, "value": value, "headers": headers}))
    return lines


def by_table(lines: Sequence[str], tables: Sequence[str]) -> Changes:
    """Normalised changes of each captured table, in their order."""
    found: Changes = {table: [] for table in tables}
    for change in normalised("\n".join(lines).encode()):
        change.pop("line")
        table = str(change.pop("topic")).rpartition(".")[2]
        if table in found:
            found[table].append(change)
    return found


def lines_of(path: Path) -> list[str]:
    """What the engine has written so far."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def await_true(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """While the engine lives."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, "Debezium's engine ended"
        assert time.monotonic() < deadline, "Debezium's engine does not come to the end"
        time.sleep(0.2)
