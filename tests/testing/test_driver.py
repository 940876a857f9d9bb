"""`headrace.testing.Driver`: what goes in, what comes out, and that nothing else decides it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace import col, when
from headrace.contracts.contract import Contract
from headrace.flow.compile import compile_pipeline
from headrace.testing import Driver, DriverMisused, contract

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

RIDES = contract("rides", {"city": "string", "fare": "double", "at": "timestamp-millis"}, key="city", time="at")
CITIES = contract(
    "cities",
    {"city": "string", "country": "string", "since": "timestamp-millis"},
    key="city",
    kind="table",
    time="since",
)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def ride(city: str, seconds: float, fare: float = 1.0) -> dict[str, Any]:
    return {"city": city, "fare": fare, "at": at(seconds)}


@hr.pipeline
def per_minute() -> Any:
    """Rides by city and minute, and in all."""
    rides = hr.stream("rides")
    minutes = rides.group_by("city").window(hr.tumbling("1m", grace="10s")).agg(rides=hr.count(), fares=hr.sum("fare"))
    total = rides.group_by("city").agg(rides=hr.count()).named("total")
    return minutes.to("rides.minutely", emit="final"), total.to("rides.total")


@hr.pipeline
def with_country() -> Any:
    """Rides with the country of their city."""
    return hr.stream("rides").join(hr.table("cities"), on="city", how="left").to("rides.countries")


def test_final_results_come_when_their_window_is_over() -> None:
    """Nothing before the row that closes the window, then one row with the window's times."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", [ride("Rome", 0), ride("Rome", 30, 2.5)])
        assert driver.rows("rides.minutely") == []
        driver.publish("rides", ride("Oslo", 70))
        assert driver.rows("rides.minutely") == [
            {"city": "Rome", "window_start": at(0), "window_end": at(60), "rides": 2, "fares": 3.5}
        ]


def test_records_tell_key_time_and_the_input_that_made_them() -> None:
    """A table's records: one per key and batch, stamped with the last event time of the group."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", [ride("Rome", 0), ride("Rome", 30), ride("Oslo", 20)])
        driver.publish("rides", ride("Rome", 10))
        records = driver.records("rides.total")
    told = [(r.key, r.row["rides"] if r.row else None, r.timestamp_ms, r.batch, r.offset) for r in records]
    start = int(NOON.timestamp() * 1000)
    assert told == [
        ({"city": "Rome"}, 2, start + 30_000, 0, 0),
        ({"city": "Oslo"}, 1, start + 20_000, 0, 1),
        ({"city": "Rome"}, 3, start + 30_000, 1, 2),
    ]


def test_a_batch_is_one_commit() -> None:
    """Rows published in a block, or as `publish_many` is told, are committed together."""
    rows = [("rides", ride("Rome", n), None) for n in range(5)]
    with Driver(per_minute, contracts=[RIDES]) as driver:
        with driver.batch():
            for topic, row, _ in rows:
                driver.publish(topic, row)
            assert driver.rows("rides.total") == []
        assert [row["rides"] for row in driver.new_rows("rides.total")] == [5]
        driver.publish_many(rows, batches=[3, 2])
        assert [row["rides"] for row in driver.new_rows("rides.total")] == [8, 10]
        assert [record.batch for record in driver.records("rides.total")] == [0, 1, 2]
        with pytest.raises(DriverMisused, match="do not cut 5 rows"):
            driver.publish_many(rows, batches=[3])


def test_rows_are_processed_in_the_order_in_which_they_were_published() -> None:
    """A lookup sees the table as it was published before the row, whatever the event times and the batch."""
    text = {"key_encoding": "string", "partitions": 1}
    rides = contract("rides", {"city": "string", "n": "int"}, key="city", time="$timestamp", **text)
    cities = contract("cities", {"city": "string", "country": "string"}, key="city", kind="table", **text)
    with Driver(with_country, contracts=[rides, cities]) as driver:
        with driver.batch():
            driver.publish("rides", {"city": "Rome", "n": 1}, time=100)
            driver.publish("cities", {"city": "Rome", "country": "Italy"}, time=200)
            driver.publish("rides", {"city": "Rome", "n": 2}, time=50)
            driver.publish("cities", {"city": "Rome", "country": "Latium"}, time=10)
            driver.publish("rides", {"city": "Rome", "n": 3}, time=60)
            driver.delete("cities", {"city": "Rome"})
            driver.publish("rides", {"city": "Rome", "n": 4}, time=70)
        assert [row["country"] for row in driver.rows("rides.countries")] == [None, "Italy", "Latium", None]


def test_rows_that_were_moved_meet_the_others_by_event_time() -> None:
    """As in production: the rides go through a repartition topic here, to where the cities' keys are."""
    with Driver(with_country, contracts=[RIDES, CITIES]) as driver:
        with driver.batch():
            driver.publish("rides", ride("Rome", 20))
            driver.publish("cities", {"city": "Rome", "country": "Italy", "since": at(10)})
            driver.publish("rides", ride("Rome", 30))
            driver.publish("cities", {"city": "Rome", "country": "Latium", "since": at(40)})
        driver.publish("rides", ride("Rome", 25))
        assert [row["country"] for row in driver.rows("rides.countries")] == ["Italy", "Italy", "Latium"]


