"""`process`: a user's rows, states and timers equal a plain reference, however the rows are cut and restarted."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.engine.operator import SEQUENCE, SOURCE, STREAM_TIME, TIME, StatefulOperator
from headrace.engine.operators.process import Process
from headrace.flow.steps import ProcessStep
from headrace.flow.values import FunctionReference, Place
from tests.engine.operators.keyed_driver import END_MS, KeyedDriver, Played, columns_of, cuts, play, timed_rows
from tests.engine.reference import Row

SCHEMA = {"name": pl.String(), "number": pl.Int64()}
OUT = {"what": pl.String(), "name": pl.String(), "number": pl.Int64()}
REFERENCE = FunctionReference(name="p", place=Place(file="p.py", line=1), digest="d")


def make_step(by: Sequence[str] = ("name",)) -> ProcessStep:
    """A step over `SCHEMA`."""
    return ProcessStep(
        name="p", columns=columns_of(OUT), by=tuple(by), function=REFERENCE, changelog="c", fingerprint="f"
    )


def driver_of(processor: hr.Processor, by: Sequence[str] = ("name",)) -> KeyedDriver:
    """The processor at work."""

    def make() -> StatefulOperator:
        return Process(make_step(by), processor, SCHEMA)

    return KeyedDriver(make, SCHEMA)


class Orders(hr.Processor):
    """Does everything a processor can, by the row's number."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        number = row["number"]
        seen = (context.state or {"rows": 0, "fired": 0}) | {}
        seen["rows"] += 1
        context.state = seen
        if number == 13:
            context.state = None
            return None
        if number % 4 == 0:
            context.at(context.time_ms + number)
        if number % 4 == 1:
            context.at(context.time_ms + 2 * number, "long")
        if number % 7 == 2:
            context.cancel()
        if number == 7:
            context.at(0, "past")
        if number == 11:
            context.at(5, "never set")
            raise ValueError("eleven")
        if number == 12:
            return {"what": 3}
        rows = [{"what": "row", "name": row["name"], "number": seen["rows"]}] * (number % 3)
        return rows if number % 2 else iter(rows)

    def on_timer(self, context: hr.ProcessorContext) -> Any:
        state = context.state or {"rows": 0, "fired": 0}
        state["fired"] += 1
        context.state = state
        if state["fired"] == 4:
            raise RuntimeError("four")
        if state["fired"] % 3 == 1:
            context.at(context.time_ms + 3, "again")
        return {"what": context.timer, "name": context.key["name"], "number": state["fired"] * 100 + state["rows"]}


class PlainOrders:
    """The same, one record at a time, with plain dicts."""

    def __init__(self) -> None:
        self.states: dict[Any, dict[str, int]] = {}
        self.timers: dict[int, list[tuple[int, Any, str]]] = {}
        self.out: list[tuple[Any, ...]] = []
        self.dead = 0
        self.streams: dict[Any, int] = {}

    def run(self, rows: Sequence[Row]) -> None:
        """All rows, then the end of time."""
        for row in rows:
            self.fire(row.partition, row.stream_time_ms)
            self.row(row)
        for partition in (0, 1):
            self.fire(partition, END_MS)

    def set(self, partition: int, name: Any, timer: str, at: int, stream: int) -> None:
        """Set or move a timer."""
        self.unset(partition, name, timer)
        heapq.heappush(self.timers.setdefault(partition, []), (at, name, timer))
        self.streams[partition, name, timer] = max(at, stream)

    def unset(self, partition: int, name: Any, timer: str) -> None:
        """Take a timer back."""
        waiting = self.timers.get(partition, [])
        waiting[:] = [each for each in waiting if each[1:] != (name, timer)]
        heapq.heapify(waiting)

    def row(self, row: Row) -> None:
        """One row."""
        name, number = row.values["name"], row.values["number"]
        key = (row.partition, name)
        before = self.states.get(key, {"rows": 0, "fired": 0})
        if number in (11, 12):
            self.dead += 1
            return
        self.states[key] = {**before, "rows": before["rows"] + 1}
        if number == 13:
            del self.states[key]
            return
        if number % 4 == 0:
            self.set(row.partition, name, "", row.time_ms + number, row.stream_time_ms)
        if number % 4 == 1:
            self.set(row.partition, name, "long", row.time_ms + 2 * number, row.stream_time_ms)
        if number % 7 == 2:
            self.unset(row.partition, name, "")
        if number == 7:
            self.set(row.partition, name, "past", 0, row.stream_time_ms)
        out = ("row", name, before["rows"] + 1, row.partition, row.time_ms, row.stream_time_ms)
        self.out.extend([out] * (number % 3))

    def fire(self, partition: int, until: int) -> None:
        """Timers up to a time."""
        waiting = self.timers.setdefault(partition, [])
        while waiting and waiting[0][0] <= until:
            at, name, timer = heapq.heappop(waiting)
            stream = self.streams[partition, name, timer]
            before = self.states.get((partition, name), {"rows": 0, "fired": 0})
            state = {**before, "fired": before["fired"] + 1}
            if state["fired"] == 4:
                self.dead += 1
                continue
            self.states[partition, name] = state
            if state["fired"] % 3 == 1:
                self.set(partition, name, "again", at + 3, stream)
            self.out.append((timer, name, state["fired"] * 100 + state["rows"], partition, at, stream))


