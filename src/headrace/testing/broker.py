"""One Apache Kafka broker on this machine, for tests, demos and benchmarks.

`python -m headrace.testing.broker start|stop|status [--directory DIR]`, and the same as a library.

- One KRaft node on two free ports of 127.0.0.1; everything it writes is below its directory.
- A directory started again keeps its data and its ports.
- `start` returns when the broker answers; a failed start leaves no process.
- A broker with an owner (`running_broker`, a test session) dies with it, even when the owner is killed.
- Without a directory of the user's, `stop` removes the data.
- A second listener may tell clients another address than its own: that of a proxy before it, for tests of the link.

It is made to be quick and small: one replica, short group sessions, few threads. It is no example for production.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.testing.kafka_jars import BrokerError, jar_directory, java_command, kafka_version
from headrace.testing.kafka_mend import mended_directory
from headrace.testing.server_process import POLL_S, file_lock, free_ports, guard, has_ended, is_alive

HEAP_OPTIONS = ("-Xms512m", "-Xmx1g")
QUICK_OPTIONS = ("-Xms256m", "-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For tests: half the processor time until it answers (2.7 s instead of 5.5), and no compiler threads beside them.
A broker that is measured or runs for long does better without."""
FORMAT_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m")
"""Formatting lives for a second: starting fast is all that counts."""

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
FORMAT_TIMEOUT_S = 90.0
ENDINGS = (signal.SIGTERM, signal.SIGKILL)
START_ATTEMPTS_MAX = 3
"""Another process may take a port between our look and the broker's bind."""

LOG_TAIL_CHARACTERS = 1500

LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %c %m%n
"""

COMMON_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # A typo in a topic name must be an error in a test, not a new topic.
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    # One replica and few partitions of the internal topics: made in milliseconds.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "2",
    # A killed member is replaced within six seconds instead of 45.
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.min.session.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    # Timed-out transactions of a killed producer are noticed soon.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "log.retention.hours": "-1",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
"""Settings of every broker of ours, container or not."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker. `temporary` data goes when it stops."""

    directory: str
    bootstrap: str
    pid: int
    temporary: bool
    behind_proxy: str | None = None
    """Where the second listener listens, if there is one: what the proxy forwards to."""


def default_directory() -> Path:
    """Where `start` without a directory puts the broker: one a user."""
    return Path(tempfile.gettempdir()) / f"headrace-kafka-{os.getuid()}"


