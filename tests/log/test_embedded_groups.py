"""Groups of the embedded log: sessions, fencing to the partition, and what a rebalance leaves alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.log.columns import outgoing
from headrace.log.embedded import EmbeddedLog, heartbeat, membership
from headrace.log.embedded.errors import InvalidUse
from headrace.log.embedded.membership import range_assignment
from headrace.log.port import (
    Fenced,
    GroupNotEmpty,
    OffsetAndMetadata,
    RebalanceListener,
    TopicPartition,
    TopicSpec,
    TransactionAborted,
)
from headrace.testing.log_conformance.probe import (
    Member,
    beginning,
    join,
    make_topic,
    numbered,
    settle,
    wait_for,
    write,
)

SESSION_MS = 400


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with closing(EmbeddedLog(tmp_path / "log.db", session_timeout_ms=SESSION_MS)) as log:
        yield log


def fall_silent(member: Member) -> None:
    """No heartbeat any more, as in a stopped process."""
    beat = member.consumer._heartbeat  # type: ignore[attr-defined]
    beat.stop()
    beat.polled = lambda member_id: None


def expired(log: EmbeddedLog, group: str, topic: str, partitions: int) -> tuple[Member, Member]:
    """A member that fell silent, and the one that took over."""
    silent = join(log, group, [topic], partitions)
    fall_silent(silent)
    heir = Member(log, group, [topic])
    settle([heir], lambda: len(heir.owned) == partitions, "the heir owns everything")
    return silent, heir


def test_an_expired_member_loses_its_partitions(log: EmbeddedLog) -> None:
    """After its session another member owns everything; the sleeper hears `lost`, never `revoked`, and joins again."""
    topic = make_topic(log, 2)
    silent, heir = expired(log, "g", topic, 2)
    both = sorted(beginning(topic, 2))
    settle([silent, heir], lambda: len(silent.owned) == len(heir.owned) == 1, "both own one")
    assert silent.events[1] == ("lost", tuple(both))
    assert silent.partitions("revoked") == []
    assert len(heir.partitions("revoked")) == 1
    for member in (silent, heir):
        member.close()


def test_an_expired_member_cannot_commit(log: EmbeddedLog) -> None:
    """Neither its captured metadata nor a plain commit counts once another owns the partitions; nothing is written."""
    topic, target = make_topic(log), make_topic(log)
    partition = TopicPartition(topic, 0)
    silent = join(log, "g", [topic], 1)
    with closing(log.producer(transactional_id="id")) as producer:
        producer.begin()
        captured = silent.metadata()
        producer.produce(outgoing(target, [b"stale"]))
        fall_silent(silent)
        heir = Member(log, "g", [topic])
        settle([heir], lambda: len(heir.owned) == 1, "the heir owns it")
        with pytest.raises(Fenced):
            silent.consumer.commit({partition: OffsetAndMetadata(1)})
        with pytest.raises(Fenced):
            producer.commit({partition: OffsetAndMetadata(1)}, captured)
        producer.abort()
        producer.begin()
        producer.produce(outgoing(target, [b"heir"]))
        producer.commit({partition: OffsetAndMetadata(2)}, heir.metadata())
    with closing(log.admin()) as admin:
        assert admin.group_offsets("g") == {partition: OffsetAndMetadata(2)}
        assert admin.end_offsets([TopicPartition(target, 0)]) == {TopicPartition(target, 0): 1}
    silent.close()
    assert silent.partitions("lost") == [partition]
    heir.close()


def test_regained_partitions_are_fenced_from_before(log: EmbeddedLog) -> None:
    """Owning a partition again does not revive metadata from before another member owned it."""
    topic = make_topic(log)
    partition = TopicPartition(topic, 0)
    silent, heir = expired(log, "g", topic, 1)
    before = silent.metadata()
    settle([silent, heir], lambda: len(heir.owned) == 1, "the sleeper is back in the group")
    heir.close()
    settle([silent], lambda: len(silent.owned) == 1, "it owns the partition again")
    with closing(log.producer(transactional_id="id")) as producer:
        producer.begin()
        with pytest.raises(Fenced):
            producer.commit({partition: OffsetAndMetadata(1)}, before)
        producer.begin()
        producer.commit({partition: OffsetAndMetadata(1)}, silent.metadata())
    silent.close()


def test_kept_partitions_may_be_committed_with_older_metadata(log: EmbeddedLog) -> None:
    """A rebalance that leaves a partition alone leaves metadata captured before it valid, for that partition only."""
    topic = make_topic(log, 2)
    first = join(log, "g", [topic], 2)
    captured = first.metadata()
    second = Member(log, "g", [topic])
    settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one")
    (kept,), (given,) = first.owned, second.owned
    with closing(log.producer(transactional_id="id")) as producer:
        producer.begin()
        producer.commit({kept: OffsetAndMetadata(3)}, captured)
        producer.begin()
        with pytest.raises(Fenced):
            producer.commit({kept: OffsetAndMetadata(4), given: OffsetAndMetadata(4)}, captured)
    with closing(log.admin()) as admin:
        assert admin.group_offsets("g") == {kept: OffsetAndMetadata(3)}
    for member in (first, second):
        member.close()


def test_partitions_assigned_later_need_newer_metadata(log: EmbeddedLog) -> None:
    """Metadata captured before a partition was assigned aborts the transaction that commits it."""
    topic = make_topic(log, 2)
    first = join(log, "g", [topic], 2)
    second = Member(log, "g", [topic])
    settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one")
    captured = first.metadata()
    (late,) = second.owned
    second.close()
    settle([first], lambda: len(first.owned) == 2, "it owns both again")
    with closing(log.producer(transactional_id="id")) as producer:
        producer.begin()
        with pytest.raises(TransactionAborted):
            producer.commit({late: OffsetAndMetadata(1)}, captured)
        producer.abort()
        producer.begin()
        producer.commit({late: OffsetAndMetadata(1)}, first.metadata())
    first.close()


def test_unaffected_partitions_keep_flowing(log: EmbeddedLog) -> None:
    """While one member still works on its revocation, partitions that stay are read, and the new one has none yet."""
    topic = make_topic(log, 2)
    first = join(log, "g", [topic], 2)
    second = Member(log, "g", [topic])
    second.poll(0.0)
    assert second.owned == frozenset()
    write(log, outgoing(topic, numbered(4), partitions=[0, 0, 1, 1]))
    first.consumer.pause([TopicPartition(topic, 1)])
    settle([second, first], lambda: len(first.owned) == len(second.owned) == 1, "both own one")
    settle([second, first], lambda: len(first.values() + second.values()) == 4, "all came")
    assert first.partitions("assigned") == [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    assert first.partitions("revoked") == [TopicPartition(topic, 1)]
    assert second.partitions("assigned") == [TopicPartition(topic, 1)]
    for member in (first, second):
        member.close()


def test_a_failing_revoked_keeps_the_partitions(log: EmbeddedLog) -> None:
    """If `revoked` raises, the partitions are not given up; it is called again by the next poll."""
    topic = make_topic(log, 2)
    first = join(log, "g", [topic], 2)

    def fail() -> None:
        raise ConnectionError("the target is away")

    first.before_revoke = fail
    second = Member(log, "g", [topic])
    with pytest.raises(ConnectionError):
        settle([first], lambda: False, "revoked is called")
    second.poll(0.0)
    assert (len(first.owned), len(second.owned)) == (2, 0)
    settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one")
    for member in (first, second):
        member.close()


def test_a_long_pause_between_polls_costs_no_membership(log: EmbeddedLog) -> None:
    """A member that works for longer than a session between two polls is kept alive by its heartbeat."""
    topic = make_topic(log)
    first, second = join(log, "g", [topic], 1), Member(log, "g", [topic])
    deadline = time.monotonic() + 3 * SESSION_MS / 1000
    while time.monotonic() < deadline:
        second.poll(0.05)
    assert second.owned == frozenset()
    first.poll()
    assert first.partitions("lost") == []
    for member in (first, second):
        member.close()


def test_a_member_that_never_polls_is_given_up(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living process whose consumer is stuck beats only for the longest time between polls."""
    monkeypatch.setattr(heartbeat, "POLL_INTERVAL_MAX_MS", 100)
    topic = make_topic(log)
    stuck, other = join(log, "g", [topic], 1), Member(log, "g", [topic])
    settle([other], lambda: len(other.owned) == 1, "the other took over")
    stuck.poll()
    assert stuck.partitions("lost") == [TopicPartition(topic, 0)]
    for member in (stuck, other):
        member.close()


