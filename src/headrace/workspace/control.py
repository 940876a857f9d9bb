"""The control topic: what operators want of a workspace's components, and where its processes can be reached.

Owns the compacted topic `<workspace>.control`: its keys, its values, the writing, and the reading of it whole or by a
thread that follows it.

- `component/<kind>/<name>` holds what is wanted of a component; without an entry it is to run.
- `instance/<instance>` holds what a running process says of itself; whoever reads it expects that the process died.
- Other keys belong to who writes them. A value is a JSON object; a removed entry is a tombstone.
- Reading never makes the topic; the first write does. It is no part of a plan.
- A log that does not answer leaves what was known last: no component starts or stops for it.
- An entry that cannot be read is told once and left out.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import structlog

from headrace.errors import Fault
from headrace.log.compacted import ensure_compacted
from headrace.log.port import (
    BEGINNING,
    Consumer,
    Log,
    LogError,
    LogUnavailable,
    Outgoing,
    Producer,
    RecordBatch,
    TopicPartition,
    TopicSpec,
    UnknownTopic,
)
from headrace.workspace.environment import Environment
from headrace.workspace.errors import WorkspaceError

POLL_RECORDS_MAX = 1_000
POLL_TIMEOUT_S = 0.25
"""Bounds how late a worker sees that its watch is closed; records are seen as they come."""
RETRY_INTERVAL_S = 0.5
"""Between two looks at a topic that is not there yet, or a log that does not answer."""
READ_TIMEOUT_S = 30.0
"""Longest wait for entries that the log says are there."""

_COMPONENT, _INSTANCE = "component/", "instance/"

_log = structlog.get_logger(__name__)

Entries = Mapping[str, Mapping[str, Any]]
Listener = Callable[[], None]


class ControlInvalid(WorkspaceError):
    """The control topic is not one that headrace made."""

    code = "workspace.control_invalid"


class DesiredState(StrEnum):
    """What is wanted of a component, wherever it runs."""

    RUNNING = "running"
    PAUSED = "paused"
    """It works on nothing, and keeps its membership and its state."""
    STOPPED = "stopped"
    """It leaves its group and waits."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted of one component, and since when."""

    state: DesiredState = DesiredState.RUNNING
    since_ms: int | None = None
    """None: nobody ever asked for anything."""
    reason: str = ""
    """Who asked, for people: `headrace pause`, `headrace reset`."""


@dataclass(frozen=True, slots=True)
class ControlState:
    """The topic's entries at one moment."""

    entries: Entries = field(default_factory=dict)

    def desired(self, kind: str, name: str) -> Desired:
        """What is wanted of a component; to run when nothing was said."""
        entry = self.entries.get(component_key(kind, name))
        if entry is None:
            return Desired()
        return Desired(DesiredState(entry["state"]), entry.get("since_ms"), entry.get("reason", ""))

    def instances(self) -> Entries:
        """What each process said of itself, by instance."""
        return self.under(_INSTANCE)

    def under(self, prefix: str) -> Entries:
        """Entries whose key begins with `prefix`, by the rest of the key."""
        return {key.removeprefix(prefix): value for key, value in self.entries.items() if key.startswith(prefix)}


