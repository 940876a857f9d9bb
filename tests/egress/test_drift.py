"""Schema drift: every difference between contract and target is a step or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.drift import DriftStep, plan_drift
from headrace.egress.errors import DriftRefused
from headrace.egress.sdk import DriftPolicy

WIDER = {("int", "long"), ("int", "text")}


def plan(
    wanted: Mapping[str, str],
    existing: Mapping[str, str],
    aliases: Mapping[str, list[str]] | None = None,
    **policy: Any,
) -> list[DriftStep[str]]:
    """Steps for columns of made-up types, of which `WIDER` says what widens to what."""
    fields = [{"name": name, "type": "string", "aliases": (aliases or {}).get(name, [])} for name in wanted]
    contract = Contract("t", AvroSchema.parse({"type": "record", "name": "T", "fields": fields}))
    return list(
        plan_drift(
            contract,
            wanted,
            existing,
            DriftPolicy(**policy),
            target="t",
            widens=lambda old, new: old == new or (old, new) in WIDER,
        )
    )


def test_nothing_to_do() -> None:
    """Equal columns in any order, and a target's column that is wider than asked for."""
    assert plan({"a": "int", "b": "text"}, {"b": "text", "a": "int"}) == []
    assert plan({"a": "int"}, {"a": "long"}) == []


def test_all_steps_in_their_order() -> None:
    """Rename, widen (the renamed column too), add, drop."""
    steps = plan(
        {"total": "long", "b": "text", "new": "int"},
        {"amount": "int", "b": "int", "old": "int"},
        aliases={"total": ["shop.amount"]},
        drop="apply",
    )
    assert steps == [
        DriftStep("rename", "total", former="amount"),
        DriftStep("widen", "total", type="long"),
        DriftStep("widen", "b", type="text"),
        DriftStep("add", "new", type="int"),
        DriftStep("drop", "old"),
    ]


def test_a_surplus_column_is_kept_unless_told() -> None:
    """Nothing is dropped by default: data in the target is nobody's to guess about."""
    assert plan({"a": "int"}, {"a": "int", "old": "int"}) == []


def test_no_rename_without_an_alias_and_none_away_from_a_wanted_column() -> None:
    """Likeness proves nothing, and an alias that is a column of the contract itself stays that column."""
    assert plan({"totals": "int"}, {"total": "int"}) == [DriftStep("add", "totals", type="int")]
    steps = plan({"a": "int", "b": "int"}, {"a": "int"}, aliases={"b": ["a"]})
    assert steps == [DriftStep("add", "b", type="int")]


@pytest.mark.parametrize(
    ("wanted", "existing", "aliases", "policy", "message"),
    [
        ({"a": "int", "b": "int"}, {"a": "int"}, {}, {"add": "refuse"}, "column 'b' is missing"),
        ({"a": "long"}, {"a": "int"}, {}, {"widen": "refuse"}, "column 'a' is int, the contract asks for long"),
        ({"b": "int"}, {"a": "int"}, {"b": ["a"]}, {"rename": "refuse"}, "column 'a' is now 'b'"),
        ({"a": "int"}, {"a": "int", "b": "int"}, {}, {"drop": "refuse"}, "column 'b' is not in the contract"),
        ({"a": "int"}, {"a": "text"}, {}, {}, None),
        ({"a": "date"}, {"a": "int"}, {}, {}, "column 'a' is int, the contract asks for date"),
    ],
)
def test_refusals_name_the_column(
    wanted: dict[str, str], existing: dict[str, str], aliases: Any, policy: Any, message: str | None
) -> None:
    """Each policy refuses its kind of step, with a cure; a type that does not widen is refused by none."""
    if message is None:
        assert plan(wanted, existing, aliases, **policy) == [], "the target's text holds every int"
        return
    with pytest.raises(DriftRefused, match=message) as raised:
        plan(wanted, existing, aliases, **policy)
    assert raised.value.cure