def test_a_topic_of_changes_is_published_as_envelopes() -> None:
    """Rows become Debezium creations, deletions delete by key; the pipeline sees a table."""
    fields = {"id": "long", "name": "string", "age": "int?"}
    people = contract("people", fields, key="id", kind="change")

    @hr.pipeline
    def names() -> Any:
        return hr.table("people").select("id", shout=col("name").str.to_uppercase()).to("names")

    with Driver(names, contracts=[people]) as driver:
        driver.publish("people", [{"id": 1, "name": "ann", "age": 3}, {"id": 2, "name": "bob", "age": None}])
        driver.delete("people", {"id": 1})
        assert driver.table("names") == {2: {"id": 2, "shout": "BOB"}}
        assert [record.is_tombstone for record in driver.records("names")] == [False, False, True]
        source = [record.row["op"] for record in driver.records("people") if record.row]
        assert source == ["c", "c", "d"]


def test_bad_records_become_dead_letters_with_their_bytes() -> None:
    """Bytes that are no row: typed, located, as they were; the good row beside them is processed."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        with driver.batch():
            driver.publish_bytes("rides", b"k", b"no row", headers=[("trace", b"7")])
            driver.publish("rides", ride("Rome", 0))
        (letter,) = driver.dead_letters()
        assert (letter.stage, letter.topic, letter.partition, letter.offset) == ("decode", "rides", 0, 0)
        assert (letter.key, letter.value, letter.headers) == (b"k", b"no row", (("trace", b"7"),))
        assert letter.code.startswith("decode.")
        assert letter.pipeline == "per_minute"
        assert driver.table("rides.total")["Rome"]["rides"] == 1


def test_a_row_that_does_not_fit_its_contract_is_the_tests_mistake() -> None:
    """It is refused before it is published, by topic, row and field."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        with pytest.raises(DriverMisused, match=r"rides: row 1 .*fare"):
            driver.publish("rides", [ride("Rome", 0), ride("Rome", 0) | {"fare": "much"}])
        with pytest.raises(DriverMisused, match=r"tip.*is not in the contract"):
            driver.publish("rides", ride("Rome", 0) | {"tip": 1})
        with pytest.raises(DriverMisused, match="did you mean 'rides'"):
            driver.publish("ride", ride("Rome", 0))
        with pytest.raises(DriverMisused, match="is no table"):
            driver.delete("rides", {"city": "Rome"})
        assert driver.rows("rides.total") == []


def test_late_rows_are_counted() -> None:
    """By step and reason."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", [ride("Rome", 0), ride("Rome", 100), ride("Rome", 5)])
        assert dict(driver.dropped) == {("aggregate_city", "late"): 1}
        assert driver.table("rides.total")["Rome"]["rides"] == 3


def test_a_restart_keeps_state_and_time() -> None:
    """Totals go on, open windows stay open, and what was late before is late after."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", [ride("Rome", 0), ride("Rome", 65)])
        driver.restart()
        driver.publish("rides", ride("Rome", 1))
        driver.restart()
        driver.publish("rides", ride("Rome", 75))
        driver.restart()
        driver.publish("rides", [ride("Rome", 2), ride("Rome", 140)])
        assert [(row["window_start"], row["rides"]) for row in driver.rows("rides.minutely")] == [
            (at(0), 2),
            (at(60), 2),
        ]
        assert driver.table("rides.total")["Rome"]["rides"] == 6
        assert driver.dropped.total() == 1


