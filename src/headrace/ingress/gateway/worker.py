"""One gateway in one process.

Owns what `headrace run` runs: the loop of its HTTP, the threads behind it, and how they end.

- Any number of processes may run one gateway; those of one machine share its port.
- It listens before the log answers: what comes meanwhile waits, within the limits.
- `run` ends when `stop` is set and every request under way has its answer, or the patience for that is over.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headrace.contracts.contract import Contract
from headrace.contracts.yaml_model import place_of
from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.ingress.encoder import Clock, now_ms
from headrace.ingress.environment import Environment, GivenEnvironment
from headrace.ingress.gateway.access import Access, writable
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.delivery import Delivery
from headrace.ingress.gateway.key_log import KeyLog
from headrace.ingress.gateway.metrics import GatewayMetrics
from headrace.ingress.gateway.pipeline import Pipeline
from headrace.ingress.gateway.preparing import Pending, Preparing, Reply
from headrace.ingress.gateway.server import Server
from headrace.ingress.violations import IngressError, IngressInvalid

STOP_LOOK_S = 0.05
State = Literal["created", "running", "retrying", "stopped", "failed"]


class AddressTaken(IngressError):
    """A gateway cannot listen where its file says."""

    code = "ingress.address_taken"


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """How a gateway stands."""

    state: State
    records_in: int
    records_out: int
    error: HeadraceError | None


class Gateway:
    """`check` what the file says, then `run`."""

    def __init__(
        self,
        config: GatewayConfig,
        environment: Environment,
        contracts: Mapping[str, Contract],
        *,
        workspace: str = "headrace",
        root: Path = Path(),
        instance: str = "0",
        clock: Clock = now_ms,
    ) -> None:
        self.config, self._workspace, self._root = config, workspace, root
        self._environment = GivenEnvironment(environment.log, environment.registry, contracts, environment.name)
        self._contracts, self._clock = contracts, clock
        self._transactional_id = f"{workspace}.gateway.{config.name}.{instance}"
        self.metrics = GatewayMetrics(config.name)
        self._give_up = threading.Event()
        self._delivery: Delivery | None = None
        self._pipeline: Pipeline | None = None
        self._state: State = "created"
        self.port: int | None = None
        """Where it listens, once it does."""
        self._add_gauges()

    def check(self) -> None:
        """Raises `IngressInvalid` for what cannot run as it is configured."""
        Access(self.config, self._contracts)
        self._tls()
        for name, client in self.config.clients.items():
            for pattern in client.topics:
                if not any(client.may_write(each.topic) for each in writable(self._contracts)):
                    raise IngressInvalid(
                        f"'clients.{name}.topics': no topic of kind event or table fits {pattern!r}",
                        where=place_of(self.config.where, "clients", name, "topics"),
                        cure="correct it, or add the topic's contract",
                    )

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. Raises `IngressInvalid`, `AddressTaken`."""
        self._give_up.clear()
        try:
            asyncio.run(self._serve(stop))
            self._state = "stopped"
        except HeadraceError:
            self._state = "failed"
            raise
        finally:
            self.port = None

    def status(self) -> GatewayStatus:
        """From any thread."""
        error = None if self._delivery is None else self._delivery.error
        if self._pipeline is not None and self._pipeline.failure is not None:
            error = self._pipeline.failure
        state: State = "retrying" if error is not None and self._state == "running" else self._state
        return GatewayStatus(state, self.metrics.records_in, self.metrics.records_out, error)

    async def _serve(self, stop: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        environment, config = self._environment, self.config
        publisher = BatchPublisher(environment, name=config.name, clock=self._clock)
        keys = KeyLog(environment.log, self._workspace, self._transactional_id, config, self._clock)
        self._delivery = Delivery(environment.log, keys, self._give_up)

        def replied(replies: Sequence[tuple[Pending, Reply]]) -> None:
            if replies:
                loop.call_soon_threadsafe(server.replied, replies)

        pipeline = self._pipeline = Pipeline(
            publisher,
            Preparing(publisher, workspace=self._workspace, records_max=config.records_max),
            self._delivery,
            replied,
            self._give_up,
            linger_s=config.linger_ms / 1_000,
            batch_requests_max=config.batch_records_max,
        )
        access = Access(config, self._contracts)
        server = Server(config, self._workspace, access, self.metrics, pipeline.submit, self._not_ready, self._tls())
        try:
            await server.start()
        except OSError as error:
            await server.close()
            raise AddressTaken(
                f"gateway {config.name!r} cannot listen at {config.host}:{config.port}: {error.strerror or error}",
                where=place_of(config.where, "port"),
                cure="free the port, or choose another",
            ) from error
        self.port, self._state = server.port, "running"
        pipeline.start()
        try:
            while not stop.is_set():
                await asyncio.sleep(STOP_LOOK_S)
            await server.drain()
        finally:
            # What is still under way now has waited long enough.
            self._give_up.set()
            await loop.run_in_executor(None, pipeline.finish)
            await server.close()

    def _not_ready(self) -> str | None:
        pipeline, delivery = self._pipeline, self._delivery
        if pipeline is None or delivery is None or not pipeline.is_ready.is_set():
            return "the log does not answer yet"
        return None if delivery.error is None else f"the log is away ({delivery.error.code})"

    def _tls(self) -> ssl.SSLContext | None:
        if self.config.tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._root / self.config.tls.certificate, self._root / self.config.tls.key)
        except (OSError, ssl.SSLError) as error:
            raise IngressInvalid(
                f"'tls': the certificate or its key cannot be read: {error.strerror or error}",
                where=place_of(self.config.where, "tls"),
                cure="name a PEM certificate and the key that belongs to it",
            ) from error
        return context

    def _add_gauges(self) -> None:
        def of_delivery(read: str) -> float:
            delivery = self._delivery
            if delivery is None:
                return 0
            index = delivery.keys.index
            oldest_ms = index.oldest_ms()
            numbers = {
                "transactions": delivery.counters.transactions,
                "repeats": delivery.counters.repeats,
                "keys": len(index),
                "key_bytes": index.bytes,
                "oldest": 0 if oldest_ms is None else max(self._clock() - oldest_ms, 0) / 1_000,
                "early": index.forgotten_early,
            }
            return numbers[read]

        for name, told, read in (
            ("transactions", "Transactions of the log.", "transactions"),
            ("repeats", "Requests and events that had their answer already.", "repeats"),
            ("keys", "Idempotency keys in memory.", "keys"),
            ("keys_bytes", "Memory for them, about.", "key_bytes"),
            ("keys_oldest_seconds", "Age of the oldest key.", "oldest"),
            ("keys_forgotten_early", "Keys that memory did not last for.", "early"),
        ):
            self.metrics.gauge(f"headrace_gateway_{name}", told, functools.partial(of_delivery, read))
