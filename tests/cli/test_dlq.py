"""`headrace dlq`: dead letters of a workspace are listed, shown and replayed as docs/cli.md says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine.harness import wait_until

from headrace.log.columns import outgoing
from headrace.log.port import TopicSpec
from headrace.workspace import replay
from headrace.workspace.components import components
from headrace.workspace.control import open_control
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.runtime import Runtime

from .conftest import Call
from .test_json_shapes import differences, shape, shown

CONFIG = 'name = "shop"\n[environments.dev]\nlog = "embedded"\npartitions = 2\n'
ORDERS = """
topic: orders
key: order_id
time: placed_at
fields: {order_id: string, customer: string, amount: double, placed_at: timestamp-millis}
"""
TOTALS = '''
from pathlib import Path

import headrace as hr


def price(row):
    if row["amount"] < 0 and not (Path(__file__).parent / "mended").exists():
        raise ValueError("negative")
    return {"customer": row["customer"], "amount": row["amount"]}


@hr.pipeline(owner="shop")
def totals():
    """Revenue of each customer."""
    priced = hr.stream("orders").map(price, schema={"customer": "string", "amount": "double"}).named("price")
    return priced.group_by("customer").agg(orders=hr.count(), revenue=hr.sum("amount")).to("revenue")
'''
EGRESS = "topic: orders\nconnector: parquet\nmode: append\noptions:\n  path: files\n"
"""Records of plain bytes become its dead letters too."""


def assert_shape(name: str, actual: Any, number: int = 0) -> None:
    assert differences(shape(shown(name, number)), shape(actual)) == []


class Shop:
    """A workspace, its command line, and what it runs in this process."""

    def __init__(self, root: Path, call: Call) -> None:
        self.root, self.call = root, call

    def order(self, number: int, amount: float) -> None:
        row = {
            "order_id": f"o{number}",
            "customer": f"c{number % 3}",
            "amount": amount,
            "placed_at": "2026-01-01T12:00:00Z",
        }
        assert self.call("publish", "orders", "--value", json.dumps(row)).code == 0

    def junk(self) -> None:
        """A record of plain bytes."""
        with self.environment() as environment:
            producer = environment.log.producer()
            producer.produce(outgoing("orders", [b"junk"], keys=[b"k"], headers=[[("trace", b"7")]]))
            producer.flush()
            producer.close()

    @contextmanager
    def environment(self) -> Iterator[Any]:
        workspace = load(self.root)
        with connect(workspace.file, workspace.contracts, None) as environment:
            yield environment

    @contextmanager
    def running(self) -> Iterator[Runtime]:
        """Everything of the workspace in threads, as `headrace run` has it."""
        workspace = load(self.root)
        with (
            connect(workspace.file, workspace.contracts, None) as environment,
            open_control(environment).watching() as control,
        ):
            chosen = components(workspace, environment, "one", control=control)
            runtime = Runtime(workspace.root, environment.name, "one", chosen)
            thread = threading.Thread(target=runtime.run)
            thread.start()
            try:
                yield runtime
            finally:
                runtime.stop.set()
                thread.join(30)

    def json(self, *words: str) -> Any:
        return self.call("dlq", *words, "--json").json

    def groups(self, name: str = "totals") -> dict[tuple[str, str], Any]:
        found = self.json("list", name)["dead_letters"]
        return {(each["stage"], each["code"]): each for each in found}

    def count(self, name: str) -> int:
        return sum(each["count"] for each in self.json("list", name)["dead_letters"])

    def revenue(self) -> dict[str, tuple[int, float]]:
        records = [json.loads(line) for line in self.call("read", "revenue", "--json").lines]
        return {each["key"]["customer"]: (each["value"]["orders"], each["value"]["revenue"]) for each in records}


@pytest.fixture
def shop(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Orders of which two fail in a function and one cannot be decoded."""
    files = {
        "headrace.toml": CONFIG,
        "contracts/orders.yaml": ORDERS,
        "pipelines/totals.py": TOTALS,
        "egress/files.yaml": EGRESS,
    }
    for name, text in files.items():
        path = tmp_path / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path / "shop")
    shop = Shop(tmp_path / "shop", call)
    assert call("apply", "--yes").code == 0
    for number, amount in enumerate([1.0, 2.0, -3.0, 4.0, -5.0]):
        shop.order(number, amount)
    shop.junk()
    return shop


