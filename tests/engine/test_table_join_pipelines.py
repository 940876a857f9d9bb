"""Joins of tables as whole pipelines: several partitions, chains, restarts, aborted transactions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.testing import Driver, contract

PEOPLE = contract(
    "people",
    {"id": "string", "boss": "string?", "town": "string?", "name": "string"},
    key="id",
    kind="table",
    time="$timestamp",
)
TOWNS = contract("towns", {"town": "string", "people": "long"}, key="town", kind="table", time="$timestamp")
PAY = contract("pay", {"id": "string", "cents": "long"}, key="id", kind="table", time="$timestamp")
CONTRACTS = [PEOPLE, TOWNS, PAY]
PARTITIONS = {"people": 3, "towns": 2, "pay": 3}

Change = tuple[str, dict[str, Any] | None, dict[str, Any]]
"""Topic, row (None: deleted), key."""


def changes(seed: int, count: int) -> list[Change]:
    """Random changes of all three tables."""
    chance = random.Random(seed)
    made: list[Change] = []
    for _ in range(count):
        topic = chance.choice(["people", "people", "towns", "pay"])
        key = {"town": chance.choice("xyz")} if topic == "towns" else {"id": chance.choice("abcdef")}
        values: dict[str, Any] = {
            "people": {
                "boss": chance.choice(["a", "b", "c", None]),
                "town": chance.choice(["x", "y", "z", None]),
                "name": f"n{chance.randrange(9)}",
            },
            "towns": {"people": chance.randrange(100)},
            "pay": {"cents": chance.randrange(100)},
        }[topic]
        made.append((topic, None if chance.random() < 0.25 else {**key, **values}, key))
    return made


def final(given: list[Change]) -> dict[str, pl.DataFrame]:
    """What the tables hold in the end."""
    rows: dict[str, dict[Any, dict[str, Any]]] = {"people": {}, "towns": {}, "pay": {}}
    for topic, row, key in given:
        rows[topic].pop(tuple(key.values()), None)
        if row is not None:
            rows[topic][tuple(key.values())] = row
    schemas: Mapping[str, dict[str, Any]] = {
        "people": {"id": pl.String, "boss": pl.String, "town": pl.String, "name": pl.String},
        "towns": {"town": pl.String, "people": pl.Int64},
        "pay": {"id": pl.String, "cents": pl.Int64},
    }
    return {topic: pl.DataFrame(list(rows[topic].values()), schema=schemas[topic]) for topic in rows}


@hr.pipeline
def paid_people() -> Any:
    """By the keys of both, twice."""
    people, pay = hr.table("people").select("id", "name"), hr.table("pay")
    return people.join(pay, how="outer").join(pay, how="left", suffix="_again").to("out")


@hr.pipeline
def placed_people() -> Any:
    """By a foreign key."""
    return hr.table("people").select("id", "town").join(hr.table("towns"), left_on="town", how="left").to("out")


@hr.pipeline
def people_and_bosses() -> Any:
    """A table with itself, then again."""
    people = hr.table("people")
    boss = people.select("id", "town", chief=hr.col("name"), next="boss")
    return (
        people.select("id", "boss", "name")
        .join(boss, left_on="boss")
        .join(boss, left_on="next", how="left", suffix="_2")
        .select("id", "name", "chief", "chief_2")
        .to("out")
    )


@hr.pipeline
def placed_and_paid() -> Any:
    """A foreign key, then the keys, with the table of the beginning."""
    people = hr.table("people")
    placed = people.select("id", "town").join(hr.table("towns"), left_on="town")
    return placed.join(hr.table("pay"), how="left").join(people.select("id", "name")).to("out")


@hr.pipeline
def bosses_of_many() -> Any:
    """With a table that the pipeline makes."""
    heads = hr.table("people").group_by("boss").agg(heads=hr.count())
    return hr.table("people").select("id", "boss").join(heads, left_on="boss", how="left").to("out")


SQL: Mapping[Callable[[], Any], str] = {
    paid_people: (
        "SELECT coalesce(p.id, c.id) id, p.name, c.cents, c.cents cents_again FROM people p FULL JOIN pay c USING (id)"
    ),
    placed_people: "SELECT p.id, p.town, t.people FROM people p LEFT JOIN towns t USING (town)",
    people_and_bosses: (
        "SELECT p.id, p.name, b.name chief, d.name chief_2 FROM people p JOIN people b ON p.boss = b.id "
        "LEFT JOIN people d ON b.boss = d.id"
    ),
    placed_and_paid: (
        "SELECT p.id, p.town, t.people, c.cents, p.name FROM people p JOIN towns t USING (town) "
        "LEFT JOIN pay c USING (id)"
    ),
    bosses_of_many: (
        "SELECT p.id, p.boss, h.heads FROM people p LEFT JOIN "
        "(SELECT boss, count(*) heads FROM people WHERE boss IS NOT NULL GROUP BY boss) h USING (boss)"
    ),
}


@pytest.mark.parametrize("pipeline", SQL, ids=lambda pipeline: pipeline.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_result_is_the_sql_join_whatever_happens_on_the_way(pipeline: Any, seed: int) -> None:
    """Random changes in random batches over several partitions, with restarts and aborted transactions in between."""
    given, chance = changes(seed, 60), random.Random(seed)
    with Driver(pipeline, contracts=CONTRACTS, partitions=PARTITIONS) as driver:
        numbered = iter(enumerate(given))
        while batch := list(itertools.islice(numbered, chance.randrange(1, 9))):
            if chance.random() < 0.3:
                driver.abort_next()
            with driver.batch():
                for at, (topic, row, key) in batch:
                    if row is None:
                        driver.delete(topic, key, time=1_000 * at)
                    else:
                        driver.publish(topic, row, time=1_000 * at)
            if chance.random() < 0.2:
                driver.restart()
        table = driver.table("out")
    with duckdb.connect() as connection:
        for name, frame in final(given).items():
            connection.register(name, frame.to_arrow())
        result = connection.execute(SQL[pipeline])
        names = [each[0] for each in result.description]
        expected = {row[0]: dict(zip(names, row, strict=True)) for row in result.fetchall()}
    assert table == expected


def test_no_commit_shows_half_of_a_chain() -> None:
    """A change that goes through two joins of one task comes out once, whole."""
    with Driver(paid_people, contracts=CONTRACTS) as driver:
        driver.publish("people", {"id": "a", "boss": None, "town": None, "name": "Ada"})
        driver.publish("pay", {"id": "a", "cents": 1})
        driver.publish("pay", {"id": "a", "cents": 2})
        driver.delete("pay", {"id": "a"})
        shown = [(row["cents"], row["cents_again"]) for row in driver.rows("out")]
    assert shown == [(None, None), (1, 1), (2, 2), (None, None)]


class PlainJoin:
    """A join of two tables, one record at a time."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.sides: tuple[dict[str, tuple[Any, int]], ...] = ({}, {})

    def take(self, side: int, key: str, value: Any, time_ms: int) -> tuple[Any, int] | None:
        """What a record puts out: (result, time), or nothing."""
        before = self._result(key)
        self.sides[side][key] = (value, time_ms)
        after = self._result(key)
        if before is None and after is None:
            return None
        other, other_ms = self.sides[1 - side].get(key, (None, 0))
        return after, time_ms if other is None else max(time_ms, other_ms)

    def _result(self, key: str) -> Any:
        left, right = (side.get(key, (None, 0))[0] for side in self.sides)
        stands = {"inner": left and right, "left": left, "outer": left or right}[self.how]
        return (left, right) if stands else None


