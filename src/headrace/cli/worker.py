"""The hidden commands that `headrace run` starts: one worker process, and what such a worker would run.

Owns both, and the look at the environment before the first start.

- A worker ends with 0 after draining, with 1 when something in it needs a person, and with 70 after a mistake of ours,
  which makes the supervisor start it again.
- The first worker of a `headrace run` looks whether the environment is as the workspace says before it runs anything.
  What is wrong ends it with 1, and so does any mistake by then: nothing ran that could be started again.
- A log or registry that does not answer is waited for, at the start as well as later.
- Until there is something to drain, SIGTERM and SIGINT end the process at once.
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, HttpPortOption, NamesArgument, WorkspaceOption
from headrace.cli.output import EXIT_ERROR, emit_json, note, print_error, print_unexpected, wants_traceback
from headrace.cli.stopping import leave_with_supervisor, stop_on_signals
from headrace.errors import Fault, HeadraceError

if TYPE_CHECKING:
    from headrace.workspace.environment import Environment
    from headrace.workspace.load import Workspace
    from headrace.workspace.runtime import Runtime

FirstWordOption = Annotated[
    int | None, typer.Option("--first-word", help="Look at the environment first, and say here when it is well.")
]
UNREACHABLE_WAIT_S = 5.0
"""Between two looks at a log that does not answer; each look has its own patience of a minute."""
EXIT_CRASHED = 70
"""`EX_SOFTWARE` of sysexits."""


class NotApplied(HeadraceError):
    """The environment is not what the workspace says."""

    code = "cli.not_applied"


def worker(
    names: NamesArgument = None,
    http_port: HttpPortOption = None,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
    first_word: FirstWordOption = None,
) -> None:
    """One worker process, as `headrace run` starts it."""
    from headrace.workspace.supervisor import DRAIN_TIMEOUT_S

    start = _Start(threading.Event(), first_word)
    leave_with_supervisor(start.stop, DRAIN_TIMEOUT_S)
    if start.is_over:
        stop_on_signals(stop=start.stop)
    try:
        code = _work(names or [], workspace, env, http_port, start)
    except Exception as error:
        if not start.is_over:
            raise
        code = _told(error)
    raise typer.Exit(code)


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


def _work(names: list[str], workspace: Path | None, env: str | None, http_port: int | None, start: _Start) -> int:
    with _garbage_left():
        from headrace.cli.logging import set_up_logging
        from headrace.engine.metrics import EngineMetrics
        from headrace.workspace.components import components
        from headrace.workspace.control import open_control
        from headrace.workspace.http_port import OFF, worker_port
        from headrace.workspace.runtime import Runtime
        from headrace.workspace.slots import take_slot

        loaded = _loaded(names, workspace)
    with (
        take_slot(loaded.root) as slot,
        _connected(loaded, env, start) as environment,
        open_control(environment).watching() as control,
    ):
        set_up_logging(instance=slot.name)
        metrics, base = EngineMetrics(), loaded.file.config.http.port if http_port is None else http_port
        chosen = components(loaded, environment, slot.name, names, metrics, control)
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


def _loaded(names: list[str], workspace: Path | None) -> Workspace:
    from headrace.log.without_pandas import leave_pandas_out
    from headrace.workspace.load import load

    loaded = load(workspace)
    leave_pandas_out()
    loaded.check_names(names)
    return loaded


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


def components(names: NamesArgument = None, workspace: WorkspaceOption = None, env: EnvironmentOption = None) -> None:
    """What a worker that starts now is to run, as JSON. Tells what is wrong with the workspace or the environment."""
    from headrace.workspace.environment import connect
    from headrace.workspace.fleet import kinds_of

    # Standard output is the answer's, whatever the user's files print.
    with redirect_stdout(sys.stderr):
        loaded = _loaded(names or [], workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        check_applied(loaded, environment)
    emit_json([[kind, name] for name, kind in kinds_of(loaded).items() if not names or name in names])


def check_applied(workspace: Workspace, environment: Environment) -> None:
    """Raises `NotApplied` when a plan would have problems or changes."""
    from headrace.workspace.changes import sentences
    from headrace.workspace.plan import make_plan

    plan = make_plan(workspace, environment)
    if plan.problems:
        raise NotApplied("; ".join(sentences(plan.problems)), cure="see `headrace plan`")
    if plan.changes:
        count = len(plan.changes)
        raise NotApplied(
            f"environment {environment.name!r} lacks {count} change{'s' if count > 1 else ''} of this workspace",
            cure="run `headrace plan`, then `headrace apply`",
        )
