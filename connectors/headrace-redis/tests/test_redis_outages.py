"""Servers that take no rows for a while, servers behind Sentinels, TLS, and what a server alone finds too long."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.sdk import Mode, TargetInvalid, TargetUnavailable
from headrace.testing.redis import REDIS, program, running_redis
from headrace.testing.server_process import free_ports
from headrace.testing.sink_harness import TOPIC, Stage, header, order, order_contract, wait_until
from headrace_redis import RedisConnector

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("redis")]


def config(options: dict[str, Any], mode: Mode = Mode.APPEND, **more: Any) -> EgressConfig:
    values = {"name": "out", "topic": TOPIC, "connector": "redis", "mode": mode, "options": options}
    batch = {"rows_max": 50, "age_max_ms": 20}
    return EgressConfig.model_validate({**values, "batch": batch, "retry": {"first_ms": 10, "max_ms": 50}, **more})


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


def stream_ids(client: redis.Redis) -> list[int]:
    return sorted(int(fields[b"id"]) for _, fields in client.xrange(TOPIC))


def checked(given: EgressConfig) -> list[str]:
    found = RedisConnector()
    return list(found.check(connector_config(given, found), order_contract()))


@contextmanager
def open_folder() -> Iterator[Path]:
    """That every user may enter, unlike those of pytest: the server of a root has another one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def survives(
    stage: Stage, options: dict[str, Any], told: str, *, break_it: Callable[[], object], mend_it: Callable[[], object]
) -> None:
    """Deliver, break the server, publish more: it says why it waits and writes nothing; mended, each row is there."""
    stage.publish([order(number) for number in range(40)])
    patient = {"breaker": {"failures_max": 10_000, "open_ms": 1_000}}
    runner = stage.runner(RedisConnector(), config(options, **patient))
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        break_it()
        stage.publish([order(number) for number in range(40, 90)])
        wait_until(lambda: told in str(runner.status().error), told)
        error = runner.status().error
        assert error is not None
        assert error.code == "egress.target_unavailable"
        mend_it()
        wait_until(lambda: stage.is_delivered(runner), "delivered after all")
    assert stage.records("out.dlq") == []


def test_a_server_whose_disk_is_full_is_waited_for(stage: Stage) -> None:
    """Its snapshots fail, so it refuses writes: tried again until one works."""
    with open_folder() as folder:
        home = folder / "redis"
        with (
            running_redis(home, settings={"save": "3600 1000000"}) as server,
            redis.Redis.from_url(server.url) as client,
        ):
            in_the_way = home / "data" / "dump.rdb"

            def snapshot(is_good: bool) -> None:
                client.bgsave()
                wanted = "ok" if is_good else "err"
                wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == wanted, "a snapshot")

            def fill() -> None:
                in_the_way.mkdir()
                snapshot(is_good=False)

            def clear() -> None:
                assert len(stream_ids(client)) == 40
                in_the_way.rmdir()
                snapshot(is_good=True)

            survives(stage, {"url": server.url}, "MISCONF", break_it=fill, mend_it=clear)
            assert stream_ids(client) == list(range(90))


def test_a_primary_that_becomes_a_replica_is_waited_for(stage: Stage) -> None:
    """Until it takes rows again."""
    (port,) = free_ports(1)
    with running_redis() as server, redis.Redis.from_url(server.url) as client:

        def demote() -> None:
            client.execute_command("REPLICAOF", "127.0.0.1", port)

        def promote() -> None:
            assert len(stream_ids(client)) == 40
            client.execute_command("REPLICAOF", "NO", "ONE")

        survives(stage, {"url": server.url}, "read only replica", break_it=demote, mend_it=promote)
        assert stream_ids(client) == list(range(90))


def test_a_server_that_runs_a_script_is_waited_for(stage: Stage) -> None:
    """A script without end, until somebody kills it."""
    with running_redis(settings={"busy-reply-threshold": "50"}) as server, redis.Redis.from_url(server.url) as client:
        killed: list[str] = []

        def run() -> None:
            with redis.Redis.from_url(server.url) as other, pytest.raises(redis.ResponseError, match="killed"):
                other.eval("while true do end", 0)
            killed.append("yes")

        thread = threading.Thread(target=run)

        def kill() -> None:
            client.execute_command("SCRIPT", "KILL")
            thread.join()

        survives(stage, {"url": server.url}, "BUSY", break_it=thread.start, mend_it=kill)
        assert killed == ["yes"]
        assert stream_ids(client) == list(range(90))


def test_a_server_that_loads_its_data_is_waited_for(stage: Stage) -> None:
    """It takes connections long before it takes rows."""
    with open_folder() as folder:
        home = folder / "redis"
        first = REDIS.start(home, owner_pid=os.getpid())
        slow = {
            "port": first.url.rpartition(":")[2],
            "key-load-delay": "10000",
            "loading-process-events-interval-bytes": "1024",
        }
        with redis.Redis.from_url(first.url) as client:
            client.mset({f"key {number}": os.urandom(1_500) for number in range(150)})

            def restart() -> None:
                client.save()
                REDIS.stop(home)
                thread.start()

            thread = threading.Thread(target=lambda: REDIS.start(home, owner_pid=os.getpid(), settings=slow))
            survives(stage, {"url": first.url}, "loading", break_it=restart, mend_it=thread.join)
            assert stream_ids(client) == list(range(90))
        REDIS.stop(home)


