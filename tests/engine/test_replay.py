"""Dead letters that come in again: at the step that failed and nowhere else, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.replay_rows import kept_row
from headrace.flow.compile import compile_pipeline
from headrace.log.columns import Record, outgoing
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Log, OffsetAndMetadata, TopicPartition, TopicSpec
from headrace.workspace.dead_letters import DeadLetter, letter_of
from headrace.workspace.replay_outcomes import replay_topic
from headrace.workspace.replay_targets import NotReplayable, PipelineTarget
from tests.engine.harness import Harness, raw

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
PARTITIONS = 3


def contract(topic: str) -> Contract:
    fields = [
        {"name": "id", "type": "string"},
        {"name": "customer", "type": ["null", "string"]},
        {"name": "amount", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]
    schema = AvroSchema.parse({"type": "record", "name": "Order", "fields": fields})
    return Contract(topic=topic, schema=schema, key=("id",), time="at")


def orders(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"o{n}", "customer": f"c{n % 4}", "amount": n % 7, "at": BEGIN + timedelta(seconds=n)}
        for n in range(first, first + count)
    ]


class Price:
    """A function that cannot do with some amounts until it is mended."""

    def __init__(self) -> None:
        self.bad = {13}
        self.calls: list[str] = []

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(row["id"])
        if row["amount"] in self.bad:
            raise ValueError(f"no price for {row['amount']}")
        return {"id": row["id"], "customer": row["customer"], "cents": row["amount"] * 100}


def pipeline(price: Price) -> Any:
    @hr.pipeline(owner="test")
    def sums() -> Any:
        """Seen orders, and their sums by customer."""
        prices = {"id": "string", "customer": "string?", "cents": "long"}
        seen = hr.stream("orders").filter(col("amount") >= 0)
        priced = seen.map(lambda row: price(row), schema=prices).named("price")
        priced.select("id", "cents").to("priced")
        return priced.group_by("customer").agg(cents=hr.sum("cents"), orders=hr.count()).to("sums")

    return sums


def target_of(harness: Harness) -> PipelineTarget:
    plan = harness.compiled.plan
    topics = {topic for each in plan.subtopologies for topic in (*each.reads, *each.writes)}
    return PipelineTarget(plan, harness.contracts, harness.registry, dict.fromkeys(topics, harness.partitions))


class Scene:
    """A pipeline with its replay topic on one log."""

    def __init__(self, log: Log, price: Price, name: str = "orders") -> None:
        self.log, self.price = log, price
        self.orders = contract(name)
        compiled = compile_pipeline(pipeline(price), {name: self.orders})
        self.harness = Harness(log, MemoryRegistry(), [self.orders], compiled, partitions=PARTITIONS)
        self.target, self.plan = target_of(self.harness), compiled.plan

    def make_replay_topic(self) -> None:
        spec = replay_topic(self.plan.name, self.target.partitions, -1)
        self.log.admin().create_topics([spec])

    def letters(self) -> list[DeadLetter]:
        topic = self.plan.dead_letter_topic
        return [letter_of(topic, record) for record in self.harness.records(topic)]

    def replay(self, letters: Sequence[DeadLetter], patch: Mapping[str, Any] | None = None) -> None:
        for letter in letters:
            for each in self.target.entrances(letter, patch):
                self.harness.produce(
                    outgoing(
                        self.plan.replay_topic,
                        [each.value],
                        keys=[each.key],
                        partitions=each.partition,
                        headers=[each.headers],
                    )
                )

    def replayed(self) -> bool:
        """Whether all replays are taken up, and all that followed."""
        admin = self.log.admin()
        here = [TopicPartition(self.plan.replay_topic, n) for n in range(self.target.partitions)]
        kept = admin.group_offsets(f"test.{self.plan.name}")
        ends = admin.end_offsets(here)
        return all(end == 0 or (each in kept and kept[each].offset >= end) for each, end in ends.items())

    def sums(self) -> dict[Any, tuple[int, int]]:
        return {row["customer"]: (row["cents"], row["orders"]) for row in self.harness.rows("sums")}

    def run(self) -> None:
        self.harness.run_until_caught_up(and_then=lambda: True)

    def run_replays(self, **settings: Any) -> None:
        with self.harness.running(**settings) as running:
            self.harness.wait(running, self.replayed)
            self.harness.wait(running, self.harness.caught_up)


def expected(rows: Sequence[Mapping[str, Any]]) -> dict[Any, tuple[int, int]]:
    found: dict[Any, tuple[int, int]] = {}
    for row in rows:
        cents, count = found.get(row["customer"], (0, 0))
        found[row["customer"]] = (cents + row["amount"] * 100, count + 1)
    return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(EmbeddedLog(tmp_path / "log.db"), Price())


def bad(row: Mapping[str, Any], amount: int = 13) -> dict[str, Any]:
    return {**row, "amount": amount}


def test_a_row_comes_back_to_the_step_that_failed(scene: Scene) -> None:
    """Nine rows of three hundred fail; with the function mended each comes to it once more, and no other row does. The
    sums are those of all rows."""
    rows = [bad(row) if n % 33 == 5 else row for n, row in enumerate(orders(300))]
    scene.harness.publish("orders", rows)
    scene.run()
    failed = scene.letters()
    assert len(failed) == sum(row["amount"] == 13 for row in rows) == 9
    assert {(each.stage, each.step, each.code) for each in failed} == {("process", "price", "process.function_raised")}
    assert scene.sums() == expected([row for row in rows if row["amount"] != 13])
    scene.price.bad, scene.price.calls = set(), []
    scene.make_replay_topic()
    scene.replay(failed)
    scene.run_replays()
    assert sorted(scene.price.calls) == sorted(row["id"] for row in rows if row["amount"] == 13)
    assert scene.sums() == expected(rows)
    assert len(scene.harness.rows("priced")) == len(rows)
    assert len(scene.letters()) == 9


def test_a_patch_mends_the_row(scene: Scene) -> None:
    """The function stays as it is; the patched rows pass it, with the patch's values and the rest of their own."""
    rows = [bad(row) if n in (4, 9) else row for n, row in enumerate(orders(40))]
    scene.harness.publish("orders", rows)
    scene.run()
    scene.make_replay_topic()
    scene.replay(scene.letters(), {"amount": 2})
    scene.run_replays()
    assert scene.sums() == expected([{**row, "amount": 2} if row["amount"] == 13 else row for row in rows])