def until(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, 30.0)


def test_list_and_show(shop: Shop) -> None:
    """Groups by stage, step and code with counts and an example; each letter with what can be told of it."""
    with shop.running():
        until(lambda: shop.count("totals") == 3 and shop.count("files") == 1, "all dead letters")
    answer = shop.json("list")
    assert_shape("dlq", answer)
    groups = shop.groups()
    assert set(groups) == {("process", "process.function_raised"), ("decode", "decode.framing")}
    raised = groups["process", "process.function_raised"]
    assert (raised["count"], raised["open"], raised["replayed"], raised["step"]) == (2, 2, 0, "price")
    assert "negative" in raised["example"]["message"]
    letters = [json.loads(line) for line in shop.call("dlq", "show", "totals", "--json").lines]
    for letter in letters:
        assert_shape("dlq", {**letter, "key": None, "value": None, "row": None}, 1)
    failed = [each for each in letters if each["stage"] == "process"]
    amounts = [(each["value"]["amount"], each["row"]["amount"]) for each in failed]
    assert sorted(amounts) == [(-5.0, -5.0), (-3.0, -3.0)]
    (junk,) = [each for each in letters if each["stage"] == "decode"]
    assert (junk["value"], junk["headers"], junk["undecoded"]["code"]) == ("junk", [["trace", "7"]], "decode.framing")
    chosen = shop.call("dlq", "show", "totals", "--stage", "process", "--limit", "1", "--json")
    assert len(chosen.lines) == 1
    assert "negative" in shop.call("dlq", "show", "totals", "--step", "price").out
    (delivered,) = [json.loads(line) for line in shop.call("dlq", "show", "files", "--json").lines]
    assert (delivered["stage"], delivered["component"]) == ("decode", "files")


def test_replay_to_the_step_that_failed(shop: Shop) -> None:
    """While everything runs: a dry run changes nothing; the mended function gets both rows once, however often replay
    is called; what fails again is told."""
    with shop.running():
        until(lambda: shop.count("totals") == 3, "all dead letters")
        dry = shop.json("replay", "totals", "--stage", "process", "--dry-run")
        assert_shape("dlq", dry, 2)
        assert [each["result"] for each in dry["letters"]] == ["would_replay", "would_replay"]
        assert {outcome for _, outcome in outcomes(shop)} == {"open"}
        unmended = shop.call("dlq", "replay", "totals", "--step", "price", "--wait", "--json")
        assert (unmended.code, unmended.json["failed_again"]) == (1, 2)
        (shop.root / "pipelines" / "mended").touch()
        again = shop.json("replay", "totals", "--stage", "process", "--wait")
        assert_shape("dlq", again, 2)
        results = sorted(each["result"] for each in again["letters"])
        assert results == ["processed", "processed", "replayed_before", "replayed_before"]
        third = shop.call("dlq", "replay", "totals", "--stage", "process", "--wait", "--json")
        assert (third.code, third.json["replayed"], third.json["replayed_before"]) == (0, 0, 4)
        mended = {"c0": (2, 5.0), "c1": (2, -3.0), "c2": (1, -3.0)}
        # The step passed them on; the sums are another task's.
        until(lambda: shop.revenue() == mended, "the sums")
    raised = shop.groups()["process", "process.function_raised"]
    assert (raised["count"], raised["failed_again"], raised["processed"], raised["open"]) == (4, 2, 2, 0)


def outcomes(shop: Shop) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in shop.call("dlq", "show", "totals", "--json").lines]
    return [(each["offset"], each["outcome"]) for each in lines]


