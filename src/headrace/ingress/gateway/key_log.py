"""Idempotency keys in the log: what keeps two processes from publishing the same request twice.

Owns the topics `<workspace>.gateway.claims` and `.answers`, both compacted, of one partition, and the protocol:

1. Before anything is published for a key, a claim of it is written, and read back: the first claim in the log's order
   wins. Claims stand outside of transactions, so that nobody's open transaction hides them.
2. Records and answers are one transaction: whoever reads an answer can read its records, and the other way round.
3. The claim of a process that died is taken over after `claim_timeout_ms`, or at once by the process that comes back
   under its transactional id. The taker claims, then fences that id, then reads all answers that were decided: either
   the answer is there, or it will never be.
4. A process that was fenced reads all claims before it publishes anything again.

- A transaction whose outcome is unknown is looked up by its mark, which is an answer of its own.
- Used on one thread.
"""

from __future__ import annotations

import enum
import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.key_index import Claim, Held, KeyIndex
from headrace.ingress.violations import IngressInvalid
from headrace.log.columns import outgoing
from headrace.log.compacted import ensure_compacted
from headrace.log.port import BEGINNING, Consumer, Log, LogUnavailable, Outgoing, Producer, TopicPartition, TopicSpec

CLAIMS_SUFFIX, ANSWERS_SUFFIX = ".gateway.claims", ".gateway.answers"
RETENTION_MORE_MS = 3_600_000
"""The log keeps keys somewhat longer than processes do, whatever their clocks say."""
TOPIC_CONFIG = {
    "cleanup.policy": "compact,delete",
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.2",
    "max.message.bytes": str(8 * 1024 * 1024),
}
READ_TIMEOUT_S = 30.0
POLL_RECORDS_MAX = 20_000
POLL_TIMEOUT_S = 0.1
MARK = b"mark:"

_LOG = structlog.get_logger("headrace.ingress")


class InFlight(enum.Enum):
    """Somebody else publishes what came with the key."""

    HERE = "in flight"


Verdict = bytes | InFlight | None
"""The answer as it is kept; in flight elsewhere; or None: ours to publish."""


