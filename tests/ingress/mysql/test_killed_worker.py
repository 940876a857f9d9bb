"""The process that captures is killed at random moments of a workload: the topic is the table in the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ingress.killing import LONG, check_verdict
from tests.ingress.mysql.killing import kill_at_random_moments
from tests.ingress.mysql.till import Till

pytestmark = [pytest.mark.mariadb, pytest.mark.xdist_group("mariadb")]


@pytest.mark.slow
@pytest.mark.timeout(3_600 if LONG else 300)
def test_kills_at_random_moments(till: Till, record_property: Callable[[str, object], None]) -> None:
    """kill -9 in the snapshot and in the stream: the replayed topic equals the table, and no change came twice, rows of
    the snapshot among them."""
    killed = kill_at_random_moments(till, str(till.log_path))
    check_verdict(till, killed, record_property)