class ControlTopic:
    """The control topic of one workspace on one log. Thread-safe; closing it does not close the log."""

    def __init__(self, log: Log, workspace: str, *, replication_factor: int = -1) -> None:
        self._log = log
        self.topic = control_topic(workspace)
        self._spec = TopicSpec(self.topic, 1, replication_factor, {"cleanup.policy": "compact"})
        self._partition = TopicPartition(self.topic, 0)
        self._writes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control-writes")
        self._producer: Producer | None = None
        self._watch: _Watch | None = None
        self._is_closed = False

    def set_desired(self, kind: str, name: str, state: DesiredState | str, *, reason: str = "") -> Desired:
        """Say what is wanted of a component; durable when this returns."""
        desired = Desired(DesiredState(state), time.time_ns() // 1_000_000, reason)
        value = {"state": desired.state.value, "since_ms": desired.since_ms, "reason": reason}
        self.put(component_key(kind, name), value)
        return desired

    def desired(self, kind: str, name: str) -> Desired:
        """What is wanted of a component."""
        return self.state().desired(kind, name)

    def advertise(self, instance: str, about: Mapping[str, Any]) -> None:
        """Say something of a running process, instead of what it said before."""
        self.put(f"{_INSTANCE}{instance}", about)

    def withdraw(self, instance: str) -> None:
        """The process ends."""
        self.remove(f"{_INSTANCE}{instance}")

    def instances(self) -> Entries:
        """What each process said of itself, by instance; one that was killed may still be among them."""
        return self.state().instances()

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Set an entry; durable when this returns. Raises `LogError`, `ControlInvalid`."""
        self._write(key, json.dumps(value, separators=(",", ":")).encode())

    def remove(self, key: str) -> None:
        """Take an entry away; durable when this returns."""
        self._write(key, None)

    def state(self) -> ControlState:
        """The entries as they are: those of the running watch, else read now. Raises `LogError`."""
        watch = self._watch
        return ControlState(watch.entries if watch is not None else self._read())

    def watching(self, listener: Listener = lambda: None) -> Self:
        """Follow the topic on a thread until `close`; `listener` is called on it after each change.

        Idempotent. `known` tells when the entries that were there at the start are in.
        """
        if self._watch is None:
            self._watch = _Watch(self._log, self._partition)
            self._watch.start()
        self._watch.listeners.append(listener)
        return self

    def known(self, timeout_s: float) -> bool:
        """Wait until the watch has read the topic once; False when the log gave no answer in time."""
        assert self._watch is not None, "known() without watching()"
        return self._watch.known.wait(timeout_s)

    def wanted(self, kind: str, name: str) -> Desired | None:
        """What is wanted of a component as far as the watch knows; None before it knows. Asks nobody."""
        return self.desired(kind, name) if self.known(0) else None

    def close(self) -> None:
        """Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._watch is not None:
            self._watch.close()
        self._writes.submit(self._drop_producer).result()
        self._writes.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing

    def _write(self, key: str, value: bytes | None) -> None:
        self._writes.submit(self._produce, key.encode(), value).result()

    def _produce(self, key: bytes, value: bytes | None) -> None:
        try:
            if self._producer is None:
                self._ensure_topic()
                self._producer = self._log.producer()
            self._producer.produce(
                Outgoing(
                    self.topic,
                    key=pa.array([key], pa.large_binary()),
                    value=pa.array([value], pa.large_binary()),
                    partition=np.zeros(1, np.int32),
                )
            )
            self._producer.flush()
        except LogError:
            self._drop_producer()
            raise

    def _ensure_topic(self) -> None:
        ensure_compacted(self._log, self._spec, _not_ours)

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    # Reading

    def _read(self) -> Entries:
        reader = _Reader(self._log, self._partition)
        try:
            deadline_s = time.monotonic() + READ_TIMEOUT_S
            reader.open()
            while not reader.has_reached_start():
                reader.poll()
                if time.monotonic() > deadline_s:
                    raise LogUnavailable(f"topic {self.topic!r} was not read within {READ_TIMEOUT_S:g} s")
        except UnknownTopic:
            return {}
        finally:
            reader.close()
        return reader.entries


class _Reader:
    """One consumer over the topic, and the entries it has read. One thread."""

    def __init__(self, log: Log, partition: TopicPartition) -> None:
        self._log, self._partition = log, partition
        self._consumer: Consumer | None = None
        self._end_at_start = 0
        self.entries: dict[str, Mapping[str, Any]] = {}

    def open(self) -> None:
        """Begin at the beginning. Raises `UnknownTopic`."""
        self.close()
        self.entries = {}
        # A process asks again and again while there is no topic: then it makes no client for it.
        with closing(self._log.admin()) as admin:
            self._end_at_start = admin.end_offsets([self._partition])[self._partition]
        self._consumer = self._log.consumer(client_id="headrace-control")
        self._consumer.assign({self._partition: BEGINNING})

    def has_reached_start(self) -> bool:
        """Whether everything that was there at `open` is read."""
        assert self._consumer is not None
        return self._consumer.position([self._partition])[self._partition] >= self._end_at_start

    def poll(self) -> bool:
        """Take in what comes; whether anything came."""
        assert self._consumer is not None
        batches = self._consumer.poll(POLL_RECORDS_MAX, POLL_TIMEOUT_S)
        for batch in batches:
            self._take(batch)
        return bool(batches)

    def _take(self, batch: RecordBatch) -> None:
        entries = dict(self.entries)
        for key, value in zip(batch.key.to_pylist(), batch.value.to_pylist(), strict=True):
            name = "" if key is None else key.decode(errors="replace")
            entry = None if value is None else _entry(name, value)
            if entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        self.entries = entries

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


class _Watch:
    """The thread that follows the topic. `entries` is replaced whole, so any thread may read it."""

    def __init__(self, log: Log, partition: TopicPartition) -> None:
        self._reader = _Reader(log, partition)
        self._topic = partition.topic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._trouble = ""
        self.entries: Entries = {}
        self.known = threading.Event()
        self.listeners: list[Listener] = []

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._follow()
            except UnknownTopic:
                self._show({})
                self.known.set()
            except LogError as error:
                self._tell(error)
            finally:
                self._reader.close()
            self._over.wait(RETRY_INTERVAL_S)

    def _follow(self) -> None:
        self._reader.open()
        while not self._over.is_set():
            if self._reader.has_reached_start():
                self._trouble = ""
                self._show(self._reader.entries)
                self.known.set()
            self._reader.poll()

    def _show(self, entries: Entries) -> None:
        if entries == self.entries:
            return
        self.entries = entries
        for listener in list(self.listeners):
            listener()

    def _tell(self, error: LogError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.warning("control_topic_unread", topic=self._topic, error=str(error))
        if error.fault is not Fault.RETRY:
            # No patience mends it: without orders components do what they were made for.
            self.known.set()


def open_control(environment: Environment) -> ControlTopic:
    """The control topic of an environment."""
    return ControlTopic(
        environment.log, environment.workspace, replication_factor=environment.config.replication_factor
    )


def control_topic(workspace: str) -> str:
    """The name of a workspace's control topic."""
    return f"{workspace}.control"


def component_key(kind: str, name: str) -> str:
    """The key of what is wanted of a component."""
    return f"{_COMPONENT}{kind}/{name}"


def _entry(key: str, value: bytes) -> Mapping[str, Any] | None:
    """The value of an entry, or None for one that nobody here can have written."""
    try:
        entry = json.loads(value)
        if not isinstance(entry, dict):
            raise ValueError("it is no JSON object")
        if key.startswith(_COMPONENT):
            DesiredState(str(entry.get("state")))
    except ValueError as error:
        _log.warning("control_entry_unreadable", key=key, error=str(error))
        return None
    return entry


def _not_ours(found: str) -> ControlInvalid:
    return ControlInvalid(
        f"topic {found}: it is not the control topic of this workspace",
        cure="give that topic another name; headrace makes its own when it needs it",
    )