@contextmanager
def sentinel(folder: Path, primary: int) -> Iterator[int]:
    """One that watches this port as `mine`, and is satisfied with its own vote."""
    (port,) = free_ports(1)
    file = folder / "sentinel.conf"
    lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", f"sentinel monitor mine 127.0.0.1 {primary} 1"]
    lines += ["sentinel down-after-milliseconds mine 300", "sentinel failover-timeout mine 2000"]
    file.write_text("\n".join(lines))
    process = subprocess.Popen([program("redis-server"), file, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, decode_responses=True) as client:

            def is_ready() -> bool:
                try:
                    return client.execute_command("SENTINEL", "MASTER", "mine")["num-slaves"] == "1"
                except redis.ConnectionError:
                    return False

            wait_until(is_ready, "a sentinel")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_sentinels_say_who_is_the_primary(stage: Stage, tmp_path: Path) -> None:
    """The primary dies and its replica takes over: rows go on there, each once."""
    with ExitStack() as stack:
        primary = stack.enter_context(running_redis())
        port = int(primary.url.rpartition(":")[2])
        replica = stack.enter_context(running_redis(settings={"replicaof": f"127.0.0.1 {port}"}))
        client = stack.enter_context(redis.Redis.from_url(replica.url))
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "a replica")
        port = stack.enter_context(sentinel(tmp_path, port))
        (nobody,) = free_ports(1)
        url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/mine/0"

        def fail() -> None:
            # What the replica does not have yet, the topic has.
            REDIS.stop(Path(primary.directory), hard=True)

        def nothing() -> None:
            """The replica takes over by itself."""

        assert (
            list(RedisConnector().check(connector_config(config({"url": url}), RedisConnector()), order_contract()))
            == []
        )
        survives(stage, {"url": url}, url, break_it=fail, mend_it=nothing)
        assert stream_ids(client) == list(range(90))


def test_sentinels_that_know_no_primary_are_told() -> None:
    """One that is away, and a name that it does not know."""
    (nobody,) = free_ports(1)
    with running_redis() as server:
        port = server.url.rpartition(":")[2]
        for url in (f"redis+sentinel://127.0.0.1:{nobody}/mine", f"redis+sentinel://127.0.0.1:{port}/mine"):
            given = config({"url": url})
            with pytest.raises((TargetUnavailable, TargetInvalid), match="mine"):
                checked(given)


def certificate(folder: Path) -> tuple[Path, Path]:
    """For the name localhost, signed by itself."""
    file, key = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", *kind, "-keyout", str(key), "-out", str(file), *names]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o644)
    return file, key


def test_certificates_are_checked(stage: Stage) -> None:
    """An authority that is not named is not trusted, nor is another host's; named, all is well. So it is in a check."""
    stage.publish([order(1)])
    with open_folder() as folder:
        file, key = certificate(folder)
        (port,) = free_ports(1)
        settings = {"tls-port": str(port), "tls-cert-file": str(file), "tls-key-file": str(key)}
        with running_redis(settings={**settings, "tls-auth-clients": "no"}) as server:
            for url, told in (
                (f"rediss://localhost:{port}", "self-signed"),
                (f"rediss://127.0.0.1:{port}", "IP address"),
            ):
                authority = {} if told == "self-signed" else {"ca_certificate": str(file)}
                given = config({"url": url, **authority})
                with pytest.raises(TargetUnavailable, match=told):
                    checked(given)
                runner = stage.runner(RedisConnector(), given)
                with stage.running(runner):
                    wait_until(lambda runner=runner, told=told: told in str(runner.status().error), told)
            good = config({"url": f"rediss://localhost:{port}", "ca_certificate": str(file)})
            stage.deliver(RedisConnector(), good)
            with redis.Redis.from_url(server.url) as client:
                assert stream_ids(client) == [1]


@pytest.mark.parametrize("mode", [Mode.APPEND, Mode.UPSERT])
def test_a_value_that_the_server_finds_too_long_stays_alone(stage: Stage, mode: Mode) -> None:
    """The server would end the connection: it is asked for its bound, and the row is a dead letter."""
    stage.publish([order(1), {**order(2), "customer": "\x01" * 300_000}, order(3)])
    with running_redis(settings={"proto-max-bulk-len": "1048576"}) as server:
        given = config({"url": server.url, "format": "json"}, mode)
        stage.deliver(RedisConnector(), given)
        (letter,) = stage.records(given.dead_letter_topic)
        assert header(letter, "headrace.error.code") == "redis.too_long"
        with redis.Redis.from_url(server.url) as client:
            rows = client.xlen(TOPIC) if mode is Mode.APPEND else len(set(client.scan_iter(f"{TOPIC}:*")))
        assert rows == 2
