"""Deaths and restarts at bad moments: no change is lost, none comes twice, and what cannot be gone on from stops."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from headrace.errors import HeadraceError
from headrace.ingress.cdc.errors import LogPurged, PositionLost, SourceInvalid, SourceUnavailable
from headrace.ingress.cdc.mysql import snapshot, stream
from headrace.ingress.cdc.mysql.cdc import MysqlCdc
from headrace.ingress.cdc.mysql.connection import connect, rows
from headrace.ingress.cdc.mysql.position import Gtids, MysqlPosition, Open, Place, TableSnapshot
from headrace.ingress.cdc.mysql.server import binary_logs
from headrace.log.embedded.producer import EmbeddedProducer
from headrace.testing.database_server import RunningServer
from headrace.testing.mariadb import running_mariadb, start_mariadb
from headrace.testing.server_process import has_ended
from headrace.testing.sink_harness import wait_until
from tests.ingress.mysql.till import Till, numbers
from tests.ingress.postgres.bank import account, contract_of

pytestmark = [pytest.mark.mariadb, pytest.mark.xdist_group("mariadb")]


class Died(BaseException):
    """The process is gone."""


def die_in_commit(cdc: MysqlCdc, *, after: bool) -> None:
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


@pytest.mark.parametrize("seed", range(3))
def test_any_history_and_any_deaths(till: Till, seed: int) -> None:
    """Random statements between single steps, from before the snapshot on; processes die around a commit or vanish. In
    the end a reader of the topic has the table, no row was told as new twice, and no change came twice."""
    chance = random.Random(seed)
    till.insert(*((number, f"o{number}", number) for number in range(40)))
    cdc = till.cdc(batch_rows_max=7)
    for tag in range(60):
        kind = chance.choice(["insert", "update", "all", "delete", "rekey", "truncate", "step", "step", "step", "die"])
        key = chance.randrange(60)
        if kind == "step":
            cdc.step()
        elif kind == "die":
            if chance.random() < 0.7:
                die_in_commit(cdc, after=chance.random() < 0.5)
            till.kill(cdc)
            cdc = till.cdc(batch_rows_max=7, setup=False)
        elif kind != "truncate" or (tag > 30 and chance.random() < 0.3):
            statement = {
                "insert": f"INSERT IGNORE INTO accounts VALUES ({key}, 'i{tag}', {tag}, NULL)",
                "update": f"UPDATE accounts SET owner = 'u{tag}' WHERE id = {key}",
                "all": f"UPDATE accounts SET cents = {tag} WHERE id >= {key}",
                "delete": f"DELETE FROM accounts WHERE id = {key}",
                "rekey": f"UPDATE IGNORE accounts SET id = id + {chance.randrange(1, 90)} WHERE id = {key}",
                "truncate": "TRUNCATE accounts",
            }[kind]
            till.execute(statement)
    till.drain(cdc)
    assert till.replica() == till.source()
    alive: set[int] = set()
    for operation, before, after in till.told():
        if operation in ("c", "r"):
            assert (after or {})["id"] not in alive, "a row is told as new once"
            alive.add((after or {})["id"])
        elif operation == "d":
            assert (before or {})["id"] in alive, "what is deleted was told"
            alive.remove((before or {})["id"])
        elif operation == "t":
            alive.clear()
    counted = Counter(till.places())
    assert [place for place, count in counted.items() if count > 1] == []
    assert till.places() == sorted(till.places())


@pytest.mark.parametrize("after", [False, True])
def test_a_large_transaction_is_cut_and_gone_on_with(till: Till, after: bool) -> None:
    """A process dies in its middle, before or after a part is committed: every change once, in order, and no batch is
    much larger than it may be."""
    cdc = till.drain(batch_rows_max=50)
    till.execute(f"INSERT INTO accounts SELECT seq, concat('o', seq), seq, repeat('x', 500) FROM {numbers(175)}")
    while cdc.position is None or cdc.position.open is None:
        cdc.step()
    die_in_commit(cdc, after=after)
    till.kill(cdc)
    cdc = till.cdc(batch_rows_max=50, setup=False)
    steps: list[int] = []
    while cdc.position is None or cdc.position.place < till.end():
        steps.append(cdc.step())
    assert [(row or {})["id"] for _, _, row in till.told()] == list(range(1, 176))
    orders = [each["transaction"]["total_order"] for each in till.envelopes()]
    assert orders == list(range(1, 176))
    assert max(steps) < 100


def test_a_snapshot_goes_on_after_a_restart(till: Till) -> None:
    """Rows that were read stay read. A change of one of them is told; a change of another is in its row, read later."""
    till.insert(*((number, f"o{number}", 0) for number in range(30)))
    cdc = till.cdc(batch_rows_max=10)
    while sum(operation == "r" for operation, _, _ in till.told()) < 10:
        cdc.step()
    till.kill(cdc)
    till.execute("UPDATE accounts SET cents = 1 WHERE id IN (3, 25)", "DELETE FROM accounts WHERE id IN (4, 26)")
    cdc = till.cdc(batch_rows_max=10, setup=False)
    till.drain(cdc)
    read = [(row or {})["id"] for operation, _, row in till.told() if operation == "r"]
    assert read == [number for number in range(30) if number != 26]
    streamed = [(op, (row or old or {})["id"]) for op, old, row in till.told() if op != "r"]
    assert streamed == [("u", 3), ("d", 4)]
    assert till.replica() == till.source()


KEYS = {
    "text": ("varchar(20) COLLATE utf8mb4_general_ci", "concat(char(65 + seq mod 26), '\\'\\\\', seq)", "string"),
    "latin": ("varchar(20) CHARACTER SET latin1", "concat(char(65 + seq mod 26), 'é', seq)", "string"),
    "mood": ("enum('z','y','x')", "1 + seq mod 3", "string"),
    "raw": ("varbinary(8)", "left(unhex(sha2(seq, 256)), 8)", "bytes"),
    "day": ("date", "'2024-01-01' + interval seq day", {"type": "int", "logicalType": "date"}),
    "at": ("timestamp(3)", "from_unixtime(seq * 7.5)", {"type": "long", "logicalType": "timestamp-micros"}),
    "price": (
        "decimal(9,2)",
        "seq * -1.25",
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    ),
    "ratio": ("float", "seq / 7", "float"),
}


@pytest.mark.parametrize("kind", list(KEYS))
def test_keys_of_any_type_in_the_servers_order(till: Till, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A key of two columns, in chunks of many moments while rows before and behind change, with a death between: every
    row once, the topic is the table."""
    monkeypatch.setattr(snapshot, "MOMENT_S_MAX", 0.0)
    declared, values, avro = KEYS[kind]
    till.execute(
        f"CREATE TABLE pairs (a {declared} NOT NULL, b int, n int NOT NULL, PRIMARY KEY (a, b)) CHARACTER SET utf8mb4",
        f"INSERT INTO pairs SELECT {values}, seq, 0 FROM {numbers(200)}",
    )
    till.topic("pairs")
    pairs = contract_of("pairs", ("a", "b"), a=avro, b="int", n="int")
    cdc = till.cdc(contracts=[pairs], tables={"pairs": {"topic": "pairs"}}, batch_rows_max=40)
    for step in range(8):
        cdc.step()
        till.execute(
            f"UPDATE pairs SET n = {step + 1} WHERE b % 10 = {step}", f"DELETE FROM pairs WHERE b = {step * 20}"
        )
    till.kill(cdc)
    till.drain(till.cdc(contracts=[pairs], tables={"pairs": {"topic": "pairs"}}, batch_rows_max=40, setup=False))
    replica: dict[tuple[object, object], int] = {}
    for each in till.decoded("pairs", pairs.value_schema):
        row = each["before"] if each["op"] == "d" else each["after"]
        key = row["a"], row["b"]
        assert (key in replica) == (each["op"] in ("u", "d")), each
        replica[key] = row["n"]
        if each["op"] == "d":
            del replica[key]
    source = rows(till.connection, "SELECT b, n FROM pairs ORDER BY b")
    assert sorted((b, n) for (_, b), n in replica.items()) == [tuple(row) for row in source]