def test_what_fails_again_is_a_new_dead_letter(scene: Scene) -> None:
    """With its original key, value and place, of which one it is one more, and the count: nothing runs in circles."""
    scene.harness.publish("orders", [bad(orders(1)[0])])
    scene.run()
    scene.make_replay_topic()
    (first,) = scene.letters()
    scene.replay([first])
    scene.run_replays()
    _, second = scene.letters()
    assert (second.again_of, second.replays) == (first.place.text, 1)
    assert (second.key, second.value, second.headers) == (first.key, first.value, first.headers)
    assert (second.source, second.source_offset, second.source_time_ms) == (
        first.source,
        first.source_offset,
        first.source_time_ms,
    )
    assert (second.stage, second.step, second.code) == (first.stage, first.step, first.code)
    scene.price.bad = set()
    scene.replay([second])
    scene.run_replays()
    assert len(scene.letters()) == 2
    assert scene.sums() == {"c0": (1300, 1)}


def test_undecodable_bytes_enter_at_the_source(scene: Scene) -> None:
    """A record of plain bytes with the good key of another: patched it is a row from the source on, filters included;
    unpatched it fails again with its bytes."""
    row = orders(1)[0]
    scene.harness.publish("orders", [row])
    (good,) = scene.harness.records("orders")
    scene.harness.produce(raw("orders", [b"junk", b"more"], [good.key, good.key]))
    scene.run()
    letters = scene.letters()
    assert [each.stage for each in letters] == ["decode", "decode"]
    scene.make_replay_topic()
    at = "2024-01-01T00:00:05Z"
    scene.replay(letters[:1], {"id": "new", "customer": "c9", "amount": 5, "at": at})
    scene.replay(letters[1:])
    scene.run_replays()
    assert scene.sums() == {"c0": (0, 1), "c9": (500, 1)}
    again = scene.letters()[2:]
    assert [(each.value, each.again_of, each.step) for each in again] == [
        (b"more", letters[1].place.text, "source orders")
    ]


def test_null_keys_come_in_at_the_task_of_their_new_key(scene: Scene) -> None:
    """Rows without a group key failed at the aggregate, behind the repartition: patched they go to the task that has
    that customer's sum, wherever that is."""
    rows = orders(60)
    keyless = [{**row, "customer": None} for row in orders(8, first=100)]
    scene.harness.publish("orders", [*rows, *keyless])
    scene.run()
    letters = scene.letters()
    assert {(each.stage, each.code) for each in letters} == {("process", "process.null_key")}
    scene.make_replay_topic()
    for number, letter in enumerate(letters):
        scene.replay([letter], {"customer": f"c{number % 4}"})
    tasks = {each.task for n in range(4) for each in scene.target.entrances(letters[0], {"customer": f"c{n}"})}
    assert len(tasks) > 1
    scene.run_replays()
    by_id = {row["id"]: row for row in keyless}
    mended = [{**row, "customer": None} for row in by_id.values()]
    total = scene.sums()
    assert sum(count for _, count in total.values()) == 68
    assert sum(cents for cents, _ in total.values()) == sum(row["amount"] * 100 for row in [*rows, *mended])


