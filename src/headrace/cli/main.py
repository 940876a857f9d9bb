"""The `headrace` command.

Owns the list of commands and what becomes of their errors.

- A `HeadraceError` ends as one paragraph and exit code 1, never as a traceback.
- Anything else that is raised is a mistake of ours: its name and message, how to see the traceback, exit code 1.
- Wrong usage exits with 2, an interrupt with 130.
- Modules of commands import the rooms inside their functions, so that `headrace --help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from headrace.cli import (
    apply,
    demo_command,
    dev,
    dlq,
    doctor,
    init,
    pause,
    plan,
    publish,
    read,
    reset,
    run,
    schema_versions,
    status,
    topics,
    worker,
)
from headrace.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, print_error, print_unexpected, wants_traceback
from headrace.errors import HeadraceError

app = typer.Typer(
    name="headrace",
    help="Kafka-centric stream processing: plan, apply and run a workspace of contracts and pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    init.init,
    plan.plan,
    apply.apply,
    run.run,
    dev.dev,
    publish.publish,
    read.read,
    status.status,
    topics.topics,
    pause.pause,
    pause.resume,
    reset.reset,
    doctor.doctor,
    demo_command.demo,
):
    app.command()(command)
for hidden in (worker.worker, worker.components):
    app.command(hidden=True)(hidden)
app.add_typer(schema_versions.app, name="schema")
app.add_typer(dlq.app, name="dlq")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
    from headrace.cli.logging import set_up_logging

    set_up_logging()


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except HeadraceError as error:
        if wants_traceback():
            raise
        print_error(error)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our answer went away (`headrace read | head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except Exception as error:  # The last resort: named, counted as failure, traceback on request.
        if wants_traceback():
            raise
        print_unexpected(error)
        sys.exit(EXIT_ERROR)
