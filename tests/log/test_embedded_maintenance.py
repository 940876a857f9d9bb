"""Housekeeping of the embedded log changes the file and never what a reader may rely on."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.log.columns import Record, batch_records, outgoing
from headrace.log.embedded import EmbeddedLog, compaction, maintenance, segments
from headrace.log.embedded.maintenance import MERGE_APPENDS, ROUND_INTERVAL_MS, Maintenance
from headrace.log.port import LogUnavailable, OffsetOutOfRange, TopicPartition, TopicSpec
from headrace.testing.log_conformance.probe import beginning, drain, make_topic, numbered, read, values_of, write

DAY_MS = 86_400_000


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedLog]:
    with closing(EmbeddedLog(tmp_path / "log.db", clock=clock, synchronous="normal")) as log:
        yield log


def count(log: EmbeddedLog, table: str) -> int:
    with closing(sqlite3.connect(log.path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def read_all(log: EmbeddedLog, topic: str) -> list[Record]:
    """Everything in partition 0, as far as its end offset."""
    with closing(log.consumer()) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign(beginning(topic))
        end, found = consumer.end_offsets([partition])[partition], list[Record]()
        while batches := consumer.poll(1_000, 0.0):
            for batch in batches:
                found += batch_records(batch)
        assert all(record.offset < end for record in found)
        return found


def test_many_small_commits_become_few_segments(log: EmbeddedLog) -> None:
    """Single-record commits are merged as they go, so that reading them back stays fast; nothing about them changes."""
    topic = make_topic(log)
    with closing(log.producer()) as plain:
        for number in range(10 * MERGE_APPENDS):
            headers = [[("n", str(number).encode())]] if number % 3 == 0 else None
            keys = [None if number % 5 == 0 else b"k"]
            plain.produce(outgoing(topic, [b"v%d" % number], keys=keys, timestamps_ms=[number], headers=headers))
            plain.flush()
    assert count(log, "segments") <= 2 * MERGE_APPENDS
    assert count(log, "blobs") == count(log, "segments")
    got = read_all(log, topic)
    assert [record.offset for record in got] == list(range(320))
    assert values_of(got) == [b"v%d" % number for number in range(320)]
    assert [record.timestamp_ms for record in got] == list(range(320))
    assert [record.key for record in got] == [None if number % 5 == 0 else b"k" for number in range(320)]
    assert [record.headers for record in got[:4]] == [(("n", b"0"),), (), (), (("n", b"3"),)]
    with closing(log.consumer()) as consumer:
        consumer.assign({TopicPartition(topic, 0): 137})
        assert drain(consumer, 5, records_max=5)[topic][0].value == b"v137"
        assert consumer.offsets_for_time({TopicPartition(topic, 0): 201}) == {TopicPartition(topic, 0): 201}


def test_merging_under_a_reader_loses_nothing(log: EmbeddedLog) -> None:
    """A reader in the middle of segments that are merged meanwhile goes on without loss or repeat."""
    topic = make_topic(log)
    with closing(log.producer()) as plain, closing(log.consumer()) as consumer:
        consumer.assign(beginning(topic))
        got: list[bytes | None] = []
        for number in range(3 * MERGE_APPENDS):
            plain.produce(outgoing(topic, numbered(2, f"{number}-")))
            plain.flush()
            if number % 7 == 0:
                got += values_of(drain(consumer, 3, records_max=3)[topic]) if number else []
        got += values_of(drain(consumer, 6 * MERGE_APPENDS - len(got))[topic])
    assert got == [value for number in range(3 * MERGE_APPENDS) for value in numbered(2, f"{number}-")]


def test_retention_by_age_drops_old_segments(log: EmbeddedLog, clock: Clock) -> None:
    """After `retention.ms` records are gone and their offsets out of range; newer ones keep their offsets."""
    topic = make_topic(log, config={"retention.ms": str(DAY_MS)})
    write(log, outgoing(topic, numbered(3)))
    clock.now_ms += DAY_MS // 2
    write(log, outgoing(topic, numbered(3, "w")))
    clock.now_ms += DAY_MS // 2 + 1
    write(log, outgoing(topic, [b"last"]))
    assert [record.offset for record in read_all(log, topic)] == [3, 4, 5, 6]
    with closing(log.consumer()) as consumer:
        consumer.assign({TopicPartition(topic, 0): 2})
        with pytest.raises(OffsetOutOfRange):
            consumer.poll(10, 0.0)
    clock.now_ms += 2 * DAY_MS
    log.maintain()
    assert read_all(log, topic) == []
    write(log, outgoing(topic, [b"after"]))
    assert [record.offset for record in read_all(log, topic)] == [7]


def test_old_events_published_today_are_kept(log: EmbeddedLog, clock: Clock) -> None:
    """Age counts from writing at the earliest, so that history loaded into a topic does not vanish at once."""
    topic = make_topic(log, config={"retention.ms": str(DAY_MS)})
    write(log, outgoing(topic, [b"2013"], timestamps_ms=[1_356_998_400_000]))
    clock.now_ms += ROUND_INTERVAL_MS
    write(log, outgoing(topic, [b"now"]))
    assert values_of(read_all(log, topic)) == [b"2013", b"now"]


def test_retention_by_size_keeps_the_newest(log: EmbeddedLog) -> None:
    """`retention.bytes` drops the oldest segments while what is left is large enough."""
    topic = make_topic(log, config={"retention.bytes": "50000", "retention.ms": "-1"})
    for number in range(10):
        write(log, outgoing(topic, [b"%d" % number + b"x" * 20_000]))
    log.maintain()
    assert [value[:1] for value in values_of(read_all(log, topic)) if value] == [b"7", b"8", b"9"]


def test_no_retention_keeps_everything(log: EmbeddedLog, clock: Clock) -> None:
    """`retention.ms=-1` never drops; neither does a compacted topic drop by age."""
    topics = [make_topic(log, config=config) for config in ({"retention.ms": "-1"}, {"cleanup.policy": "compact"})]
    for topic in topics:
        write(log, outgoing(topic, [b"old"], keys=[b"k"]))
    clock.now_ms += 1000 * DAY_MS
    log.maintain()
    assert [values_of(read_all(log, topic)) for topic in topics] == [[b"old"], [b"old"]]


def test_deleted_topics_and_records_free_their_blobs(log: EmbeddedLog) -> None:
    """Nothing of a deleted topic stays in the file; deleted records go with their segments."""
    doomed, kept = make_topic(log, 2), make_topic(log)
    write(log, outgoing(doomed, numbered(10), partitions=[0, 1] * 5))
    for value in numbered(3):
        write(log, outgoing(kept, [value]))
    with closing(log.admin()) as admin:
        admin.delete_topics([doomed])
        admin.delete_records({TopicPartition(kept, 0): 2})
    assert [count(log, table) for table in ("blobs", "segments", "deleted_topics", "partitions")] == [1, 1, 0, 1]
    assert values_of(read_all(log, kept)) == [b"v2"]


def test_freed_space_is_used_again(log: EmbeddedLog) -> None:
    """A topic whose records are deleted as fast as they come does not make the file grow."""
    topic = make_topic(log)
    with closing(log.admin()) as admin, closing(log.producer()) as plain:
        for _ in range(60):
            plain.produce(outgoing(topic, [b"x" * 500_000]))
            plain.flush()
            admin.delete_records({TopicPartition(topic, 0): -1})
    assert log.path.stat().st_size < 5_000_000


def test_compaction_keeps_the_latest_of_each_key(log: EmbeddedLog) -> None:
    """Superseded records go, offsets stay, records after a gap are found by offset."""
    topic = make_topic(log, config={"cleanup.policy": "compact"})
    for number in range(5):
        write(log, outgoing(topic, numbered(100, f"{number}-"), keys=numbered(100, "k")))
    write(log, outgoing(topic, [b"other"], keys=[b"single"]))
    before = count(log, "segments")
    log.maintain()
    assert count(log, "segments") < before
    got = read_all(log, topic)
    assert [record.offset for record in got] == list(range(400, 501))
    assert values_of(got) == [*numbered(100, "4-"), b"other"]
    with closing(log.consumer()) as consumer:
        consumer.assign({TopicPartition(topic, 0): 3})
        assert drain(consumer, 1, records_max=1)[topic][0].offset == 400
        assert consumer.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 501}


def test_tombstones_go_after_their_time(log: EmbeddedLog, clock: Clock) -> None:
    """A tombstone hides its key at once and stays until `delete.retention.ms` and another pass are over."""
    topic = make_topic(log, config={"cleanup.policy": "compact", "delete.retention.ms": str(DAY_MS)})
    write(log, outgoing(topic, [b"a", b"b", None], keys=[b"1", b"2", b"1"]))
    log.maintain()
    assert [(record.key, record.value) for record in read_all(log, topic)] == [(b"2", b"b"), (b"1", None)]
    clock.now_ms += DAY_MS + 1
    write(log, outgoing(topic, [b"c"], keys=[b"3"]))
    log.maintain()
    assert [(record.key, record.value) for record in read_all(log, topic)] == [(b"2", b"b"), (b"3", b"c")]


def test_compaction_runs_beside_writes(log: EmbeddedLog, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer compacts on its own once enough is superseded."""
    monkeypatch.setattr(compaction, "DIRTY_BYTES_MIN", 10_000)
    topic = make_topic(log, config={"cleanup.policy": "compact"})
    with closing(log.producer()) as plain:
        for number in range(30):
            plain.produce(outgoing(topic, [b"%d" % number + b"x" * 1000 for _ in range(20)], keys=numbered(20, "k")))
            plain.flush()
            clock.now_ms += ROUND_INTERVAL_MS
    assert len(read_all(log, topic)) < 100
    assert {value[:2] for value in values_of(read_all(log, topic))[-20:] if value} == {b"29"}


