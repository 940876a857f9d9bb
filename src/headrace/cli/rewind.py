"""`headrace rewind`: set an egress back, or ahead.

Owns the command, its question and the shape of its answer.

- On a terminal it asks first; `--yes`, or standard input that is no terminal, does not ask.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, note, say

if TYPE_CHECKING:
    from headrace.workspace.control import DesiredState
    from headrace.workspace.rewind import Rewind


def rewind(
    egress: Annotated[str, typer.Argument(help="Egress to set back, or ahead; it is paused, or runs nowhere.")],
    to_beginning: Annotated[bool, typer.Option("--to-beginning", help="Deliver everything again.")] = False,
    to_time: Annotated[
        str | None, typer.Option("--to-time", metavar="TIME", help="From the first records of this time: ISO 8601.")
    ] = None,
    to_offset: Annotated[
        str | None,
        typer.Option(
            "--to-offset", metavar="PARTITION=OFFSET,...", help="From these offsets, or from one offset everywhere."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Set the positions of an egress, in its target where that holds them, so that rows come again or are left out."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.rewind import Place, plan_rewind
    from headrace.workspace.rewind import rewind as carry_out

    if [to_beginning, to_time is not None, to_offset is not None].count(True) != 1:
        raise typer.BadParameter("give one of --to-beginning, --to-time, --to-offset")
    place = Place.parse(to_time, to_offset)
    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        planned = plan_rewind(loaded, environment, egress, place)
        if not json:
            _show(planned)
        desired = None
        if planned.moves and not dry_run:
            if not yes and sys.stdin.isatty():
                typer.confirm(f"Rewind in environment {environment.name!r}?", abort=True)
            desired = carry_out(loaded, environment, planned, tell=note)
    if json:
        emit_json(_as_json(planned, desired))
    elif desired is not None:
        say(f"Egress {egress!r} is rewound. It is to be {desired.value}, as before.")


def _show(planned: Rewind) -> None:
    for each in planned.moves:
        before = "none" if each.before is None else each.before
        how = f"{-each.offsets} again" if each.offsets < 0 else f"{each.offsets} skipped"
        say(f"  position {planned.topic}[{each.partition}]: {before} -> {each.after} ({how})")
    for sentence in planned.meaning() if planned.moves else ["every partition is there already"]:
        say(f"  {sentence}")


def _as_json(planned: Rewind, desired: DesiredState | None) -> dict[str, Any]:
    return {
        "egress": planned.egress,
        "topic": planned.topic,
        "group": planned.group,
        "mode": planned.mode.value,
        "delivery": planned.capabilities.delivery,
        "target": planned.place.text,
        "positions": [
            {"partition": each.partition, "before": each.before, "after": each.after} for each in planned.moves
        ],
        "again": planned.again,
        "skipped": planned.skipped,
        "meaning": planned.meaning(),
        "done": desired is not None,
        "desired": None if desired is None else desired.value,
    }
