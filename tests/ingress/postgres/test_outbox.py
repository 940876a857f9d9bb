"""Events that services write in their own transactions, on their way into topics."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.key import open_key_codec
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.postgres import outbox as outbox_reading
from headrace.ingress.cdc.postgres import outbox_encoder
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.ingress.encoder import Entry
from headrace.ingress.environment import GivenEnvironment
from headrace.ingress.outbox import Outbox, OutboxConnection
from headrace.ingress.outbox_table import DEFAULT_TABLE
from headrace.ingress.violations import ContractViolation, EventTimeInvalid, KeyMissing
from headrace.log.columns import Record, binary_column
from headrace.testing.sink_harness import DEADLINE_S, header, wait_until
from tests.ingress.postgres.bank import Bank, orders_contract
from tests.ingress.postgres.killing import outbox_capture

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]

TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}


ORDERS, STATES = orders_contract(), orders_contract("states", kind=TopicKind.TABLE)
OUTBOX = {"topics": ["orders", "states"], "prune_interval_ms": 0}


class Shop:
    """A service with an outbox, and the ingress that reads it."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.outbox = Outbox(contracts={"orders": ORDERS, "states": STATES})
        self.outbox.create_table(bank.connection)
        bank.topic("orders")
        bank.topic("states")

    def cdc(self, *contracts: Contract, **more: Any) -> PostgresCdc:
        given = {"tables": {}, "outbox": OUTBOX, **more}
        return self.bank.cdc(contracts=[*(contracts or (ORDERS, STATES)), self.bank.contract], **given)

    def drain(self, **more: Any) -> PostgresCdc:
        return self.bank.drain(self.cdc(**more))

    def write(self, order: str, step: int, **more: Any) -> UUID:
        """One event in its own transaction."""
        with self.bank.connection.transaction():
            return self.outbox.write(self.bank.connection, "orders", {"order_id": order, "step": step}, **more)

    def events(self, contract: Contract = ORDERS) -> list[dict[str, Any]]:
        return self.bank.decoded(contract.topic, contract.schema)

    def ids(self, topic: str = "orders") -> list[str | None]:
        return [header(each, "headrace.event.id") for each in self.bank.records(topic)]

    def letters(self) -> list[tuple[str | None, str | None]]:
        """Code and message of each dead letter."""
        found = self.bank.records("bank.dlq")
        return [(header(each, "headrace.error.code"), header(each, "headrace.error.message")) for each in found]

    def left(self) -> int:
        """Rows in the table."""
        (count,) = self.bank.connection.execute(f"SELECT count(*) FROM {DEFAULT_TABLE}").fetchone() or (0,)
        return int(count)


@pytest.fixture
def shop(bank: Bank) -> Shop:
    return Shop(bank)


def test_the_record_is_that_of_a_publisher(shop: Shop, bank: Bank) -> None:
    """Key, value, timestamp and partition are equal byte for byte; headers are kept, and the event's id is one."""
    bank.topic("twin")
    row, stamp = {"order_id": "o-1", "step": 7}, 1_700_000_000_123
    event = shop.write("o-1", 7, headers={"traceparent": "00-4bf9-01", "raw": b"\xff"}, timestamp_ms=stamp)
    with bank.connection.transaction():
        kept = shop.outbox.write(bank.connection, "states", row)
        gone = shop.outbox.delete(bank.connection, "states", {"order_id": "o-2"})
    shop.drain()
    twin = Contract("twin", ORDERS.schema, key=ORDERS.key)
    with BatchPublisher(GivenEnvironment(bank.log, bank.registry, {"twin": twin})) as publisher:
        publisher.deliver([Entry("twin", row, stamp)])
    (record,), (expected,) = bank.records("orders"), bank.records("twin")
    assert (record.value, record.timestamp_ms) == (expected.value, expected.timestamp_ms)
    assert shop.events() == [row]
    assert _key(bank, ORDERS, record) == {"order_id": "o-1"}
    assert dict(record.headers) == {
        "traceparent": b"00-4bf9-01",
        "raw": b"\xff",
        "headrace.event.id": str(event).encode(),
    }
    states = bank.records("states")
    assert shop.ids("states") == [str(kept), str(gone)]
    assert [each.value is None for each in states] == [False, True]
    assert _key(bank, STATES, states[1]) == {"order_id": "o-2"}


def _key(bank: Bank, contract: Contract, record: Record) -> Any:
    return open_key_codec(contract, bank.registry).decode(binary_column([record.key])).table.to_pylist()[0]


