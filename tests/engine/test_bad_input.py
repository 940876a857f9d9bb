"""Bad input: each kind has the result that docs/operators/bad-input.md tells, and the worker goes on."""

from __future__ import annotations

import json
import re
import sys
import threading
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine import memory_guard
from headrace.engine.dead_letters import PREFIX
from headrace.engine.memory_guard import StateTooLarge
from headrace.engine.operator import TIME
from headrace.engine.operators import process_call
from headrace.engine.settings import WorkerStatus
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.topic_reader import TopicReader
from headrace.flow.compile import compile_pipeline
from headrace.flow.errors import TypeClash
from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import Log, RecordBatch
from tests.engine.harness import Harness, TopicFrame, raw, wait_until

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
PAGE = Path(__file__).parent.parent.parent / "docs" / "operators" / "bad-input.md"


def contract(topic: str, fields: dict[str, Any], **rest: Any) -> Contract:
    """A contract from names and Avro types."""
    record = {"type": "record", "name": "Row", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    return Contract(topic=topic, schema=AvroSchema.parse(record), **rest)


TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}
EVENTS = contract(
    "events",
    {"id": "string", "name": ["null", "string"], "number": "long", "note": ["null", "string"], "at": TIMESTAMP},
    key=("id",),
    time="at",
)
PRICES = contract("prices", {"price": "double", "word": "string"}, kind=TopicKind.TABLE, key=("price",))
READINGS = contract("readings", {"id": "string", "price": ["null", "double"]}, key=("id",), record_time=True)


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "log.db")


def harness(log: Log, pipeline: Any, *contracts: Contract, partitions: int = 1, name: str = "p") -> Harness:
    """The pipeline on this log."""
    known = {each.topic: each for each in contracts or (EVENTS,)}
    compiled = compile_pipeline(hr.pipeline(owner="test", name=name)(pipeline), known)
    return Harness(log, MemoryRegistry(), list(known.values()), compiled, partitions=partitions)


def events(count: int, **more: Any) -> list[dict[str, Any]]:
    """Events a second apart."""
    return [
        {"id": f"e{n}", "name": f"n{n % 3}", "number": n, "note": None, "at": BEGIN + timedelta(seconds=n), **more}
        for n in range(count)
    ]


def letters(run: Harness) -> list[dict[str, str]]:
    """The error headers of the dead letters."""
    found = []
    for record in run.records(run.compiled.plan.dead_letter_topic):
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        found.append({name.removeprefix(PREFIX): text for name, text in headers.items() if name.startswith(PREFIX)})
    return found


def originals(run: Harness, topic: str) -> dict[int, tuple[bytes | None, bytes | None]]:
    """Key and value of the records of a topic by offset."""
    return {record.offset: (record.key, record.value) for record in run.records(topic)}


# Functions


def misbehaving(row: dict[str, Any]) -> Any:
    """Something else wrong for each number."""
    match row["number"]:
        case 0:
            raise ValueError("zero")
        case 1:
            return "a text"
        case 2:
            return {"number": "two"}
        case 3:
            return {"nobody": 3}
        case 4:
            sys.exit(4)
        case 5:
            return {"number": None}
        case 6:
            return None
    return {"number": row["number"]}


def test_a_function_that_misbehaves_costs_its_row(log: EmbeddedLog) -> None:
    """Raised, wrong shape, wrong type, unknown column, exit, null: dead letters with the original bytes; None drops."""
    run = harness(log, lambda: hr.stream("events").map(misbehaving, schema={"number": "long"}).to("out"))
    run.publish("events", events(10))
    run.run_until_caught_up()
    assert [row["number"] for row in run.rows("out")] == [7, 8, 9]
    told = letters(run)
    assert [(each["code"], each["stage"], int(each["offset"])) for each in told] == [
        ("process.function_raised", "process", n) for n in range(6)
    ]
    assert "SystemExit" in told[4]["message"]
    by_offset = originals(run, "events")
    assert [(r.key, r.value) for r in run.records("p.dlq")] == [by_offset[n] for n in range(6)]


