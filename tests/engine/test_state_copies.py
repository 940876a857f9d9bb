"""Restore from this machine's disk: the same state as from the log, and nothing read twice."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine import changelog, state_restore
from headrace.engine.local_state import ENTRY, FRAME, HEAD
from headrace.engine.state_restore import ChangelogTruncated
from headrace.engine.topic_identity import PartitionsChanged, PositionLost, TopicRecreated
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from headrace.log.embedded.producer import EmbeddedProducer
from headrace.log.port import CommitUnknown, Log, OffsetOutOfRange, TopicPartition, TopicSpec
from tests.engine.harness import Harness, wait_until
from tests.engine.test_state_restore import calls, harness, only_changelog
from tests.engine.test_worker import BEGIN, CUSTOMERS, ORDERS, hourly, orders


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(EmbeddedLog(tmp_path / "log.db")) as opened:
        yield opened


class Life:
    """A pipeline that is run again and again, with copies on disk."""

    def __init__(self, log: Log, folder: Path) -> None:
        self.at_work: Harness = harness(log, MemoryRegistry())
        self.folder, self.published, self.runs = folder, 0, 0

    def run(self, rows: int = 20, *, copies: bool = True) -> Any:
        """Publish some calls and count them; the worker's last word."""
        self.at_work.publish("calls", calls(self.published, rows))
        self.published += rows
        self.runs += 1
        folder = self.folder if copies else None
        return self.at_work.run_until_caught_up(instance=f"run{self.runs}", state_folder=folder).status()

    def check(self) -> None:
        """Every call was counted once."""
        latest = {row["caller"]: row for row in self.at_work.rows("calls.by_caller")}
        assert sum(row["calls"] for row in latest.values()) == self.published
        expected = sum(row["seconds"] for row in calls(0, self.published))
        assert sum(row["seconds"] for row in latest.values()) == pytest.approx(expected)

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.state"))


@pytest.fixture
def life(log: Log, tmp_path: Path) -> Life:
    return Life(log, tmp_path / "state")


def test_a_restart_reads_nothing_from_the_log(life: Life) -> None:
    """After a drain the disk has everything, whichever worker asks."""
    assert life.run().state_bytes_loaded == 0
    for _ in range(3):
        status = life.run()
        assert status.records_restored == 0
        assert status.state_bytes_loaded > 0
    life.check()