def test_what_is_rolled_back_never_happened(shop: Shop, bank: Bank) -> None:
    """Whole transactions and parts of them, before the reader first started and while it streams."""

    def work(number: int) -> UUID:
        with bank.connection.transaction():
            event = shop.outbox.write(bank.connection, "orders", {"order_id": "kept", "step": number})
            with bank.connection.transaction() as part:
                shop.outbox.write(bank.connection, "orders", {"order_id": "part", "step": number})
                raise psycopg.Rollback(part)
        with bank.connection.transaction() as whole:
            shop.outbox.write(bank.connection, "orders", {"order_id": "whole", "step": number})
            raise psycopg.Rollback(whole)
        return event

    events = [work(1)]
    cdc = shop.drain()
    events.append(work(2))
    bank.drain(cdc)
    assert shop.ids() == [str(each) for each in events]
    assert [each["order_id"] for each in shop.events()] == ["kept", "kept"]
    assert cdc.counters.dead_letters == 0


def test_a_bad_event_fails_in_the_transaction_of_its_service(shop: Shop, bank: Bank) -> None:
    """As a publisher's: field, key, event time. Nothing that the service wrote with it stays."""
    timed = orders_contract("orders", {"name": "at", "type": TIMESTAMP})
    timed = Contract("timed", timed.schema, key=timed.key, time="at")
    outbox = Outbox(contracts={"orders": ORDERS, "timed": timed})
    bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ContractViolation, "orders", {"order_id": "o", "step": 1.5}),
        (ContractViolation, "orders", {"order_id": "o", "step": 1, "more": 1}),
        (KeyMissing, "orders", {"step": 1}),
        (EventTimeInvalid, "timed", {"order_id": "o", "step": 1, "at": 10**15}),
    ]
    for error, topic, row in bad:
        with pytest.raises(error):
            _serve_once(bank, lambda topic=topic, row=row: outbox.write(bank.connection, topic, row))
    rows = [*({"order_id": "o", "step": step} for step in range(3)), {"order_id": "o"}]
    with pytest.raises(ContractViolation):
        _serve_once(bank, lambda: outbox.write_many(bank.connection, "orders", rows))
    assert (bank.source(), shop.left()) == ({}, 0)


def _serve_once(bank: Bank, write: Callable[[], Any]) -> None:
    with bank.connection.transaction():
        bank.execute("INSERT INTO accounts VALUES (1, 'a', 0)")
        write()


def test_an_event_is_written_in_a_transaction_only(shop: Shop, bank: Bank) -> None:
    """A connection that commits by itself is refused, whoever holds it; one in a block is not."""
    row = {"order_id": "o", "step": 1}
    assert bank.connection.autocommit
    with pytest.raises(OutboxConnection, match=r"connection\.transaction\(\)"):
        shop.outbox.write(bank.connection, "orders", row)
    engine = sqlalchemy.create_engine(_alchemy(bank), poolclass=sqlalchemy.NullPool)
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as loose,
        pytest.raises(OutboxConnection),
    ):
        shop.outbox.write(loose, "orders", row)
    assert shop.left() == 0


def _alchemy(bank: Bank) -> sqlalchemy.URL:
    parts = psycopg.conninfo.conninfo_to_dict(bank.url)
    return sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=str(parts["user"]),
        host=str(parts["host"]),
        port=int(str(parts["port"])),
        database=str(parts["dbname"]),
    )


