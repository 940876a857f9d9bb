"""Questions to the tables of a pipeline, against what its topics say and against plain dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace import col
from headrace.engine.build import user_schema
from headrace.engine.held_tables import HeldTable, NotHeld, tables_of
from headrace.engine.queries import Answer, NotHere, Question, answer
from headrace.flow.compile import compile_pipeline
from headrace.flow.plan import CompiledPipeline
from headrace.testing import Driver
from tests.engine.catalogue import CONTRACTS, PIPELINES
from tests.engine.test_every_step import BEGIN_MS, EVENTS, Event, feed, numbered, read_of

DECLARED = {each.topic: each for each in CONTRACTS}
ROWS_MAX = 1_000
Key = Mapping[str, Any]


def compiled(make: Callable[[], Any]) -> CompiledPipeline:
    return compile_pipeline(hr.pipeline(name=make.__name__, owner="tests")(make), DECLARED)


def held(one: CompiledPipeline, name: str) -> HeldTable:
    table = tables_of(one.plan)[name]
    assert isinstance(table, HeldTable), table
    return table


def asked(
    driver: Driver, one: CompiledPipeline, name: str, key: Key | None = None, *, limit: int = ROWS_MAX, **more: Any
) -> Answer:
    """The answer of the driver's worker, over all its partitions."""
    table = held(one, name)
    parts = next(worker for worker in driver._workers if worker.plan.name == one.plan.name)._parts
    task = next(each for each in parts.tasks.tasks if each.runner.index == table.holder.subtopology)
    keys = None
    if key is not None:
        types = user_schema(one.plan.step(table.held_by))
        names = zip(table.key, table.held_key, strict=True)
        keys = pl.DataFrame([pl.Series(theirs, [key[mine]], types[theirs]) for mine, theirs in names])
    return answer(parts, one.plan, table, Question(keys, tuple(sorted(task.partitions)), limit, **more))


def bag(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(str(sorted(row.items())) for row in rows)


def by_key(rows: list[dict[str, Any]], key: tuple[str, ...]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in key), []).append(row)
    return found


# Tables that are never finished


def lasting() -> Any:
    """Groups, rankings, joins of tables, aggregates of tables, row-wise steps below them, keys that expire."""
    people = hr.table("people")
    paid = hr.stream("payments").drop_nulls("who").group_by("who").agg(paid=hr.sum("paid"), n=hr.count())
    counted = people.group_by("city").agg(n=hr.count(), ranks=hr.sum("rank"))
    return (
        paid.to("paid.table"),
        paid.filter(col("paid") > 2).select("who", twice=col("paid") * 2).rename({"who": "name"}).to("rich.table"),
        hr.stream("orders").group_by("who").top_n(2, by="amount").to("top.table"),
        hr.stream("orders").group_by("amount", "who").agg(last=hr.last("id")).to("pairs.table"),
        people.join(paid, how="outer").to("joined.table"),
        people.expire("20ms").join(paid).to("living.table"),
        counted.to("cities.table"),
        counted.group_by("n").agg(cities=hr.count(), names=hr.collect("city")).to("sizes.table"),
        paid.expire("9ms").to("fresh.table"),
    )


LASTING = compiled(lasting)


@given(events=EVENTS, partitions=st.integers(1, 3), restart=st.booleans())
@settings(max_examples=5, deadline=None)
def test_answers_are_the_latest_rows_of_the_topic(events: list[Event], partitions: int, restart: bool) -> None:
    """Every key of every table, and all its rows at once; after a restore too. Keys without a row have none."""
    events = read_of(LASTING, numbered(events))
    with Driver(LASTING, contracts=CONTRACTS, partitions=partitions) as driver:
        feed(driver, events)
        if restart:
            driver.restart()
        for output in LASTING.plan.outputs:
            table = held(LASTING, output.topic)
            expected = list(driver.table(output.topic).values())
            whole = asked(driver, LASTING, output.topic)
            assert bag(whole.rows.to_dicts()) == bag(expected), output.topic
            assert not whole.pending.any()
            assert not whole.is_cut
            groups = by_key(expected, table.key)
            for key, rows in groups.items():
                found = asked(driver, LASTING, output.topic, dict(zip(table.key, key, strict=True)))
                assert bag(found.rows.to_dicts()) == bag(rows), (output.topic, key)
            nobody = dict.fromkeys(table.key, "nobody" if set(table.key) <= {"who", "name", "city"} else None)
            if tuple(nobody.values()) not in groups:
                assert not asked(driver, LASTING, output.topic, nobody).rows.height


