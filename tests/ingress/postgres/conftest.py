"""A database for each test that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.ingress.postgres.bank import Bank


@pytest.fixture
def bank(tmp_path: Path, postgres_url: str) -> Iterator[Bank]:
    with closing(Bank(tmp_path, postgres_url)) as bank:
        yield bank
