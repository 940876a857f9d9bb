"""A small workspace on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

CONFIG = """
name = "shop"

[environments.dev]
log = "embedded"
partitions = 2

[environments.kafka]
log = "kafka"
bootstrap_servers = "${SHOP_KAFKA}"
partitions = 2
"""

ORDERS = """
topic: orders
owner: shop
key: order_id
time: placed_at
fields:
  order_id:  string
  customer:  string
  amount:    double
  placed_at: timestamp-millis
"""

TOTALS = '''
import headrace as hr
from headrace import col


@hr.pipeline(owner="shop")
def totals():
    """Revenue of each customer, hour by hour."""
    return (
        hr.stream("orders")
        .filter(col("amount") > 0)
        .group_by("customer")
        .window(hr.tumbling("1h"))
        .agg(orders=hr.count(), revenue=hr.sum("amount"))
        .to("customers.revenue", emit="final")
    )
'''

WriteWorkspace = Callable[..., Path]


@pytest.fixture
def write_workspace(tmp_path: Path) -> WriteWorkspace:
    """Writes a workspace of one contract and one pipeline; further files, or None to leave one out, by path."""

    def write(**files: str | None) -> Path:
        root = tmp_path / "shop"
        every = {
            "headrace.toml": CONFIG,
            "contracts/orders.yaml": ORDERS,
            "pipelines/totals.py": TOTALS,
            **{name.replace("__", "/"): text for name, text in files.items()},
        }
        for name, text in every.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(dedent(text).lstrip(), encoding="utf-8")
        return root

    return write
