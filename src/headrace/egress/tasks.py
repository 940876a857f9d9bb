"""The tasks of one egress: several runners that deliver at the same time in one process.

Owns their threads and what becomes of all when one ends.

- Each task is a member of the egress's group with a connector, a batch and a thread of its own, so each has its own
  partitions: rows of a partition keep their order, and positions stay those of a partition.
- Pause, rate and replays are those of the egress. A breaker is that of a task, as each has its own connection.
- What stops one task stops the egress, with that reason; the others deliver first what they have in hand.
- One task runs on the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.egress.config import EgressConfig
from headrace.egress.pace import RateLimit
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import Connector
from headrace.egress.status import EgressStatus, together
from headrace.log.port import Log

STOP_LOOK_S = 0.1
"""How soon a stop reaches several tasks."""


class EgressTasks:
    """One egress. `run` on one thread; everything else from any."""

    def __init__(
        self,
        config: EgressConfig,
        connector: Callable[[], Connector],
        contract: Contract,
        log: Log,
        registry: Registry,
        workspace: str,
        paused: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connector` makes one for each task."""
        self.config = config
        paused, rate = paused or threading.Event(), RateLimit(config.rows_per_second_max, clock)
        self._replay_news = [threading.Event() for _ in range(config.tasks)]
        self.runners = [
            EgressRunner(
                config,
                connector(),
                contract,
                log,
                registry,
                workspace,
                paused=paused,
                replay_news=news,
                rate=rate,
                task=number if config.tasks > 1 else None,
                clock=clock,
            )
            for number, news in enumerate(self._replay_news)
        ]

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set or a task ends. Raises what ended it."""
        if len(self.runners) == 1:
            self.runners[0].run(stop)
            return
        ending, ended = threading.Event(), threading.Event()
        raised: list[BaseException] = []

        def run(runner: EgressRunner) -> None:
            try:
                runner.run(ending)
            except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
                raised.append(error)
            finally:
                ended.set()

        threads = [
            threading.Thread(target=run, args=(runner,), name=f"egress-{self.config.name}-{number}")
            for number, runner in enumerate(self.runners)
        ]
        for thread in threads:
            thread.start()
        try:
            while not stop.is_set():
                if ended.wait(STOP_LOOK_S):
                    break
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        if raised:
            raise raised[0]

    def look_for_replays(self) -> None:
        """Dead letters were replayed: there may be a topic to read that was not there."""
        for news in self._replay_news:
            news.set()

    def status(self) -> EgressStatus:
        """How it stands, all tasks together."""
        return together([runner.status() for runner in self.runners])
