"""The broker and the way to it fail under load: what is committed stays exact, and the work goes on by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import world
from tests.faults.brokers import OwnBroker, own_broker
from tests.faults.scene import Fault, Scene, open_scene

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.xdist_group("faults-world")]

SETTLE_S = 90.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """One for the tests of this module: what they do to it, they undo."""
    with own_broker(tmp_path_factory.mktemp("broker") / "kafka") as broker:
        yield broker


@pytest.fixture
def scene(broker: OwnBroker, tmp_path: Path) -> Iterator[Scene]:
    """Two workers behind the proxy."""
    with open_scene(
        tmp_path / "scene", broker.bootstrap, worker_bootstrap=broker.proxy.address, resources=broker.resources
    ) as scene:
        yield scene


def put_up_with(scene: Scene, *faults: Fault, seed: int = 1) -> None:
    """One fault after the other, with a verdict behind each."""
    generator = random.Random(seed)
    for fault in faults:
        fault.apply(scene, generator)
        scene.settle(SETTLE_S)
    scene.finish()


def named(*names: str) -> list[Fault]:
    faults = {fault.name: fault for fault in world.WORLD_FAULTS}
    return [faults[name] for name in names]


@pytest.mark.timeout(240)
def test_a_broker_that_restarts_and_stays_away(scene: Scene) -> None:
    """A clean restart, a kill -9 and an outage longer than a session, group and transaction coordinators with it."""
    put_up_with(scene, *named("broker restarts, clean", "broker restarts, kill -9", "broker away"))


@pytest.mark.timeout(240)
def test_a_link_that_is_cut_and_slow(scene: Scene) -> None:
    """Connections refused, reset, and late."""
    put_up_with(scene, *named("link cut", "connections reset", "link slow"))


@pytest.mark.timeout(240)
def test_a_link_that_swallows(scene: Scene) -> None:
    """A half-open link, and one way lost: requests that never arrive, and answers, of commits too, that never come."""
    put_up_with(scene, *named("link half-open", "requests lost", "answers lost"))


@pytest.mark.timeout(240)
def test_metadata_without_brokers(scene: Scene) -> None:
    """A client that was told of no brokers, and would ask nobody any more, is replaced."""
    put_up_with(scene, *named("metadata without brokers"))
