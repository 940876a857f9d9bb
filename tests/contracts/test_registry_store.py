"""The built-in registry's records: rivals, replays, foreign records."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import CompatibilityMode, RegistryUnavailable
from headrace.contracts.registry_memory import MemoryStore
from headrace.contracts.registry_store import (
    REGISTER_ATTEMPTS_MAX,
    RegistryStoreInvalid,
    StoredRecord,
    StoredRegistry,
    schema_guid,
)


def schema(number: int) -> AvroSchema:
    return AvroSchema.parse({"type": "record", "name": f"R{number}", "fields": []})


def documented(number: int) -> AvroSchema:
    """Different schemas that are compatible in every mode."""
    return AvroSchema.parse({"type": "record", "name": "R", "doc": str(number), "fields": []})


class RivalStore(MemoryStore):
    """A store in which another process is quicker: `before_append` runs ahead of each append."""

    def __init__(self) -> None:
        super().__init__()
        self.before_append: Callable[[], None] | None = None

    def append(self, key: bytes, value: bytes) -> None:
        rival, self.before_append = self.before_append, None
        if rival:
            rival()
        super().append(key, value)


def test_the_first_proposal_in_the_log_wins_and_the_loser_tries_again() -> None:
    """Two processes want the same id and version: both succeed with different ones, on all replays."""
    store = RivalStore()
    ours, rival = StoredRegistry(store), StoredRegistry(store)
    ours.set_compatibility("a-value", CompatibilityMode.NONE)
    store.before_append = lambda: rival.register("a-value", schema(1)) and None
    made = ours.register("a-value", schema(2))
    assert (made.id, made.version) == (2, 2)
    for reader in (ours, rival, StoredRegistry(store)):
        assert [(each.id, each.version, each.schema) for each in reader.versions("a-value")] == [
            (1, 1, schema(1)),
            (2, 2, schema(2)),
        ]


def test_two_rivals_with_the_same_schema_share_the_version() -> None:
    """The second record means nothing; both get the first one's answer."""
    store = RivalStore()
    ours, rival = StoredRegistry(store), StoredRegistry(store)
    store.before_append = lambda: rival.register("a-value", schema(1)) and None
    assert ours.register("a-value", schema(1)).version == 1
    assert len(store.read_from(0)[0]) == 2
    assert len(StoredRegistry(store).versions("a-value")) == 1


def test_every_record_has_a_key_of_its_own() -> None:
    """Compaction may keep only the last record of each key: that must be all of them, or replays would differ."""
    store = RivalStore()
    ours, rival = StoredRegistry(store), StoredRegistry(store)
    store.before_append = lambda: rival.register("a-value", schema(1)) and None
    ours.register("a-value", schema(1))
    keys = [record.key for record in store.read_from(0)[0]]
    assert len(set(keys)) == len(keys) == 2


def test_a_writer_that_always_loses_gives_up_within_its_bound() -> None:
    """Not for ever: the error says to try again."""

    class AlwaysLate(MemoryStore):
        """Before each append another process takes the same version and id with a schema of its own."""

        appends = 0

        def append(self, key: bytes, value: bytes) -> None:
            self.appends += 1
            rival = documented(self.appends)
            body = {"schema": rival.text, "guid": str(schema_guid(rival))}
            super().append(json.dumps(json.loads(key) | {"attempt": "rival"}).encode(), json.dumps(body).encode())
            super().append(key, value)

    store = AlwaysLate()
    with pytest.raises(RegistryUnavailable, match=f"{REGISTER_ATTEMPTS_MAX} proposals lost"):
        StoredRegistry(store).register("a-value", documented(10_000))
    assert store.appends == REGISTER_ATTEMPTS_MAX


def test_another_process_id_is_found_without_waiting() -> None:
    """A value may carry an id that was registered a moment ago elsewhere: the tail is read before it is refused."""
    store = MemoryStore()
    reader, writer = StoredRegistry(store), StoredRegistry(store)
    assert list(reader.subjects()) == []
    made = writer.register("a-value", schema(1))
    assert reader.by_id(made.id) == schema(1)
    made = writer.register("b-value", schema(2))
    assert reader.by_guid(made.guid) == schema(2)


def test_a_confluent_schema_topic_is_left_alone() -> None:
    """Its records share the topic's usual name; writing among them would break that registry."""
    store = MemoryStore()
    store.append(b'{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}', b"{}")
    with pytest.raises(RegistryStoreInvalid, match="Confluent"):
        StoredRegistry(store).register("a-value", schema(1))
    assert len(store.read_from(0)[0]) == 1


@pytest.mark.parametrize("key", [b"", b"\xff", b"[]", b"{}", b"7"])
def test_records_of_others_are_skipped(key: bytes) -> None:
    """A stray record in the topic neither counts nor stops the registry."""
    store = MemoryStore()
    store.append(key, b"x")
    assert StoredRegistry(store).register("a-value", schema(1)).id == 1


def test_a_newer_format_stops_the_registry() -> None:
    """Skipping it could hand out an id twice."""
    store = MemoryStore()
    store.append(b'{"headrace":2,"type":"schema"}', b"{}")
    with pytest.raises(RegistryStoreInvalid, match="format 2"):
        StoredRegistry(store).subjects()


@pytest.mark.parametrize("value", [b"", b"{}", b'{"schema":"nonsense","guid":"x"}'])
def test_a_damaged_record_is_named(value: bytes) -> None:
    """The position leads to it."""
    store = MemoryStore()
    store.append(b'{"headrace":1,"type":"schema","subject":"a","version":1,"id":1}', value)
    with pytest.raises(RegistryStoreInvalid, match="record 0"):
        StoredRegistry(store).subjects()


class StaleStore:
    """One process's view of a shared store: it may lag behind until it is asked a second time."""

    def __init__(self, shared: MemoryStore, source: random.Random) -> None:
        self._shared, self._random = shared, source

    def append(self, key: bytes, value: bytes) -> None:
        self._shared.append(key, value)

    def read_from(self, position: int) -> tuple[Sequence[StoredRecord], int]:
        records, _ = self._shared.read_from(position)
        if records and self._random.random() < 0.5:
            records = records[: self._random.randrange(len(records) + 1)]
        return records, position + len(records)

    def close(self) -> None:
        """Nothing to free."""


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.sampled_from(["a-value", "b-value"])), max_size=25),
)
def test_all_processes_agree_whatever_their_order(seed: int, calls: list[tuple[int, int, str]]) -> None:
    """Three processes with stale views register in any order: ids are unique to schemas, versions have no gaps."""
    shared, source = MemoryStore(), random.Random(seed)
    processes = [StoredRegistry(StaleStore(shared, source)) for _ in range(3)]
    for process in processes:
        process.set_compatibility("a-value", CompatibilityMode.NONE)
        process.set_compatibility("b-value", CompatibilityMode.NONE)
    given_out = [(processes[who].register(subject, schema(which))) for who, which, subject in calls]
    replay = StoredRegistry(shared)
    for made in given_out:
        assert made in replay.versions(made.subject)
        assert replay.by_id(made.id) == made.schema
    for subject in replay.subjects():
        versions = replay.versions(subject)
        assert [each.version for each in versions] == list(range(1, len(versions) + 1))
        assert len({each.schema for each in versions}) == len(versions)
    ids = {each.id: each.schema for subject in replay.subjects() for each in replay.versions(subject)}
    assert len(set(ids.values())) == len(ids)
