"""Bad records: each alone goes to the dead-letter topic, with its bytes and a reason; all others arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contracts.contract import TopicKind
from headrace.contracts.debezium.unavailable import PLACEHOLDER
from headrace.egress.sdk import Mode, TargetUnavailable
from headrace.log.columns import Record
from headrace.testing.sink_harness import TOPIC, Stage, header, order, order_contract
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target, failing

DLQ = "out.dlq"


def reason(record: Record) -> tuple[str | None, str | None]:
    return header(record, "headrace.error.stage"), header(record, "headrace.error.code")


def reasons(stage: Stage) -> list[tuple[str | None, str | None]]:
    return sorted(map(reason, stage.records(DLQ)), key=str)


def test_refused_rows_stay_alone(stage: Stage, make_config: MakeConfig) -> None:
    """Three rows of two hundred that the target refuses: original key and value, place, code; the rest is written."""
    bad = {7, 8, 150}
    target = Target(refuses=lambda row: row["id"] in bad)
    stage.publish([order(number) for number in range(200)])
    sent = {record.key: record for record in stage.records(TOPIC)}
    runner = stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == [number for number in range(200) if number not in bad]
    dead = stage.records(DLQ)
    assert {record.key for record in dead} == set(stage.keys([order(number) for number in bad]))
    for record in dead:
        original = sent[record.key]
        assert record.value == original.value
        assert reason(record) == ("deliver", "memory.refused")
        assert header(record, "headrace.error.topic") == TOPIC
        assert header(record, "headrace.error.partition") == str(original.partition)
        assert header(record, "headrace.error.offset") == str(original.offset)
        assert header(record, "headrace.error.time") == str(original.timestamp_ms)
        assert header(record, "headrace.error.pipeline") == "out"
        assert header(record, "headrace.error.message") == "no"
    assert runner.counters.dead_letters == {("deliver", "memory.refused"): 3}
    assert runner.counters.rows_written == 197


def test_positions_pass_records_that_are_no_rows(stage: Stage, make_config: MakeConfig) -> None:
    """A topic of nothing but bad records is read once: the next egress does not see them again."""
    target = Target()
    stage.produce_raw([b"junk"] * 5, [b"k"] * 5)
    stage.deliver(MemoryConnector(target), make_config())
    stage.deliver(MemoryConnector(target), make_config())
    assert len(stage.records(DLQ)) == 5
    assert target.positions == {partition: end for partition, end in stage.ends().items() if end}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\x00\x00\x00\x27\x0f\x00", "decode.unknown_schema_id"),
        (b"plain text", "decode.framing"),
        (b"", "decode.framing"),
    ],
)
def test_undecodable_values(stage: Stage, make_config: MakeConfig, value: bytes, code: str) -> None:
    """Bytes that no schema reads: a typed reason, the value as it was, the neighbours delivered."""
    target = Target()
    stage.publish([order(1)])
    stage.produce_raw([value], stage.keys([order(2)]))
    stage.publish([order(3)])
    stage.deliver(MemoryConnector(target), make_config())
    (dead,) = stage.records(DLQ)
    assert (dead.value, reason(dead)) == (value, ("decode", code))
    assert target.ids == [1, 3]


def test_a_key_that_is_not_that_of_its_row(stage: Stage, make_config: MakeConfig) -> None:
    """Keyed modes: a record whose key names another row would overwrite that one; missing and broken keys as well."""
    target = Target()
    stage.publish([order(1), order(2)])
    values = {record.key: record.value for record in stage.records(TOPIC)}
    first, second = stage.keys([order(1), order(2)])
    stage.produce_raw([values[first]] * 3, [second, None, b"?"])
    stage.deliver(MemoryConnector(target), make_config(Mode.UPSERT))
    assert target.ids == [1, 2]
    assert reasons(stage) == [
        ("decode", "decode.framing"),
        ("decode", "decode.key_mismatch"),
        ("decode", "decode.null_key"),
    ]


def test_an_event_without_value(tmp_path: Path, make_config: MakeConfig) -> None:
    """A topic of kind event has no deletions: a null value is a dead letter, not skipped."""
    stage = Stage(tmp_path, order_contract(TopicKind.EVENT))
    target = Target()
    stage.publish([order(1)])
    stage.produce_raw([None], stage.keys([order(1)]))
    stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == [1]
    assert reasons(stage) == [("decode", "decode.null_value")]
    stage.close()


def test_changes_that_are_no_rows(tmp_path: Path, make_config: MakeConfig) -> None:
    """Envelopes: a truncation, an unknown operation, and a column that the source's log does not hold."""
    stage = Stage(tmp_path, order_contract(TopicKind.CHANGE))
    target = Target()
    untold = {**order(5), "customer": PLACEHOLDER}
    stage.publish_changes([("c", None, order(1)), ("t", order(2), None), ("x", None, order(3)), ("u", None, untold)])
    stage.deliver(MemoryConnector(target), make_config(Mode.UPSERT, truncate="refuse"), stage.contract)
    assert target.rows == [order(1)]
    assert reasons(stage) == [
        ("decode", "decode.unreadable_change"),
        ("deliver", "egress.truncate_refused"),
        ("deliver", "egress.unavailable_value"),
    ]
    stage.close()


def test_dead_letters_are_durable_before_the_rows(stage: Stage, make_config: MakeConfig) -> None:
    """Whenever a flush begins, the dead letters of its records are in the topic already."""
    target = Target(refuses=lambda row: row["id"] == 3)
    seen: list[int] = []

    def look(call: str) -> None:
        if call == "flush":
            seen.append(len(stage.records(DLQ)))

    target.fault = look
    stage.publish([order(number) for number in range(10)])
    stage.deliver(MemoryConnector(target), make_config(batch={"age_max_ms": 200}))
    assert seen[-1] == 1


def test_a_failed_flush_repeats_dead_letters_and_never_drops_them(stage: Stage, make_config: MakeConfig) -> None:
    """After a failure between dead letters and rows both come again: rows once, the dead letter at least once."""
    target = Target(refuses=lambda row: row["id"] == 3)
    target.fault = failing("flush", lambda: TargetUnavailable("not now"), times=1)
    stage.publish([order(3)])
    runner = stage.deliver(MemoryConnector(target), make_config())
    assert len(stage.records(DLQ)) == 2
    assert runner.counters.dead_letters == {("deliver", "memory.refused"): 1}, "counted when delivered"
