"""The broker and the way to it fail under load: what is committed stays exact, and the work goes on by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults import world
from tests.faults.brokers import OwnBroker, own_broker
from tests.faults.catalogue import put_up_with
from tests.faults.scene import IS_LONG, Scene, open_scene

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-world"),
    pytest.mark.timeout(1_800 if IS_LONG else 400),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """One for the tests of this module: what they do to it, they undo."""
    with own_broker(tmp_path_factory.mktemp("broker") / "kafka") as broker:
        yield broker


@pytest.fixture(scope="module")
def shared_scene(broker: OwnBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two workers behind the proxy."""
    with open_scene(
        tmp_path_factory.mktemp("world") / "scene",
        broker.bootstrap,
        worker_bootstrap=broker.proxy.address,
        resources=broker.resources,
    ) as scene:
        yield scene
        if scene.is_well:
            scene.finish()


def test_the_broker_restarts(scene: Scene) -> None:
    """A clean restart, and one by kill -9; group and transaction coordinators go with it."""
    put_up_with(scene, *["broker restarts, clean", "broker restarts, kill -9"] * (5 if IS_LONG else 1))


def test_the_broker_is_away(scene: Scene) -> None:
    """For longer than a session lives; in the long form for longer than anything waits."""
    if IS_LONG:
        world.long_outage(scene, random.Random(1))
        scene.settle()
    else:
        put_up_with(scene, "broker away")


def test_the_link_is_cut(scene: Scene) -> None:
    """Connections refused for a while, then reset again and again."""
    put_up_with(scene, "link cut", "connections reset")


def test_the_link_is_slow(scene: Scene) -> None:
    """Every piece is late: it takes longer, and nothing else."""
    put_up_with(scene, "link slow")


def test_the_link_is_half_open(scene: Scene) -> None:
    """Nothing comes through, and nobody says so."""
    put_up_with(scene, "link half-open")


def test_one_way_of_the_link_is_lost(scene: Scene) -> None:
    """Requests that never arrive, and answers, of commits too, that never come back."""
    put_up_with(scene, "requests lost", "answers lost")


def test_metadata_without_brokers(scene: Scene, broker: OwnBroker) -> None:
    """A client that was told of no brokers asks nobody any more (librdkafka #5301): it is replaced."""
    before = broker.proxy.hidden
    put_up_with(scene, "metadata without brokers")
    assert broker.proxy.hidden > before, "nobody asked for metadata: the fault did not happen"
