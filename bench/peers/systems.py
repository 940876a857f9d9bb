"""The systems by name: what each can do, how it is made ready and how it is started.

- Every worker takes its orders from the environment (`BENCH_...`), the same for all.
- One worker process with one thread of processing; everything else as the system has it by itself, but for what `Order`
  says.
- A system that is slow gets fewer records, the first ones of the same data.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import headrace
from bench.peers import installing
from bench.peers.installing import WORKERS, PeerMissing
from bench.peers.jobs import Job

HERE = Path(__file__).parent
SCHEMAS = HERE / "schemas"
WORKSPACE = HERE / "workspace"
WORKSPACE_NAME = "bench"
PREPARE_TIMEOUT_S = 120.0
JAVA_HEAP = "-Xmx1g"
SNAPSHOT_S = 10
"""Bytewax counts its intervals in whole seconds, and one each second would be most of its work."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do."""

    bootstrap: str
    token: str
    """In the name of everything that this run makes."""
    job: Job
    inputs: tuple[str, ...]
    input_kinds: tuple[str, ...]
    output: str
    output_schema_id: int
    folder: Path
    """Of this run."""
    records: int
    partitions: int
    commit_interval_ms: int
    linger_ms: int | None = None
    """None: the system's own."""
    ends: bool = True

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def streams(self) -> tuple[str, ...]:
        """The inputs whose end is the end of the run: a table is only loaded."""
        return tuple(name for name, kind in zip(self.inputs, self.input_kinds, strict=True) if kind != "customers")

    def environment(self) -> dict[str, str]:
        """For any worker."""
        values = {
            "BOOTSTRAP": self.bootstrap,
            "JOB": self.job.task,
            "INPUTS": ",".join(self.inputs),
            "OUTPUT": self.output,
            "OUTPUT_SCHEMA_ID": str(self.output_schema_id),
            "GROUP": self.token,
            "PIPELINE": self.token,
            "STATE": str(self.state),
            "SCHEMAS": str(SCHEMAS),
            "RECORDS": str(self.records),
            "PARTITIONS": str(self.partitions),
            "DELIVERY": self.job.delivery,
            "COMMIT_INTERVAL_MS": str(self.commit_interval_ms),
            "ENDS": "1" if self.ends else "0",
        }
        more = {} if self.linger_ms is None else {"LINGER_MS": str(self.linger_ms)}
        return {f"BENCH_{name}": value for name, value in (values | more).items()} | {"PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Start:
    """A command ready to run."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    """Whose positions are its progress; None: it tells its progress itself, and ends with its input."""


@dataclass(frozen=True, slots=True)
class System:
    """One system."""

    name: str
    jobs: tuple[str, ...]
    install: Callable[[], object]
    """Makes it ready for any job, or raises `PeerMissing`."""
    start: Callable[[Order], Start]
    """Makes it ready for this one."""
    share: float = 1.0
    """Of the records."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """The same, of a task."""
    note: str = ""
    """What must be known about its figures."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of a headrace system: how it differs from another one."""
    copies: bool = False
    """Whether it writes what it reads."""

    def records(self, task: str, records: int) -> int:
        """So many of so many."""
        return max(1, int(records * self.shares.get(task, self.share)))


THROUGHPUT = ("J1", "J2", "J3", "J4", "SSJ")
LATENCY = ("L1", "L1-EOS")
EVERY = (*THROUGHPUT, *LATENCY, "RESTORE", "TABLE", "NEXMARK", "NEXMARK-KAFKA")


def _headrace(name: str, environment: Mapping[str, str], install: Callable[[], object] = lambda: None) -> System:
    def compile_and_install() -> None:
        install()
        _compile_headrace()

    def start(order: Order) -> Start:
        return _start_headrace(order, environment)

    return System(name, EVERY, compile_and_install, start, environment=environment)


def _compile_headrace() -> None:
    """As pip leaves a package that it installs, and as the peers are. An editable install has no bytecode before its
    first start, and never any where PYTHONDONTWRITEBYTECODE is set: every start would compile all that it imports."""
    assert headrace.__file__ is not None
    compileall.compile_dir(str(Path(headrace.__file__).parent), quiet=1)


def _start_headrace(order: Order, environment: Mapping[str, str]) -> Start:
    """A workspace of its own, applied."""
    root = order.folder / "workspace"
    shutil.copytree(WORKSPACE, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "headrace.toml").write_text(
        f'name = "{WORKSPACE_NAME}"\nenvironment = "bench"\n\n[environments.bench]\nlog = "kafka"\n'
        f'bootstrap_servers = "${{BENCH_BOOTSTRAP}}"\npartitions = {order.partitions}\n',
        encoding="utf-8",
    )
    (root / "contracts").mkdir()
    for topic, kind in zip(order.inputs, order.input_kinds, strict=True):
        (root / "contracts" / f"{kind}.yaml").write_text(contract_text(topic, kind, order.partitions), encoding="utf-8")
    command = [sys.executable, "-m", "headrace.cli"]
    place = ["--workspace", str(root)]
    environment = {**order.environment(), **environment, "HEADRACE_LOG_LEVEL": "warning"}
    _prepare([*command, "apply", "--yes", *place], environment)
    return Start([*command, "run", *place], environment, f"{WORKSPACE_NAME}.{order.token}")


def contract_text(topic: str, kind: str, partitions: int) -> str:
    """The contract of a topic of orders, payments or customers."""
    schema = SCHEMAS / f"{kind.removesuffix('s')}.avsc"
    more = {"orders": "time: ts\n", "payments": "time: paid_at\n", "customers": "kind: table\n"}[kind]
    return (
        f"topic: {topic}\nowner: bench\nkey: customer_id\nkey_encoding: string\n{more}"
        f"partitions: {partitions}\nschema: {schema}\n"
    )


def _prepare(command: list[str], environment: Mapping[str, str]) -> None:
    every = {**os.environ, **environment}
    done = subprocess.run(command, env=every, capture_output=True, text=True, timeout=PREPARE_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:5])} failed: {(done.stdout + done.stderr)[-1500:]}")


