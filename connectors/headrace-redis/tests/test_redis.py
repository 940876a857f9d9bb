"""What Redis holds, what it refuses, and what happens when it is away, full, slow, emptied or not what it should be."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import EgressBatch, Mode, Refused, TargetInvalid, arrow_schema
from headrace.testing.redis import REDIS, running_redis
from headrace.testing.server_process import free_ports
from headrace.testing.sink_harness import TOPIC, Stage, header, order, order_contract, wait_until
from headrace_redis import RedisConnector, connector

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("redis")]
PASSWORD = "correct horse battery staple"


def config(options: dict[str, Any], mode: Mode = Mode.UPSERT, **more: Any) -> EgressConfig:
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "redis",
        "mode": mode,
        "options": options,
        "batch": {"rows_max": 50, "age_max_ms": 20},
        "retry": {"first_ms": 10, "max_ms": 50},
        **more,
    }
    return EgressConfig.model_validate(values)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@contextmanager
def server(**settings: str) -> Iterator[tuple[str, redis.Redis]]:
    """One of our own, with settings."""
    with running_redis(settings=settings) as found, redis.Redis.from_url(found.url) as client:
        yield found.url, client


@contextmanager
def open_folder() -> Iterator[Path]:
    """That every user may enter, unlike those of pytest: the server of a root has another one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def ids(client: redis.Redis) -> list[int]:
    """Of the hashes of orders."""
    return sorted(int(client.hget(key, "id") or -1) for key in client.scan_iter(match="orders:*", count=10_000))


def stream_ids(client: redis.Redis) -> list[int]:
    return sorted(int(fields[b"id"]) for _, fields in client.xrange(TOPIC))


def pairs() -> Contract:
    """Rows with two columns in their key."""
    fields = [{"name": name, "type": ["null", "string"], "default": None} for name in ("a", "b", "note")]
    return Contract(TOPIC, AvroSchema.parse({"type": "record", "name": "Pair", "fields": fields}), key=("a", "b"))


def deliver_pairs(folder: Path, target: Any, rows: list[dict[str, Any]], **options: Any) -> tuple[Stage, EgressConfig]:
    stage = Stage(folder, pairs())
    stage.publish(rows)
    found = config({"url": target.url, "prefix": target.name(folder), **options})
    stage.deliver(RedisConnector(), found)
    return stage, found


def write_pairs(folder: Path, target: Any, rows: list[dict[str, Any]]) -> Sequence[Refused]:
    """Without a topic, in which no key is null."""
    found, given = RedisConnector(), config({"url": target.url, "prefix": target.name(folder)})
    found.open(connector_config(given, found), pairs(), [0])
    batch = EgressBatch(
        rows=pa.Table.from_pylist(rows, schema=arrow_schema(pairs())),
        key=("a", "b"),
        operation=np.zeros(len(rows), np.int8),
        partition=np.zeros(len(rows), np.int32),
        offset=np.arange(len(rows)),
        timestamp_ms=np.zeros(len(rows), np.int64),
        version=np.arange(len(rows)),
    )
    refused = found.write(batch, {0: len(rows)})
    found.flush()
    found.close()
    return refused


def test_different_keys_never_meet(tmp_path: Path, redis_target: Any) -> None:
    """Columns of a key are joined so that separators, backslashes and nulls inside them change nothing."""
    keys = [("a:b", "c"), ("a", "b:c"), ("a\\", "c"), ("a\\:c", ""), ("N", None), ("\\N", None), ("", "\\N"), ("", "")]
    assert write_pairs(tmp_path, redis_target, [{"a": a, "b": b, "note": "x"} for a, b in keys]) == []
    assert redis_target.keys(tmp_path) == {
        "a\\:b:c",
        "a:b\\:c",
        "a\\\\:c",
        "a\\\\\\:c:",
        "N:\\N",
        "\\\\N:\\N",
        ":\\\\N",
        ":",
    }


def test_a_column_that_becomes_null_is_gone(tmp_path: Path, redis_target: Any) -> None:
    """A hash has no field for null, nor the field of the row before."""
    stage, found = deliver_pairs(tmp_path, redis_target, [{"a": "x", "b": "y", "note": "old"}])
    key = redis_target.name(tmp_path) + "x:y"
    assert redis_target.client.hgetall(key) == {b"a": b"x", b"b": b"y", b"note": b"old"}
    stage.publish([{"a": "x", "b": "y", "note": None}])
    stage.deliver(RedisConnector(), found)
    assert redis_target.client.hgetall(key) == {b"a": b"x", b"b": b"y"}
    stage.close()


