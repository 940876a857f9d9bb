"""Debezium's values as columns of a contract."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Decoded
from headrace.contracts.contract import Contract, ValueFormat
from headrace.contracts.contract_errors import ContractInvalid
from headrace.contracts.debezium.avro_values import PREFIX_BYTES
from headrace.contracts.debezium.change import Change
from headrace.contracts.debezium.json_values import parse_json
from headrace.contracts.debezium.payloads import NOTHING, avro_payload, json_payload
from headrace.contracts.debezium.reading import ChangeReader, DebeziumRecord
from headrace.contracts.debezium.types import writer_type
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import open_key_codec
from headrace.contracts.polars_types import to_frame
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.contracts.topic_codec import open_topic_codec
from headrace.flow.compile import compile_pipeline
from headrace.log.columns import outgoing
from headrace.log.embedded import EmbeddedLog
from headrace.testing import Driver
from headrace.workspace.plan_schemas import subjects_of
from tests.cdc.recorded import TYPES, binary, contract, records, registry
from tests.engine.harness import Harness

CUSTOMERS = "\n  id: int\n  name: string\n  visits: int\n  email: string?\n"
FORMATS = {"postgresql-json-schema": "debezium-json", "postgresql-avro": "debezium-avro"}
SET_OF_NAMES = '"name":"name","type":{"type":"string","connect.name":"io.debezium.data.EnumSet"}'
BY_COLUMNS = (
    "\n".join(line for line in TYPES.splitlines() if not re.match(r"  (nn|tstz|bit12|md|pt|ttz|t):", line)) + "\n"
)
"""Columns whose types have a word in Avro."""


def decoded(name: str, topic: str, fields: str) -> tuple[Contract, Decoded]:
    made = contract(topic, FORMATS.get(name, "debezium-json"), fields)
    return made, open_topic_codec(made, registry(name)).decode(binary(records(name, topic)[1]))


def after(name: str, topic: str, fields: str) -> pl.DataFrame:
    made, found = decoded(name, topic, fields)
    frame = to_frame(found.table, made.value_schema)
    return pl.concat(
        [pl.DataFrame({"row": found.rows, "op": frame["op"]}), frame["after"].struct.unnest()], how="horizontal"
    )


@pytest.mark.parametrize("fields", [TYPES, BY_COLUMNS], ids=["by record", "by columns"])
def test_json_and_avro_become_the_same_columns(fields: str) -> None:
    """Every type of PostgreSQL, null, infinite and before our era, from JSON and from Avro, read by records and by
    columns. Midnight as 24:00 is no time of day, in either."""
    topic = "shop.public.types"
    one, other = (after(name, topic, fields) for name in FORMATS)
    assert one.schema == other.schema
    assert one.equals(other)
    for name in FORMATS:
        _, found = decoded(name, topic, fields)
        assert [(each.row, each.code) for each in found.failed] == [(2, "decode.invalid")]


def test_one_batch_by_columns_and_by_record() -> None:
    """Two versions of a table in one batch, one of them with a type that Avro has no word for, and bad rows between:
    every row comes at its place."""
    topic, name = "shop.public.customers", "postgresql-avro"
    made, schemas = contract(topic, "debezium-avro", CUSTOMERS), registry(name)
    values = [value for value in records(name, topic)[1] if value is not None]
    number = int.from_bytes(values[0][1:5], "big")
    text = schemas.by_id(number).text.replace('"name":"name","type":"string"', SET_OF_NAMES)
    assert SET_OF_NAMES in text
    other = schemas.register("other", AvroSchema.parse(text)).id.to_bytes(4, "big")
    batch = [each for value in values for each in (value, b"\0" + other + value[5:], None, b"\0\0\0\0\x63", value[:-9])]
    found = open_topic_codec(made, schemas).decode(binary(batch))
    assert found.rows.tolist() == [5 * at + n for at in range(len(values)) for n in (0, 1)]
    assert {each.code for each in found.failed} == {"decode.unknown_schema_id", "decode.truncated"}
    frame = to_frame(found.table, made.value_schema)
    assert frame[::2].select("op", "before", "after").equals(frame[1::2].select("op", "before", "after"))


def test_types_become_what_the_contract_says() -> None:
    """Values of a recorded row, one by one."""
    row = after("postgresql-json-schema", "shop.public.types", TYPES).row(0, named=True)
    texts = {name: str(row[name]) for name in ("n", "nn", "m", "d", "tm", "tm3", "ts", "ts3", "tstz", "na", "bit12")}
    assert texts == {
        "n": "12345.678",
        "nn": "1234567.0001000000",
        "m": "12.34",
        "d": "2024-02-29",
        "tm": "23:59:59.123456",
        "tm3": "01:02:03.004000",
        "ts": "2024-02-29 12:34:56.789012",
        "ts3": "2024-02-29 12:34:56.789000+00:00",
        "tstz": "2024-02-29 10:34:56.789012+00:00",
        "na": "[Decimal('1.50'), Decimal('2.25')]",
        "bit12": "101000000001",
    }
    assert (row["by"], row["md"], row["ia"], row["pt"]["x"]) == (b"\x00\xff\x10", "happy", [1, None, 3], 1.5)


@pytest.mark.parametrize("name", ["postgresql-json", "postgresql-avro"])
def test_rows_without_a_schema_equal_those_with(name: str) -> None:
    """Where no type needs a schema, bare JSON gives the same rows, operations included."""
    topic = "shop.public.customers"
    assert after(name, topic, CUSTOMERS).equals(after("postgresql-json-schema", topic, CUSTOMERS))


@pytest.mark.parametrize("name", ["unwrapped-rewrite", "unwrapped-rewrite-with-tombstone", "unwrapped-tombstone"])
def test_unwrapped_rows_are_read(name: str) -> None:
    """The rows of the unwrapped topic are those of the envelopes; a deletion has none."""
    topic = "shop.public.customers"
    rows, plain = after(name, topic, CUSTOMERS), after("postgresql-json-schema", topic, CUSTOMERS)
    written = pl.col("op") != "d"
    names = ["id", "name", "visits", "email"]
    assert rows.filter(written).select(names).equals(plain.filter(written).select(names))
    gone = rows.filter(~written)
    assert gone.height == (0 if name == "unwrapped-tombstone" else plain.filter(~written).height)


def test_keys_of_json_and_avro() -> None:
    """Keys of two columns, with a schema, without one and in Avro."""
    fields = "\n  order_id: long\n  line: int\n  sku: string?\n"
    found = []
    for name in (*FORMATS, "postgresql-json"):
        made = contract("shop.public.lines", FORMATS.get(name, "debezium-json"), fields, "[order_id, line]")
        keys = open_key_codec(made, registry(name)).decode(binary(records(name, "shop.public.lines")[0]))
        assert keys.failed == []
        found.append(keys.table.to_pylist())
    assert found[0] == found[1] == found[2]
    assert {"order_id": 10, "line": 5} in found[0]


def test_a_key_may_stand_alone() -> None:
    """A transformation that takes the field out of the key leaves a bare value; what is no key is told."""
    codec = open_key_codec(contract("t", "debezium-json", CUSTOMERS), MemoryRegistry())
    found = codec.decode(binary([b"5", b'{"id": 6}', None, b'{"id": "x"}', b"{", b"[1]"]))
    assert found.table.to_pylist() == [{"id": 5}, {"id": 6}]
    assert [(each.row, each.code) for each in found.failed] == [
        (3, "decode.invalid"),
        (4, "decode.invalid_json"),
        (5, "decode.invalid"),
    ]


SOURCE = {"version": "3", "connector": "postgresql", "name": "shop", "ts_ms": 5, "db": "shop", "table": "t"}


def change(op: Any = "c", **after: Any) -> dict[str, Any]:
    return {"before": None, "after": after or None, "source": SOURCE, "op": op, "ts_ms": 6}


def one(value: Any, fields: str = "\n  id: int\n  v: decimal(5,2)?\n") -> Decoded:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return open_topic_codec(contract("t", "debezium-json", fields), MemoryRegistry()).decode(binary([raw]))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"{", "decode.invalid_json"),
        (b"\xff", "decode.invalid_json"),
        (b"[" * 100_000, "decode.invalid_json"),
        (b'{"schema":{"type":"struct","fields":[]},"payload":', "decode.invalid_json"),
        (b'{"schema":{"type":"tuple"},"payload":{}}', "decode.unreadable_change"),
        (b"5", "decode.not_a_change"),
        ({"ts_ms": 5, "status": "BEGIN", "id": "1"}, "decode.not_a_change"),
        (change(None, id=1), "decode.unreadable_change"),
        (change(id="1"), "decode.invalid"),
        (change(id=None), "decode.invalid"),
        (change(v="1"), "decode.invalid"),
        (change(id=2**31), "decode.invalid"),
        (change(id=1, v="1000.00"), "decode.invalid"),
        (change(id=1, v="1.001"), "decode.invalid"),
        (change(id=1, v="BNI="), "decode.invalid"),
        (change(id=1, v=True), "decode.invalid"),
    ],
)
def test_what_does_not_fit_is_a_failed_row(value: Any, code: str) -> None:
    """Each has its code, and no value is shown."""
    found = one(value)
    assert [(each.row, each.code) for each in found.failed] == [(0, code)]
    assert found.table.num_rows == 0
    assert "1000" not in found.failed[0].message


def test_a_row_before_that_does_not_fit_is_left_out() -> None:
    """PostgreSQL fills the row before a deletion with what it does not know: the deletion counts all the same."""
    found = one({**change("d"), "before": {"id": "?"}})
    assert found.failed == []
    assert found.table.select(["op", "before", "after"]).to_pylist() == [{"op": "d", "before": None, "after": None}]


def test_new_columns_and_missing_ones() -> None:
    """A column that the contract does not have is passed over; one that the record lacks takes its default or null."""
    found = one(change(id=1, more="x"), '\n  id: int\n  v: decimal(5,2)?\n  kind: {type: string, default: "a"}\n')
    assert found.table.column("after").to_pylist() == [{"id": 1, "v": None, "kind": "a"}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(JSON)
def test_any_value_in_any_column_is_read_or_refused(value: Any) -> None:
    """Nothing that JSON can say raises, and a good row beside it comes."""
    fields = (
        "\n  id: int\n  a: string?\n  b: bytes?\n  c: double?\n  d: date?\n  e: timestamp-millis?\n"
        '  f: time-millis?\n  g: decimal(5,2)?\n  h: uuid?\n  i: {type: "array?", items: long}\n'
        "  j: map<string>?\n  k: boolean?\n"
    )
    codec = open_topic_codec(contract("t", "debezium-json", fields), MemoryRegistry())
    good = json.dumps(change(id=1)).encode()
    for column in "abcdefghijk":
        found = codec.decode(binary([json.dumps(change(id=2, **{column: value})).encode(), good]))
        assert found.table.num_rows + len(found.failed) == 2
        assert 1 in found.rows.tolist()


# --- contracts


@pytest.mark.parametrize("written", ["debezium-json", "debezium-avro", "debezium_avro"])
def test_a_contract_says_who_writes_its_topic(written: str) -> None:
    """Nothing of such a topic is registered: its schemas are the connector's."""
    made = contract("t", written, CUSTOMERS)
    assert made.format is ValueFormat(written.replace("-", "_"))
    assert list(subjects_of(made)) == []
    encoded = open_topic_codec(made, MemoryRegistry()).encode(one(change(id=1)).table)
    assert [each.code for each in encoded.failed] == ["encode.read_only"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: table\nkey: id\nformat: debezium-json", "of kind change"),
        ("kind: change\nkey: id\nformat: debezium-xml", "did you mean"),
        ("kind: change\nkey: id\nkey_encoding: string\nformat: debezium-json", "no 'key_encoding'"),
    ],
)
def test_contracts_that_cannot_be(text: str, problem: str) -> None:
    """Mistakes are told by their line."""
    from headrace.contracts.load import contract_of

    with pytest.raises(ContractInvalid, match=problem):
        contract_of(f"topic: t\n{text}\nfields:\n  id: string\n", "c.yaml")