def frames(frame: pl.DataFrame) -> Any:
    """Fails on some frames, and gives too few rows for others."""
    if (frame["number"] == 3).any():
        raise pl.exceptions.PanicException("three")
    if (frame["number"] == 5).any():
        return frame.head(0)
    return frame.select(number=pl.col("number").cast(pl.String) if (frame["number"] == 7).any() else "number")


def test_a_frame_function_that_misbehaves_costs_the_row_at_fault(log: EmbeddedLog) -> None:
    """A failing frame is tried row by row."""
    run = harness(log, lambda: hr.stream("events").map_batches(frames, schema={"number": "long"}).to("out"))
    run.publish("events", events(10))
    run.run_until_caught_up()
    assert [row["number"] for row in run.rows("out")] == [0, 1, 2, 4, 6, 7, 8, 9], "text that is a number is cast"
    assert [int(each["offset"]) for each in letters(run)] == [3, 5]


def test_a_function_that_hangs_is_named_and_loses_nothing(log: EmbeddedLog) -> None:
    """The status names the step while it hangs; when it returns all rows come out once."""
    inside, leave = threading.Event(), threading.Event()

    def hangs(row: dict[str, Any]) -> dict[str, Any]:
        if row["number"] == 3:
            inside.set()
            assert leave.wait(60)
        return {"number": row["number"]}

    run = harness(log, lambda: hr.stream("events").map(hangs, schema={"number": "long"}).named("slow").to("out"))
    run.publish("events", events(5))
    seen: list[WorkerStatus] = []
    with run.running(stuck_after_s=0.1) as running:
        running.worker._reporter.on_status = seen.append
        assert inside.wait(30)
        wait_until(lambda: any("'slow'" in status.message for status in seen), "the word of the watch")
        stuck = next(status for status in seen if "'slow'" in status.message)
        assert (stuck.state, stuck.pipeline) == ("waiting", "p")
        leave.set()
        run.wait(running, run.caught_up)
    assert [row["number"] for row in run.rows("out")] == list(range(5))
    assert not letters(run)


class Sums(hr.Aggregator):
    """Adds up, and exits at 3."""

    type = "long"

    def init(self) -> Any:
        return 0

    def add(self, state: Any, value: Any) -> Any:
        if value == 3:
            raise SystemExit(3)
        return state + value

    def merge(self, left: Any, right: Any) -> Any:
        return left + right

    def result(self, state: Any) -> Any:
        return state


def test_an_aggregator_that_raises_leaves_the_row_out_of_all_aggregates(log: EmbeddedLog) -> None:
    """The row is a dead letter, and counted nowhere."""
    run = harness(log, lambda: hr.stream("events").group_by("name").agg(n=hr.count(), sum=Sums("number")).to("out"))
    run.publish("events", events(6))
    run.run_until_caught_up()
    latest = {row["name"]: (row["n"], row["sum"]) for row in run.rows("out")}
    assert latest == {"n0": (1, 0), "n1": (2, 5), "n2": (2, 7)}
    assert [(each["code"], int(each["offset"])) for each in letters(run)] == [("process.function_raised", 3)]


# Keys


def test_null_keys_are_counted_and_dead_letters(log: EmbeddedLog) -> None:
    """Grouping, ranking, dedupe and process by a null: `null_key`, once for each step."""

    class Echo(hr.Processor):
        def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
            return {"id": row["id"]}

    def pipeline() -> Any:
        source = hr.stream("events")
        return [
            source.group_by("name").agg(n=hr.count()).to("counts"),
            source.group_by("name").top_n(1, by="number").to("tops"),
            source.dedupe("name", within="1s").to("firsts"),
            source.process(Echo(), by="name", schema={"id": "string"}).to("echoes"),
        ]

    run = harness(log, pipeline)
    run.publish("events", [{**row, "name": None if row["number"] % 2 else "n"} for row in events(4)])
    worker = run.run_until_caught_up()
    told = letters(run)
    assert {each["code"] for each in told} == {"process.null_key"}
    assert sorted(each["offset"] for each in told) == ["1"] * 4 + ["3"] * 4
    dropped = {name: count for name, count in worker.status().dropped.items() if name.endswith(":null_key")}
    assert list(dropped.values()) == [2, 2, 2, 2]
    assert [row["id"] for row in run.rows("echoes")] == ["e0", "e2"]


