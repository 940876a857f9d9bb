"""Which client of Kafka is used, and where librdkafka is looked for. No broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.log.kafka import KafkaLog, SettingsInvalid, choice
from headrace.log.kafka.choice import SWITCH, chosen_clients
from headrace.log.kafka.library import librdkafka_places, librdkafka_version

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)


def test_the_native_client_is_used_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default; and confluent-kafka's where it cannot."""
    monkeypatch.setattr(choice, "why_not_native", lambda: "")
    assert chosen_clients().kind == "native"
    monkeypatch.setattr(choice, "why_not_native", lambda: "no Rust here")
    assert chosen_clients().kind == "python"


def test_who_is_named_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument counts before the environment variable; a client that cannot be had is an error with its reason."""
    monkeypatch.setattr(choice, "why_not_native", lambda: "no Rust here")
    monkeypatch.setenv(SWITCH, "native")
    with pytest.raises(SettingsInvalid, match="no Rust here"):
        KafkaLog(NOWHERE)
    assert KafkaLog(NOWHERE, client="python").client_kind == "python"
    monkeypatch.setattr(choice, "why_not_native", lambda: "")
    monkeypatch.setenv(SWITCH, "python")
    assert KafkaLog(NOWHERE).client_kind == "python"
    assert KafkaLog(NOWHERE, client="native").client_kind == "native"
    monkeypatch.setenv(SWITCH, "fast")
    with pytest.raises(SettingsInvalid, match="fast"):
        KafkaLog(NOWHERE)


def test_the_package_switched_off_leaves_the_other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `HEADRACE_NATIVE=0`."""
    monkeypatch.setattr(choice, "native", None)
    assert "headrace-native" in choice.why_not_native.__wrapped__()


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither is a file that is no library; each place is told with its reason."""
    tried = []

    class Native:
        def open_librdkafka(self, place: str, version: int) -> None:
            tried.append((place, version))
            raise OSError(f"{place} is version 1")

    monkeypatch.setattr(choice, "native", Native())
    monkeypatch.setattr(choice, "librdkafka_places", lambda: ["one", "two"])
    assert choice.why_not_native.__wrapped__() == "one is version 1; two is version 1"
    assert tried == [("one", librdkafka_version()), ("two", librdkafka_version())]


def test_librdkafka_is_found_where_wheels_keep_it(tmp_path: Path) -> None:
    """Beside the package on Linux, inside of it on macOS; the system's own comes last."""
    package = tmp_path / "confluent_kafka"
    for path in ("confluent_kafka.libs/librdkafka-0cb9.so.1", "confluent_kafka/.dylibs/librdkafka.1.dylib"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    (tmp_path / "confluent_kafka.libs" / "libother.so").touch()
    assert [Path(place).name for place in librdkafka_places(package)][:2] == [
        "librdkafka-0cb9.so.1",
        "librdkafka.1.dylib",
    ]


@pytest.mark.parametrize(
    "settings", [{"plugin.library.paths": "p"}, {"sasl.oauthbearer.metadata.authentication.type": "aws_iam"}]
)
def test_what_only_confluent_kafka_does_is_left_to_it(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the native client is chosen."""
    monkeypatch.setattr(choice, "PythonConsumer", lambda given: ("consumer", given))
    monkeypatch.setattr(choice, "PythonProducer", lambda given, _: ("producer", given))
    clients = choice.NativeClients()
    assert clients.consumer(settings) == ("consumer", settings)
    assert clients.producer(settings, lambda *_: None) == ("producer", settings)
