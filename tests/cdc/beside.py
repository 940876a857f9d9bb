"""One workload on one PostgreSQL, captured by headrace and by Debezium's engine at once, as normalised changes.

Owns the two captures; `test_beside_debezium` compares what they give.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.peers import debezium

from headrace.contracts.contract import Contract
from headrace.ingress.cdc.postgres.tables import infer_contract
from tests.cdc.normalise import normalised
from tests.ingress.postgres.bank import Bank

WORKLOAD = Path(__file__).parent / "workload"
TABLES = ("types", "docs", "customers", "audited", "lines")
SERVER = "shop"
"""The name of both captures, the first part of the topics."""
DEADLINE_S = 120.0
LAST = "the last"
SETTINGS = {
    # Debezium leaves truncates out by default, and has numbers for what is text in an inferred contract.
    "skipped.operations": "none",
    "provide.transaction.metadata": "true",
    "interval.handling.mode": "string",
    "hstore.handling.mode": "map",
    "include.unknown.datatypes": "true",
}


def statements(name: str) -> Iterator[str]:
    """The statements of a file of the workload; a line that begins a transaction holds all of it."""
    for each in (WORKLOAD / name).read_text(encoding="utf-8").split(";\n"):
        if each.strip() and "debezium_signal" not in each:
            yield each


def captured(bank: Bank, folder: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What headrace and Debezium make of the workload: normalised changes by table."""
    bank.execute(*statements("postgresql-tables.sql"))
    contracts = [infer_contract(bank.url, table, topic=f"{SERVER}.public.{table}") for table in TABLES]
    for contract in contracts:
        bank.topic(contract.topic)
    output = folder / "debezium.jsonl"
    given = debezium.properties(bank.url, TABLES, SERVER, **SETTINGS)
    given |= {"slot.name": f"{bank.database}_theirs", "publication.name": f"{bank.database}_theirs"}
    with debezium.engine(given, output) as process:
        cdc = bank.drain(
            bank.cdc(
                name=SERVER,
                contracts=contracts,
                tables={table: {"topic": f"{SERVER}.public.{table}"} for table in TABLES},
                database=f"{bank.url} options='-c logical_decoding_work_mem=64kB'",
                new_columns="follow",
            )
        )
        rows = sum(count(bank, table) for table in TABLES)
        _await(lambda: len(_lines(output)) >= rows and is_streaming(bank), process)
        bank.execute(*statements("postgresql-changes.sql"), *statements("postgresql-more.sql"))
        bank.drain(cdc)
        _await(lambda: any(LAST in line for line in _lines(output)), process)
    return by_table(ours(bank, contracts)), by_table(_lines(output))


def count(bank: Bank, table: str) -> int:
    (found,) = bank.connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() or (0,)
    return int(found)


def is_streaming(bank: Bank) -> bool:
    query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    return bank.connection.execute(query, (f"{bank.database}_theirs",)).fetchone() == (True,)


def ours(bank: Bank, contracts: Sequence[Contract]) -> list[str]:
    """Records of the change topics as lines for `normalise`."""
    registered = [each for subject in bank.registry.subjects() for each in bank.registry.versions(subject)]
    lines = [json.dumps({"schemas": {str(each.id): each.schema.definition for each in registered}})]
    for contract in contracts:
        for record in bank.records(contract.topic):
            key, value = (
                None if part is None else base64.b64encode(part).decode() for part in (record.key, record.value)
            )
            headers = [[name, None if text is None else text.decode()] for name, text in record.headers]
            lines.append(json.dumps({"topic": contract.topic, "key": key, "value": value, "headers": headers}))
    return lines


def by_table(lines: Sequence[str]) -> dict[str, list[Any]]:
    """Normalised changes of each captured table, in their order."""
    found: dict[str, list[Any]] = {table: [] for table in TABLES}
    for change in normalised("\n".join(lines).encode()):
        change.pop("line")
        table = str(change.pop("topic")).rpartition(".")[2]
        if table in found:
            found[table].append(change)
    return found


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _await(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, "Debezium's engine ended"
        assert time.monotonic() < deadline, "Debezium's engine does not come to the end"
        time.sleep(0.2)