def test_a_row_of_nulls_is_refused(tmp_path: Path, redis_target: Any) -> None:
    """There is no empty hash; the row beside it is written."""
    rows = [{"a": None, "b": None, "note": None}, {"a": "x", "b": "y", "note": None}]
    (refused,) = write_pairs(tmp_path, redis_target, rows)
    assert (refused.row, refused.code) == (0, "redis.empty_row")
    assert redis_target.keys(tmp_path) == {"x:y"}


@pytest.mark.parametrize("form", ["hash", "json"])
def test_a_value_too_long_stays_alone(tmp_path: Path, redis_target: Any, form: str) -> None:
    """It is a dead letter with its size; the same key's row before it, and all others, are there."""
    rows = [{"a": "x", "b": "y", "note": "good"}, {"a": "x", "b": "y", "note": "l" * 2_000}, {"a": "z", "b": "y"}]
    stage, found = deliver_pairs(tmp_path, redis_target, rows, value_bytes_max=1_024, format=form)
    assert redis_target.keys(tmp_path) == {"x:y", "z:y"}
    read = redis_target.table(tmp_path, stage.contract).to_pylist()
    assert {row["a"]: row["note"] for row in read} == {"x": "good", "z": None}
    (dead,) = stage.records(found.dead_letter_topic)
    assert header(dead, "headrace.error.code") == "redis.too_long"
    stage.close()


@pytest.mark.parametrize("form", ["hash", "json"])
def test_rows_go_after_their_time(stage: Stage, tmp_path: Path, redis_target: Any, form: str) -> None:
    """Each write begins the time anew; positions have none."""
    prefix, client = redis_target.name(tmp_path), redis_target.client
    found = config({"url": redis_target.url, "prefix": prefix, "ttl_seconds": 1_000, "format": form})
    stage.publish([order(1)])
    stage.deliver(RedisConnector(), found)
    client.expire(f"{prefix}1", 10)
    stage.publish([order(1, amount=2.0)])
    stage.deliver(RedisConnector(), found)
    assert 900 < client.ttl(f"{prefix}1") <= 1_000
    assert client.ttl(f"headrace:positions:out:{TOPIC}:{prefix}") == -1


def test_a_stream_keeps_about_so_many(stage: Stage, tmp_path: Path, redis_target: Any) -> None:
    """`stream_rows_max`: Redis removes whole nodes of some hundred entries."""
    name = redis_target.name(tmp_path)
    stage.publish([order(number) for number in range(1_000)])
    found = config({"url": redis_target.url, "stream": name, "stream_rows_max": 100}, Mode.APPEND)
    stage.deliver(RedisConnector(), found)
    assert 100 <= redis_target.client.xlen(name) < 400


