"""One workload on one MariaDB, captured by headrace and by Debezium's engine at once."""

from __future__ import annotations

from pathlib import Path

from bench.peers import debezium

from headrace.ingress.cdc.mysql.connection import rows
from headrace.ingress.cdc.mysql.tables import infer_contract
from tests.cdc.beside import LAST, SERVER, Changes, await_true, by_table, lines_of, ours, statements
from tests.ingress.mysql.till import Till

TABLES = ("types", "customers", "lines", "docs")
SETTINGS = {
    # Debezium leaves truncates out by default, and has a signed number for what is a decimal in an inferred contract.
    "skipped.operations": "none",
    "provide.transaction.metadata": "true",
    "bigint.unsigned.handling.mode": "precise",
    # It makes 2001 of the year 1, and its driver a date of a `year`, which it then cannot read.
    "enable.time.adjuster": "false",
    "driver.yearIsDateType": "false",
}


def captured(till: Till, folder: Path) -> tuple[Changes, Changes]:
    """What headrace and Debezium make of the workload."""
    run(till, "mariadb-types.sql")
    contracts = [infer_contract(till.url, table, topic=f"{SERVER}.{till.database}.{table}") for table in TABLES]
    for contract in contracts:
        till.topic(contract.topic)
    output = folder / "debezium.jsonl"
    given = debezium.mariadb_properties(till.url, TABLES, SERVER, **SETTINGS)
    with debezium.engine(given, output) as process:
        cdc = till.drain(
            till.cdc(
                name=SERVER,
                contracts=contracts,
                tables={each.topic.rpartition(".")[2]: {"topic": each.topic} for each in contracts},
                new_columns="follow",
            )
        )
        # Its snapshot is of one moment, and its stream begins there: it need not read yet.
        snapshot = sum(count(till, table) for table in TABLES)
        await_true(lambda: len(lines_of(output)) >= snapshot, process)
        run(till, "mariadb-more.sql")
        till.drain(cdc)
        await_true(lambda: any(LAST in line for line in lines_of(output)), process)
    return by_table(ours(till, contracts), TABLES), by_table(lines_of(output), TABLES)


def run(till: Till, name: str) -> None:
    for each in statements(name):
        if each.startswith("BEGIN;"):
            till.execute(*each.split("; "))
        else:
            till.execute(each)


def count(till: Till, table: str) -> int:
    ((found,),) = rows(till.connection, f"SELECT count(*) FROM `{table}`")
    return int(found)
