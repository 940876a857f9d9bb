"""Changes of a SQLite table as Debezium envelopes: what each statement becomes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.testing.sink_harness import header
from tests.ingress.fleet import Fleet, only, plane

A, B = plane("N1", "Airbus", 100), plane("N2", None, 50)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def test_snapshot_then_changes(fleet: Fleet) -> None:
    """Rows that are there come as `r`, later ones as `c`, `u`, `d` with the images before and after."""
    fleet.insert(("N1", "Airbus", 100))
    cdc = fleet.drain()
    fleet.insert(("N2", None, 50))
    fleet.execute("UPDATE planes SET seats = 120 WHERE tailnum = 'N1'", "DELETE FROM planes WHERE tailnum = 'N2'")
    fleet.drain(cdc)
    assert fleet.told() == [
        ("r", None, A),
        ("c", None, B),
        ("u", A, {**A, "seats": 120}),
        ("d", B, None),
    ]
    assert fleet.sequences() == [1, 2, 3]
    counters = cdc.counters
    assert (counters.snapshot_rows, counters.changes, counters.dead_letters) == (1, 3, 0)


def test_each_record_is_keyed_and_a_deletion_has_its_tombstone(fleet: Fleet) -> None:
    """The message key is the primary key; behind the envelope of a deletion stands a null value, for compaction."""
    cdc = fleet.drain()
    fleet.insert(("N1", "Airbus", 100))
    fleet.execute("DELETE FROM planes")
    fleet.drain(cdc)
    assert [record.value is None for record in fleet.changes()] == [False, False, True]
    assert fleet.keys() == [{"tailnum": "N1"}] * 3


def test_a_changed_key_is_a_deletion_and_a_creation(fleet: Fleet) -> None:
    """Nobody finds the row under its old key any more."""
    fleet.insert(("N1", "Airbus", 100))
    cdc = fleet.drain()
    fleet.execute("UPDATE planes SET tailnum = 'N9' WHERE tailnum = 'N1'")
    fleet.drain(cdc)
    assert fleet.told()[1:] == [("d", A, None), ("c", None, {**A, "tailnum": "N9"})]
    assert fleet.keys()[1:] == [{"tailnum": "N1"}, {"tailnum": "N1"}, {"tailnum": "N9"}]
    assert fleet.replica() == fleet.source()


def test_replaced_rows_do_not_stay_behind(fleet: Fleet) -> None:
    """REPLACE removes rows in its way without a delete trigger: by key an update, by a unique column a deletion."""
    fleet.insert(("N1", "Airbus", 100), ("N2", None, 50))
    cdc = fleet.drain()
    fleet.execute("REPLACE INTO planes VALUES ('N1', 'Boeing', 101)", "REPLACE INTO planes VALUES ('N3', 'Cessna', 50)")
    fleet.execute("UPDATE OR REPLACE planes SET seats = 101 WHERE tailnum = 'N3'")
    fleet.drain(cdc)
    assert fleet.told()[2:] == [
        ("u", A, plane("N1", "Boeing", 101)),
        ("d", B, None),
        ("c", None, plane("N3", "Cessna", 50)),
        ("d", plane("N1", "Boeing", 101), None),
        ("u", plane("N3", "Cessna", 50), plane("N3", "Cessna", 101)),
    ]
    assert fleet.replica() == fleet.source()


def test_upserts_and_ignored_inserts(fleet: Fleet) -> None:
    """ON CONFLICT DO UPDATE is an update, OR IGNORE nothing at all."""
    fleet.insert(("N1", "Airbus", 100))
    cdc = fleet.drain()
    fleet.execute(
        "INSERT INTO planes VALUES ('N1', 'x', 1) ON CONFLICT (tailnum) DO UPDATE SET maker = 'Boeing'",
        "INSERT OR IGNORE INTO planes VALUES ('N1', 'y', 2)",
    )
    fleet.drain(cdc)
    assert fleet.told()[1:] == [("u", A, {**A, "maker": "Boeing"})]


def test_rolled_back_changes_never_happened(fleet: Fleet) -> None:
    """The change log is part of the application's own transaction; numbers have no gap either."""
    cdc = fleet.drain(prune_interval_ms=3_600_000)
    fleet.execute("BEGIN")
    fleet.insert(("N1", "Airbus", 100))
    assert cdc.step() == 0, "not committed, not seen"
    fleet.execute("ROLLBACK")
    fleet.insert(("N2", None, 50))
    fleet.drain(cdc)
    assert fleet.told() == [("c", None, B)]
    assert fleet.sequences() == [1]


def test_other_triggers_on_the_table_have_the_last_word(fleet: Fleet) -> None:
    """A trigger of the application that alters the row: the last envelope shows the row as it is in the table."""
    fleet.execute(
        "CREATE TRIGGER tidy AFTER INSERT ON planes BEGIN"
        " UPDATE planes SET maker = upper(NEW.maker) WHERE tailnum = NEW.tailnum; END"
    )
    cdc = fleet.drain()
    fleet.insert(("N1", "Airbus", 100))
    fleet.drain(cdc)
    assert fleet.told()[-1][2] == {**A, "maker": "AIRBUS"}
    assert fleet.replica() == fleet.source()


