"""The consumer's bookkeeping when callbacks run in the middle of a fetch, with a scripted client.

A real client serves callbacks where it likes: before, between or after the messages of one call. Here each place
is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition
from tests.engine.harness import wait_until

from headrace.log.columns import batch_records
from headrace.log.kafka.client import Piece
from headrace.log.kafka.cluster import Cluster
from headrace.log.kafka.connection import Connection
from headrace.log.kafka.consumer import KafkaConsumer
from headrace.log.kafka.python_consumer import piece_of
from headrace.log.port import Fenced, LogError, LogUnavailable, OffsetOutOfRange, RebalanceListener, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)
BEGINNING_OF = {A: 0, B: 0}

Step = list[Message] | Callable[[], list[Message]]


class ScriptedClient:
    """Stands in for a client: each call to `take` plays the next step."""

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.waits: list[float] = []
        self.assigned: dict[TopicPartition, int] = {}
        self.seeks: list[tuple[TopicPartition, int]] = []

    def subscribe(self, _: Sequence[str], **callbacks: Any) -> None:
        self.callbacks = callbacks

    def take(self, records_max: int, timeout_s: float) -> Piece:
        self.waits.append(timeout_s)
        messages = self._play()
        assert len(messages) <= records_max
        return piece_of(messages, may_have_more=bool(self.script))

    def _play(self) -> list[Message]:
        if not self.script:
            return []
        step = self.script.pop(0)
        return step() if callable(step) else step

    def committed(self, partitions: list[KafkaPartition], timeout: float) -> list[KafkaPartition]:
        return [KafkaPartition(each.topic, each.partition, -1001) for each in partitions]

    def incremental_assign(self, partitions: list[KafkaPartition]) -> None:
        self.assigned |= {TopicPartition(each.topic, each.partition): each.offset for each in partitions}

    def incremental_unassign(self, partitions: list[KafkaPartition]) -> None:
        for each in partitions:
            del self.assigned[TopicPartition(each.topic, each.partition)]

    def pause(self, partitions: list[KafkaPartition]) -> None:
        """Nothing: the script says what comes."""

    def seek(self, place: KafkaPartition) -> None:
        self.seeks.append((TopicPartition(place.topic, place.partition), place.offset))

    def call(self, event: str, *partitions: TopicPartition) -> None:
        """What the broker decided."""
        self.callbacks[event](self, [KafkaPartition(*each) for each in partitions])


class Diary:
    """A listener that writes down its calls, and raises when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[TopicPartition, ...]]] = []
        self.raises: Exception | None = None
        self.listener = RebalanceListener(
            *(
                lambda partitions, event=event: self._note(event, partitions)
                for event in ("assigned", "revoked", "lost")
            )
        )

    def _note(self, event: str, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append((event, tuple(partitions)))
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch, diary: Diary) -> KafkaConsumer:
    """A member that owns both partitions of the topic and has read nothing."""
    cluster = Cluster({}, Connection("nowhere:1"))
    monkeypatch.setattr(
        cluster, "beginning_offsets", lambda partitions: {each: BEGINNING_OF[each] for each in partitions}
    )
    consumer = KafkaConsumer(ScriptedClient(), cluster, group="g")
    consumer.subscribe(["t"], diary.listener)
    client_of(consumer).call("on_assign", A, B)
    assert not consumer.poll(10, 0.0)
    return consumer


def client_of(consumer: KafkaConsumer) -> ScriptedClient:
    client = consumer._client
    assert isinstance(client, ScriptedClient)
    return client


def message(partition: TopicPartition, offset: int) -> Message:
    return Message(*partition, offset=offset, value=b"%d" % offset, timestamp=(1, 1000 + offset))


def places(consumer: KafkaConsumer, records_max: int = 10) -> list[tuple[int, int]]:
    """Partition and offset of each row that one poll hands out."""
    batches = consumer.poll(records_max, 0.0)
    return [(record.partition, record.offset) for batch in batches for record in batch_records(batch)]


@pytest.mark.parametrize("event", ["on_revoke", "on_lost"])
def test_rows_of_a_partition_given_up_are_not_handed_out(consumer: KafkaConsumer, event: str) -> None:
    """Neither those of earlier pieces of the poll, nor those of the call in which the callback ran."""
    client = client_of(consumer)

    def lose() -> list[Message]:
        client.call(event, A)
        return [message(A, 2), message(B, 1)]

    client.script = [[message(A, 0)], [message(A, 1), message(B, 0)], lose, [message(B, 2)]]
    assert places(consumer) == [(1, 0), (1, 1), (1, 2)]
    assert consumer.assignment() == frozenset({B})
    assert client.seeks == []


