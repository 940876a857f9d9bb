"""Schema drift: what must change in a target so that it fits its contract.

Owns the comparison of a contract with a target's columns and the policy's verdict; the connector carries the steps out.

- Every difference is a step or an error, never ignored.
- A rename is known by the field's aliases alone: a guess could mix two columns.
- Steps come in the order rename, widen, add, drop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from headrace.contracts.contract import Contract
from headrace.egress.errors import DriftRefused
from headrace.egress.sdk import DriftPolicy

ColumnType = TypeVar("ColumnType")
"""What the connector knows a column's type by; equal types are the same."""


@dataclass(frozen=True, slots=True)
class DriftStep(Generic[ColumnType]):
    """One change of the target. `type` is None for rename and drop; `former` is the old name of a renamed column."""

    kind: Literal["rename", "widen", "add", "drop"]
    column: str
    type: ColumnType | None = None
    former: str = ""


def plan_drift(
    contract: Contract,
    wanted: Mapping[str, ColumnType],
    existing: Mapping[str, ColumnType],
    policy: DriftPolicy,
    *,
    target: str,
    widens: Callable[[ColumnType, ColumnType], bool],
) -> Sequence[DriftStep[ColumnType]]:
    """Steps from `existing` to `wanted` (column to type). `widens(old, new)` says whether every value of `old` is one
    of `new`; a target's column that is wider than wanted stays. Raises `DriftRefused`."""
    columns = dict(existing)
    renames: list[DriftStep[ColumnType]] = []
    for name in wanted:
        former = _former_name(contract, name, columns, wanted)
        if former is not None:
            _allow(policy.rename, "rename", f"{target}: column {former!r} is now {name!r}")
            columns[name] = columns.pop(former)
            renames.append(DriftStep("rename", name, former=former))
    widened = [
        DriftStep("widen", name, type=new)
        for name, new in wanted.items()
        if name in columns and columns[name] != new and not widens(new, columns[name])
    ]
    for step in widened:
        change = f"{target}: column {step.column!r} is {columns[step.column]}, the contract asks for {step.type}"
        if not widens(columns[step.column], wanted[step.column]):
            raise DriftRefused(change, cure="rename the column in the contract, or write to another table")
        _allow(policy.widen, "widen", change)
    added = [DriftStep("add", name, type=new) for name, new in wanted.items() if name not in columns]
    for step in added:
        _allow(policy.add, "add", f"{target}: column {step.column!r} is missing")
    surplus = [name for name in columns if name not in wanted]
    if policy.drop == "refuse" and surplus:
        raise DriftRefused(
            f"{target}: column {surplus[0]!r} is not in the contract", cure="set `drift: {drop: keep}`, or drop it"
        )
    dropped: list[DriftStep[ColumnType]] = (
        [DriftStep("drop", name) for name in surplus] if policy.drop == "apply" else []
    )
    return [*renames, *widened, *added, *dropped]


def _former_name(
    contract: Contract, name: str, columns: Mapping[str, ColumnType], wanted: Mapping[str, ColumnType]
) -> str | None:
    if name in columns:
        return None
    aliases = [alias.rpartition(".")[2] for alias in contract.schema.field(name).aliases]
    return next((alias for alias in aliases if alias in columns and alias not in wanted), None)


def _allow(verdict: str, step: str, change: str) -> None:
    if verdict == "refuse":
        raise DriftRefused(change, cure=f"set `drift: {{{step}: apply}}`, or change the table yourself")