def chained(joins: list[PlainJoin], side: int, key: str, value: Any, time_ms: int) -> tuple[Any, int] | None:
    """The last that a chain of joins with the same right side says of a record; each join sees the right row first."""
    said: tuple[Any, int] | None = None
    for number, join in enumerate(joins):
        from_left = said if number else ((value, time_ms) if side == 0 else None)
        said = join.take(1, key, value, time_ms) if side == 1 else None
        if from_left is not None:
            said = join.take(0, key, *from_left) or said
    return said


@settings(max_examples=25, deadline=None)
@given(
    hows=st.lists(st.sampled_from(["inner", "left", "outer"]), min_size=1, max_size=3),
    records=st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from("ab"), st.one_of(st.none(), st.integers(1, 9)), st.integers(0, 20)
        ),
        min_size=4,
        max_size=14,
    ),
    data=st.data(),
)
def test_chains_say_the_last_of_what_single_records_would_say(
    hows: list[str], records: list[tuple[int, str, int | None, int]], data: st.DataObject
) -> None:
    """Event times out of order included: in any cut each batch's last row of a key, its time, its deletion."""
    fields = {"id": "string", "v": "long?"}
    # Plain text keys: the topics lie alike, and rows of a batch are taken in the order in which they were published.
    options: dict[str, Any] = {"key": "id", "kind": "table", "time": "$timestamp", "key_encoding": "string"}
    contracts = [contract(topic, fields, partitions=1, **options) for topic in ("left", "right")]

    @hr.pipeline
    def chain() -> Any:
        rows = hr.table("left").select("id", value=hr.col("v").cast(pl.String))
        for how in hows:
            joined = rows.join(hr.table("right"), how=how)
            parts = [hr.col(name).cast(pl.String).fill_null("-") for name in ("value", "v")]
            rows = joined.select("id", value=pl.concat_str(parts))
        return rows.to("out")

    joins = [PlainJoin(how) for how in hows]
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=len(records), max_size=len(records)))
    with Driver(chain, contracts=contracts) as driver:
        at, shown = 0, set[str]()
        for batch, size in enumerate(sizes):
            expected: dict[str, tuple[str | None, int]] = {}
            with driver.batch():
                for side, key, value, time_ms in records[at : at + size]:
                    topic = ("left", "right")[side]
                    if value is None:
                        driver.delete(topic, {"id": key}, time=time_ms)
                    else:
                        driver.publish(topic, {"id": key, "v": value}, time=time_ms)
                    said = chained(joins, side, key, None if value is None else str(value), time_ms)
                    if said is not None:
                        expected[key] = (_shown(said[0]), said[1])
            at += size
            found = [each for each in driver.records("out") if each.batch == batch]
            told = {each.key["id"]: (each.row and each.row["value"], each.timestamp_ms) for each in found}
            assert len(told) == len(found)
            # What came and went within the batch may or may not be deleted: nobody has seen it.
            told, expected = (
                {key: row for key, row in rows.items() if row[0] is not None or key in shown}
                for rows in (told, expected)
            )
            assert told == expected
            shown = (shown | told.keys()) - {key for key, row in told.items() if row[0] is None}
            if at >= len(records):
                break


