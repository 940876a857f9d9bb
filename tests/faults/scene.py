"""A scene of a fault test: a workspace at work under load, real worker processes, and the verdict.

Owns the scene's life: topics made, load published, processes started and stopped, faults applied, everything compared.

- Workers are real processes of `headrace run` (through `tests.faults.child`, which adds fault points and nothing else).
- A verdict holds only when every output equals the oracle and every group has read its topics to the end.
- Every process of a scene carries its name in its environment, so one that was left behind is found whoever started it.
- A scene that is closed leaves no process, however it ended.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.log.port import TopicPartition
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import Environment, connect
from headrace.workspace.load import Workspace, load
from headrace.workspace.plan import make_plan
from headrace.workspace.status import ComponentState, ComponentStatus, read_statuses
from tests.engine.harness import wait_until
from tests.faults import points
from tests.faults.fleet import worker_processes
from tests.faults.verdict import Verdict, judge
from tests.faults.workload import DIRECT_ENVIRONMENT, WORKERS_ENVIRONMENT, Load, Names, write_workspace

REPOSITORY = Path(__file__).parents[2]
SCENE_VARIABLE = "HEADRACE_SCENE"
START_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 60.0
LOOK_INTERVAL_S = 0.3
RATE = 300
"""Orders a second: enough that a transaction is open at nearly every moment, little enough for two cores."""
HISTORY_ROWS = 1_000
IS_LONG = os.environ.get("HEADRACE_LONG_FAULTS") == "1"
"""Whether tests take their long forms: `make test-faults`."""

_scenes = itertools.count()


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong. `apply` does it to a scene under load and returns when it is over or under way.

    `needs` names what a scene must have: `broker` (one of its own), `proxy`. `least_s` is the time that the seeded
    runner leaves for it before the next one.
    """

    name: str
    apply: Callable[[Scene, random.Random], None]
    needs: frozenset[str] = frozenset()
    least_s: float = 3.0


@dataclass(slots=True)
class Fleet:
    """One `headrace run`."""

    process: subprocess.Popen[bytes]
    workers: int

    @property
    def pids(self) -> list[int]:
        """Of its workers, as far as they live."""
        return worker_processes(self.process.pid)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@dataclass(slots=True)
