"""Random columns of text and prices, made whole.

- The same generator gives the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
ODD_RATIO = 13
"""One character of a word in so many is the odd one."""
WORD_LENGTH_MIN = 3
SIZE_SPREAD = 0.2
"""Sizes of events spread so far around their average."""


def choice(values: Sequence[str], count: int, random: np.random.Generator) -> pl.Series:
    """`count` of these values."""
    return pl.Series(values)[random.integers(0, len(values), count)]


def words(count: int, length_max: int, random: np.random.Generator, *, odd: str = "_") -> pl.Series:
    """Words of 3 to `length_max` - 1 letters, here and there the odd character."""
    lengths = random.integers(WORD_LENGTH_MIN, length_max, count)
    table = np.concatenate([np.repeat(np.frombuffer(odd.encode(), np.uint8), 26), np.tile(LETTERS, ODD_RATIO - 1)])
    return _texts(table[random.integers(0, len(table), lengths.sum(), dtype=np.uint16)], lengths).str.strip_chars()


def letters(lengths: np.ndarray, random: np.random.Generator) -> pl.Series:
    """Texts of exactly these lengths."""
    return _texts(random.integers(LETTERS[0], LETTERS[-1] + 1, lengths.sum(), dtype=np.uint8), lengths)


def padding(used: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    """How many characters bring events of `used` bytes to `wanted` on average; none where they are larger already."""
    missing = np.maximum(wanted - used.astype(np.int64), 0)
    spread = np.rint(missing * SIZE_SPREAD).astype(np.int64)
    sizes: np.ndarray = missing - spread + random.integers(0, np.maximum(2 * spread, 1))
    return sizes


def prices(count: int, random: np.random.Generator) -> np.ndarray:
    """From 1.00 to a million, in cents, evenly over the orders of magnitude."""
    return np.rint(100 * 10 ** (6 * random.random(count))).astype(np.int64)


def _texts(characters: np.ndarray, lengths: np.ndarray) -> pl.Series:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    array = pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(characters))
    return pl.Series(pl.from_arrow(array))
