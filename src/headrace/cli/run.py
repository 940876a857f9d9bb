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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, HttpPortOption, NamesArgument, WorkspaceOption
from headrace.cli.output import EXIT_INTERRUPTED, note
from headrace.cli.rolling import replacing_on
from headrace.cli.run_progress import telling_progress
from headrace.cli.stopping import stop_on_signals

if TYPE_CHECKING:
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
    words = [*(names or []), "--workspace", str(root)]
    served = [] if http_port is None else ["--http-port", str(http_port)]
    chosen_env = [] if env is None else ["--env", env]
    hangup = threading.Event()
    stop = stop_on_signals(hangup, with_polars=False)
    with FirstWord() as word, ExitStack() as beside:

        def opened(environment: str) -> list[str]:
            """What goes on beside the workers from now on, and the command of those that start."""
            note(f"running {_what(names)} of environment {environment!r} in {_count(workers)}; Ctrl-C drains and stops")
            here = [*words, "--env", environment]
            beside.enter_context(telling_progress(root, environment))
            beside.enter_context(replacing_on(hangup, supervisor, root, environment, _command("components", *here)))
            return _command("worker", *here, *served)

        told = ["--first-word", str(word.descriptor)]
        first = _First(_command("worker", *words, *chosen_env, *served, *told), word, opened)
        # Relative paths in the workspace's files start at its root, wherever this was called.
        supervisor = Supervisor(first.command, workers, stop, folder=root, first=first)
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


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "headrace.cli", *words]


def _what(names: list[str] | None) -> str:
    return ", ".join(names) if names else "everything"


def _count(workers: int) -> str:
    return f"{workers} process{'es' if workers > 1 else ''}"