# Windows


def windows() -> Any:
    grouped = hr.stream("orders").group_by("who")
    tumbling = grouped.window(hr.tumbling("10ms", grace="5ms"))
    return (
        tumbling.agg(n=hr.count(), total=hr.sum("amount")).to("tumbling", emit="final"),
        grouped.window(hr.hopping("20ms", "5ms", grace="3ms")).agg(last=hr.last("id")).to("hopping", emit="final"),
        grouped.window(hr.sliding("8ms", grace="6ms")).agg(most=hr.max("amount")).to("sliding", emit="final"),
        grouped.window(hr.session("4ms", grace="6ms")).agg(ids=hr.collect("id")).to("sessions", emit="final"),
        tumbling.top_n(2, by="amount").to("top", emit="final"),
        tumbling.agg(n=hr.count()).suppress(hr.until_closed()).to("once", kind="table"),
    )


WINDOWS = compiled(windows)


@given(events=EVENTS, partitions=st.integers(1, 3), restart=st.booleans())
@settings(max_examples=5, deadline=None)
def test_open_windows_are_what_their_close_will_say(events: list[Event], partitions: int, restart: bool) -> None:
    """What is asked before the windows close, marked as pending, is what the topic gets when time has moved on."""
    *events, _ = numbered(events)
    events = [event for event in read_of(WINDOWS, events) if event.row and event.row["id"] != -1]
    with Driver(WINDOWS, contracts=CONTRACTS, partitions=partitions) as driver:
        feed(driver, events)
        if restart:
            driver.restart()
        answers = {output.topic: asked(driver, WINDOWS, output.topic) for output in WINDOWS.plan.outputs}
        one_by_one = {
            topic: [
                row for who in (*"abc", None) for row in asked(driver, WINDOWS, topic, {"who": who}).rows.to_dicts()
            ]
            for topic in answers
        }
        before = {topic: len(driver.rows(topic)) for topic in answers}
        # A row of another key in every partition moves time beyond all windows.
        feed(driver, [last_order(name, BEGIN_MS + 1_000) for name in "defghijklmnop"])
        for topic, found in answers.items():
            came = [row for row in driver.rows(topic)[before[topic] :] if row["who"] in (*"abc", None)]
            assert bag(found.rows.to_dicts()) == bag(came), topic
            assert bag(one_by_one[topic]) == bag(came), topic
            assert found.pending.all()


def last_order(who: str, time_ms: int) -> Event:
    return Event("orders", {"id": -1, "who": who, "amount": 99, "tags": []}, {"who": who}, time_ms)


def tumbled() -> Any:
    grouped = hr.stream("orders").drop_nulls("who", "amount").group_by("who")
    return grouped.window(hr.tumbling("10ms", grace="5ms")).agg(n=hr.count(), total=hr.sum("amount")).to("tumbled")


TUMBLED = compiled(tumbled)


