"""Topics change under a pipeline's feet: it stops with a clear message where it could only go on wrongly.

Each test has a scene of its own: what is done to its topics cannot be undone. What came out before stays as it was.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from headrace.log.port import Admin, TopicPartition, TopicSpec
from headrace.workspace.status import ComponentState
from tests.engine.harness import wait_until
from tests.faults.machine import delete_all
from tests.faults.scene import Scene, open_scene
from tests.faults.verdict import Topics

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-topics"),
    pytest.mark.timeout(400),
]

OF_ORDERS = ("orders.large", "orders.priced")
"""Without the windows: some may close after the last row was read, when all tasks know that."""
OF_CUSTOMERS = ("orders.enriched", "customers.totals")
OUTPUTS = (*OF_ORDERS, *OF_CUSTOMERS)
STOP_TIMEOUT_S = 90.0
MORE_ORDERS = 200
SLOW_RESTORES = 12
RESTORE_PAUSE_S = 0.5


@pytest.fixture
def scene(kafka_bootstrap: str, tmp_path: Path) -> Iterator[Scene]:
    """Two workers that have worked for a while and are well."""
    with open_scene(tmp_path / "scene", kafka_bootstrap, partitions=2) as scene:
        scene.settle()
        yield scene


@pytest.fixture
def admin(scene: Scene) -> Iterator[Admin]:
    with contextlib.closing(scene.environment.log.admin()) as admin:
        yield admin


def places(admin: Admin, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(admin.topics(internal=True)[topic].partitions)]


def changelogs(admin: Admin, pipeline: str) -> list[TopicPartition]:
    topics = [topic for topic in admin.topics(internal=True) if topic.startswith(pipeline) and "changelog" in topic]
    return [place for topic in topics for place in places(admin, topic)]


def outputs(scene: Scene) -> dict[str, pl.DataFrame]:
    """Everything that the scene has written for others, sorted."""
    topics = Topics(scene.environment, scene.workspace)
    found = {name: topics.rows(scene.names.topic(name)).select(pl.exclude("^__.*$")) for name in OUTPUTS}
    return {name: rows.sort(rows.columns) for name, rows in found.items()}


def rest(scene: Scene) -> dict[str, pl.DataFrame]:
    """No more input, all of it processed: the outputs."""
    scene.settle()
    scene.load.pause()
    wait_until(lambda: not scene.lag(), "the end of the input", STOP_TIMEOUT_S)
    return outputs(scene)


def stopped(scene: Scene) -> dict[str, str]:
    """What pipelines are failed for good, and why; the newest word of each."""
    return {each.name: str(each.error) for each in scene.statuses() if each.state is ComponentState.FAILED}


def stops(scene: Scene, message: str, *pipelines: str) -> None:
    """These pipelines stop for good with these words, in every worker, and the others do not."""

    def done() -> bool:
        return set(pipelines) <= stopped(scene).keys()

    wait_until(done, f"a stop of {pipelines}, there is {stopped(scene)}", STOP_TIMEOUT_S)
    found = stopped(scene)
    assert found.keys() == set(pipelines), found
    assert all(message in found[pipeline] for pipeline in pipelines), found


def unchanged(scene: Scene, before: dict[str, pl.DataFrame], names: Sequence[str] = OUTPUTS) -> None:
    """Nothing was written since."""
    after = outputs(scene)
    assert [name for name in names if not after[name].equals(before[name])] == []


def goes_on(scene: Scene, pipeline: str) -> None:
    """More orders come, and it processes them all."""
    sent = scene.load.orders_sent
    scene.load.resume()
    wait_until(lambda: scene.load.orders_sent > sent + MORE_ORDERS, "more orders")
    scene.load.pause()
    wait_until(lambda: pipeline not in scene.lag(), f"{pipeline} goes on", STOP_TIMEOUT_S)


def stop_all(scene: Scene) -> None:
    for fleet in list(scene.fleets):
        assert scene.stop(fleet) == 0


def test_retention_passed_the_position_in_a_source(scene: Scene, admin: Admin) -> None:
    """Records that were to be read next are gone: nobody skips them in silence."""
    before = rest(scene)
    stop_all(scene)
    scene.load.resume()
    wait_until(lambda: len(lag := scene.lag()) == 2 and min(lag.values()) > MORE_ORDERS, "unread records")
    scene.load.pause()
    orders = places(admin, scene.names.topic("orders"))
    admin.delete_records(admin.end_offsets(orders))
    scene.start(2, wait=False)
    stops(scene, "is gone", *scene.names.pipelines)
    unchanged(scene, before)


def test_a_changelog_that_lost_records(scene: Scene, admin: Admin) -> None:
    """A fresh disk, and half of the changelog is gone: the pipeline refuses to compute on; the other goes on."""
    orders_flow, customers_flow = scene.names.pipelines
    before = rest(scene)
    for place, end in admin.end_offsets(changelogs(admin, customers_flow)).items():
        admin.delete_records({place: end // 2})
    delete_all(scene, random.Random())
    stops(scene, "changelog", customers_flow)
    goes_on(scene, orders_flow)
    unchanged(scene, before, OF_CUSTOMERS)


def test_a_changelog_cut_while_it_is_read(scene: Scene, admin: Admin) -> None:
    """Records go while they are restored: the state is right, or the worker says that it cannot be."""
    scene.load.pause()
    for _ in range(SLOW_RESTORES):
        scene.arm("slow_restore", seconds=RESTORE_PAUSE_S)
    here = changelogs(admin, scene.names.pipelines[1])
    ends = admin.end_offsets(here)
    delete_all(scene, random.Random())
    for share in range(1, 6):
        admin.delete_records({place: end * share // 6 for place, end in ends.items()})
    wait_until(lambda: bool(stopped(scene)) or not scene.lag(), "a stop or the end", STOP_TIMEOUT_S)
    assert all("changelog" in reason for reason in stopped(scene).values()), stopped(scene)
    verdict = scene.verdict()
    assert not verdict.wrong, verdict


def test_a_source_gains_partitions(scene: Scene, admin: Admin) -> None:
    """Keys go elsewhere, away from their state: the pipeline with such state stops before it computes without it. The
    other one keeps its state behind a topic of its own, and reads the new partitions as well."""
    orders_flow, customers_flow = scene.names.pipelines
    before = rest(scene)
    admin.add_partitions(scene.names.topic("orders"), 4)
    stops(scene, "partitions", customers_flow)
    goes_on(scene, orders_flow)
    unchanged(scene, before, OF_CUSTOMERS)
    verdict = scene.verdict()
    assert not any(name in each for each in verdict.missing + verdict.wrong for name in OF_ORDERS), verdict


@pytest.mark.parametrize("is_running", [True, False])
def test_a_source_is_made_again(scene: Scene, admin: Admin, *, is_running: bool) -> None:
    """Other records stand at the old offsets, whether workers run meanwhile or not: both pipelines stop and count none
    of them, also where a repartition topic lies between the topic and the state. Which of three things they notice
    first is a matter of chance."""
    before = rest(scene)
    if not is_running:
        stop_all(scene)
    orders = scene.names.topic("orders")
    topic = admin.topics()[orders]
    admin.delete_topics([orders])
    admin.create_topics([TopicSpec(orders, topic.partitions, config=topic.config)])
    if not is_running:
        scene.start(2, wait=False)
    scene.load.resume()
    wait_until(lambda: set(scene.names.pipelines) <= stopped(scene).keys(), "a stop of both", STOP_TIMEOUT_S)
    for why in stopped(scene).values():
        assert any(word in why for word in ("made again", "is gone", "no offset")), why
    unchanged(scene, before, OF_CUSTOMERS)


def test_a_group_that_was_deleted(scene: Scene, admin: Admin) -> None:
    """State without the position that it belongs to: counting from the beginning would count twice."""
    before = rest(scene)
    stop_all(scene)
    for pipeline in scene.names.pipelines:
        admin.delete_group(f"{scene.names.prefix}.{pipeline}")
    scene.start(1, wait=False)
    wait_until(lambda: set(scene.names.pipelines) <= stopped(scene).keys(), "a stop of both", STOP_TIMEOUT_S)
    assert all("no offset" in why for why in stopped(scene).values()), stopped(scene)
    unchanged(scene, before, OF_CUSTOMERS)
