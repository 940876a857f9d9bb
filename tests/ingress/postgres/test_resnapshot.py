"""Rows of a table that are read again while its changes stream."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from headrace.ingress.cdc.postgres import resnapshot
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.testing.sink_harness import wait_until
from tests.ingress.postgres.bank import Bank, contract_of

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]

ROWS = 400
STATEMENTS = 300


def marks(bank: Bank) -> list[tuple[str, int]]:
    """`source.snapshot` and the key of every record."""
    return [
        (each["source"]["snapshot"], (each["after"] or each["before"])["id"])
        for each in bank.envelopes()
        if each["op"] != "t"
    ]


def again(bank: Bank) -> list[int]:
    """Keys of rows that were read again."""
    return [key for mark, key in marks(bank) if mark == "incremental"]


def ordered(bank: Bank, cdc: PostgresCdc, order: str = "1") -> PostgresCdc:
    cdc.order_snapshots({"accounts": order})
    while cdc.position is None or cdc.position.resnapshots.get("accounts") is None:
        cdc.step()
    return cdc


def test_rows_come_again_once_for_an_order(bank: Bank) -> None:
    """All of them, in chunks, also after restarts; the same order again gives nothing, another one all of them."""
    bank.insert(*((number, "o", number) for number in range(10)))
    given: dict[str, Any] = {"batch_rows_max": 4}
    cdc = ordered(bank, bank.drain(**given))
    while len(again(bank)) < 4:
        cdc.step()
    bank.kill(cdc)
    cdc = bank.drain(ordered(bank, bank.cdc(**given)))
    assert again(bank) == list(range(10))
    bank.kill(cdc)
    cdc = bank.drain(ordered(bank, bank.cdc(**given)))
    assert cdc.step() == 0
    assert len(again(bank)) == 10
    cdc.order_snapshots({"accounts": "2", "unknown": "2"})
    wait_until(lambda: cdc.step() >= 0 and len(again(bank)) == 20, "every row again")
    assert bank.replica() == bank.source()


def chunk_is_read(bank: Bank, cdc: PostgresCdc) -> None:
    """Step until a chunk is read that the stream has not come past."""
    source: Any = cdc._source
    wait_until(lambda: source._again.mark is not None or (source._again.ask(cdc.position) or False), "a chunk")


def test_what_overtook_the_chunk_stays(bank: Bank) -> None:
    """Rows that were changed, deleted, moved or made behind the back of a chunk are those of the stream; one that was
    changed before the chunk's moment, and streamed behind it, comes with the chunk too."""
    bank.insert(*((number, "o", 0) for number in range(6)))
    cdc = ordered(bank, bank.drain())
    bank.drain(cdc)
    cdc.order_snapshots({"accounts": "2"})
    bank.execute("UPDATE accounts SET cents = 1 WHERE id = 0")
    source: Any = cdc._source
    position = source._stream.position.with_resnapshot("accounts", resnapshot.Resnapshot("2"))
    source._stream.position = position
    source._again.ask(position)
    chunk_is_read(bank, cdc)
    bank.execute(
        "UPDATE accounts SET cents = 2 WHERE id = 1",
        "DELETE FROM accounts WHERE id = 2",
        "UPDATE accounts SET id = 13 WHERE id = 3",
        "INSERT INTO accounts VALUES (20, 'new', 3)",
    )
    bank.drain(cdc)
    assert again(bank)[6:] == [0, 4, 5]
    assert bank.replica() == bank.source()
    assert [after["cents"] for _, _, after in bank.told() if after and after["id"] == 0] == [0, 0, 1, 1]


def test_a_truncation_overtakes_everything(bank: Bank) -> None:
    """Rows of before do not come back."""
    bank.insert((1, "a", 1), (2, "b", 2))
    cdc = ordered(bank, bank.drain())
    bank.drain(cdc)
    source: Any = cdc._source
    position = source._stream.position.with_resnapshot("accounts", resnapshot.Resnapshot("2"))
    source._stream.position = position
    cdc.order_snapshots({"accounts": "2"})
    source._again.ask(position)
    chunk_is_read(bank, cdc)
    bank.execute("TRUNCATE accounts")
    bank.insert((3, "c", 3))
    bank.drain(cdc)
    assert again(bank) == [1, 2]
    assert list(bank.replica()) == [3]


def work(connection: psycopg.Connection[Any]) -> Iterator[int]:
    """One statement at a time. Every row that one writes has a greater number than all before it."""
    chance = random.Random(5)
    for number in range(1, STATEMENTS + 1):
        key = chance.randrange(ROWS + 50)
        statements = (
            f"INSERT INTO accounts VALUES ({key}, 'i', {number}) ON CONFLICT (id) DO UPDATE SET cents = {number}",
            f"UPDATE accounts SET cents = {number} WHERE id = {key}",
            f"UPDATE accounts SET cents = {number} WHERE id % 7 = {key % 7}",
            f"DELETE FROM accounts WHERE id = {key}",
            f"UPDATE accounts SET id = id + {1_000 * number}, cents = {number} WHERE id = {key}",
            f"BEGIN; UPDATE accounts SET cents = -1 WHERE id < {key}; ROLLBACK",
        )
        connection.execute(chance.choices(statements, (6, 6, 1, 3, 2, 1))[0].encode())
        yield number


