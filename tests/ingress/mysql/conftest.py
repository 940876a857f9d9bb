"""A database for each test that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.ingress.mysql.till import Till


@pytest.fixture
def till(tmp_path: Path, mariadb_url: str) -> Iterator[Till]:
    with closing(Till(tmp_path, mariadb_url)) as till:
        yield till
