"""`docs/log.md` tells the truth: settings, errors and limits are those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import Fault
from headrace.log import port
from headrace.log.embedded import consumer, fetch, maintenance, membership, offsets, producer, storage, topics
from headrace.log.kafka import connection, settings
from headrace.log.kafka.errors import LogDenied
from headrace.log.kafka.log import TRANSACTION_TIMEOUT_MS

PAGE = (Path(__file__).parents[2] / "docs" / "log.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
DEFAULTS = {**settings.COMMON, **settings.PRODUCER, **settings.CONSUMER}
PROMISED = {**settings.PROMISED_PRODUCER, **settings.PROMISED_CONSUMER, **settings.PROMISED_MEMBER}


def documented() -> dict[str, str]:
    """The value that the page gives for each setting it names."""
    return {name: row[1].strip("`") for row in ROWS for name in re.findall(r"`([a-z_.]+)`", row[0])}


def errors(kind: type[port.LogError]) -> Iterator[type[port.LogError]]:
    for each in kind.__subclasses__():
        yield each
        yield from errors(each)


def test_every_kafka_setting_is_documented_with_its_value() -> None:
    """Defaults and promised ones; and the page names no setting that is not set."""
    told = documented()
    for name, value in (DEFAULTS | PROMISED).items():
        assert told[name] == (str(value).lower() if isinstance(value, bool) else str(value))
    assert told.keys() >= settings.OWN
    kafka_page = PAGE.split("## Kafka")[1]
    named = {
        name
        for line in kafka_page.splitlines()
        if line.startswith("|`")
        for name in re.findall(r"`([a-z_.]+)`", line.split("|")[1])
    }
    assert named == DEFAULTS.keys() | PROMISED.keys() | settings.OWN


def test_every_error_of_the_port_is_documented() -> None:
    """By code and class; those of one log alone need not be."""
    for kind in [
        *(each for each in errors(port.LogError) if each.__module__ == port.__name__),
        LogDenied,
        settings.SettingsInvalid,
    ]:
        assert f"|`{kind.code}`|`{kind.__name__}`|" in PAGE
    assert {each.fault for each in errors(port.LogError)} >= {Fault.ROW, Fault.RETRY, Fault.STOP}


@pytest.mark.parametrize(
    "told",
    [
        f"not heard of for {membership.SESSION_TIMEOUT_MS // 1000} s",
        f"do not poll for {membership.POLL_INTERVAL_MAX_MS // 1000} s",
        f"from {producer.HELD_BYTES_MAX // 2**20} MiB on in the file",
        f"up to {storage.WRITE_WAIT_S:.0f} s",
        f"|{consumer.WAIT_MAX_S * 1000:.0f} ms|",
        f"|{topics.PARTITIONS_MAX:,}|",
        f"|{int(topics.DEFAULTS['max.message.bytes']):,} bytes",
        f"up to {topics.RECORD_BYTES_MAX // 2**20} MiB",
        f"|{offsets.METADATA_BYTES_MAX:,} bytes|",
        f"|{maintenance.STAGED_MS_MAX // 60_000} minutes",
        f"|{fetch.FETCH_BYTES_MAX // 2**20} MiB",
        f"a transaction is {TRANSACTION_TIMEOUT_MS // 1000} s",
        f"for up to {connection.UNAVAILABLE_AFTER_S:.0f} s",
        f"at most every {connection.NOTICE_INTERVAL_S:.0f} s",
    ],
)
def test_numbers_are_those_of_the_code(told: str) -> None:
    """A limit that changes must change here too."""
    assert told in PAGE.replace("\n", " ")
