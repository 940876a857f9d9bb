"""A user's coroutine per row, on the event loop beside the worker.

Owns the rows whose coroutine has not ended. Owns no changelog: a commit waits for them.

- Output is in input order, so results do not depend on how long a call takes.
- At most `concurrency` coroutines run at once; when as many rows wait as could take `PENDING_WAIT_MAX_S` in the worst
  case, `process` blocks (back-pressure).
- Rows of one `one_at_a_time_by` key run one after the other in their order, across frames and rollbacks.
- A row whose call fails or times out after all retries, or returns the wrong type, becomes a dead letter.
- `settled_closing_ms` tells which calls of `process` are done: time behind them may move on, never ahead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import structlog

from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.operator import SYSTEM_COLUMNS, OperatorContext, RowError
from headrace.engine.operators.map_rows import checked_row
from headrace.engine.operators.row_check import RowCheck, Values
from headrace.engine.settings import BATCH_RECORDS_LIMIT
from headrace.engine.user_errors import RAISED, describe
from headrace.flow.plan import Plan
from headrace.flow.steps import MapAsyncStep

PENDING_ROWS_MAX = 50_000
"""Rows handed to the loop and not yet output; bounds memory when the user's service is slow."""
PENDING_WAIT_MAX_S = 200.0
"""A commit waits at most about this long for the rows handed to the loop, however many of them time out: a consumer
that does not poll for five minutes loses its partitions."""
RETRY_BACKOFF_S = 0.05
"""First wait between tries of one row; doubles, up to `RETRY_BACKOFF_MAX_S`."""
RETRY_BACKOFF_MAX_S = 2.0
CANCEL_WAIT_S = 1.0
"""How long a coroutine that timed out has to end before the next one takes its place."""

Outcome = Values | RowError | None

log = structlog.get_logger("headrace.engine")


def pending_rows_max(step: MapAsyncStep) -> int:
    """Rows that may wait at once, so that none waits for longer than `PENDING_WAIT_MAX_S` and its own tries."""
    worst_s = (step.retries + 1) * (step.timeout_ms / 1000 + CANCEL_WAIT_S) + step.retries * RETRY_BACKOFF_MAX_S
    waves = max(1, int(PENDING_WAIT_MAX_S / worst_s))
    return min(PENDING_ROWS_MAX, step.concurrency * waves)


def handed_over_max(plan: Plan) -> int:
    """Rows that may go through a pipeline at once, so that none of its steps waits for longer than it may."""
    return min((pending_rows_max(s) for s in plan.steps if isinstance(s, MapAsyncStep)), default=BATCH_RECORDS_LIMIT)


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
        columns: Sequence[str],
        bridge: AsyncBridge,
    ) -> None:
        self._step, self._columns, self._bridge = step, list(columns), bridge
        self._check = RowCheck(step.columns)
        self._calls = _Calls(step, function, self._check)
        self._pending_rows_max = pending_rows_max(step)
        self._pending: deque[_Call] = deque()
        self._pending_rows = 0
        self.settled_closing_ms: Mapping[int, int] = {}
        """Closing time per partition of the last call of `process` whose rows are all out."""

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        closing_ms = dict(context.closing_time_ms())
        if not frame.height:
            if not self._pending:
                self.settled_closing_ms = closing_ms
            return self._collect(context, wait_below_rows=self._pending_rows_max)
        done = []
        for start in range(0, frame.height, self._pending_rows_max):
            piece = frame.slice(start, self._pending_rows_max)
            is_last = start + self._pending_rows_max >= frame.height
            self._submit(piece, closing_ms if is_last else {})
            done.append(self._collect(context, wait_below_rows=self._pending_rows_max))
        return pl.concat(done) if len(done) > 1 else done[0]

    def _submit(self, frame: pl.DataFrame, closing_ms: Mapping[int, int]) -> None:
        rows = frame.select(self._columns).to_dicts()
        by = self._step.one_at_a_time_by
        keys = frame.select(by).rows() if by else [None] * len(rows)
        self._pending.append(_Call(frame, self._bridge.submit(self._calls.run_all(rows, keys)), closing_ms))
        self._pending_rows += frame.height

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
            self.settled_closing_ms = call.closing_ms or self.settled_closing_ms
        if done:
            return pl.concat(done)
        return self._check.frame([]).hstack(pl.DataFrame(schema=dict(SYSTEM_COLUMNS)))

    def _output(self, frame: pl.DataFrame, outcomes: Sequence[Outcome], context: OperatorContext) -> pl.DataFrame:
        errors = [outcome for outcome in outcomes if isinstance(outcome, RowError)]
        if errors:
            context.dead_letter(frame, errors)
        kept = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, tuple)]
        rows = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        return self._check.frame(rows).hstack(frame.select(*SYSTEM_COLUMNS)[kept])


