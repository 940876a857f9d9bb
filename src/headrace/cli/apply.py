"""`headrace apply`: make the changes that `plan` shows.

Owns the command and its question.

- On a terminal it asks before it changes anything; `--yes`, or standard input that is no terminal, does not ask.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, say

if TYPE_CHECKING:
    from headrace.workspace.changes import Change
    from headrace.workspace.plan import WorkspacePlan


def apply(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Make the changes that `plan` shows."""
    from headrace.cli.plan_text import show_plan
    from headrace.errors import HeadraceError
    from headrace.workspace.apply import apply_plan
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.plan import broken_plan, make_plan

    try:
        loaded = load(workspace)
    except HeadraceError as error:
        if json:
            _answer(broken_plan("", env or "", error), applied=False)
        raise
    with connect(loaded.file, loaded.contracts, env) as environment:
        plan = make_plan(loaded, environment)
        if json and plan.problems:
            _answer(plan, applied=False)
        if not json:
            show_plan(plan)
        if plan.changes and not plan.problems and not yes and sys.stdin.isatty():
            typer.confirm(f"Change environment {environment.name!r}?", abort=True)
        apply_plan(plan, loaded, environment, None if json else _made)
    if json:
        _answer(plan, applied=True)
    else:
        count = len(plan.changes)
        say(f"Applied {count} change{'s' if count != 1 else ''}." if count else "Nothing to change.")


def _answer(plan: WorkspacePlan, *, applied: bool) -> None:
    emit_json({**plan.to_json(), "applied": applied})


def _made(change: Change) -> None:
    say(f"  {change.action.replace('_', ' ')} {change.target}: done")
