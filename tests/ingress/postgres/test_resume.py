"""Deaths and restarts at bad moments: no change is lost, none comes twice, and what cannot be gone on from stops."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.ingress.cdc.errors import (
    CaptureMissing,
    PositionLost,
    SlotInUse,
    SlotLost,
    SlotTaken,
    SourceInvalid,
    SourceUnguarded,
    TableTruncated,
)
from headrace.ingress.cdc.postgres import snapshot, source, stream
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.ingress.cdc.postgres.position import (
    Moment,
    Open,
    PostgresPosition,
    Range,
    Resnapshot,
    TableSnapshot,
)
from headrace.ingress.cdc.postgres.tables import followed_contract
from headrace.ingress.cdc.postgres.types import Family, PgType, named_type
from headrace.log.embedded.producer import EmbeddedProducer
from headrace.testing.postgres import running_postgres
from tests.ingress.postgres.bank import Bank, account, contract_of

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres")]


class Died(BaseException):
    """The process is gone."""


def die_in_commit(cdc: PostgresCdc, *, after: bool) -> None:
    """One step whose process ends around the commit of its transaction."""
    commit: Callable[..., None] = EmbeddedProducer.commit

    def dying(self: EmbeddedProducer, *arguments: object) -> None:
        if after:
            commit(self, *arguments)
        raise Died

    patch = pytest.MonkeyPatch()
    patch.setattr(EmbeddedProducer, "commit", dying)
    try:
        with suppress(Died):
            cdc.step()
    finally:
        patch.undo()


@pytest.mark.parametrize("seed", range(4))
def test_any_history_and_any_deaths(bank: Bank, seed: int) -> None:
    """Random statements between single steps, from before the snapshot on, with a key of text; processes die around a
    commit or vanish. In the end a reader of the topic has the table, and no change came twice."""
    chance = random.Random(seed)
    bank.insert(*((number, f"o{number}", number) for number in range(40)))
    cdc = bank.cdc(batch_rows_max=7)
    for tag in range(60):
        kind, key = (
            chance.choice(["insert", "update", "all", "delete", "rekey", "truncate", "step", "step", "die"]),
            (chance.randrange(60)),
        )
        if kind == "step":
            cdc.step()
        elif kind == "die":
            if chance.random() < 0.7:
                die_in_commit(cdc, after=chance.random() < 0.5)
            bank.kill(cdc)
            cdc = bank.cdc(batch_rows_max=7, setup=False)
        elif kind != "truncate" or (tag > 30 and chance.random() < 0.3 and not cdc.status().snapshots_open):
            statement = {
                "insert": f"INSERT INTO accounts VALUES ({key}, 'i{tag}', {tag}) ON CONFLICT (id) DO NOTHING",
                "update": f"UPDATE accounts SET owner = 'u{tag}' WHERE id = {key}",
                "all": f"UPDATE accounts SET cents = {tag} WHERE id >= {key}",
                "delete": f"DELETE FROM accounts WHERE id = {key}",
                "rekey": f"UPDATE accounts SET id = {1_000 + tag * 100 + key} WHERE id = {key}",
                "truncate": "TRUNCATE accounts",
            }[kind]
            bank.execute(statement)
    bank.drain(cdc)
    assert bank.replica() == bank.source()
    places = bank.places()
    assert len(places) == len(set(places)) + sum(op == "c" for op, _, _ in bank.told()) - len(creations(bank))


def creations(bank: Bank) -> list[object]:
    """Places of creations that no deletion shares: a changed key is two records of one change."""
    deleted = {each["source"]["change_lsn"] for each in bank.envelopes() if each["op"] == "d"}
    found = [each["source"]["change_lsn"] for each in bank.envelopes() if each["op"] == "c"]
    return [each for each in found if each not in deleted]


@pytest.mark.parametrize("after", [False, True])
def test_a_large_transaction_is_cut_and_gone_on_with(bank: Bank, after: bool) -> None:
    """A process dies in its middle, before or after a part is committed: every change once, in order."""
    cdc = bank.drain(batch_rows_max=50)
    bank.execute("INSERT INTO accounts SELECT n, 'o' || n, n FROM generate_series(1, 175) n")
    while cdc.position is None or cdc.position.open is None:
        cdc.step()
    die_in_commit(cdc, after=after)
    bank.kill(cdc)
    cdc = bank.drain(batch_rows_max=50, setup=False)
    assert [(row or {})["id"] for _, _, row in bank.told()] == list(range(1, 176))
    orders = [each["transaction"]["total_order"] for each in bank.envelopes()]
    assert orders == list(range(1, 176))


def test_a_snapshot_goes_on_after_a_restart(bank: Bank) -> None:
    """Rows that were read stay read; changes that the new moment shows are not told again, others are."""
    bank.insert(*((number, f"o{number}", 0) for number in range(30)))
    cdc = bank.cdc(batch_rows_max=10)
    while sum(operation == "r" for operation, _, _ in bank.told()) < 10:
        cdc.step()
    bank.kill(cdc)
    bank.execute("UPDATE accounts SET cents = 1 WHERE id IN (3, 25)", "DELETE FROM accounts WHERE id IN (4, 26)")
    cdc = bank.cdc(batch_rows_max=10, setup=False)
    bank.drain(cdc)
    read = [(row or {})["id"] for operation, _, row in bank.told() if operation == "r"]
    assert read == [number for number in range(30) if number != 26]
    streamed = [(op, (row or old or {})["id"]) for op, old, row in bank.told() if op != "r"]
    assert streamed == [("u", 3), ("d", 4)], "25 and 26 were as they are when the second process read them"
    assert bank.replica() == bank.source()
    assert cdc.position is not None
    assert cdc.position.tables["accounts"].ranges == ()


def test_a_snapshot_in_parallel_ranges(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges by a sample of the keys, a key of two columns one of which is text: every row once."""
    monkeypatch.setattr(snapshot, "SPLIT_PAGES_MIN", 1)
    bank.execute(
        "CREATE TABLE pairs (a text, b int, PRIMARY KEY (a, b))",
        "INSERT INTO pairs SELECT chr(65 + n % 26) || '''\\', n FROM generate_series(1, 2000) n",
    )
    bank.topic("pairs")
    pairs = contract_of("pairs", ("a", "b"), a="string", b="int")
    cdc = bank.cdc(contracts=[pairs], tables={"pairs": {"topic": "pairs"}}, snapshot_workers=3, batch_rows_max=100)
    cdc.step()
    assert cdc.position is not None
    assert len(cdc.position.tables["pairs"].ranges) == 6
    for _ in range(5):
        cdc.step()
    bank.kill(cdc)
    cdc = bank.cdc(contracts=[pairs], tables={"pairs": {"topic": "pairs"}}, snapshot_workers=3, batch_rows_max=100)
    bank.execute("UPDATE pairs SET b = -b WHERE b % 100 = 7")
    bank.drain(cdc)
    rows: set[tuple[str, int]] = set()
    for each in bank.decoded("pairs", pairs.value_schema):
        if each["op"] == "d":
            rows.discard((each["before"]["a"], each["before"]["b"]))
        else:
            rows.add((each["after"]["a"], each["after"]["b"]))
    assert rows == set(bank.connection.execute("SELECT a, b FROM pairs").fetchall())