def test_a_release_that_cannot_take_over_the_state_is_refused() -> None:
    """A step of the same name that means another thing by its state."""

    @hr.pipeline(name="per_minute")
    def edited() -> Any:
        rides = hr.stream("rides")
        minutes = rides.group_by("city").window(hr.tumbling("1m")).agg(rides=hr.count(), fares=hr.sum("fare"))
        total = rides.group_by("city").agg(rides=hr.count(), fares=hr.sum("fare")).named("total")
        return minutes.to("rides.minutely", emit="final"), total.to("rides.total")

    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", ride("Rome", 0))
        with pytest.raises(hr.HeadraceError, match="total") as caught:
            driver.restart(edited)
        assert caught.value.code == "engine.state_means_another"


def test_an_aborted_transaction_is_done_again() -> None:
    """Rows, counts and dead letters are there once."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", ride("Rome", 0))
        driver.abort_next(times=3)
        with driver.batch():
            driver.publish("rides", [ride("Rome", 100), ride("Rome", 5)])
            driver.publish_bytes("rides", None, b"no row")
        assert [row["rides"] for row in driver.rows("rides.total")] == [1, 3]
        assert len(driver.rows("rides.minutely")) == 1
        assert driver.dropped.total() == 1
        assert len(driver.dead_letters()) == 1


def test_idle_close_follows_the_drivers_clock() -> None:
    """Windows of a silent partition close when the clock says so, not before."""

    @hr.pipeline
    def idle() -> Any:
        windows = hr.stream("rides").group_by("city").window(hr.tumbling("1m", idle_close="30s"))
        return windows.agg(rides=hr.count()).to("closed", emit="final")

    with Driver(idle, contracts=[RIDES], start=NOON) as driver:
        driver.publish("rides", ride("Rome", 0))
        driver.advance("20s")
        assert driver.rows("closed") == []
        driver.advance(10)
        assert [row["rides"] for row in driver.rows("closed")] == [1]
        assert driver.now == at(30)
        with pytest.raises(DriverMisused, match="forward"):
            driver.advance(-1)


class Nudges(hr.Processor):
    """After a ride, one row a minute by the wall clock, three times."""

    def on_row(self, row: dict[str, Any], context: hr.ProcessorContext) -> None:
        context.state = 0
        context.after("1m")

    def on_timer(self, context: hr.ProcessorContext) -> dict[str, Any]:
        context.state += 1
        if context.state < 3:
            context.after("1m")
        return {"city": context.key["city"], "number": context.state, "clock": context.now_ms}


def test_timers_fire_when_they_are_due() -> None:
    """Each at its own moment, however far a call advances; also after a restart."""

    @hr.pipeline
    def nudged() -> Any:
        schema = {"city": "string", "number": "int", "clock": "long"}
        return hr.stream("rides").process(Nudges(), by="city", schema=schema).to("nudges")

    with Driver(nudged, contracts=[RIDES], start=0) as driver:
        driver.publish("rides", ride("Rome", 0))
        driver.advance("59s")
        assert driver.rows("nudges") == []
        driver.restart()
        driver.advance("1h")
        assert [(row["number"], row["clock"]) for row in driver.rows("nudges")] == [
            (1, 60_000),
            (2, 120_000),
            (3, 180_000),
        ]


@hr.pipeline
def by_fare() -> Any:
    """Rides by fare: another key than they came with."""
    fares = hr.stream("rides").with_columns(fare=col("fare").cast(int))
    return fares.group_by("fare").window(hr.tumbling("1m")).agg(rides=hr.count()).to("by.fare", emit="final")


@pytest.mark.parametrize("partitions", [1, 3])
def test_partitions_do_not_change_results(partitions: int) -> None:
    """Through a repartition topic; with several partitions windows close once the silent ones are known to be."""
    cities = ["Rome", "Oslo", "Bern", "Lima", "Cairo"]
    with Driver(by_fare, contracts=[RIDES], partitions=partitions) as driver:
        for second in range(0, 300, 7):
            driver.publish("rides", ride(cities[second % 5], second, second % 3))
        driver.advance(5)
        found = {(row["window_start"], row["fare"]): row["rides"] for row in driver.rows("by.fare")}
        fares = [(at(second // 60 * 60), second % 3) for second in range(0, 300, 7)]
    expected = {each: fares.count(each) for each in fares if each[0] < at(240)}
    assert {each: count for each, count in found.items() if each[0] < at(240)} == expected
    assert driver.dropped.total() == 0


def test_broadcast_tables_are_read_up_to_the_row_that_asks() -> None:
    """In every partition, by any column, inside one batch too; a bad row of it is counted."""
    rates = contract("rates", {"currency": "string", "rate": "double"}, key="currency", kind="table")
    prices = contract("prices", {"item": "string", "currency": "string"}, key="item", time="$timestamp")

    @hr.pipeline
    def priced() -> Any:
        return hr.stream("prices").join(hr.broadcast("rates"), left_on="currency", how="left").to("priced")

    with Driver(priced, contracts=[rates, prices], partitions=3) as driver:
        with driver.batch():
            for number, rate in enumerate([1.5, 2.5, None, 3.5]):
                driver.publish("prices", [{"item": f"{number}{item}", "currency": "EUR"} for item in "abc"])
                if rate is None:
                    driver.delete("rates", {"currency": "EUR"})
                else:
                    driver.publish("rates", {"currency": "EUR", "rate": rate})
            driver.publish_bytes("rates", b"?", b"?")
        driver.abort_next()
        driver.publish("prices", {"item": "d", "currency": "EUR"})
        driver.restart()
        driver.publish("prices", {"item": "e", "currency": "EUR"})
        rates_by_item = {row["item"]: row["rate"] for row in driver.rows("priced")}
        expected = {f"{n}{item}": rate for n, rate in enumerate([None, 1.5, 2.5, None]) for item in "abc"}
        assert rates_by_item == {**expected, "d": 3.5, "e": 3.5}
        assert {step for step, _ in driver.dropped} == {"broadcast rates"}


def test_pipelines_read_each_others_topics() -> None:
    """In any order of arguments; each input goes all the way through."""

    @hr.pipeline
    def busy() -> Any:
        return hr.table("rides.total").filter(col("rides") >= 2).to("busy")

    with Driver(busy, per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", ride("Rome", 0))
        assert driver.table("busy") == {}
        driver.publish("rides", [ride("Rome", 1), ride("Oslo", 1)])
        assert driver.table("busy") == {"Rome": {"city": "Rome", "rides": 2}}
        driver.restart()
        driver.publish("rides", ride("Oslo", 1))
        assert set(driver.table("busy")) == {"Rome", "Oslo"}
        assert sorted(driver.plans) == ["busy", "per_minute"]


def test_coroutines_are_awaited() -> None:
    """`map_async` runs on its loop, and the batch waits for it; a call that fails is a dead letter."""

    async def doubled(row: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        if row["fare"] < 0:
            raise ValueError("a gift")
        return {"city": row["city"], "twice": row["fare"] * 2}

    @hr.pipeline
    def service() -> Any:
        schema = {"city": "string", "twice": "double"}
        return hr.stream("rides").map_async(doubled, schema=schema, retries=0).to("doubled")

    with Driver(service, contracts=[RIDES]) as driver:
        driver.publish("rides", [ride("Rome", 0, 2.0), ride("Rome", 1, -1.0), ride("Rome", 2, 3.0)])
        assert [row["twice"] for row in driver.rows("doubled")] == [4.0, 6.0]
        (letter,) = driver.dead_letters()
        assert (letter.stage, letter.code, letter.offset) == ("process", "process.function_raised", 1)
        assert "a gift" in letter.message


def test_state_can_be_looked_at() -> None:
    """As frames, by step; a step without state is named in the error."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        driver.publish("rides", [ride("Rome", 0), ride("Oslo", 0)])
        assert sorted(driver.state("total")["city"]) == ["Oslo", "Rome"]
        with pytest.raises(DriverMisused, match="did you mean 'total'"):
            driver.state("totals")


