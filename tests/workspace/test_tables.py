"""Where rows lie, who is asked for them, and what HTTP says: without a broker, with workers that work when told to."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, cast

import fastavro
import pyarrow as pa
import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.polars_types import to_frame
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.metrics import EngineMetrics
from headrace.engine.orders import Orders
from headrace.testing import Driver
from headrace.workspace import tables as tables_module
from headrace.workspace.config import HttpConfig
from headrace.workspace.control import ControlTopic
from headrace.workspace.health import Health
from headrace.workspace.http_server import HttpServer
from headrace.workspace.json_values import as_json, python_rows
from headrace.workspace.load import Workspace, load
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus
from headrace.workspace.table_directory import Listed, Places, TableDirectory
from headrace.workspace.table_errors import TableNotHeld, TableUnknown
from headrace.workspace.table_owners import TableOwners, address_of
from headrace.workspace.tables import Tables, rows_as_json
from headrace.workspace.tables_http import FORWARDED, TablesHttp

HOST = "127.0.0.1"
PARTITIONS = 5
CUSTOMERS = """
topic: customers
owner: shop
kind: table
key: name
fields:
  name: string
  city: string?
"""
CITIES = """
topic: cities
owner: shop
kind: table
key: city
fields:
  city: string
  land: string
"""
ORDERS = """
topic: orders
owner: shop
key: customer
time: placed_at
fields:
  order_id:  string
  customer:  string
  amount:    double
  placed_at: timestamp-millis
"""
PIPELINE = """
import headrace as hr
from headrace import col


@hr.pipeline(owner="shop")
def totals():
    orders = hr.stream("orders")
    by_customer = orders.group_by("customer").agg(n=hr.count())
    return (
        by_customer.rename({"customer": "who"}).filter(col("n") > 0).to("by.customer"),
        orders.group_by("order_id").agg(n=hr.count()).to("by.order"),
        orders.with_columns(size=col("amount").cast(int)).group_by("size", "customer").agg(n=hr.count()).to("by.both"),
        orders.join(hr.table("customers"), left_on="customer", right_on="name").to("with.city", key="customer"),
        orders.join(hr.broadcast("cities"), left_on="customer", right_on="city").to("with.land", key="customer"),
        orders.as_table("customer").to("latest"),
    )
"""


@dataclass
class FakeControl:
    """A control topic in memory, shared by the processes of a test."""

    said: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    writes: list[tuple[str, Mapping[str, Any] | None]] = field(default_factory=list)

    def instances(self) -> Mapping[str, Mapping[str, Any]]:
        return dict(self.said)

    def advertise(self, instance: str, about: Mapping[str, Any]) -> None:
        self.said[instance] = about
        self.writes.append((instance, about))

    def withdraw(self, instance: str) -> None:
        self.said.pop(instance, None)
        self.writes.append((instance, None))


@dataclass
class Process:
    """One worker process: a driver that has some of the partitions, and its HTTP."""

    name: str
    driver: Driver
    tables: Tables
    server: HttpServer
    orders: Orders

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server.port}"

    def claim(
        self, control: FakeControl, partitions: Sequence[int], *, at_ms: int = 1, address: str | None = None
    ) -> None:
        """Say that it holds these partitions of every subtopology."""
        tasks = [f"{index}_{partition}" for index in range(8) for partition in partitions]
        control.advertise(self.name, {"address": self.address, "tasks": {"totals": tasks}, "said_at_ms": 1})
        self.tables.owners.note(running(tuple(tasks)))

    def hold(self, partitions: Sequence[int]) -> None:
        """From now on these alone are here."""
        for task in self.driver._workers[0]._parts.tasks.tasks:
            task.partitions = set(partitions)


def running(tasks: tuple[str, ...], state: ComponentState = ComponentState.RUNNING) -> ComponentStatus:
    return ComponentStatus(
        kind=ComponentKind.PIPELINE,
        name="totals",
        instance="any",
        environment="dev",
        state=state,
        started_at_ms=0,
        tasks=tasks,
    )


@contextmanager
def answering(orders: Orders, driver: Driver) -> Iterator[None]:
    """A thread that answers, as a worker's does between two transactions."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.005):
            orders.answer(driver._workers[0]._parts)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("shop")
    files = {
        "headrace.toml": 'name = "shop"\n',
        "contracts/orders.yaml": ORDERS,
        "contracts/customers.yaml": CUSTOMERS,
        "contracts/cities.yaml": CITIES,
        "pipelines/totals.py": PIPELINE,
    }
    for path, text in files.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text.lstrip())
    return load(root)