def test_a_table_that_joins_later(bank: Bank) -> None:
    """Its changes once, its rows once beside the stream, behind the changes that they show."""
    bank.insert((1, "Ada", 1))
    bank.kill(bank.drain())
    bank.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)", "INSERT INTO notes VALUES (1, 'a'), (2, 'b')")
    bank.topic("notes")
    notes = contract_of("notes", ("id",), id="int", body=["null", "string"])
    tables = {"accounts": {"topic": "accounts"}, "notes": {"topic": "notes"}}
    cdc = bank.cdc(contracts=[bank.contract, notes], tables=tables)
    bank.execute("UPDATE notes SET body = 'seen by the snapshot' WHERE id = 2")
    bank.insert((2, "Eve", 2))
    bank.drain(cdc)
    bank.execute("DELETE FROM notes WHERE id = 1")
    bank.drain(cdc)
    told = [(each["op"], (each["after"] or each["before"])["id"]) for each in bank.decoded("notes", notes.value_schema)]
    assert told == [("u", 2), ("r", 1), ("r", 2), ("d", 1)]
    assert [operation for operation, _, _ in bank.told()] == ["r", "c"]


def test_an_idle_database_moves_the_slot(bank: Bank) -> None:
    """Only other tables change: heartbeats move the position, and the server may forget its log."""
    cdc = bank.drain()
    before = bank.slot().confirmed_lsn
    bank.execute("CREATE TABLE other (n int)", "INSERT INTO other SELECT generate_series(1, 1000)")
    bank.drain(cdc)
    cdc.step()
    assert bank.told() == []
    assert cdc.position is not None
    while bank.slot().confirmed_lsn <= before:
        cdc.step()
    assert bank.slot().confirmed_lsn <= cdc.position.lsn


