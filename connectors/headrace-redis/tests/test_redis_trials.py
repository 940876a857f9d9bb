"""What is told of a Redis server before anything is written to it, and what is shown that would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.sdk import EgressBatch, Mode, TargetInvalid, TargetUnavailable, arrow_schema
from headrace.testing.redis import running_redis
from headrace.testing.server_process import free_ports
from headrace.testing.sink_harness import TOPIC, order, order_contract
from headrace_redis import RedisConnector

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("redis")]
PASSWORD = "correct horse battery staple"


def config(options: dict[str, Any], mode: Mode = Mode.UPSERT) -> EgressConfig:
    values = {"name": "out", "topic": TOPIC, "connector": "redis", "mode": mode, "options": options}
    return EgressConfig.model_validate(values)


@contextmanager
def server(**settings: str) -> Iterator[tuple[str, redis.Redis]]:
    """One of our own, with settings."""
    with running_redis(settings=settings) as found, redis.Redis.from_url(found.url) as client:
        yield found.url, client


def checked(given: EgressConfig) -> list[str]:
    found = RedisConnector()
    return list(found.check(connector_config(given, found), order_contract()))


def contents(client: redis.Redis) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.scan_iter()}


def test_a_check_tells_wrong_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the right nor the wrong password is told; with the right one all is well, and nothing was written."""
    with server(requirepass=PASSWORD) as (url, _):
        found = config({"url": url, "password": "${TEST_REDIS_PASSWORD}"})
        with pytest.raises(TargetInvalid, match="TEST_REDIS_PASSWORD is not set"):
            checked(found)
        monkeypatch.setenv("TEST_REDIS_PASSWORD", "wrong horse")
        with pytest.raises(TargetInvalid) as raised:
            checked(found)
        assert "horse" not in str(raised.value)
        monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
        assert checked(found) == []
        with redis.Redis.from_url(url, password=PASSWORD) as client:
            assert contents(client) == {}


