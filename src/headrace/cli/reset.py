"""`headrace reset`: give up what a pipeline has stored.

Owns the command and its question.

- On a terminal it asks first; `--yes`, or standard input that is no terminal, does not ask.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, say

if TYPE_CHECKING:
    from headrace.workspace.reset import Reset


def reset(
    pipeline: Annotated[str, typer.Argument(help="Pipeline to reset; it must not run.")],
    step: Annotated[
        str | None, typer.Option("--step", help="Only the state of this step, which then begins where the pipeline is.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Drop a pipeline's state and positions, so that it computes everything again from the beginning."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.reset import carry_out, plan_reset

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        planned = plan_reset(loaded, environment, pipeline, step)
        if not json:
            _show(planned)
        if not yes and sys.stdin.isatty():
            typer.confirm(f"Reset in environment {environment.name!r}?", abort=True)
        carry_out(planned, environment)
    if json:
        emit_json(
            {
                "pipeline": planned.pipeline,
                "group": planned.group,
                "emptied": list(planned.emptied),
                "deleted": list(planned.deleted),
            }
        )
    else:
        say(f"Pipeline {pipeline!r} is reset.")


def _show(planned: Reset) -> None:
    for topic in planned.emptied:
        say(f"  empty  {topic}")
    for topic in planned.deleted:
        say(f"  delete {topic}")
    if planned.group is not None:
        say(f"  forget positions of {planned.group}: all input is read again, and results are written again")
