"""`python -m bench peers`: its options, data, answers, measurements and results, and one short run on a real broker."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pytest
from bench.peers import benchmark, data, oracle, pacing, plot, report, systems
from bench.peers.installing import PeerMissing
from bench.peers.jobs import JOBS, Job
from bench.peers.processes import SystemProcess
from bench.peers.rows import Row
from bench.peers.systems import SCHEMAS, SYSTEMS
from fastavro import parse_schema, schemaless_reader

from bench import __main__ as bench

RECORDS, KEYS = 4_000, 50
FIELDS = [
    "job",
    "keys",
    "system",
    "round",
    "records",
    "seconds",
    "cpu_seconds",
    "records_per_cpu_second",
    "records_per_cpu_second_warm",
    "peak_rss_mb",
    "first_output_seconds",
    "output_rows",
    "correct",
]
BEGIN_MS = data.begin_ms()


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args(arguments)


def made(**values: object) -> Row:
    """A row of results."""
    row = Row(job="J1", keys=1_000, system="headrace", round=0, records=100, correct=True, delivery="at_least_once")
    return replace(row, **values)  # type: ignore[arg-type]


def test_options() -> None:
    """They are spelled as documented, and all jobs are measured when none is named."""
    given = parsed(
        *("--jobs", "J1,J2", "--systems", "headrace,kafka-streams", "--rounds", "3", "--json", "FILE"),
        *("--records", "5", "--partitions", "2"),
    )
    assert (given.jobs, given.systems, given.rounds, given.json) == ("J1,J2", "headrace,kafka-streams", 3, "FILE")
    assert (given.records, given.partitions) == (5, 2)
    assert parsed().jobs.split(",") == list(JOBS)
    assert parsed().systems is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--jobs", "J9"), "unknown job 'J9': one of J1, J2"), (("--systems", "storm"), "unknown system 'storm': one of")],
)
def test_an_unknown_name_is_told(arguments: tuple[str, str], message: str) -> None:
    """With those there are."""
    with pytest.raises(SystemExit, match=message):
        benchmark.run(parsed(*arguments))


def test_a_row_has_the_fields_that_are_promised() -> None:
    """The fixed ones first, in their order."""
    assert list(asdict(made()))[: len(FIELDS)] == FIELDS


def test_rows_are_written_as_a_list_or_one_a_line(tmp_path: Path) -> None:
    """By the name of the file; after each run the file is whole."""
    rows = [made(), made(round=1)]
    for name in ("rows.json", "rows.jsonl"):
        benchmark._write(str(tmp_path / name), rows)
    expected = [asdict(row) for row in rows]
    assert json.loads((tmp_path / "rows.json").read_text()) == expected
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == expected


def decoded(name: str, values: list[bytes]) -> pl.DataFrame:
    schema = json.loads((SCHEMAS / f"{name}.avsc").read_text())
    for field in schema["fields"]:
        if isinstance(field["type"], dict) and "logicalType" in field["type"]:
            field["type"] = "long"
    parsed_schema = parse_schema(schema)
    return pl.DataFrame([schemaless_reader(io.BytesIO(value[5:]), parsed_schema, None) for value in values])


def test_orders_are_the_avro_that_the_answers_are_made_of() -> None:
    """What fastavro reads from the bytes is what the tables say."""
    orders = data.make_orders(RECORDS, KEYS, BEGIN_MS)
    pieces = list(data.order_messages(orders, 7, 1_500))
    values = [value for _, each, _ in pieces for value in each]
    assert {value[:5] for value in values} == {b"\0\0\0\0\7"}
    found = decoded("order", values)
    assert found["order_id"].equals(orders.order_ids().alias("order_id"))
    assert found["order_id"].n_unique() == RECORDS
    assert found["customer_id"].equals(orders.customer_ids().alias("customer_id"))
    for column in ("ts", "amount", "qty"):
        assert found[column].to_list() == orders.frame[column].to_list()
    assert found["status"].to_list() == [data.STATUSES[each] for each in orders.frame["status"]]
    assert found["note"].to_list() == [data.NOTES[each] for each in orders.frame["note"]]
    assert [key.decode() for keys, _, _ in pieces for key in keys] == found["customer_id"].to_list()
    assert 80 < sum(map(len, values)) / RECORDS < 100
    late = (orders.frame["ts"] < orders.frame["ts"].cum_max()).mean()
    assert 0.003 < late < 0.02


def test_payments_and_customers_are_the_avro_that_the_answers_are_made_of() -> None:
    """The same of the other two kinds."""
    payments = data.make_payments(data.make_orders(RECORDS, KEYS, BEGIN_MS))
    keys, values, times = next(data.payment_messages(payments, 1, RECORDS))
    found = decoded("payment", values)
    assert found["paid_at"].to_list() == payments["paid_at"].to_list() == times
    assert found["cents"].to_list() == payments["cents"].to_list()
    assert found["customer_id"].to_list() == [key.decode() for key in keys]
    customers = data.make_customers()
    found = decoded("customer", data.customer_messages(customers, 1, 0)[1])
    assert found.select("name", "country", "tier").equals(customers.select("name", "country", "tier"))


def test_a_slow_system_gets_the_first_records_of_the_same_data() -> None:
    """The head of a long table is the short table."""
    long, short = (data.make_orders(records, KEYS, BEGIN_MS) for records in (RECORDS, 1_000))
    assert long.frame.head(1_000).equals(short.frame)
    assert long.order_ids().head(1_000).equals(short.order_ids())


def answer_of(job: Job) -> pl.DataFrame:
    orders = data.make_orders(RECORDS, KEYS, BEGIN_MS)
    return oracle.expected(job, orders, data.make_payments(orders))


THROUGHPUT = [job for job in JOBS.values() if job.kind == "throughput"]


@pytest.mark.parametrize("job", THROUGHPUT, ids=lambda job: job.name)
def test_a_right_answer_is_right_in_any_order(job: Job) -> None:
    """Of sums, whatever was said before the last row of a key."""
    answer = answer_of(job)
    assert answer.height > 0
    found = answer.sample(fraction=1.0, shuffle=True, seed=1)
    if job.task == "tumbling_sum":
        found = pl.concat([found.with_columns(total=pl.col("total") - 1), found])
    assert oracle.wrong(job, found, answer) == ""


@pytest.mark.parametrize("job", THROUGHPUT, ids=lambda job: job.name)
@pytest.mark.parametrize("fault", ["missing", "changed", "doubled", "unexpected"])
def test_one_wrong_row_is_found(job: Job, fault: str) -> None:
    """Among thousands, in each way that it can be wrong."""
    answer = answer_of(job)
    last = answer.tail(1)
    if fault == "missing":
        found = answer.head(-1)
    elif fault == "changed":
        column = "total" if job.task == "tumbling_sum" else "amount"
        found = pl.concat([answer.head(-1), last.with_columns(pl.col(column) + 0.25)])
    elif fault == "doubled":
        # Of sums a row said twice is no fault, one that counts twice is.
        twice = last.with_columns(n=pl.col("n") * 2) if job.task == "tumbling_sum" else last
        found = pl.concat([answer, twice])
    else:
        found = pl.concat([answer, last.with_columns(customer_id=pl.lit("cust-nobody"))])
    assert "rows differ" in oracle.wrong(job, found, answer)


def test_sums_are_those_of_plain_python() -> None:
    """The answer of J2 by a loop over the orders."""
    orders = data.make_orders(RECORDS, KEYS, BEGIN_MS)
    sums: dict[tuple[str, int], tuple[float, int]] = {}
    for customer, ts, amount in orders.frame.select("customer", "ts", "amount").iter_rows():
        key = (data.customer_id(customer), ts // 60_000 * 60_000)
        total, n = sums.get(key, (0.0, 0))
        sums[key] = (total + amount, n + 1)
    found = {(row[0], row[1]): (row[2], row[3]) for row in answer_of(JOBS["J2"]).iter_rows()}
    assert found == sums


def test_the_moment_of_an_order_is_read_from_what_follows() -> None:
    """Latency needs no other column."""
    _, value = pacing.order_bytes(3, 1_795_305_600_123_456_789, 4, data.PAID)
    assert pacing.moment_of(value) == 1_795_305_600_123_456_789
    row = decoded("order", [value]).row(0, named=True)
    assert (row["customer_id"], row["ts"], row["status"]) == ("cust-000004", 1_795_305_600_123, "PAID")


def test_processor_time_and_memory_are_those_of_all_processes(tmp_path: Path) -> None:
    """A child's work and memory count while it lives; its work when it is gone, too."""
    work = "x = bytearray(60_000_000); sum(n * n for n in range(2_000_000)); print('worked', flush=True)"
    linger = work + "; import time; time.sleep(600)"
    script = "import subprocess, sys, time; " + "; ".join(
        f"{call}([sys.executable, '-c', {code!r}])"
        for call, code in (("subprocess.run", work), ("subprocess.run", linger))
    )
    with SystemProcess([sys.executable, "-c", script], {}, tmp_path, tmp_path / "log") as process:
        wait_for(lambda: process.output.read_text().count("worked") == 1)
        # A child that ends between two looks at /proc is in neither for a moment.
        wait_for(lambda: process.cpu_seconds() > 0.1)
        once = process.cpu_seconds()
        wait_for(lambda: process.output.read_text().count("worked") == 2)
        assert process.cpu_seconds() > 1.5 * once > 0.1
        assert process.peak_rss_mb() > 60


