"""The process that captures is killed at random moments of a workload: the topic is the table in the end."""

from __future__ import annotations

import pytest

from tests.ingress.mysql.killing import kill_at_random_moments
from tests.ingress.mysql.till import Till
from tests.ingress.postgres.killing import LONG, check_verdict

pytestmark = [pytest.mark.mariadb, pytest.mark.xdist_group("mariadb")]


@pytest.mark.slow
@pytest.mark.timeout(3_600 if LONG else 300)
def test_kills_at_random_moments(till: Till) -> None:
    """kill -9 in the snapshot and in the stream: the replayed topic equals the table, and no change came twice, rows of
    the snapshot among them."""
    kill_at_random_moments(till, str(till.log_path))
    check_verdict(till)