def test_sessions_end_when_the_machine_starts_anew(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock begins anew at boot: a session far in the future is from before, and over."""
    topic = make_topic(log)
    with monkeypatch.context() as patch:
        patch.setattr(membership, "monotonic_ms", lambda: time.monotonic_ns() // 1_000_000 + 10**9)
        ghost = join(log, "g", [topic], 1)
        fall_silent(ghost)
    with closing(Member(log, "g", [topic])) as member:
        settle([member], lambda: len(member.owned) == 1, "the ghost is out")
    with closing(log.admin()) as admin:
        admin.delete_group("g")


def test_a_dead_member_does_not_keep_its_group(log: EmbeddedLog) -> None:
    """Once its session is over, a killed member no longer makes the group not empty."""
    topic = make_topic(log)
    member = join(log, "g", [topic], 1)
    fall_silent(member)

    def is_deleted() -> bool:
        try:
            admin.delete_group("g")
        except GroupNotEmpty:
            return False
        return True

    with closing(log.admin()) as admin:
        wait_for(is_deleted, "the session is over")
    member.close()


def test_a_new_topic_and_new_partitions_are_assigned(log: EmbeddedLog) -> None:
    """A subscribed topic may be created later, and may grow; a deleted one is lost."""
    with closing(log.admin()) as admin, closing(Member(log, "g", ["later"])) as member:
        member.poll(0.0)
        assert member.owned == frozenset()
        admin.create_topics([TopicSpec("later", 1)])
        settle([member], lambda: len(member.owned) == 1, "the new topic is assigned")
        admin.add_partitions("later", 3)
        settle([member], lambda: len(member.owned) == 3, "the new partitions are assigned")
        write(log, outgoing("later", numbered(3), partitions=[0, 1, 2]))
        settle([member], lambda: len(member.values()) == 3, "all are read")
        admin.delete_topics(["later"])
        settle([member], lambda: not member.owned, "the topic is lost")
        assert len(member.partitions("lost")) == 3


def test_subscribing_again_changes_the_topics(log: EmbeddedLog) -> None:
    """A second `subscribe` gives up what is no longer wanted and takes what is new."""
    one, two = make_topic(log), make_topic(log)
    with closing(join(log, "g", [one], 1)) as member:
        listener = RebalanceListener(member._assigned, member._revoked, member._lost)
        member.consumer.subscribe([two], listener)
        settle([member], lambda: member.owned == {TopicPartition(two, 0)}, "only the second topic is owned")
        assert member.partitions("revoked") == [TopicPartition(one, 0)]


def test_members_with_different_topics_share_what_is_common(log: EmbeddedLog) -> None:
    """Each topic is divided among those that subscribed to it."""
    one, two = make_topic(log, 2), make_topic(log, 2)
    both, only = Member(log, "g", [one, two]), Member(log, "g", [two])
    settle([both, only], lambda: len(both.owned) == 3 and len(only.owned) == 1, "topic one is not shared")
    assert {each.topic for each in only.owned} == {two}
    for member in (both, only):
        member.close()


def test_commits_by_hand_need_a_group_at_rest(log: EmbeddedLog) -> None:
    """A reader by hand may commit for a group without members, not over the heads of its members."""
    topic = make_topic(log)
    partition = TopicPartition(topic, 0)
    write(log, outgoing(topic, [b"a"]))
    with closing(log.consumer(group="g")) as reader:
        reader.assign({partition: 0})
        reader.commit({partition: OffsetAndMetadata(1, "by hand")})
        assert reader.committed([partition]) == {partition: OffsetAndMetadata(1, "by hand")}
        with closing(join(log, "g", [topic], 1)), pytest.raises(Fenced):
            reader.commit({partition: OffsetAndMetadata(2)})
        with pytest.raises(InvalidUse):
            reader.subscribe([topic], RebalanceListener(print, print, print))


def test_offsets_that_kafka_refuses_are_refused(log: EmbeddedLog) -> None:
    """Negative offsets and more than 4 KiB of text are named before anything is written."""
    topic = make_topic(log)
    partition = TopicPartition(topic, 0)
    with closing(join(log, "g", [topic], 1)) as member:
        for bad in (OffsetAndMetadata(-1), OffsetAndMetadata(1, "ü" * 2049)):
            with pytest.raises(InvalidUse, match=rf"{topic}\[0\]"):
                member.consumer.commit({partition: bad})
        member.consumer.commit({partition: OffsetAndMetadata(1, "ü" * 2048)})


@given(st.integers(0, 50), st.integers(1, 9))
def test_range_assignment_is_contiguous_and_even(partitions: int, members: int) -> None:
    """Every partition has one member, members own contiguous ranges in order, sizes differ by at most one."""
    member_ids = [f"m{number}" for number in range(members)]
    assigned = range_assignment(partitions, member_ids)
    assert len(assigned) == partitions
    assert assigned == sorted(assigned)
    sizes = [assigned.count(member_id) for member_id in member_ids]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
