"""Dead letters of ingress and egress: records that could not be delivered, with their bytes and a typed reason.

Owns the `headrace.error.*` headers that these rooms write (the engine writes the same for its pipelines).

- Key, value and headers are the record's own; the headers of the error are added behind them.
- A header value is UTF-8 text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from headrace.log.columns import HeaderRow

PREFIX = "headrace.error."
PLACE = ("topic", "partition", "offset", "time")
"""Where the record came from."""
ORIGINAL = "original"
"""`false` where key and value are not those of a record."""
ROW = PREFIX + "row"
"""The row as it came to the step that failed, as an Arrow IPC stream (`headrace.engine.replay_rows`)."""
MESSAGE_CHARACTERS_MAX = 2_000
"""A message longer than this says nothing more, and headers count against the size of a record."""

Stage = Literal["decode", "process", "encode", "deliver"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a record is a dead letter."""

    stage: Stage
    code: str
    message: str


def header_texts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers as text by name; of several of one name the last. Those that are no text are left out."""
    found: dict[str, str] = {}
    for name, value in headers:
        try:
            found[name] = "" if value is None else value.decode()
        except UnicodeDecodeError:
            found.pop(name, None)
    return found


def error_headers(reason: Reason, *, pipeline: str, step: str, place: Mapping[str, object]) -> HeaderRow:
    """The headers of one dead letter. `place` has topic, partition, offset and time as far as they are known."""
    texts = {
        "stage": reason.stage,
        "code": reason.code,
        "message": reason.message[:MESSAGE_CHARACTERS_MAX],
        "pipeline": pipeline,
        "step": step,
        **place,
    }
    return [(PREFIX + name, str(text).encode()) for name, text in texts.items()]
