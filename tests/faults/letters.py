"""Dead letters of a scene, as a test looks at them."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.log.columns import batch_records
from tests.faults.scene import Scene
from tests.faults.verdict import Topics

PREFIX = "headrace.error."


@dataclass(frozen=True, slots=True)
class Letter:
    """One of them; `about` holds its error headers without their prefix."""

    value: bytes | None
    about: dict[str, str]


def letters(scene: Scene, topic: str | None = None) -> list[Letter]:
    """All that are committed, by partition and offset."""
    batches = Topics(scene.environment, scene.workspace).batches(topic or scene.names.dead_letters)
    found = []
    for record in (record for batch in batches for record in batch_records(batch)):
        about = {k.removeprefix(PREFIX): (v or b"").decode() for k, v in record.headers if PREFIX in k}
        found.append(Letter(record.value, about))
    return found
