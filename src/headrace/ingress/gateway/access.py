"""Who may send, what, and how much.

Owns tokens, rights by topic, and the rate of each client.

- A token is compared by its hash with every known one, in the same time whichever it is.
- Nothing of a token is kept, logged or answered.
- A topic that a client may not write is forbidden whether or not there is one.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace.contracts.contract import Contract, TopicKind
from headrace.ingress.gateway.config import ClientConfig, GatewayConfig
from headrace.ingress.gateway.errors import RateLimited, TopicForbidden, Unauthenticated
from headrace.ingress.violations import NotPublishable, UnknownContract

TOKEN_BYTES_MAX = 4_096
_SCHEME = "bearer "


class Rate:
    """A bucket of records that fills at an even rate. Used on one thread."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._level, self._at = burst, clock()

    def wait_s(self) -> int:
        """Whole seconds until something may be taken; 0 for now."""
        self._fill()
        return 0 if self._level > 0 else math.floor(-self._level / self._per_second) + 1

    def take(self, records: int) -> None:
        """May leave a debt: how many records a body has is known once it is read."""
        self._fill()
        self._level -= records

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second)
        self._at = now


@dataclass(frozen=True, slots=True)
class Client:
    """Who sends a request."""

    name: str
    config: ClientConfig
    rate: Rate

    def check_rate(self) -> None:
        """Raises `RateLimited`."""
        wait_s = self.rate.wait_s()
        if wait_s:
            raise RateLimited(
                f"client {self.name!r} sends more than it may", cure="send less at a time", retry_after_s=wait_s
            )


class Access:
    """The clients of a gateway. Raises `IngressInvalid` when it is made of a configuration that lacks secrets."""

    def __init__(self, config: GatewayConfig, contracts: Mapping[str, Contract]) -> None:
        self._contracts = contracts
        self._hashes = config.hashes()
        self._clients = {name: Client(name, client, _rate(config, client)) for name, client in config.clients.items()}

    def client(self, authorization: str | None) -> Client:
        """Whose token this is. Raises `Unauthenticated`."""
        if authorization is None:
            raise Unauthenticated("no token", cure="send `Authorization: Bearer ...`")
        if not authorization.lower().startswith(_SCHEME) or len(authorization) > TOKEN_BYTES_MAX:
            raise Unauthenticated("no bearer token", cure="send `Authorization: Bearer ...`")
        token = authorization[len(_SCHEME) :].strip()
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = ""
        for known, name in self._hashes:
            if hmac.compare_digest(digest, known):
                found = name
        if not found:
            raise Unauthenticated("an unknown token", cure="ask the gateway's owner for one")
        return self._clients[found]

    def contract(self, client: Client, topic: str) -> Contract:
        """The contract of a topic that the client may write.

        Raises `TopicForbidden`, `UnknownContract`, `NotPublishable`.
        """
        if not client.config.may_write(topic):
            raise TopicForbidden(
                f"client {client.name!r} may not write topic {topic!r}", cure="ask the gateway's owner for the right"
            )
        contract = self._contracts.get(topic)
        if contract is None:
            raise UnknownContract(topic, [name for name in self._contracts if client.config.may_write(name)])
        if contract.kind is TopicKind.CHANGE:
            raise NotPublishable(f"topic {topic!r} holds changes of a database", cure="change the row in the database")
        return contract

    def writable(self, client: Client) -> list[Contract]:
        """Contracts of all topics that the client may write, by name."""
        return [contract for contract in writable(self._contracts) if client.config.may_write(contract.topic)]


def writable(contracts: Mapping[str, Contract]) -> list[Contract]:
    """Contracts that records of services may be written to, by name."""
    return [contracts[name] for name in sorted(contracts) if contracts[name].kind is not TopicKind.CHANGE]


def _rate(config: GatewayConfig, client: ClientConfig) -> Rate:
    per_second = client.records_per_second or config.records_per_second
    return Rate(per_second, max(per_second * config.burst_seconds, 1))
