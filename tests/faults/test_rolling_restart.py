"""All workers are replaced under load: no record twice, none lost, no state read from the log; with static members
nobody else notices."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.workspace.status import ComponentStatus
from tests.engine.harness import wait_until
from tests.faults.brokers import OwnBroker, own_broker
from tests.faults.scene import Fleet, Scene, open_scene

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-rolling"),
    pytest.mark.timeout(480),
]

WORKERS = 3
BROKER = {"group.consumer.session.timeout.ms": "45000", "group.consumer.max.session.timeout.ms": "60000"}
"""Kafka's default: longer than a process takes from leaving to coming back, on a machine that is busy too."""
STATIC = '[engine]\nmembership = "static"\n'
ROUND_TIMEOUT_S = 150.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    with own_broker(tmp_path_factory.mktemp("broker") / "kafka", BROKER) as broker:
        yield broker


def start(scene: Scene) -> Fleet:
    """All workers at work, and nothing wrong yet."""
    fleet = scene.start(WORKERS, wait=False)
    all_run(scene, fleet)
    scene.settle()
    return fleet


def replace_all(scene: Scene, fleet: Fleet) -> set[int]:
    """SIGHUP, until the supervisor has replaced every worker; the new process ids."""
    before = set(fleet.pids)
    fleet.signal(signal.SIGHUP)
    wait_until(lambda: len(fleet.pids) == WORKERS and not before & set(fleet.pids), "other workers", ROUND_TIMEOUT_S)
    all_run(scene, fleet)
    return set(fleet.pids)


def all_run(scene: Scene, fleet: Fleet) -> None:
    def running() -> bool:
        pids = fleet.pids
        return len(pids) == WORKERS and all(scene.is_running(pid) for pid in pids)

    wait_until(running, "that all run", ROUND_TIMEOUT_S)


def windows(scene: Scene, pids: set[int]) -> list[ComponentStatus]:
    """The pipeline whose state is windows only, in these processes. The other one looks up a table, which every start
    reads from its own topic."""
    return [each for each in scene.statuses() if each.pid in pids and each.name.endswith("_orders")]


def test_dynamic_members_restore_nothing(broker: OwnBroker, tmp_path: Path) -> None:
    """The default: partitions move between the processes of the machine, and their state with them, by its files."""
    with open_scene(tmp_path / "scene", broker.bootstrap, workers=0) as scene:
        fleet = start(scene)
        after = replace_all(scene, fleet)
        scene.settle()
        found = windows(scene, after)
        assert (len(found), {each.records_restored for each in found}) == (WORKERS, {0})
        scene.finish()


def test_static_members_disturb_nobody(broker: OwnBroker, tmp_path: Path) -> None:
    """A restart revokes no partition of another member and gives it none."""
    with open_scene(tmp_path / "scene", broker.bootstrap, workers=0, config=STATIC) as scene:
        fleet = start(scene)
        owned = {each.instance: each.tasks for each in windows(scene, set(fleet.pids))}
        assert sum(map(len, owned.values())) > WORKERS
        before, began_s = set(fleet.pids), time.time()
        after = replace_all(scene, fleet)
        scene.settle()
        found = windows(scene, after)
        assert {each.instance: each.tasks for each in found} == owned
        assert {each.records_restored for each in found} == {0}
        # Each process came and went once: no callback but those of its own beginning and end.
        told = [each for each in points_of(scene, began_s) if each["partitions"]]
        assert {(each["event"], each["pid"]) for each in told} <= {("revoked", pid) for pid in before} | {
            ("assigned", pid) for pid in after
        }
        by_process = [(each["event"], each["pid"]) for each in told]
        assert len(set(by_process)) == len(by_process) / 2, "each of its two pipelines once"
        scene.finish()


def points_of(scene: Scene, since_s: float) -> list[dict[str, object]]:
    return [each for kind in ("assigned", "revoked", "lost") for each in scene.events(kind) if each["at"] >= since_s]