def test_snapshot_and_stream_join_under_writers(till: Till) -> None:
    """Two sessions write while the snapshot is read: the topic is the table."""
    till.insert(*((number, f"o{number}", 0) for number in range(200)))
    stop = threading.Event()

    def write(seed: int) -> None:
        connection, chance = connect(till.url), random.Random(seed)
        rows(connection, f"USE {till.database}")
        while not stop.is_set():
            key = chance.randrange(500)
            with suppress(SourceUnavailable):  # Two sessions may lock each other out.
                rows(
                    connection,
                    chance.choice(
                        [
                            f"REPLACE INTO accounts VALUES ({key}, 'w', {chance.randrange(99)}, NULL)",
                            f"UPDATE accounts SET cents = cents + 1 WHERE id BETWEEN {key} AND {key + 9}",
                            f"DELETE FROM accounts WHERE id = {key}",
                            f"UPDATE IGNORE accounts SET id = {chance.randrange(500)} WHERE id = {key}",
                        ]
                    ),
                )
        connection.close()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        cdc = till.cdc(batch_rows_max=50)
        while cdc.position is None or cdc.position.open_snapshots:
            cdc.step()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    till.drain(cdc)
    assert till.replica() == till.source()
    read = Counter(row["id"] for operation, _, row in till.told() if operation == "r" and row)
    assert max(read.values()) == 1


