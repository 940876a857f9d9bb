"""One workload on one PostgreSQL, captured by headrace and by Debezium's engine at once."""

from __future__ import annotations

from pathlib import Path

from bench.peers import debezium

from headrace.ingress.cdc.postgres.tables import infer_contract
from tests.cdc.beside import LAST, SERVER, Changes, await_true, by_table, lines_of, ours, statements
from tests.ingress.postgres.bank import Bank

TABLES = ("types", "docs", "customers", "audited", "lines")
SETTINGS = {
    # Debezium leaves truncates out by default, and has numbers for what is text in an inferred contract.
    "skipped.operations": "none",
    "provide.transaction.metadata": "true",
    "interval.handling.mode": "string",
    "hstore.handling.mode": "map",
    "include.unknown.datatypes": "true",
}


def captured(bank: Bank, folder: Path) -> tuple[Changes, Changes]:
    """What headrace and Debezium make of the workload."""
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
        await_true(lambda: len(lines_of(output)) >= rows and is_streaming(bank), process)
        bank.execute(*statements("postgresql-changes.sql"), *statements("postgresql-more.sql"))
        bank.drain(cdc)
        await_true(lambda: any(LAST in line for line in lines_of(output)), process)
    return by_table(ours(bank, contracts), TABLES), by_table(lines_of(output), TABLES)


def count(bank: Bank, table: str) -> int:
    (found,) = bank.connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() or (0,)
    return int(found)


def is_streaming(bank: Bank) -> bool:
    query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    return bank.connection.execute(query, (f"{bank.database}_theirs",)).fetchone() == (True,)
