"""Whether an environment is as the workspace says: asked before anything runs in it.

Owns the loading of a workspace that is to run, and the refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.workspace.environment import Environment
    from headrace.workspace.load import Workspace


class NotApplied(HeadraceError):
    """The environment is not what the workspace says."""

    code = "cli.not_applied"


def load_to_run(names: Sequence[str], workspace: Path | None) -> Workspace:
    """The workspace, which has all these names. Raises what is wrong with it."""
    from headrace.log.without_pandas import leave_pandas_out
    from headrace.workspace.load import load

    loaded = load(workspace)
    leave_pandas_out()
    loaded.check_names(names)
    return loaded


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
