"""Options that several commands share, with one spelling and one help text.

Owns the annotated types.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Folder of the workspace; default: here or above.", show_default=False),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--env", "-e", help="Environment of headrace.toml; default: HEADRACE_ENV, then the file's."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON; the shape is in docs/cli.md.")]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Pipelines, ingress and egress to run; default: all.", show_default=False),
]
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
