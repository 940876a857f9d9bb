"""Foreign-key joins one record at a time, plainly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.engine.operators.table_driver import Change


@dataclass
class ForeignReference:
    """Left rows are (foreign key, value), right rows (value,). `versioned`: left, right."""

    how: str
    versioned: tuple[bool, bool] = (False, False)
    left: dict[Any, Change] = field(default_factory=dict)
    right: dict[Any, Change] = field(default_factory=dict)
    """The newest change of each key; deletions too."""
    stands: set[Any] = field(default_factory=set)
    out_of_order: int = 0
    null_keys: int = 0

    def take(self, change: Change) -> list[tuple[Any, ...]]:
        """What this record puts out: (key, foreign key, left value, right value, time, stream time, deleted)."""
        rows = (self.left, self.right)[change.side]
        known = rows.get(change.key)
        if self.versioned[change.side] and known is not None and change.time_ms < known.time_ms:
            self.out_of_order += 1
            return []
        rows[change.key] = change
        if change.side == 1:
            touched = [mine for mine in self.left.values() if mine.values and mine.values[0] == change.key]
            return [row for mine in touched for row in self._said(mine, change, change.key)]
        old = known.values[0] if known and known.values else None
        new = change.values[0] if change.values else None
        if self.how == "inner" and change.values and new is None and old is None:
            self.null_keys += 1
        answered_by = new if change.values and (new is not None or self.how == "left") else old
        return self._said(change, change, answered_by)

    def match(self, foreign: Any) -> Change | None:
        """The right row of a foreign key."""
        found = self.right.get(foreign) if foreign is not None else None
        return found if found and found.values else None

    def result(self, mine: Change) -> tuple[Any, ...] | None:
        """(foreign key, left value, right value) of a left row."""
        if not mine.values:
            return None
        found = self.match(mine.values[0])
        if found is None:
            return (*mine.values, None) if self.how == "left" else None
        return (*mine.values, *(found.values or ()))

    def _said(self, mine: Change, trigger: Change, answered_by: Any) -> list[tuple[Any, ...]]:
        result = self.result(mine)
        if result is None and mine.key not in self.stands:
            return []
        (self.stands.discard if result is None else self.stands.add)(mine.key)
        found = self.match(answered_by)
        times = [trigger.time_ms, mine.time_ms, *([found.time_ms] if found else [])]
        end = (max(times), trigger.stream_time_ms, result is None)
        return [(mine.key, *(result or (None, None, None)), *end)]

    def table(self) -> dict[Any, tuple[Any, ...]]:
        """What stands: (foreign key, left value, right value) by key."""
        results = {key: self.result(mine) for key, mine in self.left.items()}
        return {key: result for key, result in results.items() if result is not None}
