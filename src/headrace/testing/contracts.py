"""Contracts written in a test.

Owns `contract`, which takes what a contract file says and gives what loading the file would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from headrace.contracts.contract import Contract
from headrace.contracts.load import contract_of


def contract(
    topic: str, fields: Mapping[str, Any], *, key: str | Sequence[str] = (), time: str | None = None, **more: Any
) -> Contract:
    """The contract of a topic.

    `fields`, `key`, `time` and `more` (`kind`, `key_encoding`, `partitions`, ...) are the keys of a contract file.
    Raises what loading one raises.
    """
    said: dict[str, Any] = {"topic": topic, "owner": "tests", "fields": dict(fields), **more}
    if key:
        said["key"] = key if isinstance(key, str) else list(key)
    if time is not None:
        said["time"] = time
    return contract_of(yaml.safe_dump(said, sort_keys=False), f"the contract of {topic!r}")