class Scene:
    """See `open_scene`."""

    root: Path
    workspace: Workspace
    environment: Environment
    load: Load
    names: Names
    at_least: bool
    variables: Mapping[str, str]
    resources: dict[str, Any] = field(default_factory=dict)
    """What faults need besides: the broker's folder (`broker`), a proxy (`proxy`)."""
    fleets: list[Fleet] = field(default_factory=list)
    ended: bool = False
    is_well: bool = True
    """Whether every verdict so far was that nothing differs."""

    # Processes

    def start(self, workers: int = 2, *, wait: bool = True) -> Fleet:
        """Another `headrace run`; with `wait`, returns when all its workers run."""
        process = self.spawn("run", "--workers", str(workers), "--env", WORKERS_ENVIRONMENT)
        fleet = Fleet(process, workers)
        self.fleets.append(fleet)
        if wait:
            self.wait_running(fleet)
        return fleet

    def spawn(self, *arguments: str, root: Path | None = None, **variables: str) -> subprocess.Popen[bytes]:
        """A process of `tests.faults.child` with fault points; a worker lives as long as its standard input."""
        with (self.root / "workers.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.faults.child", *arguments],
                cwd=root or self.root,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.variables, **variables},
                start_new_session=True,
            )

    def wait_running(self, fleet: Fleet, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until every worker of the fleet says that both pipelines run."""

        def running() -> bool:
            assert fleet.process.poll() is None, f"headrace run ended with {fleet.process.poll()}: {self.log_tail()}"
            pids = fleet.pids
            return len(pids) == fleet.workers and all(self.is_running(pid) for pid in pids)

        wait_until(running, f"{fleet.workers} running workers", timeout_s)

    def is_running(self, pid: int) -> bool:
        """Whether a worker process says that all its pipelines run."""
        mine = [each for each in self.statuses() if each.pid == pid]
        return len(mine) == len(self.names.pipelines) and all(each.state is ComponentState.RUNNING for each in mine)

    def statuses(self) -> list[ComponentStatus]:
        """What pipelines say of themselves, by name and instance."""
        return read_statuses(self.root)

    @property
    def workers(self) -> list[int]:
        """Process ids of all workers."""
        return [pid for fleet in self.fleets for pid in fleet.pids]

    def stop(self, fleet: Fleet, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Drain a fleet; its exit status."""
        fleet.signal(signal.SIGTERM)
        code = fleet.process.wait(timeout_s)
        self.fleets.remove(fleet)
        return code

    def processes(self) -> dict[int, str]:
        """Every living process of this scene with its command line."""
        mark = f"{SCENE_VARIABLE}={self.names.prefix}\0".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes() + b"\0":
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    # Faults

    @property
    def points(self) -> Path:
        return Path(self.variables[points.FOLDER_VARIABLE])

    def arm(self, point: str, **arguments: Any) -> points.Armed:
        """Let the next worker that reaches a fault point do what it says (see `tests.faults.child`)."""
        return points.arm(self.points, point, **arguments)

    def events(self, event: str, pid: int | None = None) -> list[dict[str, Any]]:
        """What workers noted of themselves, by kind and process."""
        every = points.events(self.points)
        return [each for each in every if each["event"] == event and (pid is None or each["pid"] == pid)]

    # Verdict

    def settle(self, timeout_s: float = SETTLE_TIMEOUT_S, *, then_go_on: bool = True) -> None:
        """Let everything be processed, and fail unless it is exactly what the oracle says; the load rests meanwhile,
        and goes on afterwards unless it is told not to."""
        self.load.pause()
        self._wait_settled(timeout_s)
        if then_go_on and not self.ended:
            self.load.resume()

    def finish(self, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """The end of a scene: every window closed, everything compared, all processes gone by themselves."""
        self.load.end()
        self.ended = True
        self._wait_settled(timeout_s)
        self._wait_alive()
        codes = [self.stop(fleet) for fleet in list(self.fleets)]
        assert not any(codes), f"headrace run ended with {codes}: {self.log_tail()}"
        verdict = self.verdict()
        assert verdict, f"after the end: {verdict}"
        orphans = self.processes()
        assert not orphans, f"processes were left behind: {orphans}"

    def verdict(self) -> Verdict:
        """What differs now."""
        verdict = judge(self.environment, self.workspace, at_least=self.at_least, ended=self.ended)
        if lag := self.lag():
            verdict.missing.append(f"groups are behind by {lag}")
        return verdict

    def _wait_alive(self) -> None:
        """Nobody may hang, even where others do the work."""

        def alive() -> bool:
            return all(self.is_running(pid) for pid in self.workers)

        try:
            wait_until(alive, "all workers are running", SETTLE_TIMEOUT_S)
        except AssertionError:
            self.tell_stacks()
            raise AssertionError(f"a worker does not run\n{self.log_tail()}") from None

    def _wait_settled(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        self.is_well = False
        while not (verdict := self._verdict_so_far()):
            assert not verdict.wrong, f"{verdict}\n{self.log_tail()}"
            failed = {each.name: each.error for each in self.statuses() if each.state is ComponentState.FAILED}
            assert not failed, f"pipelines failed for good: {failed}\n{self.log_tail()}"
            if time.monotonic() > deadline_s:
                self.tell_stacks()
                raise AssertionError(f"after {timeout_s:.0f} s: {verdict}\n{self.log_tail()}")
            time.sleep(LOOK_INTERVAL_S)
        self.is_well = True

    def _verdict_so_far(self) -> Verdict:
        """The lag alone while there is one: comparing everything costs more."""
        lag = self.lag()
        return Verdict(missing=[f"groups are behind by {lag}"]) if lag else self.verdict()

    def lag(self) -> dict[str, int]:
        """Records of source topics that a group has not committed, by pipeline; empty when there are none.

        Sources hold no transaction markers, so committed positions reach their ends exactly.
        """
        admin = self.environment.log.admin()
        found: dict[str, int] = {}
        try:
            for pipeline in self.workspace.pipelines:
                topics = pipeline.plan.source_topics()
                ends = admin.end_offsets(self._partitions(admin.topics(), topics))
                committed = admin.group_offsets(f"{self.workspace.name}.{pipeline.plan.name}")
                behind = sum(end - (committed[each].offset if each in committed else 0) for each, end in ends.items())
                if behind:
                    found[pipeline.plan.name] = behind
        finally:
            admin.close()
        return found

    @staticmethod
    def _partitions(present: Mapping[str, Any], topics: Sequence[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in range(present[topic].partitions)]

    def tell_stacks(self) -> None:
        """Let every worker write where its threads are into the log."""
        for pid in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(LOOK_INTERVAL_S)

    def log_tail(self, characters: int = 4_000) -> str:
        """The end of what the processes said."""
        path = self.root / "workers.log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def close(self) -> None:
        """End what still runs; idempotent."""
        self.load.stop()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for fleet in self.fleets:
            fleet.process.wait(STOP_TIMEOUT_S)
        self.fleets.clear()


@contextlib.contextmanager
def open_scene(
    root: Path,
    bootstrap: str,
    *,
    workers: int = 2,
    worker_bootstrap: str | None = None,
    seed: int = 1,
    rate: int = RATE,
    history_rows: int = HISTORY_ROWS,
    partitions: int = 4,
    delivery: str = "exactly_once",
    config: str = "",
    worker_config: str = "",
    client: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Iterator[Scene]:
    """A scene below `root` (a new folder): topics applied, workers running, load published.

    `worker_bootstrap` is the workers' way to the broker (a proxy's address); the load and the verdict go past it.
    `config` is more of headrace.toml, `worker_config` and `client` (settings of Kafka's clients) count for the workers
    alone, `variables` are of their environment. `workers=0` starts none.
    """
    name = f"scene{os.getpid()}n{next(_scenes)}"
    write_workspace(
        root,
        name=name,
        bootstrap=bootstrap,
        worker_bootstrap=worker_bootstrap or bootstrap,
        partitions=partitions,
        delivery=delivery,
        config=config,
        worker_config=worker_config,
        client=client or {},
    )
    workspace = load(root)
    own = {
        SCENE_VARIABLE: name,
        points.FOLDER_VARIABLE: str(root / "points"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        **(variables or {}),
    }
    (root / "points").mkdir()
    with connect(workspace.file, workspace.contracts, DIRECT_ENVIRONMENT) as environment:
        apply_plan(make_plan(workspace, environment), workspace, environment)
        names = Names(name)
        scene = Scene(
            root,
            workspace,
            environment,
            Load(environment, names, seed=seed, rate=rate),
            names,
            delivery == "at_least_once",
            own,
            dict(resources or {}),
        )
        try:
            if workers:
                scene.start(workers, wait=False)
            scene.load.start(history_rows)
            for fleet in scene.fleets:
                scene.wait_running(fleet)
            yield scene
        finally:
            scene.close()