def test_contracts_come_from_a_folder_too(tmp_path: Path) -> None:
    """A workspace, its folder of contracts, or a mapping; compiled pipelines as well as decorated functions."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    lines = ["topic: rides", "owner: me", "key: city", "time: at", "fields:"]
    lines += ["  city: string", "  fare: double", "  at: timestamp-millis"]
    (folder / "rides.yaml").write_text("\n".join(lines))
    compiled = compile_pipeline(per_minute, {"rides": RIDES})
    given: list[tuple[Any, Any]] = [(per_minute, tmp_path), (per_minute, str(folder)), (compiled, {"rides": RIDES})]
    for pipeline, contracts in given:
        with Driver(pipeline, contracts=contracts) as driver:
            driver.publish("rides", ride("Rome", 0))
            assert driver.table("rides.total")["Rome"]["rides"] == 1
    with pytest.raises(DriverMisused, match="holds no contracts"):
        Driver(per_minute, contracts=tmp_path / "none")
    with pytest.raises(DriverMisused, match="no pipeline"):
        Driver(contracts=[RIDES])


def test_times_may_be_given_in_several_forms() -> None:
    """Milliseconds, texts, datetimes; one for all rows or one for each; by itself the event time, or the clock."""
    timeless: Contract = contract("ticks", {"n": "int"}, time="$timestamp")

    @hr.pipeline
    def copy() -> Any:
        return hr.stream("ticks").select("n").to("out")

    with Driver(copy, contracts=[timeless], start="2026-01-01T12:00:00") as driver:
        driver.publish("ticks", [{"n": 1}, {"n": 2}], time=[5, "1970-01-01T00:00:00.006+00:00"])
        driver.publish("ticks", {"n": 3}, time=datetime(1970, 1, 1, 1, tzinfo=UTC))
        driver.publish("ticks", {"n": 4})
        times = [record.timestamp_ms for record in driver.records("out")]
        assert times == [5, 6, 3_600_000, int(NOON.timestamp() * 1000)]
        with pytest.raises(DriverMisused, match="3 times for 1 rows"):
            driver.publish("ticks", [{"n": 3}], time=[1, 2, 3])
        with pytest.raises(DriverMisused, match="'noon' is no time"):
            driver.publish("ticks", {"n": 3}, time="noon")
        driver.publish("ticks", {"n": 5}, time=-5)  # No time of a record, as in production.
        assert [letter.stage for letter in driver.dead_letters()] == ["decode"]


def test_a_closed_driver_says_so() -> None:
    """Closing twice is fine, publishing is not."""
    driver = Driver(per_minute, contracts=[RIDES])
    driver.close()
    driver.close()
    with pytest.raises(DriverMisused, match="closed"):
        driver.publish("rides", ride("Rome", 0))


def test_a_contract_written_in_a_test_is_checked() -> None:
    """As one in a file, with the topic in place of the file's name."""
    with pytest.raises(hr.HeadraceError, match=r"the contract of 'ticks'.*'m'"):
        contract("ticks", {"n": "int"}, key="m")
    made = contract("ticks", {"n": "int", "k": "string"}, key=["n", "k"], partitions=3)
    assert (made.key, made.partitions, made.owner) == (("n", "k"), 3, "tests")


