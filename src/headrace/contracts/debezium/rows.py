"""The sides of an envelope as rows.

Owns the reading of `before` and `after`, and the leaving out of values that the database did not give.
"""

from __future__ import annotations

from typing import Any

from headrace.contracts.debezium.change import Row
from headrace.contracts.debezium.payloads import Payload
from headrace.contracts.debezium.problems import INVALID_ENVELOPE, Unreadable
from headrace.contracts.debezium.unavailable import UnavailableValues


class Rows:
    """Reads rows of tables."""

    def __init__(self, unavailable: UnavailableValues) -> None:
        self._unavailable = unavailable

    def row(self, side: Payload, name: str) -> tuple[Row | None, tuple[str, ...]]:
        """The known columns of a side, and the names of the others. Raises `Unreadable`."""
        if side.value is None:
            return None, ()
        if not isinstance(side.value, dict):
            raise Unreadable(INVALID_ENVELOPE, f"{name} is no row")
        missing = tuple(column for column, value in side.value.items() if value in self._unavailable)
        known: dict[str, Any] = {
            column: side.field(column).meant(f"{name}.{column}") for column in side.value if column not in missing
        }
        return known, missing