class _Calls:
    """The coroutines of one step. Runs on the loop's thread only."""

    def __init__(self, step: MapAsyncStep, function: Callable[..., Coroutine[Any, Any, object]], check: RowCheck):
        self._step, self._function, self._check = step, function, check
        self._gate: asyncio.Semaphore | None = None
        self._last: dict[Hashable, asyncio.Future[None]] = {}
        """By key: done when the last row of that key is."""

    async def run_all(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[Hashable]) -> list[Outcome]:
        """The outcome of each row. What runs is cancelled with this coroutine."""
        if self._gate is None:
            self._gate = asyncio.Semaphore(self._step.concurrency)
        calls = []
        for index, (row, key) in enumerate(zip(rows, keys, strict=True)):
            one = self._run_one(index, row)
            # In its turn, or at once: the turns are taken here, in the order of the rows.
            calls.append(one if key is None else self._in_turn(key, self._last.get(key), self._turn(key), one))
        return list(await asyncio.gather(*calls))

    def _turn(self, key: Hashable) -> asyncio.Future[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last[key] = turn
        return turn

    async def _in_turn(
        self,
        key: Hashable,
        before: asyncio.Future[None] | None,
        mine: asyncio.Future[None],
        one: Coroutine[Any, Any, Outcome],
    ) -> Outcome:
        try:
            if before is not None:
                await asyncio.shield(before)
            return await one
        finally:
            one.close()
            if before is None or before.done():
                self._end_turn(key, mine)
            else:  # Cancelled while the row before still runs: whoever is next waits for that one.
                before.add_done_callback(lambda _: self._end_turn(key, mine))

    def _end_turn(self, key: Hashable, mine: asyncio.Future[None]) -> None:
        if not mine.done():
            mine.set_result(None)
        if self._last.get(key) is mine:
            del self._last[key]

    async def _run_one(self, index: int, row: Mapping[str, Any]) -> Outcome:
        backoff_s = RETRY_BACKOFF_S
        for attempt in range(self._step.retries + 1):
            if attempt:
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, RETRY_BACKOFF_MAX_S)
            outcome = await self._try(index, row)
            if not isinstance(outcome, _Failed):
                return outcome
            last = outcome.error
        return last

    async def _try(self, index: int, row: Mapping[str, Any]) -> Outcome | _Failed:
        assert self._gate is not None
        async with self._gate:
            task = asyncio.ensure_future(self._call(row))
            try:
                await asyncio.wait({task}, timeout=self._step.timeout_ms / 1000)
            finally:
                timed_out = not task.done()
                if timed_out:
                    await self._cancelled(task)
        if timed_out:
            return _Failed(RowError(index, "process.timeout", f"no result within {self._step.timeout_ms} ms"))
        if task.cancelled():
            return _Failed(RowError(index, RAISED, "CancelledError: the coroutine cancelled itself"))
        raised = task.exception()
        if raised is not None:
            return _Failed(RowError(index, RAISED, describe(raised)))
        return checked_row(index, task.result, self._check)

    async def _call(self, row: Mapping[str, Any]) -> object:
        try:
            return await self._function(row)
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would end the whole loop for these.
            raise RuntimeError(describe(error)) from error

    async def _cancelled(self, task: asyncio.Task[object]) -> None:
        """Cancel a task and give it a moment to end. One that does not is left behind."""
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_WAIT_S)
        if not task.done():
            log.warning("coroutine_goes_on", step=self._step.name, after_s=CANCEL_WAIT_S)
        task.add_done_callback(_look)


@dataclass(frozen=True, slots=True)
class _Failed:
    """A try that may be made again."""

    error: RowError


def _look(task: asyncio.Task[object]) -> None:
    """Take the result of a task that nobody waits for, so that asyncio does not report it as forgotten."""
    if not task.cancelled():
        task.exception()
