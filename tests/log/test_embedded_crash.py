"""The embedded log under processes that are killed, stopped and many: every transaction whole, once, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from headrace.log.columns import outgoing
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import (
    Fenced,
    OffsetAndMetadata,
    Outgoing,
    RebalanceListener,
    TopicPartition,
    TopicSpec,
    TransactionAborted,
)
from headrace.testing.log_conformance.probe import read, wait_for

SESSION_MS = 1_000
PARTITIONS = 4
SOURCE, TARGET, GROUP = "source", "target", "copiers"


def open_log(path: str | Path) -> EmbeddedLog:
    return EmbeddedLog(Path(path), session_timeout_ms=SESSION_MS)


def write_numbered(path: str) -> None:
    """Child: transactions without end. Number n writes n to every partition of the target, and offset n with text n."""
    log = open_log(path)
    number = 0
    with closing(log.consumer(group=GROUP)) as consumer, closing(log.producer(transactional_id="writer")) as producer:
        committed = consumer.committed([TopicPartition(SOURCE, 0)])
        if committed:
            number = committed[TopicPartition(SOURCE, 0)].offset
        print("ready", flush=True)
        while True:
            number += 1
            producer.begin()
            text = str(number).encode() + b" " + b"x" * 3000
            for _ in range(3):
                producer.produce(outgoing(TARGET, [text] * PARTITIONS, partitions=list(range(PARTITIONS))))
            offset = OffsetAndMetadata(number, str(number))
            producer.commit({TopicPartition(SOURCE, 0): offset}, consumer.group_metadata())


def write_some(path: str, writer: str, commits: int, rows: int) -> None:
    """Child: plain writes of its own values, round the partitions."""
    with closing(open_log(path).producer()) as producer:
        for commit in range(commits):
            values = [f"{writer}-{commit * rows + row}".encode() for row in range(rows)]
            producer.produce(outgoing(SOURCE, values, keys=values))
            producer.flush()


def copy(path: str, name: str) -> None:
    """Child: copies source to target exactly once, as a member of a group, until killed. A file `<name>.stop` beside
    the log stops it like SIGSTOP from outside, at the worst moment: between reading and committing."""
    stop = Path(path).with_name(f"{name}.stop")
    log = open_log(path)
    with closing(log.consumer(group=GROUP)) as consumer, closing(log.producer(transactional_id=name)) as producer:
        consumer.subscribe([SOURCE], RebalanceListener(_ignore, _ignore, _ignore))
        print("ready", flush=True)
        while True:
            batches = consumer.poll(37, 0.05)
            if not batches:
                continue
            (batch,) = batches
            producer.begin()
            metadata = consumer.group_metadata()
            producer.produce(Outgoing(TARGET, batch.value, key=batch.key))
            was_stopped = stop.exists()
            if was_stopped:
                stop.unlink()
                print("stopped", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            offsets = {
                TopicPartition(SOURCE, partition): OffsetAndMetadata(offset + 1)
                for partition, offset in zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)
            }
            try:
                producer.commit(offsets, metadata)
            except (Fenced, TransactionAborted) as error:
                print(f"refused {type(error).__name__}", flush=True)
                producer.abort()
                owned = consumer.assignment()
                known = consumer.committed(sorted(owned))
                consumer.seek({each: known[each].offset if each in known else -2 for each in owned})
            else:
                if was_stopped:
                    print("committed", flush=True)


def _ignore(partitions: Sequence[TopicPartition]) -> None:
    """Nothing is open when a poll begins."""


@contextmanager
def child(function: Callable[..., None], *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a function of this module."""
    code = f"import runpy; runpy.run_path({__file__!r})[{function.__name__!r}](*{list(arguments)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert _line(process) == "ready"


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    with closing(open_log(path).admin()) as admin:
        admin.create_topics([TopicSpec(SOURCE, PARTITIONS), TopicSpec(TARGET, PARTITIONS)])
    return path


def committed_number(log: EmbeddedLog) -> int:
    """The number in the offset, which must be the number in its text."""
    with closing(log.admin()) as admin:
        offsets = admin.group_offsets(GROUP)
    if not offsets:
        return 0
    offset, text = offsets[TopicPartition(SOURCE, 0)]
    assert offset == int(text)
    return offset


def has_passed(log: EmbeddedLog, number: int) -> bool:
    return committed_number(log) > number


def is_alone(log: EmbeddedLog) -> bool:
    """Whether one member is left, and owns all partitions."""
    with closing(log._storage()) as storage:
        owners = storage.rows("SELECT owner FROM ownership")
    return len(owners) == PARTITIONS and len(set(owners)) == 1


