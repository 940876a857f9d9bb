"""What is kept beside a committed offset.

Owns the text that rides with each offset commit: progress and clocks that belong to exactly that position, so that a
restart or a move to another process never moves time back.

- A topic partition may feed several subtopologies, each with a progress of its own; the offset is the smallest.
- At most `CHECKPOINT_CHARACTERS_MAX` characters: the broker's default limit for commit metadata is 4 KiB.
- Ids of topics are cut to `TOPIC_ID_CHARACTERS`: enough to tell a topic from the one before it. They are left out
  where they do not fit.
- Times of origins are written as distances, so that a hundred partitions fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from headrace.engine.stream_time import BEFORE_ALL_MS, OriginMarks
from headrace.errors import HeadraceError
from headrace.log.port import OffsetAndMetadata, TopicPartition

CHECKPOINT_CHARACTERS_MAX = 4000
_compact = json.JSONEncoder(separators=(",", ":")).encode
TOPIC_ID_CHARACTERS = 8
TOPICS_KEPT_MAX = 256
"""Sources of the plans of a process; more are only told more slowly."""


class CheckpointTooLarge(HeadraceError):
    """The clocks of one partition do not fit beside its offset."""

    code = "engine.checkpoint_too_large"


class CheckpointUnreadable(HeadraceError):
    """An offset was committed by something else than headrace, or by a newer release."""

    code = "engine.checkpoint_unreadable"


class Progress(NamedTuple):
    """How far one subtopology is in one topic partition."""

    offset: int
    """The record to go on with."""
    rows_done: int = 0
    """Rows of that record which are processed already (repartition messages hold many)."""
    merged_ms: int = BEFORE_ALL_MS
    """Merge time of the last processed row."""
    stream_time_ms: int = BEFORE_ALL_MS
    """Stream time of the task."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress and clocks of one topic partition."""

    offset: int
    progress: Mapping[int, Progress] = field(default_factory=dict)
    """By subtopology; absent means: from `offset`, nothing known."""
    closing_ms: int = BEFORE_ALL_MS
    marks_ms: Mapping[int, int] = field(default_factory=dict)
    idle: frozenset[int] = frozenset()
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """The beginnings of the ids of the pipeline's sources: these offsets and clocks are about them."""

    def marks(self, expected: int) -> OriginMarks:
        return OriginMarks(expected, dict(self.marks_ms), set(self.idle), self.closing_ms)

    def of(self, subtopology: int) -> Progress:
        return self.progress.get(subtopology, Progress(self.offset))

    def to_commit(self, here: TopicPartition) -> OffsetAndMetadata:
        """As an offset with text. Raises `CheckpointTooLarge`."""
        raw: dict[str, object] = {}
        told = {index: each for index, each in self.progress.items() if each != Progress(self.offset)}
        if told:
            raw["q"] = {index: _packed(each, self.offset) for index, each in told.items()}
        if self.closing_ms != BEFORE_ALL_MS:
            raw["c"] = self.closing_ms
        if self.marks_ms:
            latest = max(self.marks_ms.values())
            raw["t"] = latest
            raw["o"] = {origin: latest - time_ms for origin, time_ms in self.marks_ms.items()}
        if self.idle:
            raw["i"] = sorted(self.idle)
        text = _compact(raw) if raw else ""
        if self.topic_ids:
            whole = (text[:-1] + "," if text else "{") + f'"d":{_topics_text(tuple(self.topic_ids.items()))}}}'
            text = whole if len(whole) <= CHECKPOINT_CHARACTERS_MAX else text
        if len(text) > CHECKPOINT_CHARACTERS_MAX:
            raise CheckpointTooLarge(
                f"{here.topic}[{here.partition}]: clocks of {len(self.marks_ms)} upstream tasks do not fit"
                " beside the offset",
                cure="use fewer partitions upstream of this repartition topic",
            )
        return OffsetAndMetadata(self.offset, text)

    @classmethod
    def from_commit(cls, here: TopicPartition, committed: OffsetAndMetadata) -> Checkpoint:
        """Raises `CheckpointUnreadable`."""
        if not committed.metadata:
            return cls(committed.offset)
        try:
            raw = json.loads(committed.metadata)
            latest = raw.get("t", BEFORE_ALL_MS)
            return cls(
                committed.offset,
                {int(index): _unpacked(each, committed.offset) for index, each in raw.get("q", {}).items()},
                int(raw.get("c", BEFORE_ALL_MS)),
                {int(origin): latest - distance for origin, distance in raw.get("o", {}).items()},
                frozenset(raw.get("i", ())),
                {str(topic): str(topic_id) for topic, topic_id in raw.get("d", {}).items()},
            )
        except (ValueError, AttributeError, TypeError) as error:
            raise CheckpointUnreadable(
                f"{here.topic}[{here.partition}]: the committed offset {committed.offset} carries unknown text",
                cure="check that no other program commits for this consumer group",
            ) from error


@lru_cache(maxsize=TOPICS_KEPT_MAX)
def _topics_text(topic_ids: tuple[tuple[str, str], ...]) -> str:
    """The same with every commit."""
    return _compact(dict(topic_ids))


def _packed(progress: Progress, base: int) -> list[int | None]:
    clocks = [None if ms == BEFORE_ALL_MS else ms for ms in (progress.merged_ms, progress.stream_time_ms)]
    return [progress.offset - base, progress.rows_done, *clocks]


def _unpacked(raw: list[int | None], base: int) -> Progress:
    ahead, rows_done, merged_ms, stream_time_ms = raw
    clocks = [BEFORE_ALL_MS if ms is None else int(ms) for ms in (merged_ms, stream_time_ms)]
    return Progress(base + int(ahead or 0), int(rows_done or 0), clocks[0], clocks[1])