operations = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 99))), min_size=1, max_size=8),
        st.sampled_from(["maintain", "step", "wait"]),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(operations)
def test_compaction_never_changes_the_table(steps: list[list[tuple[int, int | None]] | str]) -> None:
    """However writes, time and housekeeping mix, reading from the beginning gives the same latest value of every key,
    in the order of the full history, and a record once dropped does not come back."""
    clock = Clock()
    config = {"cleanup.policy": "compact", "delete.retention.ms": "1000"}
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        for module, name, value in [
            (compaction, "CHUNK_BYTES_MAX", 1),
            (compaction, "WINDOW_BYTES_MAX", 1500),
            (compaction, "CHUNKS_MAX", 2),
            (compaction, "DIRTY_BYTES_MIN", 0),
            (maintenance, "MERGE_SEGMENTS_MIN", 2),
            (segments, "SEGMENT_BYTES_MAX", 200),
        ]:
            patch.setattr(module, name, value)
        log = EmbeddedLog(Path(directory) / "log.db", clock=clock, synchronous="normal")
        topic = make_topic(log, config=config)
        history: list[tuple[int, bytes, bytes | None]] = []
        for step in steps:
            if isinstance(step, list):
                rows = [(b"k%d" % key, None if value is None else b"%d" % value) for key, value in step]
                write(log, outgoing(topic, [value for _, value in rows], keys=[key for key, _ in rows]))
                history += [(len(history) + at, key, value) for at, (key, value) in enumerate(rows)]
            elif step == "wait":
                clock.now_ms += 2000
            elif step == "maintain":
                log.maintain()
            else:
                clock.now_ms += ROUND_INTERVAL_MS
                write(log, outgoing(topic, [b"0"], keys=[b"tick"]))
                history.append((len(history), b"tick", b"0"))
            got = [(record.offset, record.key, record.value) for record in read_all(log, topic)]
            assert set(got) <= set(history)
            assert got == sorted(got, key=lambda row: row[0])
            table = {key: value for _, key, value in history}
            seen = {key: value for _, key, value in got}
            assert {key: value for key, value in seen.items() if value is not None} == {
                key: value for key, value in table.items() if value is not None
            }
        log.maintain()
        keys = [record.key for record in read_all(log, topic)]
        assert len(keys) == len(set(keys))


