"""What records of Debezium's topics say: parts that no recording shows."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.debezium import times
from headrace.contracts.debezium.avro_values import read_avro
from headrace.contracts.debezium.change import Change, NotAChange, Operation, plain
from headrace.contracts.debezium.payloads import Payload, json_payload
from headrace.contracts.debezium.positions import position_of
from headrace.contracts.debezium.problems import NOT_CHANGES, Unreadable
from headrace.contracts.debezium.reading import ChangeReader, DebeziumRecord
from headrace.contracts.debezium.types import avro_type
from headrace.contracts.debezium.unavailable import UnavailableValues

SOURCE = {
    "connector": "postgresql",
    "name": "shop",
    "db": "d",
    "schema": "public",
    "table": "t",
    "sequence": '["5","7"]',
}


def read(value: Any, key: Any = None, topic: str = "s.public.t", **headers: Any) -> Change | NotAChange:
    return ChangeReader().read(DebeziumRecord(topic, json_payload(key), json_payload(value), headers))


# --- times


@given(st.dates())
def test_days_are_those_of_the_calendar(day: date) -> None:
    """Against Python's own calendar, both ways."""
    days = (day - date(1970, 1, 1)).days
    assert times.date_text(days) == day.isoformat()
    assert times.date_days(day.isoformat()) == days


@given(st.integers(-(2**31), 2**31 - 1))
def test_days_of_any_year_come_back(days: int) -> None:
    """Years before our era and beyond 9999, too."""
    year, month, day = times.date_text(days).rsplit("-", 2)
    assert times.days_of(int(year), int(month), int(day)) == days


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-14 * 60, 14 * 60))
def test_instants_in_any_zone_are_one_text(moment: datetime, minutes: int) -> None:
    """One moment written with another offset is the same value."""
    nanos = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    text = times.timestamp_text(nanos, "Z")
    local = times.timestamp_text(nanos + minutes * 60 * 10**9)
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    assert times.instant_nanos(text) == nanos
    assert times.instant_nanos(f"{local}{zone}") == nanos


@pytest.mark.parametrize("text", ["", "2024-02-30T00:00:00Z", "2024-13-01", "25:00:00", "2024-01-01T00:00:00", "x"])
def test_what_is_no_instant(text: str) -> None:
    """Days that are not there, hours beyond the day, times without a zone."""
    assert times.instant_nanos(text) is None
    assert times.date_days(text) is None


# --- positions


def place(total_order: int | None = None, **source: Any) -> Any:
    return position_of({"connector": "postgresql", "name": "shop", **source}, total_order)


def test_positions_of_postgresql() -> None:
    """Nothing before a number; the commit decides before the position, and the order in the transaction last."""
    ordered = [
        place(sequence='[null,"9"]'),
        place(sequence='[null,"10"]'),
        place(sequence='["10","30"]'),
        place(sequence='["40","20"]'),
        place(1, sequence='["40","20"]'),
        place(2, sequence='["40","20"]'),
        place(sequence='["100","101"]', lsn=None),
    ]
    for at, one in enumerate(ordered):
        assert [one.compare(other) for other in ordered] == [(at > n) - (at < n) for n in range(len(ordered))]
    assert place(sequence=None, lsn=5).compare(place(sequence=None, lsn=6)) == -1


def test_positions_of_mysql() -> None:
    """Numbers of files, not their texts; transaction ids first where one server gave them."""
    here = {"connector": "mysql", "pos": 4, "row": 0}
    files = [place(**{**here, "file": f"bin.{number}"}) for number in ("000009", "000010", "999999", "1000000")]
    assert [each.compare(files[1]) for each in files] == [1 * (n > 1) - (n < 1) for n in range(4)]
    assert place(**{**here, "file": "bin.000001", "row": 1}).compare(place(**{**here, "file": "bin.000001"})) == 1
    server = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
    old = place(**{**here, "file": "bin.000007", "gtid": f"{server}:9"})
    new = place(**{**here, "file": "bin.000001", "gtid": f"{server.upper()}:10"})
    assert old.compare(new) == -1, "a log that began anew"
    assert old.compare(place(**{**here, "file": "bin.000007", "gtid": f"{server[:-1]}3:9"})) is None
    first, second = (place(connector="mariadb", gtid=f"0-1-{number}", file="b.1", pos=1, row=0) for number in (9, 10))
    assert first.compare(second) == -1
    tagged = place(**{**here, "file": "bin.000001", "gtid": f"{server}:tag:11"})
    assert new.compare(tagged) == -1


