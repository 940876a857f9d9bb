"""What each statement of PostgreSQL becomes in the topic."""

from __future__ import annotations

import json

import psycopg
import pytest

from headrace.engine.topic_reader import Rows, TopicReader
from headrace.log.port import TopicPartition
from tests.ingress.postgres.bank import Bank, account

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]


def test_snapshot_then_stream(bank: Bank) -> None:
    """Rows that are there, then what each statement does, with keys and tombstones, in commit order."""
    bank.insert((1, "Ada", 100), (2, None, 200))
    cdc = bank.drain()
    bank.execute(
        "INSERT INTO accounts VALUES (3, 'Eve', 300, '')",
        "UPDATE accounts SET cents = 101 WHERE id = 1",
        "DELETE FROM accounts WHERE id = 2",
    )
    bank.drain(cdc)
    assert bank.told() == [
        ("r", None, account(1, "Ada", 100)),
        ("r", None, account(2, None, 200)),
        ("c", None, account(3, "Eve", 300, "")),
        ("u", None, account(1, "Ada", 101)),
        ("d", account(2, None, 0), None),
    ]
    assert [(key or {})["id"] for key in bank.told_keys()] == [1, 2, 3, 1, 2, 2]
    assert bank.changes()[-1].value is None
    assert cdc.counters.dead_letters == 0


def test_a_changed_key_is_a_deletion_and_a_creation(bank: Bank) -> None:
    """Readers by key lose the old row and get the new one."""
    bank.insert((1, "Ada", 100))
    cdc = bank.drain()
    bank.execute("UPDATE accounts SET id = 9 WHERE id = 1")
    bank.drain(cdc)
    assert bank.told()[1:] == [("d", account(1, None, 0), None), ("c", None, account(9, "Ada", 100))]
    assert [(key or {})["id"] for key in bank.told_keys()] == [1, 1, 1, 9]
    assert [dict(record.headers) for record in bank.changes()] == [
        {},
        {"__debezium.newkey": b'{"id":9}'},
        {"__debezium.newkey": b'{"id":9}'},
        {"__debezium.oldkey": b'{"id":1}'},
    ]


def test_rows_before_with_full_replica_identity(bank: Bank) -> None:
    """The server then sends them whole, and a changed key is seen too."""
    bank.execute("ALTER TABLE accounts REPLICA IDENTITY FULL")
    bank.insert((1, "Ada", 100))
    cdc = bank.drain()
    bank.execute(
        "UPDATE accounts SET cents = 5 WHERE id = 1",
        "UPDATE accounts SET id = 2 WHERE id = 1",
        "DELETE FROM accounts",
    )
    bank.drain(cdc)
    assert bank.told()[1:] == [
        ("u", account(1, "Ada", 100), account(1, "Ada", 5)),
        ("d", account(1, "Ada", 5), None),
        ("c", None, account(2, "Ada", 5)),
        ("d", account(2, "Ada", 5), None),
    ]


def test_where_a_change_comes_from(bank: Bank) -> None:
    """`source` and `transaction` as Debezium has them: one transaction, its order, growing positions."""
    bank.insert((1, "Ada", 100))
    cdc = bank.drain()
    bank.transaction("UPDATE accounts SET cents = 1", "INSERT INTO accounts VALUES (2, 'Eve', 2)")
    bank.drain(cdc)
    snapshot, first, second = bank.envelopes()
    assert snapshot["source"]["snapshot"] == "true"
    assert snapshot["transaction"] is None
    source = first["source"]
    assert (source["connector"], source["name"], source["db"]) == ("postgresql", "bank", bank.database)
    assert (source["schema"], source["table"], source["snapshot"]) == ("public", "accounts", "false")
    assert source["txId"] == second["source"]["txId"]
    assert source["lsn"] < second["source"]["lsn"]
    assert [int(number) for number in json.loads(source["sequence"])][1] == source["lsn"]
    assert source["ts_us"] // 1_000 == source["ts_ms"] == bank.changes()[1].timestamp_ms
    orders = [
        (each["transaction"]["total_order"], each["transaction"]["data_collection_order"]) for each in (first, second)
    ]
    assert orders == [(1, 1), (2, 2)]
    assert first["transaction"]["id"] == second["transaction"]["id"]


