"""Columns of texts from Polars' form, views, to Arrow's plain one.

Owns the compiled way; who calls it has another.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from headrace.native import native

_VIEWS = pl.CompatLevel.newest()
_TYPES = {pl.String: pa.string(), pl.Binary: pa.binary()}


def plain_texts(series: pl.Series) -> pa.Array | None:
    """A column of texts without nulls, with offsets of four bytes; None for others, and without the compiled part."""
    if native is None or series.null_count() or series.dtype not in (pl.String, pl.Binary):
        return None
    views = series.rechunk().to_arrow(compat_level=_VIEWS)
    _, values, *texts = views.buffers()
    plain = native.plain_texts(len(series), (None, views.offset, values, texts))
    if plain is None:
        return None
    offsets, data = plain
    return pa.Array.from_buffers(
        _TYPES[type(series.dtype)], len(series), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
