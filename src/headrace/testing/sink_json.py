"""Rows that a target holds as JSON, as columns of their contract.

For tests of connectors that write `headrace.egress.json_columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.contracts.contract import Contract
from headrace.ingress.columns import ColumnBuilder
from headrace.ingress.values import Form


def table_of_json(rows: Sequence[Mapping[str, Any]], contract: Contract) -> pa.Table:
    """JSON objects as the gateway reads them; every one must fit the contract."""
    found = ColumnBuilder(contract.schema, Form.HTTP).from_rows(rows)
    assert not found.misfits, found.misfits
    return found.table