def test_a_crash_between_replay_and_commit_doubles_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction that holds a replay is refused three times: each time its effect is undone and it is read again,
    in the end it counts once; a later worker does not read it again."""
    from headrace.log.embedded.producer import EmbeddedProducer
    from headrace.log.port import TransactionAborted

    rows = [bad(row) if n % 20 == 3 else row for n, row in enumerate(orders(100))]
    scene.harness.publish("orders", rows)
    scene.run()
    failed = scene.letters()
    scene.price.bad = set()
    scene.make_replay_topic()
    scene.replay(failed)
    commit, refusals = EmbeddedProducer.commit, []

    def refusing(self: EmbeddedProducer, offsets: Any = None, group: Any = None) -> None:
        if offsets is not None and len(refusals) < 3 and self._outbox:
            refusals.append(1)
            raise TransactionAborted("the test asked for it")
        commit(self, offsets, group)

    monkeypatch.setattr(EmbeddedProducer, "commit", refusing)
    scene.run_replays()
    assert len(refusals) == 3
    scene.harness.publish("orders", orders(10, first=500))
    scene.run()
    assert scene.sums() == expected([*rows, *orders(10, first=500)])
    assert len(scene.letters()) == len(failed)


def test_a_producer_that_cannot_begin_loses_no_replay(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction does not even begin after replays were read: they are read again."""
    from headrace.log.embedded.producer import EmbeddedProducer
    from headrace.log.port import Fenced

    scene.harness.publish("orders", [bad(row) for row in orders(5)])
    scene.run()
    scene.price.bad = set()
    scene.make_replay_topic()
    scene.replay(scene.letters())
    begin, refusals = EmbeddedProducer.begin, []

    def refusing(self: EmbeddedProducer) -> None:
        if len(refusals) < 2:
            refusals.append(1)
            raise Fenced("the test asked for it")
        begin(self)

    monkeypatch.setattr(EmbeddedProducer, "begin", refusing)
    scene.run_replays()
    assert len(refusals) == 2
    assert scene.sums() == expected([bad(row) for row in orders(5)])


def test_replays_follow_their_tasks(scene: Scene) -> None:
    """Two workers share the tasks: each brings in the replays of its own, also of those it takes over."""
    rows = [bad(row) if n % 10 == 0 else row for n, row in enumerate(orders(200))]
    scene.harness.publish("orders", rows)
    scene.run()
    failed = scene.letters()
    scene.price.bad = set()
    scene.make_replay_topic()
    with scene.harness.running("one") as one, scene.harness.running("two") as two:
        scene.harness.wait(one, lambda: bool(one.worker.status().tasks) and bool(two.worker.status().tasks))
        scene.replay(failed[:10])
        scene.harness.wait(one, scene.replayed)
    scene.replay(failed[10:])
    scene.run_replays()
    assert scene.sums() == expected(rows)


def test_a_running_worker_reads_a_new_replay_topic_when_told(scene: Scene) -> None:
    """No replay topic when the worker starts: once it is told it reads it."""
    from headrace.engine.orders import Orders

    scene.harness.publish("orders", [bad(row) for row in orders(3)])
    scene.run()
    scene.price.bad = set()
    orders_to = Orders()
    with scene.harness.running(orders=orders_to) as running:
        scene.harness.wait(running, lambda: len(running.worker.status().tasks) == 2 * PARTITIONS)
        scene.make_replay_topic()
        scene.replay(scene.letters())
        orders_to.ask(lambda parts: parts.replays.tell()).result(10)
        scene.harness.wait(running, scene.replayed)
    assert len(scene.harness.rows("priced")) == 3


def test_a_record_that_has_no_way_in_any_more_stays_a_dead_letter(scene: Scene) -> None:
    """A replay for a step that is gone, or for a task of another shape, is written back with its row."""
    from dataclasses import replace

    scene.harness.publish("orders", [bad(row) for row in orders(2)])
    scene.run()
    scene.make_replay_topic()
    first, second = scene.letters()
    (one,), (two,) = (scene.target.entrances(each, None) for each in (first, second))
    gone = [(n, b"other" if n == "headrace.replay.step" else v) for n, v in one.headers]
    moved = [(n, b"0_9" if n == "headrace.replay.task" else v) for n, v in two.headers]
    for each in (replace(one, headers=gone), replace(two, headers=moved)):
        scene.harness.produce(
            outgoing(
                scene.plan.replay_topic,
                [each.value],
                keys=[each.key],
                partitions=each.partition,
                headers=[each.headers],
            )
        )
    scene.run_replays()
    again = scene.letters()[2:]
    assert {each.code for each in again} == {"process.replay_refused"}
    assert {(each.again_of, each.row) for each in again} == {(each.place.text, each.row) for each in (first, second)}


