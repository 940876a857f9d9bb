"""What Redis holds after changes of a database: untold values, stale rows and truncations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.sdk import EgressBatch, Mode, Operation, PositionMoved, Refused, TargetInvalid, arrow_schema
from headrace.testing.sink_harness import TOPIC, Stage, header, order, order_contract
from headrace_redis import RedisConnector, connector, script

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("redis")]
BEYOND_53_BITS = 2**53 + 1
ODD = 'a "b" \\ {,}[]: \x01\n\\" é'


def contract() -> Contract:
    fields: list[dict[str, Any]] = [{"name": name, "type": ["null", "string"]} for name in ("key", "text", "more")]
    fields += [{"name": "number", "type": ["null", "long"]}]
    fields += [{"name": "list", "type": ["null", {"type": "array", "items": "string"}]}]
    return Contract(TOPIC, AvroSchema.parse({"type": "record", "name": "Row", "fields": fields}), key=("key",))


def config(target: Any, folder: Path, **options: Any) -> EgressConfig:
    values = {"name": "out", "topic": TOPIC, "connector": "redis", "mode": Mode.REPLICATE}
    return EgressConfig.model_validate(
        {**values, "options": {"url": target.url, "prefix": target.name(folder), **options}}
    )


def batch_of(
    rows: Sequence[Mapping[str, Any]],
    *,
    untold: Mapping[str, Sequence[bool]] | None = None,
    versions: Sequence[int] | None = None,
    operations: Sequence[Operation] | None = None,
    begin: int = 0,
) -> EgressBatch:
    offsets = np.arange(begin, begin + len(rows))
    return EgressBatch(
        rows=pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(contract())),
        key=("key",),
        operation=np.array(operations or [Operation.UPSERT] * len(rows), np.int8),
        partition=np.zeros(len(rows), np.int32),
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets if versions is None else np.array(versions, np.int64),
        unavailable={name: np.array(mask) for name, mask in (untold or {}).items()},
    )


def write(given: EgressConfig, *batches: EgressBatch) -> list[Refused]:
    """One flush; positions go on where Redis stands."""
    found, refused = RedisConnector(), []
    found.open(connector_config(given, found), contract(), [0])
    for batch in batches:
        refused += found.write(batch, {0: int(batch.offset.max()) + 1})
    found.flush()
    found.close()
    return refused


def held(target: Any, folder: Path, key: str = "k") -> dict[str, Any]:
    name = target.name(folder) + key
    if target.client.type(name) == b"string":
        found: dict[str, Any] = json.loads(target.client.get(name))
        return {each: value for each, value in found.items() if value is not None}
    return {each.decode(): text.decode() for each, text in target.client.hgetall(name).items()}


FULL = {"key": "k", "text": ODD, "more": "old", "number": 2**63 - 1, "list": ["[", '"', "}"]}


@pytest.mark.parametrize("form", ["hash", "json"])
@pytest.mark.parametrize("left", [("text",), ("number",), ("list",), ("text", "number", "list")])
def test_an_untold_value_is_what_it_was(tmp_path: Path, redis_target: Any, form: str, left: tuple[str, ...]) -> None:
    """To the last bit and escape, wherever it stands among the others; what is told as null is gone."""
    given = config(redis_target, tmp_path, format=form)
    write(given, batch_of([FULL]))
    before = held(redis_target, tmp_path)
    row = {**FULL, "more": None, "text": "new", "number": 1, "list": ["new"]} | dict.fromkeys(left)
    write(given, batch_of([row], untold={name: [True] for name in left}, begin=1))
    after = held(redis_target, tmp_path)
    told = {"text": "new", "number": 1, "list": ["new"]}
    if form == "hash":
        told = {"text": "new", "number": "1", "list": '["new"]'}
    assert after == {"key": "k", **{name: before[name] if name in left else told[name] for name in told}}
    raw = redis_target.client.get(redis_target.name(tmp_path) + "k") if form == "json" else b""
    assert "number" not in left or form == "hash" or b'"number":9223372036854775807' in raw


@pytest.mark.parametrize("form", ["hash", "json"])
@pytest.mark.parametrize(
    "foreign", [None, "{", '["text"]', '{"text":', '{"text":"y","more', "text", 7, b"\xff", ["a", "list"]]
)
def test_an_untold_value_of_no_row_is_null(tmp_path: Path, redis_target: Any, form: str, foreign: Any) -> None:
    """Where the key is not there, or what it holds is nothing that headrace wrote: that is replaced."""
    name = redis_target.name(tmp_path) + "k"
    if isinstance(foreign, list):
        redis_target.client.rpush(name, *foreign)
    elif foreign is not None:
        redis_target.client.set(name, foreign)
    given = config(redis_target, tmp_path, format=form, version_field="seen")
    assert write(given, batch_of([{"key": "k", "more": "x"}], untold={"text": [True]})) == []
    found = held(redis_target, tmp_path)
    assert {each: str(value) for each, value in found.items()} == {"key": "k", "more": "x", "seen": "0"}


@pytest.mark.parametrize("form", ["hash", "json"])
def test_an_untold_value_renews_its_row(tmp_path: Path, redis_target: Any, form: str) -> None:
    """A row that is written, if not wholly, lives anew."""
    given = config(redis_target, tmp_path, format=form, ttl_seconds=1_000)
    write(given, batch_of([FULL]))
    redis_target.client.expire(redis_target.name(tmp_path) + "k", 10)
    write(given, batch_of([{**FULL, "text": None}], untold={"text": [True]}, begin=1))
    assert redis_target.client.ttl(redis_target.name(tmp_path) + "k") > 900
    assert held(redis_target, tmp_path)["text"] == ODD


@pytest.mark.parametrize("form", ["hash", "json"])
def test_versions_are_whole_numbers_of_64_bits(tmp_path: Path, redis_target: Any, form: str) -> None:
    """Positions in the logs of databases: one less is older, one digit less too; equal counts."""
    given = config(redis_target, tmp_path, format=form, version_field="seen")
    write(given, batch_of([{"key": "k", "text": "first"}], versions=[BEYOND_53_BITS]))
    write(given, batch_of([{"key": "k", "text": "older"}], versions=[BEYOND_53_BITS - 1], begin=1))
    write(given, batch_of([{"key": "k", "text": "old"}], versions=[999], begin=2))
    gone = [Operation.DELETE]
    write(given, batch_of([{"key": "k"}], versions=[BEYOND_53_BITS - 1], operations=gone, begin=3))
    untold = {"text": [True]}
    write(given, batch_of([{"key": "k", "more": "x"}], versions=[BEYOND_53_BITS - 1], untold=untold, begin=4))
    found = held(redis_target, tmp_path)
    assert (found["text"], int(found["seen"])) == ("first", BEYOND_53_BITS)
    assert "more" not in found
    write(given, batch_of([{"key": "k", "more": "x"}], versions=[BEYOND_53_BITS], untold=untold, begin=5))
    found = held(redis_target, tmp_path)
    assert (found["text"], found["more"]) == ("first", "x")
    write(given, batch_of([{"key": "k"}], versions=[10 * BEYOND_53_BITS], operations=gone, begin=6))
    assert held(redis_target, tmp_path) == {} if form == "hash" else not redis_target.keys(tmp_path)


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"key": f"k{number}", "text": "x"} for number in range(count)]


def truncation(version: int, begin: int) -> EgressBatch:
    return batch_of([{}], operations=[Operation.TRUNCATE], versions=[version], begin=begin)


@pytest.mark.parametrize("form", ["hash", "json"])
def test_a_truncation_goes_step_by_step(
    tmp_path: Path, redis_target: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows that are older, none that is newer, and no key of another prefix, whatever a pattern would make of it.
    A row without a version is older. A process that dies between two steps begins anew."""
    monkeypatch.setattr(script, "EMPTIED_KEYS", 7)
    client, prefix = redis_target.client, redis_target.name(tmp_path) + "[ab]*?"
    given = config(redis_target, tmp_path, format=form, version_field="seen", prefix=prefix)
    neighbour = redis_target.name(tmp_path) + "axxmine"
    client.set(neighbour, "mine")
    write(given, batch_of(rows_of(200)))
    client.set(f"{prefix}no version", "x")
    steps, empty = [], connector.Client.empty

    def empty_some(self: Any, request: Any) -> Any:
        steps.append(request)
        if len(steps) == 3:
            raise SystemExit("the process dies")
        return empty(self, request)

    monkeypatch.setattr(connector.Client, "empty", empty_some)
    behind = batch_of([{"key": "new", "text": "x"}], versions=[160], begin=201)
    with pytest.raises(SystemExit):
        write(given, truncation(150, 200), behind)
    position = client.hget(f"headrace:positions:out:{TOPIC}:{prefix}", "0")
    assert position == b"200"
    assert not client.exists(f"{prefix}new")
    write(given, truncation(150, 200), behind)
    left = {key.decode().removeprefix(prefix) for key in client.scan_iter() if key.decode().startswith(prefix)}
    assert left == {f"k{number}" for number in range(150, 200)} | {"new"}
    assert client.get(neighbour) == b"mine"
    assert len(steps) > 10


