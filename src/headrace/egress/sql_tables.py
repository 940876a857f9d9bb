"""What egresses into tables of databases have in common, whatever their SQL.

Owns names, checks and sentences that do not depend on the database; statements, sessions and types are
each connector's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from headrace.contracts.contract import Contract
from headrace.egress.batch import EgressBatch, Operation
from headrace.egress.errors import PositionMoved, TargetInvalid
from headrace.egress.sdk import Refused


def table_of(topic: str) -> str:
    """The table of a topic, where the options name none."""
    return topic.replace(".", "_").replace("-", "_")


def check_version_column(version: str | None, contract: Contract, egress: str) -> None:
    """Raises `TargetInvalid` where the contract's own column has the name."""
    if version in {each.name for each in contract.schema.fields}:
        message = f"{egress}: the contract has a column {version!r} of its own"
        raise TargetInvalid(message, cure="give `version_column` another name")


def without_truncations(
    batch: EgressBatch, *, code: str, refuses_stale: bool
) -> tuple[list[Refused], EgressBatch, npt.NDArray[np.int64]]:
    """Truncations that cannot be followed, the other rows, and which rows these were.

    Without versions a truncation would remove rows of other partitions that came after it.
    """
    rows = np.arange(len(batch))
    is_truncation = batch.operation == Operation.TRUNCATE
    if refuses_stale or not is_truncation.any():
        return [], batch, rows
    message = "the source table was emptied; rows from before are only known by a `version_column`"
    refused = [Refused(int(row), code, message) for row in rows[is_truncation]]
    return refused, batch.take(rows[~is_truncation]), rows[~is_truncation]


def check_kept(left: Mapping[int, int], held: Mapping[int, int], partitions: Sequence[int], egress: str) -> None:
    """Whether the positions that this process left are there. Raises `TargetInvalid`.

    Nothing but a person removes them. To read on from the beginning would write every row again that is in the table.
    """
    gone = [each for each in partitions if each in left and each not in held]
    if gone:
        message = f"{egress}: somebody removed the positions of partitions {', '.join(map(str, gone))} from the target"
        cure = "put them back; or empty the table, and start the egress again: it delivers the topic from its beginning"
        raise TargetInvalid(message, cure=cure)


def position_moved(table: str, topic: str, partitions: Sequence[int]) -> PositionMoved:
    """What to raise where another process wrote positions of these partitions."""
    numbers = ", ".join(map(str, partitions))
    message = f"{table}: another process delivered one of the partitions {numbers} of {topic}"
    return PositionMoved(message, cure="run this egress in one place")