@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 60)), max_size=40))
@settings(max_examples=8, deadline=None)
def test_open_windows_against_a_dict(rows: list[tuple[str, int, int]]) -> None:
    """Counts and sums of the windows of a key that are open, one by one by their start, and no closed window."""
    opened: dict[str, dict[int, tuple[int, int]]] = {who: {} for who in "abc"}
    reached = 0
    for who, amount, at in rows:
        time_ms = BEGIN_MS + at
        reached = max(reached, time_ms)
        start = time_ms // 10 * 10
        if start + 15 > reached:
            n, total = opened[who].get(start, (0, 0))
            opened[who][start] = (n + 1, total + amount)
    with Driver(TUMBLED, contracts=CONTRACTS) as driver:
        for number, (who, amount, at) in enumerate(rows):
            row = {"id": number, "who": who, "amount": amount, "tags": []}
            driver.publish("orders", row, time=BEGIN_MS + at)
        for who, by_start in opened.items():
            expected = {start: each for start, each in by_start.items() if start + 15 > reached}
            found = asked(driver, TUMBLED, "tumbled", {"who": who}).rows
            starts = found["window_start"].dt.epoch("ms").to_list()
            assert dict(zip(starts, found.select("n", "total").rows(), strict=True)) == expected
            for start in (0, *by_start):
                one = asked(driver, TUMBLED, "tumbled", {"who": who}, window_start_ms=start)
                assert one.rows.select("n", "total").rows() == [expected[each] for each in expected if each == start]


# Tables that are read


def looked_up() -> Any:
    """By streams: with history, and the latest."""
    orders = hr.stream("orders")
    return (
        orders.join(hr.table("people", history="20ms"), on="who", as_of=True).to("as_of", key="who"),
        hr.stream("payments").join(hr.table("cities"), left_on="who", right_on="city").to("latest", key="who"),
    )


def waited_for() -> Any:
    """By streams whose rows wait, with history."""
    people = hr.table("people", history="20ms")
    return hr.stream("orders").join(people, on="who", as_of=True, grace="5ms").to("buffered", key="who")


def joined() -> Any:
    """By tables: both sides of a join on the keys."""
    people, cities = hr.table("people"), hr.table("cities")
    return people.join(cities, left_on="who", right_on="city", how="outer").to("both")


def referred_to() -> Any:
    """By a table that refers to it."""
    return hr.table("people").join(hr.table("cities"), left_on="city", how="left").to("living")


READERS = {make.__name__: compiled(make) for make in (looked_up, waited_for, joined, referred_to)}


@pytest.mark.parametrize(
    ("reader", "topics"),
    [("looked_up", "people cities"), ("waited_for", "people"), ("joined", "people cities"), ("referred_to", "cities")],
)
@given(events=EVENTS, partitions=st.integers(1, 3))
@settings(max_examples=5, deadline=None)
def test_a_table_that_is_read_answers_as_its_topic(
    reader: str, topics: str, events: list[Event], partitions: int
) -> None:
    """By the name of the topic, from whoever keeps its rows: the newest row by event time of each key where there is
    history, else the last one."""
    one = READERS[reader]
    has_history = reader in ("looked_up", "waited_for")
    newest: dict[str, dict[str, tuple[int, Any]]] = {"people": {}, "cities": {}}
    events = read_of(one, numbered(events))
    for event in events:
        (key,) = event.key.values()
        if event.topic == "people" and has_history and event.time_ms < newest["people"].get(key, (0, None))[0]:
            continue
        if event.topic in newest:
            newest[event.topic][key] = (event.time_ms, event.row)
    with Driver(one, contracts=CONTRACTS, partitions=partitions) as driver:
        feed(driver, events)
        for topic in topics.split():
            name = "who" if topic == "people" else "city"
            expected = {key: row for key, (_, row) in newest[topic].items() if row is not None}
            assert bag(asked(driver, one, topic).rows.to_dicts()) == bag(list(expected.values()))
            for key in ("a", "b", "c", "x", "y", "nobody"):
                found = asked(driver, one, topic, {name: key}).rows.to_dicts()
                assert found == ([expected[key]] if key in expected else [])