NAMES = [f"w/{n} ü" for n in range(9)]


KEYS = {"by.customer": "who", "by.order": "order_id", "customers": "name", "cities": "city"}


def publish(driver: Driver) -> None:
    with driver.batch():
        driver.publish("customers", [{"name": name, "city": f"c{at}"} for at, name in enumerate(NAMES)])
        driver.publish("cities", [{"city": "c1", "land": "l"}])
        for number in range(40):
            driver.publish("orders", order(number))


def order(number: int) -> dict[str, Any]:
    return {
        "order_id": f"o{number}",
        "customer": NAMES[number % 7],
        "amount": float(number % 3),
        "placed_at": "2026-01-01T00:00:00Z",
    }


@contextmanager
def fleet(workspace: Workspace, control: FakeControl, *names: str) -> Iterator[list[Process]]:
    """Processes with the same input, that serve HTTP and answer."""
    with ExitStack() as stack:
        made = []
        for name in names:
            driver = stack.enter_context(
                Driver(*workspace.pipelines, contracts=workspace.contracts, partitions=PARTITIONS)
            )
            publish(driver)
            orders = Orders()
            orders.open()
            stack.enter_context(answering(orders, driver))
            places = Places(driver._log, driver._registry, workspace.topics)
            owners = TableOwners(cast(ControlTopic, control), name)
            tables = Tables(TableDirectory(workspace), owners, places, {"totals": orders})
            server = HttpServer(Health([], EngineMetrics()), host=HOST, port=0, tables=TablesHttp(tables))
            stack.callback(server.close)
            made.append(Process(name, driver, tables, server, orders))
        yield made