def test_positions_of_others() -> None:
    """MongoDB by second and ordinal; SQL Server by commit, change and event; what cannot be compared is not."""
    one, other = (place(connector="mongodb", ts_ms=5000, ord=number) for number in (2, 10))
    assert one.compare(other) == -1
    lsns = [
        place(connector="sqlserver", commit_lsn=f"0000002a:{n}:0003", change_lsn="NULL", event_serial_no=1)
        for n in ("00000758", "0000075a")
    ]
    assert lsns[0].compare(lsns[1]) == -1
    assert place(connector="oracle", scn="9", commit_scn="12").compare(place(connector="oracle", scn="10")) == 1
    assert one.compare(lsns[0]) is None
    assert place(sequence='["1","2"]').compare(place(name="other", sequence='["1","2"]')) is None
    assert place(connector="vitess").compare(place(connector="vitess")) is None


# --- placeholders


@pytest.mark.parametrize("placeholder", ["__debezium_unavailable_value", "hex:00ff80f0f1f2f3f4", "nicht gesetzt, ü"])
def test_placeholders_in_every_form(placeholder: str) -> None:
    """Text, bytes, their texts in base64 and hexadecimal digits, arrays of text and of numbers, maps and their text."""
    known = UnavailableValues(placeholder)
    raw = bytes.fromhex(placeholder[4:]) if placeholder.startswith("hex:") else placeholder.encode()
    text = raw.decode(errors="replace")
    forms: list[Any] = [text, raw, base64.b64encode(raw).decode(), raw.hex(), [text], {text: text}]
    forms += [
        json.dumps({text: text}, separators=(",", ":"), ensure_ascii=False),
        [byte - 256 if byte > 127 else byte for byte in raw],
    ]
    assert all(form in known for form in forms)
    assert not any(form in known for form in ([], {}, "", b"", 5, None, [text, text], {text: 1}, text + " "))


def test_short_placeholders() -> None:
    """A text that merely looks like a short placeholder in other digits is data."""
    known = UnavailableValues("?")
    assert all(form in known for form in ("?", b"?", ["?"], [63], {"?": "?"}))
    assert not any(form in known for form in ("3f", "Pw==", "Pw"))


def test_arrays_of_ids_have_a_placeholder_too() -> None:
    """As recorded from Debezium 3.6."""
    assert ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"] in UnavailableValues()


def test_unchanged_columns_are_not_in_the_row() -> None:
    """They are named, so that whoever applies the change can leave them alone."""
    value = {"op": "u", "before": None, "after": {"id": 1, "a": "__debezium_unavailable_value"}, "source": SOURCE}
    change = read(value, {"id": 1})
    assert isinstance(change, Change)
    assert (change.after, change.unchanged) == ({"id": 1}, ("a",))


# --- null values


def test_a_null_value_means_what_its_topic_means() -> None:
    """A tombstone in a topic of envelopes, a deletion in one of rows, a tombstone again where deletions are rows."""
    rows = {
        "envelopes": {"op": "c", "before": None, "after": {"id": 1}, "source": SOURCE},
        "rows": {"id": 1, "__op": "c"},
        "rewritten": {"id": 1, "__deleted": "false"},
    }
    reader = ChangeReader()
    for topic, value in rows.items():
        assert isinstance(reader.read(DebeziumRecord(topic, json_payload({"id": 1}), json_payload(value))), Change)
    found = {topic: reader.read(DebeziumRecord(topic, json_payload({"id": 1}))) for topic in [*rows, "unknown"]}
    kinds = {topic: each.operation if isinstance(each, Change) else each.code for topic, each in found.items()}
    assert kinds == {
        "envelopes": "cdc.tombstone",
        "rows": Operation.DELETE,
        "rewritten": "cdc.tombstone",
        "unknown": "cdc.tombstone",
    }
    told = read(None, {"id": 1}, __op="d")
    assert isinstance(told, Change)
    assert (told.operation, told.key) == (Operation.DELETE, {"id": 1})


# --- any input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PARTS = ["op", "before", "after", "source", "transaction", "ts_ms", "message", "updateDescription", "schema", "payload"]
BLOCKS = st.dictionaries(st.sampled_from(PARTS), JSON | st.sampled_from(["c", "u", "d", "t", "m", SOURCE, {"id": 1}]))