@given(events=EVENTS)
@settings(max_examples=6, deadline=None)
def test_a_table_that_is_taken_back_answers_as_its_topic(events: list[Event]) -> None:
    """A table made of a stream, which an aggregate over it keeps, is asked by the name of the step."""

    def taken_back() -> Any:
        payers = hr.stream("payments").drop_nulls("who").as_table("who", deleted=col("paid") == 0).named("payers")
        return payers.to("payers"), payers.group_by("paid", "who").agg(n=hr.count()).to("n")

    one = compiled(taken_back)
    expected: dict[str, dict[str, Any]] = {}
    events = read_of(one, numbered(events))
    for event in events:
        if event.row is not None and event.row["who"] is not None:
            expected.pop(event.row["who"], None)
            if event.row["paid"] != 0:
                expected[event.row["who"]] = event.row
    with Driver(one, contracts=CONTRACTS) as driver:
        feed(driver, events)
        for name in ("payers", "taken_back.payers"):
            assert bag(asked(driver, one, name).rows.to_dicts()) == bag(list(expected.values()))
            for who in "abc":
                rows = asked(driver, one, name, {"who": who}).rows.to_dicts()
                assert rows == [expected[each] for each in expected if each == who]


def test_what_suppress_holds_back_is_asked_and_marked() -> None:
    """The row of a key as it is now; pending while the topic has not got it."""

    def held_back() -> Any:
        counted = hr.stream("payments").drop_nulls("who").group_by("who").agg(n=hr.count())
        return counted.suppress(hr.until("5ms")).to("held")

    one = compiled(held_back)
    with Driver(one, contracts=CONTRACTS) as driver:
        driver.publish("payments", {"who": "a", "paid": 1}, time=BEGIN_MS)
        found = asked(driver, one, "held", {"who": "a"})
        assert (found.rows.to_dicts(), found.pending.tolist()) == ([{"who": "a", "n": 1}], [True])
        assert driver.rows("held") == []
        driver.publish("payments", {"who": "b", "paid": 1}, time=BEGIN_MS + 50)
        assert driver.rows("held") == [{"who": "a", "n": 1}]
        found = asked(driver, one, "held", {"who": "a"})
        assert (found.rows.to_dicts(), found.pending.tolist()) == ([{"who": "a", "n": 1}], [False])


# What a question may be


def test_rows_are_bounded_and_say_so() -> None:
    """At most the limit, from all partitions together; an answer that may lack rows is marked."""
    with Driver(LASTING, contracts=CONTRACTS, partitions=3) as driver:
        driver.publish("payments", [{"who": f"w{n}", "paid": n} for n in range(10)], time=BEGIN_MS)
        for limit, is_cut in ((1, True), (9, True), (10, False), (11, False)):
            found = asked(driver, LASTING, "paid.table", limit=limit)
            assert (found.rows.height, found.is_cut) == (min(limit, 10), is_cut)


def test_a_partition_that_is_elsewhere_is_refused() -> None:
    """Nothing is answered for it, not even that there is no row."""
    with Driver(LASTING, contracts=CONTRACTS, partitions=2) as driver:
        parts = driver._workers[0]._parts
        with pytest.raises(NotHere, match=r"partitions 7 of table 'paid\.table' are not in this process"):
            answer(parts, LASTING.plan, held(LASTING, "paid.table"), Question(None, (0, 7), 1))


def test_an_open_transaction_does_not_show() -> None:
    """After an abort the answer is what it was."""
    with Driver(LASTING, contracts=CONTRACTS) as driver:
        driver.publish("payments", {"who": "a", "paid": 1}, time=BEGIN_MS)
        driver.abort_next()
        driver.publish("payments", {"who": "a", "paid": 1}, time=BEGIN_MS)
        assert asked(driver, LASTING, "paid.table", {"who": "a"}).rows["paid"].to_list() == [2]


def test_every_table_of_every_pipeline_is_held_or_says_why() -> None:
    """All steps there are: no table is forgotten, and each one that cannot be asked gives its reason."""
    for name, make in PIPELINES.items():
        one = compile_pipeline(hr.pipeline(name=name, owner="tests")(make), DECLARED)
        tables = tables_of(one.plan)
        for step in one.plan.steps:
            if step.is_table and step.kind not in ("sink", "repartition"):
                assert f"{name}.{step.name}" in tables
        reasons = {each.reason for each in tables.values() if isinstance(each, NotHeld)}
        assert all(reason for reason in reasons)
    foreign = tables_of(compiled(PIPELINES["table_joins"]).plan)["living.table"]
    assert isinstance(foreign, NotHeld)
    assert "no step keeps them in memory" in foreign.reason