def get(process: Process, path: str, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
    request = urllib.request.Request(process.address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def path_of(table: str, key: str) -> str:
    return f"/tables/{table}/{urllib.parse.quote(key, safe='')}"


def test_every_key_at_every_process(workspace: Workspace) -> None:
    """Partitioned as a producer hashes, as headrace moves rows, by a part of the key, looked up, and held whole by
    everybody: whoever is asked gives the topic's row, and nothing of keys without one."""
    control = FakeControl()
    with fleet(workspace, control, "a", "b") as (a, b):
        for process, partitions in ((a, [0, 1, 2]), (b, [3, 4])):
            process.claim(control, partitions)
            process.hold(partitions)
        answered: set[str] = set()
        for asked in (a, b):
            for name, key in (
                ("by.customer", "who"),
                ("by.order", "order_id"),
                ("customers", "name"),
                ("cities", "city"),
            ):
                expected = {each[key]: each for each in a.driver.table(name).values()}
                for value, row in expected.items():
                    status, body, _ = get(asked, path_of(name, value))
                    assert (status, body["found"], body["rows"]) == (200, True, [row]), (name, value)
                    answered |= {*body["instances"]}
                assert get(asked, path_of(name, "nobody"))[0] == 404
                _, body, _ = get(asked, f"/tables/{name}?limit=1000")
                assert sorted(map(str, body["rows"])) == sorted(map(str, expected.values()))
            for row in a.driver.table("by.both").values():
                query = urllib.parse.urlencode({"size": row["size"], "customer": row["customer"]})
                assert get(asked, f"/tables/by.both?{query}")[1]["rows"] == [row]
                text = json.dumps({"size": row["size"], "customer": row["customer"]})
                assert get(asked, path_of("by.both", text))[1]["rows"] == [row]
        assert answered == {"a", "b"}


def test_a_key_that_a_producer_put_elsewhere_is_found(workspace: Workspace) -> None:
    """Its hash says one partition and its records are in another: the rows are there all the same."""
    control = FakeControl()
    with fleet(workspace, control, "a") as (a,):
        a.claim(control, range(PARTITIONS))
        listed = a.tables.directory.find("by.customer")
        likely = a.tables._places.of_key(listed, {"who": "moved"})
        assert likely is not None
        record = a.driver._writers["orders"].rows([order(0) | {"customer": "moved"}], None, 0)
        elsewhere = (likely + 1) % PARTITIONS
        assert record.key is not None
        a.driver.publish_bytes("orders", record.key[0].as_py(), record.value[0].as_py(), partition=elsewhere)
        status, body, _ = get(a, path_of("by.customer", "moved"))
        assert (status, body["rows"]) == (200, [{"who": "moved", "n": 1}])


def test_a_question_makes_one_hop_at_most(workspace: Workspace) -> None:
    """Two processes that each take the other one for the owner: 503, and no circle."""
    control = FakeControl()
    with fleet(workspace, control, "a", "b") as (a, b):
        for process in (a, b):
            process.hold([])
        a.claim(control, range(PARTITIONS))
        control.advertise("b", {"address": b.address, "tasks": {}, "said_at_ms": 0})
        for asked in (a, b):
            status, body, headers = get(asked, path_of("by.customer", NAMES[0]))
            assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "workspace.table_away", "1")
        status, body, _ = get(b, path_of("by.customer", NAMES[0]), **{FORWARDED: "0,1"})
        assert (status, body["error"]["code"]) == (503, "workspace.table_away")
        assert "are not in this process" in body["error"]["message"]
        assert get(b, path_of("by.customer", NAMES[0]), **{FORWARDED: "x"})[0] == 400


@pytest.mark.parametrize(
    ("address", "reason"),
    [("http://127.0.0.1:1", "does not answer"), ("", "serves no HTTP"), ("http://x:y", "serves no HTTP")],
)
def test_an_owner_that_is_not_reached(workspace: Workspace, address: str, reason: str) -> None:
    """Dead, without a port, or with an address that is none: 503 that names it, nobody else answers for it."""
    control = FakeControl()
    with fleet(workspace, control, "a") as (a,):
        about = {"address": address, "tasks": {"totals": [f"{i}_{p}" for i in range(8) for p in range(5)]}}
        control.advertise("gone", {**about, "said_at_ms": 5})
        status, body, headers = get(a, path_of("by.customer", NAMES[0]))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "gone" in body["error"]["message"]
        assert reason in body["error"]["message"]


def test_nobody_holds_the_rows(workspace: Workspace) -> None:
    """Between two owners: 503 that names the partition, for a key and for all of them."""
    control = FakeControl()
    with fleet(workspace, control, "a") as (a,):
        for path in (path_of("by.customer", NAMES[0]), "/tables/by.customer"):
            status, body, _ = get(a, path)
            assert (status, body["error"]["code"]) == (503, "workspace.table_away")
            assert "is held by nobody now" in body["error"]["message"]
        _, body, _ = get(a, "/tables")
        (listed,) = [each for each in body["tables"] if each["name"] == "by.customer"]
        assert listed == {
            "name": "by.customer",
            "topic": "by.customer",
            "pipeline": "totals",
            "step": listed["step"],
            "key": ["who"],
            "window": None,
            "partitions": PARTITIONS,
            "broadcast": False,
            "owners": dict.fromkeys("01234"),
        }


def test_a_worker_that_is_busy_or_stopped(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer in time, more questions than may wait, no worker at all: 503 each."""
    control = FakeControl()
    with fleet(workspace, control, "a") as (a,):
        a.claim(control, range(PARTITIONS))
        path = path_of("by.customer", NAMES[0])
        a.orders.close()
        status, body, _ = get(a, path)
        assert (status, "does not run" in body["error"]["message"]) == (503, True)
        monkeypatch.setattr(tables_module, "ANSWER_TIMEOUT_S", 0.2)
        a.tables._orders = {"totals": silent_orders()}
        status, body, _ = get(a, path)
        assert (status, "gave no answer within 0.2 s" in body["error"]["message"]) == (503, True)
        monkeypatch.setattr(tables_module, "QUESTIONS_MAX", 0)
        status, body, _ = get(a, path)
        assert (status, "questions wait" in body["error"]["message"]) == (503, True)
        assert a.tables._waiting == 0


def silent_orders() -> Orders:
    orders = Orders()
    orders.open()
    return orders


EVERY_TYPE: dict[str, tuple[Any, Any]] = {
    "text": ("string", "ü"),
    "long": ("long", 2**40),
    "double": ("double", 1.25),
    "truth": ("boolean", True),
    "bytes": ("bytes", b"\x00\xff"),
    "enum": ({"type": "enum", "name": "Size", "symbols": ["S", "L"]}, "L"),
    "decimal": ({"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}, Decimal("1.50")),
    "date": ({"type": "int", "logicalType": "date"}, date(2026, 1, 2)),
    "time": ({"type": "long", "logicalType": "time-micros"}, time(1, 2, 3, 4)),
    "micros": ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    "nanos": ({"type": "long", "logicalType": "timestamp-nanos"}, 1_767_323_045_123_456_789),
    "longs": ({"type": "array", "items": "long"}, [1, 2]),
    "map": ({"type": "map", "values": "long"}, {"k": 1}),
    "none": (["null", {"type": "map", "values": "long"}], None),
    "record": ({"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}, {"x": 1}),
    "union": (["null", "string", "long"], 5),
}


def test_rows_are_shown_as_those_of_the_topic() -> None:
    """Each type has the JSON that `headrace read` gives it."""
    fields = [{"name": name, "type": type_} for name, (type_, _) in EVERY_TYPE.items()]
    schema = AvroSchema.parse({"type": "record", "name": "Every", "fields": fields})
    registry = MemoryRegistry()
    codec = open_codec(schema, registry, "every-value")
    head = b"\0" + registry.register("every-value", schema).id.to_bytes(4, "big")
    body = io.BytesIO()
    row = {name: value for name, (_, value) in EVERY_TYPE.items()}
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema.definition), row)
    decoded = codec.decode(pa.array([head + body.getvalue()], pa.large_binary()))
    assert not decoded.failed
    assert rows_as_json(to_frame(decoded.table, schema), ["map", "none"]) == as_json(python_rows(decoded.table))


# Names


def test_names_of_tables(workspace: Workspace) -> None:
    """A topic, or pipeline and step; an unknown one with the nearest, one that nobody holds with the reason."""
    directory = TableDirectory(workspace)
    assert directory.find("by.customer").table == directory.find("totals.sink_by_customer").table
    with pytest.raises(TableUnknown, match=r"did you mean 'by\.customer'\?"):
        directory.find("by.custommer")
    with pytest.raises(TableNotHeld, match=r"'latest' cannot be asked: .*no step keeps them in memory"):
        directory.find("latest")
    listed: list[Listed] = directory.all()
    assert {"by.customer", "by.order", "by.both", "customers", "cities"} <= {each.name for each in listed}


# Owners


def test_who_said_so_last_is_the_owner(workspace: Workspace) -> None:
    """A process that was killed has said less lately than the one that took over."""
    control = FakeControl()
    owners = TableOwners(cast(ControlTopic, control), "me")
    table = TableDirectory(workspace).find("by.customer").table
    task = f"{table.holder.subtopology}_3"
    control.advertise("old", {"address": "http://old:1", "tasks": {"totals": [task]}, "said_at_ms": 5})
    control.advertise("new", {"address": "http://new:1", "tasks": {"totals": [task]}, "said_at_ms": 6})
    control.advertise("odd", {"address": None, "tasks": "none", "said_at_ms": "never"})
    assert {number: owner.instance for number, owner in owners.of(table).items()} == {3: "new"}
    owners.note(running((task,)))
    assert owners.of(table)[3].instance == "me"
    owners.note(running((task,), ComponentState.FAILED))
    assert owners.of(table)[3].instance == "new"


def test_a_process_tells_when_its_tasks_change_and_when_it_ends() -> None:
    """Not with every status; an address and tasks, at last nothing."""
    control = FakeControl()
    owners = TableOwners(cast(ControlTopic, control), "me")
    with owners.advertised("http://me:1"):
        wait_for(lambda: len(control.writes) == 1)
        for _ in range(3):
            owners.note(running(("0_1",)))
        wait_for(lambda: len(control.writes) == 2)
        assert control.said["me"]["tasks"] == {"totals": ["0_1"]}
        assert control.said["me"]["address"] == "http://me:1"
    assert control.writes[-1] == ("me", None)
    assert len(control.writes) == 3
    with TableOwners(cast(ControlTopic, control), "you").advertised(""):
        pass
    assert len(control.writes) == 3


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


def test_addresses() -> None:
    """What others reach: what is configured, else where it listens, else the machine; nothing without a port."""
    assert address_of(HttpConfig(advertise="10.0.0.7", host="0.0.0.0"), 91) == "http://10.0.0.7:91"
    assert address_of(HttpConfig(), 91) == "http://127.0.0.1:91"
    assert address_of(HttpConfig(host="::1"), 91) == "http://[::1]:91"
    assert "0.0.0.0" not in address_of(HttpConfig(host="0.0.0.0"), 91)
    assert address_of(HttpConfig(), 0) == ""
    assert address_of(HttpConfig(tables=False), 91) == ""