@settings(max_examples=300, deadline=None)
@given(BLOCKS | JSON, JSON, st.dictionaries(st.sampled_from(["__op", "__debezium.newkey", "x"]), JSON))
def test_any_record_is_a_change_or_says_why_not(value: Any, key: Any, headers: dict[str, Any]) -> None:
    """Nothing raises, and whatever comes can be written as JSON."""
    record = DebeziumRecord("a.b.c", Payload(key), Payload(value), headers)
    found = ChangeReader().read(record)
    if isinstance(found, NotAChange):
        assert found.is_broken == (found.code not in NOT_CHANGES)
    else:
        json.dumps(plain([found.key, found.before, found.after]), allow_nan=False)


TYPES: Any = [
    "int32",
    "int64",
    "string",
    "bytes",
    "double",
    "boolean",
]
NAMES = [
    "io.debezium.time.Date",
    "io.debezium.time.MicroTime",
    "io.debezium.time.MicroTimestamp",
    "io.debezium.time.ZonedTimestamp",
    "io.debezium.data.Bits",
    "io.debezium.data.EnumSet",
    "io.debezium.data.Uuid",
    "io.debezium.data.VariableScaleDecimal",
    "org.apache.kafka.connect.data.Decimal",
]
ANY_TYPE = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES)},
        optional={"name": st.sampled_from(NAMES), "optional": st.booleans(), "parameters": st.just({"scale": "2"})},
    ),
    lambda inner: st.builds(
        lambda item, name: {"type": "array", "items": item, "name": name}, inner, st.sampled_from(NAMES)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(ANY_TYPE, JSON)
def test_any_schema_with_any_payload(of: dict[str, Any], value: Any) -> None:
    """A schema may lie about its payload, and give any name to any type."""
    after = {"type": "struct", "field": "after", "fields": [{**of, "field": "x"}]}
    rest = [
        {"type": "string", "field": "op"},
        {"type": "struct", "field": "source", "fields": [{"type": "string", "field": name} for name in SOURCE]},
    ]
    schema = {"type": "struct", "name": "t.Envelope", "fields": [after, *rest]}
    wrapped = {"schema": schema, "payload": {"after": {"x": value}, "op": "c", "source": SOURCE}}
    try:
        payload = json_payload(wrapped)
    except Unreadable:
        return
    found = ChangeReader().read(DebeziumRecord("t", json_payload({"id": 1}), payload))
    assert isinstance(found, Change) or found.is_broken


# --- Avro

AVRO = {
    "type": "record",
    "name": "R",
    "namespace": "n",
    "fields": [
        {"name": "i", "type": "int"},
        {"name": "l", "type": ["null", "long"]},
        {"name": "t", "type": ["string", "null"]},
        {"name": "b", "type": {"type": "array", "items": "bytes"}},
        {"name": "m", "type": {"type": "map", "values": "double"}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "f", "type": {"type": "fixed", "name": "F", "size": 3}},
        {"name": "o", "type": ["null", "E"]},
        {"name": "inner", "type": ["null", "R"]},
        {"name": "flag", "type": "boolean"},
        {"name": "x", "type": "float"},
    ],
}


def avro_row(depth: int = 0) -> dict[str, Any]:
    return {
        "i": -5,
        "l": 2**40,
        "t": "ü",
        "b": [b"", b"\x00\xff"],
        "m": {"k": 1.5},
        "e": "B",
        "f": b"abc",
        "o": "A",
        "inner": avro_row(depth + 1) if depth < 2 else None,
        "flag": True,
        "x": 0.5,
    }


def test_avro_against_fastavro() -> None:
    """Every type, types by name, and a type that holds itself."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(AVRO, named_schemas={}), avro_row())
    assert read_avro(out.getvalue(), avro_type(AVRO)) == avro_row()


def test_broken_avro_is_refused() -> None:
    """Cut anywhere, with any byte changed: a value or a reason, and never more work than the bytes are worth."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(AVRO, named_schemas={}), avro_row())
    data, writer = out.getvalue(), avro_type(AVRO)
    for cut in range(len(data)):
        with pytest.raises(Unreadable):
            read_avro(data[:cut], writer)
    dice = random.Random(5)
    for _ in range(500):
        changed = bytearray(data)
        changed[dice.randrange(len(data))] = dice.randrange(256)
        with contextlib.suppress(Unreadable):
            read_avro(bytes(changed), writer)
    with pytest.raises(Unreadable, match="too many items"):
        read_avro(b"\xfe\xff\xff\xff\xff\x0f", avro_type({"type": "array", "items": "null"}))
