"""Replays: dead letters on their way back to the step that failed.

Owns the form of records in replay topics, which `headrace dlq replay` writes, and pipelines and egress read.

- Key, value and headers are those of the record that failed, or of its patch; `headrace.error.*` headers that say where
  that record lies stay beside them.
- `headrace.replay.*` headers say which dead letter it was, how often that was replayed, and where the replay enters.
- A dead letter of a replayed record keeps `headrace.replay.of` and `headrace.replay.count`: so nothing is replayed for
  ever, and each replay's outcome can be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.log.dead_letters import ORIGINAL, PLACE, PREFIX, ROW, header_texts
from headrace.log.port import TopicPartition

REPLAY_PREFIX = "headrace.replay."
OF, COUNT = REPLAY_PREFIX + "of", REPLAY_PREFIX + "count"
STAGE, STEP, TASK = REPLAY_PREFIX + "stage", REPLAY_PREFIX + "step", REPLAY_PREFIX + "task"

Header = tuple[str, bytes | None]


class LetterPlace(NamedTuple):
    """Where a dead letter lies."""

    topic: str
    partition: int
    offset: int

    @property
    def text(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> LetterPlace:
        """Raises `ValueError`."""
        topic, partition, offset = text.rsplit("/", 2)
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Replay:
    """What the headers of a replay record say."""

    of: str
    """The dead letter (`LetterPlace.text`)."""
    count: int
    """How often the record was replayed, this time included."""
    stage: str
    step: str
    task: str
    """`<subtopology>_<partition>` that it is for."""
    row: bytes | None
    """The row as it came to the step (`headrace.error.row`); None where the record itself enters."""
    place: Mapping[str, str]
    """The `headrace.error.*` headers about where the record came from, by the rest of their names."""
    headers: tuple[Header, ...]
    """The record's own."""

    def to_headers(self) -> list[Header]:
        """All headers of the replay record."""
        texts = {OF: self.of, COUNT: str(self.count), STAGE: self.stage, STEP: self.step, TASK: self.task}
        texts |= {PREFIX + name: text for name, text in self.place.items()}
        row = [] if self.row is None else [(ROW, self.row)]
        return [*self.headers, *((name, text.encode()) for name, text in texts.items()), *row]

    @classmethod
    def of_headers(cls, headers: Sequence[Header]) -> Replay | None:
        """None where they are not those of a replay record."""
        texts = header_texts(headers)
        if not {OF, COUNT, STAGE, STEP, TASK} <= texts.keys() or not texts[COUNT].isdecimal():
            return None
        return cls(
            texts[OF],
            int(texts[COUNT]),
            texts[STAGE],
            texts[STEP],
            texts[TASK],
            dict(headers).get(ROW),
            {name: texts[PREFIX + name] for name in (*PLACE, ORIGINAL) if PREFIX + name in texts},
            own_headers(headers),
        )

    @property
    def source(self) -> tuple[TopicPartition, int] | None:
        """Where the record lies that failed, where it was one."""
        try:
            here = TopicPartition(self.place["topic"], int(self.place["partition"]))
            return here, int(self.place["offset"])
        except (KeyError, ValueError):
            return None

    @property
    def marks(self) -> tuple[Header, ...]:
        """What a dead letter of this replay keeps of it."""
        return (OF, self.of.encode()), (COUNT, str(self.count).encode())


def own_headers(headers: Sequence[Header]) -> tuple[Header, ...]:
    """Headers that headrace did not add."""
    return tuple(each for each in headers if not each[0].startswith((PREFIX, REPLAY_PREFIX)))


def replay_count(headers: Sequence[Header]) -> int:
    """How often the record of a dead letter was replayed before it became this one."""
    text = header_texts(headers).get(COUNT, "0")
    return int(text) if text.isdecimal() else 0
