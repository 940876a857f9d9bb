"""How far a restore is, in words.

Owns the one line about it that `headrace status`, `headrace run` and `headrace dev` show.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.workspace.status import ComponentStatus


def restore_share(statuses: Iterable[ComponentStatus]) -> tuple[int, int] | None:
    """Records read and to read in all, over the instances that restore; None when none does."""
    found = [
        (each.restore_records_done, each.restore_records)
        for each in statuses
        if each.restore_records_done is not None and each.restore_records is not None
    ]
    return (sum(done for done, _ in found), sum(records for _, records in found)) if found else None


def restore_text(statuses: Iterable[ComponentStatus]) -> str:
    """Empty when nothing is restored."""
    share = restore_share(statuses)
    return "" if share is None else f"{share[0]:,} of {share[1]:,} records restored ({percent(*share)} %)"


def percent(done: int, records: int) -> int:
    """100 only when all is done."""
    return 100 if done >= records else 100 * done // records
