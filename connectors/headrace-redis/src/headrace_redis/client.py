"""One connection to one Redis server, its errors told in headrace's words.

Owns the connection. It repeats nothing by itself: after a raise the egress is opened again and asks where Redis stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import redis

from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace_redis.lua import CHECK_SCRIPT
from headrace_redis.options import RedisOptions
from headrace_redis.reach import redis_of

_DENIED = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)
_DENIED_CODES = ("NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR Client sent AUTH", "ERR invalid password")
_CLUSTER_CODES = ("MOVED", "ASK", "CROSSSLOT")
_WAIT_CODES = ("OOM", "LOADING", "READONLY", "MISCONF", "MASTERDOWN", "BUSY", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN")
"""What passes: out of memory or disk, starting, a replica during a failover, a script that runs."""
_WRONG_KEY = "HEADRACEKEY"
"""The script's own."""


class Moved(NamedTuple):
    """A position that is not where this process left it."""

    partition: int
    held: int | None


class Client:
    """A connection, made with the first command."""

    def __init__(self, options: RedisOptions, egress: str) -> None:
        self._url = options.url
        self._redis = redis_of(options, egress)
        self._connection: Any = None

    def check_server(self, *, may_evict: bool) -> None:
        """Raises `TargetInvalid` for a server that could not keep the promise."""
        with self._translated():
            self._redis.ping()
            try:
                told: Any = self._redis.info()
            except redis.exceptions.NoPermissionError:
                return  # Who may not ask, must know.
        if told.get("cluster_enabled"):
            raise self._cluster()
        policy = str(told.get("maxmemory_policy", ""))
        if not may_evict and told.get("maxmemory") and policy.startswith("allkeys-"):
            raise TargetInvalid(
                f"{self._url}: maxmemory-policy {policy} may remove positions, and rows would be added twice",
                cure="set noeviction or a volatile-* policy, or use mode upsert",
            )

    def value_bytes_max(self) -> int | None:
        """The longest value that the server takes; None where the user may not ask."""
        with self._translated():
            try:
                told: Any = self._redis.config_get("proto-max-bulk-len")
            except redis.ResponseError:
                # Missing rights, or a service that hides its settings.
                return None
        return int(told["proto-max-bulk-len"]) if told else None

    def positions(self, key: str) -> dict[int, int]:
        """Next offsets by partition."""
        with self._translated():
            held: Any = self._redis.hgetall(key)
        return {int(partition): int(offset) for partition, offset in held.items() if partition.isdigit()}

    def refused(self, keys: Sequence[str], commands: Sequence[Sequence[str]]) -> list[str]:
        """Names of those commands that the user may not run; none is run. Raises `TargetInvalid` for keys that hold
        something else than positions, and a stream."""
        arguments = [word for each in commands for word in (str(len(each)), *each)]
        with self._translated():
            told: Any = self._redis.eval(CHECK_SCRIPT.decode(), len(keys), *keys, *arguments)
        return list(dict.fromkeys(each.decode() for each in told))

    def is_replica(self) -> bool:
        """Whether it takes rows from a primary alone; False where the user may not ask."""
        with self._translated():
            try:
                told: Any = self._redis.info("replication")
            except redis.exceptions.NoPermissionError:
                return False
        return bool(told.get("role") == "slave")

    def run(self, request: Sequence[bytes | memoryview]) -> Moved | None:
        """Run the script of rows; where it found another position, that one."""
        told = self._ask(request)
        return None if told == b"OK" else _moved(told)

    def empty(self, request: Sequence[bytes | memoryview]) -> Moved | bytes:
        """Run a step of a truncation; where the next one begins, or another position that it found."""
        told = self._ask(request)
        return told if isinstance(told, bytes) else _moved(told)

    def close(self) -> None:
        """Idempotent."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
        with suppress(redis.RedisError, OSError):
            self._redis.connection_pool.disconnect()

    def _ask(self, request: Sequence[bytes | memoryview]) -> Any:
        with self._translated():
            if self._connection is None:
                self._connection = self._redis.connection_pool.get_connection()
            self._connection.send_packed_command(request)
            return self._connection.read_response()

    def _cluster(self) -> TargetInvalid:
        return TargetInvalid(f"{self._url}: a Redis Cluster is not supported", cure="use a server of its own")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (*_DENIED, redis.exceptions.AuthenticationWrongNumberOfArgsError) as error:
            raise self._denied(error) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            if str(error).startswith(_DENIED_CODES):
                raise self._denied(error) from error
            raise TargetUnavailable(f"{self._url}: {error}") from error
        except redis.ResponseError as error:
            raise self._answered(error) from error

    def _denied(self, error: Exception) -> TargetInvalid:
        return TargetInvalid(f"{self._url}: {error}", cure="check `username`, `password` and the rights of that user")

    def _answered(self, error: redis.ResponseError) -> TargetInvalid | TargetUnavailable:
        text = str(error)
        if isinstance(error, redis.exceptions.MovedError) or text.startswith(_CLUSTER_CODES):
            return self._cluster()
        if text.startswith(_DENIED_CODES):
            return self._denied(error)
        if isinstance(error, redis.exceptions.OutOfMemoryError | redis.ReadOnlyError) or text.startswith(_WAIT_CODES):
            return TargetUnavailable(f"{self._url}: {text}", cure="see to the server; headrace tries again")
        if _WRONG_KEY in text or text.startswith("WRONGTYPE"):
            told = text.partition(_WRONG_KEY)[2].strip() or text
            return TargetInvalid(f"{self._url}: {told}", cure="choose another `prefix` or `stream`, or remove that key")
        return TargetUnavailable(f"{self._url}: {text}")


def _moved(told: Sequence[bytes]) -> Moved:
    partition, held = told
    return Moved(int(partition), int(held) if held else None)
