"""How an egress reaches its server.

Owns the client that the options come to. Nothing is asked here: a connection is made with the first command, and with
Sentinels each connection asks them first which server is the primary.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from headrace.egress.references import filled
from headrace.egress.sdk import TargetInvalid
from headrace_redis.options import RedisOptions

SENTINEL_PORT = 26_379
_SENTINEL: Any = Sentinel  # Which has no types.


def redis_of(options: RedisOptions, egress: str) -> redis.Redis:
    """A client that repeats nothing by itself. Raises `TargetInvalid` for what is no address."""
    given: dict[str, Any] = {
        "username": options.username,
        "password": None if options.password is None else filled(options.password, "password"),
        "client_name": f"headrace-{egress}",
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    waits = {"socket_timeout": options.timeout_ms / 1_000, "socket_connect_timeout": options.timeout_ms / 1_000}
    if not options.url.startswith("unix:"):
        waits["socket_keepalive"] = True
    authority: dict[str, Any] = {}
    if options.url.startswith("rediss") and options.ca_certificate is not None:
        authority["ssl_ca_certs"] = str(options.ca_certificate)
    try:
        if "+sentinel:" in options.url:
            return _behind_sentinels(options, given, {**waits, **authority})
        client: redis.Redis = redis.Redis.from_url(options.url, **given, **waits, **authority)
    except ValueError as error:
        raise TargetInvalid(f"option 'url': {error}", cure="write redis://host:6379/0") from error
    return client


def _behind_sentinels(options: RedisOptions, given: dict[str, Any], both: dict[str, Any]) -> redis.Redis:
    """Both kinds of servers are spoken to over TLS, or neither. Raises `ValueError`."""
    parts = urlsplit(options.url)
    name, _, database = parts.path.strip("/").partition("/")
    if parts.scheme.startswith("rediss"):
        both = {**both, "ssl": True}
    places = [each.rpartition(":") if ":" in each else (each, "", SENTINEL_PORT) for each in parts.netloc.split(",")]
    sentinels = _SENTINEL(
        [(host, int(port)) for host, _, port in places], sentinel_kwargs={**both, "retry": given["retry"]}
    )
    client: redis.Redis = sentinels.master_for(name, **given, **both, db=int(database or 0))
    return client