def check_whole_transactions(log: EmbeddedLog) -> int:
    """Every number up to the committed one is in every partition three times, in order; no other is."""
    number = committed_number(log)
    with closing(log.admin()) as admin:
        partitions = [TopicPartition(TARGET, each) for each in range(PARTITIONS)]
        assert set(admin.end_offsets(partitions).values()) == {3 * number}
    if number:
        got = read(log, TARGET, 3 * number * PARTITIONS, partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            numbers = [int(each.value.split()[0]) for each in got if each.partition == partition and each.value]
            assert numbers == [each for each in range(1, number + 1) for _ in range(3)]
    return number


def test_a_killed_writer_leaves_whole_transactions(path: Path) -> None:
    """kill -9 at any moment: the committed offset, its text and the records of all partitions tell the same number,
    the next process goes on from there, and the file passes SQLite's own check."""
    log = open_log(path)
    last = 0
    for pause_s in (0.05, 0.31, 0.17):
        with child(write_numbered, str(path)) as writer:
            wait_ready(writer)
            wait_for(partial(has_passed, log, last), "the writer commits")
            time.sleep(pause_s)  # Not a wait for anything: the moment of the kill.
            writer.send_signal(signal.SIGKILL)
        last = check_whole_transactions(log)
    with log._storage().snapshot() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_torn_file_shows_a_prefix_of_whole_transactions(path: Path, tmp_path: Path) -> None:
    """A write-ahead log cut anywhere, as after a power failure, holds the first transactions and no part of another."""
    with child(write_numbered, str(path)) as writer:
        wait_ready(writer)
        wait_for(lambda: committed_number(open_log(path)) >= 10, "the writer commits")
        writer.send_signal(signal.SIGSTOP)
        copies = tmp_path / "copies"
        copies.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copies / 'whole.db'}{suffix}")
    size = os.path.getsize(copies / "whole.db-wal")
    seen = set()
    for share in (0.02, 0.2, 0.37, 0.5, 0.71, 0.9, 1.0):
        torn = copies / f"torn-{share}.db"
        shutil.copy(copies / "whole.db", torn)
        data = (copies / "whole.db-wal").read_bytes()[: int(size * share)]
        # What follows the cut is garbage, as in a file whose last blocks were never written.
        Path(f"{torn}-wal").write_bytes(data + b"\xa5" * (size - len(data)))
        seen.add(check_whole_transactions(open_log(torn)))
    assert len(seen) > 3


def test_many_processes_write_at_once(path: Path) -> None:
    """Records of several writer processes are all there, each writer's in order within a partition."""
    writers, commits, rows = 4, 30, 20
    with ExitStack() as stack:
        processes = [
            stack.enter_context(child(write_some, str(path), f"w{number}", commits, rows)) for number in range(writers)
        ]
        assert [process.wait(60) for process in processes] == [0] * writers
    got = read(open_log(path), SOURCE, writers * commits * rows, partitions=PARTITIONS)
    assert len(got) == writers * commits * rows
    assert len({record.value for record in got}) == len(got)
    for partition in range(PARTITIONS):
        mine = [record for record in got if record.partition == partition]
        assert [record.offset for record in mine] == list(range(len(mine)))
        for number in range(writers):
            own = [int(each.value[3:]) for each in mine if each.value and each.value.startswith(b"w%d" % number)]
            assert own == sorted(own)


@pytest.mark.slow
def test_killed_and_stopped_members_copy_exactly_once(path: Path) -> None:
    """Three members copy a topic in transactions. One is killed, one is stopped beyond its session and goes on: the
    copy holds every record once, because the stopped one's transaction is refused."""
    writers, commits, rows = 2, 60, 50
    total = writers * commits * rows
    log = open_log(path)
    partitions = [TopicPartition(TARGET, each) for each in range(PARTITIONS)]

    def copied() -> int:
        with closing(log.admin()) as admin:
            return sum(admin.end_offsets(partitions).values())

    with ExitStack() as stack:
        members = [stack.enter_context(child(copy, str(path), f"copier-{number}")) for number in range(3)]
        for member in members:
            wait_ready(member)
        for number in range(writers):
            stack.enter_context(child(write_some, str(path), f"w{number}", commits, rows))
        wait_for(lambda: copied() > total // 10, "a tenth is copied")
        path.with_name("copier-0.stop").touch()
        assert _line(members[0]) == "stopped"
        members[1].send_signal(signal.SIGKILL)
        wait_for(partial(is_alone, log), "the last member owns everything")
        members[0].send_signal(signal.SIGCONT)
        assert _line(members[0]) == "refused Fenced"
        wait_for(lambda: copied() >= total, "all is copied")
    got = Counter(record.value for record in read(log, TARGET, total, partitions=PARTITIONS))
    assert {value: count for value, count in got.items() if count != 1} == {}
    assert len(got) == total == copied()
    with closing(log.admin()) as admin:
        ends = admin.end_offsets([TopicPartition(SOURCE, each) for each in range(PARTITIONS)])
        assert {each: offset.offset for each, offset in admin.group_offsets(GROUP).items()} == ends