def test_a_table_that_joins_later(till: Till) -> None:
    """Its rows are read while the others go on; its changes before it joined are not told."""
    till.execute("CREATE TABLE others LIKE accounts", "INSERT INTO others VALUES (1, 'a', 1, NULL)")
    till.topic("others")
    others = contract_of("others", ("id",), id="long", cents="long")
    cdc = till.drain()
    till.execute("UPDATE others SET cents = 2", "INSERT INTO accounts VALUES (1, 'a', 1, NULL)")
    till.kill(cdc)
    tables = {"accounts": {"topic": "accounts"}, "others": {"topic": "others"}}
    cdc = till.drain(contracts=[till.contract, others], tables=tables)
    till.execute("UPDATE others SET cents = 3")
    till.drain(cdc)
    told = [(each["op"], each["after"]) for each in till.decoded("others", others.value_schema)]
    assert told == [("r", {"id": 1, "cents": 2}), ("u", {"id": 1, "cents": 3})]
    assert [operation for operation, _, _ in till.told()] == ["c"]


def test_a_new_generation_begins_anew(till: Till) -> None:
    """Whatever the old position was, every row is read again."""
    till.insert((1, "Ann", 5))
    till.kill(till.drain())
    cdc = till.cdc(generation=2)
    cdc.step()
    till.drain(cdc)
    assert [operation for operation, _, _ in till.told()] == ["r", "r"]


def test_an_idle_table_keeps_up_with_the_log(till: Till) -> None:
    """Other tables' transactions and new files of the log move the position, so that old files may go."""
    till.execute("CREATE TABLE others (id int PRIMARY KEY)")
    cdc = till.drain()
    before = cdc.position
    till.execute("INSERT INTO others VALUES (1)", "FLUSH BINARY LOGS")
    till.drain(cdc)
    assert before is not None
    assert cdc.position is not None
    assert cdc.position.place.number > before.place.number
    assert till.changes() == []
    status = cdc.status()
    assert status.lag_changes is None


def test_the_log_behind_is_measured(till: Till) -> None:
    """How many bytes are behind the position, and how many files' bytes must not be purged."""
    cdc = till.drain()
    assert cdc.status().source_log is not None
    till.execute(f"INSERT INTO accounts SELECT seq, repeat('x', 100), 1, NULL FROM {numbers(1000)}")
    source = cdc._source
    assert source is not None
    source._looked_at_s = 0.0  # type: ignore[attr-defined]
    source._watch_log(cdc.position)  # type: ignore[attr-defined]
    log = cdc.status().source_log
    assert log is not None
    assert log.behind_bytes > 100_000
    assert log.kept_bytes >= log.behind_bytes
    assert log.safe_bytes is None


@pytest.fixture(scope="module")
def own_server() -> Iterator[RunningServer]:
    """A server whose log may be purged and reset."""
    with running_mariadb() as server:
        yield server


@pytest.fixture
def own(own_server: RunningServer, tmp_path: Path) -> Iterator[Till]:
    with closing(Till(tmp_path, own_server.url)) as till:
        yield till


def purge(till: Till) -> None:
    """Until the log's last file alone is there: the server keeps those that a reader of a moment ago may need."""

    def is_gone() -> bool:
        till.execute("FLUSH BINARY LOGS")
        end = till.end()
        till.execute(f"PURGE BINARY LOGS TO '{end.file}'")
        return binary_logs(till.connection)[0].number >= end.number

    wait_until(is_gone, "the log is purged")