VALUES = st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c"]), "number": st.integers(0, 14)})


def as_tuples(played: Played) -> Iterator[tuple[Any, ...]]:
    """Rows as the reference has them."""
    for row in played.rows:
        yield row["what"], row["name"], row["number"], row["__partition"], row[TIME], row[STREAM_TIME]


@settings(max_examples=60, deadline=None)
@given(timed_rows(VALUES), cuts())
def test_rows_states_and_timers_equal_the_reference(rows: list[Row], pieces: list[tuple[int, str]]) -> None:
    """Outputs with their times, in order within a partition; dead letters; and the states that are left."""
    driver, plain = driver_of(Orders()), PlainOrders()
    played = play(driver, rows, pieces)
    plain.run(rows)
    found = list(as_tuples(played))
    for partition in (0, 1):
        assert [row for row in found if row[3] == partition] == [row for row in plain.out if row[3] == partition]
    assert len(played.dead) == plain.dead
    states, timers = {}, 0
    for partition in (0, 1):
        for piece in driver.operator.snapshot(partition, 1000):
            timers += piece.frame.height if piece.store == "timers" else 0
            if piece.store == "states":
                texts = zip(piece.frame["name"], piece.frame["__state"], strict=True)
                states |= {(partition, name): json.loads(text) for name, text in texts}
    assert states == plain.states
    assert timers == sum(map(len, plain.timers.values()))


@settings(max_examples=25, deadline=None)
@given(timed_rows(VALUES), cuts())
def test_rows_come_with_the_source_of_their_row(rows: list[Row], pieces: list[tuple[int, str]]) -> None:
    """A row's results carry its source and sequence, a timer's none; sequences never go back in a partition."""
    driver = driver_of(Orders())
    at = 0
    for length, _ in pieces:
        piece = rows[at : at + length]
        out = driver.batch(piece, {})
        at += length
        for row in out.iter_rows(named=True):
            if row["what"] == "row":
                assert row[SOURCE]["offset"] == row[SEQUENCE]
                assert piece[row[SEQUENCE]].values["name"] == row["name"]
            else:
                assert row[SOURCE] is None
        assert all(part[SEQUENCE].is_sorted() for part in out.partition_by("__partition"))


class Clock(hr.Processor):
    """Counts rows, and says so a minute later."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        context.state = (context.state or 0) + 1
        context.after("1m")
        return None

    def on_timer(self, context: hr.ProcessorContext) -> Any:
        count, context.state = context.state, None
        return {"what": f"{context.now_ms}", "name": context.key["name"], "number": count}


def test_timers_of_the_clock_fire_when_it_passes_them() -> None:
    """Not before, once, and after a restart and an abort again; they wait for no row."""
    driver = driver_of(Clock())
    driver.context.now = 1_000
    driver.batch([Row(0, 10, 10, {"name": "a", "number": 0}), Row(0, 10, 10, {"name": "b", "number": 0})])
    driver.context.now = 2_000
    driver.batch([Row(0, 10, 10, {"name": "a", "number": 0})])
    driver.commit()
    driver.restore()
    assert driver.operator.wake_at_ms() == 61_000  # type: ignore[attr-defined]
    driver.context.now = 60_999
    assert not driver.batch([]).height
    driver.context.now = 61_500
    first = driver.batch([], {0: 10}).select("what", "name", "number", TIME, STREAM_TIME).rows()
    assert first == [("61500", "b", 1, 61_000, 61_000)]
    driver.rollback()
    driver.context.now = 70_000
    again = driver.batch([], {0: 10}).select("what", "name", "number", TIME).rows()
    assert again == [("70000", "b", 1, 61_000), ("70000", "a", 2, 62_000)]
    driver.commit()
    driver.restore()
    assert not driver.batch([]).height
    assert driver.operator.keys_count() == {}
    assert driver.operator.wake_at_ms() is None  # type: ignore[attr-defined]


class Wrong(hr.Processor):
    """Each wrong thing that a call can do, by the row's number."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
        context.state = {"left": "behind"}
        context.at(1)
        match row["number"]:
            case 0:
                raise SystemExit(3)
            case 1:
                return "text"
            case 2:
                return {"what": "x", "nobody": "knows"}
            case 3:
                return {"number": 2**63}
            case 4:
                context.state = {"a": float("nan")}
            case 5:
                context.state = object()
            case 6:
                context.state = "x" * 2_000_000
            case 7:
                context.at(datetime(2024, 1, 1))  # noqa: DTZ001 - without a zone on purpose
            case 8:
                context.at(-1)
            case 9:
                context.after("soon")
            case 10:
                return ({"what": "endless"} for _ in iter(int, 1))
            case 11:
                return {"what": "\ud800"}
            case 12:
                return [None]
            case 13:
                context.at(1, 5)  # type: ignore[arg-type]
        return None


