"""`headrace plan`: what would change.

Owns the command. Exit codes: 0 nothing to change, 1 problems, 2 changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, say

if TYPE_CHECKING:
    from headrace.workspace.plan import WorkspacePlan


def plan(
    explain: Annotated[bool, typer.Option("--explain", help="Show each pipeline's steps as a tree.")] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Show what `apply` would change. Exit code 0: nothing, 1: problems, 2: changes."""
    from headrace.cli.plan_text import show_plan, summary
    from headrace.errors import HeadraceError
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.plan import broken_plan, make_plan

    try:
        loaded = load(workspace)
        with connect(loaded.file, loaded.contracts, env) as environment:
            made = make_plan(loaded, environment)
    except HeadraceError as error:
        if not json:
            raise
        made = broken_plan("", env or "", error)
    if json:
        emit_json({**made.to_json(), **(_explained(made) if explain else {})})
    else:
        show_plan(made, explain=explain)
        say(summary(made))
    raise typer.Exit(made.exit_code)


def _explained(made: WorkspacePlan) -> dict[str, object]:
    from headrace.flow.explain import explain

    return {"explain": {pipeline.name: explain(pipeline) for pipeline in made.pipelines}}