def test_what_cannot_be_replayed_is_told(scene: Scene) -> None:
    """A row that is not kept, and a topic that the pipeline does not read."""
    from dataclasses import replace

    scene.harness.publish("orders", [bad(orders(1)[0])])
    scene.run()
    (letter,) = scene.letters()
    with pytest.raises(NotReplayable, match="64 KiB"):
        scene.target.entrances(replace(letter, row=None), None)
    elsewhere = replace(letter, stage="decode", source=TopicPartition("others", 0))
    with pytest.raises(NotReplayable, match="does not read others"):
        scene.target.entrances(elsewhere, None)


def windowed() -> Any:
    @hr.pipeline(owner="test")
    def hours() -> Any:
        """Orders by hour, all under one key."""
        checked = hr.stream("orders").map(refuse_marked, schema={"id": "string", "amount": "long"}).named("check")
        by_hour = checked.group_by("amount").window(hr.tumbling("1h", grace="0s"), late="dead_letter")
        return by_hour.agg(orders=hr.count()).to("hours", emit="final")

    return hours


REFUSED: set[str] = set()
NOTHING = OffsetAndMetadata(0)


def refuse_marked(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["id"] in REFUSED:
        raise ValueError("refused")
    return {"id": row["id"], "amount": 1}


def at(hour: float, number: int) -> dict[str, Any]:
    return {"id": f"o{number}", "customer": "c", "amount": 1, "at": BEGIN + timedelta(hours=hour)}


def test_a_replayed_row_is_judged_by_the_time_of_now(tmp_path: Path) -> None:
    """Two rows failed, one of a window that has closed since and one of the open window: the first is late, as the
    window says, the closed window does not come out twice; the second counts; no row of others becomes late for it."""
    source = contract("orders")
    compiled = compile_pipeline(windowed(), {"orders": source})
    harness = Harness(EmbeddedLog(tmp_path / "log.db"), MemoryRegistry(), [source], compiled, partitions=1)
    target = target_of(harness)
    REFUSED.update({"o1", "o4"})
    harness.publish("orders", [at(0.1, 0), at(0.2, 1), at(0.3, 2), at(2.1, 3), at(2.2, 4)])
    harness.run_until_caught_up()
    topic = compiled.plan.dead_letter_topic
    letters = [letter_of(topic, record) for record in harness.records(topic)]
    assert [letter.source_offset for letter in letters] == [1, 4]
    REFUSED.clear()
    harness.log.admin().create_topics([replay_topic(compiled.plan.name, target.partitions, -1)])
    for letter in letters:
        (each,) = target.entrances(letter, None)
        harness.produce(
            outgoing(
                compiled.plan.replay_topic,
                [each.value],
                keys=[each.key],
                partitions=each.partition,
                headers=[each.headers],
            )
        )
    harness.run_until_caught_up(and_then=lambda: len(harness.records(topic)) == 3)
    harness.publish("orders", [at(2.05, 5), at(4.1, 6)])
    harness.run_until_caught_up(and_then=lambda: len(harness.rows("hours")) == 2)
    late = letter_of(topic, harness.records(topic)[2])
    assert (late.code, late.again_of) == ("process.late", letters[0].place.text)
    hours = {row["window_start"].hour: row["orders"] for row in harness.rows("hours")}
    assert hours == {0: 2, 2: 3}
    assert len(harness.rows("hours")) == 2


def test_a_replayed_repeat_whose_first_is_forgotten_is_late(tmp_path: Path) -> None:
    """A repeat failed before `dedupe`, and comes back when nobody remembers its first one any more: it is late, as it
    would be had it come then, and not let through."""

    price = Price()

    @hr.pipeline(owner="test")
    def once() -> Any:
        """Each order once."""
        prices = {"id": "string", "customer": "string?", "cents": "long"}
        priced = hr.stream("orders").map(lambda row: price(row), schema=prices).named("price")
        return priced.dedupe("id", within="1h").to("once")

    source = contract("orders")
    compiled = compile_pipeline(once, {"orders": source})
    harness = Harness(EmbeddedLog(tmp_path / "log.db"), MemoryRegistry(), [source], compiled, partitions=1)
    harness.publish("orders", [at(0.1, 1), {**at(0.2, 1), "amount": 13}, at(9, 2), at(20, 3)])
    harness.run_until_caught_up()
    (letter,) = (letter_of("once.dlq", record) for record in harness.records("once.dlq"))
    price.bad = set()
    target = target_of(harness)
    harness.log.admin().create_topics([replay_topic("once", target.partitions, -1)])
    (each,) = target.entrances(letter, None)
    harness.produce(
        outgoing("once.replay", [each.value], keys=[each.key], partitions=each.partition, headers=[each.headers])
    )
    here, admin = TopicPartition("once.replay", 0), harness.log.admin()
    harness.run_until_caught_up(and_then=lambda: admin.group_offsets("test.once").get(here, NOTHING).offset == 1)
    assert [row["id"] for row in harness.rows("once")] == ["o1", "o2", "o3"]


CUSTOMERS = Contract(
    topic="customers",
    schema=AvroSchema.parse(
        {
            "type": "record",
            "name": "Customer",
            "fields": [{"name": "id", "type": "string"}, {"name": "name", "type": ["null", "string"]}],
        }
    ),
    kind=TopicKind.TABLE,
    key=("id",),
)


def test_rows_come_back_to_their_side_of_a_join(tmp_path: Path) -> None:
    """Late rows of both sides of a stream join are kept with the number of their side, also where both have the same
    columns; each comes back by its own."""

    @hr.pipeline(owner="test")
    def both() -> Any:
        """Orders with themselves a day later."""
        return (
            hr.stream("orders")
            .join(hr.stream("orders"), on="id", within="1m", grace="0s", late="dead_letter")
            .select("id")
            .to("pairs")
        )

    source = contract("orders")
    compiled = compile_pipeline(both, {"orders": source})
    harness = Harness(EmbeddedLog(tmp_path / "log.db"), MemoryRegistry(), [source], compiled, partitions=1)
    harness.publish("orders", [at(5, 1)])
    harness.publish("orders", [at(1, 2)])
    topic = compiled.plan.dead_letter_topic
    harness.run_until_caught_up(and_then=lambda: len(harness.records(topic)) == 2)
    letters = [letter_of(topic, record) for record in harness.records(topic)]
    assert sorted(kept_row(letter.row or b"").input_index for letter in letters) == [0, 1]
    assert {letter.code for letter in letters} == {"process.late"}


def test_tables_that_are_looked_up_take_no_replays(tmp_path: Path) -> None:
    """A record of such a table that cannot be decoded: at the next start a replay of it would be gone."""

    @hr.pipeline(owner="test")
    def named() -> Any:
        """Orders with names."""
        return hr.stream("orders").join(hr.table("customers"), on="id", how="left").select("id", "name").to("named")

    source = contract("orders")
    contracts = {"orders": source, "customers": CUSTOMERS}
    compiled = compile_pipeline(named, contracts)
    harness = Harness(EmbeddedLog(tmp_path / "log.db"), MemoryRegistry(), [source, CUSTOMERS], compiled, partitions=1)
    harness.produce(raw("customers", [b"junk"], [b"k"]))
    topic = compiled.plan.dead_letter_topic
    harness.run_until_caught_up(and_then=lambda: len(harness.records(topic)) == 1)
    letter = letter_of(topic, harness.records(topic)[0])
    target = target_of(harness)
    with pytest.raises(NotReplayable, match="looked up"):
        target.entrances(letter, None)


def test_tables_are_replaced_only_by_newer_rows(tmp_path: Path) -> None:
    """A replay of a table's record is outdated where a newer one of its key is in the topic."""
    from headrace.workspace.replay import newer_records

    log = EmbeddedLog(tmp_path / "log.db")
    log.admin().create_topics([TopicSpec("customers", 1), TopicSpec("dlq", 1)])
    producer = log.producer()
    keys = [b"a", b"b", b"a", b"c"]
    producer.produce(outgoing("customers", [b"v"] * 4, keys=keys, partitions=0))
    producer.flush()
    letters = [
        letter_of("dlq", Record(0, number, 0, keys[offset], b"v", place_headers("customers", offset)))
        for number, offset in enumerate((0, 1, 2))
    ]
    assert newer_records(log, letters) == {
        letters[0].place: 2,
        letters[1].place: 1,
        letters[2].place: 2,
    }


def place_headers(topic: str, offset: int) -> tuple[tuple[str, bytes | None], ...]:
    told = {"code": "decode.framing", "topic": topic, "partition": "0", "offset": str(offset)}
    return tuple((f"headrace.error.{name}", text.encode()) for name, text in told.items())