def test_a_truncation_looks_at_positions_first(tmp_path: Path, redis_target: Any) -> None:
    """Another process delivers the partition: nothing is removed."""
    given = config(redis_target, tmp_path, version_field="seen")
    write(given, batch_of(rows_of(20)))
    found = RedisConnector()
    found.open(connector_config(given, found), contract(), [0])
    write(given, batch_of([{"key": "other", "text": "x"}], begin=20))
    found.write(truncation(50, 20), {0: 21})
    with pytest.raises(PositionMoved, match="partition 0 is at 21"):
        found.flush()
    found.close()
    assert len(redis_target.keys(tmp_path)) == 21


def test_a_truncation_without_versions_is_a_dead_letter(tmp_path: Path, redis_target: Any) -> None:
    """The rows beside it are written; the others stay."""
    stage = Stage(tmp_path, order_contract(TopicKind.CHANGE), partitions=1)
    stage.publish_changes([("c", None, order(1))], positions=[1])
    stage.publish_truncate(2)
    stage.publish_changes([("c", None, order(2))], positions=[3])
    given = config(redis_target, tmp_path).model_copy(update={"truncate": "apply"})
    stage.deliver(RedisConnector(), given)
    assert redis_target.keys(tmp_path) == {"1", "2"}
    (letter,) = stage.records(given.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "redis.truncate"
    stage.close()


def test_a_version_is_no_column(tmp_path: Path, redis_target: Any) -> None:
    """The contract has one of that name: the egress does not begin."""
    with pytest.raises(TargetInvalid, match="column 'text' of its own"):
        write(config(redis_target, tmp_path, version_field="text"), batch_of([FULL]))


@pytest.mark.parametrize("form", ["hash", "json"])
def test_an_explanation_tells_what_is_left(tmp_path: Path, redis_target: Any, form: str) -> None:
    """Fields that stay, versions that decide, and what a truncation removes."""
    given = config(redis_target, tmp_path, format=form, version_field="seen", prefix="p:")
    rows = [{"key": "a", "text": "x"}, {}, {"key": "b", "text": None, "more": None, "number": 4, "list": None}]
    operations = [Operation.UPSERT, Operation.TRUNCATE, Operation.UPSERT]
    batch = batch_of(rows, operations=operations, untold={"text": [False, False, True]})
    found = RedisConnector()
    lines = list(found.explain(connector_config(given, found), contract(), batch))
    written = ["HDEL p:b more list", "HSET p:b key b number 4 seen 2"]
    if form == "json":
        text = '"{\\"key\\":\\"b\\",\\"text\\":null,\\"more\\":null,\\"number\\":4,\\"list\\":null,\\"seen\\":2}"'
        written = [f"SET p:b {text}", '-- with the "text" that it has']
    positions = f"HSET headrace:positions:out:{TOPIC}:p: 0 3"
    assert lines == ["UNLINK p:* -- whose seen is below 1", "-- unless seen is above 2:", *written, positions]
