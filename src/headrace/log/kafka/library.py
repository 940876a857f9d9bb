"""Where librdkafka is: the file that confluent-kafka brings along.

Owns the search, and nothing once it is over.

- The native client opens the very file that confluent-kafka has open, so that both have one version, one behaviour, and
  all of TLS, SASL and compression; nothing of it is built a second time.
- A library of another version is never used: it might behave differently.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka


def librdkafka_version() -> int:
    """The version that confluent-kafka runs on, as librdkafka counts: 0x021000ff is 2.16.0."""
    _, version = confluent_kafka.libversion()
    return version


def librdkafka_text() -> str:
    """The same version for people."""
    text, _ = confluent_kafka.libversion()
    return text


def librdkafka_places(package: Path | None = None) -> Iterator[str]:
    """Files to try, best first: of the wheel, or, where confluent-kafka was built here, the system's."""
    folder = package or Path(confluent_kafka.__file__).parent
    yield from map(str, sorted((folder.parent / "confluent_kafka.libs").glob("librdkafka*.so*")))  # a wheel for Linux
    yield from map(str, sorted((folder / ".dylibs").glob("librdkafka*.dylib")))  # a wheel for macOS
    system = ctypes.util.find_library("rdkafka")
    if system is not None:
        yield system