class KeyLog:
    """The keys of one process. `open` first, and again after any error; `close` is idempotent."""

    def __init__(
        self,
        log: Log,
        workspace: str,
        transactional_id: str,
        config: GatewayConfig,
        clock_ms: Callable[[], int],
    ) -> None:
        self._log, self._id, self._clock_ms = log, transactional_id, clock_ms
        self._kept_ms = config.keys_kept_seconds * 1_000
        self._claim_timeout_ms = config.claim_timeout_ms
        self._claims = TopicPartition(workspace + CLAIMS_SUFFIX, 0)
        self._answers = TopicPartition(workspace + ANSWERS_SUFFIX, 0)
        self._life = secrets.token_hex(8)
        self._consumer: Consumer | None = None
        self._claimer: Producer | None = None
        self._awaited: set[bytes] = set()
        self._mark = b""
        self.index = KeyIndex(self._kept_ms, config.keys_mb_max * 1_000_000, clock_ms)

    def open(self) -> Producer:
        """A producer that fences the former ones of this id, with all claims and answers read. Its caller closes it."""
        self._ensure_topics()
        producer = self._log.producer(transactional_id=self._id)
        try:
            if self._consumer is None:
                self._consumer = self._log.consumer(client_id="headrace-gateway-keys")
                self._consumer.assign({self._claims: BEGINNING, self._answers: BEGINNING})
            if self._claimer is None:
                self._claimer = self._log.producer()
            self.catch_up(decided=True)
        except BaseException:
            producer.close()
            self.close()
            raise
        return producer

    def close(self) -> None:
        consumer, claimer = self._consumer, self._claimer
        self._consumer = self._claimer = None
        for each in (consumer, claimer):
            if each is not None:
                each.close()

    def catch_up(self, *, decided: bool = False) -> None:
        """Read to the end; `decided`: behind every transaction that was open a moment ago, too."""
        consumer = self._opened()
        both = [self._claims, self._answers]
        ends = consumer.end_offsets(both, committed=not decided)
        self._read(lambda: all(at >= ends[each] for each, at in consumer.position(both).items()))
        self.index.forget()

    def follow(self) -> None:
        """Read what is there, without waiting."""
        self._apply_polled(0.0)
        self.index.forget()

    def settle(self, keys: Collection[bytes]) -> dict[bytes, Verdict]:
        """Whose each key is. Those that nobody has are claimed."""
        self.follow()
        known = {key: self.index.get(key) for key in keys}
        if any(self._is_foreign(held) for held in known.values()):
            # Its answer may be there by now.
            self.catch_up()
            known = {key: self.index.get(key) for key in keys}
        wanted = {key: held for key, held in known.items() if self._may_claim(held)}
        self._claim({key: held.offset if isinstance(held, Claim) else None for key, held in wanted.items()})
        taken = {held.by for key, held in wanted.items() if isinstance(held, Claim) and self._holds(key)}
        self._fence(taken - {self._id})
        return {key: self._verdict(key) for key in keys}

    def answer_records(self, answers: Mapping[bytes, bytes], mark: bytes) -> Outgoing:
        """What goes into the transaction beside the records: answers by key, and its mark."""
        values = [*answers.values(), mark]
        return outgoing(self._answers.topic, values, keys=[*answers, self._mark_key], partitions=0)

    def committed(self, answers: Mapping[bytes, bytes]) -> None:
        """These answers are in the log."""
        now_ms = self._clock_ms()
        for key, kept in answers.items():
            self.index.answer(key, kept, now_ms)

    def is_last(self, mark: bytes) -> bool:
        """Whether the last transaction of this id that was committed is the one of this mark."""
        return self._mark == mark

    def mark(self, number: int) -> bytes:
        """Of a transaction of this life."""
        return f"{self._life}:{number}".encode()

    @property
    def _mark_key(self) -> bytes:
        return MARK + self._id.encode()

    def _opened(self) -> Consumer:
        assert self._consumer is not None, "open() comes first"
        return self._consumer

    def _is_foreign(self, held: Held | None) -> bool:
        return isinstance(held, Claim) and held.life != self._life

    def _holds(self, key: bytes) -> bool:
        held = self.index.get(key)
        return isinstance(held, Claim) and held.life == self._life

    def _may_claim(self, held: Held | None) -> bool:
        if held is None:
            return True
        if isinstance(held, bytes) or held.life == self._life:
            return False
        return held.by == self._id or self._clock_ms() - held.time_ms > self._claim_timeout_ms

    def _verdict(self, key: bytes) -> Verdict:
        held = self.index.get(key)
        if isinstance(held, bytes):
            return held
        return None if self._holds(key) else InFlight.HERE

    def _claim(self, keys: Mapping[bytes, int | None]) -> None:
        """Write claims and read them back."""
        if not keys:
            return
        assert self._claimer is not None
        values = {
            takes: json.dumps({"by": self._id, "life": self._life, "takes": takes}).encode()
            for takes in set(keys.values())
        }
        self._awaited = set(keys)
        claims = [values[takes] for takes in keys.values()]
        self._claimer.produce(outgoing(self._claims.topic, claims, keys=list(keys), partitions=0))
        self._claimer.flush()
        self._read(lambda: not self._awaited)

    def _fence(self, transactional_ids: Collection[str]) -> None:
        """Nothing of these producers can be committed any more, and what they committed is read."""
        for each in transactional_ids:
            _LOG.warning("gateway_keys_taken_over", of=each)
            self._log.producer(transactional_id=each).close()
        if transactional_ids:
            self.catch_up(decided=True)

    def _read(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READ_TIMEOUT_S
        while not is_done():
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {self._claims.topic!r} could not be read in {READ_TIMEOUT_S:g} s")
            self._apply_polled(POLL_TIMEOUT_S)

    def _apply_polled(self, timeout_s: float) -> None:
        for batch in self._opened().poll(POLL_RECORDS_MAX, timeout_s):
            rows = zip(
                batch.offset.tolist(),
                batch.timestamp_ms.tolist(),
                batch.key.to_pylist(),
                batch.value.to_pylist(),
                strict=True,
            )
            if batch.topic == self._claims.topic:
                self._apply_claims(list(rows))
            else:
                self._apply_answers(list(rows))

    def _apply_claims(self, rows: Sequence[tuple[int, int, bytes, bytes]]) -> None:
        parsed: dict[bytes, dict[str, str]] = {}
        for offset, time_ms, key, value in rows:
            told = parsed.get(value)
            if told is None:
                told = parsed[value] = json.loads(value)
            takes = told["takes"]
            claim = Claim(offset, told["by"], told["life"], time_ms)
            self.index.claim(key, claim, None if takes is None else int(takes))
            if claim.life == self._life:
                self._awaited.discard(key)

    def _apply_answers(self, rows: Sequence[tuple[int, int, bytes, bytes]]) -> None:
        for _, time_ms, key, value in rows:
            if key == self._mark_key:
                self._mark = value
            elif not key.startswith(MARK):
                self.index.answer(key, value, time_ms)

    def _ensure_topics(self) -> None:
        config = {**TOPIC_CONFIG, "retention.ms": str(self._kept_ms + RETENTION_MORE_MS)}
        for each in (self._claims.topic, self._answers.topic):
            ensure_compacted(self._log, TopicSpec(each, 1, config=config), _not_ours)
        admin = self._log.admin()
        try:
            found = admin.topics(internal=True)
            for each in (self._claims.topic, self._answers.topic):
                if int(found[each].config.get("retention.ms", -1)) < self._kept_ms:
                    admin.alter_config(each, config)
        finally:
            admin.close()


def _not_ours(told: str) -> IngressInvalid:
    return IngressInvalid(f"topic {told} is not one that a gateway made", cure="give that topic another name")