def test_the_envelope_says_where_a_change_comes_from(fleet: Fleet) -> None:
    """Debezium's fields: source block, snapshot mark, times; the record's timestamp is the time of the change."""
    before_ms = time.time_ns() // 1_000_000
    fleet.insert(("N1", "Airbus", 100))
    cdc = fleet.drain()
    fleet.execute("UPDATE planes SET maker = 'Boeing'")
    fleet.drain(cdc)
    after_ms = time.time_ns() // 1_000_000
    first, second = fleet.envelopes()
    assert list(first) == [each.name for each in fleet.contract.value_schema.fields]
    assert {"before", "after", "source", "transaction", "op", "ts_ms"} <= set(first)
    for envelope, snapshot in ((first, "true"), (second, "false")):
        source = envelope["source"]
        told = {name: source[name] for name in ("connector", "name", "db", "table", "snapshot")}
        assert told == {
            "connector": "sqlite",
            "name": "fleet",
            "db": "fleet",
            "table": "planes",
            "snapshot": snapshot,
        }
        assert before_ms - 1_000 <= source["ts_ms"] <= envelope["ts_ms"] + 1_000
        assert source["ts_us"] == source["ts_ms"] * 1_000
        assert envelope["ts_ms"] <= after_ms
    assert [record.timestamp_ms for record in fleet.changes()] == [each["source"]["ts_ms"] for each in (first, second)]


def test_values_come_out_as_they_went_in(tmp_path: Path) -> None:
    """64-bit integers, reals, blobs, empty and foreign text, booleans, decimals and times, each by its contract."""
    fields = {
        "id": "long",
        "amount": "double",
        "data": "bytes",
        "name": "string",
        "ok": "boolean",
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        "at": {"type": "long", "logicalType": "timestamp-micros"},
    }
    schema = AvroSchema.parse(
        {"type": "record", "name": "V", "fields": [{"name": name, "type": each} for name, each in fields.items()]}
    )
    contract = Contract("planes", schema, kind=TopicKind.CHANGE, key=("id",))
    table = "CREATE TABLE planes (id INTEGER PRIMARY KEY, amount, data, name, ok, price, at)"
    fleet = Fleet(tmp_path, contract, table)
    row = (2**63 - 1, 0.1, b"\x00\xff", "grün \U0001f6e9", 1, "12.50", "2013-01-01 05:15:00.000001")
    cdc = fleet.drain()
    fleet.connection.execute("INSERT INTO planes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    fleet.execute("UPDATE planes SET name = ''")
    fleet.drain(cdc)
    after = [each["after"] for each in fleet.envelopes()]
    assert [(each["id"], each["amount"], each["data"], each["ok"]) for each in after] == [(*row[:3], True)] * 2
    assert [each["name"] for each in after] == ["grün \U0001f6e9", ""]
    assert str(after[0]["price"]) == "12.50"
    assert after[0]["at"].isoformat() == "2013-01-01T05:15:00.000001+00:00"
    fleet.close()


def test_a_change_that_the_contract_does_not_take_is_a_dead_letter(fleet: Fleet) -> None:
    """SQLite stores text in an integer column: that change alone is set aside with its columns and reason."""
    cdc = fleet.drain()
    fleet.execute("INSERT INTO planes VALUES ('N1', 'Airbus', 'many')", "INSERT INTO planes VALUES ('N2', NULL, 50)")
    fleet.drain(cdc)
    assert fleet.told() == [("c", None, B)]
    dead = only(fleet.records("fleet.dlq"))
    assert header(dead, "headrace.error.code") == "ingress.contract_violation"
    assert header(dead, "headrace.error.stage") == "encode"
    assert header(dead, "headrace.error.topic") == "planes"
    assert "seats" in (header(dead, "headrace.error.message") or "")
    assert json.loads(dead.value or b"")["after"] == {"tailnum": "N1", "maker": "Airbus", "seats": "many"}
    assert (cdc.counters.changes, cdc.counters.dead_letters) == (1, 1)
    fleet.execute("UPDATE planes SET seats = 7 WHERE tailnum = 'N1'")
    fleet.drain(cdc)
    assert fleet.told()[-1] == ("u", None, plane("N1", "Airbus", 7)), "the image before does not fit and is left out"


def test_published_changes_leave_the_source(fleet: Fleet) -> None:
    """The change log is pruned behind the committed position, so the source does not grow."""
    cdc = fleet.drain()
    fleet.insert(*((f"N{number}", None, number) for number in range(50)))
    count = "SELECT count(*) FROM _headrace_fleet_changes_planes"
    assert only(fleet.connection.execute(count).fetchone()) == 50
    fleet.drain(cdc)
    assert only(fleet.connection.execute(count).fetchone()) == 0
    assert cdc.counters.pruned == 50


def test_removing_the_capture_leaves_the_source_as_it_was(fleet: Fleet) -> None:
    """`teardown`: no trigger, no table of ours is left, and the application goes on."""
    query = "SELECT name FROM sqlite_master WHERE name LIKE '%headrace%'"
    cdc = fleet.drain()
    assert fleet.connection.execute(query).fetchall()
    cdc.close()
    cdc.teardown()
    assert fleet.connection.execute(query).fetchall() == []
    fleet.insert(("N1", "Airbus", 100))


def test_the_application_need_not_know(fleet: Fleet) -> None:
    """A second connection with default settings writes while the capture reads; neither blocks the other for long."""
    cdc = fleet.drain()
    other = sqlite3.connect(fleet.database)
    for number in range(20):
        other.execute("INSERT INTO planes VALUES (?, NULL, ?)", (f"N{number}", number))
        other.commit()
        cdc.step()
    other.close()
    fleet.drain(cdc)
    assert fleet.replica() == fleet.source()
    assert fleet.sequences() == list(range(1, 21))