def test_a_release_may_write_other_columns() -> None:
    """After a restart with an edited pipeline its rows have what it writes now; older rows are read with nulls."""

    @hr.pipeline(name="labels")
    def before() -> Any:
        return hr.stream("rides").select("city", label=col("city") + "!").to("labels")

    @hr.pipeline(name="labels")
    def after() -> Any:
        return (
            hr.stream("rides")
            .select("city", label=col("city") + "?", dear=when(col("fare") > 5).then(True))
            .to("labels")
        )

    with Driver(before, contracts=[RIDES]) as driver:
        driver.publish("rides", ride("Rome", 0))
        driver.restart(after)
        driver.publish("rides", ride("Oslo", 0, fare=6.0))
        assert driver.rows("labels") == [
            {"city": "Rome", "label": "Rome!", "dear": None},
            {"city": "Oslo", "label": "Oslo?", "dear": True},
        ]


def test_the_package_loads_nothing_by_itself() -> None:
    """A connector's conformance tests need no engine."""
    code = (
        "import headrace.testing, sys; print([name for name in ('polars', 'headrace.engine') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_thousands_of_rows_a_second() -> None:
    """In one batch, and not too slow one by one."""
    with Driver(per_minute, contracts=[RIDES]) as driver:
        rows = [ride(f"city {n % 100}", n / 100) for n in range(20_000)]
        started = time.process_time()
        driver.publish("rides", rows)
        assert len(driver.table("rides.total")) == 100
        assert time.process_time() - started < 5
