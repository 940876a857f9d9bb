"""A broker that asks who is there, and encrypts: both clients come in with the right settings, and only then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from headrace.log.columns import outgoing
from headrace.log.kafka import KafkaLog
from headrace.log.kafka import producer as producer_module
from headrace.log.kafka.client import ClientKind
from headrace.log.kafka.errors import LogDenied
from headrace.log.port import LogUnavailable
from headrace.testing.broker import QUICK_OPTIONS, start_broker, stop_broker
from headrace.testing.kafka_jars import missing_programs
from headrace.testing.kafka_service import is_required
from headrace.testing.log_conformance.probe import make_topic, numbered, read, unique, values_of, write
from headrace.testing.server_process import free_ports

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka-security")]

USER, PASSWORD = "alice", "hunter2"
JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'username="{USER}" password="{PASSWORD}" user_{USER}="{PASSWORD}";'
)


class Guarded(NamedTuple):
    """Where a broker lets everyone in and do everything, where it asks for a password, where it does so encrypted, and
    by what its certificate is known."""

    open: str
    password: str
    encrypted: str
    authority: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    reason = missing_programs()
    if reason and not is_required():
        pytest.skip(f"a broker of our own is needed: {reason}")
    home = tmp_path_factory.mktemp("guarded")
    key, certificate = _certificate(home)
    plain, controller, password, encrypted = free_ports(4)
    places = {"PLAINTEXT": plain, "CONTROLLER": controller, "PASSWORD": password, "ENCRYPTED": encrypted}
    listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in places.items()}
    settings = {
        "listeners": ",".join(listeners.values()),
        "advertised.listeners": ",".join(each for name, each in listeners.items() if name != "CONTROLLER"),
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "PASSWORD:SASL_PLAINTEXT,ENCRYPTED:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.password.plain.sasl.jaas.config": JAAS,
        "listener.name.encrypted.plain.sasl.jaas.config": JAAS,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(key),
    }
    start_broker(home / "broker", owner_pid=os.getpid(), temporary=True, heap=QUICK_OPTIONS, settings=settings)
    try:
        yield Guarded(*(f"127.0.0.1:{port}" for port in (plain, password, encrypted)), authority=str(certificate))
    finally:
        stop_broker(home / "broker")


def _certificate(home: Path) -> tuple[Path, Path]:
    """A file with key and certificate for the broker, and one with the certificate for clients."""
    key, certificate = home / "key.pem", home / "certificate.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    key.write_text(key.read_text(encoding="ascii") + certificate.read_text(encoding="ascii"), encoding="ascii")
    return key, certificate


def settings_of(guarded: Guarded, protocol: str, password: str = PASSWORD) -> tuple[str, dict[str, str]]:
    """Address and settings to come in with."""
    settings = {
        "security.protocol": protocol,
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password": password,
    }
    if protocol == "SASL_SSL":
        return guarded.encrypted, {**settings, "ssl.ca.location": guarded.authority}
    return guarded.password, settings


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_records_come_and_go_through_a_guarded_door(guarded: Guarded, kafka_client: ClientKind, protocol: str) -> None:
    """In a transaction, with a password, encrypted and not."""
    address, settings = settings_of(guarded, protocol)
    with closing(KafkaLog(address, config=settings)) as log:
        assert log.client_kind == kafka_client
        topic = make_topic(log)
        write(log, outgoing(topic, numbered(10)))
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(topic, [b"in a transaction"]))
            producer.commit()
        assert values_of(read(log, topic, 11)) == [*numbered(10), b"in a transaction"]


def test_a_wrong_password_is_told_without_showing_it(guarded: Guarded, kafka_client: ClientKind) -> None:
    """By whoever asks first; the reason is the broker's."""
    address, settings = settings_of(guarded, "SASL_PLAINTEXT", password="hunter3")
    with closing(KafkaLog(address, config=settings, unavailable_after_s=2.0)) as log:
        with pytest.raises((LogDenied, LogUnavailable), match=r"(?i)authentication") as caught:
            log.producer(transactional_id=unique("id"))
        assert "hunter3" not in str(caught.value)


def test_an_unknown_certificate_is_not_trusted(guarded: Guarded, kafka_client: ClientKind) -> None:
    """Without the authority's certificate nobody comes in."""
    address, settings = settings_of(guarded, "SASL_SSL")
    del settings["ssl.ca.location"]
    with (
        closing(KafkaLog(address, config=settings, unavailable_after_s=2.0)) as log,
        pytest.raises((LogDenied, LogUnavailable), match=r"(?i)ssl|certificate"),
    ):
        log.producer(transactional_id=unique("id"))


def test_a_topic_that_a_transaction_may_not_write_is_named(
    guarded: Guarded, kafka_client: ClientKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client tells nothing of a right that lacks and keeps the records; the producer looks why they stay."""
    monkeypatch.setattr(producer_module, "RIGHTS_ASKED_AFTER_S", 0.5)
    address, settings = settings_of(guarded, "SASL_PLAINTEXT")
    with closing(KafkaLog(address, config=settings)) as log:
        allowed, forbidden = make_topic(log), make_topic(log)
        _forbid_to_write(guarded, forbidden)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(allowed, [b"may be written"]))
            producer.produce(outgoing(forbidden, [b"may not"]))
            with pytest.raises(LogDenied, match=f"may not write to topic '{forbidden}'"):
                producer.commit()


def test_records_that_stay_unsent_are_told_by_the_right_that_lacks(
    guarded: Guarded, kafka_client: ClientKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that keeps records does not say why: the rights are looked at; where none lacks they are waited for."""
    address, settings = settings_of(guarded, "SASL_PLAINTEXT")
    with closing(KafkaLog(address, config=settings)) as log:
        allowed, forbidden = make_topic(log), make_topic(log)
        _forbid_to_write(guarded, forbidden)
        for topic, error in ((forbidden, LogDenied), (allowed, LogUnavailable)):
            with closing(log.producer(transactional_id=unique("id"))) as producer:
                monkeypatch.setattr(producer, "_flush_for", lambda _timeout_s: 1)
                producer.begin()
                producer.produce(outgoing(topic, [b"stays"]))
                with pytest.raises(error):
                    producer.flush(1.0)


def _forbid_to_write(guarded: Guarded, topic: str) -> None:
    place = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{USER}", "*")
    rules = [
        AclBinding(*place, AclOperation.WRITE, AclPermissionType.DENY),
        AclBinding(*place, AclOperation.ALL, AclPermissionType.ALLOW),
    ]
    admin = AdminClient({"bootstrap.servers": guarded.open})
    for future in admin.create_acls(rules).values():
        future.result(30)