# --- one model


def native_change(made: Contract, envelope: pa.Table) -> Change:
    """What an envelope of headrace's own is to a reader of changes."""
    encoded = open_codec(made.value_schema, MemoryRegistry(), "t-value").encode(envelope)
    assert encoded.failed == []
    (value,) = encoded.values.to_pylist()
    payload = avro_payload(value[PREFIX_BYTES:], writer_type(made.value_schema))
    change = ChangeReader().read(DebeziumRecord("t", NOTHING, payload))
    assert isinstance(change, Change)
    return change


def test_native_capture_and_debezium_come_to_one_model() -> None:
    """Rows of every type, once as Debezium wrote them and once in headrace's own envelopes: the changes are equal,
    where they stand in the source too."""
    topic = "shop.public.types"
    made, found = decoded("postgresql-json-schema", topic, TYPES)
    values = [value for value in records("postgresql-json-schema", topic)[1] if value is not None]
    reader = ChangeReader()
    compared = 0
    for at, row in enumerate(found.rows.tolist()):
        theirs = reader.read(DebeziumRecord(topic, NOTHING, json_payload(parse_json(values[row]))))
        assert isinstance(theirs, Change)
        ours = native_change(made, found.table.slice(at, 1))
        names = [field.name for field in made.schema.fields if field.name != "ts3"]  # An instant, the contract says.
        for side in ("before", "after"):
            one, other = getattr(ours, side), getattr(theirs, side)
            assert (one is None) == (other is None)
            if one is not None:
                assert {name: one[name] for name in names} == {name: other[name] for name in names}
                compared += 1
        parts = ("operation", "table", "snapshot", "time_ms")
        assert [getattr(ours, part) for part in parts] == [getattr(theirs, part) for part in parts]
        assert ours.position.compare(theirs.position) == 0
        assert ours.transaction == theirs.transaction or theirs.transaction is None
    assert compared >= 5