def test_what_comes_and_goes_in_one_batch_leaves_its_time() -> None:
    """A row that a chain of joins sees for one batch only takes its partner's time with it: the deletion at its end is
    as late as record by record, however the records are cut, and whether a filter in between let the row through."""
    fields = {"id": "string", "v": "long?"}
    options: dict[str, Any] = {"key": "id", "kind": "table", "time": "$timestamp", "key_encoding": "string"}
    contracts = [contract(topic, fields, partitions=1, **options) for topic in ("left", "right")]

    @hr.pipeline
    def chain() -> Any:
        rows = hr.table("left").select("id", value="v").join(hr.table("right"), how="inner")
        rows = rows.select("id", value=hr.col("value") * 10).filter(hr.col("value") < 50)
        rows = rows.join(hr.table("right"), how="outer").select("id", value=hr.col("v"))
        return rows.join(hr.table("right"), how="inner").select("id", "value").to("out")

    def told(value: int, *, at_once: bool) -> list[tuple[Any, int]]:
        with Driver(chain, contracts=contracts) as driver:
            driver.publish("right", {"id": "b", "v": 1}, time=0)
            steps: list[Callable[[], object]] = [
                lambda: driver.publish("left", {"id": "b", "v": value}, time=17),
                lambda: driver.delete("right", {"id": "b"}, time=0),
            ]
            if at_once:
                with driver.batch():
                    for step in steps:
                        step()
            else:
                for step in steps:
                    step()
            return [(each.row and each.row["value"], each.timestamp_ms) for each in driver.records("out")]

    for value in (1, 9):
        assert told(value, at_once=False)[-1] == (None, 17)
        assert told(value, at_once=True)[-1] == (None, 17)


def _shown(result: Any) -> str | None:
    """As the pipeline writes it."""
    if result is None or isinstance(result, str):
        return result
    return "".join(_shown(each) or "-" for each in result)


def test_a_deletion_comes_once_and_only_for_what_stood() -> None:
    """No tombstone for a key that had no result."""
    with Driver(placed_people, contracts=CONTRACTS) as driver:
        driver.publish("towns", {"town": "x", "people": 1})
        driver.delete("people", {"id": "a"})
        driver.publish("people", {"id": "a", "boss": None, "town": "x", "name": "Ada"})
        driver.delete("people", {"id": "a"})
        driver.delete("people", {"id": "a"})
        assert [record.row is None for record in driver.records("out")] == [False, True]


def test_rows_without_a_foreign_key_are_counted_and_kept_as_dead_letters() -> None:
    """An inner join has nothing to say of them."""
    pipeline = hr.pipeline(name="p")(
        lambda: hr.table("people").join(hr.table("towns"), left_on="town").named("placed").to("out")
    )
    with Driver(pipeline, contracts=CONTRACTS) as driver:
        driver.publish("people", {"id": "a", "boss": None, "town": None, "name": "Ada"})
        assert driver.dropped == {("placed_subscribe", "null_key"): 1}
        assert [letter.code for letter in driver.dead_letters()] == ["process.null_key"]