def test_numbers_with_a_point_are_no_keys_where_rows_are_grouped() -> None:
    """Grouping by floats is refused: NaN and rounding would make groups that nobody means."""
    for step in (
        lambda s: s.group_by("price").agg(n=hr.count()),
        lambda s: s.dedupe("price", within="1s"),
        lambda s: s.process(Never(), by="price", schema={"id": "string"}),
        lambda s: s.map_async(never, schema={"id": "string"}, one_at_a_time_by="price"),
    ):
        with pytest.raises(TypeClash, match="price"):
            compile_pipeline(
                hr.pipeline(name="p")(lambda step=step: step(hr.stream("readings")).to("out")), {"readings": READINGS}
            )


class Never(hr.Processor):
    """Is never called."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        return None


async def never(row: dict[str, Any]) -> dict[str, Any]:
    """Is never called."""
    return row


def test_nan_finds_nan_in_a_table_keyed_by_numbers(log: EmbeddedLog) -> None:
    """All NaNs are one key, and so are both zeros of one sign's bytes; null finds nothing."""
    run = harness(
        log, lambda: hr.stream("readings").join(hr.table("prices"), on="price", how="left").to("out"), PRICES, READINGS
    )
    run.publish("prices", [{"price": float("nan"), "word": "none"}, {"price": 1.5, "word": "one"}])
    run.publish(
        "readings",
        [{"id": f"r{n}", "price": price} for n, price in enumerate([float("nan"), 1.5, 2.5, None])],
    )
    run.run_until_caught_up()
    assert {row["id"]: row["word"] for row in run.rows("out")} == {"r0": "none", "r1": "one", "r2": None, "r3": None}


def test_a_key_of_another_type_is_a_dead_letter(log: EmbeddedLog) -> None:
    """Bytes that are no key of the contract, in a deletion, go to the dead letters as they are."""
    run = harness(log, lambda: hr.stream("readings").join(hr.table("prices"), on="price").to("out"), PRICES, READINGS)
    run.publish("prices", [{"price": 1.5, "word": "one"}])
    run.produce(raw("prices", [None], [b"plain text"]))
    run.publish("readings", [{"id": "r", "price": 1.5}])
    run.run_until_caught_up()
    assert [row["word"] for row in run.rows("out")] == ["one"]
    (letter,) = run.records("p.dlq")
    assert (letter.key, letter.value) == (b"plain text", None)
    assert letters(run)[0]["stage"] == "decode"


# Times


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "decode.absurd_event_time"),
        (datetime(9999, 1, 1, tzinfo=UTC), "decode.absurd_event_time"),
    ],
)
def test_absurd_times_are_dead_letters_and_move_no_clock(at: datetime, code: str, log: EmbeddedLog) -> None:
    """A time before 1970, or far ahead of the record's own timestamp, closes no window."""
    run = harness(
        log,
        lambda: hr.stream("events").group_by("name").window(hr.tumbling("1h")).agg(n=hr.count()).to("out"),
    )
    rows = events(3)
    rows.insert(1, {**rows[0], "id": "absurd", "at": at})
    run.publish("events", rows)
    worker = run.run_until_caught_up()
    assert sum({(row["name"], row["window_start"]): row["n"] for row in run.rows("out")}.values()) == 3
    assert [each["code"] for each in letters(run)] == [code]
    assert not worker.status().dropped


def test_a_time_ahead_within_the_bound_makes_others_late_by_rule(log: EmbeddedLog) -> None:
    """A producer's clock that is an hour ahead: rows of the true time are late, counted, and kept where asked."""
    run = harness(
        log,
        lambda: (
            hr.stream("events")
            .group_by("name")
            .window(hr.tumbling("1m"), late="dead_letter")
            .agg(n=hr.count())
            .to("out")
        ),
    )
    now = datetime.now(UTC).replace(microsecond=0)
    ahead = {**events(1)[0], "at": now + timedelta(hours=1)}
    run.publish("events", [ahead, {**ahead, "id": "true", "at": now}])
    worker = run.run_until_caught_up()
    assert list(worker.status().dropped.values()) == [1]
    assert [each["code"] for each in letters(run)] == ["process.late"]


