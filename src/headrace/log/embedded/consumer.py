"""The way out: a consumer that reads committed segments, by hand or as a group member.

- What a consumer holds are whole decoded segments, at most one fetch of each partition ahead of what it returned.
- Partitions take turns: each gets an equal share of a poll, whatever the others hold.
- Waiting costs little: a look at one counter in shared memory every `WAIT_MIN_S` to `WAIT_MAX_S`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from headrace.log.embedded.errors import InvalidUse
from headrace.log.embedded.fetch import Fetcher, to_batch
from headrace.log.embedded.heartbeat import Heartbeat
from headrace.log.embedded.membership import Member
from headrace.log.embedded.offsets import (
    NO_MEMBER,
    Membership,
    check_membership,
    check_offsets,
    load_offsets,
    store_offsets,
)
from headrace.log.embedded.positions import beginning_offsets, end_offsets, offsets_for_time
from headrace.log.embedded.segments import Columns
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import Catalog
from headrace.log.port import (
    BEGINNING,
    GroupMetadata,
    OffsetAndMetadata,
    RebalanceListener,
    RecordBatch,
    TopicPartition,
    UnknownTopic,
)

WAIT_MIN_S, WAIT_MAX_S = 0.0005, 0.02
WAIT_SHARE = 0.05
"""An empty poll looks again after this share of the time since the last record, within these bounds: a busy consumer
sees a record at once, an idle one after 20 ms at the latest, for about 1 % of a core."""
GROUP_CHECK_S = 0.5
"""How often a member looks whether another one's session expired; other changes are noticed at once."""
CHANGES_MAX = 100
"""Group changes told in one poll; a group that never settles shows up here."""


