"""Where an egress stands, as its table tells.

Owns the property `headrace.positions.<egress>.<topic>`: JSON, partition to next offset, of all partitions.

- It is in the summary of each snapshot that the egress commits, so rows and positions are one commit, and a table that
  is set back to an older snapshot has the positions of that one.
- The newest snapshot that holds it counts, among the ancestors of the current one: compaction, deletions and other
  egresses write snapshots without it.
- It is among the table's properties too, in the same commit, with its snapshot: there it survives when all snapshots
  that held it have expired. While its snapshot is there and is no ancestor, the table was set back, and it does not
  count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

_SNAPSHOT = "snapshot"
_POSITIONS = "positions"


def property_name(egress: str, topic: str) -> str:
    """Of snapshots and of the table."""
    return f"headrace.positions.{egress}.{topic}"


def snapshot_value(positions: Mapping[int, int]) -> str:
    return json.dumps({str(partition): offset for partition, offset in sorted(positions.items())})


def table_value(positions: Mapping[int, int], snapshot_id: int) -> str:
    return json.dumps({_SNAPSHOT: snapshot_id, _POSITIONS: json.loads(snapshot_value(positions))})


def held_positions(metadata: TableMetadata, name: str) -> dict[int, int]:
    """The next offset of each partition that the table holds rows of."""
    for snapshot in ancestors(metadata):
        properties = snapshot.summary.additional_properties if snapshot.summary is not None else {}
        if name in properties:
            return _parsed(json.loads(properties[name]))
    kept = metadata.properties.get(name)
    if kept is None:
        return {}
    value = json.loads(kept)
    was_set_back = metadata.snapshot_by_id(value[_SNAPSHOT]) is not None
    return {} if was_set_back else _parsed(value[_POSITIONS])


def ancestors(metadata: TableMetadata) -> Iterator[Snapshot]:
    """The current snapshot and those before it that have not expired, newest first."""
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = metadata.snapshot_by_id(parent) if parent is not None else None


def _parsed(value: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in value.items()}
