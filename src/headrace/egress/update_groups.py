"""Rows that write the same columns.

Owns how rows with unavailable values are told apart, for targets whose statements name the columns that they write.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.egress.batch import EgressBatch

DELETED = -1
"""The group of deletions."""


def update_groups(batch: EgressBatch) -> tuple[npt.NDArray[np.int64], Sequence[frozenset[str]]]:
    """The group of each row, and the columns that the rows of each group leave as they are. Usually one group."""
    if batch.unavailable:
        names = list(batch.unavailable)
        masks = np.column_stack([batch.unavailable[name] for name in names])
        found, group = np.unique(masks, axis=0, return_inverse=True)
        left = [frozenset(name for name, is_left in zip(names, mask, strict=True) if is_left) for mask in found]
    else:
        group, left = np.zeros(len(batch), dtype=np.int64), [frozenset()]
    return np.where(batch.deletes(), DELETED, group.reshape(-1)), left
