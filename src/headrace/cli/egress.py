"""`headrace egress`: look at what goes out before it runs.

Owns the commands. Exit code 1 where something stands in the way.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import EXIT_ERROR, emit_json, say, table

app = typer.Typer(help="Look at what goes out before it runs.", no_args_is_help=True)


@app.command()
def validate(
    names: Annotated[
        list[str] | None, typer.Argument(help="Egress to look at; default: all.", show_default=False)
    ] = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Ask each target: connection, rights, columns. Changes nothing. Exit code 1: something stands in the way."""
    from headrace.workspace.egress_trials import validate_egress
    from headrace.workspace.load import load

    found = validate_egress(load(workspace), names or [])
    if json:
        emit_json({"egress": [asdict(each) for each in found]})
    else:
        rows = []
        for each in found:
            looked = "ok" if each.is_checked else "file ok; its connector cannot look at the target"
            rows += [[each.egress, each.connector, problem] for problem in each.problems or [looked]]
        table(["egress", "connector", "result"], rows)
    if any(each.problems for each in found):
        raise typer.Exit(EXIT_ERROR)


@app.command("dry-run")
def dry_run(
    name: Annotated[str, typer.Argument(help="The egress.", show_default=False)],
    records: Annotated[int, typer.Option(min=1, max=100_000, help="Read at most so many records.")] = 1_000,
    rows: Annotated[int, typer.Option(min=0, max=1_000, help="Show so many rows.")] = 10,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Show the statements and rows that the egress would write next. Changes nothing and moves no position."""
    from headrace.egress.explained import left_out
    from headrace.workspace.egress_trials import dry_run_egress
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        made = dry_run_egress(loaded, environment, name, records_max=records, sample=rows)
    if json:
        emit_json(asdict(made))
        return
    places = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(made.positions.items()))
    say(f"egress {name} stands at {places}")
    say(
        f"{made.records} records: {made.rows} rows, {made.deletions} deletions, {made.filtered} filtered,"
        f" {made.skipped} skipped, {sum(made.dead_letters.values())} dead letters"
    )
    for code, count in sorted(made.dead_letters.items()):
        say(f"  {code}: {count}")
    for statement in made.statements:
        say(statement)
    for line in left_out(made.statements_left_out, "lines"):
        say(line)
    if made.sample:
        table(list(made.sample[0]), [[_text(value) for value in row.values()] for row in made.sample])


def _text(value: object) -> object:
    from headrace.egress.explained import shown

    return value if value is None or isinstance(value, int | float) else shown(str(value))
