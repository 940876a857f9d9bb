"""The embedded log passes the conformance suite, keeps its own limits and names its file in every error."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from headrace.log.columns import binary_column, outgoing
from headrace.log.embedded import EmbeddedLog, maintenance, producer, storage
from headrace.log.embedded.errors import InvalidRecord, InvalidUse, LogFileCorrupt, LogFileFailed
from headrace.log.embedded.storage import Storage
from headrace.log.port import (
    Fenced,
    Log,
    LogUnavailable,
    Outgoing,
    TopicPartition,
    TopicSpec,
    TransactionAborted,
    UnknownTopic,
)
from headrace.testing.log_conformance import LogConformance
from headrace.testing.log_conformance.probe import beginning, drain, make_topic, numbered, read, values_of, write


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with closing(EmbeddedLog(tmp_path / "log.db", session_timeout_ms=500)) as log:
        yield log


class TestEmbeddedLog(LogConformance):
    """All of it."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[Log]:
        with closing(EmbeddedLog(tmp_path / "log.db")) as log:
            yield log


def sql(log: EmbeddedLog, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(log.path, isolation_level=None)) as connection:
        return connection.execute(text).fetchall()


def test_everything_survives_reopening(tmp_path: Path) -> None:
    """A new log on the same file has the same topics, records and offsets."""
    path = tmp_path / "deep" / "down" / "log.db"
    topic = make_topic(EmbeddedLog(path), 2, config={"some.unknown.setting": "kept"})
    write(EmbeddedLog(path), outgoing(topic, numbered(10), partitions=[0, 1] * 5))
    again = EmbeddedLog(path)
    assert sorted(values_of(read(again, topic, 10, partitions=2))) == numbered(10)  # type: ignore[type-var]
    with closing(again.admin()) as admin:
        assert admin.topics()[topic].config == {"some.unknown.setting": "kept"}


def test_offsets_are_contiguous_without_gaps(log: EmbeddedLog) -> None:
    """Transactions, aborts and plain writes leave no gap in the offsets of a partition."""
    topic = make_topic(log)
    with closing(log.producer(transactional_id="id")) as transactional:
        for value in numbered(6):
            transactional.begin()
            transactional.produce(outgoing(topic, [value]))
            transactional.abort() if value == b"v3" else transactional.commit()
            write(log, outgoing(topic, [b"plain"]))
    assert [record.offset for record in read(log, topic, 11)] == list(range(11))


def test_large_volumes_pass_through(log: EmbeddedLog) -> None:
    """Two hundred thousand records of several segments a partition arrive in order."""
    topic, count, parts = make_topic(log, 8), 200_000, 8
    numbers = np.arange(count)
    values = binary_column([b"%06d" % number + b"." * 60 for number in range(count)])
    with closing(log.producer(transactional_id="id")) as transactional:
        transactional.begin()
        transactional.produce(Outgoing(topic, values, partition=(numbers % parts).astype(np.int32)))
        transactional.commit()
    assert sql(log, "SELECT count(*) FROM segments")[0][0] > parts  # type: ignore[operator]
    with closing(log.consumer()) as consumer:
        consumer.assign(beginning(topic, parts))
        seen = [np.empty(0, dtype=np.int64) for _ in range(parts)]
        while sum(map(len, seen)) < count:
            for batch in consumer.poll(10_000, 5.0):
                number = np.array([int(value[:6]) for value in batch.value.to_pylist()])
                for part in range(parts):
                    seen[part] = np.concatenate([seen[part], number[batch.partition == part]])
    for part in range(parts):
        assert (seen[part] == np.arange(part, count, parts)).all()


def test_partitions_share_a_poll(log: EmbeddedLog) -> None:
    """A partition with a long backlog does not keep others waiting."""
    topic = make_topic(log, 4)
    write(log, outgoing(topic, numbered(5000), partitions=0), outgoing(topic, numbered(30), partitions=[1, 2, 3] * 10))
    with closing(log.consumer()) as consumer:
        consumer.assign(beginning(topic, 4))
        (batch,) = consumer.poll(100, 5.0)
        assert len(batch) >= 50
        assert set(batch.partition.tolist()) == {0, 1, 2, 3}


