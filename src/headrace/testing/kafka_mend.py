"""One class of the test broker, with a fault of Kafka's taken out.

Owns the mended copy of `KRaftMetadataCache`, made from the jar of the broker itself and put before it on the classpath.

- Kafka 4.3 and 4.4 say of a partition whose leader is away that it has none and never had (KAFKA-20734). The
  transaction coordinator then takes it for deleted and leaves its COMMIT or ABORT marker out: rows of an aborted
  transaction become those of the next one that is committed. A broker that stands alone does so after `kill -9`, until
  its old session is over, and no client can prevent it: tests of exactly once would find Kafka's fault.
- The cure is that of Kafka's own pull request 22680: such a partition has a leader that nobody knows.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from headrace.testing.kafka_jars import BrokerError
from headrace.testing.server_process import file_lock

CLASS = "org/apache/kafka/metadata/KRaftMetadataCache.class"
JAR_NAME = "kafka-metadata-{version}.jar"

_METHOD = "lambda$getPartitionLeaderEndpoint$"
_TAKES = "(Lorg/apache/kafka/image/MetadataImage;"
_OPTIONAL = "java/util/Optional"
_NODE = "org/apache/kafka/common/Node"

_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
"""Bytes of each kind of constant but texts: JVMS 4.4."""
_TEXT, _CLASS, _METHOD_REFERENCE = 1, 7, 10
_WIDE = (5, 6)
_RETURN, _INVOKE, _INVOKE_STATIC = b"\xb0", b"\xb6", b"\xb8"


def mended_directory(libs: Path, version: str) -> Path:
    """A folder for the front of the classpath; makes it when it is not there yet."""
    folder = libs.parent / "mended"
    target = folder / CLASS
    with file_lock(libs.parent / "lock"):
        if not target.is_file():
            with zipfile.ZipFile(libs / JAR_NAME.format(version=version)) as jar:
                original = jar.read(CLASS)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            partial.write_bytes(mended(original))
            os.replace(partial, target)
    return folder


def mended(original: bytes) -> bytes:
    """The class file, in which `getPartitionLeaderEndpoint` gives `Node.noNode()` where the leader is away."""
    pool = _Constants(original)
    place = _place_of_code(original, pool)
    length, code_length = (struct.unpack_from(">I", original, place + offset)[0] for offset in (2, 10))
    code = original[place + 14 : place + 14 + code_length]
    if code[-1:] != _RETURN or "StackMapTable" in _names_behind(original, pool, place + 14 + code_length):
        raise _differs("the method is another one")
    # optional.orElse(noNode) is never null, and an Optional is what must be returned.
    more = b"".join(
        (
            _INVOKE_STATIC + pool.method(_NODE, "noNode"),
            _INVOKE + pool.method(_OPTIONAL, "orElse"),
            _INVOKE_STATIC + pool.method(_OPTIONAL, "ofNullable"),
        )
    )
    code = code[:-1] + more + _RETURN
    # What follows the code is for debuggers, and would no longer fit: no handlers, no attributes.
    body = original[place + 6 : place + 10] + struct.pack(">I", len(code)) + code + bytes(4)
    return original[: place + 2] + struct.pack(">I", len(body)) + body + original[place + 6 + length :]


def _differs(reason: str) -> BrokerError:
    return BrokerError(
        f"{CLASS} is not as it was in Kafka 4.4: {reason}",
        cure="see whether this version of Kafka has KAFKA-20734 mended; then headrace.testing.kafka_mend can go",
    )


class _Constants:
    """The constant pool: JVMS 4.4."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._places: dict[int, int] = {}
        (count,) = struct.unpack_from(">H", data, 8)
        index, place = 1, 10
        while index < count:
            self._places[index] = place
            tag = data[place]
            size = 2 + self._number(place + 1) if tag == _TEXT else _SIZES[tag]
            index, place = index + (2 if tag in _WIDE else 1), place + 1 + size
        self.end = place

    def text(self, index: int) -> str:
        """A text constant."""
        place = self._places[index] + 1
        return self._data[place + 2 : place + 2 + self._number(place)].decode("utf-8")

    def method(self, owner: str, name: str) -> bytes:
        """The index of the reference to a method, as an instruction has it."""
        for index, place in self._places.items():
            if self._data[place] == _METHOD_REFERENCE:
                of, named = self._number(place + 1), self._places[self._number(place + 3)]
                found = self.text(self._number(self._places[of] + 1)), self.text(self._number(named + 1))
                if found == (owner, name):
                    return struct.pack(">H", index)
        raise _differs(f"{owner}.{name} is not called in it")

    def _number(self, place: int) -> int:
        number: int = struct.unpack_from(">H", self._data, place)[0]
        return number


def _place_of_code(data: bytes, pool: _Constants) -> int:
    """Where the method's code attribute begins: JVMS 4.6 and 4.7.3."""
    (interfaces,) = struct.unpack_from(">H", data, pool.end + 6)
    place = pool.end + 8 + 2 * interfaces
    for kind in ("fields", "methods"):
        (members,) = struct.unpack_from(">H", data, place)
        place += 2
        for _ in range(members):
            name, descriptor, attributes = struct.unpack_from(">HHH", data, place + 2)
            is_wanted = kind == "methods" and pool.text(name).startswith(_METHOD)
            is_wanted = is_wanted and pool.text(descriptor).startswith(_TAKES)
            place += 8
            for attribute, length in _attributes(data, place, attributes):
                if is_wanted and pool.text(struct.unpack_from(">H", data, attribute)[0]) == "Code":
                    return attribute
                place = attribute + 6 + length
    raise _differs("it has no such method")


def _names_behind(data: bytes, pool: _Constants, place: int) -> set[str]:
    """Names of the attributes behind a method's code and its table of handlers."""
    (handlers,) = struct.unpack_from(">H", data, place)
    place += 2 + 8 * handlers
    (count,) = struct.unpack_from(">H", data, place)
    found = _attributes(data, place + 2, count)
    return {pool.text(struct.unpack_from(">H", data, at)[0]) for at, _ in found}


def _attributes(data: bytes, place: int, count: int) -> Iterator[tuple[int, int]]:
    """Where each attribute begins, and how long it is behind its name and length."""
    for _ in range(count):
        (length,) = struct.unpack_from(">I", data, place + 2)
        yield place, length
        place += 6 + length
