"""`headrace reset`: give up what a pipeline has stored, or take it back.

Owns the command, its question and the shapes of its answers.

- On a terminal it asks first; `--yes`, or standard input that is no terminal, does not ask.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, note, say, table, time_text

if TYPE_CHECKING:
    from headrace.workspace.environment import Environment
    from headrace.workspace.reset import Reset, Target
    from headrace.workspace.reset_journal import Journal
    from headrace.workspace.resetting import Resetter

StepOption = Annotated[
    str | None, typer.Option("--step", help="Only the state of this step, which then begins where the pipeline is.")
]
BeginningOption = Annotated[bool, typer.Option("--to-beginning", help="Read all input again; this is the default.")]
TimeOption = Annotated[
    str | None, typer.Option("--to-time", metavar="TIME", help="Read from the first records of this time: ISO 8601.")
]
OffsetOption = Annotated[
    str | None,
    typer.Option("--to-offset", metavar="TOPIC:PARTITION=OFFSET,...", help="Read these partitions from these offsets."),
]
UndoOption = Annotated[bool, typer.Option("--undo", help="Bring back positions and state from before the last reset.")]
ListOption = Annotated[bool, typer.Option("--list", help="List the resets that are kept.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
TakeOverOption = Annotated[
    bool, typer.Option("--take-over", help="The machine that began an unfinished reset is gone.")
]
COLUMNS = ("reset", "phase", "to", "records", "bytes")


def reset(
    pipeline: Annotated[str, typer.Argument(help="Pipeline to reset; it is stopped meanwhile.")],
    step: StepOption = None,
    to_beginning: BeginningOption = False,
    to_time: TimeOption = None,
    to_offset: OffsetOption = None,
    undo: UndoOption = False,
    list_: ListOption = False,
    dry_run: DryRunOption = False,
    take_over: TakeOverOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Drop a pipeline's state and set its positions, so that it computes everything again; or take that back."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.reset import parse_target, pipeline_plan, plan_reset
    from headrace.workspace.resetting import Resetter

    _check_options(step, to_beginning, to_time, to_offset, undo, list_, dry_run)
    target = parse_target(step, to_time, to_offset)
    loaded = load(workspace)
    pipeline_plan(loaded, pipeline)
    with connect(loaded.file, loaded.contracts, env) as environment:
        resetter = Resetter(loaded, environment, pipeline, tell=note, take_over=take_over)
        if list_:
            _list(resetter, json)
        elif dry_run:
            _show(plan_reset(loaded, environment, pipeline, target), json)
        elif undo:
            _ask(yes, f"Undo the last reset of {pipeline!r} in environment {environment.name!r}?")
            _tell(*resetter.undo(), json)
        else:
            _reset(resetter, target, environment, yes, json)


def _check_options(
    step: str | None,
    to_beginning: bool,
    to_time: str | None,
    to_offset: str | None,
    undo: bool,
    list_: bool,
    dry_run: bool,
) -> None:
    targets = {"--step": step, "--to-beginning": to_beginning or None, "--to-time": to_time, "--to-offset": to_offset}
    others = {"--undo": undo, "--list": list_, "--dry-run": dry_run}
    given = [name for name, value in targets.items() if value is not None]
    doing = [name for name, value in others.items() if value]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other")
    if len(doing) > 1 or (given and doing not in ([], ["--dry-run"])):
        raise typer.BadParameter(f"{' and '.join([*given, *doing])} exclude each other")


def _reset(resetter: Resetter, target: Target, environment: Environment, yes: bool, json: bool) -> None:
    from headrace.workspace.reset import plan_reset

    if not json and not resetter.broke_off():
        _show(plan_reset(resetter.workspace, environment, resetter.pipeline, target), json)
    _ask(yes, f"Reset in environment {environment.name!r}?")
    _tell(*resetter.reset(target), json)


def _ask(yes: bool, question: str) -> None:
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True)


def _show(planned: Reset, json: bool) -> None:
    if json:
        emit_json(_plan_json(planned))
        return
    for topic in planned.remade:
        say(f"  empty    {topic.name} (made anew)")
    for name in planned.emptied:
        say(f"  empty    {name}")
    for name in planned.deleted:
        say(f"  delete   {name}")
    for here, before, after in planned.moves:
        say(f"  position {here.topic}[{here.partition}]: {'none' if before is None else before} -> {after}")
    if planned.positions is not None:
        say("  results are written again; topics of results stay as they are")


def _tell(folder: Path, journal: Journal, json: bool) -> None:
    if json:
        emit_json(_journal_json(folder, journal))
        return
    if journal.phase.value == "undone":
        say(f"Pipeline {journal.pipeline!r} is where it was before {folder.name}; results written since then stay.")
    else:
        say(f"Pipeline {journal.pipeline!r} is reset. `headrace reset {journal.pipeline} --undo` takes it back.")
    if journal.before.value != "running":
        say(f"It is to be {journal.before.value}, as before.")


def _list(resetter: Resetter, json: bool) -> None:
    kept = resetter.kept()
    if json:
        emit_json({"pipeline": resetter.pipeline, "resets": [_journal_json(*each) for each in kept]})
        return
    rows = [
        (folder.name, journal.phase.value, journal.target, _records(journal), _bytes(journal))
        for folder, journal in kept
    ]
    table(COLUMNS, rows)


def _records(journal: Journal) -> int:
    return sum(copy.records for copy in journal.copies)


def _bytes(journal: Journal) -> int:
    return sum(copy.bytes for copy in journal.copies)


def _plan_json(planned: Reset) -> dict[str, Any]:
    return {
        "pipeline": planned.pipeline,
        "group": None if planned.positions is None else planned.group,
        "target": planned.target.text,
        "emptied": sorted([*planned.emptied, *(topic.name for topic in planned.remade)]),
        "deleted": list(planned.deleted),
        "positions": [
            {"topic": here.topic, "partition": here.partition, "before": before, "after": after}
            for here, before, after in planned.moves
        ],
    }


def _journal_json(folder: Path, journal: Journal) -> dict[str, Any]:
    return {
        "pipeline": journal.pipeline,
        "group": None if journal.positions is None else journal.group,
        "target": journal.target,
        "emptied": sorted([*journal.emptied, *(topic.name for topic in journal.remade)]),
        "deleted": list(journal.deleted),
        "phase": journal.phase.value,
        "made_at": time_text(journal.made_at_ms),
        "folder": str(folder),
        "records": _records(journal),
        "bytes": _bytes(journal),
        "desired": journal.before.value,
    }
