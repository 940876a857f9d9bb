"""`map_async`: every promise about coroutines that are slow, fail, block, or never come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pytest

from headrace.engine.async_bridge import AsyncBridge
from headrace.engine.operators import map_async as module
from headrace.engine.operators.map_async import MapAsync, pending_rows_max
from headrace.flow.steps import MapAsyncStep
from headrace.flow.values import FunctionReference, Place
from tests.engine.harness import wait_until
from tests.engine.operators.keyed_driver import Context, columns_of, to_frame
from tests.engine.reference import Row

SCHEMA = {"name": pl.String(), "number": pl.Int64()}
OUT = {"number": pl.Int64()}
REFERENCE = FunctionReference(name="f", place=Place(file="f.py", line=1), digest="d")


def make_step(concurrency: int = 4, timeout_ms: int = 5_000, retries: int = 0, by: Sequence[str] = ()) -> MapAsyncStep:
    """A step over `SCHEMA`."""
    return MapAsyncStep(
        name="m",
        columns=columns_of(OUT),
        function=REFERENCE,
        concurrency=concurrency,
        timeout_ms=timeout_ms,
        retries=retries,
        one_at_a_time_by=tuple(by),
    )


@pytest.fixture
def bridge() -> Iterator[AsyncBridge]:
    """A loop of its own."""
    made = AsyncBridge("test")
    yield made
    made.close()
    assert not made.is_running


def frame_of(numbers: Sequence[int], names: Sequence[str] = ()) -> pl.DataFrame:
    """Rows with these numbers."""
    given = names or ["a"] * len(numbers)
    return to_frame([Row(0, n, n, {"name": name, "number": n}) for n, name in zip(numbers, given, strict=True)], SCHEMA)


def run(operator: MapAsync, *frames: pl.DataFrame, context: Context | None = None) -> list[int | None]:
    """All frames, then a flush; the numbers that came out."""
    told = context or Context()
    out = [operator.process([frame], told) for frame in frames]
    return pl.concat([*out, operator.flush(told)])["number"].to_list()


def made(function: Callable[..., Any], bridge: AsyncBridge, **options: Any) -> MapAsync:
    """The operator over this function."""
    return MapAsync(make_step(**options), function, list(SCHEMA), bridge)


def test_at_most_so_many_run_at_once_and_rows_keep_their_order(bridge: AsyncBridge) -> None:
    """With calls of random length; the bound holds over all frames together, and is reached."""
    running, most = 0, 0
    generator = random.Random(1)
    lengths = {n: generator.random() / 100 for n in range(200)}

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(lengths[row["number"]])
        running -= 1
        return {"number": row["number"]}

    numbers = list(range(200))
    pieces = [frame_of(numbers[at : at + 30]) for at in range(0, 200, 30)]
    assert run(made(call, bridge, concurrency=7), *pieces) == numbers
    assert most == 7


def test_rows_of_a_key_run_one_after_the_other(bridge: AsyncBridge) -> None:
    """In their order and never at the same time, over frames; rows of other keys run beside them."""
    running: Counter[str] = Counter()
    together, begun = 0, []

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal together
        assert not running[row["name"]], "two rows of a key at once"
        running[row["name"]] += 1
        begun.append((row["name"], row["number"]))
        together = max(together, sum(running.values()))
        await asyncio.sleep(random.Random(row["number"]).random() / 100)
        running[row["name"]] -= 1
        return {"number": row["number"]}

    names = [random.Random(n).choice("abc") for n in range(90)]
    numbers = list(range(90))
    pieces = [frame_of(numbers[at : at + 10], names[at : at + 10]) for at in range(0, 90, 10)]
    context = Context()
    assert run(made(call, bridge, concurrency=8, by=["name"]), *pieces, context=context) == numbers
    assert not context.dead, "no call saw another one of its key"
    assert together == 3
    for name in "abc":
        mine = [number for each, number in begun if each == name]
        assert mine == sorted(mine)


def test_a_row_is_tried_again_with_growing_waits(bridge: AsyncBridge) -> None:
    """`retries` times; one that succeeds late comes out in its place, one that never does is a dead letter."""
    at: dict[int, list[float]] = {}

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        at.setdefault(row["number"], []).append(time.monotonic())
        if row["number"] == 1 or len(at[row["number"]]) < 3:
            raise ConnectionError("refused")
        return {"number": row["number"]}

    context = Context()
    assert run(made(call, bridge, retries=2), frame_of([0, 1, 2]), context=context) == [0, 2]
    assert [len(at[n]) for n in (0, 1, 2)] == [3, 3, 3]
    first, second = at[0][1] - at[0][0], at[0][2] - at[0][1]
    assert first >= module.RETRY_BACKOFF_S * 0.9
    assert second >= 2 * module.RETRY_BACKOFF_S * 0.9
    ((row, error),) = context.dead
    assert (row["number"], error.code, error.message) == (
        1,
        "process.function_raised",
        "ConnectionError: refused",
    )


def test_a_coroutine_that_never_returns_is_a_dead_letter(bridge: AsyncBridge) -> None:
    """It is cancelled after its timeout; its neighbours come out."""
    cancelled = threading.Event()

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        if row["number"] == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return {"number": row["number"]}

    context = Context()
    assert run(made(call, bridge, timeout_ms=50), frame_of([0, 1, 2]), context=context) == [0, 2]
    assert [error.code for _, error in context.dead] == ["process.timeout"]
    assert cancelled.is_set()


def test_a_coroutine_that_ignores_its_cancellation_holds_nobody_up(
    bridge: AsyncBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left behind after a moment, and its row is a dead letter."""
    monkeypatch.setattr(module, "CANCEL_WAIT_S", 0.05)
    over = threading.Event()

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        while row["number"] == 0 and not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return {"number": row["number"]}

    context = Context()
    assert run(made(call, bridge, concurrency=1, timeout_ms=50), frame_of([0, 1]), context=context) == [1]
    assert [error.code for _, error in context.dead] == ["process.timeout"]
    over.set()