def test_a_big_transaction_is_staged(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the memory bound records wait in the file, invisible and in order, until a commit or an abort."""
    monkeypatch.setattr(producer, "HELD_BYTES_MAX", 1000)
    topic = make_topic(log, 2)
    with closing(log.producer(transactional_id="id")) as transactional:
        for outcome in (transactional.abort, transactional.commit):
            transactional.begin()
            for start in range(0, 100, 10):
                values = numbered(100)[start : start + 10]
                transactional.produce(outgoing(topic, values, partitions=[0, 1] * 5))
            assert sql(log, "SELECT count(*) FROM staged") == [(8,)]
            with closing(log.admin()) as admin:
                assert set(admin.end_offsets([*beginning(topic, 2)]).values()) == {0}
            outcome()
            assert sql(log, "SELECT count(*) FROM staged") == [(0,)]
    got = read(log, topic, 100, partitions=2)
    for partition in (0, 1):
        assert [record.value for record in got if record.partition == partition] == numbered(100)[partition::2]
    assert sql(log, "SELECT count(*) FROM blobs WHERE blob_id NOT IN (SELECT blob_id FROM segments)") == [(0,)]


def test_a_fencing_producer_frees_what_the_old_one_staged(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The staged records of a dead producer go when its heir begins."""
    monkeypatch.setattr(producer, "HELD_BYTES_MAX", 0)
    topic = make_topic(log)
    with closing(log.producer(transactional_id="id")) as old:
        old.begin()
        old.produce(outgoing(topic, [b"staged"]))
        old.produce(outgoing(topic, [b"held"]))
        assert sql(log, "SELECT count(*) FROM blobs") == [(1,)]
        with closing(log.producer(transactional_id="id")):
            assert sql(log, "SELECT count(*) FROM blobs") == [(0,)]
        with pytest.raises(Fenced):
            old.produce(outgoing(topic, [b"dead too"]))
        with pytest.raises(Fenced):
            old.commit()


def test_staging_that_fails_loses_nothing(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """If held records cannot be staged, `produce` raises without taking its own rows, and what was held stays."""
    monkeypatch.setattr(producer, "HELD_BYTES_MAX", 0)
    topic = make_topic(log)
    real_write, failures = Storage.write, [LogUnavailable("busy")]

    @contextmanager
    def failing_write(self: Storage) -> Iterator[sqlite3.Connection]:
        with real_write(self) as connection:
            yield connection
            if failures:
                raise failures.pop()

    with closing(log.producer(transactional_id="id")) as transactional:
        transactional.begin()
        transactional.produce(outgoing(topic, [b"a"]))
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write", failing_write)
            with pytest.raises(LogUnavailable):
                transactional.produce(outgoing(topic, [b"b"]))
        for value in (b"b", b"c"):
            transactional.produce(outgoing(topic, [value]))
        transactional.commit()
    assert values_of(read(log, topic, 3)) == [b"a", b"b", b"c"]


def test_a_forgotten_transaction_is_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Staged records left for longer than the bound are freed by any writer; committing them then says so."""
    now_ms = [1_000_000_000]
    log = EmbeddedLog(tmp_path / "log.db", clock=lambda: now_ms[0])
    topic = make_topic(log)
    with closing(log.producer(transactional_id="id")) as slow:
        with monkeypatch.context() as patch:
            patch.setattr(producer, "HELD_BYTES_MAX", 0)
            slow.begin()
            slow.produce(outgoing(topic, [b"forgotten"]))
            slow.produce(outgoing(topic, [b"forgotten too"]))
        now_ms[0] += maintenance.STAGED_MS_MAX + 1
        write(log, outgoing(topic, [b"other"]))
        assert sql(log, "SELECT count(*) FROM staged") == [(0,)]
        with pytest.raises(TransactionAborted, match="open for more than"):
            slow.commit()
        slow.abort()
        slow.begin()
        slow.produce(outgoing(topic, [b"again"]))
        slow.commit()
    assert values_of(read(log, topic, 2)) == [b"other", b"again"]


def test_deleting_a_topic_ends_transactions_that_write_to_it(log: EmbeddedLog) -> None:
    """A topic deleted, or made anew, between produce and commit aborts the transaction; a flush names it."""
    topic, other = make_topic(log), make_topic(log)
    with (
        closing(log.admin()) as admin,
        closing(log.producer(transactional_id="id")) as transactional,
        closing(log.producer()) as plain,
    ):
        for each in (transactional, plain):
            if each is transactional:
                each.begin()
            each.produce(outgoing(topic, [b"lost"]))
            each.produce(outgoing(other, [b"kept"]))
        admin.delete_topics([topic])
        admin.create_topics([TopicSpec(topic)])
        with pytest.raises(TransactionAborted, match=topic):
            transactional.commit()
        transactional.abort()
        with pytest.raises(UnknownTopic, match=topic):
            plain.flush()
        plain.flush()
        assert admin.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 0}
    assert values_of(read(log, other, 1)) == [b"kept"]


def test_compacted_topics_want_keys(log: EmbeddedLog) -> None:
    """As with Kafka, a record without key has no place in a compacted topic."""
    topic = make_topic(log, config={"cleanup.policy": "compact"})
    with closing(log.producer()) as plain, pytest.raises(InvalidRecord, match="row 1 has no key"):
        plain.produce(outgoing(topic, [b"a", b"b"], keys=[b"k", None]))


def test_columns_that_do_not_fit_are_refused(log: EmbeddedLog) -> None:
    """Columns of unequal length, and times before 1970, are named."""
    topic = make_topic(log)
    with closing(log.producer()) as plain:
        with pytest.raises(InvalidRecord, match="2 values, but 1 rows of key"):
            plain.produce(Outgoing(topic, binary_column([b"a", b"b"]), key=binary_column([b"k"])))
        with pytest.raises(InvalidRecord, match="1970"):
            plain.produce(outgoing(topic, [b"a"], timestamps_ms=[-2]))


def test_callers_may_reuse_their_arrays(log: EmbeddedLog) -> None:
    """Partitions and timestamps are copied when produced, not when written."""
    topic = make_topic(log, 2)
    partition, times = np.zeros(2, dtype=np.int32), np.full(2, 5, dtype=np.int64)
    with closing(log.producer()) as plain:
        plain.produce(Outgoing(topic, binary_column([b"a", b"b"]), partition=partition, timestamp_ms=times))
        partition[:], times[:] = 1, 9
        plain.flush()
    assert [(record.partition, record.timestamp_ms) for record in read(log, topic, 2, partitions=2)] == [(0, 5)] * 2


def test_calls_out_of_order_are_named(log: EmbeddedLog) -> None:
    """Wrong use raises an error of its own instead of doing something surprising."""
    topic = make_topic(log)
    with closing(log.producer(transactional_id="id")) as transactional, closing(log.producer()) as plain:
        with pytest.raises(InvalidUse):
            plain.begin()
        with pytest.raises(InvalidUse):
            transactional.produce(outgoing(topic, [b"a"]))
        with pytest.raises(InvalidUse):
            transactional.commit()
        transactional.begin()
        with pytest.raises(InvalidUse):
            transactional.begin()
        with pytest.raises(InvalidUse):
            transactional.commit({})
    with pytest.raises(InvalidUse):
        plain.produce(outgoing(topic, [b"a"]))
    with closing(log.consumer()) as consumer:
        with pytest.raises(InvalidUse):
            consumer.commit({})
        with pytest.raises(InvalidUse):
            consumer.seek({TopicPartition(topic, 0): 0})
        with pytest.raises(UnknownTopic):
            consumer.assign({TopicPartition(topic, 1): 0})


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """Another database, text, a directory and an impossible place are refused by name, and not changed."""
    database, text, place = tmp_path / "other.db", tmp_path / "text", tmp_path / "directory"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    text.write_bytes(b"not a database, but long enough to be looked at as one" * 40)
    place.mkdir()
    before = database.read_bytes(), text.read_bytes()
    for path, error in [
        (database, LogFileCorrupt),
        (text, LogFileCorrupt),
        (place, LogFileFailed),
        (text / "log.db", LogFileFailed),
    ]:
        with closing(EmbeddedLog(path).admin()) as admin, pytest.raises(error, match=str(path)):
            admin.topics()
    assert (database.read_bytes(), text.read_bytes()) == before


def test_another_layout_is_refused(log: EmbeddedLog) -> None:
    """A file of another version of the layout is neither read nor written."""
    make_topic(log)
    sql(log, "PRAGMA user_version = 99")
    with closing(log.admin()) as admin, pytest.raises(LogFileFailed, match="layout 99"):
        admin.topics()


def test_a_full_disk_is_an_error_and_no_commit(log: EmbeddedLog) -> None:
    """A commit that finds no room leaves nothing; when there is room again it succeeds, once."""
    topic = make_topic(log)
    with closing(log.producer(transactional_id="id")) as transactional:
        transactional.begin()
        transactional.produce(outgoing(topic, [*numbered(10), b"x" * 900_000]))
        connection = transactional._storage._open()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(LogFileFailed, match="full"):
            transactional.commit()
        with closing(log.admin()) as admin:
            assert admin.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 0}
        transactional.commit()  # The failure made a new connection, without the limit.
    assert values_of(read(log, topic, 11))[:10] == numbered(10)


@pytest.mark.parametrize("is_written", [True, False])
def test_an_unknown_outcome_is_asked_for(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, is_written: bool) -> None:
    """When the file fails during a commit, the commit counter tells whether it happened; nothing is written twice."""
    topic = make_topic(log)
    real_write, failures = Storage.write, [LogFileFailed("the disk went away")]

    @contextmanager
    def failing_write(self: Storage) -> Iterator[sqlite3.Connection]:
        with real_write(self) as connection:
            yield connection
            if failures and not is_written:
                raise failures.pop()
        if failures:
            raise failures.pop()

    with closing(log.producer(transactional_id="id")) as transactional:
        transactional.begin()
        transactional.produce(outgoing(topic, [b"once"]))
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write", failing_write)
            if is_written:
                transactional.commit()
            else:
                with pytest.raises(LogFileFailed):
                    transactional.commit()
                transactional.commit()
        transactional.begin()
        transactional.produce(outgoing(topic, [b"twice"]))
        transactional.commit()
    assert values_of(read(log, topic, 2)) == [b"once", b"twice"]


def test_a_writer_waits_its_turn_and_then_says_so(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the write lock a commit waits; beyond the bound the log is unavailable."""
    topic = make_topic(log)
    with (
        closing(sqlite3.connect(log.path, isolation_level=None, check_same_thread=False)) as other,
        closing(log.producer()) as plain,
    ):
        plain.produce(outgoing(topic, [b"patient"]))
        other.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            patch.setattr(storage, "WRITE_WAIT_S", 0.05)
            with pytest.raises(LogUnavailable, match=str(log.path)):
                plain.flush()
        assert read_nothing(log, topic)
        release = threading.Timer(0.2, other.execute, args=("ROLLBACK",))
        release.start()
        plain.flush()
        release.join()
    assert values_of(read(log, topic, 1)) == [b"patient"]


def read_nothing(log: EmbeddedLog, topic: str) -> bool:
    """Readers do not wait for writers."""
    with closing(log.consumer()) as consumer:
        consumer.assign(beginning(topic))
        return not consumer.poll(10, 0.0)


def test_damaged_records_are_not_handed_out(log: EmbeddedLog) -> None:
    """A flipped byte in a stored record is found when it is read, and its place is named."""
    topic = make_topic(log)
    write(log, outgoing(topic, [b"healthy"]))
    write(log, outgoing(topic, [b"x" * 100]))
    with closing(sqlite3.connect(log.path, isolation_level=None)) as connection:
        blob_id, data = connection.execute("SELECT blob_id, data FROM blobs ORDER BY blob_id DESC").fetchone()
        connection.execute("UPDATE blobs SET data = ? WHERE blob_id = ?", (data.replace(b"xx", b"xy", 1), blob_id))
    with closing(log.consumer()) as consumer:
        consumer.assign(beginning(topic))
        with pytest.raises(LogFileCorrupt, match=rf"{topic}\[0\]: records 1 to 1 are damaged"):
            consumer.poll(10, 5.0)


def test_forked_processes_write_and_read(log: EmbeddedLog) -> None:
    """A process forked while connections are open uses the log beside its parent, and harms nothing."""
    topic = make_topic(log)
    with closing(log.admin()) as admin, closing(log.producer()) as plain, closing(log.consumer()) as consumer:
        plain.produce(outgoing(topic, [b"before"]))
        plain.flush()
        consumer.assign(beginning(topic))
        drain(consumer, 1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                write(log, outgoing(topic, [b"child"]))
                status = 0 if topic in admin.topics() else 2
            finally:
                os._exit(status)
        plain.produce(outgoing(topic, [b"parent"]))
        plain.flush()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sorted(values_of(drain(consumer, 2)[topic])) == [b"child", b"parent"]  # type: ignore[type-var]
        assert topic in admin.topics()


def test_an_admin_serves_many_threads(log: EmbeddedLog) -> None:
    """One admin may be called from several threads at once."""
    failures: list[BaseException] = []
    with closing(log.admin()) as admin:

        def work(number: int) -> None:
            try:
                for each in range(10):
                    admin.create_topics([TopicSpec(f"t-{number}-{each}")])
                    admin.topics()
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(admin.topics()) == 40