def test_a_lost_slot_stops_and_another_generation_begins_anew(bank: Bank) -> None:
    """Somebody dropped the slot: changes were missed, so nothing goes on until the user says so."""
    bank.insert((1, "Ada", 1))
    bank.kill(bank.drain())
    bank.execute(f"SELECT pg_drop_replication_slot('headrace_{bank.database}_bank')")
    bank.execute("UPDATE accounts SET owner = 'missed'")
    cdc = bank.cdc()
    with pytest.raises(SlotLost, match=r"is gone: changes were missed; raise `generation`"):
        cdc.step()
    bank.drain(bank.cdc(generation=2))
    assert bank.replica() == bank.source()


def test_a_slot_that_somebody_read_is_refused(bank: Bank) -> None:
    """The server would silently go on from where the other reader was."""
    bank.kill(bank.drain())
    bank.insert((1, "Ada", 1))
    bank.execute(
        f"SELECT pg_replication_slot_advance('headrace_{bank.database}_bank', pg_current_wal_lsn())",
    )
    with pytest.raises(PositionLost, match="those between went elsewhere"):
        bank.cdc().step()


def test_a_slot_in_use_is_waited_for(bank: Bank) -> None:
    """Two processes of one ingress on one server: the second says who has it."""
    first = bank.drain()
    bank.insert((1, "Ada", 1))
    bank.drain(first)
    with pytest.raises(SlotInUse, match="is read by another connection"):
        bank.cdc().step()
    bank.kill(first)
    bank.insert((2, "Eve", 2))
    bank.drain(bank.cdc())
    assert bank.told() == [("c", None, account(1, "Ada", 1)), ("c", None, account(2, "Eve", 2))]


