"""Where copies of a pipeline's state come from.

Owns the choice between the file on this machine's disk and a snapshot kept elsewhere.

- A file whose offset the log has passed is of no use: a snapshot in the changelog replaced what it goes on from.
- Snapshots are fetched only when the disk has nothing; no trouble with them stops a restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from headrace.engine.local_state import LocalState, StateFile
from headrace.engine.snapshots import SnapshotDamaged, SnapshotStore, SnapshotsUnavailable, StatePlace
from headrace.errors import HeadraceError
from headrace.flow.values import StatefulStep
from headrace.log.port import TopicDescription

log = structlog.get_logger("headrace.engine")


class StateCopies:
    """Of one pipeline. Without a folder there are none."""

    def __init__(
        self,
        pipeline: str,
        environment: str,
        local: LocalState | None,
        snapshots: SnapshotStore | None,
        topics: Callable[[], Mapping[str, TopicDescription]],
    ) -> None:
        self._pipeline, self._environment = pipeline, environment
        self._local, self._snapshots, self._topics = local, snapshots, topics

    def open(self, step: StatefulStep, partition: int) -> StateFile | None:
        """The file of one partition, held for its new owner."""
        if self._local is None:
            return None
        topic_id = self._topics()[step.changelog].topic_id
        place = StatePlace(self._environment, self._pipeline, step.name, partition, topic_id)
        return self._local.open(place, step.fingerprint)

    def refresh(self, copy: StateFile, begin: int) -> bool:
        """Whether the copy can be gone on from in a changelog that begins at `begin`; a better one may be fetched."""
        if self._is_usable(copy, begin):
            return True
        if self._snapshots is None:
            return False
        try:
            newest = self._snapshots.newest(copy.place)
            if newest is None:
                return False
            copy.path.parent.mkdir(parents=True, exist_ok=True)
            self._snapshots.fetch(newest, copy.path)
        except (SnapshotsUnavailable, SnapshotDamaged, OSError) as error:
            code = error.code if isinstance(error, HeadraceError) else "os"
            log.warning("snapshot_unavailable", place=str(copy.place), code=code, reason=str(error))
            return False
        copy.reload()
        return self._is_usable(copy, begin)

    def _is_usable(self, copy: StateFile, begin: int) -> bool:
        if not copy.commit:
            return False
        if copy.offset < begin:
            copy.discard("the changelog begins behind it")
            return False
        return True