def test_a_coroutine_that_blocks_the_loop_only_delays(bridge: AsyncBridge) -> None:
    """A blocking call in a coroutine holds up the loop, but no row is lost and none comes twice."""

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        if row["number"] == 0:
            time.sleep(0.2)
        return {"number": row["number"]}

    assert run(made(call, bridge, timeout_ms=10_000), frame_of([0, 1, 2])) == [0, 1, 2]


def wrong(kind: str) -> Any:
    """A coroutine function that gives something wrong."""

    async def call(row: dict[str, Any]) -> Any:
        match kind:
            case "text":
                return "text"
            case "unknown column":
                return {"nobody": 1}
            case "wrong type":
                return {"number": "one"}
            case "exit":
                raise SystemExit(2)
            case "interrupt":
                raise KeyboardInterrupt
            case "cancel":
                raise asyncio.CancelledError
            case "unprintable":

                class Mute(Exception):
                    def __str__(self) -> str:
                        raise ValueError("no words")

                raise Mute

    return call


@pytest.mark.parametrize("kind", ["text", "unknown column", "wrong type", "exit", "interrupt", "cancel", "unprintable"])
def test_a_wrong_result_or_exception_is_a_dead_letter(kind: str, bridge: AsyncBridge) -> None:
    """Whatever a coroutine does wrong costs its row, and the loop lives on."""
    context = Context()
    assert run(made(wrong(kind), bridge), frame_of([0, 1]), context=context) == []
    assert [error.code for _, error in context.dead] == ["process.function_raised"] * 2
    assert bridge.is_running

    async def fine(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"]}

    assert run(made(fine, bridge), frame_of([5])) == [5]


def test_none_drops_a_row_and_a_function_that_is_no_coroutine_is_told(bridge: AsyncBridge) -> None:
    """None leaves a row out without a dead letter; a plain function behind a partial is a dead letter."""

    async def odd(row: dict[str, Any]) -> dict[str, Any] | None:
        return {"number": row["number"]} if row["number"] % 2 else None

    context = Context()
    assert run(made(odd, bridge), frame_of(range(5)), context=context) == [1, 3]
    assert not context.dead
    assert run(made(lambda row: {"number": 1}, bridge), frame_of([1]), context=context) == []
    assert "TypeError" in context.dead[0][1].message


def test_a_rollback_cancels_what_runs_and_the_rows_come_again(bridge: AsyncBridge) -> None:
    """Cancelled coroutines end before the same key runs again; nothing of the aborted call comes out."""
    running: Counter[str] = Counter()
    cancelled: list[int] = []
    slow = True

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        assert not running[row["name"]], "two rows of a key at once"
        running[row["name"]] += 1
        try:
            await asyncio.sleep(30 if slow else 0)
        except asyncio.CancelledError:
            cancelled.append(row["number"])
            await asyncio.sleep(0.05)
            raise
        finally:
            running[row["name"]] -= 1
        return {"number": row["number"]}

    context = Context()
    operator = made(call, bridge, by=["name"])
    frame = frame_of([0, 1, 2, 3], ["a", "a", "b", "b"])
    assert not operator.process([frame], context).height
    wait_until(lambda: sum(running.values()) == 2, "two calls, one a key")
    operator.rollback()
    slow = False
    assert run(operator, frame, context=context) == [0, 1, 2, 3]
    assert sorted(cancelled) == [0, 2]
    assert not context.dead
    assert not operator._calls._last, "no turn is left over"


def test_time_behind_moves_only_with_rows_that_are_out(bridge: AsyncBridge) -> None:
    """The closing time of the output is that of the last frame whose rows are all out."""
    gate = threading.Event()

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return {"number": row["number"]}

    operator, context = made(call, bridge), Context()
    context.closing = {0: 10}
    operator.process([frame_of([])], context)
    assert operator.settled_closing_ms == {0: 10}
    context.closing = {0: 20}
    operator.process([frame_of([1])], context)
    context.closing = {0: 30}
    operator.process([frame_of([])], context)
    assert operator.settled_closing_ms == {0: 10}
    gate.set()
    operator.flush(context)
    assert operator.settled_closing_ms == {0: 20}
    operator.process([frame_of([])], context)
    assert operator.settled_closing_ms == {0: 30}


def test_rows_that_wait_are_bounded(bridge: AsyncBridge) -> None:
    """A frame larger than the bound is handed over in pieces; the bound follows from the worst case."""

    async def call(row: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"number": row["number"]}

    operator = made(call, bridge, concurrency=2, timeout_ms=60_000)
    assert operator._pending_rows_max == pending_rows_max(make_step(2, 60_000)) == 2 * 3
    numbers = list(range(50))
    assert run(operator, frame_of(numbers)) == numbers
    assert pending_rows_max(make_step(16, 10_000, 2)) == 16 * 5
    assert pending_rows_max(make_step(10_000, 1)) == module.PENDING_ROWS_MAX
