"""The list of commands.

- Only the module of the command that is called is loaded, and it imports the rooms inside its functions: to make all
  commands takes longer than to start a process, and `headrace --help` needs none of the rooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Annotated

import typer

COMMANDS = {
    "init": "init",
    "plan": "plan",
    "apply": "apply",
    "run": "run",
    "dev": "dev",
    "publish": "publish",
    "read": "read",
    "status": "status",
    "topics": "topics",
    "pause": "pause",
    "resume": "pause",
    "reset": "reset",
    "rewind": "rewind",
    "resnapshot": "resnapshot",
    "doctor": "doctor",
    "demo": "demo_command",
}
"""Commands in the order of the help, and the module of each, which has a function of the command's name."""
HIDDEN = {"components": "components"}
GROUPS = {"schema": "schema_versions", "dlq": "dlq", "egress": "egress", "connector": "connector"}
"""Commands with commands of their own; the module has an `app`."""


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The command line; where `words` begin with a command's name, with that command alone."""
    app = typer.Typer(
        name="headrace",
        help="Kafka-centric stream processing: plan, apply and run a workspace of contracts and pipelines.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    # No option before the command takes a value.
    called = next((word for word in words if not word.startswith("-")), "")
    is_known = called in COMMANDS | HIDDEN | GROUPS
    for name, module in (COMMANDS | HIDDEN).items():
        if name == called or not is_known:
            app.command(hidden=name in HIDDEN)(getattr(_module(module), name))
    for name, module in GROUPS.items():
        if name == called or not is_known:
            app.add_typer(_module(module).app, name=name)
    return app


def _module(name: str) -> ModuleType:
    return import_module(f"headrace.cli.{name}")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"headrace {version('headrace')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
    from headrace.cli.logging import set_up_logging

    set_up_logging()
