"""Dead letters of all four stages on a real broker with real processes: written once, replayed once, also when workers
are killed in between."""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.cli.dlq import report_json
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.ingress.encoder import Entry, now_ms
from headrace.log.columns import outgoing
from headrace.workspace.apply import apply_plan
from headrace.workspace.dead_letters import DeadLetter, Filters, owner, read_letters
from headrace.workspace.environment import connect
from headrace.workspace.load import Workspace, load
from headrace.workspace.plan import make_plan
from headrace.workspace.replay import Request, carry_out, wait
from headrace.workspace.replay_outcomes import Outcome, read_outcomes
from tests.engine.harness import wait_until
from tests.faults.fleet import committed_rows, fleet, latest, worker_processes

PARTITIONS = 4
WAIT_S = 180.0
"""Longest wait for anything: two processes start in it."""
ORDERS = 400
CONFIG = """
name = "{name}"
environment = "kafka"
[environments.kafka]
log = "kafka"
bootstrap_servers = "{bootstrap}"
partitions = 4
replication_factor = 1
"""
CONTRACT = """
topic: {prefix}orders
key: id
time: placed_at
fields: {{id: string, customer: string, amount: long, note: string, placed_at: timestamp-millis}}
"""
PIPELINE = '''
from pathlib import Path

import headrace as hr
from headrace import col

MENDED = Path(__file__).parent.parent / "mended"


def price(row):
    if row["amount"] == 13 and not MENDED.exists():
        raise ValueError("no price for 13")
    return {{"id": row["id"], "customer": row["customer"], "amount": row["amount"], "note": row["note"]}}


@hr.pipeline(owner="shop")
def {prefix}totals():
    """Priced orders, and totals by customer."""
    schema = {{"id": "string", "customer": "string", "amount": "long", "note": "string"}}
    priced = hr.stream("{prefix}orders").map(price, schema=schema).named("price")
    priced.to("{prefix}priced")
    priced.group_by("customer").agg(orders=hr.count(), total=hr.sum("amount")).to("{prefix}totals")
'''
EGRESS = """
topic: {prefix}orders
connector: duckdb
mode: append
columns: [id, amount]
options: {{path: target.duckdb, table: orders}}
"""


