"""What `topics` and `status` tell: lag from the log itself, components over all their processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.log.columns import outgoing
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import OffsetAndMetadata, TopicPartition, TopicSpec
from headrace.workspace.environment import Environment, connect
from headrace.workspace.load import Workspace, load
from headrace.workspace.overview import Lag, component_rows, group_lag, topic_rows
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, write_status

from .conftest import WriteWorkspace

GROUP = "shop.totals"
HOUR_MS = 3_600_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """With a topic of two partitions."""
    with closing(EmbeddedLog(tmp_path / "log.db")) as log, closing(log.admin()) as admin:
        admin.create_topics([TopicSpec("orders", 2)])
        yield log


def publish(log: EmbeddedLog, partition: int, *ages_ms: int, transactional: bool = False) -> None:
    """Records of these ages."""
    now_ms = time.time_ns() // 1_000_000
    records = outgoing(
        "orders",
        [b"x"] * len(ages_ms),
        partitions=[partition] * len(ages_ms),
        timestamps_ms=[now_ms - age_ms for age_ms in ages_ms],
    )
    with closing(log.producer(transactional_id="t" if transactional else None)) as producer:
        if transactional:
            producer.begin()
        producer.produce(records)
        if transactional:
            producer.commit()
        producer.flush()


def commit(log: EmbeddedLog, **offsets: int) -> None:
    """Positions of the group: `p0=3`."""
    with closing(log.admin()) as admin:
        positions = {
            TopicPartition("orders", int(name[1:])): OffsetAndMetadata(offset) for name, offset in offsets.items()
        }
        admin.alter_group_offsets(GROUP, positions)


def test_a_group_that_never_read_has_everything_before_it(log: EmbeddedLog) -> None:
    """Records of all partitions, and the age of the oldest."""
    publish(log, 0, 2 * HOUR_MS, HOUR_MS)
    publish(log, 1, 3 * HOUR_MS)
    lag = group_lag(log, GROUP, ["orders"])
    assert lag is not None
    assert lag.records == 3
    assert lag.seconds == pytest.approx(3 * 3_600, abs=60)


def test_what_was_read_does_not_count(log: EmbeddedLog) -> None:
    """Only what lies at or after each position; at the end there is none."""
    publish(log, 0, 2 * HOUR_MS, HOUR_MS)
    publish(log, 1, 3 * HOUR_MS)
    commit(log, p0=1, p1=1)
    lag = group_lag(log, GROUP, ["orders"])
    assert lag is not None
    assert (lag.records, round(lag.seconds / 3_600)) == (1, 1)
    commit(log, p0=2, p1=1)
    assert group_lag(log, GROUP, ["orders"]) == Lag(0, 0.0)


def test_marks_of_transactions_are_no_lag(log: EmbeddedLog) -> None:
    """A worker commits the offset after its last record; the mark behind that is nothing to read."""
    publish(log, 0, 0, 0, transactional=True)
    commit(log, p0=2)
    assert group_lag(log, GROUP, ["orders"]) == Lag(0, 0.0)


def test_without_its_topics_lag_is_not_known(log: EmbeddedLog) -> None:
    """None, which is not 0."""
    assert group_lag(log, GROUP, ["nothing"]) is None


@pytest.fixture
def shop(write_workspace: WriteWorkspace) -> Iterator[tuple[Workspace, Environment]]:
    """A workspace of one pipeline, nothing applied."""
    workspace = load(write_workspace())
    with connect(workspace.file, workspace.contracts, "dev") as environment:
        yield workspace, environment


def status(workspace: Workspace, instance: str, **changes: Any) -> None:
    """What a process of the pipeline said about itself."""
    values: dict[str, Any] = {
        "kind": ComponentKind.PIPELINE,
        "name": "totals",
        "instance": instance,
        "environment": "dev",
        "state": ComponentState.RUNNING,
        "started_at_ms": 0,
        "records_in": 10,
        "records_per_second": 2.5,
        "dropped": {"window:late": 1},
        "stream_time_ms": 5_000,
    }
    write_status(workspace.root, ComponentStatus.model_validate(values | changes))


def test_processes_of_a_component_are_put_together(shop: tuple[Workspace, Environment]) -> None:
    """Counters are summed over those that live, the smallest stream time counts, other environments do not."""
    workspace, environment = shop
    status(workspace, "host-0")
    status(workspace, "host-1", stream_time_ms=4_000, dropped={"window:late": 2, "join:null_key": 1})
    status(workspace, "host-2", state=ComponentState.STOPPED, records_in=99)
    status(workspace, "host-3", environment="kafka", records_in=99)
    (row,) = component_rows(workspace, environment)
    assert (row.state, row.instances, row.records_in, row.records_per_second) == ("running", 2, 20, 5.0)
    assert row.dropped == {"window:late": 3, "join:null_key": 1}
    assert row.stream_time_ms == 4_000
    assert len(row.statuses) == 3


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ((ComponentState.RUNNING, ComponentState.FAILED), "failed"),
        ((ComponentState.RUNNING, ComponentState.RESTORING), "restoring"),
        ((ComponentState.RUNNING, ComponentState.STANDBY), "running"),
        ((ComponentState.RUNNING, ComponentState.STOPPED), "running"),
    ],
)
def test_the_state_that_a_person_should_see_first(
    shop: tuple[Workspace, Environment], states: tuple[ComponentState, ...], shown: str
) -> None:
    """Of several processes."""
    workspace, environment = shop
    for number, state in enumerate(states):
        status(workspace, f"host-{number}", state=state, error="why" if state is ComponentState.FAILED else None)
    (row,) = component_rows(workspace, environment)
    assert row.state == shown
    assert row.error == ("why" if shown == "failed" else None)


def test_topics_that_are_not_there_are_told(shop: tuple[Workspace, Environment]) -> None:
    """Before apply the workspace's topics are listed as absent, and topics of others only when all are asked for."""
    workspace, environment = shop
    with closing(environment.log.admin()) as admin:
        admin.create_topics([TopicSpec("others", 3)])
    rows = {row.topic: row for row in topic_rows(workspace, environment)}
    assert {name: row.exists for name, row in rows.items()} == {
        "orders": False,
        "customers.revenue": False,
        "totals.dlq": False,
    }
    every = {row.topic: row for row in topic_rows(workspace, environment, every=True)}
    assert (every["others"].kind, every["others"].partitions) == ("", 3)
