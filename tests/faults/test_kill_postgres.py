"""kill -9 of the process that captures PostgreSQL into a real Kafka, at random moments of snapshot and stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from headrace.log.kafka import KafkaLog
from tests.ingress.killing import LONG, check_verdict
from tests.ingress.postgres.bank import Bank
from tests.ingress.postgres.killing import kill_at_random_moments

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow, pytest.mark.xdist_group("postgres-kafka")]


@pytest.mark.timeout(3_600 if LONG else 300)
def test_the_topic_is_the_table_whenever_the_capture_dies(
    tmp_path: Path, postgres_url: str, kafka_bootstrap: str, record_property: Callable[[str, object], None]
) -> None:
    """Rows and position are one transaction of Kafka, and the slot is told after it: read committed, the topic replayed
    into an empty table equals the source table, and no change came twice, rows of the snapshot among them."""
    with closing(Bank(tmp_path, postgres_url, log=KafkaLog(kafka_bootstrap))) as bank:
        killed = kill_at_random_moments(bank, f"kafka:{kafka_bootstrap}")
        check_verdict(bank, killed, record_property)
