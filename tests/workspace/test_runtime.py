"""Components of one process: independence, retries, standby."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.workspace.control import Desired, DesiredState
from headrace.workspace.runtime import FAILURES_MAX, Report, Runtime
from headrace.workspace.slots import try_lock
from headrace.workspace.status import ComponentKind, ComponentState, read_statuses


class Unwell(HeadraceError):
    """An error that time heals."""

    fault = Fault.RETRY


class Panic(BaseException):
    """Like Polars' panics, which are no `Exception`."""


@dataclass
class Fake:
    """A component that raises each of `errors` once and then works until it is stopped."""

    name: str
    errors: list[BaseException] = field(default_factory=list)
    runs_once: bool = False
    kind: ComponentKind = ComponentKind.PIPELINE
    pauses_inside: bool = True
    is_paused: bool = False
    runs: int = 0
    works: threading.Event = field(default_factory=threading.Event)

    def set_paused(self, paused: bool) -> None:
        self.is_paused = paused

    def run(self, stop: threading.Event, report: Report) -> None:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        self.works.set()
        stop.wait(20)


class Running:
    """A runtime on a thread of the test."""

    def __init__(self, root: Path, *components: Fake) -> None:
        self.wanted: dict[str, Desired | None] = {each.name: Desired() for each in components}
        self.runtime = Runtime(
            root, "dev", "host-0", components, backoff_first_s=0.0001, wanted=lambda kind, name: self.wanted[name]
        )
        self.errors: list[BaseException] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def want(self, name: str, state: DesiredState) -> None:
        self.wanted[name] = Desired(state, time.time_ns())

    def _run(self) -> None:
        self.errors = self.runtime.run()

    def end(self) -> list[BaseException] | None:
        self.runtime.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.errors


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def states(root: Path) -> dict[str, str]:
    return {each.name: each.state.value for each in read_statuses(root)}


def test_components_run_until_stopped(tmp_path: Path) -> None:
    """All components work at the same time, and setting `stop` ends them without errors."""
    first, second = Fake("first"), Fake("second")
    running = Running(tmp_path, first, second)
    assert first.works.wait(20)
    assert second.works.wait(20)
    assert running.end() == []


def test_retriable_and_unexpected_errors_start_it_again(tmp_path: Path) -> None:
    """An unwell world and a mistake of ours, a native panic too, are tried again; the component works in the end."""
    fake = Fake("totals", errors=[Unwell("no broker"), ZeroDivisionError("ours"), Panic("native code")])
    running = Running(tmp_path, fake)
    assert fake.works.wait(20)
    assert fake.runs == 4
    assert running.end() == []


def test_users_mistake_fails_one_and_leaves_the_others(tmp_path: Path) -> None:
    """An error for a person is not tried again, is told in the status, and the other component goes on."""
    broken, fine = Fake("broken", errors=[HeadraceError("no such topic", cure="apply")]), Fake("fine")
    running = Running(tmp_path, broken, fine)
    assert fine.works.wait(20)
    until(lambda: states(tmp_path).get("broken") == ComponentState.FAILED.value)
    assert broken.runs == 1
    assert [each.error for each in read_statuses(tmp_path)] == ["no such topic; apply"]
    errors = running.end()
    assert errors is not None
    assert [str(error) for error in errors] == ["no such topic; apply"]


def test_endless_failures_end(tmp_path: Path) -> None:
    """A component with an unexpected error each time fails for good after the agreed number of tries."""
    fake = Fake("totals", errors=[ZeroDivisionError("ours") for _ in range(FAILURES_MAX + 1)])
    running = Running(tmp_path, fake)
    until(lambda: running.errors is not None)
    assert fake.runs == FAILURES_MAX


def test_unwell_world_is_waited_for(tmp_path: Path) -> None:
    """An error that time heals is tried again, however often it comes."""
    fake = Fake("totals", errors=[Unwell("no broker") for _ in range(FAILURES_MAX + 2)])
    running = Running(tmp_path, fake)
    assert fake.works.wait(20)
    assert running.end() == []


def test_standby_takes_over(tmp_path: Path) -> None:
    """A component that runs once waits while another process holds its lock and starts when that lets go."""
    held = try_lock(tmp_path, "ingress.planes")
    assert held is not None
    fake = Fake("planes", runs_once=True, kind=ComponentKind.INGRESS)
    running = Running(tmp_path, fake)
    until(lambda: states(tmp_path) == {"planes": ComponentState.STANDBY.value})
    assert fake.runs == 0
    held.release()
    assert fake.works.wait(20)
    assert running.end() == []


def test_a_pause_reaches_the_component(tmp_path: Path) -> None:
    """One that pauses inside goes on running and is told; the other components are not."""
    first, second = Fake("first"), Fake("second")
    running = Running(tmp_path, first, second)
    assert first.works.wait(20)
    running.want("first", DesiredState.PAUSED)
    until(lambda: first.is_paused)
    running.want("first", DesiredState.RUNNING)
    until(lambda: not first.is_paused)
    assert (first.runs, second.is_paused) == (1, False)
    assert running.end() == []


def test_a_pause_ends_what_cannot_stand_still(tmp_path: Path) -> None:
    """An ingress leaves and shows as paused, and runs again when it may; its lock is free meanwhile."""
    fake = Fake("planes", kind=ComponentKind.INGRESS, runs_once=True, pauses_inside=False)
    running = Running(tmp_path, fake)
    assert fake.works.wait(20)
    running.want("planes", DesiredState.PAUSED)
    until(lambda: states(tmp_path) == {"planes": "paused"})
    lock = try_lock(tmp_path, "ingress.planes")
    assert lock is not None
    lock.release()
    running.want("planes", DesiredState.RUNNING)
    until(lambda: fake.runs == 2)
    assert running.end() == []


def test_a_stopped_component_waits_and_starts_again(tmp_path: Path) -> None:
    """Stopped by order it has left `run` and says so; the process lives on, and starts it when it may run."""
    fake, other = Fake("totals"), Fake("other")
    running = Running(tmp_path, fake, other)
    assert fake.works.wait(20)
    running.want("totals", DesiredState.STOPPED)
    until(lambda: states(tmp_path) == {"totals": "stopped"})
    assert other.runs == 1
    running.want("totals", DesiredState.RUNNING)
    until(lambda: fake.runs == 2)
    assert running.end() == []


def test_nothing_starts_before_it_is_known_what_is_wanted(tmp_path: Path) -> None:
    """A restarted process must not run for a moment what was paused or stopped before."""
    fake, wanted = Fake("totals"), dict[str, Desired | None](totals=None)
    runtime = Runtime(tmp_path, "dev", "host-0", [fake], wanted=lambda kind, name: wanted[name])
    thread = threading.Thread(target=runtime.run)
    thread.start()
    until(lambda: states(tmp_path) == {"totals": "waiting"})
    wanted["totals"] = Desired(DesiredState.STOPPED, 1)
    until(lambda: states(tmp_path) == {"totals": "stopped"})
    assert fake.runs == 0
    wanted["totals"] = Desired(DesiredState.RUNNING, 2)
    assert fake.works.wait(20)
    runtime.stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_an_order_starts_what_failed(tmp_path: Path) -> None:
    """A component that needed a person runs again when somebody says anew that it shall; its error is no more."""
    broken, fine = Fake("broken", errors=[HeadraceError("no such topic")]), Fake("fine")
    running = Running(tmp_path, broken, fine)
    until(lambda: states(tmp_path).get("broken") == "failed")
    running.want("broken", DesiredState.RUNNING)
    assert broken.works.wait(20)
    assert running.end() == []