def test_a_flush_of_many_rows_is_several_scripts(
    stage: Stage, tmp_path: Path, redis_target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its positions: a process that dies between two of them repeats no row and leaves none out."""
    monkeypatch.setattr(connector, "SCRIPT_ROWS_MAX", 7)
    name, sent = redis_target.name(tmp_path), []
    run = connector.Client.run

    def run_some(self: Any, request: Any) -> Any:
        sent.append(request)
        if len(sent) == 4:
            raise SystemExit("the process dies")
        return run(self, request)

    stage.publish([order(number) for number in range(100)])
    found = config({"url": redis_target.url, "stream": name}, Mode.APPEND, batch={"rows_max": 1_000, "age_max_ms": 200})
    monkeypatch.setattr(connector.Client, "run", run_some)
    with pytest.raises(SystemExit):
        stage.deliver(RedisConnector(), found)
    assert 0 < redis_target.client.xlen(name) <= 21
    stage.deliver(RedisConnector(), found)
    assert len(sent) > 14
    rows = redis_target.table(tmp_path, stage.contract).column("id").to_pylist()
    assert sorted(rows) == list(range(100))


def test_a_server_that_was_away_gets_everything(stage: Stage) -> None:
    """Stopped for a while and started again empty: it says so meanwhile, and then holds all rows once, old ones too."""
    with open_folder() as folder, running_redis(folder / "redis") as first:
        home, port = folder / "redis", first.url.rpartition(":")[2]
        stage.publish([order(number) for number in range(100)])
        runner = stage.runner(RedisConnector(), config({"url": first.url}, Mode.APPEND))
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "delivered")
            REDIS.stop(home)
            stage.publish([order(number) for number in range(100, 150)])
            wait_until(lambda: runner.status().state == "retrying" and runner.counters.retries > 3, "retrying")
            error = runner.status().error
            assert error is not None
            assert error.code == "egress.target_unavailable"
            REDIS.start(home, temporary=False, settings={"port": port})
            wait_until(lambda: stage.is_delivered(runner), "delivered again")
        with redis.Redis.from_url(first.url) as client:
            assert stream_ids(client) == list(range(150))


def test_a_server_that_is_killed_repeats_nothing(stage: Stage) -> None:
    """kill -9 of Redis between and in flushes, with its log on: entries and positions come back together."""
    settings = {"appendonly": "yes", "appendfsync": "always"}
    with open_folder() as folder:
        home = folder / "redis"
        url = REDIS.start(home, owner_pid=os.getpid(), settings=settings).url
        settings["port"] = url.rpartition(":")[2]
        stage.publish([order(number) for number in range(600)])
        found = config({"url": url}, Mode.APPEND, batch={"rows_max": 10, "age_max_ms": 5})
        runner = stage.runner(RedisConnector(), found)
        with stage.running(runner), redis.Redis.from_url(url) as client:
            for rows in (100, 300):
                wait_until(lambda rows=rows: client.xlen(TOPIC) >= rows, "some rows")
                REDIS.stop(home, hard=True)
                REDIS.start(home, owner_pid=os.getpid(), settings=settings)
            wait_until(lambda: stage.is_delivered(runner), "delivered")
            assert runner.counters.retries >= 2
            assert stream_ids(client) == list(range(600))
        REDIS.stop(home)


def test_a_server_emptied_behind_our_back_is_noticed(stage: Stage) -> None:
    """FLUSHALL while the egress runs: the next flush finds no positions, and everything is delivered again."""
    with server() as (url, client):
        runner = stage.runner(RedisConnector(), config({"url": url}))
        stage.publish([order(number) for number in range(10)])
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "delivered")
            client.flushall()
            stage.publish([order(number) for number in range(10, 40)])
            wait_until(lambda: ids(client) == list(range(40)), "delivered again")


def test_wrong_password_stops_with_a_reason(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the right nor the wrong one is told; without the variable its name is."""
    stage.publish([order(1)])
    with server(requirepass=PASSWORD) as (url, _):
        found = config({"url": url, "password": "${TEST_REDIS_PASSWORD}"})
        with pytest.raises(TargetInvalid, match="TEST_REDIS_PASSWORD is not set"):
            stage.deliver(RedisConnector(), found)
        for wrong in (found, config({"url": url})):
            monkeypatch.setenv("TEST_REDIS_PASSWORD", "wrong horse")
            with pytest.raises(TargetInvalid) as raised:
                stage.deliver(RedisConnector(), wrong)
            assert "horse" not in str(raised.value)
            assert raised.value.cure == "check `username`, `password` and the rights of that user"
        monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
        stage.deliver(RedisConnector(), found)


def test_a_user_without_rights_stops_with_a_reason(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not run scripts; who may not ask for the server's settings goes on."""
    stage.publish([order(1)])
    monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
    with server() as (url, client):
        found = config({"url": url, "username": "writer", "password": "${TEST_REDIS_PASSWORD}"})
        allowed = ["on", f">{PASSWORD}", "~*", "+@all", "-info"]
        client.execute_command("ACL", "SETUSER", "writer", *allowed, "-eval")
        with pytest.raises(TargetInvalid, match="eval"):
            stage.deliver(RedisConnector(), found)
        client.execute_command("ACL", "SETUSER", "writer", *allowed, "+eval")
        stage.deliver(RedisConnector(), found)
        assert ids(client) == [1]


def test_a_full_server_is_waited_for(stage: Stage) -> None:
    """Out of memory: no row vanishes that was there, and all arrive when there is room."""
    with server() as (url, client):
        stage.publish([order(number) for number in range(20)])
        stage.deliver(RedisConnector(), config({"url": url}))
        client.config_set("maxmemory", 1)
        stage.publish([order(number, amount=-1.0) for number in range(30)])
        runner = stage.runner(RedisConnector(), config({"url": url}))
        with stage.running(runner):
            wait_until(lambda: runner.counters.retries > 2, "retries")
            error = runner.status().error
            assert error is not None
            assert "maxmemory" in error.message
            assert ids(client) == list(range(20))
            client.config_set("maxmemory", 0)
            wait_until(lambda: stage.is_delivered(runner), "delivered")
        assert ids(client) == list(range(30))


def test_a_slow_server_gets_each_row_once(stage: Stage) -> None:
    """It answers later than we wait: what it does in the end counts, and nothing is added twice."""
    with server() as (url, client):
        stage.publish([order(number) for number in range(40)])
        runner = stage.runner(RedisConnector(), config({"url": url, "timeout_ms": 100}, Mode.APPEND))
        client.config_set("maxmemory", 0)
        with stage.running(runner):
            wait_until(lambda: stage.is_delivered(runner), "delivered")
            client.execute_command("CLIENT", "PAUSE", 600, "ALL")
            stage.publish([order(number) for number in range(40, 80)])
            wait_until(lambda: runner.counters.retries >= 1, "a timeout")
            wait_until(lambda: stage.is_delivered(runner), "delivered")
        assert stream_ids(client) == list(range(80))


@pytest.mark.parametrize("key", [TOPIC, f"headrace:positions:out:{TOPIC}:{TOPIC}"])
def test_a_key_of_another_kind_stops_with_a_reason(stage: Stage, key: str) -> None:
    """Where the stream or the positions should be is something else: it stays, and no position moves."""
    with server() as (url, client):
        client.set(key, "mine")
        stage.publish([order(1)])
        with pytest.raises(TargetInvalid, match="prefix` or `stream"):
            stage.deliver(RedisConnector(), config({"url": url}, Mode.APPEND))
        assert client.get(key) == b"mine"
        assert client.keys() == [key.encode()]


def test_a_cluster_is_refused(stage: Stage) -> None:
    """Rows and positions would lie on several servers."""
    # Its second port would else be 10,000 above its first, which may be no port at all.
    settings = {"cluster-enabled": "yes", "cluster-port": str(free_ports(1)[0])}
    with server(**settings) as (url, _), pytest.raises(TargetInvalid, match="Cluster"):
        stage.deliver(RedisConnector(), config({"url": url}))


def test_a_server_that_may_forget_positions_takes_no_stream(stage: Stage) -> None:
    """Eviction of any key; a cache of rows by key may do that, and gets them again."""
    stage.publish([order(1)])
    with server(maxmemory="100mb", **{"maxmemory-policy": "allkeys-lru"}) as (url, client):
        with pytest.raises(TargetInvalid, match="allkeys-lru"):
            stage.deliver(RedisConnector(), config({"url": url}, Mode.APPEND))
        stage.deliver(RedisConnector(), config({"url": url}))
        assert ids(client) == [1]


def test_something_that_is_no_redis_is_tried_again(stage: Stage) -> None:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        runner = stage.runner(RedisConnector(), config({"url": url, "timeout_ms": 50}))
        with stage.running(runner):
            wait_until(lambda: runner.counters.retries > 1, "retries")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "redis://user:secret@host"}, "options.url"),
        ({"url": "http://host"}, "options.url"),
        ({"url": "redis+sentinel://user:secret@host/mine"}, "options.url"),
        ({"url": "redis+sentinel://host:26379"}, "options.url"),
        ({"url": "redis://host", "password": "secret"}, "does not belong in a file"),
        ({"url": "redis://host", "prefix": "headrace:positions:"}, "headrace's own"),
        ({"url": "redis://host", "prefix": "head"}, "headrace's own"),
        ({"url": "redis://host", "stream": "h"}, "headrace's own"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    """As the file is read, without what they hold."""
    with pytest.raises(EgressInvalid, match=told) as raised:
        connector_config(config(options), RedisConnector())
    assert "secret" not in str(raised.value).replace("a secret does not", "")


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (Mode.APPEND, {"ttl_seconds": 9}),
        (Mode.APPEND, {"version_field": "x"}),
        (Mode.APPEND, {"prefix": "x"}),
        (Mode.UPSERT, {"stream": "x"}),
    ],
)
def test_options_of_another_mode_are_refused(
    stage: Stage, redis_target: Any, mode: Mode, options: dict[str, Any]
) -> None:
    """Rather than left out of account."""
    with pytest.raises(TargetInvalid, match="means nothing in mode"):
        stage.deliver(RedisConnector(), config({"url": redis_target.url, **options}, mode))
