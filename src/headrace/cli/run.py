"""`headrace run`: worker processes for a workspace.

Owns the command; what one worker does is in `headrace.cli.worker`.

- SIGTERM and SIGINT drain: work in hand is committed, then the process ends with 0; with 130 when there was none yet.
- SIGHUP replaces the workers one at a time (`headrace.cli.rolling`).
- `run` refuses to start on an environment that `headrace plan` would change: pipelines would fail one by one. Its first
  worker looks, says what is wrong, and tells when the others may start (`headrace.workspace.first_word`).
- This process loads no workspace, no columns and no client, then or later: nobody waits for it, and it stays small.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, HttpPortOption, NamesArgument, WorkspaceOption
from headrace.cli.output import EXIT_INTERRUPTED, note
from headrace.cli.rolling import replacing_on
from headrace.cli.run_progress import telling_progress
from headrace.cli.stopping import stop_on_signals
from headrace.cli.worker import WorkerWords

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.workspace.first_word import FirstWord

WORKERS_MAX = 256


def run(
    names: NamesArgument = None,
    workers: Annotated[int, typer.Option("--workers", "-n", min=1, max=WORKERS_MAX, help="Processes to run.")] = 1,
    http_port: HttpPortOption = None,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Run pipelines, ingress and egress until interrupted."""
    from headrace.cli.logging import set_up_logging
    from headrace.workspace.first_word import FirstWord
    from headrace.workspace.place import find_workspace
    from headrace.workspace.supervisor import Supervisor

    set_up_logging(process="supervisor")
    root = find_workspace(workspace).parent
    hangup = threading.Event()
    stop = stop_on_signals(hangup, with_polars=False)
    with FirstWord() as word, ExitStack() as beside:
        first = WorkerWords(names or [], root, env, http_port, word.descriptor)

        def opened(environment: str) -> list[str]:
            """What goes on beside the workers from now on, and the command of those that start."""
            note(f"running {_what(names)} of environment {environment!r} in {_count(workers)}; Ctrl-C drains and stops")
            beside.enter_context(telling_progress(root, environment))
            components = _components(root, environment, names or [])
            beside.enter_context(replacing_on(hangup, supervisor, root, environment, components))
            return replace(first, environment=environment, first_word=None).command()

        # Relative paths in the workspace's files start at its root, wherever this was called.
        supervisor = Supervisor([], workers, stop, folder=root, first=_First(first.command(), word, opened))
        code = supervisor.run()
        if stop.is_set() and word.environment is None:
            code = EXIT_INTERRUPTED
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _First:
    """The worker that looks at the environment before any other starts."""

    command: Sequence[str]
    word: FirstWord
    opened: Callable[[str], Sequence[str]]

    @property
    def descriptors(self) -> Sequence[int]:
        return (self.word.descriptor,)

    def spoke(self) -> Sequence[str] | None:
        environment = self.word.environment
        return None if environment is None else self.opened(environment)


def _components(root: Path, environment: str, names: Sequence[str]) -> list[str]:
    """The command that tells what a worker would run."""
    here = ["--workspace", str(root), "--env", environment]
    return [sys.executable, "-m", "headrace.cli", "components", *here, "--", *names]


def _what(names: list[str] | None) -> str:
    return ", ".join(names) if names else "everything"


def _count(workers: int) -> str:
    return f"{workers} process{'es' if workers > 1 else ''}"
