"""`headrace pause` and `headrace resume`: let components stand still, and go on.

Owns both commands. The order holds for all processes of the workspace, on every machine, and for those started later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, note, say, time_text

if TYPE_CHECKING:
    from headrace.workspace.control import DesiredState
    from headrace.workspace.fleet import Ordered
    from headrace.workspace.status import ComponentStatus

WAIT_S = 15.0
"""Longer than a commit and the passing on of an order take."""

NamesToOrder = Annotated[list[str], typer.Argument(help="Pipelines, ingress and egress.", show_default=False)]
WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0.0, help="Seconds to wait for the processes of this machine; 0 waits for none."),
]


def pause(
    names: NamesToOrder,
    wait: WaitOption = WAIT_S,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Let components stand still: work in hand is committed, membership and state are kept."""
    from headrace.workspace.control import DesiredState

    _order(names, DesiredState.PAUSED, "headrace pause", wait, json, workspace, env)


def resume(
    names: NamesToOrder,
    wait: WaitOption = WAIT_S,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Let components go on, those that failed too."""
    from headrace.workspace.control import DesiredState

    _order(names, DesiredState.RUNNING, "headrace resume", wait, json, workspace, env)


def _order(
    names: list[str],
    state: DesiredState,
    reason: str,
    wait_s: float,
    json: bool,
    workspace: Path | None,
    env: str | None,
) -> None:
    from headrace.workspace.environment import connect
    from headrace.workspace.fleet import order, wait_followed
    from headrace.workspace.load import load

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        ordered = order(loaded, environment, names, state, reason=reason)
        late = wait_followed(environment, ordered, wait_s)
        name = environment.name
    if json:
        components = [_as_json(each, late) for each in ordered]
        emit_json({"workspace": loaded.name, "environment": name, "components": components})
        return
    for each in ordered:
        say(f"{each.kind.value} {each.name}: {_sentence(each)}")
    for status in late:
        note(f"{status.kind.value} {status.name}: {status.instance} is still {status.state.value}")


def _sentence(ordered: Ordered) -> str:
    if ordered.before.state is ordered.now.state:
        return f"is to be {ordered.now.state.value}, as before"
    return f"is to be {ordered.now.state.value}; was {ordered.before.state.value}"


def _as_json(ordered: Ordered, late: list[ComponentStatus]) -> dict[str, Any]:
    mine = [each for each in late if (each.kind, each.name) == (ordered.kind, ordered.name)]
    return {
        "kind": ordered.kind.value,
        "name": ordered.name,
        "desired": ordered.now.state.value,
        "desired_before": ordered.before.state.value,
        "desired_since": time_text(ordered.now.since_ms) or None,
        "late": [{"instance": each.instance, "pid": each.pid, "state": each.state.value} for each in mine],
    }