class Shop:
    """A workspace of its own topics on the broker."""

    def __init__(self, root: Path, bootstrap: str) -> None:
        self.root, self.prefix = root, f"d{uuid.uuid4().hex[:6]}_"
        names = {"prefix": self.prefix, "name": f"{self.prefix}shop", "bootstrap": bootstrap}
        files = {
            "headrace.toml": CONFIG,
            "contracts/orders.yaml": CONTRACT,
            "pipelines/totals.py": PIPELINE,
            f"egress/{self.prefix}target.yaml": EGRESS,
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text.format(**names))
        self.pipeline, self.egress, self.topic = f"{self.prefix}totals", f"{self.prefix}target", f"{self.prefix}orders"

    @contextmanager
    def opened(self) -> Iterator[tuple[Workspace, Any]]:
        workspace = load(self.root)
        with connect(workspace.file, workspace.contracts, "kafka") as environment:
            yield workspace, environment

    def row(self, number: int) -> dict[str, Any]:
        """Some fail in the function (13), some are too large for the output, some are refused by the target (-1)."""
        amount = 13 if number % 50 == 7 else -1 if number % 50 == 9 else number % 11
        return {
            "id": f"o{number}",
            "customer": f"c{number % 5}",
            "amount": amount,
            "note": "x" * 3_000 if number % 50 == 8 else "",
            "placed_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        }

    def publish(self, count: int) -> None:
        with self.opened() as (_, environment), BatchPublisher(environment, name="test") as publisher:
            for outcome in publisher.deliver([Entry(self.topic, self.row(n), now_ms()) for n in range(count)]):
                assert not isinstance(outcome, Exception), outcome
            producer = environment.log.producer()
            junk = [b"junk %d" % number for number in range(4)]
            producer.produce(outgoing(self.topic, junk, keys=junk))
            producer.flush()
            producer.close()

    def letters(self, name: str) -> list[DeadLetter]:
        with self.opened() as (_, environment):
            return list(read_letters(environment.log, f"{name}.dlq"))

    def stages(self, name: str) -> Counter[tuple[str, str]]:
        return Counter((each.stage, each.code) for each in self.letters(name))

    def replay(self, name: str, *, patch: Any = None, waits: bool = False, **chosen: Any) -> dict[str, Any]:
        """What `headrace dlq replay` does and answers."""
        filters = Filters(**{key: frozenset([value]) for key, value in chosen.items()})
        with self.opened() as (workspace, environment):
            taker = owner(workspace, environment.log, name)
            request = Request(taker, taker.topic, filters, patch)
            report = carry_out(workspace, environment, request)
            if waits:
                report = wait(workspace, environment, request, report, WAIT_S)
            return report_json(request, report, dry_run=False)

    def outcomes(self, name: str, group: str) -> Counter[Outcome]:
        with self.opened() as (workspace, environment):
            outcomes = read_outcomes(environment.log, name, f"{workspace.name}.{group}{name}")
            found = list(read_letters(environment.log, f"{name}.dlq"))
            for each in found:
                outcomes.note(each.again_of)
            return Counter(outcomes.of(each.place) for each in found)

    def rows(self, topic: str) -> Any:
        with self.opened() as (workspace, environment):
            name = f"{self.prefix}{topic}"
            return committed_rows(environment, name, workspace.topics[name], PARTITIONS)

    def delivered(self) -> list[tuple[str, int]]:
        with duckdb.connect(self.root / "target.duckdb", read_only=True) as connection:
            return sorted(connection.execute("SELECT id, amount FROM orders").fetchall())


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.xdist_group("kafka")
@pytest.mark.timeout(600)
def test_every_stage_is_replayed_once(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Records fail to be decoded, processed, encoded and delivered; causes are mended or patched, and each comes back
    to where it failed while its worker is killed twice. Outputs, sums and target have every record once; dead letters
    too; a second call finds nothing to do."""
    shop = Shop(tmp_path, kafka_bootstrap)
    with shop.opened() as (workspace, environment):
        apply_plan(make_plan(workspace, environment), workspace, environment)
        admin = environment.log.admin()
        admin.alter_config(f"{shop.prefix}priced", {"max.message.bytes": "2000"})
    with duckdb.connect(tmp_path / "target.duckdb") as connection:
        connection.execute("CREATE TABLE orders (id VARCHAR, amount BIGINT CHECK (amount >= 0))")
    shop.publish(ORDERS)
    eighth = ORDERS // 50
    failed = {
        ("decode", "decode.framing"): 4,
        ("process", "process.function_raised"): eighth,
        ("encode", "encode.record_too_large"): eighth,
    }
    refused = {("decode", "decode.framing"): 4, ("deliver", "duckdb.constraint"): eighth}
    with fleet(tmp_path, workers=2):
        wait_until(lambda: shop.stages(shop.pipeline) == failed, "dead letters of the pipeline", WAIT_S)
        wait_until(lambda: shop.stages(shop.egress) == refused, "dead letters of the egress", WAIT_S)
    (tmp_path / "mended").touch()
    with shop.opened() as (_, environment):
        environment.log.admin().alter_config(f"{shop.prefix}priced", {"max.message.bytes": "100000"})
    whole = {"customer": "c0", "amount": 5, "note": "", "placed_at": "2026-01-01T00:00:00Z"}
    assert shop.replay(shop.pipeline, stages="process")["replayed"] == eighth
    with fleet(tmp_path, workers=2) as supervisor:
        kill_one(supervisor.pid)
        assert shop.replay(shop.pipeline, stages="encode")["replayed"] == eighth
        for number, letter in enumerate(each for each in shop.letters(shop.pipeline) if each.stage == "decode"):
            patch = {**whole, "id": f"patched{number}"}
            answer = shop.replay(shop.pipeline, offsets=letter.place.offset, patch=patch)
            assert answer["replayed"] == 1, answer
            if number == 1:
                kill_one(supervisor.pid)
        mended = shop.replay(shop.egress, stages="deliver", patch={"amount": 1})
        assert mended["replayed"] == eighth
        wait_until(lambda: shop.outcomes(shop.pipeline, "") == {Outcome.PROCESSED: 4 + 2 * eighth}, "replays", WAIT_S)
        wait_until(
            lambda: shop.outcomes(shop.egress, "egress.") == {Outcome.PROCESSED: eighth, Outcome.OPEN: 4},
            "replays of the egress",
            WAIT_S,
        )
        again = shop.replay(shop.pipeline, waits=True)
        assert (again["replayed"], again["replayed_before"]) == (0, 4 + 2 * eighth)
    assert shop.stages(shop.pipeline) == failed
    assert shop.stages(shop.egress) == refused
    orders = [shop.row(number) for number in range(ORDERS)]
    patched = [{**whole, "id": f"patched{number}"} for number in range(4)]
    expected = sorted((row["id"], row["amount"]) for row in [*orders, *patched])
    assert sorted(shop.rows("priced").select("id", "amount").rows()) == expected
    totals = {
        row["customer"]: (row["orders"], row["total"]) for row in latest(shop.rows("totals"), "customer").to_dicts()
    }
    assert totals == sums([*orders, *patched])
    assert shop.delivered() == sorted(
        (row["id"], max(row["amount"], 1) if row["amount"] < 0 else row["amount"]) for row in orders
    )


def kill_one(supervisor: int) -> None:
    """kill -9 the worker that started last."""
    wait_until(lambda: bool(worker_processes(supervisor)), "a worker", WAIT_S)
    os.kill(worker_processes(supervisor)[-1], signal.SIGKILL)


def sums(rows: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        count, total = found.get(row["customer"], (0, 0))
        found[row["customer"]] = (count + 1, total + row["amount"])
    return found


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.xdist_group("kafka")
@pytest.mark.timeout(600)
def test_what_fails_again_is_told_and_stops(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Nothing is mended: `--wait` tells that each failed again, three times, and then none is replayed."""
    shop = Shop(tmp_path, kafka_bootstrap)
    with shop.opened() as (workspace, environment):
        apply_plan(make_plan(workspace, environment), workspace, environment)
    shop.publish(60)
    with fleet(tmp_path, workers=1):
        wait_until(
            lambda: shop.stages(shop.pipeline)["process", "process.function_raised"] == 2, "dead letters", WAIT_S
        )
        for _ in range(3):
            answer = shop.replay(shop.pipeline, stages="process", waits=True)
            assert (answer["replayed"], answer["failed_again"]) == (2, 2), answer
        last = shop.replay(shop.pipeline, stages="process")
        assert (last["replayed"], last["refused"], last["replayed_before"]) == (0, 2, 6)
    assert shop.stages(shop.pipeline)["process", "process.function_raised"] == 8
