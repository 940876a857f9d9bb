"""Key columns as they are compared: rows of one key are found by Polars.

- Equal keys are equal here, and null is equal to null. The values need not be those of the rows: Polars has no decimals
  of more than 38 digits, so these are texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa


def key_columns(rows: pa.Table, names: Sequence[str]) -> pl.DataFrame:
    """These columns, to be compared."""
    found = rows.select(list(names))
    for index, each in enumerate(found.schema):
        if pa.types.is_decimal256(each.type):
            # Of one scale, so equal numbers are equal texts.
            found = found.set_column(index, each.name, found.column(index).cast(pa.large_string()))
    return pl.DataFrame(found)
