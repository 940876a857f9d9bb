"""A dead-letter topic that is missing or forbidden: the pipeline stops and says so, and nothing is lost meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from headrace.workspace.apply import apply_plan
from headrace.workspace.plan import make_plan
from headrace.workspace.status import ComponentState
from tests.engine.harness import wait_until
from tests.faults.brokers import OwnBroker, own_broker
from tests.faults.letters import letters
from tests.faults.scene import Scene, open_scene
from tests.faults.verdict import Topics

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.xdist_group("faults-records"),
    pytest.mark.timeout(400),
]

USER, PASSWORD = "worker", "secret-of-workers"
PRINCIPAL = f"User:{USER}"
GUARDED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    # Who comes past the proxy has no name: this test, and the broker itself.
    "super.users": "User:ANONYMOUS",
    "allow.everyone.if.no.acl.found": "true",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT",
    "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.proxied.plain.sasl.jaas.config": (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    ),
}
CLIENT = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": USER,
    "sasl.password": "${SHOP_PASSWORD}",
}
STOP_TIMEOUT_S = 150.0
"""The client does not tell that a transaction may not write to a topic: its records stay unsent for a while."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """It asks who comes through the proxy for a password."""
    with own_broker(tmp_path_factory.mktemp("broker") / "kafka", GUARDED) as broker:
        yield broker


@pytest.fixture
def scene(broker: OwnBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    with open_scene(
        tmp_path / "scene", broker.bootstrap, worker_bootstrap=broker.proxy.address, client=CLIENT
    ) as scene:
        yield scene


def reason(scene: Scene) -> str:
    """Why the pipeline with dead letters does not go on; empty while it does."""
    states = (ComponentState.FAILED, ComponentState.WAITING)
    return next(
        (str(e.error) for e in scene.statuses() if e.name == scene.names.pipelines[0] and e.state in states), ""
    )


def start_again(scene: Scene) -> None:
    """What a person does who has mended the cause."""
    for fleet in list(scene.fleets):
        scene.stop(fleet)
    scene.start(2)


def test_a_forbidden_dead_letter_topic(scene: Scene, broker: OwnBroker) -> None:
    """Refused by the broker while bad rows come: it says that it cannot go on, and commits nothing without them; each
    is there once when it may write again."""
    scene.settle()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    topic = (ResourceType.TOPIC, scene.names.dead_letters, ResourcePatternType.LITERAL, PRINCIPAL, "*")
    rules = [
        AclBinding(*topic, AclOperation.WRITE, AclPermissionType.DENY),
        *(AclBinding(*topic, each, AclPermissionType.ALLOW) for each in (AclOperation.READ, AclOperation.DESCRIBE)),
    ]
    for future in admin.create_acls(rules).values():
        future.result()
    refusal = f"may not write to topic '{scene.names.dead_letters}'"
    wait_until(lambda: refusal in reason(scene), "a word about it", STOP_TIMEOUT_S)
    every = AclBindingFilter(
        ResourceType.TOPIC, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    for future in admin.delete_acls([every]).values():
        future.result()
    start_again(scene)
    scene.settle()
    scene.finish()


def test_a_missing_dead_letter_topic(scene: Scene) -> None:
    """Deleted under the pipeline: it stops and names it; made again by `apply`, every bad row since then is in it."""
    scene.settle()
    scene.load.pause()
    before = {each.value for each in letters(scene)}
    assert before
    with contextlib.closing(scene.environment.log.admin()) as admin:
        admin.delete_topics([scene.names.dead_letters])
    scene.load.resume()
    wait_until(lambda: scene.names.dead_letters in reason(scene), "a word about the topic", STOP_TIMEOUT_S)
    apply_plan(make_plan(scene.workspace, scene.environment), scene.workspace, scene.environment)
    start_again(scene)
    scene.load.pause()
    wait_until(lambda: not scene.lag(), "the end of the input", STOP_TIMEOUT_S)
    verdict = scene.verdict()
    assert not verdict.wrong, verdict
    assert all(each.startswith("dead letters: missing") for each in verdict.missing), verdict
    orders = Topics(scene.environment, scene.workspace).rows(scene.names.topic("orders"))
    bad = orders.filter(orders["note"] == "bad").height
    assert len(letters(scene)) == bad - len(before)
    for fleet in list(scene.fleets):
        assert scene.stop(fleet) == 0
