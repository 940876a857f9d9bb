"""What no cut, abort or restart may change: every step, in pipelines with others.

The same rows, one batch for each, are the measure; then cut anywhere, with transactions aborted and everything in
memory thrown away in between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.flow.compile import compile_pipeline
from headrace.flow.plan import CompiledPipeline
from headrace.flow.steps import AnyStep
from headrace.testing import Driver
from tests.engine.catalogue import CONTRACTS, PIPELINES

BEGIN_MS = 1_000
DECLARED = {each.topic: each for each in CONTRACTS}
COMPILED: dict[str, CompiledPipeline] = {
    name: compile_pipeline(hr.pipeline(name=name, owner="tests")(make), DECLARED) for name, make in PIPELINES.items()
}


@dataclass(frozen=True)
class Event:
    """A record, in order of arrival."""

    topic: str
    row: dict[str, Any] | None
    key: dict[str, Any]
    time_ms: int


WHO = st.sampled_from(["a", "b", "c"])
TIMES = st.integers(0, 60)


def events_of(topic: str) -> st.SearchStrategy[Event]:
    """Records of one topic; for tables now and then a tombstone."""
    key = WHO if topic != "cities" else st.sampled_from(["x", "y"])
    key_name = "city" if topic == "cities" else "who"
    fields: dict[str, Any] = {
        "orders": {
            "amount": st.one_of(st.none(), st.integers(0, 9)),
            "tags": st.lists(st.sampled_from(["t", "u"]), max_size=2),
        },
        "payments": {"paid": st.integers(0, 3)},
        "people": {"city": st.sampled_from(["x", "y", "z", None]), "rank": st.one_of(st.none(), st.integers(0, 3))},
        "cities": {"land": st.sampled_from(["l", "m", None])},
    }[topic]
    nullable = st.one_of(key, st.none()) if topic in ("orders", "payments") else key
    gone = st.booleans() if topic in ("people", "cities") else st.just(False)
    return st.builds(
        lambda key, values, gone, time_ms: Event(
            topic, None if gone else {key_name: key, **values}, {key_name: key}, BEGIN_MS + time_ms
        ),
        nullable,
        st.fixed_dictionaries(fields),
        gone,
        TIMES,
    )


EVENTS = st.lists(st.one_of(*(events_of(topic) for topic in DECLARED)), min_size=1, max_size=40)


def numbered(events: list[Event]) -> list[Event]:
    """Orders have their arrival as id. A last record of each stream moves time beyond everything."""
    orders = [
        Event(e.topic, {"id": n, **(e.row or {})}, e.key, e.time_ms) if e.topic == "orders" else e
        for n, e in enumerate(events)
    ]
    end_ms = BEGIN_MS + 1_000
    last_order = {"id": -1, "who": "end", "amount": 99, "tags": []}
    return [
        *orders,
        Event("orders", last_order, {"who": "end"}, end_ms),
        Event("payments", {"who": "end2", "paid": 1}, {"who": "end2"}, end_ms),
    ]


def feed(driver: Driver, events: list[Event]) -> None:
    with driver.batch():
        for event in events:
            if event.row is None:
                driver.delete(event.topic, event.key, time=event.time_ms)
            else:
                driver.publish(event.topic, event.row, time=event.time_ms)


def results(driver: Driver, compiled: CompiledPipeline) -> dict[str, Any]:
    """Streams as a bag of rows with their times, tables as their last rows; dropped rows by step and reason."""
    found: dict[str, Any] = {}
    for output in compiled.plan.outputs:
        if output.topic.endswith(".table"):
            found[output.topic] = driver.table(output.topic)
        else:
            rows = [(str(record.row), record.timestamp_ms) for record in driver.records(output.topic)]
            found[output.topic] = Counter(rows)
    letters = Counter((letter.step, letter.code) for letter in driver.dead_letters())
    return {**found, "dropped": driver.dropped, "dead letters": letters}


def read_of(compiled: CompiledPipeline, events: list[Event]) -> list[Event]:
    topics = compiled.plan.source_topics()
    return [event for event in events if event.topic in topics]


@pytest.mark.parametrize("name", sorted(COMPILED))
@given(events=EVENTS, data=st.data())
@settings(max_examples=12, deadline=None)
def test_cuts_aborts_and_restarts_never_show(name: str, events: list[Event], data: st.DataObject) -> None:
    """One record at a time, or anything else: the same results, the same dropped rows, the same dead letters."""
    compiled = COMPILED[name]
    events = read_of(compiled, numbered(events))
    with Driver(compiled, contracts=CONTRACTS) as driver:
        for event in events:
            feed(driver, [event])
        expected = results(driver, compiled)
    with Driver(compiled, contracts=CONTRACTS) as driver:
        rest = events
        while rest:
            count = data.draw(st.integers(1, len(rest)), "batch")
            if data.draw(st.integers(0, 3), "fault") == 0:
                driver.abort_next()
            feed(driver, rest[:count])
            rest = rest[count:]
            if data.draw(st.integers(0, 3), "restart") == 0:
                driver.restart()
        found = results(driver, compiled)
    assert found == expected


def test_no_step_is_left_out() -> None:
    """A new kind of step needs a pipeline here."""
    used = {type(step) for compiled in COMPILED.values() for step in compiled.plan.steps}
    every = set(get_args(get_args(AnyStep)[0]))
    assert {step.__name__ for step in every - used} <= {"BroadcastJoinStep"}, "its table is in no transaction"