def _native_is_here() -> None:
    from headrace.native import native

    if native is None:
        raise PeerMissing("headrace-native is not installed, or HEADRACE_NATIVE=0")


def _start_streams(order: Order) -> Start:
    command = installing.streams_command()
    quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return Start([command[0], JAVA_HEAP, *quiet, *command[1:], "Worker"], order.environment(), order.token)


def _python_peer(peer: str, *more: str) -> Callable[[Order], Start]:
    def start(order: Order) -> Start:
        python = str(installing.python_of(peer))
        return Start([python, str(WORKERS / f"{peer}_worker.py"), *more], order.environment(), order.token)

    return start


def _start_bytewax(order: Order) -> Start:
    python, store = str(installing.python_of("bytewax")), str(order.state)
    _prepare([python, "-m", "bytewax.recovery", store, "1"], {})
    recovery = ["-r", store, "-s", str(SNAPSHOT_S), "-b", "0"]
    environment = {**order.environment(), "PYTHONPATH": str(WORKERS)}
    return Start([python, "-m", "bytewax.run", "bytewax_worker:flow", *recovery], environment)


def _start_pathway(order: Order) -> Start:
    python = str(installing.python_of("pathway"))
    return Start([python, str(WORKERS / "pathway_worker.py")], order.environment())


def _start_copy(order: Order) -> Start:
    return Start([sys.executable, str(WORKERS / "copy_worker.py")], order.environment(), order.token)


def _start_copy_native(order: Order) -> Start:
    environment = {**order.environment(), "HEADRACE_KAFKA_CLIENT": "native"}
    return Start([sys.executable, str(WORKERS / "copy_native_worker.py")], environment, order.token)


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        _headrace("headrace", {}),
        _headrace("headrace-python", {"HEADRACE_KAFKA_CLIENT": "python"}),
        _headrace("headrace-pure", {"HEADRACE_NATIVE": "0"}),
        System(
            "kafka-streams",
            (*THROUGHPUT, *LATENCY, "RESTORE"),
            installing.streams_command,
            _start_streams,
            note="one thread, cache of 10 MB (its default), heap of 1 GB at most",
        ),
        System(
            "quix",
            ("J1", "J2", "J3", "J4", *LATENCY),
            lambda: installing.python_of("quix"),
            _python_peer("quix"),
            share=0.1,
            note="an update for each order, not for each commit",
        ),
        System(
            "faust",
            ("J1", "J2"),
            lambda: installing.python_of("faust"),
            _python_peer("faust", "worker", "-l", "warn", "--without-web"),
            share=0.02,
            shares={"tumbling_sum": 0.005},
            note="an update for each order, not for each commit",
        ),
        System(
            "bytewax",
            ("J1", "J2", "L1"),
            lambda: installing.python_of("bytewax"),
            _start_bytewax,
            share=0.1,
            shares={"tumbling_sum": 0.02},
            note=f"a row when a window closes; snapshots every {SNAPSHOT_S} s",
        ),
        System(
            "pathway",
            ("J1",),
            lambda: installing.python_of("pathway"),
            _start_pathway,
            share=0.1,
            note="nothing is committed",
        ),
        System("copy", ("J1", *LATENCY), lambda: None, _start_copy, note="confluent-kafka, no engine", copies=True),
        System(
            "copy-native",
            ("J1", *LATENCY),
            _native_is_here,
            _start_copy_native,
            note="the native client, no engine",
            copies=True,
        ),
    )
}