def test_patches(shop: Shop) -> None:
    """A patched value passes the step; bytes that are no record become one; what does not fit is refused by name."""
    with shop.running():
        until(lambda: shop.count("totals") == 3, "all dead letters")
    wrong = shop.call("dlq", "replay", "totals", "--stage", "process", "--patch", '{"amount": "much"}', "--json")
    assert wrong.code == 1
    assert {each["error"]["code"] for each in wrong.json["letters"]} == {"workspace.patch_refused"}
    unknown = shop.call("dlq", "replay", "totals", "--stage", "process", "--patch", '{"amuont": 1}', "--json")
    assert "amuont" in unknown.json["letters"][0]["error"]["message"]
    assert shop.call("dlq", "replay", "totals", "--patch", "[]").code == 2
    whole = '{"order_id": "new", "customer": "c9", "amount": 7, "placed_at": "2026-01-01T12:00:00Z"}'
    assert shop.call("dlq", "replay", "totals", "--stage", "decode", "--patch", whole).code == 0
    assert shop.call("dlq", "replay", "totals", "--stage", "process", "--patch", '{"amount": 10}').code == 0
    assert {outcome for _, outcome in outcomes(shop)} == {"pending"}
    with shop.running():
        until(lambda: {outcome for _, outcome in outcomes(shop)} == {"processed"}, "replays")
    assert shop.revenue() == {"c0": (2, 5.0), "c1": (2, 12.0), "c2": (1, 10.0), "c9": (1, 7.0)}


def test_the_loop_guard(shop: Shop) -> None:
    """A row that fails each time is replayed three times, and then only when forced."""
    with shop.running():
        until(lambda: shop.count("totals") == 3, "all dead letters")
        for _ in range(3):
            answer = shop.json("replay", "totals", "--stage", "process", "--wait")
            assert answer["failed_again"] == 2
        refused = shop.call("dlq", "replay", "totals", "--stage", "process", "--json")
        assert refused.code == 1
        assert [each["error"]["code"] for each in refused.json["letters"]][-2:] == ["workspace.replay_loop"] * 2
        last = refused.json["letters"][-1]["offset"]
        (shop.root / "pipelines" / "mended").touch()
        forced = shop.json("replay", "totals", "--offset", str(last), "--force", "--wait")
        assert forced["processed"] == 1


def test_egress(shop: Shop) -> None:
    """A dead letter of an egress is delivered with a patch, to its target only."""
    import polars as pl

    whole = '{"order_id": "new", "customer": "c9", "amount": 7, "placed_at": "2026-01-01T12:00:00Z"}'
    with shop.running():
        until(lambda: shop.count("files") == 1 and shop.count("totals") == 3, "all dead letters")
        assert shop.json("replay", "files", "--wait")["failed_again"] == 1
        answer = shop.json("replay", "files", "--patch", whole, "--wait")
        assert [each["result"] for each in answer["letters"]] == ["replayed_before", "processed"]
        before = shop.revenue()
    assert "c9" not in before
    rows = pl.read_parquet(shop.root / "files" / "**" / "*.parquet")
    assert sorted(rows["order_id"].to_list()) == ["new", "o0", "o1", "o2", "o3", "o4"]


def test_letters_of_kafka_connect_and_kafka_streams(shop: Shop) -> None:
    """Their headers are understood; a record that they hold whole enters at the source of the pipeline named."""
    with shop.environment() as environment:
        environment.log.admin().create_topics([TopicSpec("their-dlq", 1)])
        producer = environment.log.producer()
        connect_headers = {
            "topic": "orders",
            "partition": "0",
            "offset": "1",
            "connector.name": "sink",
            "stage": "VALUE_CONVERTER",
            "class.name": "io.Converter",
            "exception.class.name": "org.DataException",
            "exception.message": "bad",
        }
        streams_headers = {
            "exception": "org.apache.kafka.streams.errors.StreamsException: no",
            "message": "no",
            "stacktrace": "at ...",
            "topic": "orders",
            "partition": "1",
            "offset": "0",
        }
        rows = [("__connect.errors.", connect_headers), ("__streams.errors.", streams_headers)]
        headers = [[(prefix + name, text.encode()) for name, text in found.items()] for prefix, found in rows]
        producer.produce(outgoing("their-dlq", [b"one", b"two"], keys=[b"k", b"k"], headers=headers))
        producer.flush()
        producer.close()
    shown = [json.loads(line) for line in shop.call("dlq", "show", "their-dlq", "--json").lines]
    assert [(each["writer"], each["stage"], each["code"], each["component"]) for each in shown] == [
        ("kafka_connect", "decode", "org.DataException", "sink"),
        ("kafka_streams", "process", "org.apache.kafka.streams.errors.StreamsException", ""),
    ]
    assert [each["source"]["partition"] for each in shown] == [0, 1]
    whole = '{"order_id": "new", "customer": "c9", "amount": 7, "placed_at": "2026-01-01T12:00:00Z"}'
    answer = shop.json("replay", "totals", "--topic", "their-dlq", "--patch", whole)
    assert answer["replayed"] == 2
    with shop.running():
        until(lambda: shop.revenue().get("c9") == (2, 14.0), "both records")
    assert shop.json("replay", "totals", "--topic", "their-dlq")["replayed_before"] == 2


