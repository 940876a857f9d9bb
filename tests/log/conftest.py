"""Tests of Kafka run on both clients; failing conformance tests show what they compared, as those of this folder do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from headrace.log.kafka import KafkaLog
from headrace.log.kafka.choice import SWITCH, why_not_native
from headrace.log.kafka.client import ClientKind

pytest.register_assert_rewrite("headrace.testing.log_conformance")


@pytest.fixture(params=["native", "python"])
def kafka_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ClientKind:
    """Each client of Kafka in turn, for whatever log the test makes, in its own process or in one that it starts."""
    kind: ClientKind = request.param
    if kind == "native" and why_not_native():
        pytest.skip(f"the native Kafka client: {why_not_native()}")
    monkeypatch.setenv(SWITCH, kind)
    return kind


@pytest.fixture
def kafka_log(kafka_bootstrap: str, kafka_client: ClientKind) -> Iterator[KafkaLog]:
    """A log over the session's broker."""
    with closing(KafkaLog(kafka_bootstrap)) as log:
        assert log.client_kind == kafka_client
        yield log