class EmbeddedConsumer:
    """A consumer of one file. Belongs to one thread."""

    def __init__(
        self, storage: Storage, beats: Storage, *, group: str | None, client_id: str, session_timeout_ms: int
    ) -> None:
        self._storage, self._beats = storage, beats
        self._group, self._client_id, self._session_timeout_ms = group, client_id, session_timeout_ms
        self._catalog = Catalog(storage)
        self._fetcher = Fetcher(storage, self._catalog)
        self._member: Member | None = None
        self._listener: RebalanceListener | None = None
        self._heartbeat: Heartbeat | None = None
        self._by_hand = False
        self._paused: set[TopicPartition] = set()
        self._group_version: tuple[int, int] | None = None
        self._group_checked_s = 0.0
        self._last_record_s = time.monotonic()
        self._turn = 0
        self._closed = False

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        if self._group is None:
            raise InvalidUse("a consumer without a group cannot subscribe")
        if self._by_hand:
            raise InvalidUse("a consumer either subscribes or assigns by hand")
        self._require_open()
        self._listener = listener
        if self._member is None:
            self._member = Member(self._storage, self._group, self._client_id, tuple(topics), self._session_timeout_ms)
            self._heartbeat = Heartbeat(self._beats, self._group, self._session_timeout_ms)
        self._member.topics = tuple(topics)
        self._member.join()
        self._group_version = None

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        if self._member is not None:
            raise InvalidUse("a consumer either subscribes or assigns by hand")
        self._require_open()
        self._catalog.check(positions)
        self._by_hand = True
        self._paused.clear()
        self._fetcher.clear()
        self._fetcher.place(positions)

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._fetcher.positions)

    def poll(self, records_max: int, timeout_s: float) -> Sequence[RecordBatch]:
        self._require_open()
        deadline = time.monotonic() + timeout_s
        while True:
            version = self._storage.version()
            self._follow_group(version)
            batches = self._take(records_max)
            if batches:
                self._last_record_s = time.monotonic()
            if batches or time.monotonic() >= deadline:
                return batches
            self._wait_for_commit(version, deadline)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        for partition in positions:
            if partition not in self._fetcher.positions:
                raise InvalidUse(f"seek in {partition.topic}[{partition.partition}], which is not assigned")
        self._fetcher.place(positions)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused |= self.assignment().intersection(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def position(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        for each in partitions:
            if each not in self._fetcher.positions:
                raise InvalidUse(f"position of {each.topic}[{each.partition}], which is not assigned")
        known = {each: self._fetcher.positions[each] for each in partitions}
        at_beginning = [each for each, offset in known.items() if offset == BEGINNING]
        return {**known, **(self.beginning_offsets(at_beginning) if at_beginning else {})}

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        with self._storage.snapshot() as connection:
            known = load_offsets(connection, self._require_group())
        return {partition: known[partition] for partition in partitions if partition in known}

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        check_offsets(offsets)
        membership = self._membership()
        with self._storage.write() as connection:
            check_membership(connection, membership, offsets)
            store_offsets(connection, membership.group, offsets)

    def group_metadata(self) -> GroupMetadata:
        return self._membership()

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return beginning_offsets(self._storage, self._catalog, partitions)

    def end_offsets(
        self, partitions: Sequence[TopicPartition], *, committed: bool = True
    ) -> Mapping[TopicPartition, int]:
        # A transaction is written when it commits: both kinds of end are one.
        return end_offsets(self._storage, self._catalog, partitions)

    def offsets_for_time(self, time_ms: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        return offsets_for_time(self._storage, self._catalog, time_ms)

    def close(self) -> None:
        if self._closed:
            return
        try:
            if self._member is not None:
                self._leave(self._member)
        finally:
            self._closed = True
            self._fetcher.clear()
            if self._heartbeat is not None:
                self._heartbeat.stop()
            self._beats.close()
            self._storage.close()

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidUse("the consumer is closed")

    def _require_group(self) -> str:
        if self._group is None:
            raise InvalidUse("the consumer has no group")
        return self._group

    def _membership(self) -> Membership:
        if self._member is not None:
            return self._member.membership()
        return Membership(self._require_group(), NO_MEMBER, -1, {})

    def _take(self, records_max: int) -> list[RecordBatch]:
        """An equal share of every partition that has records."""
        ready = self._fill(records_max)
        if not ready:
            return []
        self._turn = (self._turn + 1) % len(ready)
        taken: dict[str, list[tuple[int, Columns]]] = {}
        left = records_max
        for number, partition in enumerate(ready[self._turn :] + ready[: self._turn]):
            share = -(-left // (len(ready) - number))
            if share == 0:
                break
            for columns in self._fetcher.take(partition, share):
                left -= len(columns)
                taken.setdefault(partition.topic, []).append((partition.partition, columns))
        return [to_batch(topic, parts) for topic, parts in taken.items()]

    def _fill(self, records_max: int) -> list[TopicPartition]:
        active = sorted(self.assignment() - self._paused)
        try:
            return self._fetcher.fill(active, records_max)
        except UnknownTopic:
            if self._member is None:
                raise
            # Deleted since the group was looked at: the next look tells `lost`.
            self._group_version = None
            return []

    def _wait_for_commit(self, version: tuple[int, int], deadline: float) -> None:
        """Until anything was committed to the file, the group is to be looked at, or the time is over."""
        if self._member is not None:
            deadline = min(deadline, self._group_checked_s + GROUP_CHECK_S)
        while (now_s := time.monotonic()) < deadline and self._storage.version() == version:
            pause_s = min(max((now_s - self._last_record_s) * WAIT_SHARE, WAIT_MIN_S), WAIT_MAX_S)
            time.sleep(min(pause_s, deadline - now_s))

    def _follow_group(self, version: tuple[int, int]) -> None:
        """Tell the listener what changed, if anything may have."""
        member, heartbeat = self._member, self._heartbeat
        if member is None or heartbeat is None:
            return
        heartbeat.polled(member.member_id)
        now_s = time.monotonic()
        if version == self._group_version and now_s - self._group_checked_s < GROUP_CHECK_S:
            return
        for _ in range(CHANGES_MAX):
            if not self._tell_next(member):
                break
        heartbeat.polled(member.member_id)
        self._group_version, self._group_checked_s = version, now_s

    def _tell_next(self, member: Member) -> bool:
        """One callback; whether there was a change."""
        listener = self._listener
        assert listener is not None
        rejoining = member.member_id
        change = member.next_change()
        if change.lost:
            self._forget(change.lost)
            listener.lost(list(change.lost))
        elif change.revoked:
            listener.revoked(list(change.revoked))
            member.release(change.revoked)
            self._forget(change.revoked)
        elif change.assigned:
            self._start(change.assigned)
            listener.assigned(list(change.assigned))
        return bool(change) or member.member_id != rejoining

    def _start(self, partitions: Sequence[TopicPartition]) -> None:
        known = self.committed(partitions)
        self._fetcher.place({each: known[each].offset if each in known else BEGINNING for each in partitions})

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        self._fetcher.remove(partitions)
        self._paused.difference_update(partitions)

    def _leave(self, member: Member) -> None:
        listener = self._listener
        assert listener is not None
        owned = sorted(self.assignment())
        try:
            if owned and member.is_member():
                listener.revoked(owned)
            elif owned:
                listener.lost(owned)
        finally:
            member.leave()