def test_wrong_names_and_options(shop: Shop) -> None:
    """Each is told in one paragraph."""
    assert "did you mean 'totals'" in shop.call("dlq", "list", "total").err
    assert shop.call("dlq", "show", "totals", "--since", "yesterday").code == 1
    assert shop.call("dlq", "show", "totals", "--since", "5").code == 2
    assert "no dead letters" in shop.call("dlq", "list", "totals").out
    assert shop.call("dlq", "replay", "totals").code == 0


def test_a_limit_counts_what_is_not_replayed_yet(shop: Shop) -> None:
    """Call by call all are replayed; topics of replays are internal ones."""
    with shop.running():
        until(lambda: shop.count("totals") == 3, "all dead letters")
    answers = [shop.json("replay", "totals", "--stage", "process", "--limit", "1") for _ in range(3)]
    assert [(each["replayed"], each["replayed_before"]) for each in answers] == [(1, 0), (1, 1), (0, 2)]
    kinds = {each["topic"]: each["kind"] for each in shop.call("topics", "--json").json["topics"]}
    assert kinds["totals.replay"] == kinds["totals.dlq.outcomes"] == "internal"


def test_ingress_says_why_not(shop: Shop) -> None:
    """Its changes were never published: there is no step to bring them back to."""
    import sqlite3

    with sqlite3.connect(shop.root / "shop.db") as source:
        source.execute("CREATE TABLE planes (tailnum TEXT PRIMARY KEY)")
    (shop.root / "contracts" / "planes.yaml").write_text(
        "topic: planes\nkind: change\nkey: tailnum\nfields: {tailnum: string}\n"
    )
    (shop.root / "ingress").mkdir()
    ingress = "kind: sqlite-cdc\ndatabase: shop.db\ntables:\n  planes: {topic: planes}\n"
    (shop.root / "ingress" / "fleet.yaml").write_text(ingress)
    assert shop.call("apply", "--yes").code == 0
    answer = shop.call("dlq", "replay", "fleet")
    assert answer.code == 1
    assert "workspace.not_replayable" in answer.err
    assert "correct the row in the source" in answer.err
    assert shop.json("list", "fleet")["dead_letters"] == []


def test_calls_at_the_same_time_fence_each_other(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call in the middle of a first one: the first fails and has done nothing, each is replayed once."""
    with shop.running():
        until(lambda: shop.count("totals") == 3, "all dead letters")
    planned, raced = replay.plan_replay, []

    def racing(workspace: Any, environment: Any, request: Any) -> Any:
        report = planned(workspace, environment, request)
        if not raced:
            raced.append(1)
            raced.append(len(replay.carry_out(workspace, environment, request).decisions))
        return report

    monkeypatch.setattr(replay, "plan_replay", racing)
    first = shop.call("dlq", "replay", "totals", "--stage", "process")
    assert (first.code, raced) == (1, [1, 2])
    assert "log.fenced" in first.err
    (shop.root / "pipelines" / "mended").touch()
    with shop.running():
        until(lambda: [outcome for _, outcome in outcomes(shop)].count("processed") == 2, "replays")
    assert shop.revenue() == {"c0": (2, 5.0), "c1": (2, -3.0), "c2": (1, -3.0)}