def test_whatever_a_service_connects_with(shop: Shop, bank: Bank) -> None:
    """Connections and cursors of psycopg, asynchronous ones too, sessions and connections of SQLAlchemy: what they
    commit is published, and no result that somebody else reads is lost."""
    written: list[UUID] = []
    row = {"order_id": "o", "step": 1}
    with psycopg.connect(bank.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        written.append(shop.outbox.write(cursor, "orders", row))
        assert len(cursor.fetchall()) == 3
        written += shop.outbox.write_many(connection, "orders", [row, row])
    engine = sqlalchemy.create_engine(_alchemy(bank), poolclass=sqlalchemy.NullPool)
    with engine.begin() as core:
        written.append(shop.outbox.write(core, "orders", row))
    with Session(engine) as session:
        written += shop.outbox.write_many(session, "orders", [row, row], headers={"h": "1"})
        session.commit()
        shop.outbox.write(session, "orders", row)
        session.rollback()

    async def services() -> None:
        async with await psycopg.AsyncConnection.connect(bank.url) as connection:
            written.append(await shop.outbox.write_async(connection, "orders", row))

    asyncio.run(services())
    shop.drain()
    assert shop.ids() == [str(each) for each in written]


@pytest.mark.parametrize("is_there_before", [True, False])
def test_commit_order_of_a_key_whatever_the_numbers(shop: Shop, bank: Bank, is_there_before: bool) -> None:
    """A transaction that wrote first and committed last is last; what was there before the reader comes in the order of
    writing, since no table knows that of the commits."""
    cdc = None if is_there_before else shop.drain()
    with psycopg.connect(bank.url) as early, psycopg.connect(bank.url) as late:
        shop.outbox.write(early, "orders", {"order_id": "o", "step": 1})
        shop.outbox.write(late, "orders", {"order_id": "o", "step": 2})
        late.commit()
        early.commit()
    bank.drain(cdc) if cdc else shop.drain()
    assert [each["step"] for each in shop.events()] == ([1, 2] if is_there_before else [2, 1])


def test_what_was_there_first_is_told_once_and_first(shop: Shop, bank: Bank) -> None:
    """Begun anew in the midst of what was there, the reading goes on as of its beginning: a row that committed later,
    whatever its number, comes behind all of them and before what was written after it."""
    for step in range(10):
        shop.write("o", step)
    cdc = shop.cdc(batch_rows_max=4)
    while cdc.counters.snapshot_rows < 4:
        cdc.step()
    bank.kill(cdc)
    bank.execute(
        f"INSERT INTO {DEFAULT_TABLE} (number, topic, payload) OVERRIDING SYSTEM VALUE"
        """ VALUES (-1, 'orders', '{"order_id": "o", "step": 10}')"""
    )
    shop.write("o", 11)
    shop.drain(batch_rows_max=4)
    assert [each["step"] for each in shop.events()] == list(range(12))
    assert len(set(shop.ids())) == 12


def test_an_outbox_joins_an_ingress(shop: Shop, bank: Bank) -> None:
    """Beside tables that are captured already: what was in it, and what comes, once."""
    bank.insert((1, "a", 1))
    tables = {"accounts": {"topic": bank.contract.topic}}
    bank.kill(bank.drain(bank.cdc()))
    events = [shop.write("o", 1)]
    cdc = shop.cdc(tables=tables)
    bank.drain(cdc)
    events.append(shop.write("o", 2))
    bank.insert((2, "b", 2))
    bank.drain(cdc)
    assert shop.ids() == [str(each) for each in events]
    assert bank.replica() == bank.source()


def test_bad_rows_are_dead_letters(shop: Shop, bank: Bank) -> None:
    """Of another program: a topic that is not allowed, what does not fit, what is no object; the others go on."""
    shop.drain()

    def insert(topic: str, payload: str, headers: str | None = None) -> None:
        statement = f"INSERT INTO {DEFAULT_TABLE} (topic, payload, headers) VALUES (%s, %s, %s)"
        bank.connection.execute(statement, (topic, payload, headers))

    good = '{"order_id": "sql", "step": 1}'
    insert("orders", '{"order_id": "o", "step": "one"}')
    insert("orders", '{"order_id": "o", "step": 1, "more": 2}')
    insert("orders", '{"step": 1}')
    insert("orders", "[]")
    insert("orders", good, '{"a": 1}')
    insert("elsewhere", good)
    insert("accounts", good)
    insert("orders", good, '{"a": "b"}')
    cdc = shop.drain()
    assert [each["order_id"] for each in shop.events()] == ["sql"]
    assert header(bank.records("orders")[0], "a") == "b"
    expected = [*["ingress.contract_violation"] * 4, "ingress.key_missing", *["ingress.outbox_topic"] * 2]
    assert sorted(str(code) for code, _ in shop.letters()) == expected
    assert cdc.counters.dead_letters == 7
    letter = next(each for each in bank.records("bank.dlq") if b"elsewhere" in (each.value or b""))
    assert json.loads(letter.value or b"")["payload"] == good
    assert header(letter, "headrace.error.topic") == "elsewhere"


def test_the_schema_of_the_moment_of_writing(shop: Shop, bank: Bank) -> None:
    """Rows of an older version and of a newer one than the reader's are published by their own; one of a version that
    nobody registered is held against the reader's, and its unknown field is told."""
    note = {"name": "note", "type": "string", "default": "?"}
    old, new = (
        orders_contract("orders", note),
        orders_contract("orders", {"name": "color", "type": ["null", "string"], "default": None}),
    )
    unknown = orders_contract("orders", {"name": "size", "type": ["null", "long"], "default": None})
    for each in (old, ORDERS, new):
        bank.registry.register("orders-value", each.schema)
    for contract, more in ((old, {"note": "n"}), (ORDERS, {}), (new, {"color": "red"}), (unknown, {"size": 1})):
        with bank.connection.transaction():
            outbox = Outbox(contracts={"orders": contract})
            outbox.write(bank.connection, "orders", {"order_id": "o", "step": 1, **more})
    shop.drain()
    base = {"order_id": "o", "step": 1}
    assert shop.events(old) == [{**base, "note": "n"}, {**base, "note": "?"}, {**base, "note": "?"}]
    assert [each["color"] for each in shop.events(new)] == [None, None, "red"]
    ((code, message),) = shop.letters()
    assert (code, "field 'size' is not in the contract" in str(message)) == ("ingress.contract_violation", True)


def test_a_row_that_is_too_large_is_a_dead_letter(shop: Shop, bank: Bank) -> None:
    """It goes without what it says; those around it are published."""
    shop.write("before", 1)
    shop.write("x" * 2_000_000, 2)
    shop.write("after", 3)
    shop.drain()
    assert [each["step"] for each in shop.events()] == [1, 3]
    assert [code for code, _ in shop.letters()] == ["log.record_too_large"]
    (letter,) = bank.records("bank.dlq")
    assert sorted(json.loads(letter.value or b"")) == ["event_id", "number", "topic"]


def test_the_table_stays_small(shop: Shop, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published leaves it, in bounded steps, also what an earlier reader left; a row that is not committed or
    not published stays. Removing rows, by whomever, publishes nothing."""
    monkeypatch.setattr(outbox_reading, "PRUNE_ROWS_MAX", 3)
    prune = {"outbox": {**OUTBOX, "prune_interval_ms": 1}, "heartbeat_interval_ms": 100}
    for step in range(8):
        shop.write("o", step)
    bank.kill(shop.drain())
    assert shop.left() == 8
    with psycopg.connect(bank.url) as other:
        cdc = bank.drain(shop.cdc(**prune))
        shop.outbox.write(other, "orders", {"order_id": "open", "step": 8})
        _step_until(cdc, lambda: shop.left() == 0)
    shop.write("o", 9)
    _step_until(cdc, lambda: shop.left() == 0 and len(shop.ids()) == 10)
    shop.write("o", 10)
    bank.execute(f"UPDATE {DEFAULT_TABLE} SET topic = 'states'", f"DELETE FROM {DEFAULT_TABLE}")
    shop.write("o", 11)
    bank.execute(f"TRUNCATE {DEFAULT_TABLE}")
    bank.drain(cdc)
    assert [each["step"] for each in shop.events()] == list(range(12))
    assert (shop.ids("states"), shop.letters()) == ([], [])


def _step_until(cdc: PostgresCdc, condition: Callable[[], bool]) -> None:
    def stepped() -> bool:
        cdc.step()
        return condition()

    wait_until(stepped, "what the reader does")


def test_apply_makes_the_table_and_says_what_lacks(bank: Bank) -> None:
    """The table and its place in the publication; a table that is no outbox, or that may not be pruned, is refused."""
    bank.topic("orders")
    given: dict[str, Any] = {"contracts": [ORDERS], "tables": {}, "setup": False}
    cdc = bank.cdc(outbox={"topics": ["orders"], "table": "stock.events"}, **given)
    bank.execute("CREATE SCHEMA stock", "CREATE TABLE other (number bigint PRIMARY KEY)")
    assert cdc.missing() == ["stock.events"]
    assert "table stock.events" in cdc.setup_summary(cdc.missing())
    assert cdc.setup() == ["stock.events"]
    assert cdc.missing() == []
    with pytest.raises(SourceInvalid, match="no column"):
        bank.cdc(outbox={"topics": ["orders"], "table": "other"}, **given).missing()
    with pytest.raises(SourceInvalid, match="has no contract"):
        bank.cdc(outbox={"topics": ["elsewhere"]}, **given)
    with pytest.raises(SourceInvalid, match="kind change"):
        bank.cdc(outbox={"topics": ["accounts"]}, **{**given, "contracts": [bank.contract]})
    bank.execute(
        "DROP ROLE IF EXISTS outbox_reader",
        "CREATE ROLE outbox_reader LOGIN REPLICATION",
        "GRANT USAGE ON SCHEMA stock TO outbox_reader",
        "GRANT SELECT ON stock.events TO outbox_reader",
    )
    try:
        limited = psycopg.conninfo.make_conninfo(bank.url, user="outbox_reader")
        reading = {"topics": ["orders"], "table": "stock.events"}
        with pytest.raises(SourceInvalid, match="may not delete"):
            bank.cdc(outbox=reading, database=limited, **given).missing()
        assert bank.cdc(outbox={**reading, "prune_interval_ms": 0}, database=limited, **given).missing() == []
    finally:
        bank.execute("DROP OWNED BY outbox_reader", "DROP ROLE outbox_reader")


def test_a_cache_of_encoders_has_an_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many schemas come, the rows are right."""
    monkeypatch.setattr(outbox_encoder, "ENCODERS_KEPT_MAX", 1)
    for step in range(4):
        shop.write("o", step)
        with shop.bank.connection.transaction():
            shop.outbox.write(shop.bank.connection, "states", {"order_id": "o", "step": step})
    shop.drain()
    assert [each["step"] for each in shop.events()] == [each["step"] for each in shop.events(STATES)] == [0, 1, 2, 3]


WRITERS, EVENTS_EACH, KEYS = 3, 150, 5
KILLS = 3


def test_each_event_once_whenever_the_reader_dies(shop: Shop, bank: Bank) -> None:
    """kill -9 while services write concurrently, some of them rolling back, and while published rows are removed: every
    event of a committed transaction is there once, none of another, those of a key in the order of their commits."""
    chance = random.Random(11)
    for step in range(120):
        shop.write("before", step)
    bank.execute("CREATE TABLE orders (id text PRIMARY KEY, step bigint NOT NULL DEFAULT 0)")
    bank.execute(*(f"INSERT INTO orders (id) VALUES ('o-{key}')" for key in range(KEYS)))
    outbox = {**OUTBOX, "prune_interval_ms": 10}
    shop.cdc(outbox=outbox).close()
    threads = [threading.Thread(target=_serve, args=(shop, bank.url, number)) for number in range(WRITERS)]
    child = outbox_capture(bank, outbox)
    try:
        for kill in range(KILLS):
            if kill == 1:
                for thread in threads:
                    thread.start()
            _await_more(bank, child)
            time.sleep(chance.random() * 0.3)
            child.kill()
            child.wait()
            child = outbox_capture(bank, outbox)
        for thread in threads:
            thread.join()
        (total,) = bank.connection.execute("SELECT sum(step)::int FROM orders").fetchone() or (0,)
        wait_until(lambda: len(bank.records("orders")) >= 120 + total or child.poll() is not None, "all events")
        wait_until(lambda: shop.left() == 0, "an empty table")
    finally:
        child.kill()
        child.wait()
    steps: dict[str, list[int]] = {}
    for each in shop.events():
        steps.setdefault(each["order_id"], []).append(each["step"])
    last = dict(bank.connection.execute("SELECT id, step FROM orders").fetchall())
    assert steps == {"before": list(range(120)), **{key: list(range(1, step + 1)) for key, step in last.items()}}
    assert len(set(shop.ids())) == 120 + total


def _await_more(bank: Bank, child: subprocess.Popen[bytes]) -> None:
    """Until the process publishes, or there is nothing that it could."""
    before, deadline = len(bank.records("orders")), time.monotonic() + DEADLINE_S
    while len(bank.records("orders")) == before and child.poll() is None and time.monotonic() < deadline:
        (left,) = bank.connection.execute(f"SELECT count(*) FROM {DEFAULT_TABLE}").fetchone() or (0,)
        if left == 0:
            return
        time.sleep(0.01)


def _serve(shop: Shop, url: str, seed: int) -> None:
    """Each transaction moves an order on and says so; its row's lock makes the order of the commits."""
    chance = random.Random(seed)
    with psycopg.connect(url) as connection:
        for _ in range(EVENTS_EACH):
            order = f"o-{chance.randrange(KEYS)}"
            query = "UPDATE orders SET step = step + 1 WHERE id = %s RETURNING step"
            (step,) = connection.execute(query, (order,)).fetchone() or (0,)
            shop.outbox.write(connection, "orders", {"order_id": order, "step": step})
            if chance.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