def start_broker(
    directory: Path | None = None,
    *,
    temporary: bool | None = None,
    owner_pid: int | None = None,
    heap: Sequence[str] = HEAP_OPTIONS,
    proxy: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Broker:
    """Start the broker of `directory` and wait until it answers; the one that runs there already is returned.

    `temporary` (by default: no directory was given) removes the data when it stops.
    The broker is killed as soon as `owner_pid` is gone.
    `proxy`, the address that a second listener tells its clients, and more `settings` of the broker count when a
    directory is started for the first time, and are kept.
    """
    home = (directory or default_directory()).resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file_lock(home / "lock"):
        running = find_broker(home)
        if running is not None:
            return running
        keep = directory is not None if temporary is None else not temporary
        configure = partial(_configure, home, proxy, settings or {})
        return _start(home, configure, temporary=not keep, owner_pid=owner_pid, heap=heap)


def find_broker(directory: Path | None = None) -> Broker | None:
    """The broker that runs in `directory`, if any."""
    home = (directory or default_directory()).resolve()
    try:
        broker = Broker(**json.loads((home / "broker.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return broker if is_alive(broker.pid, home) else None


def stop_broker(directory: Path | None = None, *, hard: bool = False) -> bool:
    """Stop the broker of `directory` and every process it started; False when none was running.

    `hard` is kill -9: the broker tidies nothing up and says no farewell to its clients.
    """
    home = (directory or default_directory()).resolve()
    state = home / "broker.json"
    if not state.exists():
        return False
    broker = Broker(**json.loads(state.read_text(encoding="utf-8")))
    was_running = is_alive(broker.pid, home)
    if was_running:
        _end_process(broker.pid, home, [signal.SIGKILL] if hard else ENDINGS)
    state.unlink(missing_ok=True)
    if broker.temporary:
        shutil.rmtree(home, ignore_errors=True)
    return was_running


@contextmanager
def running_broker(directory: Path | None = None, *, heap: Sequence[str] = HEAP_OPTIONS) -> Iterator[Broker]:
    """A broker of this process alone: in a new temporary directory unless one is given."""
    home = directory or Path(tempfile.mkdtemp(prefix="headrace-kafka-"))
    broker = start_broker(home, temporary=directory is None, owner_pid=os.getpid(), heap=heap)
    try:
        yield broker
    finally:
        stop_broker(home)


def _start(
    home: Path, configure: Callable[[], _Configured], *, temporary: bool, owner_pid: int | None, heap: Sequence[str]
) -> Broker:
    java, libs = java_command(), jar_directory()
    classpath = f"{mended_directory(libs, kafka_version())}{os.pathsep}{libs}/*"
    for attempt in range(START_ATTEMPTS_MAX):
        properties, address, behind_proxy = configure()
        command = [java, *heap, f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}", "-cp", classpath]
        if not (home / "data" / "meta.properties").exists():
            _format(home, java, classpath)
        with (home / "broker.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
                start_new_session=True,
            )
        try:
            failure = wait_until_ready(address, process, second=behind_proxy)
        except BaseException:  # An interrupt must not leave the broker behind; it goes on its way after that.
            _end_process(process.pid, home)
            raise
        if failure is None:
            break
        _end_process(process.pid, home)
        process.wait()
        tail = (home / "broker.log").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]
        if "Address already in use" not in tail or attempt == START_ATTEMPTS_MAX - 1:
            raise BrokerError(f"the Kafka broker {failure}: {tail.strip()}", cure=f"see {home / 'broker.log'}")
        properties.unlink()
    broker = Broker(str(home), address, process.pid, temporary, behind_proxy)
    if owner_pid is not None:
        guard(process.pid, owner_pid, signal.SIGKILL, whole_group=True)
    state = home / "broker.json.new"
    state.write_text(json.dumps(asdict(broker)), encoding="utf-8")
    state.rename(home / "broker.json")
    return broker


class _Configured(NamedTuple):
    """The file with the settings, and what stands in it."""

    properties: Path
    address: str
    behind_proxy: str | None


def _configure(home: Path, proxy: str | None, more: Mapping[str, str]) -> _Configured:
    """Write the settings, or keep those of the last start."""
    (home / "log4j2.properties").write_text(LOG4J, encoding="utf-8")
    properties = home / "server.properties"
    if not properties.exists():
        port, controller_port, second_port = free_ports(3)
        listeners = [f"PLAINTEXT://127.0.0.1:{port}", f"CONTROLLER://127.0.0.1:{controller_port}"]
        advertised = [f"PLAINTEXT://127.0.0.1:{port}"]
        if proxy is not None:
            listeners.append(f"PROXIED://127.0.0.1:{second_port}")
            advertised.append(f"PROXIED://{proxy}")
        own = {
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(home / "data"),
        }
        text = "".join(f"{name}={value}\n" for name, value in {**COMMON_SETTINGS, **own, **more}.items())
        properties.write_text(text, encoding="utf-8")
    settings = dict(line.split("=", 1) for line in properties.read_text(encoding="utf-8").splitlines())
    places = dict(place.split("://") for place in settings["listeners"].split(","))
    return _Configured(properties, places["PLAINTEXT"], places.get("PROXIED"))


def _format(home: Path, java: str, classpath: str) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # A leading dash would be read as an option.
    cluster_id = "A" + cluster_id[1:]
    logging = f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}"
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(home / "server.properties")]
    command = [java, *FORMAT_OPTIONS, logging, "-cp", classpath, *tool]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"formatting Kafka's storage took longer than {FORMAT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip()[-LOG_TAIL_CHARACTERS:]
        raise BrokerError(f"Kafka's storage could not be formatted: {reason}")


def wait_until_ready(
    address: str, process: subprocess.Popen[bytes] | None = None, *, second: str | None = None
) -> str | None:
    """None once the broker answers, and its `second` listener listens, or what happened instead."""
    places = [address] if second is None else [address, second]
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            return f"ended with code {process.returncode}"
        # Ask the ports first: a Kafka client waits a second before it tries again.
        if all(map(_is_open, places)) and _answers(address):
            return None
        time.sleep(POLL_S)
    return f"did not answer within {START_TIMEOUT_S:.0f} s"


def _is_open(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, int(port))) == 0


def _answers(address: str) -> bool:
    try:
        client = AdminClient({"bootstrap.servers": address, "log_level": 0})
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def _end_process(pid: int, home: Path, kinds: Sequence[signal.Signals] = ENDINGS) -> None:
    for kind in kinds:
        with suppress(ProcessLookupError):
            os.killpg(pid, kind)
        if has_ended(pid, home, STOP_TIMEOUT_S):
            return
    raise BrokerError(f"the Kafka broker with process id {pid} does not end")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.broker", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument(
        "--directory", type=Path, help="home of the broker, kept when it stops (default: a temporary one)"
    )
    given = parser.parse_args(arguments)
    try:
        return _act(given.action, given.directory)
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1


def _act(action: str, directory: Path | None) -> int:
    if action == "start":
        print(start_broker(directory, heap=QUICK_OPTIONS).bootstrap)
        return 0
    if action == "stop":
        print("stopped" if stop_broker(directory) else "not running")
        return 0
    broker = find_broker(directory)
    print(f"Kafka {kafka_version()} at {broker.bootstrap}, process {broker.pid}" if broker else "not running")
    return 0 if broker else 3


if __name__ == "__main__":
    sys.exit(main())