def test_a_slot_that_stays_in_use_stops(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a reader that died could hold it: somebody else has the slot, and the message says who."""
    monkeypatch.setattr(source, "IN_USE_PATIENCE_S", 0.05)
    first = bank.drain()
    bank.insert((1, "Ada", 1))
    bank.drain(first)
    second = bank.cdc()
    with pytest.raises(SlotInUse):
        second.step()
    time.sleep(0.06)
    with pytest.raises(SlotTaken, match=r"by another connection: headrace of user .* stop the other reader"):
        second.step()
    assert not isinstance(SlotTaken("x"), SlotInUse)
    bank.kill(first)
    bank.drain(second)


def test_a_slot_that_is_dropped_while_it_streams(bank: Bank) -> None:
    """The stream ends, and what comes next is a lost slot, not a new one."""
    cdc = bank.drain()
    bank.insert((1, "Ada", 1))
    bank.drain(cdc)
    slot = bank.slot()
    bank.execute(f"SELECT pg_terminate_backend({slot.active_pid})")
    bank.free()
    bank.execute(f"SELECT pg_drop_replication_slot('headrace_{bank.database}_bank')")
    bank.insert((2, "missed", 2))
    with pytest.raises(SlotLost, match="is gone: changes were missed"):
        cdc.run(threading.Event())
    assert cdc.status().state == "failed"
    assert len(bank.told()) == 1


def test_a_slot_that_fell_too_far_behind(tmp_path: Path) -> None:
    """The server gave it up at `max_slot_wal_keep_size`: the status tells how much is left, then it is a gap."""
    limit = {"max_slot_wal_keep_size": "32MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with running_postgres(settings=limit) as server, closing(Bank(tmp_path, server.url)) as bank:
        cdc = bank.drain()
        log = cdc.status().source_log
        assert log is not None
        assert log.safe_bytes is not None
        assert 0 < log.safe_bytes <= 64 << 20
        bank.kill(cdc)
        before = bank.slot().log
        bank.execute(*(["CREATE TABLE IF NOT EXISTS other ()", "SELECT pg_switch_wal()"] * 2))
        assert bank.slot().log.behind_bytes > before.behind_bytes
        assert bank.slot().log.safe_bytes < before.safe_bytes
        for number in range(8):
            bank.execute(f"CREATE TABLE other_{number} ()", "SELECT pg_switch_wal()")
        bank.execute("CHECKPOINT")
        with pytest.raises(SlotLost, match="no longer keeps the log"):
            bank.cdc().step()


def test_guards_before_anything_is_made(tmp_path: Path) -> None:
    """A server without a limit for slots, unless the file allows it; and one without logical replication."""
    unlimited = {"max_slot_wal_keep_size": "-1"}
    with running_postgres(settings=unlimited) as server, closing(Bank(tmp_path, server.url)) as bank:
        with pytest.raises(SourceUnguarded, match="keeps its whole log"):
            bank.cdc()
        assert bank.cdc(setup=False, unlimited_wal=True).missing() == ["accounts"]
    other = tmp_path / "other"
    other.mkdir()
    with (
        running_postgres(settings={"wal_level": "replica"}) as server,
        closing(Bank(other, server.url)) as bank,
        pytest.raises(SourceInvalid, match="'replica'"),
    ):
        bank.cdc()


def test_a_truncation_may_stop_the_ingress(bank: Bank) -> None:
    """`truncates: stop` says which table; `skip` goes on as if nothing was."""
    cdc = bank.drain(truncates="stop")
    bank.insert((1, "Ada", 1))
    bank.execute("TRUNCATE accounts")
    with pytest.raises(TableTruncated, match="'accounts' was truncated"):
        bank.drain(cdc)
    bank.kill(cdc)
    bank.drain(truncates="skip")
    assert [operation for operation, _, _ in bank.told()] == ["c"]


def test_columns_that_come_and_go(bank: Bank) -> None:
    """A new column is left out until the contract has it; one that is gone is null, or stops where it is needed."""
    bank.insert((1, "Ada", 1))
    cdc = bank.drain()
    bank.execute("ALTER TABLE accounts ADD COLUMN more text DEFAULT 'x'", "INSERT INTO accounts VALUES (2, 'Eve', 2)")
    bank.execute("ALTER TABLE accounts DROP COLUMN owner", "INSERT INTO accounts (id, cents, note) VALUES (3, 3, 'n')")
    bank.drain(cdc)
    assert [row for _, _, row in bank.told()][1:] == [account(2, "Eve", 2), account(3, None, 3, "n")]
    bank.execute("ALTER TABLE accounts DROP COLUMN cents", "INSERT INTO accounts (id) VALUES (4)")
    with pytest.raises(SourceInvalid, match="has no column 'cents'"):
        bank.drain(cdc)


def test_new_columns_may_be_followed(bank: Bank) -> None:
    """From their first row on they are there, in a schema version of their own; a restart in between changes nothing,
    and readers of the contract's own version read on."""
    cdc = bank.drain(new_columns="follow")
    bank.execute("INSERT INTO accounts VALUES (1, 'Ada', 1)", "ALTER TABLE accounts ADD COLUMN tags text[]")
    bank.execute("INSERT INTO accounts VALUES (2, 'Eve', 2, NULL, '{a}')")
    bank.drain(cdc)
    bank.kill(cdc)
    cdc = bank.cdc(new_columns="follow")
    bank.execute("UPDATE accounts SET tags = '{b}' WHERE id = 1", "ALTER TABLE accounts DROP COLUMN tags")
    bank.execute("INSERT INTO accounts VALUES (3, 'Bob', 3)")
    bank.drain(cdc)
    wide = followed_contract(bank.contract, [("tags", PgType("_text", Family.ARRAY, named_type("text")))])
    told = [each["after"]["tags"] for each in bank.decoded(bank.contract.topic, wide.value_schema)]
    assert told == [None, ["a"], ["b"], None]
    assert [(row or {})["id"] for _, _, row in bank.told()] == [1, 2, 1, 3]
    assert cdc.counters.dead_letters == 0


def test_a_type_that_the_contract_holds_may_change(bank: Bank) -> None:
    """Wider integers under a long, other texts under a string: rows of both types in one batch, nothing to be done."""
    bank.execute("CREATE TABLE parts (id int PRIMARY KEY, size int, name varchar(5))")
    bank.topic("parts")
    parts = contract_of("parts", ("id",), id="int", size="long", name=["null", "string"])
    cdc = bank.drain(bank.cdc(contracts=[parts], tables={"parts": {"topic": "parts"}}))
    bank.execute("INSERT INTO parts VALUES (1, 1, 'a')", "ALTER TABLE parts ALTER size TYPE bigint")
    bank.execute("ALTER TABLE parts ALTER name TYPE text", f"INSERT INTO parts VALUES (2, {2**40}, 'longer name')")
    bank.drain(cdc)
    told = [each["after"] for each in bank.decoded("parts", parts.value_schema)]
    assert told == [{"id": 1, "size": 1, "name": "a"}, {"id": 2, "size": 2**40, "name": "longer name"}]


def test_a_type_that_outgrows_its_contract(bank: Bank) -> None:
    """Rows that still fit go on, others are dead letters. With a wider field in the contract it goes on where it was,
    in a new version of the schema, which reads both."""
    bank.execute("CREATE TABLE parts (id int PRIMARY KEY, size int)")
    bank.topic("parts")
    narrow = contract_of("parts", ("id",), id="int", size="int")
    wide = contract_of("parts", ("id",), id="int", size="long")
    tables = {"parts": {"topic": "parts"}}
    cdc = bank.drain(bank.cdc(contracts=[narrow], tables=tables))
    bank.execute("INSERT INTO parts VALUES (1, 1)", "ALTER TABLE parts ALTER size TYPE bigint")
    bank.execute("INSERT INTO parts VALUES (2, 2)", f"INSERT INTO parts VALUES (3, {2**40})")
    bank.drain(cdc)
    assert cdc.counters.dead_letters == 1
    bank.kill(cdc)
    cdc = bank.cdc(contracts=[wide], tables=tables)
    bank.execute(f"UPDATE parts SET size = {2**41} WHERE id = 3")
    bank.drain(cdc)
    told = [each["after"] for each in bank.decoded("parts", wide.value_schema)]
    assert told == [{"id": 1, "size": 1}, {"id": 2, "size": 2}, {"id": 3, "size": 2**41}]
    assert len(bank.registry.versions("parts-value")) == 2


def test_a_type_that_the_contract_cannot_hold(bank: Bank) -> None:
    """It stops before the first row of it and names both types; what came before is published once it is mended."""
    cdc = bank.drain()
    bank.insert((1, "Ada", 1))
    bank.execute("ALTER TABLE accounts ALTER cents TYPE text", "INSERT INTO accounts VALUES (2, 'Eve', 'many')")
    with pytest.raises(SourceInvalid, match="'cents' of table 'accounts' is of type text, which long cannot hold"):
        bank.drain(cdc)
    bank.kill(cdc)
    bank.execute("DELETE FROM accounts WHERE id = 2", "ALTER TABLE accounts ALTER cents TYPE int8 USING cents::int8")
    with pytest.raises(SourceInvalid, match="of type text"):
        bank.drain(bank.cdc())
    bank.free()
    bank.drain(bank.cdc(generation=2))
    assert bank.replica() == bank.source()


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        ("DROP TABLE accounts", SourceInvalid, "no such table"),
        ("ALTER TABLE accounts DROP CONSTRAINT accounts_pkey", SourceInvalid, "has no primary key"),
        ("ALTER TABLE accounts REPLICA IDENTITY NOTHING", SourceInvalid, "REPLICA IDENTITY NOTHING"),
        ("ALTER TABLE accounts SET UNLOGGED", SourceInvalid, "is unlogged"),
        ("ALTER TABLE accounts ALTER cents TYPE text", SourceInvalid, "'cents' .* is of type text, which long cannot"),
    ],
)
def test_tables_that_cannot_be_captured(bank: Bank, statement: str, error: type[HeadraceError], message: str) -> None:
    """Each with its reason, before anything is made."""
    bank.execute(statement)
    with pytest.raises(error, match=message):
        bank.cdc()
    assert bank.connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)


