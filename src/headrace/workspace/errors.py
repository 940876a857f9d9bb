"""Errors of the workspace room.

Owns what can be wrong with `headrace.toml`, the folders of a workspace and a plan.

- Each error names the file, and the line where there is one, and tells the next step.
- All are `Fault.STOP`: nothing was changed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from headrace.errors import HeadraceError


class WorkspaceError(HeadraceError):
    """Something about the workspace."""

    code = "workspace.error"


class WorkspaceNotFound(WorkspaceError):
    """No `headrace.toml` here or above."""

    code = "workspace.not_found"


class ConfigInvalid(WorkspaceError):
    """`headrace.toml` has a mistake."""

    code = "workspace.config_invalid"


class UnknownEnvironment(WorkspaceError):
    """No environment of this name."""

    code = "workspace.unknown_environment"


class VariableUnset(WorkspaceError):
    """A `${NAME}` whose environment variable is not set."""

    code = "workspace.variable_unset"


class NameTwice(WorkspaceError):
    """Two things of the workspace that run have one name."""

    code = "workspace.name_twice"


class PipelineCycle(WorkspaceError):
    """Pipelines read each other's outputs in a circle."""

    code = "workspace.pipeline_cycle"


class UnknownName(WorkspaceError):
    """A name given on the command line that the workspace does not have."""

    code = "workspace.unknown_name"


class WorkspaceBusy(WorkspaceError):
    """Every slot of the workspace is taken."""

    code = "workspace.busy"


class PipelineRunning(WorkspaceError):
    """What is asked for cannot be done while the pipeline runs."""

    code = "workspace.pipeline_running"


class ResetUnfinished(WorkspaceError):
    """A reset broke off, and has to be finished or undone before anything else."""

    code = "workspace.reset_unfinished"


class StatusInvalid(WorkspaceError):
    """A status file that is not what headrace writes."""

    code = "workspace.status_invalid"


class PlanRefused(WorkspaceError):
    """The plan has problems, so nothing was applied. `reasons` has one sentence per problem."""

    code = "workspace.plan_refused"

    def __init__(self, message: str, *, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(message, cure="mend what `headrace plan` shows and apply again")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A cure: the nearest known word, or the list of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(words)}" if words else ""
