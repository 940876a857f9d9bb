"""Names of steps, topics and columns.

Owns which names are allowed and how a step is called when the user does not say.

- A step's name comes from what the step does, so that edits elsewhere in the pipeline leave it alone: state and
  internal topics are found by it.
- Columns that begin with `__` are headrace's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from headrace.flow.errors import DuplicateName, NameInvalid
from headrace.flow.values import Place

STEP_NAME_CHARACTERS_MAX = 80
"""Leaves room for the pipeline's name and a suffix in Kafka's 249 characters of a topic name."""
TOPIC_NAME_CHARACTERS_MAX = 249
"""Kafka's bound."""
SYSTEM_PREFIX = "__"

_STEP_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NOT_IN_STEP_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def step_name(verb: str, parts: Iterable[str] = ()) -> str:
    """`verb` and what it works on: `aggregate_carrier_hour`. Long names end in a digest instead."""
    full = _NOT_IN_STEP_NAMES.sub("_", "_".join((verb, *parts))).strip("_")
    if len(full) <= STEP_NAME_CHARACTERS_MAX:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{full[: STEP_NAME_CHARACTERS_MAX - 9]}_{digest}"


def check_step_name(name: str, place: Place) -> str:
    """A name that the user chose for a step or a pipeline."""
    if not _STEP_NAME.match(name) or len(name) > STEP_NAME_CHARACTERS_MAX:
        raise NameInvalid(
            f"{name!r} cannot name a step or a pipeline, whose name becomes part of topic names",
            place=place,
            cure=f"use letters, digits, _ and - only, at most {STEP_NAME_CHARACTERS_MAX} of them",
        )
    return name


def check_topic_name(topic: str, place: Place) -> str:
    """A topic that a pipeline writes."""
    if not _TOPIC_NAME.match(topic) or len(topic) > TOPIC_NAME_CHARACTERS_MAX or topic in (".", ".."):
        raise NameInvalid(
            f"{topic!r} cannot name a topic",
            place=place,
            cure=f"use letters, digits, '.', '_' and '-' only, at most {TOPIC_NAME_CHARACTERS_MAX} of them",
        )
    if topic.startswith(SYSTEM_PREFIX):
        raise NameInvalid(f"topic {topic!r} begins with '__', which Kafka keeps for itself", place=place)
    return topic


def check_columns(names: Iterable[str], place: Place) -> None:
    """Output columns of a step: Avro names, none of headrace's own, none twice."""
    seen: set[str] = set()
    for name in names:
        if name.startswith(SYSTEM_PREFIX):
            raise NameInvalid(f"column {name!r} begins with '__', which headrace keeps for itself", place=place)
        if not _COLUMN_NAME.match(name):
            raise NameInvalid(
                f"{name!r} cannot name a column of a topic", place=place, cure="rename it with .alias('letters_1')"
            )
        if name in seen:
            raise DuplicateName(f"two columns are called {name!r}", place=place, cure="rename one with .alias(...)")
        seen.add(name)


class StepNames:
    """Hands out names of one plan."""

    def __init__(self) -> None:
        self._taken: dict[str, Place | None] = {}

    def reserve(self, name: str, place: Place) -> str:
        """A name that the user chose; theirs before any made up."""
        if name in self._taken:
            raise DuplicateName(f"two steps are called {name!r}", place=place, cure="give each .named() another name")
        self._taken[name] = place
        return name

    def give(self, base: str) -> str:
        """`base`, or `base_2`, `base_3` where it is taken."""
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken[name] = None
        return name