def test_a_table_made_anew_is_told(bank: Bank) -> None:
    """It has left the publication: `headrace apply` adds it, and it is read again."""
    bank.insert((1, "Ada", 1))
    cdc = bank.drain()
    bank.execute(
        "DROP TABLE accounts", "CREATE TABLE accounts (id int8 PRIMARY KEY, owner text, cents int8, note text)"
    )
    bank.insert((2, "Eve", 2))
    with pytest.raises(CaptureMissing, match="run `headrace apply`"):
        bank.drain(cdc)
    bank.kill(cdc)
    bank.drain(bank.cdc())
    assert [(operation, (row or {})["id"]) for operation, _, row in bank.told()] == [("r", 1), ("r", 2)]


def test_teardown_leaves_nothing(bank: Bank) -> None:
    """Neither slot nor publication."""
    cdc = bank.drain()
    bank.kill(cdc)
    cdc.teardown()
    assert bank.slot() is None
    assert bank.connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)


def test_moments_know_what_they_show() -> None:
    """As `pg_visible_in_snapshot`, with the stream's ids of 32 bits over a turn of the counter."""
    moment = Moment(f"{2**32 - 3}:{2**32 + 5}:{2**32 - 3},{2**32 + 2}", 7)
    shown = {
        xid: moment.shows(xid % 2**32) for xid in (2**32 - 4, 2**32 - 3, 2**32 - 1, 2**32 + 2, 2**32 + 4, 2**32 + 5)
    }
    assert list(shown.values()) == [True, False, True, False, True, False]


def test_positions_come_back() -> None:
    """What the log keeps is the whole position."""
    ranges = (Range(("a", "1"), ("a", "0")), Range(None, None, True, Moment("1:2:", 3)))
    again = {"t": Resnapshot("order", ("a", "2"), 3, is_done=True), "u": Resnapshot()}
    position = PostgresPosition("s/d", 2, 9, {"t": TableSnapshot(4, ranges)}, Open(5, 6), again)
    assert PostgresPosition.from_json(position.to_json()) == position
    before = json.loads(position.to_json())
    del before["resnapshots"]
    assert PostgresPosition.from_json(json.dumps(before)) == replace(position, resnapshots={})
    assert stream.BATCH_BYTES_MAX < 2**31
