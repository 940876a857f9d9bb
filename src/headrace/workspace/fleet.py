"""Orders to a workspace's components, wherever they run.

Owns what `headrace pause` and `headrace resume` do, and the waiting until an order is followed.

- An order is durable before anybody waits; who runs later finds it.
- Only processes of this machine can be seen by their status files; others follow the same order unseen.
- A pipeline that is being reset takes no order until the reset is finished or undone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.workspace.control import ControlTopic, Desired, DesiredState, open_control
from headrace.workspace.environment import Environment
from headrace.workspace.errors import ResetUnfinished
from headrace.workspace.load import Workspace
from headrace.workspace.overview import ALIVE
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, read_statuses

LOOK_INTERVAL_S = 0.1
RESET_REASON = "headrace reset"
"""Begins the reason of an order that a reset gave."""

STANDING = frozenset({ComponentState.PAUSED, ComponentState.STOPPED, ComponentState.STANDBY})
"""States of a component that follows an order to rest."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order that was given."""

    kind: ComponentKind
    name: str
    before: Desired
    now: Desired


def order(
    workspace: Workspace, environment: Environment, names: Sequence[str], state: DesiredState, *, reason: str
) -> list[Ordered]:
    """Say what is wanted of the named components. Raises `UnknownName`, `ResetUnfinished`, `LogError`."""
    workspace.check_names(names)
    kinds = kinds_of(workspace)
    with open_control(environment) as control:
        known = control.state()
        before = {name: known.desired(kinds[name], name) for name in names}
        for name, desired in before.items():
            _refuse_in_reset(name, desired)
        return [
            Ordered(kinds[name], name, desired, _set(control, kinds[name], name, state, desired, reason))
            for name, desired in before.items()
        ]


def _set(
    control: ControlTopic, kind: ComponentKind, name: str, state: DesiredState, before: Desired, reason: str
) -> Desired:
    # To resume what is to run already is an order too: a component that failed starts again.
    if state is before.state and state is not DesiredState.RUNNING:
        return before
    return control.set_desired(kind, name, state, reason=reason)


def _refuse_in_reset(name: str, desired: Desired) -> None:
    if desired.state is DesiredState.STOPPED and desired.reason.startswith(RESET_REASON):
        raise ResetUnfinished(
            f"pipeline {name!r} is stopped by a reset that is not finished ({desired.reason})",
            cure=f"run `headrace reset {name}` there to finish it, or with `--undo` to take it back",
        )


def kinds_of(workspace: Workspace) -> Mapping[str, ComponentKind]:
    """The kind of everything that runs, by name."""
    return {
        **{each.plan.name: ComponentKind.PIPELINE for each in workspace.pipelines},
        **{each.name: ComponentKind.INGRESS for each in workspace.ingress},
        **{each.name: ComponentKind.EGRESS for each in workspace.egress},
    }


def alive(environment: Environment, kind: ComponentKind, name: str) -> list[ComponentStatus]:
    """The processes of this machine that run a component, as they last said."""
    return [
        each
        for each in read_statuses(environment.root)
        if (each.environment, each.kind, each.name) == (environment.name, kind, name)
        and (each.state in ALIVE or each.state is ComponentState.STANDBY)
    ]


def wait_followed(environment: Environment, ordered: Iterable[Ordered], timeout_s: float) -> list[ComponentStatus]:
    """Wait until the processes of this machine follow; returns those that do not yet."""
    wanted = list(ordered)
    deadline_s = time.monotonic() + timeout_s
    while True:
        late = [each for one in wanted for each in alive(environment, one.kind, one.name) if not _follows(each, one)]
        if not late or time.monotonic() >= deadline_s:
            return late
        time.sleep(LOOK_INTERVAL_S)


def _follows(status: ComponentStatus, ordered: Ordered) -> bool:
    """Whether a component has come to rest, or to work; what else may be wrong with it is told by its status."""
    if ordered.now.state is DesiredState.RUNNING:
        return status.state not in (ComponentState.PAUSED, ComponentState.STOPPED)
    return status.state in STANDING