def test_rolled_back_changes_never_happened(bank: Bank) -> None:
    """Whole transactions and parts of them."""
    cdc = bank.drain()
    bank.transaction(
        "INSERT INTO accounts VALUES (1, 'kept', 1)",
        "SAVEPOINT here",
        "INSERT INTO accounts VALUES (2, 'rolled back', 1)",
        "ROLLBACK TO here",
    )
    bank.execute("BEGIN", "INSERT INTO accounts VALUES (3, 'rolled back', 1)", "ROLLBACK")
    bank.drain(cdc)
    assert bank.told() == [("c", None, account(1, "kept", 1))]


def test_truncation(bank: Bank) -> None:
    """One record without key in every partition empties a reader's table."""
    bank.insert((1, "Ada", 100))
    cdc = bank.drain()
    bank.transaction("TRUNCATE accounts", "INSERT INTO accounts VALUES (2, 'Eve', 2)")
    bank.drain(cdc)
    assert [operation for operation, _, _ in bank.told()] == ["r", "t", "c"]
    assert bank.told_keys()[1] is None
    assert bank.replica() == bank.source()


def test_unchanged_large_values(bank: Bank) -> None:
    """The placeholder of Debezium; the value itself where the table has REPLICA IDENTITY FULL."""
    bank.execute("ALTER TABLE accounts ALTER COLUMN note SET STORAGE EXTERNAL")
    large = "x" * 10_000
    bank.execute(f"INSERT INTO accounts VALUES (1, 'Ada', 1, '{large}')")
    cdc = bank.drain()
    bank.execute(
        "UPDATE accounts SET cents = 2",
        "ALTER TABLE accounts REPLICA IDENTITY FULL",
        "UPDATE accounts SET cents = 3",
    )
    bank.drain(cdc)
    assert [(after or {})["note"] for _, _, after in bank.told()] == [large, "__debezium_unavailable_value", large]


def test_the_order_of_commits_counts(bank: Bank) -> None:
    """A transaction that began earlier and committed later comes later."""
    cdc = bank.drain()
    with bank.connection.transaction():
        bank.execute("INSERT INTO accounts VALUES (1, 'began first', 1)")
        with psycopg.connect(bank.url, autocommit=True) as other:
            other.execute("INSERT INTO accounts VALUES (2, 'committed first', 1)")
    bank.drain(cdc)
    assert [(after or {})["id"] for _, _, after in bank.told()] == [2, 1]


def as_a_table(bank: Bank) -> list[Rows]:
    """What a pipeline gets that reads the topic as a table."""
    reader, consumer = TopicReader(bank.contract, bank.registry), bank.log.consumer()
    partition = TopicPartition(bank.contract.topic, 0)
    (end,) = consumer.end_offsets([partition]).values()
    consumer.assign({partition: -2})
    found: list[Rows] = []
    while consumer.position([partition])[partition] < end:
        found += [reader.read(batch) for batch in consumer.poll(1_000, 1.0)]
    consumer.close()
    return found


def test_pipelines_are_told_of_truncates_and_see_placeholders(bank: Bank) -> None:
    """A table that a pipeline holds cannot be emptied without keys: the truncate is a dead letter that says so. A large
    value that was not touched is Debezium's placeholder there too."""
    bank.execute("ALTER TABLE accounts ALTER COLUMN note SET STORAGE EXTERNAL")
    bank.execute(f"INSERT INTO accounts VALUES (1, 'Ada', 1, '{'x' * 10_000}')")
    cdc = bank.drain()
    bank.execute("UPDATE accounts SET cents = 2", "TRUNCATE accounts")
    bank.drain(cdc)
    (rows,) = as_a_table(bank)
    assert rows.frame["note"].to_list() == ["x" * 10_000, "__debezium_unavailable_value"]
    assert [(each.row, each.code) for each in rows.bad] == [(2, "decode.truncate_unsupported")]