def test_a_wrong_call_is_a_dead_letter_and_does_nothing() -> None:
    """Whatever is wrong: the row goes to the dead letters, with no state, no timer and no rows of it left."""
    driver = driver_of(Wrong())
    rows = [Row(0, 10, 10, {"name": "a", "number": number}) for number in range(14)]
    assert not driver.batch(rows, {0: 10}).height
    assert [error.code for _, error in driver.context.dead] == ["process.function_raised"] * 14
    assert [row["number"] for row, _ in driver.context.dead] == list(range(14))
    driver.commit()
    assert driver.operator.keys_count() == {}
    assert "SystemExit: 3" in driver.context.dead[0][1].message


def test_a_timer_that_raises_is_a_dead_letter_of_its_own() -> None:
    """It shows its key, name and time, and is gone; the key's state stays."""

    class Fails(hr.Processor):
        def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
            context.state = 1
            context.at(datetime(1970, 1, 1, 0, 0, 20, tzinfo=UTC), "wake")

        def on_timer(self, context: hr.ProcessorContext) -> Any:
            context.state = 2
            context.at(context.time_ms)

    driver = driver_of(Fails())
    driver.batch([Row(0, 10, 10, {"name": "a", "number": 0})], {0: 10})
    driver.batch([], {0: 20_000})
    ((row, error),) = driver.context.dead
    assert (row["name"], row["timer"], row["timer_time_ms"], row[SOURCE]) == ("a", "wake", 20_000, None)
    assert "must be later" in error.message
    assert driver.operator.keys_count() == {0: 1}
    assert not driver.batch([], {0: END_MS}).height


def test_a_key_of_nulls_is_no_key() -> None:
    """All key columns null: counted and a dead letter. One of them null: a key like any other."""

    class Echo(hr.Processor):
        def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
            return {"what": "row", "name": context.key["name"], "number": context.key.get("number")}

    driver = driver_of(Echo(), by=("name", "number"))
    rows = [Row(0, 1, 1, values) for values in ({"name": None, "number": None}, {"name": None, "number": 1})]
    assert driver.batch(rows).select("name", "number").rows() == [(None, 1)]
    assert driver.context.dropped == {"null_key": 1}
    assert [error.code for _, error in driver.context.dead] == ["process.null_key"]


def test_state_is_what_it_is_when_the_call_returns() -> None:
    """A state changed in place counts; a row object kept by the user and changed later changes no row."""

    class Grows(hr.Processor):
        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
            if context.state is None:
                context.state = []
            context.state.append(row["number"])
            self.kept |= {"what": "row", "name": row["name"], "number": sum(context.state)}
            return self.kept

    driver = driver_of(Grows())
    out = driver.batch([Row(0, 1, 1, {"name": "a", "number": n}) for n in (1, 2, 3)])
    assert out["number"].to_list() == [1, 3, 6]


def test_many_rows_and_keys_take_microseconds_each() -> None:
    """100,000 rows of 20,000 keys, each with a state and a timer that fires."""

    class Counts(hr.Processor):
        def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
            context.state = (context.state or 0) + 1
            context.at(row["number"] + 1000)

        def on_timer(self, context: hr.ProcessorContext) -> Any:
            return {"what": "t", "name": context.key["name"], "number": context.state}

    driver = driver_of(Counts())
    batches = [
        [Row(0, n, n, {"name": f"k{n % 20_000}", "number": n}) for n in range(start, start + 10_000)]
        for start in range(0, 100_000, 10_000)
    ]
    began = time.process_time()
    rows = sum(driver.batch(each, {0: each[-1].time_ms}).height for each in batches)
    driver.commit()
    took_s = time.process_time() - began
    assert rows > 0
    assert took_s < 8, f"{took_s:.1f} s"


@pytest.mark.parametrize("spans", [1, 40])
def test_nothing_is_kept_of_keys_that_are_done(spans: int) -> None:
    """States that are taken away and timers that fired leave nothing behind."""

    class Once(hr.Processor):
        def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> Any:
            context.state = {"x": "y" * 100}
            context.at(context.time_ms + 10)

        def on_timer(self, context: hr.ProcessorContext) -> Any:
            context.state = None

    driver = driver_of(Once())
    for span in range(spans):
        rows = [Row(0, span * 100, span * 100, {"name": f"{span}-{n}", "number": n}) for n in range(500)]
        driver.batch(rows, {0: span * 100})
        driver.commit()
        driver.batch([], {0: span * 100 + 99})
        driver.commit()
        assert driver.operator.keys_count() == {}
    assert driver.operator.state_bytes() < 8_000_000