# Overflow


def test_a_sum_that_overflows_refuses_the_row(log: EmbeddedLog) -> None:
    """The row that would overflow is a dead letter; the sum goes on without it."""
    run = harness(log, lambda: hr.stream("events").group_by("name").agg(total=hr.sum("number")).to("out"))
    numbers = [2**63 - 1, 1, -5]
    run.publish("events", [{**row, "name": "n", "number": n} for row, n in zip(events(3), numbers, strict=True)])
    run.run_until_caught_up()
    assert run.rows("out")[-1]["total"] == 2**63 - 6
    assert [(each["code"], int(each["offset"])) for each in letters(run)] == [("process.overflow", 1)]


# Memory


def test_state_beyond_the_limit_stops_reading_and_loses_nothing(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits, says which step holds the most and what to do; with a higher limit it goes on where it was."""

    def pipeline() -> Any:
        return hr.stream("events").group_by("id").agg(n=hr.count(), notes=hr.collect("note")).named("all").to("out")

    monkeypatch.setattr(memory_guard, "LOOK_INTERVAL_S", 0.0)
    run = harness(log, pipeline)
    run.publish("events", events(3000, note="x" * 100))
    with run.running(state_bytes_max=100_000, batch_records_max=100) as running:
        run.wait(running, lambda: running.worker.status().state == "waiting")
        message = running.worker.status().message
        assert StateTooLarge.code == "engine.state_too_large"
        assert "more than its limit of 0.1 MB" in message
        assert "'all'" in message
        assert "state_memory_mb_max" in message
        read = running.worker.status().records_in
        assert 0 < read < 3000
        wait_until(lambda: not running.worker._parts.committer.is_open, "the commit of what was read")
        assert running.worker.status().records_in == read, "nothing more is read"
    run.run_until_caught_up()
    assert len({row["id"] for row in run.rows("out")}) == 3000
    assert all(row["n"] == 1 for row in run.rows("out"))


def test_a_table_that_is_looked_up_counts_too(log: EmbeddedLog) -> None:
    """Tables of lookups are state, whose truth is their topic."""
    run = harness(log, lambda: hr.stream("readings").join(hr.table("prices"), on="price").to("out"), PRICES, READINGS)
    run.publish("prices", [{"price": float(n), "word": "x" * 100} for n in range(3000)])
    with run.running(state_bytes_max=100_000) as running:
        run.wait(running, lambda: "more than its limit" in running.worker.status().message)
        assert running.worker.status().state_bytes > 300_000


# Sizes


def big(row: dict[str, Any]) -> dict[str, Any]:
    """Every third row grows."""
    return {"id": row["id"], "text": "x" * (5_000 if row["number"] % 3 == 1 else 10)}


def check_a_record_over_the_size_limit(log: Log, prefix: str) -> None:
    """Rows whose record the topic does not take: stage `encode`, with the original; the others come out in order."""
    source, out = f"{prefix}events", f"{prefix}out"
    run = harness(
        log,
        lambda: hr.stream(source).map(big, schema={"id": "string", "text": "string"}).to(out),
        replace(EVENTS, topic=source),
        name=f"{prefix}p",
    )
    run._admin.alter_config(out, {"max.message.bytes": "3000"})
    run.publish(source, events(9))
    worker = run.run_until_caught_up()
    assert [row["id"] for row in run.rows(out)] == [f"e{n}" for n in range(9) if n % 3 != 1]
    told = letters(run)
    assert [(each["code"], each["stage"], int(each["offset"])) for each in told] == [
        ("encode.record_too_large", "encode", n) for n in (1, 4, 7)
    ]
    assert "max.message.bytes" in told[0]["message"]
    by_offset = originals(run, source)
    assert [(r.key, r.value) for r in run.records(f"{prefix}p.dlq")] == [by_offset[n] for n in (1, 4, 7)]
    assert worker.status().rows_out == 6


def test_a_record_over_the_size_limit_is_a_dead_letter(log: EmbeddedLog) -> None:
    """On the embedded log."""
    check_a_record_over_the_size_limit(log, "")


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_record_over_the_size_limit_is_a_dead_letter_on_kafka(kafka_log: KafkaLog) -> None:
    """On a broker."""
    check_a_record_over_the_size_limit(kafka_log, f"large-{uuid.uuid4().hex[:8]}-")


def test_a_row_too_large_to_be_moved_is_a_dead_letter(log: EmbeddedLog) -> None:
    """On its way to another task; the rows and marks around it arrive."""

    def pipeline() -> Any:
        grown = hr.stream("events").with_columns(note=pl.concat_str([col("name")] * 1000))
        return grown.filter(col("number") >= 0).rekey("name").named("move").with_columns(n=col("number")).to("out")

    run = harness(log, pipeline)
    run._admin.alter_config("p.move.repartition", {"max.message.bytes": "5000"})
    rows = events(4)
    # Noise does not compress.
    rows[2]["name"] = "".join(chr(0x4E00 + (n * n * 7919) % 20_000) for n in range(3_000))
    run.publish("events", rows)
    run.run_until_caught_up()
    assert [row["id"] for row in run.rows("out")] == ["e0", "e1", "e3"]
    assert [(each["code"], int(each["offset"])) for each in letters(run)] == [("encode.record_too_large", 2)]


def test_a_dead_letter_too_large_for_its_topic_says_where_the_original_is(log: EmbeddedLog) -> None:
    """The headers name topic, partition and offset; the original stays there."""
    run = harness(log, lambda: hr.stream("events").map(misbehaving, schema={"number": "long"}).to("out"))
    run._admin.alter_config("p.dlq", {"max.message.bytes": "2000"})
    rows = events(3, note="x" * 5_000)
    rows[1]["note"] = None
    run.publish("events", rows)
    run.run_until_caught_up()
    told = letters(run)
    assert sorted(int(each["offset"]) for each in told) == [0, 1, 2]
    noted = [each for each in told if each.get("original") == "false"]
    assert sorted(int(each["offset"]) for each in noted) == [0, 2]
    values = {each["offset"]: record.value for each, record in zip(told, run.records("p.dlq"), strict=True)}
    assert "left_out" in json.loads(values["0"] or b"{}")
    assert values["1"] == originals(run, "events")[1][1]


def test_the_page_tells_every_code_and_number() -> None:
    """Codes that this file provokes, and the bounds of the code, stand on the page."""
    text = PAGE.read_text(encoding="utf-8")
    for code in sorted(set(re.findall(r'"((?:process|decode|encode|engine)\.[a-z_]+)"', Path(__file__).read_text()))):
        assert f"`{code}`" in text, code
    for number in (process_call.ROWS_PER_CALL_MAX, process_call.STATE_CHARACTERS_MAX):
        assert f"{number:,}" in text


def test_a_record_without_a_timestamp_is_told_where_it_counts() -> None:
    """With `time: $timestamp` such a record has no event time; elsewhere its columns say what it is."""
    for given, times, codes in (
        (replace(EVENTS, time=None, record_time=True), [7], ["decode.null_event_time"]),
        (replace(EVENTS, time=None), [0, 7], []),
        (EVENTS, [int(BEGIN.timestamp() * 1000)] * 2, []),
    ):
        registry = MemoryRegistry()
        encoded, errors = SinkWriter(given, registry).encode(TopicFrame(given).frame(events(1) * 2))
        assert not errors
        assert encoded.key is not None
        stamps = [-1, 7] if given is not EVENTS else [-1, times[0]]
        batch = RecordBatch(
            "events",
            np.zeros(2, np.int32),
            np.arange(2, dtype=np.int64),
            np.array(stamps, np.int64),
            encoded.key,
            encoded.value,
        )
        rows = TopicReader(given, registry).read(batch)
        assert rows.frame[TIME].to_list() == times
        assert [each.code for each in rows.bad] == codes
