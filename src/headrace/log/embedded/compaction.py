"""Compaction: topics with `cleanup.policy=compact` keep the latest record of each key.

One pass over a partition, in steps of bounded work:

1. A window is chosen: the oldest records not looked at yet (`clean_offset` to `window_end`), when there are enough.
2. The latest offset of each key inside the window is read.
3. From the start of the partition to the end of the window, chunk by chunk, segments are written again without the
   records that the window supersedes. `window_next` remembers how far this came, across processes.
4. `clean_offset` moves to `window_end`. Tombstones before it now hide nothing any more; they are noted
   (`tombstone_offset`, `tombstone_ms`) and go in the first pass after `delete.retention.ms`, so that a slow reader
   of what they deleted meets them.

- Offsets stay as they are; the latest record of a key always stays, but for such a tombstone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.log.embedded.segments import Columns, Stored, concat_columns, decode, read_data, replace_segments, stored
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import Topic

WINDOW_BYTES_MAX = 32 * 1024 * 1024
"""Bounds the keys held in memory."""
CHUNK_BYTES_MAX = 8 * 1024 * 1024
"""Bounds how long one step holds the write lock."""
CHUNKS_MAX = 4
"""Chunks of one step."""
DIRTY_BYTES_MIN = 1024 * 1024
"""Below this a pass is not worth its writes."""


@dataclass(frozen=True, slots=True)
class _State:
    """How far the compaction of a partition is. `window_end` 0: no pass is under way."""

    clean_offset: int
    window_end: int
    window_next: int
    tombstone_offset: int
    tombstone_ms: int


class Compaction:
    """The compaction of one storage. Belongs to its thread."""

    def __init__(self, storage: Storage, clock: Callable[[], int]) -> None:
        self._storage, self._clock = storage, clock

    def step(self, topic: Topic, partition: int, *, forced: bool = False) -> bool:
        """Do some of a pass, if one is due; whether anything was done. `forced` starts one for any new record."""
        with self._storage.write() as connection:
            state = _open_window(connection, topic, partition, forced=forced)
        if state is None:
            return False
        with self._storage.snapshot() as connection:
            latest = _latest(connection, topic, partition, state)
        for _ in range(CHUNKS_MAX):
            with self._storage.write() as connection:
                if not self._rewrite_chunk(connection, topic, partition, latest):
                    break
        return True

    def _rewrite_chunk(
        self, connection: sqlite3.Connection, topic: Topic, partition: int, latest: pl.DataFrame
    ) -> bool:
        """Write some segments again, or end the pass; whether the window may have more."""
        state = _read_state(connection, topic, partition)
        if state is None or state.window_end == 0:
            return False
        age_ms = self._clock() - state.tombstone_ms
        is_due = age_ms >= int(topic.setting("delete.retention.ms"))
        segments = _chunk(connection, topic, partition, state)
        if not segments:
            _write_state(connection, topic, partition, _ended(state, is_due=is_due, now_ms=self._clock()))
            return False
        columns = _decode(connection, topic, partition, segments)
        kept = _kept(columns, latest, drop_tombstones_before=state.tombstone_offset if is_due else 0)
        if len(kept) < len(columns) or len(segments) > 1:
            replace_segments(connection, topic.topic_id, partition, segments, columns.take(kept))
        _write_state(connection, topic, partition, replace(state, window_next=segments[-1].last_offset + 1))
        return True


def _ended(state: _State, *, is_due: bool, now_ms: int) -> _State:
    """The state after a pass: the next tombstones are noted once those noted before are gone."""
    ended = replace(state, clean_offset=state.window_end, window_end=0, window_next=0)
    if state.tombstone_offset and not is_due:
        return ended
    return replace(ended, tombstone_offset=state.window_end, tombstone_ms=now_ms)


def _read_state(connection: sqlite3.Connection, topic: Topic, partition: int) -> _State | None:
    row = connection.execute(
        "SELECT clean_offset, window_end, window_next, tombstone_offset, tombstone_ms FROM partitions"
        " WHERE topic_id = ? AND partition = ?",
        (topic.topic_id, partition),
    ).fetchone()
    return None if row is None else _State(*row)


def _write_state(connection: sqlite3.Connection, topic: Topic, partition: int, state: _State) -> None:
    connection.execute(
        "UPDATE partitions SET clean_offset = ?, window_end = ?, window_next = ?, tombstone_offset = ?,"
        " tombstone_ms = ? WHERE topic_id = ? AND partition = ?",
        (*astuple(state), topic.topic_id, partition),
    )


def _open_window(connection: sqlite3.Connection, topic: Topic, partition: int, *, forced: bool) -> _State | None:
    """The state of the pass under way, or of a new one if there is enough to do."""
    state = _read_state(connection, topic, partition)
    if state is None or state.window_end:
        return state
    with closing(stored(connection, topic.topic_id, partition)) as segments:
        everything = list(segments)
    dirty = [segment for segment in everything if segment.last_offset >= state.clean_offset]
    dirty_bytes, all_bytes = sum(each.size for each in dirty), sum(each.size for each in everything)
    ratio = float(topic.setting("min.cleanable.dirty.ratio"))
    if not dirty or (not forced and (dirty_bytes < DIRTY_BYTES_MIN or dirty_bytes < ratio * all_bytes)):
        return None
    sizes = np.cumsum([segment.size for segment in dirty])
    last = max(0, int(np.searchsorted(sizes, WINDOW_BYTES_MAX, side="right")) - 1)
    state = replace(state, window_end=dirty[last].last_offset + 1, window_next=0)
    _write_state(connection, topic, partition, state)
    return state


def _latest(connection: sqlite3.Connection, topic: Topic, partition: int, state: _State) -> pl.DataFrame:
    """The latest offset of each key of the window."""
    keys: list[pl.DataFrame] = [pl.DataFrame(schema={"key": pl.Binary, "latest": pl.Int64})]
    with closing(stored(connection, topic.topic_id, partition, from_offset=state.clean_offset, data=True)) as segments:
        for segment in segments:
            if segment.last_offset >= state.window_end:
                break
            columns = decode(segment, f"{topic.name}[{partition}]")
            keys.append(pl.DataFrame({"key": pl.Series(columns.key, dtype=pl.Binary), "latest": columns.offset}))
    return pl.concat(keys).group_by("key").agg(pl.col("latest").max()).drop_nulls("key")


def _chunk(connection: sqlite3.Connection, topic: Topic, partition: int, state: _State) -> list[Stored]:
    chunk: list[Stored] = []
    size = 0
    with closing(stored(connection, topic.topic_id, partition, from_offset=state.window_next)) as segments:
        for segment in segments:
            if segment.last_offset >= state.window_end or size >= CHUNK_BYTES_MAX:
                break
            chunk.append(segment)
            size += segment.size
    return chunk


def _decode(connection: sqlite3.Connection, topic: Topic, partition: int, segments: list[Stored]) -> Columns:
    where = f"{topic.name}[{partition}]"
    return concat_columns([decode(read_data(connection, segment), where) for segment in segments])


def _kept(columns: Columns, latest: pl.DataFrame, *, drop_tombstones_before: int) -> npt.NDArray[np.int64]:
    """Rows to keep: the latest of their key, or of a key that the window does not have; and those without a key."""
    rows = pl.DataFrame(
        {
            "key": pl.Series(columns.key, dtype=pl.Binary),
            "offset": columns.offset,
            "is_tombstone": columns.value.is_null().to_numpy(zero_copy_only=False),
        }
    )
    found = rows.join(latest, on="key", how="left", maintain_order="left")
    is_superseded = (pl.col("latest") > pl.col("offset")).fill_null(False)
    is_done = pl.col("is_tombstone") & pl.col("key").is_not_null() & (pl.col("offset") < drop_tombstones_before)
    keep = found.select(~(is_superseded | is_done)).to_series().to_numpy()
    result: npt.NDArray[np.int64] = np.flatnonzero(keep).astype(np.int64)
    return result