def wait_for(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_system_that_is_left_behind_is_ended(tmp_path: Path) -> None:
    """Its children with it, when its block is left by an error."""
    with (
        pytest.raises(RuntimeError, match="on the way"),
        SystemProcess(["sh", "-c", "sleep 600 & wait"], {}, tmp_path, tmp_path / "log") as process,
    ):
        raise RuntimeError("on the way")
    assert process.has_ended()
    assert process.exit_code is not None


def test_the_table_has_medians_and_ratios_of_the_same_round() -> None:
    """A slow round is slow for both, and does not move the ratio."""
    rates = {"headrace": (900, 300, 800), "kafka-streams": (100, 50, 200)}
    rows = [
        made(system=system, round=number, records_per_cpu_second=rate)
        for system, of_rounds in rates.items()
        for number, rate in enumerate(of_rounds)
    ]
    assert report.ratio("headrace", rows, lambda row: row.records_per_cpu_second) == 6
    table = report.text(rows, {"faust": "no network\nat all"})
    line = next(each for each in table.splitlines() if each.startswith("| headrace"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    named = dict(zip([name for name, _ in report.HEAD], cells, strict=True))
    assert (named["per CPU-second"], named["ratio"], named["right"]) == ("800", "6.00", "yes")
    assert "- faust is missing: no network" in table


def test_one_wrong_round_makes_the_table_say_no() -> None:
    """Though others were right."""
    table = report.text([made(), made(round=1, correct=False)], {})
    assert next(each for each in table.splitlines() if each.startswith("| headrace")).endswith("| NO |")


def test_the_picture_is_svg_with_a_bar_for_each_system() -> None:
    """Wrong ones are marked."""
    rows = [
        made(records_per_cpu_second_warm=1_000_000),
        made(system="kafka-streams", records_per_cpu_second_warm=240_000),
        made(system="bytewax", records_per_cpu_second=30_000, correct=False),
    ]
    picture = ElementTree.fromstring(plot.svg(rows))
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"headrace", "kafka-streams", "bytewax", "1,000,000", "30,000 (wrong)"} <= set(texts)
    bars = [float(each.get("width", "0")) for each in picture.iter("{http://www.w3.org/2000/svg}rect") if each.get("x")]
    assert bars == sorted(bars, reverse=True)
    assert len(bars) == 3


def test_a_peer_that_cannot_be_installed_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are measured; by name it is asked for in vain."""

    def fails() -> None:
        raise PeerMissing("no network")

    there = {"headrace": SYSTEMS["headrace"], "quix": replace(SYSTEMS["quix"], install=fails)}
    monkeypatch.setattr(benchmark, "SYSTEMS", there)
    found, missing = benchmark._installed(None)
    assert [system.name for system in found] == ["headrace"]
    assert missing == {"quix": "no network"}
    assert "quix is missing: no network" in capsys.readouterr().err
    assert benchmark.status([made()], missing, named=False) == 0
    assert benchmark.status([made()], missing, named=True) == 1
    assert benchmark.status([made(), made(correct=False)], {}, named=False) == 1


def test_every_worker_is_told_the_same(tmp_path: Path) -> None:
    """The commit interval, delivery and topics are in the environment of each."""
    order = systems.Order(
        "nowhere:1", "t", JOBS["J4"], ("in",), ("orders",), "out", 3, tmp_path, RECORDS, 4, commit_interval_ms=50
    )
    told = order.environment()
    assert (told["BENCH_COMMIT_INTERVAL_MS"], told["BENCH_DELIVERY"]) == ("50", "exactly_once")
    assert (told["BENCH_INPUTS"], told["BENCH_OUTPUT"], told["BENCH_GROUP"]) == ("in", "out", "t")


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.xdist_group("kafka")
def test_headrace_does_j1_and_the_clients_copy_on_a_real_broker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], kafka_bootstrap: str
) -> None:
    """End to end: every row right, every figure there, and a table of them."""
    file = tmp_path / "rows.json"
    monkeypatch.setenv("HEADRACE_TEST_KAFKA", kafka_bootstrap)
    arguments = ["--jobs", "J1", "--systems", "headrace,copy", "--rounds", "1", "--records", "20000"]
    monkeypatch.setattr("sys.argv", ["bench", "peers", *arguments, "--json", str(file)])
    assert bench.main() == 0, capfd.readouterr().err
    rows = {row["system"]: row for row in json.loads(file.read_text())}
    assert set(rows) == {"headrace", "copy"}
    for row in rows.values():
        assert list(row)[: len(FIELDS)] == FIELDS
        assert (row["job"], row["keys"], row["round"], row["records"], row["correct"]) == ("J1", 1_000, 0, 20_000, True)
        assert row["first_output_seconds"] > 0
        assert row["peak_rss_mb"] > 10
        assert row["cpu_seconds"] > 0
        assert row["records_per_cpu_second"] == pytest.approx(row["records"] / row["cpu_seconds"], rel=0.02)
    assert rows["copy"]["output_rows"] == 20_000
    paid = data.make_orders(20_000, 1_000, BEGIN_MS).frame.filter(pl.col("status") == data.PAID).height
    assert rows["headrace"]["output_rows"] == paid
    assert "### J1, 1,000 keys" in capfd.readouterr().out
    assert (tmp_path / "rows.svg").read_text().startswith("<svg")


def test_a_run_that_fails_is_a_wrong_answer_and_no_end() -> None:
    """What it said before stays, and why it ended is in the row after it."""

    class Fails:
        def prepare(self, job: Job, keys: int, system: systems.System) -> None: ...

        def runs(self, job: Job, keys: int, system: systems.System, number: int) -> Iterator[Row]:
            yield made()
            raise RuntimeError("the broker is gone")

    rows = list(benchmark._all_of(Fails(), JOBS["J1"], 1_000, SYSTEMS["quix"], 2))
    assert [row.correct for row in rows] == [True, False]
    assert (rows[1].system, rows[1].round, rows[1].error) == ("quix", 2, "RuntimeError: the broker is gone")
    assert benchmark.status(rows, {}, named=False) == 1