@pytest.mark.parametrize("kills", [0, 3])
def test_under_load_the_topic_from_the_order_on_is_the_table(bank: Bank, kills: int) -> None:
    """Beside changes of every kind, with deaths in the midst: what is told since the order, replayed into an empty
    table, is the table; no row goes back in time; the stream goes on between the chunks."""
    bank.insert(*((number, "o", 0) for number in range(ROWS)))
    given: dict[str, Any] = {"batch_rows_max": 40}
    cdc = bank.drain(**given)
    told_before = len(bank.envelopes())
    statements = work(bank.connection)
    ordered(bank, cdc)
    for kill in range(kills):
        while len(again(bank)) < 60 * (kill + 1) and cdc.status().snapshots_open:
            next(statements, None)
            cdc.step()
        bank.kill(cdc)
        cdc = ordered(bank, bank.cdc(setup=False, **given))
    for _ in statements:
        cdc.step()
    bank.drain(cdc)
    envelopes = bank.envelopes()[told_before:]
    rows: dict[int, Any] = {}
    newest: dict[int, int] = {}
    for each in envelopes:
        key = (each["after"] or each["before"])["id"]
        if each["op"] == "d":
            rows.pop(key, None)
            continue
        assert each["after"]["cents"] >= newest.get(key, -1)
        rows[key], newest[key] = each["after"], each["after"]["cents"]
    assert rows == bank.source()
    read = again(bank)
    assert len(read) == len(set(read)) > 100
    kinds = [each["source"]["snapshot"] for each in envelopes]
    first, last = kinds.index("incremental"), len(kinds) - kinds[::-1].index("incremental")
    assert kinds[first:last].count("false") > 20


def test_columns_may_change_between_chunks(bank: Bank) -> None:
    """Each chunk is of the table's own shape at its moment."""
    bank.insert(*((number, "o", number) for number in range(8)))
    cdc = ordered(bank, bank.drain(batch_rows_max=3))
    while len(again(bank)) < 3:
        cdc.step()
    bank.execute("ALTER TABLE accounts DROP COLUMN note", "ALTER TABLE accounts ADD COLUMN more int DEFAULT 7")
    bank.drain(cdc)
    assert again(bank) == list(range(8))


def test_a_joined_table_waits_for_who_wrote_before_it_was_published(bank: Bank) -> None:
    """A transaction that the stream does not tell is in the rows; the stream of the other table goes on meanwhile."""
    bank.kill(bank.drain())
    bank.execute("CREATE TABLE notes (id int PRIMARY KEY, extra text, body text)")
    bank.topic("notes")
    notes = contract_of("notes", ("id",), id="int", body=["null", "string"])
    tables = {"accounts": {"topic": "accounts"}, "notes": {"topic": "notes"}}
    with psycopg.connect(bank.url) as early:
        early.execute("INSERT INTO notes VALUES (1, '', 'early')")
        publisher = threading.Thread(target=lambda: bank.cdc(contracts=[bank.contract, notes], tables=tables).close())
        publisher.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database ="
        query = f"{waits} (SELECT oid FROM pg_database WHERE datname = current_database())"
        wait_until(
            lambda: not publisher.is_alive() or bank.connection.execute(query.encode()).fetchone() != (0,), "its turn"
        )
        if publisher.is_alive():
            early.commit()
        publisher.join()
        cdc = bank.cdc(contracts=[bank.contract, notes], tables=tables, setup=False)
        bank.insert((1, "Ada", 1))
        wait_until(lambda: cdc.step() >= 0 and bool(bank.told()), "the change of the other table")
        early.commit()
    bank.drain(cdc)
    told = [(each["op"], each["after"]) for each in bank.decoded("notes", notes.value_schema)]
    assert told == [("r", {"id": 1, "body": "early"})]


def test_so_many_changes_make_the_stream_wait_for_the_chunk(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted has a bound; nothing is lost by it."""
    monkeypatch.setattr(resnapshot, "KEYS_MAX", 2)
    bank.insert(*((number, "o", 0) for number in range(50)))
    cdc = ordered(bank, bank.drain(batch_rows_max=5))
    for step in range(20):
        bank.execute(f"UPDATE accounts SET cents = {step} WHERE id < 10")
        cdc.step()
    bank.drain(cdc)
    assert bank.replica() == bank.source()
    assert {key for _, key in marks(bank)} == set(range(50))
