"""`headrace resnapshot`: read tables of a database again while their changes stream."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, say


def resnapshot(
    ingress: Annotated[str, typer.Argument(help="An ingress from PostgreSQL.", show_default=False)],
    tables: Annotated[list[str], typer.Argument(help="Tables as its file names them.", show_default=False)],
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Read every row of tables again, beside the stream of their changes."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.resnapshot import order_resnapshot

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        order_resnapshot(loaded, environment, ingress, tables)
        name = environment.name
    if json:
        emit_json({"workspace": loaded.name, "environment": name, "ingress": ingress, "tables": tables})
        return
    say(f"ingress {ingress}: {', '.join(tables)} will be read again beside the stream; see `headrace status`")
