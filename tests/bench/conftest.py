"""The benchmarks say where log lines go, for their process: tests after them must not print into what was captured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def log_lines_go_where_they_went() -> Iterator[None]:
    """Put the configuration back."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
