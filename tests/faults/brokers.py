"""A broker of a test's own, with a proxy before it, that can be stopped and started.

Owns both for the time of a `with` block; what a scene needs of them goes into its resources by `resources`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.broker import QUICK_OPTIONS, start_broker, stop_broker
from headrace.testing.kafka_jars import missing_programs
from headrace.testing.kafka_service import is_required
from tests.faults.proxy import Proxy


@dataclass(frozen=True, slots=True)
class OwnBroker:
    """A broker's folder and the ways to it."""

    home: Path
    bootstrap: str
    proxy: Proxy

    @property
    def resources(self) -> dict[str, Any]:
        """For `open_scene`."""
        return {"broker": self.home, "proxy": self.proxy}


@contextlib.contextmanager
def own_broker(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[OwnBroker]:
    """A new broker; the test is skipped where none can be had and none is required."""
    reason = missing_programs()
    if reason and not is_required():
        pytest.skip(reason)
    with Proxy() as proxy:
        broker = start_broker(home, owner_pid=os.getpid(), heap=QUICK_OPTIONS, proxy=proxy.address, settings=settings)
        assert broker.behind_proxy is not None
        proxy.forward_to(broker.behind_proxy)
        try:
            yield OwnBroker(home, broker.bootstrap, proxy)
        finally:
            stop_broker(home)


def start_again(home: Path) -> None:
    """The same broker, with its data and its ports."""
    start_broker(home, owner_pid=os.getpid(), heap=QUICK_OPTIONS)