def test_failed_housekeeping_fails_no_commit(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that succeeded stays a success when the work after it cannot be done; the failure is kept for asking."""
    topic = make_topic(log)

    def fail(self: Maintenance, topic_id: int, partition: int) -> None:
        raise LogUnavailable("busy")

    monkeypatch.setattr(Maintenance, "merge", fail)
    with closing(log.producer()) as plain:
        for value in numbered(MERGE_APPENDS):
            plain.produce(outgoing(topic, [value]))
            plain.flush()
        assert [str(error) for error in plain._maintenance.failures] == ["busy"]
    assert values_of(read(log, topic, MERGE_APPENDS)) == numbered(MERGE_APPENDS)


def test_an_interrupted_deletion_is_finished_by_others(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between forgetting a topic and freeing its blobs leaves the rest to the next round."""
    topic = make_topic(log)
    write(log, outgoing(topic, [b"a"]))
    with monkeypatch.context() as patch, closing(log.admin()) as admin:
        patch.setattr(Maintenance, "purge", lambda self: None)
        admin.delete_topics([topic])
        admin.create_topics([TopicSpec(topic)])
    assert (count(log, "blobs"), read_all(log, topic)) == (1, [])
    log.maintain()
    assert (count(log, "blobs"), count(log, "deleted_topics")) == (0, 0)