def test_a_log_that_was_purged(own: Till) -> None:
    """While the process was away: it stops, and a new generation reads everything again."""
    own.insert((1, "Ann", 5))
    cdc = own.drain()
    own.kill(cdc)
    own.execute("INSERT INTO accounts VALUES (2, 'b', 1, NULL)")
    purge(own)
    with pytest.raises(LogPurged, match=r"changes were missed.*`generation`"):
        own.cdc(setup=False).step()
    cdc = own.cdc(generation=2)
    cdc.step()
    own.drain(cdc)
    assert own.replica() == own.source()


def test_a_log_that_is_purged_under_the_reader(own: Till) -> None:
    """The server says 1236 when the stream is asked for: the same end."""
    cdc = own.drain()
    own.kill(cdc)
    own.execute("INSERT INTO accounts VALUES (2, 'b', 1, NULL)")
    purge(own)
    patch = pytest.MonkeyPatch()
    patch.setattr("headrace.ingress.cdc.mysql.server.check_position", lambda *given, **more: None)
    cdc = own.cdc(setup=False)
    try:
        with pytest.raises(LogPurged):
            wait_until(lambda: cdc.step() < 0, "it stops")
    finally:
        patch.undo()


def test_a_log_that_was_reset(own: Till) -> None:
    """RESET MASTER begins the log anew, under the same names: places in it mean something else."""
    own.insert(*((number, "o", 1) for number in range(50)))
    cdc = own.drain()
    own.kill(cdc)
    own.execute("RESET MASTER")
    own.insert(*((number, "o", 1) for number in range(100, 200)))
    with pytest.raises((PositionLost, LogPurged)):
        own.cdc(setup=False).step()


def test_another_server(own: Till, tmp_path: Path, mariadb_url: str) -> None:
    """A position of one server means nothing on another."""
    own.kill(own.drain())
    with closing(Till(tmp_path / "other", mariadb_url)) as other:
        cdc = own.cdc(setup=False, database=other.url)
        with pytest.raises(PositionLost, match="another server"):
            cdc.step()


def test_a_server_that_restarts(own_server: RunningServer, own: Till) -> None:
    """The stream breaks, the process waits, and goes on where it was; numbers of tables begin anew."""
    home = Path(own_server.directory)
    cdc = own.drain()
    own.execute("INSERT INTO accounts VALUES (1, 'a', 1, NULL)")
    own.drain(cdc)
    settings = {"port": str(urlsplit(own_server.url).port)}
    os.kill(own_server.pid, signal.SIGKILL)
    with pytest.raises(SourceUnavailable):
        wait_until(lambda: cdc.step() < 0, "the stream ends")
    has_ended(own_server.pid, home, 20.0)
    start_mariadb(home, temporary=True, owner_pid=os.getpid(), settings=settings)
    own.connection = connect(own.url)
    rows(own.connection, f"USE {own.database}")
    # What such a server wrote last may be in its log and not in its tables.
    own.execute("INSERT INTO accounts VALUES (2, 'b', 2, NULL)")
    own.drain(own.cdc(setup=False))
    assert [(row or {})["id"] for _, _, row in own.told()] == [1, 2]


SETTINGS = [
    ("binlog_row_metadata", "MINIMAL", "FULL", "binlog_row_metadata is 'MINIMAL', and capture needs 'FULL'"),
    ("binlog_row_image", "MINIMAL", "FULL", "binlog_row_image is 'MINIMAL', and capture needs 'FULL'"),
    ("binlog_format", "MIXED", "ROW", "binlog_format is 'MIXED', and capture needs 'ROW'"),
    ("log_bin_compress", "ON", "OFF", "log_bin_compress is 'ON', a form of the binary log that is not read"),
]


@pytest.mark.parametrize(("name", "bad", "good", "message"), SETTINGS)
def test_settings_that_capture_needs(own: Till, name: str, bad: str, good: str, message: str) -> None:
    """Told by `plan` with the statement that mends it; a restart with such a setting stops too."""
    cdc = own.drain()
    own.kill(cdc)
    own.execute(f"SET GLOBAL {name} = '{bad}'")
    try:
        for look in (own.cdc(setup=False).missing, own.cdc(setup=False).step):
            with pytest.raises(SourceInvalid, match=message) as raised:
                look()
            assert f"SET GLOBAL {name}" in str(raised.value)
    finally:
        own.execute(f"SET GLOBAL {name} = '{good}'")