# --- MongoDB


def test_documents_are_rows() -> None:
    """A document's fields become columns; its id is the key, as its digits; values follow the columns."""
    fields = "\n  _id: string\n  n: long?\n  price: decimal(10,2)?\n  seen: timestamp-millis?\n  tags: array<string>?\n"
    made = contract("s.d.c", "debezium-json", fields, "_id")
    oid = {"$oid": "596e275826f08b2730779e1f"}
    document = {
        "_id": oid,
        "n": {"$numberLong": "5"},
        "price": {"$numberDecimal": "1.5"},
        "seen": {"$date": 7},
        "tags": ["a"],
    }
    source = {
        "connector": "mongodb",
        "name": "s",
        "db": "d",
        "collection": "c",
        "ts_ms": 5000,
        "ord": 1,
        "version": "3",
    }
    value = {"op": "c", "before": None, "after": json.dumps(document), "source": source, "ts_ms": 1}
    found = open_topic_codec(made, MemoryRegistry()).decode(binary([json.dumps(value).encode()]))
    assert found.failed == []
    (row,) = to_frame(found.table, made.value_schema)["after"].to_list()
    assert (row["_id"], row["n"], str(row["price"]), row["tags"]) == (oid["$oid"], 5, "1.50", ["a"])
    assert row["seen"].timestamp() == 0.007
    keys = open_key_codec(made, MemoryRegistry()).decode(binary([json.dumps({"id": json.dumps(oid)}).encode()]))
    assert keys.table.to_pylist() == [{"_id": oid["$oid"]}]