def test_a_group_that_does_not_say_where_it_stands_is_asked_again_by_the_next_poll(
    consumer: KafkaConsumer, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callback comes back at once, or the group would take the member for dead, and answer it nothing at all."""
    client, answers = client_of(consumer), client_of(consumer).committed
    silent = KafkaError(KafkaError._TIMED_OUT)
    client.call("on_revoke", A)

    def unanswered(_: list[KafkaPartition], timeout: float) -> list[KafkaPartition]:
        asked.append(timeout)
        raise KafkaException(silent)

    asked: list[float] = []
    monkeypatch.setattr("headrace.log.kafka.consumer.PLACE_WITHIN_S", 0.05)
    monkeypatch.setattr(client, "committed", unanswered)
    client.call("on_assign", A)
    client.call("on_assign")
    client.script = [[message(B, 0)]]
    assert places(consumer) == [(1, 0)]
    assert max(asked) <= 0.05
    assert diary.calls[-1][0] == "revoked"
    monkeypatch.setattr(client, "committed", answers)
    client.script = [[message(A, 0)]]
    assert places(consumer) == [(0, 0)]
    assert diary.calls[-1] == ("assigned", (A,))


def test_a_group_that_never_says_where_it_stands_is_unavailable(
    consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all the patience there is, whoever polls is told, and makes a new consumer."""
    client = client_of(consumer)

    def unanswered(_: list[KafkaPartition], timeout: float) -> list[KafkaPartition]:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr("headrace.log.kafka.consumer.PLACE_WITHIN_S", 0.01)
    monkeypatch.setattr(consumer._connection, "unavailable_after_s", 0.2)
    client.call("on_revoke", A)
    monkeypatch.setattr(client, "committed", unanswered)
    client.call("on_assign", A)
    with pytest.raises(LogUnavailable):
        wait_until(lambda: places(consumer) != [], "nothing", 5.0)


def test_a_partition_given_up_and_regained_in_one_call_is_read_from_its_new_place(consumer: KafkaConsumer) -> None:
    """Old and new rows of it cannot be told apart, so the call's rows of it are read again."""
    client = client_of(consumer)

    def bounce() -> list[Message]:
        client.call("on_revoke", A)
        client.call("on_assign", A)
        return [message(A, 1), message(B, 0)]

    client.script = [[message(A, 0)], bounce]
    assert places(consumer) == [(1, 0)]
    assert client.seeks == [(A, 0)]
    assert consumer.assignment() == frozenset({A, B})


def test_rows_of_a_new_partition_are_kept(consumer: KafkaConsumer) -> None:
    """A partition that arrives together with its first rows is not read twice."""
    client = client_of(consumer)
    client.call("on_revoke", A)

    def gain() -> list[Message]:
        client.call("on_assign", A)
        return [message(A, 0)]

    assert places(consumer) == []
    client.script = [gain]
    assert places(consumer) == [(0, 0)]
    assert client.seeks == []


def test_a_seek_inside_a_callback_drops_what_was_fetched(consumer: KafkaConsumer, diary: Diary) -> None:
    """Losing one partition makes the owner rewind another: its fetched rows go, and it is read from there."""
    client = client_of(consumer)

    def lose() -> list[Message]:
        client.call("on_lost", A)
        consumer.seek({B: 5})
        return [message(B, 8)]

    client.script = [[message(B, 6)], [message(B, 7), message(A, 0)], lose]
    assert places(consumer) == []
    assert client.seeks == [(B, 5), (B, 5)]


def test_an_error_of_a_callback_costs_no_row(consumer: KafkaConsumer, diary: Diary) -> None:
    """`poll` raises it, once; the rows fetched beside it come with the next poll, no more than asked for."""
    client = client_of(consumer)
    diary.raises = LogError("a commit failed")

    def lose() -> list[Message]:
        client.call("on_revoke", A)
        diary.raises = None
        return [message(B, 1), message(B, 2)]

    client.script = [[message(B, 0)], lose]
    with pytest.raises(LogError, match="a commit failed"):
        consumer.poll(10, 0.0)
    assert places(consumer, 2) == [(1, 0), (1, 1)]
    assert places(consumer, 2) == [(1, 2)]


def test_a_lost_position_is_raised_and_forgotten_by_a_seek(consumer: KafkaConsumer) -> None:
    """`OffsetOutOfRange` names the partition; rows of others stay; a seek before the raise makes it obsolete."""
    client = client_of(consumer)
    gone = Message(*A, offset=7, error=KafkaError(KafkaError._AUTO_OFFSET_RESET, "gone"))
    client.script = [[message(B, 0)], [gone, message(B, 1)]]
    with pytest.raises(OffsetOutOfRange, match="gone") as caught:
        consumer.poll(10, 0.0)
    assert caught.value.partition == A
    client.script = [[gone]]
    consumer._take(10, 0.0)
    consumer.seek({A: 9})
    assert places(consumer) == [(1, 0), (1, 1)]
    assert client.seeks == [(A, 9)]


@pytest.mark.parametrize(("committed", "raised"), [(6, OffsetOutOfRange), (7, OffsetOutOfRange), (9, Fenced)])
def test_a_position_that_the_group_has_passed_is_a_lost_partition(
    consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch, committed: int, raised: type[LogError]
) -> None:
    """Only another member commits beyond our position, and it may have removed what lies before: nothing is wrong with
    the log, we have not heard of our loss yet. A position at or beyond the group's is gone for everybody."""
    client = client_of(consumer)
    told = [KafkaPartition(*A, committed)]
    monkeypatch.setattr(client, "committed", lambda *_, **__: told)
    client.script = [[Message(*A, offset=7, error=KafkaError(KafkaError._AUTO_OFFSET_RESET, "gone"))]]
    with pytest.raises(raised, match="gone"):
        consumer.poll(10, 0.0)


def test_callbacks_see_each_partition_once(consumer: KafkaConsumer, diary: Diary) -> None:
    """What was assigned is revoked once, and an event without partitions of ours calls nobody."""
    client = client_of(consumer)
    client.call("on_revoke", B)
    client.call("on_revoke")
    client.call("on_lost", A)
    assert diary.calls == [("assigned", (A, B)), ("revoked", (B,)), ("lost", (A,))]
    assert client.assigned == {}


def test_only_the_first_record_is_waited_for(consumer: KafkaConsumer) -> None:
    """Word of the end of a partition is none, and the wait goes on; beside a record nothing is waited for."""
    client = client_of(consumer)
    end = Message(*A, offset=0, error=KafkaError(KafkaError._PARTITION_EOF, "end"))
    client.script, client.waits = [[end], [message(A, 0)], [message(A, 1)]], []
    assert sum(map(len, consumer.poll(10, 5.0))) == 2
    assert [wait > 0 for wait in client.waits] == [True, True, False]


def failing(consumer: KafkaConsumer, *messages: Message) -> Step:
    """A step beside whose messages something goes wrong, so that the poll raises and keeps them."""

    def step() -> list[Message]:
        consumer._failures.append(LogError("a commit failed"))
        return list(messages)

    return step


def test_rows_kept_by_a_failed_poll_are_not_handed_out_while_paused(consumer: KafkaConsumer) -> None:
    """They are fetched again after the pause, from behind the last row that was handed out; other rows come."""
    client = client_of(consumer)
    client.script = [[message(A, 0)], failing(consumer, message(A, 1), message(B, 0))]
    with pytest.raises(LogError, match="a commit failed"):
        consumer.poll(10, 0.0)
    consumer.pause([A])
    assert client.seeks == [(A, 0)]
    assert places(consumer) == [(1, 0)]
    assert consumer.position([A, B]) == {A: 0, B: 1}


def test_position_counts_no_end_that_rows_still_held_lie_before(consumer: KafkaConsumer) -> None:
    """Word of the end that came with rows counts when they are handed out, and no more after a seek back."""
    client = client_of(consumer)
    end = Message(*A, offset=9, error=KafkaError(KafkaError._PARTITION_EOF, "end"))
    client.script = [[message(A, 0)], failing(consumer, message(A, 1), end)]
    with pytest.raises(LogError, match="a commit failed"):
        consumer.poll(10, 0.0)
    assert consumer.position([A]) == {A: 0}
    assert places(consumer, 1) == [(0, 0)]
    assert consumer.position([A]) == {A: 1}
    assert places(consumer, 1) == [(0, 1)]
    assert consumer.position([A]) == {A: 9}
    consumer.seek({A: 1})
    assert consumer.position([A]) == {A: 1}


def test_a_seek_that_finds_no_broker_changes_nothing(consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call can be made again: the position and what was fetched are as before."""
    client = client_of(consumer)
    client.script = [[message(A, 0)]]
    assert places(consumer) == [(0, 0)]

    def fail(_: object) -> dict[TopicPartition, int]:
        raise LogError("no broker")

    monkeypatch.setattr(consumer._cluster, "beginning_offsets", fail)
    with pytest.raises(LogError, match="no broker"):
        consumer.seek({A: -2})
    assert consumer.position([A]) == {A: 1}
    assert client.seeks == []
