"""A user's coroutine per row, on the event loop beside the worker.

Owns the rows whose coroutine has not ended. Owns no changelog: a commit waits for them.

- Output is in input order, so results do not depend on how long a call takes.
- At most `concurrency` coroutines run at once; `PENDING_ROWS_MAX` rows wait, then `process` blocks (back-pressure).
- A row whose call fails, times out or returns the wrong type after all retries becomes a dead letter.
- `settled_rows` tells which calls of `process` are done: time behind them may move on, never ahead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.operator import SYSTEM_COLUMNS, OperatorContext, RowError
from headrace.engine.operators.map_rows import checked_row, describe, to_schema
from headrace.flow.plan import MapAsyncStep

PENDING_ROWS_MAX = 50_000
"""Rows handed to the loop and not yet output; bounds memory when the user's service is slow."""
RETRY_BACKOFF_S = 0.05
"""First wait between tries of one row; doubles, up to `RETRY_BACKOFF_MAX_S`."""
RETRY_BACKOFF_MAX_S = 2.0

Outcome = Mapping[str, Any] | RowError | None


@dataclass(slots=True)
class _Call:
    frame: pl.DataFrame
    future: concurrent.futures.Future[list[Outcome]]
    closing_ms: Mapping[int, int]


class MapAsync:
    """Rows in, coroutines beside, rows out in order."""

    def __init__(
        self,
        step: MapAsyncStep,
        function: Callable[..., Coroutine[Any, Any, object]],
        schema: Mapping[str, pl.DataType],
        columns: Sequence[str],
        bridge: AsyncBridge,
    ) -> None:
        self._step, self._function, self._schema = step, function, schema
        self._columns, self._bridge = list(columns), bridge
        self._pending: deque[_Call] = deque()
        self._pending_rows = 0
        self._gate: asyncio.Semaphore | None = None
        self.settled_closing_ms: Mapping[int, int] = {}
        """Closing time per partition of the last call of `process` whose rows are all out."""

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        closing_ms = dict(context.closing_time_ms())
        if frame.height:
            future = self._bridge.submit(self._run_all(frame.select(self._columns).to_dicts()))
            self._pending.append(_Call(frame, future, closing_ms))
            self._pending_rows += frame.height
        elif not self._pending:
            self.settled_closing_ms = closing_ms
        return self._collect(context, wait_below_rows=PENDING_ROWS_MAX)

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """Wait for every pending row, so that positions may be committed."""
        return self._collect(context, wait_below_rows=0)

    def rollback(self) -> None:
        """Forget pending rows; they are read again."""
        for call in self._pending:
            call.future.cancel()
        self._pending.clear()
        self._pending_rows = 0

    def _collect(self, context: OperatorContext, *, wait_below_rows: int) -> pl.DataFrame:
        done: list[pl.DataFrame] = []
        while self._pending and (self._pending_rows > wait_below_rows or self._pending[0].future.done()):
            call = self._pending[0]
            done.append(self._output(call.frame, call.future.result(), context))
            self._pending.popleft()
            self._pending_rows -= call.frame.height
            self.settled_closing_ms = call.closing_ms
        if done:
            return pl.concat(done)
        empty = pl.DataFrame(schema=dict(self._schema))
        return empty.hstack(pl.DataFrame(schema=dict(SYSTEM_COLUMNS)))

    def _output(self, frame: pl.DataFrame, outcomes: Sequence[Outcome], context: OperatorContext) -> pl.DataFrame:
        errors = [outcome for outcome in outcomes if isinstance(outcome, RowError)]
        if errors:
            context.dead_letter(frame, errors)
        kept = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Mapping)]
        rows = [outcome for outcome in outcomes if isinstance(outcome, Mapping)]
        return to_schema(rows, self._schema).hstack(frame.select(*SYSTEM_COLUMNS)[kept])

    async def _run_all(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        if self._gate is None:
            self._gate = asyncio.Semaphore(self._step.concurrency)
        return list(await asyncio.gather(*(self._run_one(index, row) for index, row in enumerate(rows))))

    async def _run_one(self, index: int, row: Mapping[str, Any]) -> Outcome:
        assert self._gate is not None
        async with self._gate:
            backoff_s = RETRY_BACKOFF_S
            for attempt in range(self._step.retries + 1):
                try:
                    result = await asyncio.wait_for(self._function(row), self._step.timeout_ms / 1000)
                except TimeoutError:
                    last = RowError(index, "process.timeout", f"no result within {self._step.timeout_ms} ms")
                except Exception as error:  # noqa: BLE001 - the row's dead letter carries it
                    last = RowError(index, "process.function_raised", describe(error))
                else:
                    return checked_row(index, lambda: result, self._schema)  # noqa: B023 - called at once
                if attempt < self._step.retries:
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, RETRY_BACKOFF_MAX_S)
            return last