def test_metadata_that_went_missing_in_between(own: Till) -> None:
    """Rows that were written without the names of their columns are not guessed at."""
    cdc = own.drain()
    own.execute("SET GLOBAL binlog_row_metadata = 'NO_LOG'", "INSERT INTO accounts VALUES (1, 'a', 1, NULL)")
    own.execute("SET GLOBAL binlog_row_metadata = 'FULL'")
    with pytest.raises(SourceInvalid, match="without the names of their columns"):
        own.drain(cdc)


def test_rights_that_capture_needs(own: Till) -> None:
    """Each that is missing is named."""
    own.execute("CREATE OR REPLACE USER reader@'127.0.0.1'")
    url = own.url.replace("root@", "reader@")

    def refused() -> str:
        with pytest.raises(HeadraceError) as raised:
            own.cdc(setup=False, database=url).missing()
        return str(raised.value)

    assert "no right to REPLICATION SLAVE" in refused()
    own.execute("GRANT REPLICATION SLAVE ON *.* TO reader@'127.0.0.1'")
    assert "no right to BINLOG MONITOR" in refused()
    own.execute("GRANT BINLOG MONITOR ON *.* TO reader@'127.0.0.1'")
    assert "no right to SELECT" in refused()
    own.execute(f"GRANT SELECT ON {own.database}.* TO reader@'127.0.0.1'")
    own.insert((1, "Ann", 5))
    own.drain(database=url)
    assert own.replica() == own.source()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE accounts", "no such table"),
        ("ALTER TABLE accounts DROP PRIMARY KEY", "has no primary key"),
        ("ALTER TABLE accounts ENGINE = MyISAM", "has the engine MyISAM, which has no transactions"),
        ("ALTER TABLE accounts DROP PRIMARY KEY, ADD PRIMARY KEY (cents)", "the key of 'accounts' is"),
    ],
)
def test_tables_that_cannot_be_captured(till: Till, statement: str, message: str) -> None:
    """Each with its reason, before anything runs."""
    till.execute(statement)
    with pytest.raises(SourceInvalid, match=message):
        till.cdc(setup=False).missing()


def test_positions_as_text() -> None:
    """What is written is what is read, and places are in the order of the log."""
    tables = {"a": TableSnapshot(("1", "x\udcff")), "b": TableSnapshot(None, is_done=True)}
    position = MysqlPosition("s", 2, Place.of("binlog.000009", 7), "0-1-2", tables, Open(5, 1))
    assert MysqlPosition.from_json(position.to_json()) == position
    assert Place.of("binlog.000009", 900) < Place.of("binlog.000010", 4) < Place.of("binlog.1000000", 4)


def test_ids_of_transactions() -> None:
    """MariaDB's last of each domain, MySQL's intervals of each server."""
    found = Gtids("1-1-5,0-2-7")
    found.add("0-3-8")
    assert str(found) == "0-3-8,1-1-5"
    one, two = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
    sets = Gtids(f"{one.upper()}:1-3:7,\n{two}:1")
    for gtid in (f"{one}:4", f"{one}:2", f"{one}:8", f"{one}:12", f"{one}:11", f"{two}:2"):
        sets.add(gtid)
    assert str(sets) == f"{one}:1-4:7-8:11:12,{two}:1-2"


def test_batches_are_bounded_by_bytes(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large rows end a batch as many small ones do."""
    monkeypatch.setattr(stream, "BATCH_BYTES_MAX", 200_000)
    cdc = till.drain()
    till.execute(f"INSERT INTO accounts SELECT seq, '', 1, repeat('x', 50000) FROM {numbers(20)}")
    steps: list[int] = []

    def has_all() -> bool:
        steps.append(cdc.step())
        return sum(steps) >= 20

    wait_until(has_all, "every row")
    assert max(steps) <= 5
    assert till.replica() == till.source() != {}
    assert account(1, "", 1, "x" * 50_000) == till.replica()[1]


def test_a_server_that_says_nothing_any_more(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was cut without a word is given up: the server says every ten seconds that it lives."""
    cdc = till.drain()
    cdc.step()
    monkeypatch.setattr("headrace.ingress.cdc.mysql.binlog.SILENCE_S_MAX", 0.0)
    with pytest.raises(SourceUnavailable, match="said nothing"):
        wait_until(lambda: cdc.step() < 0, "it is given up")
