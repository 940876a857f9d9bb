"""What is asked of connectors about the changes of a database.

Owns the tests of untold values, stale writes and truncations; `sink_conformance` has them among all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.contracts.contract import TopicKind
from headrace.contracts.debezium.unavailable import PLACEHOLDER
from headrace.egress.sdk import Capabilities, Mode
from headrace.testing.sink_harness import Stage, order, order_contract
from headrace.testing.sink_suite import SinkSuite, needs


def _keyed(can: Capabilities) -> bool:
    return Mode.REPLICATE in can.modes


@contextmanager
def _changes(folder: Path, partitions: int) -> Iterator[Stage]:
    stage = Stage(folder, order_contract(TopicKind.CHANGE), partitions=partitions)
    try:
        yield stage
    finally:
        stage.close()


def _untold(number: int, amount: float) -> dict[str, Any]:
    """A row whose customer the database did not log."""
    return {**order(number, amount=amount), "customer": PLACEHOLDER}


class ChangeTests(SinkSuite):
    """Rows that a database changed, as a `change` topic tells them."""

    def replicated(self, stage: Stage, folder: Path, **more: Any) -> list[dict[str, Any]]:
        """What the target holds once everything is delivered."""
        stage.deliver(self.connector(), self.config(folder, Mode.REPLICATE, **more), stage.contract)
        return self.rows(folder)

    @needs(lambda can: can.partial_update and _keyed(can))
    def test_untold_values_leave_the_column_alone(self, tmp_path: Path) -> None:
        """An unchanged large value: the column stays as it was, of rows of an earlier flush and of the same one; null
        where there was no such row, or it was deleted between."""
        with _changes(tmp_path, 1) as stage:
            stage.publish_changes([("c", None, order(1)), ("c", None, order(2)), ("c", None, order(3))])
            self.replicated(stage, tmp_path)
            stage.publish_changes(
                [
                    ("u", None, _untold(1, 10.0)),
                    ("c", None, order(4)),
                    ("u", None, _untold(4, 40.0)),
                    ("u", None, order(2, amount=2.5)),
                    ("u", None, _untold(2, 20.0)),
                    ("d", order(3), None),
                    ("c", None, _untold(3, 30.0)),
                    ("u", None, _untold(5, 50.0)),
                ]
            )
            found = self.replicated(stage, tmp_path)
            rows = [order(number, amount=10.0 * number) for number in (1, 2, 3, 4, 5)]
            assert found == self.expected(
                [{**row, "customer": None if row["id"] in (3, 5) else row["customer"]} for row in rows]
            )
            assert not stage.records("out.dlq")

    @needs(lambda can: not can.partial_update and _keyed(can))
    def test_untold_values_are_dead_letters(self, tmp_path: Path) -> None:
        """Where the target cannot leave a column alone: no stand-in becomes data, and the row stays as it was."""
        with _changes(tmp_path, 1) as stage:
            stage.publish_changes([("c", None, order(1)), ("u", None, _untold(1, 10.0))])
            assert self.replicated(stage, tmp_path) == self.expected([order(1)])
            assert len(stage.records("out.dlq")) == 1

    @needs(lambda can: can.refuses_stale and _keyed(can))
    def test_stale_writes_change_nothing(self, tmp_path: Path) -> None:
        """A row or a deletion that is older than what the target holds of its key, in a later flush and in one with a
        newer one; of equal age the later one counts."""
        with _changes(tmp_path, 1) as stage:
            stage.publish_changes([("c", None, order(number)) for number in (1, 2, 3)], positions=[50, 50, 50])
            self.replicated(stage, tmp_path)
            stage.publish_changes(
                [
                    ("u", None, order(1, amount=-1.0)),
                    ("d", order(2), None),
                    ("u", None, order(3, amount=33.0)),
                    ("u", None, order(4, amount=44.0)),
                    ("u", None, order(4, amount=-4.0)),
                ],
                positions=[40, 40, 50, 60, 55],
            )
            rows = [order(1), order(2), order(3, amount=33.0), order(4, amount=44.0)]
            assert self.replicated(stage, tmp_path) == self.expected(rows)
            stage.publish_changes([("u", None, order(1, amount=11.0)), ("d", order(2), None)], positions=[51, 51])
            rows = [order(1, amount=11.0), order(3, amount=33.0), order(4, amount=44.0)]
            assert self.replicated(stage, tmp_path) == self.expected(rows)

    @needs(lambda can: can.truncate and _keyed(can))
    def test_truncation_empties_the_target(self, tmp_path: Path) -> None:
        """Rows of earlier flushes and of the same one go, rows behind it stay; two of them are as one."""
        with _changes(tmp_path, 1) as stage:
            stage.publish_changes([("c", None, order(1)), ("c", None, order(2))], positions=[1, 2])
            self.replicated(stage, tmp_path, truncate="apply")
            stage.publish_changes([("c", None, order(3))], positions=[3])
            stage.publish_truncate(4)
            stage.publish_changes([("c", None, order(4))], positions=[5])
            stage.publish_truncate(6)
            stage.publish_changes([("c", None, order(2, amount=7.0))], positions=[7])
            found = self.replicated(stage, tmp_path, truncate="apply")
            assert found == self.expected([order(2, amount=7.0)])
            stage.publish_truncate(8)
            assert self.replicated(stage, tmp_path, truncate="apply") == []

    @needs(lambda can: can.truncate and can.refuses_stale and _keyed(can))
    def test_truncation_leaves_newer_rows(self, tmp_path: Path) -> None:
        """Partitions come in no order: what was written after the truncation stays, whatever was delivered first."""
        with _changes(tmp_path, 3) as stage:
            rows = [order(number) for number in range(12)]
            stage.publish_changes(_created(rows), positions=[number + 10 for number in range(12)])
            self.replicated(stage, tmp_path, truncate="apply")
            stage.publish_truncate(16)
            assert self.replicated(stage, tmp_path, truncate="apply") == self.expected(rows[6:])


def _created(rows: Sequence[dict[str, Any]]) -> list[tuple[str, None, dict[str, Any]]]:
    return [("c", None, row) for row in rows]
