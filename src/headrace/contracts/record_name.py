"""The Avro name of a topic's record.

Owns how a topic's name becomes an Avro name.

- `flights.departed` is `flights.Departed`: the last part names the record, the parts before are its namespace.
- The answer is a valid Avro name for every topic name, and the same everywhere.
"""

from __future__ import annotations

import re

_OTHER = re.compile(r"[^A-Za-z0-9_]", re.ASCII)
_BETWEEN = re.compile(r"[^A-Za-z0-9]+", re.ASCII)


def record_name(topic: str) -> str:
    """The full name of the record of a topic's rows."""
    parts = [part for part in topic.split(".") if part]
    namespace = ".".join(_part(part) for part in parts[:-1])
    name = pascal_case(parts[-1] if parts else topic)
    return f"{namespace}.{name}" if namespace else name


def nested_namespace(topic: str) -> str:
    """The namespace of the types defined inside a topic's record."""
    return ".".join(_part(part) for part in topic.split(".") if part)


def pascal_case(text: str) -> str:
    """`order-placed` and `order_placed` as `OrderPlaced`."""
    return _part("".join(word[0].upper() + word[1:] for word in _BETWEEN.split(text) if word) or "Record")


def _part(text: str) -> str:
    part = _OTHER.sub("_", text)
    return f"_{part}" if part[0].isdigit() else part