def test_a_copy_that_is_behind_is_gone_on_from(life: Life) -> None:
    """Only the commits that it lacks are read: what a kill in the middle, or a life on another machine, leaves."""
    life.run()
    kept = life.folder.with_name("kept")
    shutil.copytree(life.folder, kept)
    life.run()
    life.run(copies=False)
    everything = len(life.at_work.records(only_changelog(life.at_work)))
    shutil.rmtree(life.folder)
    kept.rename(life.folder)
    status = life.run()
    assert 0 < status.records_restored < everything
    assert status.state_bytes_loaded > 0
    life.check()


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-len(raw) // 4] ^= 16
    path.write_bytes(raw)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "a flipped bit": flip,
    "somebody else's": lambda path: path.write_bytes(b"x" * 5_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_costs_time_and_nothing_else(life: Life, damage: str) -> None:
    """The state is rebuilt from the log."""
    life.run(200)
    life.run(200)
    for path in life.files():
        DAMAGES[damage](path)
    status = life.run()
    assert status.records_restored > 0
    life.check()
    assert life.run().records_restored == 0
    life.check()


def test_a_copy_of_a_life_that_the_log_does_not_know_is_thrown_away(life: Life, tmp_path: Path) -> None:
    """Copies of a changelog that was made anew, as a reset does, are recognised by the topic's id."""
    life.run()
    topic, admin = only_changelog(life.at_work), life.at_work.log.admin()
    admin.delete_topics([topic])
    admin.create_topics([TopicSpec(topic, 2)])
    status = life.run()
    assert status.state_bytes_loaded == 0
    latest = {row["caller"]: row["calls"] for row in life.at_work.rows("calls.by_caller")}
    assert sum(latest.values()) == 20, "the state began anew, the positions did not"


def test_snapshots_in_the_log_begin_copies_anew(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files do not grow without end, and say the same as the log."""
    monkeypatch.setattr(changelog, "DELTA_ROWS_PER_SNAPSHOT_MIN", 40)
    sizes = []
    for _ in range(8):
        life.run(100)
        sizes.append(sum(path.stat().st_size for path in life.files()))
    assert min(sizes[4:]) < max(sizes[:5]) * 1.5
    life.check()
    shutil.rmtree(life.folder)
    assert life.run().records_restored > 0
    life.check()


def test_a_hole_in_the_changelog_stops_the_worker(life: Life) -> None:
    """Records deleted from outside: no result is computed from the rest."""
    for _ in range(3):
        life.run(50)
    topic, admin = only_changelog(life.at_work), life.at_work.log.admin()
    ends = admin.end_offsets([TopicPartition(topic, number) for number in range(2)])
    shutil.rmtree(life.folder)
    for before in (dict.fromkeys(ends, 1), ends):
        admin.delete_records(before)
        with pytest.raises(ChangelogTruncated, match="headrace reset by_caller"):
            life.run()


def test_a_whole_copy_outlives_a_changelog_that_was_cut_behind_it(life: Life) -> None:
    """What the log lost the disk still has: the records were deleted up to where the copy ends."""
    life.run(50)
    life.run(50)
    topic, admin = only_changelog(life.at_work), life.at_work.log.admin()
    admin.delete_records(admin.end_offsets([TopicPartition(topic, number) for number in range(2)]))
    assert life.run().records_restored == 0
    life.check()


def test_a_source_that_was_made_anew_stops_the_worker(life: Life) -> None:
    """Old offsets in a new topic would leave records out."""
    life.run()
    admin = life.at_work.log.admin()
    admin.delete_topics(["calls"])
    admin.create_topics([TopicSpec("calls", 2)])
    with pytest.raises((TopicRecreated, PositionLost), match="headrace reset by_caller"):
        life.run()


@pytest.mark.parametrize("is_running", [False, True])
def test_a_source_above_a_repartition_that_was_made_anew_stops_the_worker(log: Log, is_running: bool) -> None:
    """The part that reads it keeps no state, and may have no position left; the windows behind it would count again."""
    compiled = compile_pipeline(hourly, {"orders": ORDERS})
    at_work = Harness(log, MemoryRegistry(), [ORDERS], compiled, partitions=2)
    at_work.publish("orders", orders(50))
    admin = log.admin()

    def make_anew() -> None:
        admin.delete_topics(["orders"])
        admin.create_topics([TopicSpec("orders", 2)])
        at_work.publish("orders", orders(50))

    def run() -> None:
        if not is_running:
            at_work.run_until_caught_up()
            make_anew()
            at_work.run_until_caught_up(instance="two")
            return
        with at_work.running() as running:
            at_work.wait(running, at_work.caught_up)
            make_anew()
            wait_until(lambda: bool(running.errors), "a stop")

    with pytest.raises(TopicRecreated, match="headrace reset hourly"):
        run()


def test_state_without_positions_stops_the_worker(life: Life) -> None:
    """A group that was deleted: everything would be counted again, on top."""
    life.run()
    life.at_work.log.admin().delete_group("test.by_caller")
    with pytest.raises(PositionLost, match="headrace reset by_caller"):
        life.run()


def test_more_partitions_under_state_stop_the_worker(life: Life) -> None:
    """Keys would be looked for where their state is not."""
    life.run()
    life.at_work.log.admin().add_partitions("calls", 3)
    with pytest.raises(PartitionsChanged, match="calls has 3 partitions"):
        life.run()


class Tables:
    """A pipeline that looks orders up in a table of customers, run again and again with copies on disk."""

    def __init__(self, log: Log, folder: Path) -> None:
        compiled = compile_pipeline(named_orders, {"orders": ORDERS, "customers": CUSTOMERS})
        self.at_work = Harness(log, MemoryRegistry(), [ORDERS, CUSTOMERS], compiled, partitions=2)
        self.folder, self.runs, self.orders = folder, 0, 0
        self.countries: dict[str, str | None] = {}
        self.expected: list[tuple[str, str | None]] = []

    def run(self, changes: dict[str, str | None]) -> Any:
        """Change some customers, then place an order of each; the worker's last word."""
        self.countries |= changes
        self.at_work.publish("customers", [{"customer": name, "country": at} for name, at in changes.items()])
        self.runs += 1
        with self.at_work.running(f"run{self.runs}", state_folder=self.folder) as running:
            self.at_work.wait(running, self.at_work.caught_up)
            placed = [
                {"order_id": f"o{self.runs}.{name}", "customer": name, "amount": 1, "placed_at": BEGIN}
                for name in [f"c{n}" for n in range(20)]
            ]
            self.at_work.publish("orders", placed)
            self.expected += [(row["order_id"], self.countries.get(row["customer"])) for row in placed]
            self.at_work.wait(running, lambda: len(self.at_work.rows("named")) == len(self.expected))
            restored = running.worker.status()
        found = [(row["order_id"], row["country"]) for row in self.at_work.rows("named")]
        assert sorted(found) == sorted(self.expected)
        return restored

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*.state") if "table." in str(path))


@pytest.fixture
def tables(log: Log, tmp_path: Path) -> Tables:
    return Tables(log, tmp_path / "state")


@hr.pipeline(owner="test")
def named_orders() -> Any:
    """Orders with the country of their customer."""
    joined = hr.stream("orders").join(hr.table("customers"), on="customer", how="left")
    return joined.select("order_id", "country").to("named")


def test_a_looked_up_table_is_not_read_again(tables: Tables) -> None:
    """After a drain the disk has it; what changed since is read by the task itself."""
    assert tables.run({f"c{n}": f"k{n}" for n in range(15)}).records_restored == 0
    for turn in range(3):
        status = tables.run({"c3": f"other{turn}", "c7": None, f"c{15 + turn}": "new"})
        assert status.records_restored == 0
        assert status.state_bytes_loaded > 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_of_a_table_is_read_anew(tables: Tables, damage: str) -> None:
    """Every order finds the row that it should."""
    tables.run({f"c{n}": f"k{n}" for n in range(20)})
    for path in tables.files():
        DAMAGES[damage](path)
    tables.run({"c1": "x"})


def test_an_old_copy_of_a_table_is_thrown_away(tables: Tables) -> None:
    """Its keys may have been deleted, and the deletions compacted away."""
    tables.run({f"c{n}": f"k{n}" for n in range(20)})
    for path in tables.files():
        os.utime(path, (0, 0))
    status = tables.run({"c1": "x"})
    assert status.records_restored > 0


@pytest.mark.parametrize("was_committed", [True, False])
def test_a_commit_of_unknown_outcome_is_looked_up(
    life: Life, monkeypatch: pytest.MonkeyPatch, was_committed: bool
) -> None:
    """Its reply is lost: the worker goes on from what the log says; the copy does not say that it has everything."""
    life.run()
    commit, unknown = EmbeddedProducer.commit, 0

    def lost(producer: EmbeddedProducer, *arguments: Any) -> None:
        nonlocal unknown
        if arguments and unknown < 2:
            unknown += 1
            if was_committed:
                commit(producer, *arguments)
            raise CommitUnknown("the reply was lost")
        commit(producer, *arguments)

    monkeypatch.setattr(EmbeddedProducer, "commit", lost)
    for _ in range(2):
        life.run()
    assert unknown == 2
    life.check()
    shutil.rmtree(life.folder)
    life.run()
    life.check()


def test_a_restore_that_is_begun_again_writes_no_commit_twice(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is cut under a restore, when a part of a commit is in the copy already: the next restores, from the log
    and from the copy, both find everything once."""
    monkeypatch.setattr(changelog, "encode", functools.partial(changelog.encode, bytes_max=150))
    monkeypatch.setattr(state_restore, "MIRROR_BYTES_MAX", 1)
    life.run(100)
    life.run(100)
    shutil.rmtree(life.folder)
    read, left = state_restore.read_changelog, [7]

    def cut(*arguments: Any) -> Iterator[Any]:
        for entry in read(*arguments):
            left[0] -= 1
            if not left[0]:
                raise OffsetOutOfRange("cut", partition=TopicPartition("changelog", entry.partition))
            yield entry

    monkeypatch.setattr(state_restore, "read_changelog", cut)
    life.run(10)
    assert left[0] < 0, "the log was cut, and read again"
    for path in life.files():
        commits = [number for number, _ in _commits(path)]
        assert commits == sorted(commits)
        whole = [message for _, messages in _commits(path) for message in messages]
        assert len(whole) == len(set(whole)), "no message twice"
    monkeypatch.undo()
    assert life.run(10).records_restored == 0
    life.check()


def _commits(path: Path) -> list[tuple[int, list[bytes]]]:
    """Numbers and messages in a state file, as they lie there."""
    raw = path.read_bytes()
    at = HEAD.size + HEAD.unpack_from(raw)[3]
    found = []
    while at < len(raw):
        _, commit, _, _, count, total = FRAME.unpack_from(raw, at)
        entries_at = at + FRAME.size
        at = values_at = entries_at + count * ENTRY.size
        values = []
        for number in range(count):
            length = ENTRY.unpack_from(raw, entries_at + number * ENTRY.size)[1]
            values.append(raw[values_at : values_at + length])
            values_at += length
        at += total
        found.append((commit, values))
    return found