# --- pipelines


def test_a_test_publishes_rows_to_it() -> None:
    """Under test the topic of Debezium's is one like any other: rows and deletions, no envelopes to write by hand."""
    made = contract("customers", "debezium-json", CUSTOMERS)

    @hr.pipeline(owner="test", name="p")
    def people() -> Any:
        return hr.table("customers").select("id", "name").to("people")

    with Driver(people, contracts=[made]) as driver:
        driver.publish("customers", [{"id": 1, "name": "Ann", "visits": 1}, {"id": 2, "name": "Bob", "visits": 2}])
        driver.delete("customers", {"id": 1})
        assert list(driver.table("people").values()) == [{"id": 2, "name": "Bob"}]


@pytest.mark.parametrize("name", ["postgresql-json-schema", "postgresql-json", "postgresql-avro", "unwrapped-rewrite"])
def test_a_pipeline_on_a_topic_of_debezium(name: str, tmp_path: Path) -> None:
    """Recorded changes of a table are read as that table: updates replace, deletions and changed keys take away."""
    topic = "shop.public.customers"
    made = contract(topic, FORMATS.get(name, "debezium-json"), CUSTOMERS)

    @hr.pipeline(owner="test", name="p")
    def people() -> Any:
        return hr.table(topic).select("id", "name", "visits").to("people")

    log, schemas = EmbeddedLog(tmp_path / "log.db"), registry(name)
    run = Harness(log, schemas, [made], compile_pipeline(people, {topic: made}), partitions=2)
    keys, values = records(name, topic)
    run.produce(outgoing(topic, values, keys=keys, timestamps_ms=[1_700_000_000_000] * len(values)))
    run.run_until_caught_up()
    rows: dict[int, Any] = {}
    for row in run.rows("people"):
        rows[row["id"]] = row
    left = {number: (row["name"], row["visits"]) for number, row in rows.items() if row["name"] is not None}
    assert left == {20: ("Bob", 2), 3: ('Quote " \\ Ünïcode 🦆', 0)}
    assert not [each for each in log.admin().topics() if each.endswith(".dlq") and run.records(each)]
