"""What each statement becomes: envelopes, keys, tombstones, positions."""

from __future__ import annotations

import json
import re
import time

import pytest

from headrace.contracts.debezium.unwrapped import NEW_KEY_HEADER, OLD_KEY_HEADER
from headrace.ingress.cdc.errors import CaptureMissing, SourceInvalid, TableTruncated
from tests.ingress.mysql.till import Till
from tests.ingress.postgres.bank import account, contract_of

pytestmark = [pytest.mark.mariadb, pytest.mark.xdist_group("mariadb")]


def test_each_statement_and_its_envelope(till: Till) -> None:
    """Snapshot, insert, update, upsert, delete, a changed key, what was rolled back."""
    till.insert((1, "Ann", 5))
    cdc = till.drain()
    till.execute(
        "INSERT INTO accounts VALUES (2, 'Bob', 7, NULL)",
        "UPDATE accounts SET cents = 8 WHERE id = 2",
        "UPDATE accounts SET cents = 8 WHERE id = 2",
        "INSERT INTO accounts VALUES (2, 'x', 1, NULL) ON DUPLICATE KEY UPDATE note = 'n'",
        "UPDATE accounts SET id = 20 WHERE id = 2",
        "DELETE FROM accounts WHERE id = 20",
        "BEGIN",
        "DELETE FROM accounts",
        "ROLLBACK",
    )
    till.drain(cdc)
    bob = account(2, "Bob", 7)
    assert till.told() == [
        ("r", None, account(1, "Ann", 5)),
        ("c", None, bob),
        ("u", bob, {**bob, "cents": 8}),
        ("u", {**bob, "cents": 8}, {**bob, "cents": 8, "note": "n"}),
        ("d", {**bob, "cents": 8, "note": "n"}, None),
        ("c", None, {**bob, "id": 20, "cents": 8, "note": "n"}),
        ("d", {**bob, "id": 20, "cents": 8, "note": "n"}, None),
    ]
    keys = [(key or {})["id"] for key in till.told_keys()]
    assert keys == [1, 2, 2, 2, 2, 2, 20, 20, 20], "a deletion has a tombstone behind it"
    moved = [dict(each.headers) for each in till.changes()[4:7]]
    assert [json.loads(each[NEW_KEY_HEADER] or b"") for each in moved[:2]] == [{"id": 20}] * 2
    assert json.loads(moved[2][OLD_KEY_HEADER] or b"") == {"id": 2}
    assert cdc.counters.dead_letters == 0


def test_the_source_block_and_the_transaction(till: Till) -> None:
    """File, offset and row as Debezium has them, the transaction's id, and the order in it."""
    cdc = till.drain()
    before = int(time.time())
    till.transaction(
        "INSERT INTO accounts VALUES (1, 'a', 1, NULL), (2, 'b', 2, NULL)", "UPDATE accounts SET cents = 3"
    )
    till.drain(cdc)
    sources = [each["source"] for each in till.envelopes()]
    assert {each["connector"] for each in sources} == {"mysql"}
    assert {(each["db"], each["table"], each["name"]) for each in sources} == {(till.database, "accounts", "till")}
    assert [each["row"] for each in sources] == [0, 1, 0, 1]
    assert sources[0]["pos"] == sources[1]["pos"] < sources[2]["pos"] == sources[3]["pos"]
    assert {each["file"] for each in sources} == {till.end().file}
    assert len({each["gtid"] for each in sources}) == 1
    assert before * 1_000 <= sources[0]["ts_ms"] <= (time.time() + 1) * 1_000
    blocks = [each["transaction"] for each in till.envelopes()]
    assert [each["total_order"] for each in blocks] == [1, 2, 3, 4]
    assert {each["id"] for each in blocks} == {sources[0]["gtid"]}
    assert cdc.position is not None
    # MySQL writes all of a server's numbers as a range, MariaDB the last.
    server, _, number = str(sources[0]["gtid"]).rpartition(":" if ":" in cdc.position.gtids else "-")
    assert re.search(rf"{server}[:-](?:1-)?{number}(,|$)", cdc.position.gtids)
    assert [each["change_lsn"] for each in sources] == sorted(each["change_lsn"] for each in sources)


@pytest.mark.parametrize("truncates", ["write", "skip", "stop"])
def test_truncates(till: Till, truncates: str) -> None:
    """Written without key, left out, or the end."""
    till.insert((1, "Ann", 5))
    cdc = till.drain(truncates=truncates)
    till.execute("TRUNCATE TABLE accounts", "INSERT INTO accounts VALUES (2, 'b', 1, NULL)")
    if truncates == "stop":
        with pytest.raises(TableTruncated):
            till.drain(cdc)
        return
    till.drain(cdc)
    assert [operation for operation, _, _ in till.told()] == ["r", *(["t"] if truncates == "write" else []), "c"]
    if truncates == "write":
        assert [key is None for key in till.told_keys()] == [False, True, False]


