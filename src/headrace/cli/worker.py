"""One worker process, as `headrace run` starts it: `python -m headrace.cli worker`.

Owns its words, its exit code, and the look at the environment before the first start.

- A worker ends with 0 after draining, with 1 when something in it needs a person, and with 70 after a mistake of ours,
  which makes the supervisor start it again.
- The first worker of a `headrace run` looks whether the environment is as the workspace says before it runs anything.
  What is wrong ends it with 1, and so does any mistake by then: nothing ran that could be started again.
- A log or registry that does not answer is waited for, at the start as well as later.
- Until there is something to drain, SIGTERM and SIGINT end the process at once.
"""

from __future__ import annotations

import argparse
import gc
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from headrace.cli.applied import check_applied, load_to_run
from headrace.cli.output import EXIT_ERROR, note, print_error, print_unexpected, wants_traceback
from headrace.cli.stopping import leave_with_supervisor, stop_on_signals
from headrace.errors import Fault, HeadraceError

if TYPE_CHECKING:
    from headrace.workspace.environment import Environment
    from headrace.workspace.load import Workspace
    from headrace.workspace.runtime import Runtime

UNREACHABLE_WAIT_S = 5.0
"""Between two looks at a log that does not answer; each look has its own patience of a minute."""
EXIT_CRASHED = 70
"""`EX_SOFTWARE` of sysexits."""


@dataclass(frozen=True, slots=True)
class WorkerWords:
    """What a worker is told when it is started."""

    names: Sequence[str] = ()
    """Of pipelines, ingress and egress; none: all."""
    workspace: Path | None = None
    environment: str | None = None
    http_port: int | None = None
    first_word: int | None = None
    """It looks at the environment first, and says on this descriptor when it is well."""

    @classmethod
    def parsed(cls, words: Sequence[str]) -> Self:
        """Ends the process with 2 for wrong ones."""
        parser = argparse.ArgumentParser("headrace worker", description="One worker process of `headrace run`.")
        parser.add_argument("names", nargs="*")
        parser.add_argument("--workspace", "-w", type=Path)
        parser.add_argument("--env", "-e", dest="environment")
        parser.add_argument("--http-port", type=int)
        parser.add_argument("--first-word", type=int)
        return cls(**vars(parser.parse_args(words)))

    def command(self) -> list[str]:
        """The other way round: the command of such a worker."""
        options = {
            "--workspace": self.workspace,
            "--env": self.environment,
            "--http-port": self.http_port,
            "--first-word": self.first_word,
        }
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        return [sys.executable, "-m", "headrace.cli", "worker", *given, "--", *self.names]


def worker(words: Sequence[str]) -> int:
    """Work until told to stop; the exit code."""
    from headrace.workspace.supervisor import DRAIN_TIMEOUT_S

    told = WorkerWords.parsed(words)
    start = _Start(threading.Event(), told.first_word)
    leave_with_supervisor(start.stop, DRAIN_TIMEOUT_S)
    if start.is_over:
        stop_on_signals(stop=start.stop)
    try:
        return _work(told, start)
    except Exception as error:
        if not start.is_over:
            raise
        return _told(error)


def _told(error: Exception) -> int:
    """Say what ended a worker at work; its exit code, by which the supervisor starts it again or not."""
    if isinstance(error, HeadraceError):
        print_error(error)
        return EXIT_ERROR
    if wants_traceback():
        traceback.print_exc()
    print_unexpected(error)
    return EXIT_CRASHED


class _Start:
    """How far a worker is: before its first word, if it is to say one, or over."""

    def __init__(self, stop: threading.Event, descriptor: int | None) -> None:
        self.stop = stop
        self._descriptor = descriptor

    @property
    def is_over(self) -> bool:
        return self._descriptor is None

    def end(self, environment: str) -> None:
        """The environment is well: from now on a signal drains. Idempotent."""
        from headrace.workspace.first_word import tell

        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            stop_on_signals(stop=self.stop)
            tell(descriptor, environment)


def _work(told: WorkerWords, start: _Start) -> int:
    with _garbage_left():
        from headrace.cli.logging import set_up_logging
        from headrace.engine.metrics import EngineMetrics
        from headrace.workspace.components import components
        from headrace.workspace.control import open_control
        from headrace.workspace.http_port import OFF, worker_port
        from headrace.workspace.runtime import Runtime
        from headrace.workspace.slots import take_slot

        loaded = load_to_run(told.names, told.workspace)
    with (
        take_slot(loaded.root) as slot,
        _connected(loaded, told.environment, start) as environment,
        open_control(environment).watching() as control,
    ):
        set_up_logging(instance=slot.name)
        metrics, base = EngineMetrics(), loaded.file.config.http.port if told.http_port is None else told.http_port
        chosen = components(loaded, environment, slot.name, told.names, metrics, control)
        runtime = Runtime(loaded.root, environment.name, slot.name, chosen, start.stop, wanted=control.wanted)
        port = worker_port(base, slot.number)
        if port == OFF:
            return _run(runtime)
        # Half of what else is imported, for those who serve.
        from headrace.workspace.serving import answering

        with answering(port, loaded, environment, slot.name, control, chosen, metrics) as runtime.watch:
            return _run(runtime)


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Import and load without looking for garbage meanwhile, and never look through that again.

    There is next to none: it is all kept. To go through hundreds of thousands of objects again and again takes a
    seventh of the time until here, and 60 ms of a batch whenever all generations are collected later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _run(runtime: Runtime) -> int:
    errors = runtime.run()
    return EXIT_ERROR if errors else 0


@contextmanager
def _connected(loaded: Workspace, env: str | None, start: _Start) -> Iterator[Environment]:
    """The environment, open; before the first word only once it is as the workspace says."""
    from headrace.workspace.environment import connect

    with ExitStack() as opened:
        while True:
            try:
                environment = opened.enter_context(connect(loaded.file, loaded.contracts, env))
                if not start.is_over:
                    check_applied(loaded, environment)
                break
            except HeadraceError as error:
                if start.is_over or error.fault is not Fault.RETRY:
                    raise
                opened.close()
                print_error(error)
                note(f"trying again in {UNREACHABLE_WAIT_S:g} s; Ctrl-C gives up")
                if start.stop.wait(UNREACHABLE_WAIT_S):
                    raise
        start.end(environment.name)
        yield environment