@pytest.mark.parametrize(
    ("mode", "options", "run"),
    [
        (Mode.UPSERT, {}, {"unlink", "hset"}),
        (Mode.UPSERT, {"ttl_seconds": 9}, {"unlink", "hset", "expire"}),
        (Mode.UPSERT, {"version_field": "seen"}, {"unlink", "hset"}),
        (Mode.UPSERT, {"format": "json"}, {"unlink", "hset", "set", "get"}),
        (Mode.APPEND, {}, {"hset", "xadd"}),
    ],
)
def test_a_check_tells_each_missing_right(
    mode: Mode, options: dict[str, Any], run: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the commands that this mode and format run, and to no others; to the keys too. Positions are a hash always."""
    monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
    with server() as (url, client):
        found = config({"url": url, "username": "writer", "password": "${TEST_REDIS_PASSWORD}", **options}, mode)
        user = ["ACL", "SETUSER", "writer", "reset", "on", f">{PASSWORD}", "+@all"]
        for name in ("unlink", "hset", "expire", "set", "get", "xadd"):
            client.execute_command(*user, "~*", f"-{name}")
            told = f"{url}: the user may not run {name.upper()} here; give it that right"
            assert checked(found) == ([told] if name in run else [])
        rows = TOPIC if mode is Mode.APPEND else f"{TOPIC}:*"
        client.execute_command(*user, "~headrace:*", f"~{rows}")
        assert checked(found) == []
        client.execute_command(*user, "~headrace:*")
        if mode is Mode.APPEND:
            with pytest.raises(TargetInvalid, match="key"):
                checked(found)
        else:
            of_rows = run - {"hset"} if "format" in options else run | {"type", "hdel"}
            of_rows |= {"hget"} if "version_field" in options else set()
            assert {each.split()[6].lower() for each in checked(found)} == of_rows
        client.execute_command(*user, f"~{rows}")
        with pytest.raises(TargetInvalid, match="key"):
            checked(found)
        assert contents(client) == {}


@pytest.mark.parametrize("key", [TOPIC, f"headrace:positions:out:{TOPIC}:{TOPIC}"])
def test_a_check_tells_a_key_of_another_kind(key: str) -> None:
    """Where the stream or the positions should be is something else, and it stays."""
    with server() as (url, client):
        client.set(key, "mine")
        before = contents(client)
        with pytest.raises(TargetInvalid):
            checked(config({"url": url}, Mode.APPEND))
        assert contents(client) == before


def test_a_check_tells_a_server_that_takes_no_rows() -> None:
    """One that is away, a replica, and one that may remove positions; all but the first are left as they were."""
    (port,) = free_ports(1)
    with pytest.raises(TargetUnavailable, match=str(port)):
        checked(config({"url": f"redis://127.0.0.1:{port}"}))
    with server() as (url, client):
        client.execute_command("REPLICAOF", "127.0.0.1", port)
        (problem,) = checked(config({"url": url}))
        assert problem == f"{url}: a replica takes no rows; name the primary"
    settings = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with server(**settings) as (url, client):
        with pytest.raises(TargetInvalid, match="may remove positions"):
            checked(config({"url": url}, Mode.APPEND))
        assert checked(config({"url": url})) == []
        assert contents(client) == {}


def explained(given: EgressConfig, rows: list[dict[str, Any]], *, deletes: Sequence[int] = ()) -> list[str]:
    """Without a server."""
    found = RedisConnector()
    batch = EgressBatch(
        rows=pa.Table.from_pylist(rows, schema=arrow_schema(order_contract())),
        key=("id",),
        operation=np.isin(np.arange(len(rows)), deletes).astype(np.int8),
        partition=np.zeros(len(rows), np.int32),
        offset=np.arange(len(rows)),
        timestamp_ms=np.zeros(len(rows), np.int64),
        version=np.arange(len(rows)),
    )
    return list(found.explain(connector_config(given, found), order_contract(), batch))


def test_an_explanation_shows_the_commands() -> None:
    """As Redis would get them, values in quotes where they need some; without asking server or environment."""
    options = {"url": "redis://127.0.0.1:9", "password": "${TEST_REDIS_UNSET}", "ttl_seconds": 60}
    rows = [order(1), {**order(2), "customer": 'a "b"\x1b[31m\n' + "c" * 500}, {"id": 3}]
    moved = "HSET headrace:positions:out:orders:orders: 0 3"
    assert explained(config(options, Mode.REPLICATE), rows, deletes=[2]) == [
        "UNLINK orders:1",
        'HSET orders:1 id 1 customer "customer 1" amount 1',
        "EXPIRE orders:1 60",
        "UNLINK orders:2",
        'HSET orders:2 id 2 customer "a \\"b\\"\\x1b[31m\\n' + "c" * 89 + '... (511 in all)" amount 2',
        "EXPIRE orders:2 60",
        "UNLINK orders:3",
        moved,
    ]
    row = '"{\\"id\\":1,\\"customer\\":\\"customer 1\\",\\"amount\\":1}"'
    assert explained(config({**options, "format": "json"}), rows[:1])[0] == f"SET orders:1 {row} EX 60"
    stream = {"url": options["url"], "stream": "s", "stream_rows_max": 9}
    entry = 'XADD s MAXLEN ~ 9 * id 1 customer "customer 1" amount 1'
    assert explained(config(stream, Mode.APPEND), rows[:1])[0] == entry


def test_an_explanation_is_bounded_and_tells_refused_rows() -> None:
    """Five rows of many, and the reason of those that Redis would not get."""
    options = {"url": "redis://127.0.0.1:9", "value_bytes_max": 1_024}
    rows = [order(number) for number in range(100)] + [{**order(100), "customer": "c" * 2_000}]
    lines = explained(config(options), rows)
    assert [each for each in lines if each.startswith("--")] == [
        "-- and 95 more rows",
        "-- refused, redis.too_long: a key or value of 2,000 bytes; at most 1,024",
    ]
    assert sum(each.startswith("HSET orders:") for each in lines) == 5