def test_columns_come_go_and_move(till: Till) -> None:
    """Rows are read by the names that the log has, also where the table looks otherwise by the time they are read."""
    cdc = till.drain()
    till.execute(
        "INSERT INTO accounts VALUES (1, 'a', 1, 'n')",
        "ALTER TABLE accounts ADD COLUMN extra int FIRST",
        "INSERT INTO accounts (id, owner, cents, extra) VALUES (2, 'b', 2, 77)",
        "ALTER TABLE accounts MODIFY note text AFTER id, MODIFY cents int unsigned NOT NULL",
        "INSERT INTO accounts (id, owner, cents, note) VALUES (3, 'c', 3, 'm')",
        "ALTER TABLE accounts DROP COLUMN note",
        "INSERT INTO accounts (id, owner, cents) VALUES (4, 'd', 4)",
    )
    till.drain(cdc)
    assert [after for _, _, after in till.told()] == [
        account(1, "a", 1, "n"),
        account(2, "b", 2),
        account(3, "c", 3, "m"),
        account(4, "d", 4),
    ]


def test_new_columns_are_followed(till: Till) -> None:
    """From their first row on, as nullable fields of a new version of the schema."""
    cdc = till.drain(new_columns="follow")
    till.execute(
        "INSERT INTO accounts VALUES (1, 'a', 1, 'n')",
        "ALTER TABLE accounts ADD COLUMN extra decimal(5,2) AFTER id",
        "INSERT INTO accounts (id, owner, cents, extra) VALUES (2, 'b', 2, 7.5)",
    )
    till.drain(cdc)
    contract = cdc._followed["accounts"][0]
    after = [each["after"] for each in till.decoded(till.contract.topic, contract.value_schema)]
    assert [str(each["extra"]) for each in after] == ["None", "7.50"]


def test_a_column_that_must_be_there_is_dropped(till: Till) -> None:
    """Before its first row without it, the ingress stops."""
    cdc = till.drain()
    till.execute("ALTER TABLE accounts DROP COLUMN cents", "INSERT INTO accounts VALUES (1, 'a', NULL)")
    with pytest.raises(SourceInvalid, match="has no column 'cents'"):
        till.drain(cdc)


@pytest.mark.parametrize(
    ("statements", "error", "message"),
    [
        (["DROP TABLE accounts"], CaptureMissing, "was dropped, renamed or replaced"),
        (["RENAME TABLE accounts TO others"], CaptureMissing, "was dropped, renamed or replaced"),
        (["ALTER TABLE accounts RENAME TO others"], CaptureMissing, "was dropped, renamed or replaced"),
        (["SET binlog_format = 'STATEMENT'", "DELETE FROM accounts"], SourceInvalid, "changed by a statement"),
        (["SET binlog_row_image = 'MINIMAL'", "UPDATE accounts SET cents = 9"], SourceInvalid, "a part of a row's"),
        (
            ["XA START 'x'", "DELETE FROM accounts", "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'"],
            SourceInvalid,
            "in two phases",
        ),
    ],
)
def test_what_cannot_be_followed_stops(till: Till, statements: list[str], error: type[Exception], message: str) -> None:
    """Told with its place; nothing behind it goes out."""
    till.insert((1, "Ann", 5))
    cdc = till.drain()
    till.execute(*statements)
    with pytest.raises(error, match=message):
        till.drain(cdc)
    assert [operation for operation, _, _ in till.told()] == ["r"]


def test_what_concerns_nobody_goes_by(till: Till) -> None:
    """Definitions of other tables, statements of other databases, tables made of others, temporary ones."""
    till.insert((1, "Ann", 5))
    cdc = till.drain()
    till.execute(
        "CREATE TABLE copied AS SELECT * FROM accounts",
        "CREATE TEMPORARY TABLE passing (id int)",
        "DROP TEMPORARY TABLE passing",
        *(["CREATE OR REPLACE TABLE copied (id int)"] if till.is_mariadb else ["ALTER TABLE copied COMMENT 'other'"]),
        "RENAME TABLE copied TO renamed",
        "ALTER TABLE accounts ADD INDEX by_cents (cents), COMMENT 'TRUNCATE PARTITION'",
        "ALTER TABLE accounts RENAME INDEX by_cents TO by_money",
        "DELETE FROM renamed",
        "DROP TABLE renamed",
        "SAVEPOINT nothing",
        "INSERT INTO accounts VALUES (2, 'b', 1, NULL)",
    )
    till.drain(cdc)
    assert [operation for operation, _, _ in till.told()] == ["r", "c"]


def test_keys_that_differ_by_case_alone(till: Till) -> None:
    """The table holds them for one key, the topic for two: the change is a deletion and a creation."""
    till.execute("CREATE TABLE words (word varchar(10) PRIMARY KEY) COLLATE utf8mb4_general_ci")
    till.topic("words")
    words = contract_of("words", ("word",), word="string")
    cdc = till.drain(contracts=[words], tables={"words": {"topic": "words"}})
    till.execute("INSERT INTO words VALUES ('a')", "UPDATE words SET word = 'A'")
    till.drain(cdc)
    told = [(each["op"], each["after"]) for each in till.decoded("words", words.value_schema)]
    assert told == [("c", {"word": "a"}), ("d", None), ("c", {"word": "A"})]
