"""Topics of one partition that keep the last record of each key: headrace's own small stores.

Owns making one, and the look whether a topic of that name is one.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.errors import HeadraceError
from headrace.log.port import Log, TopicExists, TopicSpec


def ensure_compacted(log: Log, spec: TopicSpec, refuse: Callable[[str], HeadraceError]) -> None:
    """Make the topic where there is none. Raises what `refuse` makes of the words for another kind of topic."""
    admin = log.admin()
    try:
        found = admin.topics(internal=True).get(spec.name)
        if found is None:
            try:
                admin.create_topics([spec])
            except TopicExists:
                found = admin.topics(internal=True)[spec.name]  # Another process was first.
        if found is None:
            return
        policy = found.config.get("cleanup.policy", "delete")
        if found.partitions != 1 or "compact" not in policy:
            raise refuse(f"{spec.name!r} has {found.partitions} partitions and cleanup.policy {policy!r}")
    finally:
        admin.close()
