"""What reaches the target: modes, chosen and renamed columns, filters."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.contracts.contract import TopicKind
from headrace.egress.config import EgressConfig
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import Mode
from headrace.egress.view import View
from headrace.testing.sink_harness import ORDER, Stage, order, order_contract
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Row, Target


def deleted(number: int, **names: Any) -> Row:
    return {"id": number, "customer": None, "amount": None, "__delete": True, **names}


def run(stage: Stage, config: EgressConfig) -> list[Row]:
    target = Target()
    stage.deliver(MemoryConnector(target), config, stage.contract)
    return sorted(target.rows, key=lambda row: (next(iter(row.values())), row.get("__delete", False)))


@pytest.mark.parametrize(
    ("mode", "deletions", "skipped"), [(Mode.APPEND, [], 1), (Mode.UPSERT, [], 1), (Mode.REPLICATE, [deleted(1)], 0)]
)
def test_tombstones_by_mode(
    stage: Stage, make_config: MakeConfig, mode: Mode, deletions: list[Row], skipped: int
) -> None:
    """Only `replicate` hands deletions over, with nothing but the key; the others count them as skipped."""
    target = Target()
    stage.publish([order(1), order(2)])
    stage.delete([{"id": 1}])
    runner = stage.deliver(MemoryConnector(target), make_config(mode))
    assert [row for row in target.rows if "__delete" in row] == deletions
    assert (
        target.rows[-1:] == deletions or not deletions or target.rows.index(order(1)) < target.rows.index(deletions[0])
    )
    assert runner.counters.deletions_skipped == skipped


def test_changes_are_rows_except_in_append(tmp_path: Path, make_config: MakeConfig) -> None:
    """`upsert` takes the row after the change; `append` takes the envelope as it is, with its operation and before."""
    stage = Stage(tmp_path, order_contract(TopicKind.CHANGE), partitions=1)
    stage.publish_changes([("c", None, order(1)), ("u", order(1), order(1, amount=5.0)), ("d", order(1), None)])
    target = Target()
    stage.deliver(MemoryConnector(target), make_config(Mode.REPLICATE), stage.contract)
    # The envelope of the deletion and the tombstone behind it.
    assert target.rows == [order(1), order(1, amount=5.0), deleted(1), deleted(1)]
    history = Target()
    stage.deliver(MemoryConnector(history), make_config(name="history"), stage.contract)
    told = [(row["op"], row["before"], row["after"]) for row in history.rows]
    assert told == [("c", None, order(1)), ("u", order(1), order(1, amount=5.0)), ("d", order(1), None)]
    stage.close()


def test_chosen_and_renamed_columns(stage: Stage, make_config: MakeConfig) -> None:
    """`columns` gives the target's columns in its order under its names, the key's among them, deletions too."""
    stage.publish([order(1, amount=2.5)])
    stage.delete([{"id": 9}])
    rows = run(stage, make_config(Mode.REPLICATE, columns={"order_id": "id", "total": "amount"}))
    assert rows == [{"order_id": 1, "total": 2.5}, {"order_id": 9, "total": None, "__delete": True}]
    assert list(rows[0]) == ["order_id", "total"]


def test_a_filter_leaves_rows_out(stage: Stage, make_config: MakeConfig) -> None:
    """Rows for which it is false or null are left out; the condition may name columns that the target does not get."""
    stage.publish([order(1, amount=1.0), order(2, amount=5.0), {"id": 3, "customer": "c", "amount": None}])
    rows = run(stage, make_config(columns=["id"], filter="amount > 2"))
    assert rows == [{"id": 2}]


def test_a_row_that_no_longer_passes_is_deleted(stage: Stage, make_config: MakeConfig) -> None:
    """`replicate` with a filter: the row was in the target, its new version does not pass, so it goes."""
    stage.publish([order(1, amount=5.0)])
    stage.publish([order(1, amount=1.0)])
    assert run(stage, make_config(Mode.REPLICATE, filter="amount > 2")) == [order(1, amount=5.0), deleted(1)]


@pytest.mark.parametrize(
    ("mode", "more", "message"),
    [
        (
            Mode.APPEND,
            {"columns": ["id", "price"]},
            "topic 'orders' has no column 'price'; known: id, customer, amount",
        ),
        (Mode.UPSERT, {"columns": ["customer"]}, "key column 'id' is not among `columns`"),
        (Mode.APPEND, {"filter": "price > 1"}, "filter: .*price"),
        (Mode.APPEND, {"filter": "amount +"}, "filter: "),
        (Mode.APPEND, {"filter": "amount + 1"}, "filter gives Float64, not true or false"),
        (Mode.APPEND, {"filter": "amount > avg(amount)"}, "filter looks at other rows"),
        (Mode.APPEND, {"filter": "row_number() over (order by id) > 1"}, "filter"),
    ],
)
def test_views_that_cannot_be(make_config: MakeConfig, mode: Mode, more: dict[str, Any], message: str) -> None:
    """A mistake in `columns` or `filter` is told before anything is read, with the egress's name."""
    with pytest.raises(EgressInvalid, match=f"egress 'out': {message}"):
        View(make_config(mode, **more), order_contract())


def test_keyed_modes_need_a_key(make_config: MakeConfig) -> None:
    """A topic without key can only be appended."""
    contract = order_contract(TopicKind.EVENT)
    keyless = type(contract)(contract.topic, contract.schema)
    with pytest.raises(EgressInvalid, match="has no key, and mode upsert needs one; use mode append"):
        View(make_config(Mode.UPSERT), keyless)
    assert View(make_config(Mode.APPEND), keyless).contract.key == ()


def test_a_key_of_more_digits_than_polars_has(tmp_path: Path, make_config: MakeConfig) -> None:
    """A key is compared with its row, and rows of one key with each other, whatever the key's type."""
    wide = {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 2}
    stage = Stage(
        tmp_path, order_contract(schema={**ORDER, "fields": [{"name": "id", "type": wide}, *ORDER["fields"][1:]]})
    )
    one, other = Decimal("9" * 58 + ".25"), Decimal("-1.00")
    stage.publish([{**order(1), "id": one}, {**order(2), "id": other}])
    stage.delete([{"id": one}])
    target = Target()
    runner = stage.deliver(MemoryConnector(target), make_config(Mode.REPLICATE), stage.contract)
    assert not runner.counters.dead_letters
    assert [row["id"] for row in target.rows if "__delete" in row] == [one]
    assert {row["id"] for row in target.rows} == {one, other}
    stage.close()
