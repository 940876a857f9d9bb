"""`headrace run`: worker processes for a workspace, and the hidden command that one worker is.

Owns both commands.

- SIGTERM and SIGINT drain: work in hand is committed, then the process ends with 0.
- SIGHUP replaces the workers one at a time (`headrace.cli.rolling`).
- `run` refuses to start on an environment that `headrace plan` would change: pipelines would fail one by one.
- A log or registry that does not answer is waited for, at the start as well as later.
- A worker ends with 0 after draining, with 1 when something in it needs a person, and with 70 after a mistake of ours,
  which makes the supervisor start it again.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, NamesArgument, WorkspaceOption
from headrace.cli.output import EXIT_ERROR, note, print_error, print_unexpected, wants_traceback
from headrace.cli.rolling import replacing_on
from headrace.cli.run_progress import telling_progress
from headrace.cli.stopping import leave_with_supervisor, stop_on_signals
from headrace.errors import Fault, HeadraceError

if TYPE_CHECKING:
    from headrace.workspace.environment import Environment
    from headrace.workspace.load import Workspace
    from headrace.workspace.rolling import Key
    from headrace.workspace.status import ComponentStatus

HttpPortOption = Annotated[
    int | None,
    typer.Option(
        "--http-port",
        min=0,
        max=65_535,
        help="Serve /live, /ready, /metrics and /tables; the next worker takes the next port. 0: serve nothing.",
        show_default=False,
    ),
]
WORKERS_MAX = 256
UNREACHABLE_WAIT_S = 5.0
"""Between two looks at a log that does not answer; each look has its own patience of a minute."""
EXIT_CRASHED = 70
"""`EX_SOFTWARE` of sysexits."""


class NotApplied(HeadraceError):
    """The environment is not what the workspace says."""

    code = "cli.not_applied"


def run(
    names: NamesArgument = None,
    workers: Annotated[int, typer.Option("--workers", "-n", min=1, max=WORKERS_MAX, help="Processes to run.")] = 1,
    http_port: HttpPortOption = None,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Run pipelines, ingress and egress until interrupted."""
    from headrace.cli.logging import set_up_logging
    from headrace.workspace.supervisor import Supervisor

    set_up_logging(process="supervisor")
    # Until there is something to drain SIGTERM interrupts as SIGINT does, for process 1 of a container too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root, environment = _checked(names or [], workspace, env)
    command = [sys.executable, "-m", "headrace.cli", "worker", *(names or [])]
    command += ["--workspace", str(root), "--env", environment]
    command += [] if http_port is None else ["--http-port", str(http_port)]
    hangup = threading.Event()
    stop = stop_on_signals(hangup)
    note(f"running {_what(names)} of environment {environment!r} in {_count(workers)}; Ctrl-C drains and stops")
    # Relative paths in the workspace's files start at its root, wherever this was called.
    supervisor = Supervisor(command, workers, stop, folder=root)
    with (
        telling_progress(root, environment),
        replacing_on(hangup, supervisor, root, environment, lambda: _components(names or [], root, environment)),
    ):
        code = supervisor.run()
    raise typer.Exit(code)


def worker(
    names: NamesArgument = None,
    http_port: HttpPortOption = None,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """One worker process, as `headrace run` starts it."""
    from headrace.workspace.supervisor import DRAIN_TIMEOUT_S

    stop = stop_on_signals()
    leave_with_supervisor(stop, DRAIN_TIMEOUT_S)
    try:
        code = _work(names or [], workspace, env, http_port, stop)
    except HeadraceError as error:
        print_error(error)
        code = EXIT_ERROR
    except Exception as error:  # noqa: BLE001 - told below, and the exit code makes the supervisor try again
        if wants_traceback():
            traceback.print_exc()
        print_unexpected(error)
        code = EXIT_CRASHED
    raise typer.Exit(code)


def _work(
    names: list[str], workspace: Path | None, env: str | None, http_port: int | None, stop: threading.Event
) -> int:
    from headrace.cli.logging import set_up_logging
    from headrace.engine.metrics import EngineMetrics
    from headrace.log.without_pandas import leave_pandas_out
    from headrace.workspace.components import components
    from headrace.workspace.control import open_control
    from headrace.workspace.environment import connect
    from headrace.workspace.health import Health
    from headrace.workspace.http_server import serving, worker_port
    from headrace.workspace.load import load
    from headrace.workspace.runtime import Runtime
    from headrace.workspace.slots import take_slot
    from headrace.workspace.table_owners import address_of
    from headrace.workspace.tables import open_tables
    from headrace.workspace.tables_http import TablesHttp

    loaded = load(workspace)
    leave_pandas_out()
    with (
        take_slot(loaded.root) as slot,
        connect(loaded.file, loaded.contracts, env) as environment,
        open_control(environment).watching() as control,
    ):
        set_up_logging(instance=slot.name)
        metrics, http = EngineMetrics(), loaded.file.config.http
        chosen = components(loaded, environment, slot.name, names, metrics, control)
        health = Health(chosen, metrics, lag_seconds_max=http.ready_lag_seconds)
        port = worker_port(http.port if http_port is None else http_port, slot.number)
        tables = open_tables(loaded, environment, slot.name, control, chosen)
        served_tables = TablesHttp(tables, health.registry) if http.tables else None

        def watch(status: ComponentStatus) -> None:
            health.note(status)
            tables.owners.note(status)

        with (
            serving(health, http.host, port, served_tables) as served,
            tables.owners.advertised(address_of(http, served)),
        ):
            runtime = Runtime(
                loaded.root, environment.name, slot.name, chosen, stop, watch=watch, wanted=control.wanted
            )
            errors = runtime.run()
    return EXIT_ERROR if errors else 0


def _checked(names: list[str], workspace: Path | None, env: str | None) -> tuple[Path, str]:
    """Root and environment of a workspace that can run. Raises what is wrong with it."""
    from headrace.log.without_pandas import leave_pandas_out
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load

    loaded = load(workspace)
    leave_pandas_out()
    loaded.check_names(names)
    while True:
        try:
            with connect(loaded.file, loaded.contracts, env) as environment:
                check_applied(loaded, environment)
                return loaded.root, environment.name
        except HeadraceError as error:
            if error.fault is not Fault.RETRY:
                raise
            print_error(error)
            note(f"trying again in {UNREACHABLE_WAIT_S:g} s; Ctrl-C gives up")
            time.sleep(UNREACHABLE_WAIT_S)


def _components(names: list[str], root: Path, env: str) -> list[Key]:
    """What a worker that starts now is to run. Raises what is wrong with the workspace or the environment."""
    from headrace.workspace.environment import connect
    from headrace.workspace.fleet import kinds_of
    from headrace.workspace.load import load

    loaded = load(root)
    loaded.check_names(names)
    with connect(loaded.file, loaded.contracts, env) as environment:
        check_applied(loaded, environment)
    return [(kind, name) for name, kind in kinds_of(loaded).items() if not names or name in names]


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


def _what(names: list[str] | None) -> str:
    return ", ".join(names) if names else "everything"


def _count(workers: int) -> str:
    return f"{workers} process{'es' if workers > 1 else ''}"
